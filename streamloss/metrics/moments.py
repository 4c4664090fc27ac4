"""Sums of probabilities, of their overlap with the truth, and of their errors.

The state holds exact sums of fixed-point terms in [0, 1]; the squared and absolute errors of
probabilities are read from it here, the overlap metrics in `soft_overlap`.
"""

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from streamloss import exact
from streamloss._jit import fused, inlined, kernel, use_wide_vectors
from streamloss.errors import InvalidInputError
from streamloss.losses import (
    REDUCTION,
    check_reduction,
    loss_score,
    reference_loss,
    root,
    switch,
)
from streamloss.slab import Slab
from streamloss.statistic import Field, Metric, Parameter, Score, Statistic
from streamloss.task import Task
from streamloss.words import count_equal, count_ones

TILE = 2048

_ZERO = np.float32(0.0)
_STEP = np.float32(2.0**-40)

_STEP_64 = 2.0**-40

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
        _add_soft(slab.soft_truth, slab.probabilities, overlap, squared, absolute, *state[:6])
    elif task.channels > 1:
        _add_hard(slab.truth, slab.probabilities, overlap, squared, absolute, *state[:6])
    else:
        _add_binary(slab.truth, slab.probabilities, overlap or absolute, squared, *state[:6])
    if task.parameters.get("denominator") == "squared":
        _add_squares(slab.probabilities, state.probability_squared)
        if task.soft_truth:
            _add_squares(slab.soft_truth, state.truth_squared)


@kernel
def _add_squares(rows: NDArray[Any], sums: NDArray[np.int64]) -> None:
    for k in range(rows.shape[0]):
        for start in range(0, rows.shape[1], TILE):
            row = rows[k, start : start + TILE]
            total = 0
            for i in range(row.size):
                x = np.float64(row[i])
                # As `_mass`: never nothing for x > 0.
                square = x * x
                least = _STEP_64 if x > 0.0 else 0.0
                total += exact.fixed(square if square > least else least)
            exact.add_fixed(sums[k], total)


@inlined
def _mass(p: Any) -> Any:
    """Return p, but a step of the grid at least for p > 0: else an empty class could seem one."""
    # In p's own type: twice as many float32 as float64 at a time.
    return p if p > _STEP else (_STEP if p > _ZERO else _ZERO)


@kernel
def _add_binary(
    truth: NDArray[Any],
    probabilities: NDArray[Any],
    linear: bool,
    squared: bool,
    voxels: NDArray[np.int64],
    probability_sum: NDArray[np.int64],
    truth_sum: NDArray[np.int64],
    overlap_sum: NDArray[np.int64],
    squared_sum: NDArray[np.int64],
    absolute_sum: NDArray[np.int64],
) -> None:
    use_wide_vectors()
    one = exact.fixed(1.0)
    for start in range(0, truth.size, TILE):
        codes = truth[start : start + TILE]
        row = probabilities[0, start : start + TILE]
        size = codes.size
        positives = count_ones(codes)
        # Tiles of one class, the usual ones of a segmentation, need no masks.
        mixed = 0 < positives < size
        voxels[0] += size - positives
        voxels[1] += positives
        exact.add_fixed(truth_sum[0], positives * one)
        if linear:
            total = 0
            inside = 0
            if mixed:
                for i in range(size):
                    units = exact.fixed_bits(_mass(row[i]))
                    total += units
                    inside += units if codes[i] == 1 else 0
            else:
                for i in range(size):
                    total += exact.fixed_bits(_mass(row[i]))
                inside = total if positives == size else 0
            total -= size * exact.ROUNDER_BITS
            inside -= positives * exact.ROUNDER_BITS
            exact.add_fixed(probability_sum[0], total)
            exact.add_fixed(overlap_sum[0], inside)
            # |p - y| is p where y = 0 and 1 - p where y = 1: nothing left to add up.
            exact.add_fixed(absolute_sum[0], total - inside)
            exact.add_fixed(absolute_sum[1], positives * one - inside)
        if squared:
            total = 0
            inside = 0
            if mixed:
                for i in range(size):
                    p = np.float64(row[i])
                    d = 1.0 - p if codes[i] == 1 else p
                    units = exact.fixed_bits(d * d)
                    total += units
                    inside += units if codes[i] == 1 else 0
            else:
                y = 1.0 if positives == size else 0.0
                for i in range(size):
                    d = y - np.float64(row[i])
                    total += exact.fixed_bits(d * d)
                inside = total if positives == size else 0
            exact.add_fixed_pair(squared_sum, size, positives, total, inside)


