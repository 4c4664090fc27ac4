"""Order-independent sums of floats: their limbs, and terms in fixed point on the grid 2**-40.

A sum is an int64 vector of limbs, base 2**32, little-endian, last axis; merging is addition.
Terms of any size are added in `float_sums`; checks of the range, means and rounding to float live
with the callers.
"""

from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamloss._jit import float_bits, fused, inlined, kernel, use_wide_vectors
from streamloss.words import all_equal

FIXED_LIMBS = 2
"""Limbs of a fixed-point sum: units of 2**-40, up to 2**95 of them."""

FLOAT_LIMBS = 66
"""Limbs of a float sum: units of 2**-1074, the smallest float64, up to 2**2143 of them, which is
more than 2**45 times the largest float64."""

FIXED_ROUNDING = 2.0**-41
"""Largest error of rounding one term to the fixed-point grid."""

LIMB = 0xFFFFFFFF
"""The bits of a canonical limb."""

_FIXED_BITS = 40
_FLOAT_BITS = 1074
_GRID = 2.0**_FIXED_BITS

# Adding 1.5 * 2**52 to an |x| < 2**51 rounds x to an integer, half to even, and leaves it in the
# low bits of the sum, whose exponent is that of 2**52. Any other exponent tells of another range.
_ROUNDER = 1.5 * 2.0**52
ROUNDER_BITS = 0x4338000000000000
"""Bits of the float64 that `fixed_bits` of 0 is."""
_TWO_52 = 2.0**52
_TWO_52_BITS = 0x4330000000000000
_TWO_51 = 2**51

# 2048 terms below 2**51 units each stay within 2**62, and 16 KiB of int64 within L1.
_TILE = 2048

# Up to these many classes, one masked sum for each class is faster than scattering.
_MASKED_CLASSES = 5

# Beyond these many classes the scratch of the scatter is no longer small.
_SCRATCH_CLASSES = 256


@inlined
def whole(x: float) -> int:
    """Return x rounded to an integer, half to even; |x| < 2**51."""
    return float_bits(x + _ROUNDER) - ROUNDER_BITS


@inlined
def fixed(x: float) -> int:
    """Return x in units of 2**-40, rounded half to even; |x| < 2047."""
    return fixed_bits(x) - ROUNDER_BITS


@inlined
def fixed_bits(x: float) -> int:
    """Return `fixed(x) + ROUNDER_BITS`, for sums that subtract the constant once at the end."""
    return float_bits(fused(x, _GRID, _ROUNDER))


@inlined
def mask_of(code: Any) -> Any:
    """Return 0 for a code of 0 and an int64 of all bits for 1: faster than selecting by a code."""
    return -np.int64(code)


@inlined
def _fixed_wide(x: float) -> int:
    """Return x in units of 2**-40, rounded half to even; |x| < 2**22."""
    units = x * _GRID
    size = abs(units)
    # From 2**52 on, every float64 is an integer already.
    whole = (size + _TWO_52) - _TWO_52 if size < _TWO_52 else size
    return int(-whole if units < 0.0 else whole)


@inlined
def carry(limbs: NDArray[Any]) -> None:
    """Make one limb vector canonical in place: all but the last limb in [0, 2**32).

    Every limb must be within +-2**62 before.
    """
    moved = 0
    for k in range(len(limbs) - 1):
        limb = limbs[k] + moved
        limbs[k] = limb & LIMB
        moved = limb >> 32
    limbs[len(limbs) - 1] += moved


@kernel
def _carry_rows(rows: NDArray[Any]) -> None:
    for i in range(len(rows)):
        carry(rows[i])


def canonical(array: NDArray[Any]) -> NDArray[Any]:
    """Return a canonical copy of limb vectors of any leading shape.

    Equal sums then have equal bytes. Addition of up to 2**30 canonical vectors of equal shape,
    then `canonical`, is the merge of their sums.

    Examples
    --------
    >>> canonical(np.array([[2**32 + 5, 1], [-1, 0]])).tolist()
    [[5, 2], [4294967295, -1]]
    """
    result = np.array(array, dtype=np.int64, order="C")
    _carry_rows(result.reshape(-1, result.shape[-1]))
    return result


def total(limbs: NDArray[Any]) -> Fraction:
    """Return the exact value of one limb vector; its length tells the kind of sum.

    `float(total(limbs) / n)` is the mean, correctly rounded.

    Examples
    --------
    >>> limbs = np.zeros(FIXED_LIMBS, np.int64)
    >>> add_fixed_terms(limbs, np.array([0.5, 0.25]))
    >>> total(limbs)
    Fraction(3, 4)
    """
    bits = {FIXED_LIMBS: _FIXED_BITS, FLOAT_LIMBS: _FLOAT_BITS}.get(len(limbs))
    if bits is None:
        raise ValueError(
            f"expected {FIXED_LIMBS} limbs (fixed point) or {FLOAT_LIMBS} (float sum), "
            f"got {len(limbs)}"
        )
    return Fraction(sum(limb << 32 * k for k, limb in enumerate(limbs.tolist())), 1 << bits)


@inlined
def add_fixed(limbs: NDArray[Any], units: int) -> None:
    """Add units of 2**-40, |units| < 2**62, to a canonical vector of two limbs, kept canonical."""
    low = limbs[0] + (units & LIMB)
    limbs[0] = low & LIMB
    limbs[1] += (units >> 32) + (low >> 32)


