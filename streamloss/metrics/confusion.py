"""Counts of voxels by true and predicted class, and the hard metrics read from them.

The state is the confusion matrix; every score is integer arithmetic until its
last division.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from streamloss._jit import kernel
from streamloss.slab import Slab
from streamloss.statistic import Field, Metric, Score, Statistic, mean_over_classes
from streamloss.task import Kind, Task


class Confusion(NamedTuple):
    """Voxel counts.

    Attributes
    ----------
    counts
        `counts[t, p]`: voxels of true class t that were predicted as class p.
    """

    counts: NDArray[np.int64]


class ClassCounts(NamedTuple):
    """One class against the rest, as Python integers."""

    true_positives: int
    false_positives: int
    false_negatives: int
    true_negatives: int


def update(state: Confusion, slab: Slab, task: Task) -> None:
    """Count the voxels of a slab."""
    count_pairs(slab.truth, slab.decision, state.counts)


@kernel
def count_pairs(truth: NDArray[Any], prediction: NDArray[Any], counts: NDArray[Any]) -> None:
    """Add the number of voxels of each pair of codes to `counts`."""
    # Two histograms in turn: neighbouring voxels mostly hold the same pair, and
    # adding to one address twice in a row waits for the first store.
    even = np.zeros(counts.shape, np.int64)
    odd = np.zeros(counts.shape, np.int64)
    for i in range(0, truth.size - 1, 2):
        even[truth[i], prediction[i]] += 1
        odd[truth[i + 1], prediction[i + 1]] += 1
    if truth.size % 2:
        even[truth[-1], prediction[-1]] += 1
    counts += even
    counts += odd


def one_against_rest(state: Confusion) -> list[ClassCounts]:
    """Return the four counts of each class."""
    counts = state.counts
    total = int(counts.sum())
    truth, prediction = class_voxels(state)
    result = []
    for code in range(len(counts)):
        true_positives = int(counts[code, code])
        false_positives = int(prediction[code]) - true_positives
        false_negatives = int(truth[code]) - true_positives
        true_negatives = total - true_positives - false_positives - false_negatives
        result.append(ClassCounts(true_positives, false_positives, false_negatives, true_negatives))
    return result


def class_voxels(state: Confusion) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the voxels of each class in truth and in prediction."""
    return state.counts.sum(axis=1), state.counts.sum(axis=0)


def dice(c: ClassCounts) -> float:
    """Return 2TP / (2TP + FP + FN), NaN if the class is in neither."""
    overlap = 2 * c.true_positives
    return _ratio(overlap, overlap + c.false_positives + c.false_negatives)


def dice_loss(c: ClassCounts) -> float:
    """Return (FP + FN) / (2TP + FP + FN), which is 1 - Dice without its rounding."""
    wrong = c.false_positives + c.false_negatives
    return _ratio(wrong, 2 * c.true_positives + wrong)


def iou(c: ClassCounts) -> float:
    """Return TP / (TP + FP + FN), NaN if the class is in neither."""
    return _ratio(c.true_positives, c.true_positives + c.false_positives + c.false_negatives)


def precision(c: ClassCounts) -> float:
    """Return TP / (TP + FP), NaN if nothing was predicted."""
    return _ratio(c.true_positives, c.true_positives + c.false_positives)


def recall(c: ClassCounts) -> float:
    """Return TP / (TP + FN), NaN if the class is not in the truth."""
    return _ratio(c.true_positives, c.true_positives + c.false_negatives)


def _ratio(part: int, whole: int) -> float:
    return part / whole if whole else math.nan


def _per_class(formula: Callable[[ClassCounts], float]) -> Callable[[Confusion, Task], Score]:
    def score(state: Confusion, task: Task) -> Score:
        return mean_over_classes([formula(c) for c in one_against_rest(state)], task)

    return score


def _total(position: str) -> Callable[[Confusion, Task], Score]:
    def score(state: Confusion, task: Task) -> Score:
        counts = [getattr(c, position) for c in one_against_rest(state)]
        scored = {code: float(counts[code]) for code in task.classes.scored}
        return Score(float(sum(scored.values())), scored)

    return score


def accuracy(state: Confusion, task: Task) -> Score:
    """Return the share of voxels that are right; per class, one against the rest."""
    total = int(state.counts.sum())
    classes = one_against_rest(state)
    right = sum(c.true_positives for c in classes)
    return Score(
        _ratio(right, total),
        {
            code: _ratio(classes[code].true_positives + classes[code].true_negatives, total)
            for code in task.classes.scored
        },
    )


