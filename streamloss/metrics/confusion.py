"""Counts of voxels by true and predicted class, and the hard metrics read from them.

The state is the confusion matrix; every score is integer arithmetic until its
last division.
"""

import math
from collections.abc import Callable
from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from streamloss._jit import inlined, kernel
from streamloss.averages import (
    OVER_CLASSES,
    Ends,
    Presence,
    check_weights,
    naive_mean,
    over_classes,
)
from streamloss.slab import Slab
from streamloss.statistic import Field, Invariance, Metric, Parameter, Score, Statistic
from streamloss.task import Kind, Task
from streamloss.words import LOW_BITS, WORDS, byte_sum

UNIT_SCORE = Ends()
UNIT_LOSS = Ends(best=0.0, worst=1.0)

_NONE = np.uint64(0)
_ONE = np.uint64(1)


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
    """Add the number of voxels of each pair of codes to `counts`.

    Parameters
    ----------
    truth, prediction
        uint8 or uint16 of one dimension and equal type, each below `len(counts)`.
    counts
        int64 of shape (classes, classes); updated in place.
    """
    edge = truth.size - truth.size % (8 // truth.itemsize)
    # Words of 8 bytes: Numba widens every uint8 to int64, so that bytes never vectorise.
    t = truth[:edge].view(np.uint64)
    p = prediction[:edge].view(np.uint64)
    if len(counts) == 2:
        _count_two(t, p, counts)
    elif len(counts) <= 4:
        _count_four(t, p, counts)
    else:
        _count_runs(t, p, 8 * truth.itemsize, counts)
    for i in range(edge, truth.size):
        counts[truth[i], prediction[i]] += 1


@inlined
def _count_two(t: NDArray[np.uint64], p: NDArray[np.uint64], counts: NDArray[Any]) -> None:
    for start in range(0, t.size, WORDS):
        a = t[start : start + WORDS]
        b = p[start : start + WORDS]
        trues = predicted = both = np.uint64(0)
        for i in range(a.size):
            trues += a[i]
            predicted += b[i]
            both += a[i] & b[i]
        n_true, n_predicted, n_both = byte_sum(trues), byte_sum(predicted), byte_sum(both)
        counts[1, 1] += n_both
        counts[1, 0] += n_true - n_both
        counts[0, 1] += n_predicted - n_both
        counts[0, 0] += 8 * a.size - n_true - n_predicted + n_both


@inlined
def _count_four(t: NDArray[np.uint64], p: NDArray[np.uint64], counts: NDArray[Any]) -> None:
    # Sums over the voxels of all products of the two bits of either code; sums[i, j] is that of
    # the bits of i in the truth and of j in the prediction. Unlike runs of equal words it costs
    # the same for any labels: 15 additions for 32 voxels, 4 times as fast as a histogram.
    sums = np.zeros((4, 4), np.int64)
    sums[0, 0] = 8 * t.size
    for start in range(0, t.size, WORDS):
        a = t[start : start + WORDS]
        b = p[start : start + WORDS]
        t1 = t2 = t3 = p1 = p2 = p3 = _NONE
        for i in range(a.size):
            low, high = a[i] & LOW_BITS, (a[i] >> _ONE) & LOW_BITS
            t1 += low
            t2 += high
            t3 += low & high
            low, high = b[i] & LOW_BITS, (b[i] >> _ONE) & LOW_BITS
            p1 += low
            p2 += high
            p3 += low & high
        sums[1, 0] += byte_sum(t1)
        sums[2, 0] += byte_sum(t2)
        sums[3, 0] += byte_sum(t3)
        sums[0, 1] += byte_sum(p1)
        sums[0, 2] += byte_sum(p2)
        sums[0, 3] += byte_sum(p3)
        t1p1 = t1p2 = t1p3 = t2p1 = t2p2 = t2p3 = t3p1 = t3p2 = t3p3 = _NONE
        for i in range(a.size):
            t_low, t_high = a[i] & LOW_BITS, (a[i] >> _ONE) & LOW_BITS
            p_low, p_high = b[i] & LOW_BITS, (b[i] >> _ONE) & LOW_BITS
            t_both, p_both = t_low & t_high, p_low & p_high
            t1p1 += t_low & p_low
            t1p2 += t_low & p_high
            t1p3 += t_low & p_both
            t2p1 += t_high & p_low
            t2p2 += t_high & p_high
            t2p3 += t_high & p_both
            t3p1 += t_both & p_low
            t3p2 += t_both & p_high
            t3p3 += t_both & p_both
        sums[1, 1] += byte_sum(t1p1)
        sums[1, 2] += byte_sum(t1p2)
        sums[1, 3] += byte_sum(t1p3)
        sums[2, 1] += byte_sum(t2p1)
        sums[2, 2] += byte_sum(t2p2)
        sums[2, 3] += byte_sum(t2p3)
        sums[3, 1] += byte_sum(t3p1)
        sums[3, 2] += byte_sum(t3p2)
        sums[3, 3] += byte_sum(t3p3)
    # From sums over voxels with at least these bits to voxels with exactly these.
    for j in range(4):
        sums[1, j] -= sums[3, j]
        sums[2, j] -= sums[3, j]
        sums[0, j] -= sums[1, j] + sums[2, j] + sums[3, j]
    for i in range(4):
        sums[i, 1] -= sums[i, 3]
        sums[i, 2] -= sums[i, 3]
        sums[i, 0] -= sums[i, 1] + sums[i, 2] + sums[i, 3]
    classes = len(counts)
    counts += sums[:classes, :classes]


@inlined
def _count_runs(
    t: NDArray[np.uint64], p: NDArray[np.uint64], bits: int, counts: NDArray[Any]
) -> None:
    # Most words of real labels hold one code in all their voxels, and so does the word before.
    width = np.uint64(bits)
    low = (_ONE << width) - _ONE
    every = LOW_BITS if bits == 8 else np.uint64(0x0001000100010001)
    t_run = p_run = _NONE
    length = 0
    for i in range(t.size):
        a, b = t[i], p[i]
        if a == t_run and b == p_run:
            length += 1
        elif a == (a & low) * every and b == (b & low) * every:
            counts[t_run & low, p_run & low] += length * (64 // bits)
            t_run, p_run, length = a, b, 1
        else:
            for _ in range(64 // bits):
                counts[a & low, b & low] += 1
                a >>= width
                b >>= width
    counts[t_run & low, p_run & low] += length * (64 // bits)


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
    return float(Fraction(part) / whole) if whole else math.nan


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
            [Presence(c.true_positives + c.false_negatives, _predicted(c)) for c in classes],
            pooled=pooled if task.classes.scored else None,
            ends=ends,
            unit=None if unit is None else unit(task),
        )

    return score


def _predicted(c: ClassCounts) -> int:
    return c.true_positives + c.false_positives


def validate(task: Task) -> None:
    """Refuse class weights that do not fit the classes."""
    check_weights(task)


def _total(position: str) -> Callable[[Confusion, Task], Score]:
    def score(state: Confusion, task: Task) -> Score:
        counts = [getattr(c, position) for c in one_against_rest(state)]
        scored = {code: counts[code] for code in task.classes.scored}
        return Score(sum(scored.values()), scored)

    return score


def accuracy(state: Confusion, task: Task) -> Score:
    """Return the share of voxels that are right; per class, one against the rest."""
    total = int(state.counts.sum())
    classes = one_against_rest(state)
    right = sum(c.true_positives for c in classes)
    return Score(
        ratio(right, total),
        {
            code: ratio(classes[code].true_positives + classes[code].true_negatives, total)
            for code in task.classes.scored
        },
    )


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
}
"""The packages after which policies for empty classes are named."""
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
    validate=validate,
    metrics=(
        class_metric(
            "dice",
            "Dice coefficient",
            dice,
            "2TP / (2TP + FP + FN)",
            "Dice 1945, doi:10.2307/1932409; empties as nnU-Net",
            ends=Ends(reloaded=1.0),
            symmetric=True,
            conventions={**EMPTY_CONVENTIONS, "sklearn": {"empty": "zero"}},
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
            conventions=EMPTY_CONVENTIONS,
            differs="training losses of this name are soft: see soft_dice_loss",
        ),
        class_metric(
            "iou",
            "Intersection over union (Jaccard index)",
            iou,
            "TP / (TP + FP + FN)",
            "Jaccard 1912, doi:10.1111/j.1469-8137.1912.tb05611.x",
            symmetric=True,
            conventions={**EMPTY_CONVENTIONS, "sklearn": {"empty": "zero"}},
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
            conventions={**EMPTY_CONVENTIONS, "sklearn": {"empty": "zero"}},
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
            conventions={**EMPTY_CONVENTIONS, "sklearn": {"empty": "zero"}},
            differs="scikit-learn gives 0 with a warning where it is undefined",
        ),
        Metric(
            name="accuracy",
            title="Accuracy",
            score=accuracy,
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
