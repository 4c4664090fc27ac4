"""Sums of probabilities, of their overlap with the truth, and of their errors.

The state holds exact sums of fixed-point terms in [0, 1], which the kernels of `probability_sums`
fill; the squared and absolute errors of probabilities are read from it here, the overlap metrics
in `soft_overlap`.
"""

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from streamloss import exact
from streamloss.errors import InvalidInputError
from streamloss.losses import (
    REDUCTION,
    check_reduction,
    loss_score,
    reference_loss,
    root,
    switch,
)
from streamloss.metrics.probability_sums import add_binary, add_hard, add_soft, add_squares
from streamloss.slab import Slab
from streamloss.statistic import Field, Metric, Parameter, Score, Statistic
from streamloss.task import Task

OVERLAP = (
    *("soft_dice", "soft_dice_loss", "soft_iou", "log_cosh_dice_loss", "dice_ce_loss"),
    *("tversky_index", "tversky_loss", "focal_tversky_loss"),
    *("generalized_soft_dice", "generalized_soft_dice_loss"),
)
"""Metrics that are read from the sums of p, y and p y."""


class Moments(NamedTuple):
    """Sums over voxels; p is the probability and y the truth of a channel.

    Attributes
    ----------
    voxels
        Voxels of each true class, or of all.
    probability, truth, overlap
        Sums of p, y and p y of each channel.
    squared, absolute
        Sums over channels of (p - y)^2 and |p - y|, by true class or of all.
    probability_squared, truth_squared
        Sums of p^2, and of y^2 where the truth is not labels, of each channel; zero unless
        asked for.
    """

    voxels: NDArray[np.int64]
    probability: NDArray[np.int64]
    truth: NDArray[np.int64]
    overlap: NDArray[np.int64]
    squared: NDArray[np.int64]
    absolute: NDArray[np.int64]
    probability_squared: NDArray[np.int64]
    truth_squared: NDArray[np.int64]


def update(state: Moments, slab: Slab, task: Task) -> None:
    """Add the terms of a slab."""
    overlap = task.asks(*OVERLAP)
    squared = task.asks("mse", "rmse", "brier_score")
    absolute = task.asks("mae")
    if task.soft_truth:
        add_soft(slab.soft_truth, slab.probabilities, overlap, squared, absolute, *state[:6])
    elif task.channels > 1:
        add_hard(slab.truth, slab.probabilities, overlap, squared, absolute, *state[:6])
    else:
        add_binary(slab.truth, slab.probabilities, overlap or absolute, squared, *state[:6])
    if task.parameters.get("denominator") == "squared":
        add_squares(slab.probabilities, state.probability_squared)
        if task.soft_truth:
            add_squares(slab.soft_truth, state.truth_squared)


def validate(task: Task) -> None:
    """Refuse a reduction that the truth does not allow, and a smoothing that lifts a score past 1.

    Raises
    ------
    InvalidInputError
        If there is one.
    """
    check_reduction(task)
    numerator = task.parameters.get("smooth_nr", 0.0)
    denominator = task.parameters.get("smooth_dr", 0.0)
    if numerator > denominator:
        raise InvalidInputError(
            f"smooth_nr must not be larger than smooth_dr, or overlaps would exceed 1: got "
            f"{numerator:g} and {denominator:g}"
        )


def mse(state: Moments, task: Task) -> Score:
    """Return the mean or sum of (p - y)^2."""
    return loss_score(state.squared, state.voxels, task, _term_error(task), divisor=_divisor(task))


def rmse(state: Moments, task: Task) -> Score:
    """Return the square root of the mean of (p - y)^2."""
    mean = Task(**{**vars(task), "parameters": {}})
    return root(
        loss_score(state.squared, state.voxels, mean, _term_error(task), divisor=_divisor(task))
    )


def mae(state: Moments, task: Task) -> Score:
    """Return the mean or sum of |p - y|."""
    return loss_score(state.absolute, state.voxels, task, _term_error(task), divisor=_divisor(task))


def brier_score(state: Moments, task: Task) -> Score:
    """Return the mean or sum of the squared errors of all classes of a voxel, or of half of it."""
    halved = task.parameters["scale_by_half"]
    halved = task.channels < 3 if halved == "auto" else halved
    # One channel stands for two classes of equal errors: its sum is half of theirs already.
    factor = (1.0 if halved else 2.0) if task.channels == 1 else (0.5 if halved else 1.0)
    score = loss_score(state.squared, state.voxels, task, _term_error(task))
    per_class = {code: factor * number for code, number in score.per_class.items()}
    return Score(factor * score.value, per_class, factor * score.error_bound, score.counts)


def _divisor(task: Task) -> int:
    return max(task.channels, 1)


