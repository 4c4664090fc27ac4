"""Float64 `log`, `exp` and their kin, the same bits on every machine, as vectorisable scalars.

Every function is `+ - * /`, fused multiply-add, selects and bit casts only: no libm, no SVML.
No loops, no arrays and no checks of the domain live here.
"""

# The errors "seen" are the largest of 600,000 random arguments or more, against 45-digit decimals.

import numpy as np

from streamloss._jit import bits_float, float_bits, fused, inlined

# No AVX2 instruction converts between int64 and float64. Adding these constants puts an integer
# into the low bits of a float64, or takes it out again, with one addition and a bit cast.
_TWO_52 = 2.0**52
_TWO_52_BITS = 0x4330000000000000
_ROUNDER = 1.5 * 2.0**52

_TWO_54 = 2.0**54
_SMALLEST_NORMAL = 2.0**-1022
_MINUS_INFINITY = float("-inf")

# log 2 in two parts, so that a multiple of it by an exponent is exact in the first.
_LOG2_HIGH = 6.93147180369123816490e-01
_LOG2_LOW = 1.90821492927058770002e-10
_LOG2 = 6.93147180559945286227e-01
_LOG2_INVERSE = 1.44269504088896338700e00

# Bits of the float just below sqrt(1/2) at which the reduction of `log` splits, and its distance
# from the bits of 1: adding that distance moves the split onto a change of the exponent.
_SQRT_HALF_BITS = 0x3FE6A09E00000000
_ONE_BITS = 0x3FF0000000000000
_TO_ONE_BITS = _ONE_BITS - _SQRT_HALF_BITS
_MANTISSA = 0x000FFFFFFFFFFFFF

_L1 = 6.666666666666735130e-01
_L2 = 3.999999999940941908e-01
_L3 = 2.857142874366239149e-01
_L4 = 2.222219843214978396e-01
_L5 = 1.818357216161805012e-01
_L6 = 1.531383769920937332e-01
_L7 = 1.479819860511658591e-01

_G1 = 6.666666668252397e-01
_G2 = 3.9999993776741133e-01
_G3 = 2.8572277323634065e-01
_G4 = 2.216993081588643e-01
_G5 = 1.9666160166589236e-01

_E1 = 1.66666666666666019037e-01
_E2 = -2.77777777770155933842e-03
_E3 = 6.61375632143793436117e-05
_E4 = -1.65339022054652515390e-06
_E5 = 4.13813679705723846039e-08


@inlined
def zero_or_one(mask: int) -> float:
    """Return 0.0 for a mask of no bits and 1.0 for one of all 64."""
    return bits_float(mask & _ONE_BITS)


@inlined
def log_reduced(x: float) -> tuple[float, float]:
    """Return e and f with x = 2**e * (1 + f), 1 + f in [sqrt(1/2), sqrt(2)); x > 0 and normal."""
    bits = float_bits(x) + _TO_ONE_BITS
    # A logical shift: AVX2 has no arithmetic one of 64 bits.
    shifted = int(np.uint64(bits) >> np.uint64(52))
    exponent = bits_float(shifted | _TWO_52_BITS) - (_TWO_52 + 1023.0)
    return exponent, bits_float((bits & _MANTISSA) + _SQRT_HALF_BITS) - 1.0


@inlined
def log_ratio(x: float) -> tuple[float, float]:
    """Return the two arguments of `log_for_grid` for a normal x > 0."""
    exponent, f = log_reduced(x)
    return exponent, f / (2.0 + f)


@inlined
def log_for_grid(exponent: float, ratio: float) -> float:
    """Return the natural logarithm of x from `log_ratio(x)`, within 2**-46 + 2**-51 |log x|.

    For terms that are rounded to a grid of 2**-40: two thirds of the operations of `log`. The
    polynomial of five coefficients is minimax, within 2**-47.2, in z = ratio**2.
    """
    z = ratio * ratio
    w = z * z
    # Pairs, not Horner's chain: what a core looks ahead is shorter than that.
    series = fused(w, fused(w, _G5, fused(z, _G4, _G3)), fused(z, _G2, _G1))
    return fused(exponent, _LOG2, ratio * fused(z, series, 2.0))


