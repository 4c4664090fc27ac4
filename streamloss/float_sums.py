"""Exact sums of floats of any size, in any order: a superaccumulator.

The limbs they are kept in, and what is read from them, are told in `exact`, as are the sums of
terms that fit a fixed grid.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamloss._jit import float_bits, inlined, kernel
from streamloss.exact import LIMB, carry
from streamloss.words import all_equal

FLOAT_BINS = 8192
"""Length of the scratch of `add_float_run`: two copies of a bin for each sign and exponent."""

_NEGATIVE = FLOAT_BINS // 2
_MANTISSA = 0x000FFFFFFFFFFFFF
_IMPLICIT = 0x0010000000000000
_EXPONENT = 0x7FF0000000000000

# Terms that `add_float_by_class` sorts at a time.
_TILE = 8192


@inlined
def _subnormal_units(terms: NDArray[Any]) -> int:
    units = 0
    for i in range(len(terms)):
        bits = float_bits(terms[i])
        size = bits & _MANTISSA if bits & _EXPONENT == 0 else 0
        units += -size if bits < 0 else size
    return units


@inlined
def _add_shifted(limbs: NDArray[Any], units: int, shift: int) -> None:
    """Add units * 2**shift to limbs, less than 2**34 to each; they stay uncarried."""
    k = shift >> 5
    low = (units & LIMB) << (shift & 31)
    high = (units >> 32) << (shift & 31)
    limbs[k] += low & LIMB
    limbs[k + 1] += (low >> 32) + (high & LIMB)
    limbs[k + 2] += high >> 32


@inlined
def add_float_run(limbs: NDArray[Any], terms: NDArray[Any], bins: NDArray[Any]) -> None:
    """Add finite float terms to a float sum as `add_float_terms`, with the caller's scratch.

    `bins` is `np.zeros(FLOAT_BINS, np.int64)` and left zero: clearing it anew costs 0.5 ns a term
    where there are only 2048 of them.
    """
    # A float32 leaves 29 bits of a float64 mantissa empty: dropped, they make room for 2**29
    # times as many terms before a bin can overflow.
    single = terms.itemsize == 4
    dropped = 29 if single else 0
    tile = 2**30 if single else 1024
    for start in range(0, len(terms), tile):
        run = terms[start : start + tile]
        # One bit for 32 exponents that occur: a register, 1.7 times as fast as an array of flags.
        touched = 0
        for i in range(len(run)):
            bits = float_bits(run[i])
            key = (bits >> 52) & 0xFFF
            # The key holds the sign, so that no mantissa need be negated; neighbours alternate
            # between two copies of the bins, so that neither awaits the other's store.
            bins[(key << 1) | (i & 1)] += ((bits & _MANTISSA) | _IMPLICIT) >> dropped
            touched |= 1 << ((key >> 5) & 63)
        for group in range(64):
            if (touched >> group) & 1 == 0:
                continue
            for e in range(32 * group, 32 * group + 32):
                k = 2 * e
                units = bins[k] + bins[k + 1] - bins[k + _NEGATIVE] - bins[k + _NEGATIVE + 1]
                bins[k] = 0
                bins[k + 1] = 0
                bins[k + _NEGATIVE] = 0
                bins[k + _NEGATIVE + 1] = 0
                if e > 0 and units != 0:
                    _add_shifted(limbs, units, e - 1 + dropped)
        # Zeros and subnormals have no implicit bit: what bin 0 holds is wrong and was dropped. A
        # subnormal float32 is a normal float64, so only a float64 needs another look.
        if touched & 1 and not single:
            _add_shifted(limbs, _subnormal_units(run), 0)
    carry(limbs)


@kernel
def add_float_terms(limbs: NDArray[Any], terms: NDArray[Any]) -> None:
    """Add finite float terms to a float sum, exactly.

    Parameters
    ----------
    limbs
        Canonical int64 vector of shape (66,); updated in place.
    terms
        float32 or float64, one dimension, no NaN or infinity, at most 2**32.
    """
    add_float_run(limbs, terms, np.zeros(FLOAT_BINS, np.int64))


@kernel
def add_float_by_class(
    limbs: NDArray[Any], codes: NDArray[Any], terms: NDArray[Any], classes: int
) -> None:
    """Add each finite float term to the float sum of its class, exactly.

    Parameters
    ----------
    limbs
        Canonical int64 array of shape (classes, 66); updated in place.
    codes
        uint8 or uint16 of the terms' shape, each below `classes`.
    terms
        float32 or float64, one dimension, no NaN or infinity.
    classes
        Number of classes.
    """
    bins = np.zeros(FLOAT_BINS, np.int64)
    sorted_terms = np.empty(min(_TILE, len(terms)), terms.dtype)
    ends = np.zeros(classes, np.int64)
    for start in range(0, len(terms), _TILE):
        tile = terms[start : start + _TILE]
        code = codes[start : start + _TILE]
        if all_equal(code):
            add_float_run(limbs[code[0]], tile, bins)
            continue
        # A counting sort by class: one run of the float sum for each class that is present.
        ends[:] = 0
        for i in range(len(code)):
            ends[code[i]] += 1
        begin = 0
        for c in range(classes):
            count = ends[c]
            ends[c] = begin
            begin += count
        for i in range(len(code)):
            c = code[i]
            sorted_terms[ends[c]] = tile[i]
            ends[c] += 1
        begin = 0
        for c in range(classes):
            if ends[c] > begin:
                add_float_run(limbs[c], sorted_terms[begin : ends[c]], bins)
            begin = ends[c]