def _term_error(task: Task) -> float:
    """Bound the rounding of one voxel's term, summed over channels."""
    return max(task.channels, 1) * (2 * exact.FIXED_ROUNDING + 2.0**-50)


def reference(
    truth: NDArray[Any], prediction: NDArray[Any], task: Task
) -> dict[str, tuple[float, dict[int, float]]]:
    """Return every metric from whole arrays, spelled out with NumPy."""
    p = prediction.astype(np.float64)
    if task.kind == "labels":
        p = p[np.newaxis]
    elif task.kind == "logits":
        e = np.exp(p - p.max(axis=0)) if task.channels > 1 else np.exp(-np.abs(p))
        p = e / e.sum(axis=0) if task.channels > 1 else np.where(p >= 0, 1, e) / (1 + e)
    if task.hard_truth:
        codes = np.arange(len(task.classes))[:, np.newaxis]
        y = (truth == (codes if task.channels > 1 else 1)).astype(np.float64)
        y = np.atleast_2d(y)
    else:
        y = truth.astype(np.float64)
    results = {
        "mse": reference_loss(np.mean((p - y) ** 2, axis=0), truth, task),
        "mae": reference_loss(np.mean(np.abs(p - y), axis=0), truth, task),
    }
    mean = Task(**{**vars(task), "parameters": {}})
    value, per_class = reference_loss(np.mean((p - y) ** 2, axis=0), truth, mean)
    results["rmse"] = math.sqrt(value), {c: math.sqrt(n) for c, n in per_class.items()}
    halved = task.parameters.get("scale_by_half", "auto")
    halved = task.channels < 3 if halved == "auto" else halved
    both = 2 if task.channels == 1 else 1
    terms = both * np.sum((p - y) ** 2, axis=0) / (2 if halved else 1)
    results["brier_score"] = reference_loss(terms, truth, task)
    return results


def _error_metric(name: str, title: str, score: Any, formula: str, **facts: Any) -> Metric:
    return Metric(
        name=name,
        title=title,
        score=score,
        formula=f"{formula}, over voxels and channels; p: probability, or 0/1 label; y: truth",
        range=(0.0, math.inf) if "parameters" in facts else (0.0, 1.0),
        higher_is_better=False,
        kinds=("probabilities", "labels"),
        empties="no voxel scored: undefined",
        soft_truth=True,
        zero_one_labels=True,
        invariances=frozenset({"class_permutation", "duplication"}),
        **facts,
    )


def _scale_by_half(value: Any) -> bool | str:
    return "auto" if value == "auto" else switch(value)


STATISTIC = Statistic(
    name="moments",
    state=Moments,
    fields={
        "voxels": Field(("truth_group",)),
        "probability": Field(("channel",), exact.FIXED_LIMBS),
        "truth": Field(("channel",), exact.FIXED_LIMBS),
        "overlap": Field(("channel",), exact.FIXED_LIMBS),
        "squared": Field(("truth_group",), exact.FIXED_LIMBS),
        "absolute": Field(("truth_group",), exact.FIXED_LIMBS),
        "probability_squared": Field(("channel",), exact.FIXED_LIMBS),
        "truth_squared": Field(("channel",), exact.FIXED_LIMBS),
    },
    update=update,
    reference=reference,
    validate=validate,
    score_limit=2.0**16,
    metrics=(
        Metric(
            name="brier_score",
            title="Brier score",
            score=brier_score,
            formula="sum over classes k of (p_k - y_k)^2, mean over voxels, 0 to 2 where p and y "
            "sum to 1; halved for two classes, so that it is the mean of (p - y)^2 for one "
            "channel; p: probability, y: true distribution, one-hot for labels",
            source="Brier 1950; scikit-learn brier_score_loss",
            range=(0.0, math.inf),
            higher_is_better=False,
            kinds=("probabilities", "logits"),
            empties="no voxel scored: undefined",
            soft_truth=True,
            parameters=(
                Parameter(
                    "scale_by_half",
                    "auto",
                    _scale_by_half,
                    "true, false or auto: whether the Brier score is halved [default: auto, for "
                    "two classes]",
                ),
                REDUCTION,
            ),
            invariances=frozenset({"class_permutation", "duplication"}),
        ),
        _error_metric(
            "mse",
            "Mean squared error",
            mse,
            "mean of (p - y)^2, no root",
            source="scikit-learn mean_squared_error",
            default_for=("probabilities",),
            parameters=(REDUCTION,),
        ),
        _error_metric(
            "rmse",
            "Root mean squared error",
            rmse,
            "square root of the mean of (p - y)^2",
            source="scikit-learn root_mean_squared_error",
        ),
        _error_metric(
            "mae",
            "Mean absolute error",
            mae,
            "mean of |p - y|",
            source="scikit-learn mean_absolute_error",
            parameters=(REDUCTION,),
        ),
    ),
)
