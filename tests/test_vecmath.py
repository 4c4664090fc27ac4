"""The float64 functions against 50-digit decimals, at their edges, and as machine code."""

import math
import re
from collections.abc import Callable
from decimal import Context, Decimal, localcontext
from typing import Any

import llvmlite.binding as llvm
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from numpy.typing import NDArray

from streamloss._jit import kernel
from streamloss.vecmath import (
    exp,
    log,
    log1p,
    log_for_grid,
    log_ratio,
    power,
    sigmoid,
    softplus,
)

CONTEXT = Context(prec=50, Emin=-999_999, Emax=999_999)
UNIT = st.floats(0.0, 1.0)


@kernel
def log_all(x: NDArray[Any], out: NDArray[Any]) -> None:
    for i in range(len(x)):
        out[i] = log(x[i])


@kernel
def log_for_grid_all(x: NDArray[Any], out: NDArray[Any]) -> None:
    for i in range(len(x)):
        exponent, ratio = log_ratio(x[i])
        out[i] = log_for_grid(exponent, ratio)


@kernel
def exp_all(x: NDArray[Any], out: NDArray[Any]) -> None:
    for i in range(len(x)):
        out[i] = exp(x[i])


@kernel
def log1p_all(x: NDArray[Any], out: NDArray[Any]) -> None:
    for i in range(len(x)):
        out[i] = log1p(x[i])


@kernel
def softplus_all(x: NDArray[Any], out: NDArray[Any]) -> None:
    for i in range(len(x)):
        out[i] = softplus(x[i])


@kernel
def sigmoid_all(x: NDArray[Any], out: NDArray[Any]) -> None:
    for i in range(len(x)):
        out[i] = sigmoid(x[i])


@kernel
def power_all(x: NDArray[Any], out: NDArray[Any]) -> None:
    for i in range(len(x)):
        out[i] = power(x[i], 2.5)


def true_log1p(x: Decimal) -> Decimal:
    # Fifty digits do not hold 1 + x for a tiny x; the series does.
    return (1 + x).ln() if x > Decimal("1e-20") else x - x * x / 2


def true_softplus(x: Decimal) -> Decimal:
    return max(x, Decimal(0)) + true_log1p((-abs(x)).exp())


def true_sigmoid(x: Decimal) -> Decimal:
    return 1 / (1 + (-x).exp())


def ulps(got: float, function: Callable[..., Decimal], *arguments: float) -> float:
    """Return the distance of `got` from the truth, in units of the last place of the truth."""
    with localcontext(CONTEXT):
        truth = function(*map(Decimal, arguments))
        return float(abs(Decimal(got) - truth) / Decimal(math.ulp(float(truth))))


@given(st.floats(5e-324, 1.7976931348623157e308))
@example(5e-324)
@example(2.0**-1022)
@example(math.nextafter(2.0**-1022, 0.0))
@example(math.nextafter(1.0, 0.0))
@example(math.nextafter(1.0, 2.0))
@example(math.sqrt(0.5))
@example(math.sqrt(2.0))
@example(1.7976931348623157e308)
def test_log_is_within_0_9_ulp(x: float) -> None:
    assert ulps(log(x), Decimal.ln, x) < 0.9


@given(st.floats(0.5, 2.0))
def test_log_is_within_0_9_ulp_near_one(x: float) -> None:
    assert ulps(log(x), Decimal.ln, x) < 0.9


@given(st.floats(2.0**-1022, 1.0) | st.floats(-1021.0, 0.0).map(lambda e: 2.0**e))
@example(2.0**-1022)
@example(math.nextafter(1.0, 0.0))
@example(math.sqrt(0.5))
@example(math.nextafter(math.sqrt(0.5), 1.0))
@example(0.7072)
def test_log_for_grid_keeps_its_stated_error(x: float) -> None:
    got = log_for_grid(*log_ratio(x))
    with localcontext(CONTEXT):
        truth = Decimal(x).ln()
        error = float(abs(Decimal(got) - truth))
    assert error <= 2.0**-46 + 2.0**-51 * abs(float(truth))
    # So that no term of a loss is negative.
    assert got <= 0.0


def test_log_for_grid_of_one_is_zero() -> None:
    assert log_for_grid(*log_ratio(1.0)) == 0.0


def test_log_of_one_is_zero_and_of_zero_minus_infinity() -> None:
    assert log(1.0) == 0.0
    assert log(0.0) == -math.inf


@given(st.floats(-745.0, 709.78))
@example(-708.5)
@example(-744.0)
@example(709.78)
@example(1e-300)
def test_exp_is_within_1_ulp(x: float) -> None:
    assert ulps(exp(x), Decimal.exp, x) < 1.0


