"""Sums of differences of plain values: squared, absolute, Huber; exact to each term's last bit."""

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from streamloss import exact, float_sums
from streamloss._jit import kernel
from streamloss.errors import InvalidInputError
from streamloss.losses import (
    REDUCTION,
    check_reduction,
    log,
    loss_score,
    reference_loss,
    root,
)
from streamloss.slab import Slab
from streamloss.statistic import Field, Metric, Parameter, Score, Statistic, number
from streamloss.task import Task

TILE = 2048

_DECIBELS = 10.0 / math.log(10.0)


class Errors(NamedTuple):
    """Sums over voxels.

    Attributes
    ----------
    voxels
        Number of voxels, (1,).
    squared, absolute
        Sums of (p - t)^2 and |p - t|.
    huber
        Sum of the Huber loss; zero unless it was asked for.
    """

    voxels: NDArray[np.int64]
    squared: NDArray[np.int64]
    absolute: NDArray[np.int64]
    huber: NDArray[np.int64]


def update(state: Errors, slab: Slab, task: Task) -> None:
    """Add the terms of a slab."""
    squared, absolute = task.asks("mse", "rmse", "psnr"), task.asks("mae")
    truth, prediction = slab.soft_truth[0], slab.scores[0]
    _add(truth, prediction, squared, absolute, *state[:3])
    if task.asks("huber_loss"):
        _add_huber(truth, prediction, task.parameters["delta"], state.huber)


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
            float_sums.add_float_terms(absolute[0], terms[: t.size])
        if square:
            for i in range(t.size):
                d = p[i] - t[i]
                terms[i] = d * d
            float_sums.add_float_terms(squared[0], terms[: t.size])


@kernel
def _add_huber(
    truth: NDArray[np.float64],
    prediction: NDArray[np.float64],
    delta: float,
    huber: NDArray[np.int64],
) -> None:
    terms = np.empty(TILE)
    for start in range(0, truth.size, TILE):
        t = truth[start : start + TILE]
        p = prediction[start : start + TILE]
        for i in range(t.size):
            d = abs(p[i] - t[i])
            terms[i] = 0.5 * d * d if d <= delta else delta * (d - 0.5 * delta)
        float_sums.add_float_terms(huber[0], terms[: t.size])


def validate(task: Task) -> None:
    """Refuse a PSNR of numbers whose range is not told, and a mean over positives."""
    check_reduction(task)
    if task.asks("psnr") and task.parameters["data_range"] is None:
        raise InvalidInputError(
            "psnr needs data_range, the difference of the largest and the smallest possible value"
        )


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


def huber_loss(state: Errors, task: Task) -> Score:
    """Return the mean or sum of the Huber loss."""
    # The linear branch takes delta / 2 from a difference of at least delta: a relative error
    # of the difference at most doubles.
    score = loss_score(state.huber, state.voxels, task, 0.0)
    return Score(score.value, error_bound=2.0**-50 * score.value)


def psnr(state: Errors, task: Task) -> Score:
    """Return 10 log10(data_range^2 / mse)."""
    mean = mse(state, Task(**{**vars(task), "parameters": {}})).value
    if math.isnan(mean) or mean == 0.0:
        return Score(math.nan, error_bound=math.nan)
    # Two logarithms: the square of the range may overflow.
    value = _DECIBELS * (2.0 * log(task.parameters["data_range"]) - log(mean))
    size = 2.0 * abs(log(task.parameters["data_range"])) + abs(log(mean)) + 1.0
    return Score(value, error_bound=_DECIBELS * size * 2.0**-49)


def _score(sums: NDArray[np.int64], voxels: NDArray[np.int64], task: Task) -> Score:
    """Bound the error by the rounding of the terms, which are positive: the sum is exact."""
    score = loss_score(sums, voxels, task, 0.0)
    return Score(score.value, error_bound=2.0**-51 * score.value)


def reference(
    truth: NDArray[Any], prediction: NDArray[Any], task: Task
) -> dict[str, tuple[float, dict[int, float]]]:
    """Return every metric from whole arrays, spelled out with NumPy."""
    difference = prediction[0].astype(np.float64) - truth[0].astype(np.float64)
    mean = Task(**{**vars(task), "parameters": {}})
    delta = task.parameters.get("delta", 1.0)
    size = np.abs(difference)
    huber = np.where(size <= delta, 0.5 * size**2, delta * (size - 0.5 * delta))
    square = reference_loss(difference**2, truth, mean)[0]
    data_range = task.parameters.get("data_range") or 1.0
    ratio = math.log10(square) if square > 0 else math.nan
    return {
        "huber_loss": reference_loss(huber, truth, task),
        "psnr": (20 * math.log10(data_range) - 10 * ratio, {}),
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
        source=facts.pop("source", f"scikit-learn {title.lower().replace(' ', '_')}"),
        range=facts.pop("range", (0.0, math.inf)),
        higher_is_better=facts.pop("higher_is_better", False),
        kinds=("values",),
        empties=facts.pop("empties", "no voxel scored: undefined"),
        symmetric=True,
        invariances=frozenset({"duplication"}),
        **facts,
    )


def _data_range(value: Any) -> float | None:
    if value is None:
        return None
    if value == "none":
        return None
    return number(1e-150, 1e150)(value)


STATISTIC = Statistic(
    name="errors",
    state=Errors,
    fields={
        "voxels": Field((1,)),
        "squared": Field((1,), exact.FLOAT_LIMBS),
        "absolute": Field((1,), exact.FLOAT_LIMBS),
        "huber": Field((1,), exact.FLOAT_LIMBS),
    },
    update=update,
    reference=reference,
    validate=validate,
    # The square of a larger difference would overflow a float64.
    score_limit=1e150,
    metrics=(
        _metric(
            "mse",
            "Mean squared error",
            mse,
            "mean of (p - t)^2, no root",
            default_for=("values",),
            parameters=(REDUCTION,),
        ),
        _metric(
            "rmse",
            "Root mean squared error",
            rmse,
            "square root of the mean of (p - t)^2",
            default_for=("values",),
        ),
        _metric(
            "mae",
            "Mean absolute error",
            mae,
            "mean of |p - t|",
            default_for=("values",),
            parameters=(REDUCTION,),
        ),
        _metric(
            "huber_loss",
            "Huber loss",
            huber_loss,
            "mean of d^2 / 2 where d = |p - t| is at most delta, else of delta (d - delta / 2)",
            source="Huber 1964, doi:10.1214/aoms/1177703732; torch HuberLoss",
            differs="torch SmoothL1Loss divides it by its beta, our delta",
            parameters=(
                Parameter(
                    "delta",
                    1.0,
                    number(1e-150, 1e150),
                    "difference from which the Huber loss is linear [default: 1]",
                ),
                REDUCTION,
            ),
        ),
        _metric(
            "psnr",
            "Peak signal-to-noise ratio",
            psnr,
            "10 log10(data_range^2 / mean of (p - t)^2)",
            source="torchmetrics peak_signal_noise_ratio",
            range=(-math.inf, math.inf),
            higher_is_better=True,
            unit="dB",
            empties="no voxel scored, or no error at all (infinite): undefined",
            differs="torchmetrics and scikit-image give infinity where there is no error",
            example={"data_range": 3.0},
            parameters=(
                Parameter(
                    "data_range",
                    None,
                    _data_range,
                    "largest less smallest possible value, for psnr, which needs it",
                ),
            ),
        ),
    ),
)
