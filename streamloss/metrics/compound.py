"""Losses that are sums of two others.

Each is made from the scores of its parts, which may be read from different statistics.
"""

import math
from collections.abc import Mapping
from typing import Any

from numpy.typing import NDArray

from streamloss.metrics import cross_entropy, soft_overlap
from streamloss.statistic import Metric, Parameter, Readings, Score, number
from streamloss.task import Task


def dice_ce_loss(parts: Mapping[str, Score], task: Task) -> Score:
    """Return the weighted sum of soft Dice loss and cross entropy."""
    dice, cross = parts["soft_dice_loss"], parts["cross_entropy"]
    of_dice, of_cross = task.parameters["lambda_dice"], task.parameters["lambda_ce"]
    value = of_dice * dice.value + of_cross * cross.value
    error = of_dice * dice.error_bound + of_cross * cross.error_bound + 2.0**-51 * abs(value)
    return Score(value, error_bound=error, counts={**dice.counts, **cross.counts})


def reference(
    truth: NDArray[Any], prediction: NDArray[Any], task: Task
) -> dict[str, tuple[float, dict[int, float]]]:
    """Return the losses from whole arrays, spelled out with NumPy."""
    if not task.asks("dice_ce_loss"):
        return {}
    parameters = {**task.parameters, "reduction": "mean"}
    mean = Task(**{**vars(task), "parameters": parameters})
    cross = cross_entropy.reference(truth, prediction, mean)["cross_entropy"][0]
    dice = soft_overlap.reference(truth, prediction, mean)["soft_dice_loss"][0]
    value = parameters["lambda_dice"] * dice + parameters["lambda_ce"] * cross
    return {"dice_ce_loss": (value, {})}


_LAMBDAS = (
    Parameter("lambda_dice", 1.0, number(0.0, 1e6), "weight of Dice in dice_ce_loss [default: 1]"),
    Parameter(
        "lambda_ce", 1.0, number(0.0, 1e6), "weight of cross entropy in dice_ce_loss [default: 1]"
    ),
)

READINGS = Readings(
    statistic="moments",
    reference=reference,
    metrics=(
        Metric(
            name="dice_ce_loss",
            title="Dice and cross entropy loss",
            score=dice_ce_loss,
            formula="lambda_dice soft_dice_loss + lambda_ce cross_entropy, each with the options "
            "given for it, the cross entropy as a mean over voxels",
            source="MONAI DiceCELoss",
            range=(0.0, math.inf),
            higher_is_better=False,
            kinds=("probabilities", "logits"),
            empties="no class or no voxel that is defined: undefined",
            soft_truth=True,
            parts=("soft_dice_loss", "cross_entropy"),
            parameters=(
                *_LAMBDAS,
                *soft_overlap.OF_DICE,
                cross_entropy.EPS,
                *cross_entropy.WEIGHTS,
            ),
            differs="MONAI adds 1e-5 to numerator and denominator of Dice, its mean includes the "
            "background, and its class weights enter Dice too",
            conventions={"monai": soft_overlap.MONAI},
            invariances=frozenset({"class_permutation", "duplication"}),
        ),
    ),
)
