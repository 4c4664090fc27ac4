"""Rates of one class against the rest, read from the confusion matrix.

Each is a formula of four counts, in integers until its last division.
"""

import math
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamloss.averages import Ends
from streamloss.metrics.class_counts import ClassCounts
from streamloss.metrics.confusion import (
    OF_CLASSES,
    OF_FOREGROUND,
    OF_RATES,
    UNIT_LOSS,
    class_metric,
    ratio,
    reference_by_class,
)
from streamloss.statistic import Parameter, Readings, number
from streamloss.task import Task


def specificity(c: ClassCounts, task: Task) -> float:
    """Return TN / (TN + FP), NaN if every voxel is of the class."""
    return ratio(c.true_negatives, c.true_negatives + c.false_positives)


def negative_predictive_value(c: ClassCounts, task: Task) -> float:
    """Return TN / (TN + FN), NaN if every voxel is predicted as the class."""
    return ratio(c.true_negatives, c.true_negatives + c.false_negatives)


def false_positive_rate(c: ClassCounts, task: Task) -> float:
    """Return FP / (FP + TN), NaN if every voxel is of the class."""
    return ratio(c.false_positives, c.false_positives + c.true_negatives)


def false_negative_rate(c: ClassCounts, task: Task) -> float:
    """Return FN / (FN + TP), NaN if the class is not in the truth."""
    return ratio(c.false_negatives, c.false_negatives + c.true_positives)


def f_beta(c: ClassCounts, task: Task) -> float:
    """Return (1 + b^2) TP / ((1 + b^2) TP + b^2 FN + FP), NaN if the class is in neither."""
    square = Fraction(task.parameters["beta"]) ** 2
    hits = (1 + square) * c.true_positives
    return ratio(hits, hits + square * c.false_negatives + c.false_positives)


def _rates(c: ClassCounts) -> tuple[Fraction, Fraction] | None:
    """Return sensitivity and specificity, None if one of them is undefined."""
    positives = c.true_positives + c.false_negatives
    negatives = c.true_negatives + c.false_positives
    if not positives or not negatives:
        return None
    return Fraction(c.true_positives, positives), Fraction(c.true_negatives, negatives)


def youden_j(c: ClassCounts, task: Task) -> float:
    """Return sensitivity + specificity - 1, NaN if one of them is undefined."""
    rates = _rates(c)
    return math.nan if rates is None else float(sum(rates) - 1)


def positive_likelihood_ratio(c: ClassCounts, task: Task) -> float:
    """Return sensitivity / (1 - specificity), NaN if that is undefined or infinite."""
    rates = _rates(c)
    return math.nan if rates is None else ratio(rates[0], 1 - rates[1])


def negative_likelihood_ratio(c: ClassCounts, task: Task) -> float:
    """Return (1 - sensitivity) / specificity, NaN if that is undefined or infinite."""
    rates = _rates(c)
    return math.nan if rates is None else ratio(1 - rates[0], rates[1])


def fowlkes_mallows(c: ClassCounts, task: Task) -> float:
    """Return sqrt(precision * recall), NaN if one of them is undefined."""
    square = ratio(
        c.true_positives**2,
        (c.true_positives + c.false_positives) * (c.true_positives + c.false_negatives),
    )
    return math.sqrt(square)


def reference(
    truth: NDArray[Any], prediction: NDArray[Any], task: Task
) -> dict[str, tuple[float, dict[int, float]]]:
    """Return every metric here from whole arrays, by comparing masks class by class."""

    def formulas(tp: Any, fp: Any, fn: Any, tn: Any) -> dict[str, float]:
        b = task.parameters.get("beta", 1.0) ** 2
        sensitivity, spec = tp / (tp + fn), tn / (tn + fp)
        odds = sensitivity / (1 - spec)
        inverse = (1 - sensitivity) / spec
        return {
            "specificity": spec,
            "negative_predictive_value": tn / (tn + fn),
            "false_positive_rate": fp / (fp + tn),
            "false_negative_rate": fn / (fn + tp),
            "f_beta": (1 + b) * tp / ((1 + b) * tp + b * fn + fp),
            "youden_j": sensitivity + spec - 1,
            "positive_likelihood_ratio": odds if np.isfinite(odds) else math.nan,
            "negative_likelihood_ratio": inverse if np.isfinite(inverse) else math.nan,
            "fowlkes_mallows": np.sqrt(tp / (tp + fp) * (tp / (tp + fn))),
        }

    worst = {"positive_likelihood_ratio": 0.0, "fowlkes_mallows": 0.0}
    return reference_by_class(formulas, worst, truth, prediction, task)


