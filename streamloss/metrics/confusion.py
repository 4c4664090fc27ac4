"""Hard metrics of overlap and accuracy, read from the confusion matrix.

Every score is integer arithmetic until its last division. The matrix and the four counts of a
class are those of `class_counts`; rates, volumes and agreement are read from it elsewhere.
"""

import math
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamloss.averages import (
    OVER_CLASSES,
    Ends,
    Presence,
    check_weights,
    naive_mean,
    over_classes,
)
from streamloss.metrics.class_counts import (
    ClassCounts,
    Confusion,
    class_voxels,
    one_against_rest,
    update,
)
from streamloss.statistic import Field, Invariance, Metric, Parameter, Score, Statistic
from streamloss.task import Kind, Task

UNIT_SCORE = Ends()
UNIT_LOSS = Ends(best=0.0, worst=1.0)


def dice(c: ClassCounts, task: Task) -> float:
    """Return 2TP / (2TP + FP + FN), NaN if the class is in neither."""
    overlap = 2 * c.true_positives
    return ratio(overlap, overlap + c.false_positives + c.false_negatives)


def dice_loss(c: ClassCounts, task: Task) -> float:
    """Return (FP + FN) / (2TP + FP + FN), which is 1 - Dice without its rounding."""
    wrong = c.false_positives + c.false_negatives
    return ratio(wrong, 2 * c.true_positives + wrong)


def iou(c: ClassCounts, task: Task) -> float:
    """Return TP / (TP + FP + FN), NaN if the class is in neither."""
    return ratio(c.true_positives, c.true_positives + c.false_positives + c.false_negatives)


def precision(c: ClassCounts, task: Task) -> float:
    """Return TP / (TP + FP), NaN if nothing was predicted."""
    return ratio(c.true_positives, c.true_positives + c.false_positives)


def recall(c: ClassCounts, task: Task) -> float:
    """Return TP / (TP + FN), NaN if the class is not in the truth."""
    return ratio(c.true_positives, c.true_positives + c.false_negatives)


def ratio(part: int | Fraction, whole: int | Fraction) -> float:
    """Return the quotient, rounded once, or NaN for a whole of zero."""
    # Python rounds a quotient of integers once, whatever their size.
    return float(part / whole) if whole else math.nan


def mean_of(
    formula: Callable[[ClassCounts, Task], float], ends: Ends = UNIT_SCORE, unit: Any = None
) -> Callable[[Confusion, Task], Score]:
    """Return the score that is a formula of each class's counts, averaged over classes.

    Parameters
    ----------
    formula
        NaN where it divides by zero.
    ends
        Best and worst value.
    unit
        Tells the unit from the task, if it depends on it.
    """

    def score(state: Confusion, task: Task) -> Score:
        classes = one_against_rest(state)

        def pooled() -> tuple[float, float]:
            chosen = [classes[code] for code in task.classes.scored]
            return formula(ClassCounts(*map(sum, zip(*chosen, strict=True))), task), 0.0

        return over_classes(
            [formula(c, task) for c in classes],
            task,
            [
                Presence(c.true_positives + c.false_negatives, c.true_positives + c.false_positives)
                for c in classes
            ],
            pooled=pooled if task.classes.scored else None,
            ends=ends,
            unit=None if unit is None else unit(task),
        )

    return score


def _total(position: str) -> Callable[[Confusion, Task], Score]:
    def score(state: Confusion, task: Task) -> Score:
        counts = [getattr(c, position) for c in one_against_rest(state)]
        scored = {code: counts[code] for code in task.classes.scored}
        return Score(sum(scored.values()), scored)

    return score


def accuracy(state: Confusion, task: Task) -> Score:
    """Return the share of voxels that are right; per class, one against the rest."""
    classes = one_against_rest(state)
    right = sum(c.true_positives for c in classes)
    per_class = {code: _right(classes[code], task) for code in task.classes.scored}
    return Score(ratio(right, int(state.counts.sum())), per_class)


def _right(c: ClassCounts, task: Task) -> float:
    return ratio(c.true_positives + c.true_negatives, sum(c))


def predicted_codes(prediction: NDArray[Any], task: Task) -> NDArray[Any]:
    """Return the predicted class of each voxel, naively, as a `reference` needs it."""
    if task.channels > 1:
        return np.asarray(np.argmax(prediction, axis=0))
    if task.channels == 1:
        cut = np.log(task.threshold / (1 - task.threshold))
        return np.asarray(prediction[0] >= (cut if task.kind == "logits" else task.threshold))
    return prediction