def reference(
    truth: NDArray[Any], prediction: NDArray[Any], task: Task
) -> dict[str, tuple[float, dict[int, float]]]:
    """Return every metric from whole arrays, by comparing masks class by class."""
    if task.channels > 1:
        prediction = np.argmax(prediction, axis=0)
    elif task.channels == 1:
        cut = np.log(task.threshold / (1 - task.threshold))
        prediction = prediction[0] >= (cut if task.kind == "logits" else task.threshold)
    per_class: dict[str, dict[int, float]] = {metric.name: {} for metric in STATISTIC.metrics}
    for code in task.classes.scored:
        t, p = truth == code, prediction == code
        tp, fp = np.sum(t & p), np.sum(~t & p)
        fn, tn = np.sum(t & ~p), np.sum(~t & ~p)
        with np.errstate(invalid="ignore"):
            numbers = {
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
        for name, number in numbers.items():
            per_class[name][code] = float(number)
    result = {}
    for name, numbers_of_classes in per_class.items():
        numbers_list = list(numbers_of_classes.values())
        defined = [number for number in numbers_list if not math.isnan(number)]
        if name == "accuracy":
            value = float(np.mean(truth == prediction)) if truth.size else math.nan
        elif name in ("true_positives", "false_positives", "false_negatives", "true_negatives"):
            value = math.fsum(numbers_list)
        else:
            value = math.fsum(defined) / len(defined) if defined else math.nan
        result[name] = (value, numbers_of_classes)
    return result


_SYMBOLS = "TP, FP, FN, TN: voxels of the class, one against the rest"
_KINDS: tuple[Kind, ...] = ("labels", "probabilities", "logits")


def _overlap(
    name: str,
    title: str,
    formula: Callable[[ClassCounts], float],
    text: str,
    source: str,
    empties: str = "absent from truth and prediction: undefined; from one of them: as the formula",
    **facts: Any,
) -> Metric:
    return Metric(
        name=name,
        title=title,
        score=_per_class(formula),
        formula=f"{text}; {_SYMBOLS}; mean over the scored classes that are defined",
        source=source,
        range=(0.0, 1.0),
        kinds=_KINDS,
        empties=empties,
        **{"higher_is_better": True, **facts},
    )


def _count(name: str, title: str, meaning: str) -> Metric:
    return Metric(
        name=name,
        title=title,
        score=_total(name),
        formula=f"{meaning}; the value is the sum over the scored classes",
        source="confusion matrix, one class against the rest",
        range=(0.0, math.inf),
        higher_is_better=None,
        kinds=_KINDS,
        empties="an empty class counts 0",
        unit="voxels",
    )


STATISTIC = Statistic(
    name="confusion",
    state=Confusion,
    fields={"counts": Field(("class", "class"))},
    update=update,
    reference=reference,
    class_voxels=class_voxels,
    metrics=(
        _overlap(
            "dice",
            "Dice coefficient",
            dice,
            "2TP / (2TP + FP + FN)",
            "Dice 1945, doi:10.2307/1932409; empties as nnU-Net",
            symmetric=True,
            default_for=_KINDS,
            differs="MONAI DiceMetric and torchmetrics also leave out or zero classes that are "
            "empty in the truth alone, by option",
        ),
        _overlap(
            "dice_loss",
            "Dice loss of hard labels",
            dice_loss,
            "1 - Dice = (FP + FN) / (2TP + FP + FN)",
            "Dice 1945, doi:10.2307/1932409",
            symmetric=True,
            higher_is_better=False,
            differs="training losses of this name are soft: see soft_dice_loss",
        ),
        _overlap(
            "iou",
            "Intersection over union (Jaccard index)",
            iou,
            "TP / (TP + FP + FN)",
            "Jaccard 1912, doi:10.1111/j.1469-8137.1912.tb05611.x",
            symmetric=True,
            default_for=_KINDS,
        ),
        _overlap(
            "precision",
            "Precision (positive predictive value)",
            precision,
            "TP / (TP + FP)",
            "scikit-learn precision_score",
            empties="class not predicted: undefined",
            default_for=("labels",),
            differs="scikit-learn gives 0 with a warning where it is undefined",
        ),
        _overlap(
            "recall",
            "Recall (sensitivity, true positive rate)",
            recall,
            "TP / (TP + FN)",
            "scikit-learn recall_score",
            empties="class not in the truth: undefined",
            default_for=("labels",),
            differs="scikit-learn gives 0 with a warning where it is undefined",
        ),
        Metric(
            name="accuracy",
            title="Accuracy",
            score=accuracy,
            formula="share of voxels whose class is right, over all classes and the background; "
            f"per class (TP + TN) / (TP + FP + FN + TN); {_SYMBOLS}",
            source="scikit-learn accuracy_score",
            range=(0.0, 1.0),
            higher_is_better=True,
            kinds=_KINDS,
            empties="no voxel scored: undefined",
            symmetric=True,
            default_for=("labels",),
        ),
        _count("true_positives", "True positives", "voxels of the class predicted as such"),
        _count("false_positives", "False positives", "voxels predicted as the class wrongly"),
        _count("false_negatives", "False negatives", "voxels of the class predicted otherwise"),
        _count("true_negatives", "True negatives", "voxels outside the class predicted so"),
    ),
)
