"""Kernels that count voxels, hits and sums of probabilities by bins of equal width.

The state they fill is that of `calibration`, which calls them and reads its metrics from it.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamloss import exact
from streamloss._jit import inlined, kernel

TILE = 2048
# A quarter of a tile's probabilities, of up to 2**40 units each, leaves the bits from here on for
# their number.
_COUNT_BIT = 51
_COUNT = 1 << _COUNT_BIT


@kernel
def add_binary(
    truth: NDArray[Any],
    probabilities: NDArray[Any],
    bins: int,
    top_voxels: NDArray[np.int64],
    top_hits: NDArray[np.int64],
    top_sums: NDArray[np.int64],
    voxels: NDArray[np.int64],
    hits: NDArray[np.int64],
    sums: NDArray[np.int64],
) -> None:
    """Add the voxels of one channel to the bins of its probability and of the top label.

    Parameters
    ----------
    truth
        Codes of 0 and 1, (n,).
    probabilities
        Of code 1, (n,).
    bins
        Number of bins.
    top_voxels, top_hits, top_sums, voxels, hits, sums
        The arrays of `Calibration`, updated in place.
    """
    # One table for the bins of p and of the top label, max(p, 1 - p). Below 1/2 the latter is the
    # mirrored bin or, where p lies on an edge but for its rounding, a neighbour of that.
    found = np.zeros((4, 8 * bins), np.int64)
    keys = np.empty(TILE, np.int64)
    terms = np.empty(TILE, np.int64)
    one = exact.fixed(1.0)
    for start in range(0, truth.size, TILE):
        codes = truth[start : start + TILE]
        row = probabilities[start : start + TILE]
        for i in range(row.size):
            p = np.float64(row[i])
            place = _place(p, bins)
            top = _place(1.0 - p, bins)
            cell = place if p >= 0.5 else bins + 3 * place + (top + place - bins + 2)
            keys[i] = 2 * cell + np.int64(codes[i] == 1)
            terms[i] = _COUNT + exact.fixed(p)
        _scatter(keys[: row.size], terms, found)
        for key in range(8 * bins):
            n, units = _taken(found, key)
            if n:
                cell, positive = key >> 1, n if key & 1 else 0
                place = cell if cell < bins else (cell - bins) // 3
                voxels[0, place] += n
                hits[0, place] += positive
                exact.add_fixed(sums[0, place], units)
                if cell >= bins:
                    place = bins - 2 - place + (cell - bins) % 3
                    positive, units = n - positive, n * one - units
                top_voxels[place] += n
                top_hits[place] += positive
                exact.add_fixed(top_sums[place], units)


@kernel
def add_class(
    truth: NDArray[Any],
    probabilities: NDArray[Any],
    code: int,
    bins: int,
    voxels: NDArray[np.int64],
    hits: NDArray[np.int64],
    sums: NDArray[np.int64],
) -> None:
    """Add the probabilities of class `code`, (n,), to its bins, updated in place."""
    found = np.zeros((4, 2 * bins), np.int64)
    keys = np.empty(TILE, np.int64)
    terms = np.empty(TILE, np.int64)
    for start in range(0, truth.size, TILE):
        codes = truth[start : start + TILE]
        row = probabilities[start : start + TILE]
        _add_tile(codes, code, row, bins, keys, terms, found, voxels, hits, sums)


@kernel
def add_top(
    truth: NDArray[Any],
    probabilities: NDArray[Any],
    bins: int,
    voxels: NDArray[np.int64],
    hits: NDArray[np.int64],
    sums: NDArray[np.int64],
) -> None:
    """Add the highest of the probabilities (channels, n) to the bins, updated in place."""
    found = np.zeros((4, 2 * bins), np.int64)
    keys = np.empty(TILE, np.int64)
    terms = np.empty(TILE, np.int64)
    top = np.empty(TILE)
    hit = np.empty(TILE, np.int64)
    for start in range(0, truth.size, TILE):
        codes = truth[start : start + TILE]
        size = codes.size
        for i in range(size):
            top[i] = -1.0
        for k in range(probabilities.shape[0]):
            row = probabilities[k, start : start + TILE]
            for i in range(size):
                p = np.float64(row[i])
                before = hit[i]
                hit[i] = np.int64(codes[i] == k) if p > top[i] else before
                top[i] = max(top[i], p)
        _add_tile(hit[:size], 1, top[:size], bins, keys, terms, found, voxels, hits, sums)


@inlined
def _add_tile(
    codes: NDArray[Any],
    code: int,
    row: NDArray[Any],
    bins: int,
    keys: NDArray[np.int64],
    terms: NDArray[np.int64],
    found: NDArray[np.int64],
    voxels: NDArray[np.int64],
    hits: NDArray[np.int64],
    sums: NDArray[np.int64],
) -> None:
    """Add the probabilities of up to `TILE` voxels, hits where the code is `code`."""
    for i in range(row.size):
        p = np.float64(row[i])
        keys[i] = 2 * _place(p, bins) + np.int64(codes[i] == code)
        terms[i] = _COUNT + exact.fixed(p)
    _scatter(keys[: row.size], terms, found)
    for key in range(found.shape[1]):
        n, units = _taken(found, key)
        if n:
            voxels[key >> 1] += n
            hits[key >> 1] += n if key & 1 else 0
            exact.add_fixed(sums[key >> 1], units)


@inlined
def _place(p: float, bins: int) -> Any:
    """Return the bin (k / bins, (k + 1) / bins] of a probability; 0 is in the first."""
    return max(exact.whole(np.ceil(p * bins)) - 1, 0)


@inlined
def _scatter(keys: NDArray[np.int64], terms: NDArray[np.int64], found: NDArray[np.int64]) -> None:
    # A voxel and its probability are added at once, and neighbours to tables of their own, as
    # they often have one bin: 0.6 ns a voxel, with three sums in one table 3.
    edge = keys.size - keys.size % 4
    for i in range(0, edge, 4):
        found[0, keys[i]] += terms[i]
        found[1, keys[i + 1]] += terms[i + 1]
        found[2, keys[i + 2]] += terms[i + 2]
        found[3, keys[i + 3]] += terms[i + 3]
    for i in range(edge, keys.size):
        found[0, keys[i]] += terms[i]


@inlined
def _taken(found: NDArray[np.int64], key: int) -> Any:
    """Return the voxels and the units at a key, and clear them."""
    n = 0
    units = 0
    for copy in range(4):
        n += found[copy, key] >> _COUNT_BIT
        units += found[copy, key] & (_COUNT - 1)
        found[copy, key] = 0
    return n, units
