"""Sizes of classes in truth and prediction, and overlap weighted by size.

Read from the confusion matrix; volumes are in cubic millimetres where the spacing is known.
"""

import math
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamloss.averages import OVER_CLASSES, Ends
from streamloss.metrics.class_counts import ClassCounts, Confusion, one_against_rest
from streamloss.metrics.confusion import (
    KINDS,
    OF_CLASSES,
    OF_FOREGROUND,
    SYMBOLS,
    class_metric,
    dice,
    mean_of,
    predicted_codes,
    ratio,
    reference_by_class,
)
from streamloss.statistic import Metric, Readings, Score
from streamloss.task import Task

_SHORT = {"millimeter": "mm", "micrometer": "µm", "nanometer": "nm", "centimeter": "cm"}


def volume_similarity(c: ClassCounts, task: Task) -> float:
    """Return 1 - |FN - FP| / (2TP + FP + FN), NaN if the class is in neither."""
    both = 2 * c.true_positives + c.false_positives + c.false_negatives
    return ratio(both - abs(c.false_negatives - c.false_positives), both)


def absolute_volume_difference(c: ClassCounts, task: Task) -> float:
    """Return |FP - FN| times the volume of a voxel; 0 if the class is in neither."""
    voxel = math.prod((Fraction(size) for size in task.spacing or ()), start=Fraction(1))
    return float(abs(c.false_positives - c.false_negatives) * voxel)


def relative_volume_difference(c: ClassCounts, task: Task) -> float:
    """Return (FP - FN) / (TP + FN), NaN if the class is not in the truth."""
    return ratio(c.false_positives - c.false_negatives, c.true_positives + c.false_negatives)


def generalized_dice(state: Confusion, task: Task) -> Score:
    """Return 2 sum_k w_k TP_k / sum_k w_k (2TP_k + FP_k + FN_k), w_k = 1 / true voxels^2."""
    classes = one_against_rest(state)
    chosen = [classes[code] for code in task.classes.scored]
    sizes = [c.true_positives + c.false_negatives for c in chosen]
    known = [Fraction(1, size * size) for size in sizes if size]
    # A class that is not in the truth weighs as much as the rarest one that is.
    rarest = max(known, default=Fraction(1))
    weights = [Fraction(1, size * size) if size else rarest for size in sizes]
    both = sum((w * c.true_positives for w, c in zip(weights, chosen, strict=True)), Fraction(0))
    wrong = sum(
        (w * (c.false_positives + c.false_negatives) for w, c in zip(weights, chosen, strict=True)),
        Fraction(0),
    )
    return Score(ratio(2 * both, 2 * both + wrong))


def volume_unit(task: Task) -> str:
    """Return the unit of a volume: cubic, or voxels if the spacing is unknown."""
    if task.spacing is None:
        return "voxels"
    # A spacing without a unit is in millimetres, as in NIfTI, ITK and nnU-Net.
    length = task.spacing_unit or "millimeter"
    exponents = {1: "", 2: "²", 3: "³"}
    return _SHORT.get(length, length) + exponents.get(len(task.spacing), f"^{len(task.spacing)}")


def reference(
    truth: NDArray[Any], prediction: NDArray[Any], task: Task
) -> dict[str, tuple[float, dict[int, float]]]:
    """Return every metric here from whole arrays, by comparing masks class by class."""

    def formulas(tp: Any, fp: Any, fn: Any, tn: Any) -> dict[str, Any]:
        return {
            "volume_similarity": 1 - abs(fn - fp) / (2 * tp + fp + fn),
            "absolute_volume_difference": abs(fp - fn) * np.prod(task.spacing or (1.0,)),
            "relative_volume_difference": (fp - fn) / (tp + fn) if tp + fn else math.nan,
        }

    results = reference_by_class(formulas, {}, truth, prediction, task)
    codes = np.array(task.classes.scored)[:, np.newaxis]
    t, p = truth == codes, predicted_codes(prediction, task) == codes
    sizes = t.sum(axis=1).astype(np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        weights = 1 / sizes**2
        top = weights[np.isfinite(weights)].max(initial=0.0)
        weights = np.where(np.isfinite(weights), weights, top if top > 0 else 1.0)
        value = 2 * (weights * (t & p).sum(1)).sum() / (weights * (sizes + p.sum(1))).sum()
    results["generalized_dice"] = float(value), {}
    return results


def _difference(
    name: str, title: str, formula: Any, text: str, source: str, **facts: Any
) -> Metric:
    return Metric(
        name=name,
        title=title,
        score=mean_of(formula, facts.pop("ends"), facts.pop("unit_of", None)),
        of_counts=formula,
        formula=f"{text}; {SYMBOLS}; mean over the scored classes that are defined",
        source=source,
        kinds=KINDS,
        parameters=OVER_CLASSES,
        **facts,
    )


READINGS = Readings(
    statistic="confusion",
    reference=reference,
    metrics=(
        class_metric(
            "volume_similarity",
            "Volume similarity",
            volume_similarity,
            "1 - |FN - FP| / (2TP + FP + FN)",
            "Taha and Hanbury 2015, doi:10.1186/s12880-015-0068-x",
            symmetric=True,
            differs="SimpleITK's is signed, and 2 (P - T) / (P + T)",
        ),
        _difference(
            "absolute_volume_difference",
            "Absolute volume difference",
            absolute_volume_difference,
            "|FP - FN| v; v: volume of a voxel, in mm³ if the spacing is known, else 1",
            "MetricsReloaded vol_diff, without its division",
            ends=Ends(best=0.0, worst=math.nan),
            unit_of=volume_unit,
            range=(0.0, math.inf),
            higher_is_better=False,
            symmetric=True,
            unit="voxels",
            empties="class in neither: 0",
            invariances=OF_CLASSES - {"duplication"} | {"true_negatives"},
        ),
        _difference(
            "relative_volume_difference",
            "Relative volume difference",
            relative_volume_difference,
            "(FP - FN) / (TP + FN), negative where the prediction is too small",
            "medpy ravd",
            ends=Ends(best=0.0, worst=math.nan),
            range=(-1.0, math.inf),
            higher_is_better=None,
            empties="class not in the truth: undefined",
            invariances=OF_FOREGROUND,
            differs="MetricsReloaded's rel_vol_error is in percent, and 0 or 100 where the truth "
            "is empty; its vol_diff has no sign",
        ),
        Metric(
            name="generalized_dice",
            title="Generalized Dice coefficient",
            score=generalized_dice,
            of_counts=dice,
            formula="2 sum_k w_k TP_k / sum_k w_k (2TP_k + FP_k + FN_k) over the scored classes; "
            f"w_k = 1 / (TP_k + FN_k)^2; {SYMBOLS}",
            source="Crum et al. 2006, doi:10.1109/TMI.2006.880587; Sudre et al. 2017, "
            "doi:10.1007/978-3-319-67558-9_28; MONAI GeneralizedDiceScore(sum_over_classes=True)",
            range=(0.0, 1.0),
            higher_is_better=True,
            kinds=KINDS,
            empties="a class not in the truth weighs as much as the rarest that is; all scored "
            "classes in neither: undefined",
            invariances=OF_FOREGROUND,
            differs="MONAI gives 1 where all classes are in neither",
        ),
    ),
)
