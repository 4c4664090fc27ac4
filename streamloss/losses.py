"""What every loss shares: reductions over voxels and true classes, their error bounds, options.

The losses themselves live in `metrics/`.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamloss import exact, vecmath
from streamloss._jit import kernel
from streamloss.errors import InvalidInputError
from streamloss.statistic import Parameter, Score
from streamloss.task import Task


def _reduction(value: Any) -> str:
    if value not in ("mean", "sum", "positives"):
        raise ValueError("expected mean, sum or positives")
    return str(value)


REDUCTION = Parameter(
    "reduction",
    "mean",
    _reduction,
    "mean of the losses over voxels, their sum, or positives: the sum divided by the number "
    "of voxels that are not background [default: mean]",
)


def check_reduction(task: Task) -> None:
    """Refuse to divide by a number of positives where the truth has no labels.

    Raises
    ------
    InvalidInputError
        If `reduction` is positives and the truth is a distribution or values.
    """
    if task.parameters.get("reduction") == "positives" and not task.hard_truth:
        raise InvalidInputError(
            "reduction=positives needs a truth of integer labels, the truth is "
            f"{'values' if task.kind == 'values' else 'a distribution'}"
        )


def loss_score(
    sums: NDArray[np.int64],
    voxels: NDArray[np.int64],
    task: Task,
    term_error: float,
    counts: Mapping[str, int] | None = None,
    divisor: int = 1,
) -> Score:
    """Return a loss over all voxels and over the voxels of each true class.

    Parameters
    ----------
    sums
        Exact sum of each group, (groups, limbs).
    voxels
        Voxels of each group, (groups,).
    task
        Its `reduction` tells mean, sum or positives.
    term_error
        How far one voxel's term can be off.
    counts
        Whole numbers to report beside the loss.
    divisor
        Terms that were summed for each voxel and are to be averaged.
    """
    totals = [exact.total(group) / divisor for group in sums]
    sizes = [Fraction(int(n)) for n in voxels]
    return reduced(totals, sizes, sizes, task, term_error / divisor * int(voxels.sum()), counts)


def reduced(
    totals: Sequence[Fraction],
    voxels: Sequence[Fraction],
    sizes: Sequence[Fraction],
    task: Task,
    error: float,
    counts: Mapping[str, int] | None = None,
) -> Score:
    """Return a loss from the exact sums of its groups; `loss_score` for one that is weighted.

    Parameters
    ----------
    totals
        Sum of each group.
    voxels
        Voxels of each group.
    sizes
        What each group adds to the number that a mean divides by: its voxels, or their weights.
    task
        Its `reduction` tells mean, sum or positives.
    error
        How far the sum of all totals can be off.
    counts
        Whole numbers to report beside the loss.
    """
    reduction = task.parameters.get("reduction", "mean")

    def over(size: Fraction) -> Fraction:
        return {"mean": size, "sum": Fraction(1), "positives": positives}[reduction]

    positives = Fraction(0)
    if task.hard_truth:
        background = task.classes.background
        labels = task.classes.values
        positives += sum(n for value, n in zip(labels, voxels, strict=True) if value != background)
    per_class = {}
    if task.hard_truth:
        per_class = {
            code: _divide(totals[code], over(sizes[code])) if voxels[code] else math.nan
            for code in range(len(totals))
        }
    whole = over(sum(sizes, Fraction(0)))
    if not any(voxels) or not whole:
        return Score(math.nan, per_class, math.nan, counts or {})
    value = _divide(sum(totals, Fraction(0)), whole)
    return Score(value, per_class, error / float(whole), counts or {})


def root(square: Score) -> Score:
    """Return the square root of a mean square, value, classes and bound."""
    value = math.sqrt(square.value)
    # |sqrt(a) - sqrt(b)| <= sqrt(|a - b|), and <= |a - b| / sqrt(a).
    bound = math.sqrt(square.error_bound)
    if value > 0:
        bound = min(bound, square.error_bound / value)
    per_class = {code: math.sqrt(number) for code, number in square.per_class.items()}
    return Score(value, per_class, bound + 2.0**-52 * value, square.counts)


def _divide(total: Fraction, size: Fraction) -> float:
    """Divide an exact total once, so that the result is the nearest float."""
    return float(total / size) if size else math.nan


def reference_loss(
    terms: NDArray[np.float64],
    truth: NDArray[Any],
    task: Task,
    sizes: NDArray[np.float64] | None = None,
) -> tuple[float, dict[int, float]]:
    """Return mean, sum or sum over positives of voxel terms, and of each true class, naively.

    A mean divides by the sum of `sizes`, one for each voxel, 1 if not given.
    """
    reduction = task.parameters.get("reduction", "mean")
    weights = np.ones(terms.shape) if sizes is None else sizes
    background = task.classes.background
    foreground = [code for code, v in enumerate(task.classes.values) if v != background]

    def reduce(part: NDArray[np.bool_]) -> float:
        total = math.fsum(terms[part])
        size = math.fsum(weights[part])
        if reduction == "sum":
            size = 1.0
        elif reduction == "positives":
            size = float(np.isin(truth, foreground).sum())
        return total / size if part.any() and size else math.nan

    per_class = {}
    if task.hard_truth:
        per_class = {code: reduce(truth == code) for code in range(len(task.classes))}
    return reduce(np.ones(terms.shape, np.bool_)), per_class


def weights_of(low: float, high: float) -> Callable[[Any], tuple[float, ...] | None]:
    """Return a converter to one number in [low, high] per class, or None, for a `Parameter`."""

    def convert(value: Any) -> tuple[float, ...] | None:
        if value is None or (isinstance(value, str) and value.lower() == "none"):
            return None
        parts = value.split(",") if isinstance(value, str) else value
        try:
            numbers = tuple(float(part) for part in parts)
        except (TypeError, ValueError):
            numbers = ()
        if not numbers or not all(low <= weight <= high for weight in numbers) or not any(numbers):
            raise ValueError(
                f"expected one weight from {low:g} to {high:g} per class, not all 0, or none"
            )
        return numbers

    return convert


def switch(value: Any) -> bool:
    """Convert to true or false, for a `Parameter`.

    Raises
    ------
    ValueError
        If it is neither.
    """
    words = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
    if isinstance(value, bool | np.bool_):
        return bool(value)
    if isinstance(value, str) and value.lower() in words:
        return words[value.lower()]
    raise ValueError("expected true or false")


def choice(*names: str) -> Callable[[Any], str]:
    """Return a converter to one of some names, for a `Parameter`."""

    def convert(value: Any) -> str:
        if value not in names:
            raise ValueError(f"expected one of {', '.join(names)}")
        return str(value)

    return convert


# The same bits on every machine, which the C library's functions do not promise.
@kernel
def log(x: float) -> float:
    """Return the natural logarithm of x > 0, within an ulp."""
    return vecmath.log(x)


@kernel
def power(x: float, y: float) -> float:
    """Return x to the power of y for x in [0, 1] and y >= 0, as `vecmath.power`."""
    return vecmath.power(x, y)


@kernel
def log_cosh(x: float) -> float:
    """Return log(cosh(x)) for x in [0, 1], within 2**-51."""
    return x + vecmath.log1p(vecmath.exp(-2.0 * x)) - 0.6931471805599453
