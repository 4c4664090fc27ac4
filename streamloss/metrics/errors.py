"""Sums of squared and absolute differences of plain values, exact to the last bit of each term."""

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from streamloss import exact
from streamloss._jit import kernel
from streamloss.losses import REDUCTION, loss_score, reference_loss, root
from streamloss.slab import Slab
from streamloss.statistic import Field, Metric, Score, Statistic
from streamloss.task import Task

TILE = 2048


class Errors(NamedTuple):
    """Sums over voxels.

    Attributes
    ----------
    voxels
        Number of voxels, (1,).
    squared, absolute
        Sums of (p - t)^2 and |p - t|.
    """

    voxels: NDArray[np.int64]
    squared: NDArray[np.int64]
    absolute: NDArray[np.int64]


def update(state: Errors, slab: Slab, task: Task) -> None:
    """Add the terms of a slab."""
    squared, absolute = task.asks("mse", "rmse"), task.asks("mae")
    _add(slab.soft_truth[0], slab.scores[0], squared, absolute, *state)


@kernel
def _add(
    truth: NDArray[np.float64],
    prediction: NDArray[np.float64],
    square: bool,
    magnitude: bool,
    voxels: NDArray[np.int64],
    squared: NDArray[np.int64],
    absolute: NDArray[np.int64],
) -> None:
    terms = np.empty(TILE)
    voxels[0] += truth.size
    for start in range(0, truth.size, TILE):
        t = truth[start : start + TILE]
        p = prediction[start : start + TILE]
        if magnitude:
            for i in range(t.size):
                terms[i] = abs(p[i] - t[i])
            exact.add_float_terms(absolute[0], terms[: t.size])
        if square:
            for i in range(t.size):
                d = p[i] - t[i]
                terms[i] = d * d
            exact.add_float_terms(squared[0], terms[: t.size])


def mse(state: Errors, task: Task) -> Score:
    """Return the mean or sum of (p - t)^2."""
    return _score(state.squared, state.voxels, task)


def rmse(state: Errors, task: Task) -> Score:
    """Return the square root of the mean of (p - t)^2."""
    mean = Task(**{**vars(task), "parameters": {}})
    return root(_score(state.squared, state.voxels, mean))


def mae(state: Errors, task: Task) -> Score:
    """Return the mean or sum of |p - t|."""
    return _score(state.absolute, state.voxels, task)


def _score(sums: NDArray[np.int64], voxels: NDArray[np.int64], task: Task) -> Score:
    """Bound the error by the rounding of the terms, which are positive: the sum is exact."""
    score = loss_score(sums, voxels, task, 0.0)
    return Score(score.value, error_bound=2.0**-51 * score.value)


def reference(
    truth: NDArray[Any], prediction: NDArray[Any], task: Task
) -> dict[str, tuple[float, dict[int, float]]]:
    """Return the three errors from whole arrays, spelled out with NumPy."""
    difference = prediction[0].astype(np.float64) - truth[0].astype(np.float64)
    mean = Task(**{**vars(task), "parameters": {}})
    return {
        "mse": reference_loss(difference**2, truth, task),
        "rmse": (math.sqrt(reference_loss(difference**2, truth, mean)[0]), {}),
        "mae": reference_loss(np.abs(difference), truth, task),
    }


def _metric(name: str, title: str, score: Any, formula: str, **facts: Any) -> Metric:
    return Metric(
        name=name,
        title=title,
        score=score,
        formula=f"{formula}, over voxels; t: true value, p: predicted value",
        source=f"scikit-learn {title.lower().replace(' ', '_')}",
        range=(0.0, math.inf),
        higher_is_better=False,
        kinds=("values",),
        default_for=("values",),
        empties="no voxel scored: undefined",
        symmetric=True,
        **facts,
    )


STATISTIC = Statistic(
    name="errors",
    state=Errors,
    fields={
        "voxels": Field((1,)),
        "squared": Field((1,), exact.FLOAT_LIMBS),
        "absolute": Field((1,), exact.FLOAT_LIMBS),
    },
    update=update,
    reference=reference,
    # The square of a larger difference would overflow a float64.
    score_limit=1e150,
    metrics=(
        _metric(
            "mse",
            "Mean squared error",
            mse,
            "mean of (p - t)^2, no root",
            parameters=(REDUCTION,),
        ),
        _metric("rmse", "Root mean squared error", rmse, "square root of the mean of (p - t)^2"),
        _metric("mae", "Mean absolute error", mae, "mean of |p - t|", parameters=(REDUCTION,)),
    ),
)