@kernel
def _add_hard(
    truth: NDArray[Any],
    probabilities: NDArray[Any],
    overlap: bool,
    squared: bool,
    absolute: bool,
    voxels: NDArray[np.int64],
    probability_sum: NDArray[np.int64],
    truth_sum: NDArray[np.int64],
    overlap_sum: NDArray[np.int64],
    squared_sum: NDArray[np.int64],
    absolute_sum: NDArray[np.int64],
) -> None:
    use_wide_vectors()
    one = exact.fixed(1.0)
    channels = probabilities.shape[0]
    squares = np.empty(TILE)
    sizes = np.empty(TILE)
    for start in range(0, truth.size, TILE):
        codes = truth[start : start + TILE]
        size = codes.size
        for k in range(channels):
            row = probabilities[k, start : start + TILE]
            found = count_equal(codes, k)
            voxels[k] += found
            exact.add_fixed(truth_sum[k], found * one)
            if overlap:
                total = 0
                inside = 0
                # Most tiles hold few of the classes, and need no mask for the others.
                if 0 < found < size:
                    for i in range(size):
                        units = exact.fixed_bits(_mass(row[i]))
                        total += units
                        inside += units if codes[i] == k else 0
                else:
                    for i in range(size):
                        total += exact.fixed_bits(_mass(row[i]))
                    inside = total if found == size else 0
                exact.add_fixed(probability_sum[k], total - size * exact.ROUNDER_BITS)
                exact.add_fixed(overlap_sum[k], inside - found * exact.ROUNDER_BITS)
            if squared:
                if k == 0:
                    squares[:size] = 0.0
                for i in range(size):
                    p = np.float64(row[i])
                    d = 1.0 - p if codes[i] == k else p
                    squares[i] = fused(d, d, squares[i])
            if absolute:
                if k == 0:
                    sizes[:size] = 0.0
                for i in range(size):
                    p = np.float64(row[i])
                    sizes[i] += 1.0 - p if codes[i] == k else p
        if squared:
            exact.add_fixed_by_class(squared_sum, codes, squares[:size], channels)
        if absolute:
            exact.add_fixed_by_class(absolute_sum, codes, sizes[:size], channels)


@kernel
def _add_soft(
    truth: NDArray[Any],
    probabilities: NDArray[Any],
    overlap: bool,
    squared: bool,
    absolute: bool,
    voxels: NDArray[np.int64],
    probability_sum: NDArray[np.int64],
    truth_sum: NDArray[np.int64],
    overlap_sum: NDArray[np.int64],
    squared_sum: NDArray[np.int64],
    absolute_sum: NDArray[np.int64],
) -> None:
    voxels[0] += probabilities.shape[1]
    for start in range(0, probabilities.shape[1], TILE):
        for k in range(probabilities.shape[0]):
            targets = truth[k, start : start + TILE]
            row = probabilities[k, start : start + TILE]
            if overlap:
                total = 0
                target = 0
                inside = 0
                for i in range(row.size):
                    total += exact.fixed(_mass(row[i]))
                    target += exact.fixed(_mass(targets[i]))
                    inside += exact.fixed(np.float64(row[i]) * np.float64(targets[i]))
                exact.add_fixed(probability_sum[k], total)
                exact.add_fixed(truth_sum[k], target)
                exact.add_fixed(overlap_sum[k], inside)
            if squared:
                total = 0
                for i in range(row.size):
                    d = np.float64(row[i]) - np.float64(targets[i])
                    total += exact.fixed(d * d)
                exact.add_fixed(squared_sum[0], total)
            if absolute:
                total = 0
                for i in range(row.size):
                    total += exact.fixed(abs(np.float64(row[i]) - np.float64(targets[i])))
                exact.add_fixed(absolute_sum[0], total)


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