BETA = Parameter(
    "beta",
    1.0,
    number(1e-3, 1e3),
    "weight of recall against precision in f_beta [default: 1, which is Dice]",
)
_NO_NEGATIVES = "no voxel outside the class in the truth: undefined"
_NO_POSITIVES = "class not in the truth: undefined"

READINGS = Readings(
    statistic="confusion",
    reference=reference,
    metrics=(
        class_metric(
            "specificity",
            "Specificity (true negative rate)",
            specificity,
            "TN / (TN + FP)",
            "MetricsReloaded, Maier-Hein et al. 2024, doi:10.1038/s41592-023-02151-z",
            _NO_NEGATIVES,
            conventions={peer: OF_RATES[peer] for peer in ("monai", "torchmetrics")},
            invariances=OF_CLASSES,
        ),
        class_metric(
            "negative_predictive_value",
            "Negative predictive value",
            negative_predictive_value,
            "TN / (TN + FN)",
            "MetricsReloaded, Maier-Hein et al. 2024, doi:10.1038/s41592-023-02151-z",
            "every voxel predicted as the class: undefined",
            invariances=OF_CLASSES,
        ),
        class_metric(
            "false_positive_rate",
            "False positive rate (fall-out)",
            false_positive_rate,
            "FP / (FP + TN) = 1 - specificity",
            "MetricsReloaded, Maier-Hein et al. 2024, doi:10.1038/s41592-023-02151-z",
            _NO_NEGATIVES,
            ends=UNIT_LOSS,
            invariances=OF_CLASSES,
        ),
        class_metric(
            "false_negative_rate",
            "False negative rate (miss rate)",
            false_negative_rate,
            "FN / (FN + TP) = 1 - recall",
            "MetricsReloaded, Maier-Hein et al. 2024, doi:10.1038/s41592-023-02151-z",
            _NO_POSITIVES,
            ends=UNIT_LOSS,
        ),
        class_metric(
            "f_beta",
            "F-beta score",
            f_beta,
            "(1 + beta^2) TP / ((1 + beta^2) TP + beta^2 FN + FP)",
            "scikit-learn fbeta_score; van Rijsbergen 1979, Information Retrieval",
            ends=Ends(reloaded=1.0),
            parameters=(BETA,),
            conventions=OF_RATES,
            differs="MetricsReloaded gives 1 and scikit-learn 0 to a class in neither",
        ),
        class_metric(
            "youden_j",
            "Youden's J (informedness)",
            youden_j,
            "TP / (TP + FN) + TN / (TN + FP) - 1",
            "Youden 1950, doi:10.1002/1097-0142(1950)3:1<32::AID-CNCR2820030106>3.0.CO;2-3",
            "class not in the truth, or all of it: undefined",
            ends=Ends(worst=-1.0),
            range=(-1.0, 1.0),
            invariances=OF_CLASSES,
        ),
        class_metric(
            "positive_likelihood_ratio",
            "Positive likelihood ratio",
            positive_likelihood_ratio,
            "recall / (1 - specificity)",
            "scikit-learn class_likelihood_ratios",
            "undefined where recall or specificity is, and without false positives, where it "
            "would be infinite",
            ends=Ends(best=math.nan, missed=0.0),
            range=(0.0, math.inf),
            higher_is_better=True,
            invariances=OF_CLASSES,
        ),
        class_metric(
            "negative_likelihood_ratio",
            "Negative likelihood ratio",
            negative_likelihood_ratio,
            "(1 - recall) / specificity",
            "scikit-learn class_likelihood_ratios",
            "undefined where recall or specificity is, and without true negatives, where it "
            "would be infinite",
            ends=Ends(best=0.0, worst=math.nan),
            range=(0.0, math.inf),
            higher_is_better=False,
            invariances=OF_CLASSES,
        ),
        class_metric(
            "fowlkes_mallows",
            "Fowlkes-Mallows index",
            fowlkes_mallows,
            "sqrt(TP / (TP + FP) TP / (TP + FN)) = sqrt(precision recall)",
            "Fowlkes and Mallows 1983, doi:10.1080/01621459.1983.10478008, of voxels of a class",
            "class not in the truth or not predicted: undefined, but 0 in the mean if it is in "
            "the truth",
            ends=Ends(missed=0.0),
            invariances=OF_FOREGROUND,
            differs="scikit-learn's fowlkes_mallows_score compares clusterings, by pairs of voxels",
        ),
    ),
)
