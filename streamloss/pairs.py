"""Joint counts of the codes of two label arrays, by machine words.

Few classes are counted by bits, more by runs of equal words. What the codes stand for,
and what is read from the counts, is not known here.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamloss._jit import inlined, kernel, ones, use_wide_vectors
from streamloss.words import LOW_BITS, WORDS, any_from, byte_sum

_NONE = np.uint64(0)
_ONE = np.uint64(1)
_THREE = np.uint64(3)
_TWO, _FOUR, _SIX = np.uint64(2), np.uint64(4), np.uint64(6)
_EVEN = np.uint64(0x5555555555555555)
# Words of a segment. 1024 take 6 to 8 % longer: powers of two put the 16 segments that are read
# at once on the same few places of a first-level cache.
_SEGMENT = 960


@kernel
def count_pairs(truth: NDArray[Any], prediction: NDArray[Any], counts: NDArray[Any]) -> bool:
    """Count the voxels of each pair of codes, and tell whether all codes are of classes.

    Parameters
    ----------
    truth, prediction
        uint8 or uint16 of one dimension and equal type.
    counts
        int64 zeros of shape (classes, classes); filled, or changed in some way where a code is
        not below the number of classes.
    """
    classes = len(counts)
    # Packs of 8 words, for `_count_four`.
    edge = truth.size - truth.size % (64 // truth.itemsize)
    # Words of 8 bytes: Numba widens every uint8 to int64, so that bytes never vectorise.
    t = truth[:edge].view(np.uint64)
    p = prediction[:edge].view(np.uint64)
    if classes == 2:
        good = _count_two(t, p, counts)
    elif classes <= 4:
        good = _count_four(t, p, np.zeros((4, 4), np.int64), counts)
    elif any_from(truth, classes) or any_from(prediction, classes):
        return False
    else:
        good = True
        _count_runs(t, p, 8 * truth.itemsize, counts)
    for i in range(edge, truth.size):
        if truth[i] >= classes or prediction[i] >= classes:
            return False
        counts[truth[i], prediction[i]] += 1
    return good


@inlined
def _count_two(t: NDArray[np.uint64], p: NDArray[np.uint64], counts: NDArray[Any]) -> bool:
    seen = _NONE
    for start in range(0, t.size, WORDS):
        a = t[start : start + WORDS]
        b = p[start : start + WORDS]
        trues = predicted = both = np.uint64(0)
        for i in range(a.size):
            trues += a[i]
            predicted += b[i]
            both += a[i] & b[i]
            seen |= a[i] | b[i]
        n_true, n_predicted, n_both = byte_sum(trues), byte_sum(predicted), byte_sum(both)
        counts[1, 1] += n_both
        counts[1, 0] += n_true - n_both
        counts[0, 1] += n_predicted - n_both
        counts[0, 0] += 8 * a.size - n_true - n_predicted + n_both
    return bool((seen & ~LOW_BITS) == _NONE)


@inlined
def _count_four(
    t: NDArray[np.uint64], p: NDArray[np.uint64], sums: NDArray[np.int64], counts: NDArray[Any]
) -> bool:
    # Sums over the voxels of all products of the two bits of either code; sums[i, j] is that of
    # the bits of i in the truth and of j in the prediction. Unlike runs of equal words it costs
    # the same for any labels: 15 counts of ones for 64 voxels.
    use_wide_vectors()
    sums[0, 0] = 8 * t.size
    seen = _NONE
    for start in range(0, t.size, 8 * _SEGMENT):
        # The words of a pack come from eight segments, so that vectors load neighbours.
        n = min(_SEGMENT, (t.size - start) // 8)
        a = t[start : start + 8 * n].reshape(8, n)
        b = p[start : start + 8 * n].reshape(8, n)
        t1 = t2 = t3 = p1 = p2 = p3 = 0
        t1p1 = t1p2 = t1p3 = t2p1 = t2p2 = t2p3 = t3p1 = t3p2 = t3p3 = 0
        for i in range(n):
            t_low, t_high, t_seen = _pack(a, i)
            p_low, p_high, p_seen = _pack(b, i)
            t_both, p_both = t_low & t_high, p_low & p_high
            seen |= t_seen | p_seen
            t1 += ones(t_low)
            t2 += ones(t_high)
            t3 += ones(t_both)
            p1 += ones(p_low)
            p2 += ones(p_high)
            p3 += ones(p_both)
            t1p1 += ones(t_low & p_low)
            t1p2 += ones(t_low & p_high)
            t1p3 += ones(t_low & p_both)
            t2p1 += ones(t_high & p_low)
            t2p2 += ones(t_high & p_high)
            t2p3 += ones(t_high & p_both)
            t3p1 += ones(t_both & p_low)
            t3p2 += ones(t_both & p_high)
            t3p3 += ones(t_both & p_both)
        sums[1, 0] += t1
        sums[2, 0] += t2
        sums[3, 0] += t3
        sums[0, 1] += p1
        sums[0, 2] += p2
        sums[0, 3] += p3
        sums[1, 1] += t1p1
        sums[1, 2] += t1p2
        sums[1, 3] += t1p3
        sums[2, 1] += t2p1
        sums[2, 2] += t2p2
        sums[2, 3] += t2p3
        sums[3, 1] += t3p1
        sums[3, 2] += t3p2
        sums[3, 3] += t3p3
    # From sums over voxels with at least these bits to voxels with exactly these.
    for j in range(4):
        sums[1, j] -= sums[3, j]
        sums[2, j] -= sums[3, j]
        sums[0, j] -= sums[1, j] + sums[2, j] + sums[3, j]
    for i in range(4):
        sums[i, 1] -= sums[i, 3]
        sums[i, 2] -= sums[i, 3]
        sums[i, 0] -= sums[i, 1] + sums[i, 2] + sums[i, 3]
    classes = len(counts)
    beyond = 0
    for i in range(4):
        for j in range(4):
            if i < classes and j < classes:
                counts[i, j] += sums[i, j]
            else:
                beyond += sums[i, j]
    return bool(beyond == 0 and (seen & ~(_THREE * LOW_BITS)) == _NONE)


@inlined
def _pack(words: NDArray[np.uint64], i: int) -> Any:
    """Return the low and the high bits of the 64 codes in a column of 8 words, and all its bits."""
    a, b, c, d = words[0, i], words[1, i], words[2, i], words[3, i]
    e, f, g, h = words[4, i], words[5, i], words[6, i], words[7, i]
    # Codes beyond 3 spill into others here, but make the counts void anyway.
    first = a | (b << _TWO) | (c << _FOUR) | (d << _SIX)
    second = e | (f << _TWO) | (g << _FOUR) | (h << _SIX)
    low = (first & _EVEN) | ((second & _EVEN) << _ONE)
    high = ((first >> _ONE) & _EVEN) | (second & ~_EVEN)
    return low, high, a | b | c | d | e | f | g | h


@inlined
def _count_runs(
    t: NDArray[np.uint64], p: NDArray[np.uint64], bits: int, counts: NDArray[Any]
) -> None:
    # Most words of real labels hold one code in all their voxels, and so does the word before.
    width = np.uint64(bits)
    low = (_ONE << width) - _ONE
    every = LOW_BITS if bits == 8 else np.uint64(0x0001000100010001)
    t_run = p_run = _NONE
    length = 0
    for i in range(t.size):
        a, b = t[i], p[i]
        if a == t_run and b == p_run:
            length += 1
        elif a == (a & low) * every and b == (b & low) * every:
            counts[t_run & low, p_run & low] += length * (64 // bits)
            t_run, p_run, length = a, b, 1
        else:
            for _ in range(64 // bits):
                counts[a & low, b & low] += 1
                a >>= width
                b >>= width
    counts[t_run & low, p_run & low] += length * (64 // bits)