@pytest.mark.parametrize(
    ("x", "expected"),
    [
        (0.0, 1.0),
        (-0.0, 1.0),
        (-746.0, 0.0),
        (-1e300, 0.0),
        (-math.inf, 0.0),
        (710.0, math.inf),
        (1e300, math.inf),
        (math.inf, math.inf),
        (-744.5, 5e-324),
    ],
)
def test_exp_reaches_its_limits(x: float, expected: float) -> None:
    assert exp(x) == expected


@given(UNIT)
@example(5e-324)
@example(0.41421356237309503)
@example(math.nextafter(0.41421356237309503, 0.0))
# Wrong by 1.37 ulp without the last bit of x that (1 + x) / 2 - 1 loses.
@example(0.4367786504571392)
@example(0.5)
@example(1.0)
def test_log1p_is_within_1_ulp(x: float) -> None:
    assert ulps(log1p(x), true_log1p, x) < 1.0


@given(st.floats(-740.0, 1e6))
@example(-2.745)
@example(0.0)
def test_softplus_is_within_2_ulp(x: float) -> None:
    assert ulps(softplus(x), true_softplus, x) < 2.0


def test_softplus_neither_overflows_nor_cancels() -> None:
    assert softplus(1e300) == 1e300
    assert softplus(-1e300) == 0.0
    assert softplus(-700.0) == exp(-700.0)


@given(st.floats(-700.0, 700.0))
@example(-3.4363625583784403)
def test_sigmoid_is_within_3_ulp(x: float) -> None:
    assert ulps(sigmoid(x), true_sigmoid, x) < 3.0


def test_sigmoid_reaches_its_limits() -> None:
    assert sigmoid(0.0) == 0.5
    assert sigmoid(1e300) == 1.0
    assert sigmoid(-1e300) == 0.0


@given(st.floats(1e-3, 1.0), st.floats(0.0, 100.0))
@example(0.9999999, 60.0)
def test_power_keeps_its_stated_relative_error(x: float, y: float) -> None:
    with localcontext(CONTEXT):
        truth = (Decimal(y) * Decimal(x).ln()).exp()
        error = float(abs(Decimal(power(x, y)) - truth) / truth)
    assert error <= (1.0 + 1.5 * abs(y * math.log(x))) * 2.0**-52


@given(UNIT)
@example(0.0)
def test_power_of_zero_is_one(x: float) -> None:
    assert power(x, 0.0) == 1.0


@given(st.floats(1e-300, 1e6))
@example(0.5)
def test_zero_and_one_to_any_positive_power_stay(y: float) -> None:
    assert power(0.0, y) == 0.0
    assert power(1.0, y) == 1.0


LOOPS = [log_all, log_for_grid_all, exp_all, log1p_all, softplus_all, sigmoid_all, power_all]
SCALARS = [
    log,
    lambda x: log_for_grid(*log_ratio(x)),
    exp,
    log1p,
    softplus,
    sigmoid,
    lambda x: power(x, 2.5),
]
NAMES = ["log", "log_for_grid", "exp", "log1p", "softplus", "sigmoid", "power"]


@pytest.mark.parametrize(("loop", "scalar"), [*zip(LOOPS, SCALARS, strict=True)], ids=NAMES)
def test_vector_loop_and_scalar_call_agree_bit_for_bit(loop: Any, scalar: Any) -> None:
    x = np.random.default_rng(7).random(1003)
    out = np.empty_like(x)
    loop(x, out)
    assert out.tobytes() == np.array([scalar(value) for value in x.tolist()]).tobytes()


@pytest.mark.parametrize("loop", LOOPS, ids=NAMES)
def test_loop_is_packed_and_only_what_is_written_as_fused_is(loop: Any) -> None:
    if not llvm.get_host_cpu_features().get("avx2"):
        pytest.skip("the CPU has no AVX2")
    # Compiled anew: what comes from the cache has no assembly to show.
    fresh = type(loop)(loop.py_func, targetoptions=dict(loop.targetoptions))
    fresh.compile("void(float64[::1], float64[::1])")
    assembly = "".join(fresh.inspect_asm().values())
    assert re.search(r"vdivpd\s.*[yz]mm", assembly)
    assert re.search(r"v(add|fmadd\d*)pd\s.*[yz]mm", assembly)
    # Without these flags LLVM may not contract a product and a sum by itself.
    assert not re.search(
        r"\bf(add|sub|mul|div) (fast|contract|reassoc)", "".join(fresh.inspect_llvm().values())
    )
    assert not re.search(r"callq?\s+\*?\$?(log|exp|pow|__svml)", assembly)
