"""Kernels that look at eight class codes, or two floats, at once, as one machine word.

Numba widens every uint8 to int64, so that a loop over bytes never vectorises; words
of bytes do. What the codes stand for is not known here.
"""

from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamloss._jit import inlined, kernel, use_wide_vectors

LOW_BITS = np.uint64(0x0101010101010101)
"""The lowest bit of each byte of a word."""

WORDS = 240
"""Words of 8 bytes, each byte 0 or 1, that can be added up before a byte overflows."""

_LOW_SEVEN = np.uint64(0x7F7F7F7F7F7F7F7F)
_HIGH_BITS = np.uint64(0x8080808080808080)
_EVEN_BYTES = np.uint64(0x00FF00FF00FF00FF)
_EVEN_ONES = np.uint64(0x0001000100010001)
_SHORT_SEVEN = np.uint64(0x7FFF7FFF7FFF7FFF)


@inlined
def byte_sum(word: np.uint64) -> Any:
    """Return the sum of the 8 bytes of a word."""
    pairs = (word & _EVEN_BYTES) + ((word >> np.uint64(8)) & _EVEN_BYTES)
    return np.int64((pairs * _EVEN_ONES) >> np.uint64(48))


@kernel
def any_from(codes: NDArray[Any], classes: int) -> bool:
    """Return whether any code is at or above `classes`.

    Parameters
    ----------
    codes
        uint8 or uint16, one dimension.
    classes
        From 1 to the largest value of the type.
    """
    # By words of 8 bytes, because Numba widens every uint8 to int64. A lane is at or above a
    # bound of up to half its range if its high bit is set or gets set by adding the distance
    # between bound and half the range to its other bits; above half, if both.
    lanes = 8 // codes.itemsize
    half = 128 if codes.itemsize == 1 else 32768
    ones = LOW_BITS if codes.itemsize == 1 else _EVEN_ONES
    others = _LOW_SEVEN if codes.itemsize == 1 else _SHORT_SEVEN
    small = classes <= half
    distance = ones * np.uint64(half - classes if small else 2 * half - classes)
    edge = codes.size - codes.size % lanes
    words = codes[:edge].view(np.uint64)
    found = np.uint64(0)
    if small:
        for i in range(words.size):
            found |= ((words[i] & others) + distance) | words[i]
    else:
        for i in range(words.size):
            found |= ((words[i] & others) + distance) & words[i]
    rest = False
    for i in range(edge, codes.size):
        rest |= codes[i] >= classes
    return rest or (found & ~others) != np.uint64(0)


@inlined
def all_equal(codes: NDArray[Any]) -> bool:
    """Return whether all codes are the same, for one or more uint8 or uint16 of one dimension."""
    n = len(codes)
    first = codes[0]
    # The last code differs in most mixed tiles: look there before reading all.
    if codes[n - 1] != first:
        return False
    # By words of 8 bytes: Numba widens every uint8 to int64, which costs 0.1 ns a code.
    edge = n - n % 8
    words = codes[:edge].view(np.uint64)
    different = np.uint64(0)
    for i in range(len(words)):
        different |= words[i] ^ words[0]
    for i in range(min(8, n)):
        different |= np.uint64(codes[i] ^ first)
    for i in range(edge, n):
        different |= np.uint64(codes[i] ^ first)
    return bool(different == np.uint64(0))


@lru_cache
def _lanes(dtype: np.dtype[np.floating], limit: float, signed: bool) -> tuple[Any, ...]:
    """Return the constants of `_any_beyond`, as the types it works in."""
    bits = 8 * dtype.itemsize
    ones = 1 if bits == 64 else 2**32 + 1
    sign = 2 ** (bits - 1)
    # As integers, floats are in the order of their size.
    distance = sign - 1 - int(np.array(limit, dtype).view(f"u{dtype.itemsize}"))
    looked_at = sign - 1 if signed else 2**bits - 1
    words = (np.uint64(ones * number) for number in (looked_at, distance, sign))
    return dtype.type(-limit if signed else 0), dtype.type(limit), *words


def any_beyond(numbers: NDArray[np.floating], limit: float, *, signed: bool) -> bool:
    """Return whether any number may be larger than a limit, negative, or not a number.

    Parameters
    ----------
    numbers
        float32 or float64, one dimension, contiguous.
    limit
        Positive and finite, a number of their type.
    signed
        Whether negative numbers down to -limit pass; without, -0 counts as negative.
    """
    return _any_beyond(numbers, *_lanes(numbers.dtype, limit, signed))


@kernel
def _any_beyond(
    numbers: NDArray[Any],
    low: Any,
    high: Any,
    looked_at: np.uint64,
    distance: np.uint64,
    signs: np.uint64,
) -> bool:
    # A lane that is too large sets its high bit when the distance is added. One that has it
    # already may carry into the next, but then the answer is known.
    use_wide_vectors()
    edge = numbers.size - numbers.size % (8 // numbers.itemsize)
    words = numbers[:edge].view(np.uint64)
    found = np.uint64(0)
    for i in range(words.size):
        word = words[i] & looked_at
        found |= (word + distance) | word
    inside = True
    for i in range(edge, numbers.size):
        inside &= (numbers[i] >= low) & (numbers[i] <= high)
    return not inside or (found & signs) != np.uint64(0)


@inlined
def count_equal(codes: NDArray[Any], code: int) -> int:
    """Return the number of voxels of a code, for uint8 or uint16 codes of one dimension."""
    if codes.itemsize > 1:
        found = 0
        for i in range(codes.size):
            found += codes[i] == code
        return found
    edge = codes.size - codes.size % 8
    words = codes[:edge].view(np.uint64)
    wanted = LOW_BITS * np.uint64(code)
    different = 0
    for start in range(0, words.size, WORDS):
        part = words[start : start + WORDS]
        sums = np.uint64(0)
        for i in range(part.size):
            # The high bit of a byte is set by adding 127 unless all other bits are clear.
            bits = part[i] ^ wanted
            bits |= (bits & _LOW_SEVEN) + _LOW_SEVEN
            sums += (bits & _HIGH_BITS) >> np.uint64(7)
        different += byte_sum(sums)
    for i in range(edge, codes.size):
        different += codes[i] != code
    return codes.size - different


@inlined
def count_ones(codes: NDArray[Any]) -> int:
    """Return the number of voxels of code 1, for uint8 codes of 0 and 1 of one dimension."""
    edge = codes.size - codes.size % 8
    words = codes[:edge].view(np.uint64)
    found = 0
    for start in range(0, words.size, WORDS):
        part = words[start : start + WORDS]
        sums = np.uint64(0)
        for i in range(part.size):
            sums += part[i]
        found += byte_sum(sums)
    for i in range(edge, codes.size):
        found += codes[i]
    return found
