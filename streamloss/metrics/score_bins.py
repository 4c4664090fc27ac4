"""Bins of probabilities: which there are, what they can hold, and the kernels that count by them.

Probabilities of 8 and 16 bits have a bin for each of their codes. Floats have bins that are
fine near 0 and near 1. What is read from the counts is not known here.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from streamloss._jit import float_bits, inlined, kernel, single_bits
from streamloss.task import Task

TILE = 1024
# From 2**-6 to 1 - 2**-6 bins have one width, 2**-6 of the steps below in each octave; below
# 2**-30 there is one bin, and one more for 0.
_OCTAVES = 24
_MIDDLE = 2.0**-6
_LEAST = 2.0**-30
_LEAST_BITS = int(np.float64(_LEAST).view(np.int64))
_MOST_CODES = 2**22
"""Codes of all channels that are given a bin each; with more, 16-bit codes are binned as floats."""

_ZERO, _HALF, _ONE = np.float32(0.0), np.float32(0.5), np.float32(1.0)
_MIDDLE_32 = np.float32(_MIDDLE)
_LEAST_BITS_32 = int(np.float32(_LEAST).view(np.int32))
_SMALLEST_NORMAL_HALF = np.float32(2.0**-14)
_SUBNORMAL_HALVES = np.float32(2.0**24)
_HALF_OF_ONE = 0x3C00


@dataclass(frozen=True)
class Bins:
    """The bins of a run.

    Attributes
    ----------
    layout
        "codes": a bin for each k / `detail`; "halves": for each float16; "floats": see above,
        with 2**`detail` steps in each octave.
    detail
        The largest code, or the binary digits a bin keeps of a probability below 2**-6.
    values
        What the scores are: "single" and "double" precision, or the "logits" of one channel,
        of which many may have one probability.
    """

    layout: Literal["codes", "halves", "floats"]
    detail: int
    values: Literal["single", "double", "logits"]

    @property
    def count(self) -> int:
        """Number of bins."""
        if self.layout == "codes":
            return self.detail + 1
        if self.layout == "halves":
            return _HALF_OF_ONE + 1
        steps = 1 << self.detail
        return 2 * (2 + _OCTAVES * steps) + 62 * steps + 1


def bins_of(task: Task) -> Bins:
    """Return the bins that suit what the scores of a run are stored as."""
    channels = max(task.channels, 1)
    if task.kind == "probabilities" and task.score_bits <= 16:
        codes = Bins("codes", 2**task.score_bits - 1, "double")
        if task.half_scores:
            codes = Bins("halves", 0, "single")
        if codes.count * channels <= _MOST_CODES:
            return codes
    # With 11 digits a state takes 3.6 MB a channel; many channels get fewer.
    digits = 11 if channels <= 8 else 7 if channels <= 128 else 3
    if task.kind == "logits":
        return Bins("floats", digits, "logits" if channels == 1 else "double")
    return Bins(
        "floats", digits, "single" if task.half_scores or task.score_bits == 32 else "double"
    )


@lru_cache(maxsize=8)
def least(bins: Bins) -> NDArray[np.float64]:
    """Return the least probability that each bin can hold."""
    if bins.layout == "codes":
        return np.arange(bins.count) / np.float64(bins.detail)
    if bins.layout == "halves":
        return np.arange(bins.count, dtype=np.uint16).view(np.float16).astype(np.float64)
    below, middle, above = _parts(bins)
    return np.concatenate([below, middle, above])


@lru_cache(maxsize=8)
def least_mirrored(bins: Bins) -> NDArray[np.float64]:
    """Return the least 1 - p of each bin, of which the first holds the largest p."""
    if bins.layout != "floats":
        return np.ascontiguousarray((1.0 - least(bins))[::-1])
    below, middle, above = _parts(bins)
    # The tails mirror each other, but a bin of the middle holds its lower end.
    step = 1.0 / (64 << bins.detail)
    return np.concatenate([below, np.nextafter(middle - step, 2.0), above])


def _parts(bins: Bins) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    steps = 1 << bins.detail
    first = _LEAST_BITS >> (52 - bins.detail)
    octaves = np.arange(first, first + _OCTAVES * steps, dtype=np.int64) << (52 - bins.detail)
    below = np.concatenate([[0.0, np.nextafter(0.0, 1.0)], octaves.view(np.float64)])
    middle = np.arange(steps, 63 * steps + 1) / (64.0 * steps)
    # Bins near 1 hold their larger end.
    above = np.minimum(np.nextafter(1.0 - np.append(below[1:], _MIDDLE)[::-1], 2.0), 1.0)
    return below, middle, above


@lru_cache(maxsize=8)
def tied(bins: Bins) -> NDArray[np.bool_]:
    """Tell which bins can hold but one score."""
    if bins.layout != "floats":
        return np.ones(bins.count, np.bool_)
    ties = np.zeros(bins.count, np.bool_)
    if bins.values != "logits":
        ties[0] = ties[-1] = True
    if bins.values == "single":
        # 1 - p of a float32 above 1/2 is a whole number of 2**-24.
        ties |= 1.0 - least(bins) < 2.0 ** (bins.detail - 24)
    return ties


def places(row: NDArray[np.floating], bins: Bins) -> NDArray[np.int64]:
    """Return the bin of each probability, (n,)."""
    return np.searchsorted(least(bins), row.astype(np.float64), "right") - 1


def count(
    truth: NDArray[Any], row: NDArray[np.floating], code: int, bins: Bins, counts: NDArray[Any]
) -> None:
    """Count one channel's probabilities by class and bin.

    Parameters
    ----------
    truth
        Class code of each voxel, (n,).
    row
        Probability of each voxel, (n,).
    code
        Class of the channel.
    bins
        The bins of the run.
    counts
        (2, bins), of other classes and of this one; changed in place.
    """
    flat = counts.reshape(-1)
    if bins.layout == "codes":
        _count_codes(truth, row, code, bins.detail, flat)
    elif bins.layout == "halves":
        _count_halves(truth, row, code, flat)
    elif row.dtype == np.float32:
        _count_singles(truth, row, code, bins.detail, flat)
    else:
        _count_doubles(truth, row, code, bins.detail, flat)


@inlined
def _add(codes: NDArray[Any], code: int, found: NDArray[np.int32], counts: NDArray[Any]) -> None:
    # The row of the class is chosen where that vectorises: 1.2 times as fast as an index of two.
    other = np.int32(counts.size // 2)
    for i in range(codes.size):
        found[i] += other if codes[i] == code else np.int32(0)
    # What is left waits for a table larger than the cache: 1.3 ns a voxel, where one that fits
    # took 0.5.
    for i in range(codes.size):
        counts[found[i]] += 1


@kernel
def _count_codes(
    truth: NDArray[Any], row: NDArray[Any], code: int, top: int, counts: NDArray[Any]
) -> None:
    found = np.empty(TILE, np.int32)
    scale = np.float64(top)
    for start in range(0, truth.size, TILE):
        part = row[start : start + TILE]
        for i in range(part.size):
            found[i] = np.int32(np.float64(part[i]) * scale + 0.5)
        _add(truth[start : start + TILE], code, found, counts)


@kernel
def _count_halves(truth: NDArray[Any], row: NDArray[Any], code: int, counts: NDArray[Any]) -> None:
    found = np.empty(TILE, np.int32)
    # The exponent of a half float is biased by 15, that of a float32 by 127.
    bias = np.int32((127 - 15) << 10)
    for start in range(0, truth.size, TILE):
        part = row[start : start + TILE]
        for i in range(part.size):
            p = np.float32(part[i])
            normal = (single_bits(p) >> np.int32(13)) - bias
            found[i] = normal if p >= _SMALLEST_NORMAL_HALF else np.int32(p * _SUBNORMAL_HALVES)
        _add(truth[start : start + TILE], code, found, counts)


@kernel
def _count_singles(
    truth: NDArray[Any], row: NDArray[Any], code: int, digits: int, counts: NDArray[Any]
) -> None:
    # As `_count_doubles`, in half the bytes: 1 - p is exact where it is the smaller one.
    found = np.empty(TILE, np.int32)
    steps = np.int32(1 << digits)
    last = np.int32(counts.size // 2 - 1)
    shift = np.int32(23 - digits)
    first = np.int32((_LEAST_BITS_32 >> shift) - 2)
    offset = np.int32(2 + (_OCTAVES - 1) * steps)
    scale = np.float32(64 * steps)
    for start in range(0, truth.size, TILE):
        part = row[start : start + TILE]
        for i in range(part.size):
            p = np.float32(part[i])
            q = min(p, _ONE - p)
            end = max((single_bits(q) >> shift) - first, np.int32(q > _ZERO))
            end = end if p < _HALF else last - end
            middle = np.int32(p * scale) + offset
            found[i] = middle if q >= _MIDDLE_32 else end
        _add(truth[start : start + TILE], code, found, counts)


@kernel
def _count_doubles(
    truth: NDArray[Any], row: NDArray[Any], code: int, digits: int, counts: NDArray[Any]
) -> None:
    found = np.empty(TILE, np.int32)
    steps = 1 << digits
    last = np.int32(counts.size // 2 - 1)
    shift = 52 - digits
    first = (_LEAST_BITS >> shift) - 2
    offset = np.int32(2 + (_OCTAVES - 1) * steps)
    scale = np.float64(64 * steps)
    for start in range(0, truth.size, TILE):
        part = row[start : start + TILE]
        for i in range(part.size):
            p = np.float64(part[i])
            q = min(p, 1.0 - p)
            # A zero takes bin 0, what is below the least octave bin 1.
            bits: Any = float_bits(q)
            end = np.int32(max((bits >> shift) - first, np.int64(q > 0.0)))
            end = end if p < 0.5 else last - end
            middle = np.int32(p * scale) + offset
            found[i] = middle if q >= _MIDDLE else end
        _add(truth[start : start + TILE], code, found, counts)