def reference_by_class(
    formulas: Callable[..., dict[str, Any]],
    worst: dict[str, float],
    truth: NDArray[Any],
    prediction: NDArray[Any],
    task: Task,
) -> dict[str, tuple[float, dict[int, float]]]:
    """Return formulas of each class's counts from whole arrays, and their mean, naively.

    Parameters
    ----------
    formulas
        From TP, FP, FN, TN as floats to numbers by metric.
    worst
        What a missed class counts where a metric is undefined.
    truth, prediction, task
        As for `Statistic.reference`.
    """
    prediction = predicted_codes(prediction, task)
    nothing = formulas(*[np.float64(math.nan)] * 4)
    results: dict[str, tuple[float, dict[int, float]]] = {name: (math.nan, {}) for name in nothing}
    entering: dict[str, dict[int, float]] = {name: {} for name in nothing}
    for code in task.classes.scored:
        t, p = truth == code, prediction == code
        counts = [np.float64(np.sum(x)) for x in (t & p, ~t & p, t & ~p, ~t & ~p)]
        with np.errstate(invalid="ignore", divide="ignore"):
            numbers = formulas(*counts)
        for name, number in numbers.items():
            results[name][1][code] = float(number)
            if math.isnan(number) and t.any() and not p.any():
                number = worst.get(name, math.nan)
            entering[name][code] = float(number)
    return {name: (naive_mean(entering[name], task), results[name][1]) for name in results}


def reference(
    truth: NDArray[Any], prediction: NDArray[Any], task: Task
) -> dict[str, tuple[float, dict[int, float]]]:
    """Return every metric here from whole arrays, by comparing masks class by class."""

    def formulas(tp: Any, fp: Any, fn: Any, tn: Any) -> dict[str, Any]:
        return {
            "true_positives": tp,
            "false_positives": fp,
            "false_negatives": fn,
            "true_negatives": tn,
            "dice": 2 * tp / (2 * tp + fp + fn),
            "dice_loss": (fp + fn) / (2 * tp + fp + fn),
            "iou": tp / (tp + fp + fn),
            "precision": tp / (tp + fp),
            "recall": tp / (tp + fn),
            "accuracy": (tp + tn) / truth.size,
        }

    results = reference_by_class(formulas, {"precision": 0.0}, truth, prediction, task)
    for name in ("true_positives", "false_positives", "false_negatives", "true_negatives"):
        per_class = results[name][1]
        results[name] = math.fsum(per_class.values()), per_class
    right = float(np.mean(truth == predicted_codes(prediction, task)))
    results["accuracy"] = right, results["accuracy"][1]
    return results


SYMBOLS = "TP, FP, FN, TN: voxels of the class, one against the rest"
KINDS: tuple[Kind, ...] = ("labels", "probabilities", "logits")
OF_CLASSES: frozenset[Invariance] = frozenset({"class_permutation", "duplication"})
EMPTY_CONVENTIONS = {
    "nnunet": {"empty": "nnunet"},
    "monai": {"empty": "monai"},
    "reloaded": {"empty": "reloaded"},
    "torchmetrics": {"empty": "torchmetrics"},
    "sklearn": {"empty": "zero"},
}
"""Policies that give a package's numbers of empty classes."""
OF_DICE = {**EMPTY_CONVENTIONS, "konfai": {"empty": "monai"}}
OF_RATES = {**EMPTY_CONVENTIONS, "monai": {"empty": "omit"}}
"""As `EMPTY_CONVENTIONS`; MONAI treats rates otherwise than overlaps."""
OF_FOREGROUND: frozenset[Invariance] = OF_CLASSES | {"true_negatives"}


