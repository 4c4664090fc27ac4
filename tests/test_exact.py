"""Order-independent sums against Python's integers and fractions, and by their bytes."""

import re
from fractions import Fraction
from typing import Any

import llvmlite.binding as llvm
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from numpy.typing import NDArray

from streamloss.exact import (
    FIXED_LIMBS,
    FIXED_ROUNDING,
    FLOAT_LIMBS,
    add_fixed,
    add_fixed_by_class,
    add_fixed_terms,
    canonical,
    carry,
    fixed,
    total,
)
from streamloss.float_sums import (
    FLOAT_BINS,
    add_float_by_class,
    add_float_run,
    add_float_terms,
)

LARGEST = 1.7976931348623157e308
WIDE = 2.0**22
KINDS = {
    "fixed": (FIXED_LIMBS, add_fixed_terms, add_fixed_by_class),
    "float": (FLOAT_LIMBS, add_float_terms, add_float_by_class),
}
DTYPES = ["float32", "float64"]

narrow = st.floats(-2046.0, 2046.0)
wide = st.floats(-WIDE, WIDE, exclude_min=True, exclude_max=True)
finite = st.floats(allow_nan=False, allow_infinity=False)


def grid(x: float) -> Fraction:
    """Return x rounded to the fixed-point grid, half to even."""
    return Fraction(round(Fraction(x) * 2**40), 2**40)


def truth(kind: str, terms: NDArray[Any]) -> Fraction:
    return sum(map(grid if kind == "fixed" else Fraction, terms.tolist()), Fraction(0))


def summed(kind: str, *runs: NDArray[Any]) -> NDArray[Any]:
    length, add, _ = KINDS[kind]
    limbs = np.zeros(length, np.int64)
    for run in runs:
        add(limbs, run)
    return limbs


def summed_by_class(
    kind: str, codes: NDArray[Any], terms: NDArray[Any], classes: int
) -> NDArray[Any]:
    length, _, add = KINDS[kind]
    limbs = np.zeros((classes, length), np.int64)
    add(limbs, codes, terms, classes)
    return limbs


def samples(kind: str, dtype: str, n: int, seed: int = 0) -> NDArray[Any]:
    """Return terms over many magnitudes, zeros among them, a few tiles long."""
    rng = np.random.default_rng(seed)
    high = 10 if kind == "fixed" else 120
    terms = np.ldexp(rng.uniform(-1, 1, n), rng.integers(-60, high + 1, n))
    terms[rng.random(n) < 0.2] = 0.0
    return terms.astype(dtype)


@given(narrow)
@example(2.0**-41)
@example(3 * 2.0**-41)
@example(-(2.0**-41))
@example(5e-324)
@example(2046.9999999999998)
def test_fixed_rounds_half_to_even(x: float) -> None:
    assert fixed(x) == round(Fraction(x) * 2**40)
    assert abs(Fraction(fixed(x), 2**40) - Fraction(x)) <= Fraction(FIXED_ROUNDING)


@given(st.lists(st.integers(-(2**62) + 1, 2**62 - 1)))
def test_add_fixed_counts_units_exactly_and_stays_canonical(units: list[int]) -> None:
    limbs = np.zeros(FIXED_LIMBS, np.int64)
    for unit in units:
        add_fixed(limbs, unit)
        assert 0 <= limbs[0] < 2**32
    assert total(limbs) == Fraction(sum(units), 2**40)


@given(st.lists(st.integers(-(2**61), 2**61), min_size=1, max_size=8))
def test_carry_keeps_the_value_and_canonical_copies(values: list[int]) -> None:
    limbs = np.array(values, np.int64)
    copy = canonical(limbs)
    assert limbs.tolist() == values
    assert all(0 <= limb < 2**32 for limb in copy[:-1].tolist())
    assert sum(v << 32 * k for k, v in enumerate(copy.tolist())) == sum(
        v << 32 * k for k, v in enumerate(values)
    )
    carry(limbs)
    assert limbs.tolist() == copy.tolist()


def test_carry_works_on_a_strided_view() -> None:
    rows = np.zeros((2, 3, 2), np.int64)
    rows[:, 1, :] = [[-1, -1], [2**40, 7]]
    carry(rows[0, 1])
    carry(rows[:, 1, :][1, ::1])
    column = rows.transpose(0, 2, 1)[1, :, 1]
    carry(column)
    assert rows[:, 1, :].tolist() == [[2**32 - 1, -2], [0, 7 + 2**8]]