@inlined
def _log_of_one_plus(f: float, exponent: float, correction: float) -> float:
    """Return `log(1 + f) + exponent * log(2) + correction`, 1 + f in [sqrt(1/2), sqrt(2))."""
    s = f / (2.0 + f)
    z = s * s
    w = z * z
    odd = z * fused(w, fused(w, fused(w, _L7, _L5), _L3), _L1)
    even = w * fused(w, fused(w, _L6, _L4), _L2)
    half_square = 0.5 * f * f
    low = fused(s, half_square + (odd + even), fused(exponent, _LOG2_LOW, correction))
    return fused(exponent, _LOG2_HIGH, -((half_square - low) - f))


@inlined
def log(x: float) -> float:
    """Return the natural logarithm of a finite x >= 0; log(0) is -inf.

    Error below 0.9 ulp (0.82 seen). Negative numbers, infinities and
    NaN give meaningless numbers. The reduction to [sqrt(1/2), sqrt(2)) and the minimax
    polynomial in s = f / (2 + f) are those of fdlibm's `e_log.c`.
    """
    subnormal = x < _SMALLEST_NORMAL
    scaled = x * _TWO_54
    normal = scaled if subnormal else x
    exponent, f = log_reduced(normal)
    result = _log_of_one_plus(f, exponent - 54.0 if subnormal else exponent, 0.0)
    return result if x > 0.0 else _MINUS_INFINITY


@inlined
def log1p(x: float) -> float:
    """Return log(1 + x) for x in [0, 1], accurate also where 1 + x is not.

    Error below 1 ulp (0.81 seen). Polynomial as in `log`.
    """
    above = x >= 0.41421356237309503
    # (1 + x) / 2 - 1 is exact but for the last bit of x below 1/2, which `lost` gives back,
    # times d log(1 + f) / df = 1.4 there.
    difference = x - 1.0
    lost = x - (difference + 1.0)
    f = 0.5 * difference if above else x
    exponent = 1.0 if above else 0.0
    correction = 0.7 * lost if above else 0.0
    return _log_of_one_plus(f, exponent, correction)


@inlined
def exp(x: float) -> float:
    """Return e to the power of x, any x but NaN; 0 below about -745.13, inf above about 709.78.

    Error below 1 ulp (0.85 seen), subnormal results included. The
    reduction by multiples of log 2 and the rational approximation are those of fdlibm's
    `e_exp.c`.
    """
    above = x if x > -746.0 else -746.0
    clipped = above if above < 710.0 else 710.0
    rounder = fused(clipped, _LOG2_INVERSE, _ROUNDER)
    exponent = rounder - _ROUNDER
    high = fused(exponent, -_LOG2_HIGH, clipped)
    low = exponent * _LOG2_LOW
    r = high - low
    t = r * r
    c = fused(-t, fused(t, fused(t, fused(t, fused(t, _E5, _E4), _E3), _E2), _E1), r)
    y = 1.0 - ((low - (r * c) / (2.0 - c)) - high)
    # 2**exponent as a product of two, each normal: only the last product can round, so that
    # subnormal results round once and 2**1024 never appears. The low twelve bits of `whole` and
    # `half` are the exponent and its half; the shifts drop the others.
    whole = float_bits(rounder)
    half = (whole >> 1) & 0x7FFFFFFFFFFFFFFF
    first = bits_float((half + 1023) << 52)
    second = bits_float((whole - half + 1023) << 52)
    return (y * first) * second


@inlined
def softplus(x: float) -> float:
    """Return log(1 + exp(x)) for any x but NaN, without overflow or cancellation.

    Error below 2 ulp (1.53 seen): max(x, 0) + log1p(exp(-|x|)).
    """
    positive = x if x > 0.0 else 0.0
    return positive + log1p(exp(-abs(x)))


@inlined
def sigmoid(x: float) -> float:
    """Return 1 / (1 + exp(-x)) for any x but NaN, without overflow or cancellation.

    Error below 3 ulp (2.21 seen): 1 or e over 1 + e, e = exp(-|x|).
    """
    e = exp(-abs(x))
    numerator = e if x < 0.0 else 1.0
    return numerator / (1.0 + e)


@inlined
def power(x: float, y: float) -> float:
    """Return x to the power of y for x in [0, 1] and finite y >= 0; power(x, 0) is 1.

    exp(y * log(x)), so the relative error grows with the exponent: below
    (1 + 1.5 |y log x|) * 2**-52 for a normal result, hence below 2.4e-13 at worst and
    2e-15 for results above 0.01.
    """
    result = exp(y * log(x))
    return result if y > 0.0 else 1.0
