"""Generalized soft Dice: one ratio of sums over classes, each weighted by its size.

Read from the sums of `moments`, as the overlaps of single classes in `soft_overlap`.
"""

import math
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamloss.losses import choice
from streamloss.metrics.moments import Moments
from streamloss.metrics.soft_overlap import (
    SMOOTHING,
    SUM_ERROR,
    SYMBOLS,
    divided,
    loss_of,
    overlap_metric,
    sums_of_classes,
    whole_distributions,
)
from streamloss.statistic import Parameter, Readings, Score
from streamloss.task import Task


def generalized_soft_dice(state: Moments, task: Task) -> Score:
    """Return 2 sum_k w_k sum(p y) / sum_k w_k (sum p + sum y) over the scored classes."""
    error = SUM_ERROR * int(state.voxels.sum())
    exponent = {"square": 2, "simple": 1, "uniform": 0}[task.parameters["volume_weights"]]
    every = sums_of_classes(state, task, squared=False)
    sums = [every[code] for code in task.classes.scored]
    weights = [1 / each.truth**exponent if each.truth else None for each in sums]
    # A class that the truth lacks gets the largest of the other weights, as in MONAI.
    largest = max((w for w in weights if w is not None), default=Fraction(not exponent))
    top, bottom = Fraction(task.parameters["smooth_nr"]), Fraction(task.parameters["smooth_dr"])
    top_error = bottom_error = Fraction(0)
    # The truth of labels is counted, so that weights are exact; of a distribution, they are not.
    spread = Fraction(0)
    if task.soft_truth and exponent:
        for each in sums:
            if each.truth:
                low = each.truth - error
                spread = max(
                    spread, (each.truth / low) ** exponent - 1 if low > 0 else Fraction(2**60)
                )
    for each, own in zip(sums, weights, strict=True):
        weight = (largest if own is None else own) if exponent else Fraction(1)
        whole = each.probability + each.truth
        top += 2 * weight * each.overlap
        bottom += weight * whole
        top_error += 2 * weight * (spread * each.overlap + (1 + spread) * error)
        bottom_error += weight * (spread * whole + (1 + spread) * 2 * error)
    value, bound = divided(top, bottom, top_error, bottom_error)
    return Score(value, error_bound=bound)


def reference(
    truth: NDArray[Any], prediction: NDArray[Any], task: Task
) -> dict[str, tuple[float, dict[int, float]]]:
    """Return both metrics from whole arrays, spelled out with NumPy."""
    if not task.asks("generalized_soft_dice", "generalized_soft_dice_loss"):
        return {}
    p, y = whole_distributions(truth, prediction, task)
    nr, dr = task.parameters["smooth_nr"], task.parameters["smooth_dr"]
    scored = list(task.classes.scored)
    sizes = y[scored].sum(axis=1)
    name = task.parameters["volume_weights"]
    exponent = {"square": 2.0, "simple": 1.0, "uniform": 0.0}[name]
    known = np.where(sizes > 0, sizes, 1.0) ** -exponent
    largest = max(known[sizes > 0], default=0.0)
    weights = np.where(sizes > 0, known, largest) if exponent else np.ones(len(sizes))
    top = 2 * np.sum(weights * (p * y)[scored].sum(axis=1)) + nr
    bottom = np.sum(weights * (p + y)[scored].sum(axis=1)) + dr
    value = float(top / bottom) if bottom > 0 else math.nan
    return {"generalized_soft_dice": (value, {}), "generalized_soft_dice_loss": (1 - value, {})}


_VOLUME_WEIGHTS = Parameter(
    "volume_weights",
    "square",
    choice("square", "simple", "uniform"),
    "weight of a class in the generalized soft Dice: square (1 / size^2), simple (1 / size) or "
    "uniform (1) [default: square]",
)

READINGS = Readings(
    statistic="moments",
    reference=reference,
    metrics=(
        overlap_metric(
            "generalized_soft_dice",
            "Generalized soft Dice",
            generalized_soft_dice,
            "2 sum_k w_k sum(p y) / sum_k w_k (sum p + sum y), k: the scored classes, w_k: 1 / "
            "(sum y)^2 or as volume_weights says, the largest w where a class has no truth"
            f"{SYMBOLS}",
            source="Sudre et al. 2017, arXiv:1707.03237; MONAI GeneralizedDiceLoss",
            higher_is_better=True,
            parameters=(*SMOOTHING, _VOLUME_WEIGHTS),
        ),
        overlap_metric(
            "generalized_soft_dice_loss",
            "Generalized soft Dice loss",
            loss_of(generalized_soft_dice),
            "1 - 2 sum_k w_k sum(p y) / sum_k w_k (sum p + sum y), k: the scored classes, w_k: 1 "
            "/ (sum y)^2 or as volume_weights says, the largest w where a class has no truth"
            f"{SYMBOLS}",
            source="Sudre et al. 2017, arXiv:1707.03237; MONAI GeneralizedDiceLoss",
            parameters=(*SMOOTHING, _VOLUME_WEIGHTS),
        ),
    ),
)
