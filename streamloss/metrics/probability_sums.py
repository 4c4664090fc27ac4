"""Kernels that sum probabilities, their overlap with the truth, and their errors.

The state they fill is that of `moments`, which calls them.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamloss import exact
from streamloss._jit import fused, inlined, kernel, use_wide_vectors
from streamloss.words import count_equal, count_ones

TILE = 2048

_ZERO = np.float32(0.0)
_STEP = np.float32(2.0**-40)

_STEP_64 = 2.0**-40


@kernel
def add_squares(rows: NDArray[Any], sums: NDArray[np.int64]) -> None:
    """Add the squares of each row of numbers in [0, 1], (channels, n), to its sum."""
    for k in range(rows.shape[0]):
        for start in range(0, rows.shape[1], TILE):
            row = rows[k, start : start + TILE]
            total = 0
            for i in range(row.size):
                x = np.float64(row[i])
                # As `_mass`: never nothing for x > 0.
                square = x * x
                least = _STEP_64 if x > 0.0 else 0.0
                total += exact.fixed(square if square > least else least)
            exact.add_fixed(sums[k], total)


@inlined
def _mass(p: Any) -> Any:
    """Return p, but a step of the grid at least for p > 0: else an empty class could seem one."""
    # In p's own type: twice as many float32 as float64 at a time.
    return p if p > _STEP else (_STEP if p > _ZERO else _ZERO)


@kernel
def add_binary(
    truth: NDArray[Any],
    probabilities: NDArray[Any],
    linear: bool,
    squared: bool,
    voxels: NDArray[np.int64],
    probability_sum: NDArray[np.int64],
    truth_sum: NDArray[np.int64],
    overlap_sum: NDArray[np.int64],
    squared_sum: NDArray[np.int64],
    absolute_sum: NDArray[np.int64],
) -> None:
    """Add voxels of one channel and labels of 0 and 1 to the arrays of `Moments`.

    Parameters
    ----------
    truth
        uint8 of 0 and 1, (n,).
    probabilities
        Of code 1, (1, n).
    linear, squared
        Whether sums of p, p y and |p - y|, and of (p - y)^2, are asked for.
    voxels, probability_sum, truth_sum, overlap_sum, squared_sum, absolute_sum
        Updated in place.
    """
    use_wide_vectors()
    one = exact.fixed(1.0)
    for start in range(0, truth.size, TILE):
        codes = truth[start : start + TILE]
        row = probabilities[0, start : start + TILE]
        size = codes.size
        positives = count_ones(codes)
        # Tiles of one class, the usual ones of a segmentation, need no masks.
        mixed = 0 < positives < size
        voxels[0] += size - positives
        voxels[1] += positives
        exact.add_fixed(truth_sum[0], positives * one)
        if linear:
            total = 0
            inside = 0
            if mixed:
                for i in range(size):
                    units = exact.fixed_bits(_mass(row[i]))
                    total += units
                    inside += units if codes[i] == 1 else 0
            else:
                for i in range(size):
                    total += exact.fixed_bits(_mass(row[i]))
                inside = total if positives == size else 0
            total -= size * exact.ROUNDER_BITS
            inside -= positives * exact.ROUNDER_BITS
            exact.add_fixed(probability_sum[0], total)
            exact.add_fixed(overlap_sum[0], inside)
            # |p - y| is p where y = 0 and 1 - p where y = 1: nothing left to add up.
            exact.add_fixed(absolute_sum[0], total - inside)
            exact.add_fixed(absolute_sum[1], positives * one - inside)
        if squared:
            total = 0
            inside = 0
            if mixed:
                for i in range(size):
                    p = np.float64(row[i])
                    d = 1.0 - p if codes[i] == 1 else p
                    units = exact.fixed_bits(d * d)
                    total += units
                    inside += units if codes[i] == 1 else 0
            else:
                y = 1.0 if positives == size else 0.0
                for i in range(size):
                    d = y - np.float64(row[i])
                    total += exact.fixed_bits(d * d)
                inside = total if positives == size else 0
            exact.add_fixed_pair(squared_sum, size, positives, total, inside)


@kernel
def add_hard(
    truth: NDArray[Any],
    probabilities: NDArray[Any],
    overlap: bool,
    squared: bool,
    absolute: bool,
    voxels: NDArray[np.int64],
    probability_sum: NDArray[np.int64],
    truth_sum: NDArray[np.int64],
    overlap_sum: NDArray[np.int64],
    squared_sum: NDArray[np.int64],
    absolute_sum: NDArray[np.int64],
) -> None:
    """Add voxels of several channels and labels to the arrays of `Moments`.

    Parameters
    ----------
    truth
        Class codes, (n,).
    probabilities
        (classes, n).
    overlap, squared, absolute
        Whether sums of p and p y, of (p - y)^2 and of |p - y| are asked for.
    voxels, probability_sum, truth_sum, overlap_sum, squared_sum, absolute_sum
        Updated in place.
    """
    use_wide_vectors()
    one = exact.fixed(1.0)
    channels = probabilities.shape[0]
    squares = np.empty(TILE)
    sizes = np.empty(TILE)
    for start in range(0, truth.size, TILE):
        codes = truth[start : start + TILE]
        size = codes.size
        for k in range(channels):
            row = probabilities[k, start : start + TILE]
            found = count_equal(codes, k)
            voxels[k] += found
            exact.add_fixed(truth_sum[k], found * one)
            if overlap:
                total = 0
                inside = 0
                # Most tiles hold few of the classes, and need no mask for the others.
                if 0 < found < size:
                    for i in range(size):
                        units = exact.fixed_bits(_mass(row[i]))
                        total += units
                        inside += units if codes[i] == k else 0
                else:
                    for i in range(size):
                        total += exact.fixed_bits(_mass(row[i]))
                    inside = total if found == size else 0
                exact.add_fixed(probability_sum[k], total - size * exact.ROUNDER_BITS)
                exact.add_fixed(overlap_sum[k], inside - found * exact.ROUNDER_BITS)
            if squared:
                if k == 0:
                    squares[:size] = 0.0
                for i in range(size):
                    p = np.float64(row[i])
                    d = 1.0 - p if codes[i] == k else p
                    squares[i] = fused(d, d, squares[i])
            if absolute:
                if k == 0:
                    sizes[:size] = 0.0
                for i in range(size):
                    p = np.float64(row[i])
                    sizes[i] += 1.0 - p if codes[i] == k else p
        if squared:
            exact.add_fixed_by_class(squared_sum, codes, squares[:size], channels)
        if absolute:
            exact.add_fixed_by_class(absolute_sum, codes, sizes[:size], channels)


@kernel
def add_soft(
    truth: NDArray[Any],
    probabilities: NDArray[Any],
    overlap: bool,
    squared: bool,
    absolute: bool,
    voxels: NDArray[np.int64],
    probability_sum: NDArray[np.int64],
    truth_sum: NDArray[np.int64],
    overlap_sum: NDArray[np.int64],
    squared_sum: NDArray[np.int64],
    absolute_sum: NDArray[np.int64],
) -> None:
    """Add voxels whose truth is a distribution, (channels, n), as `add_hard` those of labels."""
    voxels[0] += probabilities.shape[1]
    for start in range(0, probabilities.shape[1], TILE):
        for k in range(probabilities.shape[0]):
            targets = truth[k, start : start + TILE]
            row = probabilities[k, start : start + TILE]
            if overlap:
                total = 0
                target = 0
                inside = 0
                for i in range(row.size):
                    total += exact.fixed(_mass(row[i]))
                    target += exact.fixed(_mass(targets[i]))
                    inside += exact.fixed(np.float64(row[i]) * np.float64(targets[i]))
                exact.add_fixed(probability_sum[k], total)
                exact.add_fixed(truth_sum[k], target)
                exact.add_fixed(overlap_sum[k], inside)
            if squared:
                total = 0
                for i in range(row.size):
                    d = np.float64(row[i]) - np.float64(targets[i])
                    total += exact.fixed(d * d)
                exact.add_fixed(squared_sum[0], total)
            if absolute:
                total = 0
                for i in range(row.size):
                    total += exact.fixed(abs(np.float64(row[i]) - np.float64(targets[i])))
                exact.add_fixed(absolute_sum[0], total)
