"""What every loss shares: reductions over voxels and true classes, and their error bounds."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamloss import exact
from streamloss.statistic import Parameter, Score
from streamloss.task import Task


def _reduction(value: Any) -> str:
    if value not in ("mean", "sum"):
        raise ValueError("expected mean or sum")
    return str(value)


REDUCTION = Parameter(
    "reduction", "mean", _reduction, "mean or sum of the losses over voxels [default: mean]"
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
        Its `reduction` tells mean or sum.
    term_error
        How far one voxel's term can be off.
    counts
        Whole numbers to report beside the loss.
    divisor
        Terms that were summed for each voxel and are to be averaged.
    """
    totals = [exact.total(group) for group in sums]
    sizes = [int(n) for n in voxels]
    per_class = {}
    if task.hard_truth:
        per_class = {
            code: _reduce(totals[code], sizes[code], task, divisor) for code in range(len(sizes))
        }
    size = sum(sizes)
    error = term_error * (size if task.parameters.get("reduction") == "sum" else 1)
    return Score(
        _reduce(sum(totals), size, task, divisor),
        per_class,
        error / divisor if size else math.nan,
        counts or {},
    )


def root(square: Score) -> Score:
    """Return the square root of a mean square, value, classes and bound."""
    value = math.sqrt(square.value)
    # |sqrt(a) - sqrt(b)| <= sqrt(|a - b|), and <= |a - b| / sqrt(a).
    bound = math.sqrt(square.error_bound)
    if value > 0:
        bound = min(bound, square.error_bound / value)
    per_class = {code: math.sqrt(number) for code, number in square.per_class.items()}
    return Score(value, per_class, bound + 2.0**-52 * value, square.counts)


def _reduce(total: Any, size: int, task: Task, divisor: int) -> float:
    """Divide an exact total once, so that the result is the nearest float."""
    if not size:
        return math.nan
    return float(total / (divisor * (1 if task.parameters.get("reduction") == "sum" else size)))


def reference_loss(
    terms: NDArray[np.float64], truth: NDArray[Any], task: Task
) -> tuple[float, dict[int, float]]:
    """Return mean or sum of voxel terms, and of those of each true class, naively."""

    def reduce(part: NDArray[np.float64]) -> float:
        if not part.size:
            return math.nan
        total = math.fsum(part)
        return total if task.parameters.get("reduction") == "sum" else total / part.size

    per_class = {}
    if task.hard_truth:
        per_class = {code: reduce(terms[truth == code]) for code in range(len(task.classes))}
    return reduce(terms), per_class