def class_metric(
    name: str,
    title: str,
    formula: Callable[[ClassCounts, Task], float],
    text: str,
    source: str,
    empties: str = "absent from truth and prediction: undefined; from one of them: as the formula",
    ends: Ends = UNIT_SCORE,
    parameters: tuple[Parameter, ...] = (),
    **facts: Any,
) -> Metric:
    """Return a metric that is a formula of the four counts of each class."""
    return Metric(
        name=name,
        title=title,
        score=mean_of(formula, ends),
        of_counts=formula,
        formula=f"{text}; {SYMBOLS}; mean over the scored classes that are defined",
        source=source,
        kinds=KINDS,
        empties=empties,
        parameters=(*parameters, *OVER_CLASSES),
        **{
            "range": (0.0, 1.0),
            "higher_is_better": ends.best > ends.worst,
            "invariances": OF_FOREGROUND,
            **facts,
        },
    )


def _count(
    name: str, meaning: str, also: frozenset[Invariance] = frozenset({"true_negatives"})
) -> Metric:
    return Metric(
        name=name,
        title=name.replace("_", " ").capitalize(),
        score=_total(name),
        of_counts=lambda c, task: float(getattr(c, name)),
        formula=f"{meaning}; the value is the sum over the scored classes",
        source="confusion matrix, one class against the rest",
        range=(0.0, math.inf),
        higher_is_better=None,
        kinds=KINDS,
        empties="an empty class counts 0",
        unit="voxels",
        combine="sum",
        invariances=also | {"class_permutation"},
    )


STATISTIC = Statistic(
    name="confusion",
    state=Confusion,
    fields={"counts": Field(("class", "class"))},
    update=update,
    reference=reference,
    class_voxels=class_voxels,
    validate=check_weights,
    metrics=(
        class_metric(
            "dice",
            "Dice coefficient",
            dice,
            "2TP / (2TP + FP + FN)",
            "Dice 1945, doi:10.2307/1932409; empties as nnU-Net",
            ends=Ends(reloaded=1.0),
            symmetric=True,
            conventions=OF_DICE,
            default_for=KINDS,
            differs="MONAI's DiceMetric leaves out classes that are not in the truth, even if "
            "they are predicted; MetricsReloaded gives 1 and scikit-learn's f1_score 0 to a "
            "class in neither",
        ),
        class_metric(
            "dice_loss",
            "Dice loss of hard labels",
            dice_loss,
            "1 - Dice = (FP + FN) / (2TP + FP + FN)",
            "Dice 1945, doi:10.2307/1932409",
            ends=Ends(best=0.0, worst=1.0, reloaded=0.0),
            symmetric=True,
            conventions={peer: EMPTY_CONVENTIONS[peer] for peer in ("nnunet", "monai", "reloaded")},
            differs="training losses of this name are soft: see soft_dice_loss",
        ),
        class_metric(
            "iou",
            "Intersection over union (Jaccard index)",
            iou,
            "TP / (TP + FP + FN)",
            "Jaccard 1912, doi:10.1111/j.1469-8137.1912.tb05611.x",
            symmetric=True,
            conventions=EMPTY_CONVENTIONS,
            default_for=KINDS,
        ),
        class_metric(
            "precision",
            "Precision (positive predictive value)",
            precision,
            "TP / (TP + FP)",
            "scikit-learn precision_score",
            ends=Ends(missed=0.0),
            empties="class not predicted: undefined, but 0 in the mean if it is in the truth",
            default_for=("labels",),
            conventions=OF_RATES,
            differs="scikit-learn gives 0 with a warning where it is undefined",
        ),
        class_metric(
            "recall",
            "Recall (sensitivity, true positive rate)",
            recall,
            "TP / (TP + FN)",
            "scikit-learn recall_score",
            empties="class not in the truth: undefined",
            default_for=("labels",),
            conventions=OF_RATES,
            differs="scikit-learn gives 0 with a warning where it is undefined",
        ),
        Metric(
            name="accuracy",
            title="Accuracy",
            score=accuracy,
            of_counts=_right,
            formula="share of voxels whose class is right, over all classes and the background; "
            f"per class (TP + TN) / (TP + FP + FN + TN); {SYMBOLS}",
            source="scikit-learn accuracy_score",
            range=(0.0, 1.0),
            higher_is_better=True,
            kinds=KINDS,
            empties="no voxel scored: undefined",
            symmetric=True,
            default_for=("labels",),
            invariances=OF_CLASSES,
        ),
        _count("true_positives", "voxels of the class predicted as such"),
        _count("false_positives", "voxels predicted as the class wrongly"),
        _count("false_negatives", "voxels of the class predicted otherwise"),
        _count("true_negatives", "voxels outside the class predicted so", frozenset()),
    ),
)
