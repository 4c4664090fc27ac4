"""Ways to take the logarithm of a probability for the grid, in nanoseconds a voxel on one core.

`python -m benchmarks.logarithms` times a loop over a tile in the first-level cache: the
logarithm, its rounding to the grid and the sum. It shows what the one in use gains by fused
multiply-add, what a division alone takes, which is the limit, and what was tried instead.
"""

import time
from collections.abc import Callable
from statistics import median
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from streamloss import exact, vecmath
from streamloss._jit import bits_float, float_bits, fused, inlined, use_wide_vectors

TILE = 1024
VOXELS = 2**17
REPEATS = 31

# log(1 + f) / f on the range of the reduction, by interpolation at Chebyshev nodes.
_POLYNOMIAL = (
    np.polynomial.Chebyshev.interpolate(lambda f: np.log1p(f) / f, 17, (2**-0.5 - 1, 2**0.5 - 1))
    .convert(kind=np.polynomial.Polynomial)
    .coef
)
P = tuple(float(c) for c in _POLYNOMIAL)
# 1 / c and log(1 / c) for the middles c of 128 parts of [1, 2).
_MIDDLES = 1 + (np.arange(128) + 0.5) / 128
RECIPROCALS = 1 / _MIDDLES
LOGS = np.log(RECIPROCALS)


@inlined
def in_use(x: float) -> float:
    """Return log x as the kernels do."""
    exponent, ratio = vecmath.log_ratio(x)
    return vecmath.log_for_grid(exponent, ratio)


@inlined
def without_fused(x: float) -> float:
    """Return log x by the same series of products and sums."""
    exponent, ratio = vecmath.log_ratio(x)
    z = ratio * ratio
    w = z * z
    low = vecmath._G1 + z * vecmath._G2
    series = low + w * ((vecmath._G3 + z * vecmath._G4) + w * vecmath._G5)
    return exponent * vecmath._LOG2 + ratio * (2.0 + z * series)


@inlined
def division_alone(x: float) -> float:
    """Return no logarithm: the limit of all that divide."""
    return x / (2.0 + x)


@inlined
def single_division(x: float) -> float:
    """Return log x with a reciprocal in float32, corrected by a step of Newton."""
    exponent, f = vecmath.log_reduced(x)
    d = 2.0 + f
    reciprocal = np.float64(np.float32(1.0) / np.float32(d))
    ratio = f * reciprocal
    ratio = fused(fused(-ratio, d, f), reciprocal, ratio)
    return vecmath.log_for_grid(exponent, ratio)


@inlined
def polynomial(x: float) -> float:
    """Return log x without a division, by a polynomial of degree 18."""
    exponent, f = vecmath.log_reduced(x)
    z = f * f
    w = z * z
    v = w * w
    a = fused(z, fused(f, P[3], P[2]), fused(f, P[1], P[0]))
    b = fused(z, fused(f, P[7], P[6]), fused(f, P[5], P[4]))
    c = fused(z, fused(f, P[11], P[10]), fused(f, P[9], P[8]))
    d = fused(z, fused(f, P[15], P[14]), fused(f, P[13], P[12]))
    high = fused(v, fused(f, P[17], P[16]), fused(w, d, c))
    return fused(exponent, vecmath._LOG2, f * fused(v, high, fused(w, b, a)))


@inlined
def table(x: float) -> float:
    """Return log x by one of 128 reciprocals and a polynomial of degree 5."""
    bits = float_bits(x)
    shifted = int(np.uint64(bits) >> np.uint64(52))
    exponent = bits_float(shifted | vecmath._TWO_52_BITS) - (vecmath._TWO_52 + 1023.0)
    part = (bits >> 45) & 127
    mantissa = bits_float((bits & vecmath._MANTISSA) | vecmath._ONE_BITS)
    f = fused(mantissa, RECIPROCALS[part], -1.0)
    z = f * f
    series = fused(z, fused(f, fused(f, 0.2, -0.25), 1.0 / 3.0), fused(f, -0.5, 1.0))
    return fused(exponent, vecmath._LOG2, fused(f, series, -LOGS[part]))


def loop_over(function: Callable[[float], float]) -> Callable[..., int]:
    """Return a loop that takes a function of each voxel of a tile, some times over."""

    @njit(nogil=True, error_model="numpy")
    def loop(chances: NDArray[np.float64], logs: NDArray[np.float64], rounds: int) -> int:
        use_wide_vectors()
        total = 0
        for _ in range(rounds):
            for i in range(chances.size):
                term = -function(chances[i])
                logs[i] = term
                total += exact.fixed_bits(term)
        return total

    return loop


CASES = {
    "in use": in_use,
    "the same without fused multiply-add": without_fused,
    "a division alone": division_alone,
    "division in float32, corrected": single_division,
    "polynomial, no division": polynomial,
    "table of reciprocals": table,
}


def measure() -> list[dict[str, Any]]:
    """Return name, nanoseconds a voxel and largest error of each case."""
    chances = np.random.default_rng(0).random(TILE) * (1 - 2.0**-52) + 2.0**-52
    logs = np.empty(TILE)
    loops = {name: loop_over(function) for name, function in CASES.items()}
    errors = {}
    for name, loop in loops.items():
        loop(chances, logs, 1)
        errors[name] = float(np.max(np.abs(logs + np.log(chances))))
    rounds = VOXELS // TILE
    times: dict[str, list[float]] = {name: [] for name in loops}
    for _ in range(REPEATS):
        for name, loop in loops.items():
            start = time.thread_time_ns()
            loop(chances, logs, rounds)
            times[name].append((time.thread_time_ns() - start) / VOXELS)
    return [
        {"name": name, "ns_per_voxel": median(times[name]), "error": errors[name]} for name in loops
    ]


def main() -> None:
    """Print the table."""
    print(f"{'logarithm':<40}{'ns/voxel':>10}{'largest error':>16}")
    for row in measure():
        error = "" if row["name"] == "a division alone" else f"{row['error']:.1e}"
        print(f"{row['name']:<40}{row['ns_per_voxel']:>10.3f}{error:>16}")


if __name__ == "__main__":
    main()