@pytest.mark.parametrize("shape", [(2,), (3, 2), (2, 3, 66), (0, 2)])
def test_canonical_keeps_any_leading_shape(shape: tuple[int, ...]) -> None:
    array = np.zeros(shape, np.int64)
    array[..., 0] = -1
    result = canonical(array)
    assert result.shape == shape
    assert (result[..., :-1] == 2**32 - 1).all()
    assert (result[..., -1] == -1).all()


def test_total_names_the_lengths_it_knows() -> None:
    with pytest.raises(ValueError, match=r"expected 2 limbs .* or 66 .* got 3"):
        total(np.zeros(3, np.int64))


@given(st.lists(st.one_of(narrow, wide), max_size=60))
@example([2047.5, 2048.0, 4095.0 + 2.0**-41, -2048.0, WIDE / 2 + 0.1])
def test_fixed_sum_is_the_sum_of_rounded_terms(values: list[float]) -> None:
    terms = np.array(values, np.float64)
    assert total(summed("fixed", terms)) == truth("fixed", terms)


@given(st.lists(finite, max_size=60))
@example([LARGEST, 1.0, -LARGEST])
@example([LARGEST] * 40)
@example([-LARGEST] * 40)
@example([5e-324, -0.0, 2.0**-1022, -5e-324, 2.0**-1022 - 5e-324, LARGEST])
@example([1e308, 1.0, -1e308])
def test_float_sum_is_exact_to_the_last_bit(values: list[float]) -> None:
    terms = np.array(values, np.float64)
    assert total(summed("float", terms)) == truth("float", terms)


@given(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), max_size=60))
@example([float(np.finfo(np.float32).smallest_subnormal), 1.0])
@example([float(np.finfo(np.float32).max)] * 3)
def test_float_sum_of_float32_is_exact(values: list[float]) -> None:
    terms = np.array(values, np.float32)
    assert total(summed("float", terms)) == truth("float", terms)


@pytest.mark.parametrize("value", [LARGEST, -LARGEST, 1.9999999999999998, 5e-324, -(2.0**-1022)])
@pytest.mark.parametrize("n", [1023, 1024, 1025, 5000])
def test_float_bins_do_not_overflow_on_equal_terms(value: float, n: int) -> None:
    assert total(summed("float", np.full(n, value))) == n * Fraction(value)


@pytest.mark.parametrize("value", [2046.9999999999998, -2046.9999999999998, -2048.0, 2047.9999])
@pytest.mark.parametrize("n", [2047, 2048, 2049, 6000])
def test_fixed_tiles_do_not_overflow_on_equal_terms(value: float, n: int) -> None:
    assert total(summed("fixed", np.full(n, value))) == n * grid(value)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("n", [0, 1, 3, 2047, 2048, 2049, 10_001])
def test_sum_of_several_tiles_is_exact(kind: str, dtype: str, n: int) -> None:
    terms = samples(kind, dtype, n)
    assert total(summed(kind, terms)) == truth(kind, terms)


def test_float_sum_finds_subnormals_among_zeros_and_large_terms() -> None:
    terms = samples("float", "float64", 5000)
    terms[::7] = np.random.default_rng(1).integers(-(2**52), 2**52, len(terms[::7])) * 5e-324
    assert total(summed("float", terms)) == truth("float", terms)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", KINDS)
@given(seed=st.integers(0, 2**32 - 1), cut=st.integers(0, 5000))
def test_sum_is_independent_of_order_split_and_merge(
    kind: str, dtype: str, seed: int, cut: int
) -> None:
    terms = samples(kind, dtype, 5000)
    shuffled = np.random.default_rng(seed).permutation(terms)
    expected = summed(kind, terms).tobytes()
    assert summed(kind, shuffled).tobytes() == expected
    assert summed(kind, shuffled[:cut], shuffled[cut:]).tobytes() == expected
    merged = canonical(summed(kind, terms[:cut]) + summed(kind, terms[cut:]))
    assert merged.tobytes() == expected