@inlined
def add_fixed_pair(limbs: NDArray[Any], size: int, positives: int, total: int, inside: int) -> None:
    """Add sums of `fixed_bits`, of `size` terms and of the `positives` of them, to two classes."""
    inside -= positives * ROUNDER_BITS
    add_fixed(limbs[0], total - size * ROUNDER_BITS - inside)
    add_fixed(limbs[1], inside)


@inlined
def _add_wide_terms(limbs: NDArray[Any], terms: NDArray[Any]) -> None:
    for i in range(len(terms)):
        add_fixed(limbs, _fixed_wide(terms[i]))


@inlined
def _add_fixed_tile(limbs: NDArray[Any], terms: NDArray[Any]) -> None:
    # The exponent of every rounded term is cancelled by xor and collected by or: the check of the
    # range costs two integer operations. What remains is the term plus 2**51, summed modulo 2**64.
    units = 0
    seen = 0
    for i in range(len(terms)):
        shifted = fixed_bits(terms[i]) ^ _TWO_52_BITS
        units += shifted
        seen |= shifted
    if seen >> 52 == 0:
        add_fixed(limbs, units - len(terms) * _TWO_51)
    else:
        _add_wide_terms(limbs, terms)


@kernel
def add_fixed_terms(limbs: NDArray[Any], terms: NDArray[Any]) -> None:
    """Add float terms to a fixed-point sum, each rounded to the grid 2**-40, half to even.

    Parameters
    ----------
    limbs
        Canonical int64 vector of shape (2,); updated in place.
    terms
        float32 or float64, one dimension, |term| < 2**22. Tiles of terms below 2047 take the
        vectorised path.
    """
    use_wide_vectors()
    for start in range(0, len(terms), _TILE):
        _add_fixed_tile(limbs, terms[start : start + _TILE])


@inlined
def _add_fixed_by_two(limbs: NDArray[Any], codes: NDArray[Any], terms: NDArray[Any]) -> None:
    # As `_add_fixed_tile`. The code, 0 or 1, makes a mask by negation: 1.3 times as fast as a
    # select, and no buffer is written.
    units = 0
    inside = 0
    ones = 0
    seen = 0
    for i in range(len(terms)):
        shifted = fixed_bits(terms[i]) ^ _TWO_52_BITS
        mask = mask_of(codes[i])
        units += shifted
        inside += shifted & mask
        ones -= mask
        seen |= shifted
    if seen >> 52 == 0:
        inside -= ones * _TWO_51
        add_fixed(limbs[1], inside)
        add_fixed(limbs[0], units - len(terms) * _TWO_51 - inside)
    else:
        for i in range(len(terms)):
            add_fixed(limbs[codes[i]], _fixed_wide(terms[i]))


@kernel
def add_fixed_by_class(
    limbs: NDArray[Any], codes: NDArray[Any], terms: NDArray[Any], classes: int
) -> None:
    """Add each float term to the fixed-point sum of its class.

    Parameters
    ----------
    limbs
        Canonical int64 array of shape (classes, 2); updated in place.
    codes
        uint8 or uint16 of the terms' shape, each below `classes`.
    terms
        float32 or float64, one dimension, |term| < 2**22.
    classes
        Number of classes.
    """
    use_wide_vectors()
    if classes == 2:
        for start in range(0, len(terms), _TILE):
            _add_fixed_by_two(limbs, codes[start : start + _TILE], terms[start : start + _TILE])
        return
    rounded = np.empty(_TILE, np.int64)
    small = classes <= _SCRATCH_CLASSES
    # Four copies of the sums, one for each of four neighbours: a sum's store is not awaited by
    # the next term of the same class.
    sums = np.zeros((4, classes if small else 0), np.int64)
    for start in range(0, len(terms), _TILE):
        tile = terms[start : start + _TILE]
        code = codes[start : start + _TILE]
        n = len(tile)
        if all_equal(code):
            _add_fixed_tile(limbs[code[0]], tile)
            continue
        seen = 0
        for i in range(n):
            shifted = fixed_bits(tile[i]) ^ _TWO_52_BITS
            rounded[i] = shifted - _TWO_51
            seen |= shifted
        if seen >> 52 != 0:
            for i in range(n):
                add_fixed(limbs[code[i]], _fixed_wide(tile[i]))
        elif classes <= _MASKED_CLASSES:
            rest = 0
            for i in range(n):
                rest += rounded[i]
            for c in range(1, classes):
                units = 0
                for i in range(n):
                    # Loaded before the choice: a load in one branch of it would not vectorise.
                    term = rounded[i]
                    units += term if code[i] == c else 0
                add_fixed(limbs[c], units)
                rest -= units
            add_fixed(limbs[0], rest)
        elif small:
            for i in range(0, n - 3, 4):
                sums[0, code[i]] += rounded[i]
                sums[1, code[i + 1]] += rounded[i + 1]
                sums[2, code[i + 2]] += rounded[i + 2]
                sums[3, code[i + 3]] += rounded[i + 3]
            for i in range(n - n % 4, n):
                sums[0, code[i]] += rounded[i]
            for c in range(classes):
                add_fixed(limbs[c], sums[0, c] + sums[1, c] + sums[2, c] + sums[3, c])
                sums[0, c] = 0
                sums[1, c] = 0
                sums[2, c] = 0
                sums[3, c] = 0
        else:
            for i in range(n):
                add_fixed(limbs[code[i]], rounded[i])