@pytest.mark.parametrize("kind", KINDS)
def test_sum_that_cancels_has_the_bytes_of_no_sum(kind: str) -> None:
    terms = samples(kind, "float64", 3000)
    assert not summed(kind, terms, -terms).any()


def test_float_run_leaves_its_scratch_zero() -> None:
    bins = np.zeros(FLOAT_BINS, np.int64)
    limbs = np.zeros(FLOAT_LIMBS, np.int64)
    terms = np.array([1.0, -3.5, 5e-324, LARGEST, 0.0, -0.0])
    for _ in range(2):
        add_float_run(limbs, terms, bins)
        assert not bins.any()
    assert total(limbs) == 2 * truth("float", terms)


@pytest.mark.parametrize(
    "mixture", ["random", "runs", "constant", "alike at the ends", "half wide"]
)
@pytest.mark.parametrize("code_dtype", ["uint8", "uint16"])
@pytest.mark.parametrize("classes", [1, 2, 3, 5, 6, 30, 255, 300])
@pytest.mark.parametrize("kind", KINDS)
def test_sum_by_class_is_the_sum_of_each_class(
    kind: str, classes: int, code_dtype: str, mixture: str
) -> None:
    if code_dtype == "uint8" and classes > 256:
        classes = 256
    n = 4099
    rng = np.random.default_rng(classes)
    codes = rng.integers(0, classes, n).astype(code_dtype)
    terms = samples(kind, "float64", n)
    if mixture == "runs":
        codes = np.repeat(codes, 300)[:n]
    elif mixture == "constant":
        codes[:] = classes - 1
    elif mixture == "alike at the ends":
        # One other code, at each place of the first tile's words and of the last, short, tile.
        codes[:] = 0
        codes[[11, 2048 + 17, 4097]] = classes - 1
    elif mixture == "half wide" and kind == "fixed":
        terms[n // 2 :] *= 1000.0
    limbs = summed_by_class(kind, codes, terms, classes)
    for c in range(classes):
        assert limbs[c].tobytes() == summed(kind, terms[codes == c]).tobytes()


@pytest.mark.parametrize("place", range(16))
@pytest.mark.parametrize("code_dtype", ["uint8", "uint16"])
def test_one_other_code_is_found_at_any_place(code_dtype: str, place: int) -> None:
    codes = np.zeros(16, code_dtype)
    codes[place] = 1
    limbs = summed_by_class("fixed", codes, np.ones(16), 2)
    assert [total(row) for row in limbs] == [15, 1]


@pytest.mark.parametrize("kind", KINDS)
@given(
    data=st.lists(st.tuples(st.integers(0, 6), st.floats(-3000.0, 3000.0)), max_size=40),
    dtype=st.sampled_from(DTYPES),
)
def test_sum_by_class_of_few_terms_is_exact(
    kind: str, data: list[tuple[int, float]], dtype: str
) -> None:
    codes = np.array([code for code, _ in data], np.uint8)
    terms = np.array([term for _, term in data], dtype)
    limbs = summed_by_class(kind, codes, terms, 7)
    assert [total(row) for row in limbs] == [truth(kind, terms[codes == c]) for c in range(7)]


def test_mean_is_correctly_rounded() -> None:
    limbs = summed("float", np.array([1e308, 1.0, -1e308]))
    assert float(total(limbs) / 3) == 1 / 3


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("loop", [add_fixed_terms, add_fixed_by_class])
def test_hot_loop_holds_packed_instructions(loop: Any, dtype: str) -> None:
    if not llvm.get_host_cpu_features().get("avx2"):
        pytest.skip("the CPU has no AVX2")
    # Compiled anew: what comes from the cache has no assembly to show.
    fresh = type(loop)(loop.py_func, targetoptions=dict(loop.targetoptions))
    if loop is add_fixed_terms:
        fresh.compile(f"void(int64[::1], {dtype}[::1])")
    else:
        fresh.compile(f"void(int64[:,::1], uint8[::1], {dtype}[::1], int64)")
    assembly = "".join(fresh.inspect_asm().values())
    for instruction in (r"vfn?m(add|sub)\w+pd", "vpaddq", "vp?xor[pdq]*", "vp?or[pdq]*"):
        assert re.search(rf"{instruction}\s.*[yz]mm", assembly), instruction
