"""Areas under curves, and the curves, read from histograms of probabilities by true class.

Where a bin can hold unequal scores the areas are intervals: a value and its error bound.
The histograms are those of `histograms`, the pass that narrows an interval is in `another_look`,
and thresholds are read from the same state elsewhere.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamloss import exact, float_sums, vecmath
from streamloss._jit import kernel
from streamloss.averages import OVER_CLASSES, naive_mean
from streamloss.errors import InvalidInputError
from streamloss.losses import switch
from streamloss.metrics import another_look, score_bins
from streamloss.metrics.another_look import Scores, spare_bytes
from streamloss.metrics.histograms import (
    Histogram,
    Ranking,
    histogram,
    interval,
    over_histograms,
    update,
)
from streamloss.statistic import Field, Invariance, Metric, Parameter, Score, Statistic, number
from streamloss.task import Kind, Task

CURVE_POINTS = 200
"""Points that a curve is thinned to."""
_DIGITS = 20
_LOW_DIGITS = 2**_DIGITS - 1


def _sum_of_products(a: NDArray[np.int64], b: NDArray[np.int64]) -> int:
    """Return the exact sum of the products of two arrays of at most 2**22 counts."""
    # Products of 20 binary digits each, 2**22 of them, fit in 64 bits.
    total = 0
    for i in range(0, int(a.max(initial=0)).bit_length(), _DIGITS):
        digits = (a >> i) & _LOW_DIGITS
        for j in range(0, int(b.max(initial=0)).bit_length(), _DIGITS):
            total += int((digits * ((b >> j) & _LOW_DIGITS)).sum()) << (i + j)
    return total


def _auroc(h: Histogram, task: Task) -> tuple[float, float]:
    p, n = h.positives, h.negatives
    above = np.cumsum(p)
    pairs = 2 * int(p.sum()) * int(n.sum())
    if not pairs:
        return math.nan, math.nan
    # Twice the pairs in order: all with the positives of higher bins, half of those in one bin.
    twice = _sum_of_products(n, 2 * above - p)
    open_pairs = _sum_of_products(np.where(h.tied, 0, n), p)
    for place, (inside, _) in h.known.items():
        within = int(n[place]) * int(p[place])
        twice += inside - within
        open_pairs -= 0 if h.tied[place] else within
    return twice / pairs, open_pairs / pairs


def _sum(terms: NDArray[np.float64]) -> float:
    """Return the sum, rounded once, of so many terms that `math.fsum` would take long."""
    limbs = np.zeros(exact.FLOAT_LIMBS, np.int64)
    float_sums.add_float_terms(limbs, np.ascontiguousarray(terms))
    return float(exact.total(limbs))


@kernel
def _log1p(x: NDArray[np.float64], out: NDArray[np.float64]) -> None:
    for i in range(x.size):
        out[i] = vecmath.log1p(x[i]) if x[i] <= 1.0 else vecmath.log(1.0 + x[i])


def _average_precision(h: Histogram, task: Task) -> tuple[float, float]:
    p, n = h.positives.astype(np.float64), h.negatives.astype(np.float64)
    tp, fp = np.cumsum(p), np.cumsum(n)
    if not p.size or tp[-1] == 0:
        return math.nan, math.nan
    precise = p * tp / (tp + fp)
    # A voxel alone in its bin has no order.
    tied = h.tied | (p + n == 1)
    for place, (_, precision) in h.known.items():
        precise[place], tied[place] = precision, True
    kept = p > 0
    p, n, tp, fp = p[kept], n[kept], tp[kept], fp[kept]
    tied, precise = tied[kept], precise[kept]
    if tied.all():
        return _sum(precise) / float(tp[-1]), 2.0**-50
    # At best all positives of a bin come first and together. At worst each comes alone after
    # all negatives: a sum over i of (a + i) / (a + i + c), with sum 1 / (x + i) bounded by an
    # integral, as 1 / x is convex.
    best = p * tp / (tp + fp - n)
    logarithms = np.empty(p.size)
    _log1p(p / (tp - p + fp + 0.5), logarithms)
    worst = p - fp * logarithms
    low = _sum(np.where(tied, precise, worst)) / float(tp[-1])
    high = _sum(np.where(tied, precise, best)) / float(tp[-1])
    value, bound = interval(max(low, 0.0), min(high, 1.0))
    return value, bound + 2.0**-48


def _partial_auroc(h: Histogram, task: Task) -> tuple[float, float]:
    limit = task.parameters["max_fpr"]
    p, n = h.positives.astype(np.float64), h.negatives.astype(np.float64)
    if p.sum() == 0 or n.sum() == 0:
        return math.nan, math.nan
    tpr, fpr = np.cumsum(p) / p.sum(), np.cumsum(n) / n.sum()
    # The curve up to the first point beyond the limit.
    size = int(np.searchsorted(fpr, limit, "right")) + 1
    tpr, fpr, tied = tpr[:size], fpr[:size], h.tied[:size]
    before_t, before_f = np.append(0.0, tpr[:-1]), np.append(0.0, fpr[:-1])
    areas = []
    for corner in ("worst", "best"):
        # Within an open bin the curve runs along one of the sides of its box.
        mid_t = np.where(tied, (before_t + tpr) / 2, before_t if corner == "worst" else tpr)
        mid_f = np.where(tied, (before_f + fpr) / 2, fpr if corner == "worst" else before_f)
        t = np.append(0.0, np.stack([mid_t, tpr], 1).ravel())
        f = np.append(0.0, np.stack([mid_f, fpr], 1).ravel())
        stop = int(np.searchsorted(f, limit, "right"))
        end = np.interp(limit, f[stop - 1 : stop + 1], t[stop - 1 : stop + 1])
        f, t = np.append(f[:stop], limit), np.append(t[:stop], end)
        area = _sum(np.diff(f) * (t[1:] + t[:-1]) / 2)
        chance, top = limit * limit / 2, limit
        areas.append((1 + (area - chance) / (top - chance)) / 2)
    value, bound = interval(*areas)
    return value, bound + 2.0**-48


def _per_class(
    formula: Callable[[Histogram, Task], tuple[float, float]],
) -> Callable[[Ranking, Task], Score]:
    def score(state: Ranking, task: Task) -> Score:
        return over_histograms(lambda h, code: formula(h, task), state, task)

    return score


def validate(task: Task) -> None:
    """Refuse an exact ranking of weighted voxels, and to pool both classes of one channel.

    Raises
    ------
    InvalidInputError
        If that is asked for.
    """
    if task.parameters.get("exact") and task.weighted:
        raise InvalidInputError("exact=True cannot be combined with weights of voxels")
    pooled = task.parameters.get("average") == "micro" and len(task.classes.scored) > 1
    if pooled and task.channels == 1:
        raise InvalidInputError(
            "average=micro cannot pool the two classes of one channel in a ranking: leave out "
            "include_background, or average=micro"
        )


def _curve(
    formula: Callable[[Histogram, Task], tuple[float, float]],
    points: Callable[[Histogram], dict[str, NDArray[np.float64]]],
) -> Callable[[Ranking, Task], Score]:
    def score(state: Ranking, task: Task) -> Score:
        area = _per_class(formula)(state, task)
        details = {}
        for code in task.classes.scored:
            h = histogram(state, code, task)
            if h.positives.sum() and h.negatives.sum():
                curve = points(h)
                kept = _thinned(len(h.positives))
                details[str(task.classes.values[code])] = {
                    "threshold": h.thresholds[kept].tolist(),
                    **{axis: numbers[kept].tolist() for axis, numbers in curve.items()},
                }
        return Score(area.value, area.per_class, area.error_bound, area.counts, details)

    return score


def _thinned(size: int) -> NDArray[np.intp]:
    return np.unique(np.linspace(0, size - 1, min(size, CURVE_POINTS)).round().astype(np.intp))


def _roc(h: Histogram) -> dict[str, NDArray[np.float64]]:
    return {
        "false_positive_rate": np.cumsum(h.negatives) / h.negatives.sum(),
        "true_positive_rate": np.cumsum(h.positives) / h.positives.sum(),
    }


def _precision_recall(h: Histogram) -> dict[str, NDArray[np.float64]]:
    tp = np.cumsum(h.positives)
    return {"recall": tp / tp[-1], "precision": tp / np.cumsum(h.positives + h.negatives)}


def class_probabilities(prediction: NDArray[Any], task: Task) -> NDArray[np.float64]:
    """Return the probability of every class (classes, n), naively, as a `reference` needs it."""
    p = prediction.astype(np.float64)
    if task.kind == "logits":
        if task.channels > 1:
            e = np.exp(p - p.max(axis=0))
            return np.asarray(e / e.sum(axis=0))
        e = np.exp(-np.abs(p))
        p = np.where(p >= 0, 1, e) / (1 + e)
    return p if task.channels > 1 else np.concatenate([1 - p, p])


def reference(
    truth: NDArray[Any], prediction: NDArray[Any], task: Task
) -> dict[str, tuple[float, dict[int, float]]]:
    """Return every metric here from whole arrays, by sorting."""
    p = class_probabilities(prediction, task)
    if task.channels == 1:
        # One score is ranked as it is: many logits have the same probability.
        p = np.concatenate([-prediction, prediction]).astype(np.float64)
    limit = task.parameters.get("max_fpr", 1.0)
    results: dict[str, dict[int, float]] = {
        name: {} for name in ("auroc", "average_precision", "partial_auroc")
    }
    for code in task.classes.scored:
        y = truth == code
        scores, ends = np.unique(-p[code], return_inverse=True)
        positives = np.bincount(ends[y], minlength=len(scores))
        negatives = np.bincount(ends[~y], minlength=len(scores))
        tp, fp = np.cumsum(positives), np.cumsum(negatives)
        with np.errstate(invalid="ignore", divide="ignore"):
            tpr = np.append(0.0, tp / y.sum())
            fpr = np.append(0.0, fp / (~y).sum())
            precision = tp / (tp + fp)
        trapezoids = np.diff(fpr) * (tpr[1:] + tpr[:-1]) / 2
        results["auroc"][code] = float(trapezoids.sum())
        results["average_precision"][code] = float((np.diff(tpr) * precision).sum())
        stop = np.searchsorted(fpr, limit, "right")
        cut_f = np.append(fpr[:stop], limit)
        cut_t = np.append(tpr[:stop], np.interp(limit, fpr, tpr))
        area = (np.diff(cut_f) * (cut_t[1:] + cut_t[:-1]) / 2).sum()
        chance = limit**2 / 2
        results["partial_auroc"][code] = float((1 + (area - chance) / (limit - chance)) / 2)
    outcome = {name: (naive_mean(numbers, task), numbers) for name, numbers in results.items()}
    return {
        **outcome,
        "roc_curve": outcome["auroc"],
        "precision_recall_curve": outcome["average_precision"],
    }


_EXACT = Parameter(
    "exact",
    False,
    switch,
    "read float scores again, as often as need be, to make auroc and average_precision exact "
    "[default: no]",
)
_MAX_FPR = Parameter(
    "max_fpr",
    0.1,
    number(1e-6, 1.0),
    "largest false positive rate that partial_auroc looks at [default: 0.1]",
)
KINDS: tuple[Kind, ...] = ("probabilities", "logits")
OF_RANKS: frozenset[Invariance] = frozenset({"duplication", "monotone_scores"})


def _metric(name: str, title: str, score: Any, formula: str, source: str, **facts: Any) -> Metric:
    own = facts.pop("parameters", ())
    return Metric(
        name=name,
        title=title,
        score=score,
        formula=f"{formula}; one class against the rest, mean over the scored classes that are "
        "defined; exact for scores of 8 and 16 bits, else certain to the error bound",
        source=source,
        range=(0.0, 1.0),
        higher_is_better=True,
        kinds=KINDS,
        parameters=(*own, *OVER_CLASSES),
        empties=facts.pop("empties", "class not in the truth, or all of it: undefined"),
        invariances=OF_RANKS,
        **facts,
    )


STATISTIC = Statistic(
    name="ranking",
    state=Ranking,
    fields={"counts": Field(("channel", 2, lambda task: score_bins.bins_of(task).count))},
    update=update,
    reference=reference,
    validate=validate,
    score_limit=2.0**16,
    ask=another_look.ask,
    answer=Statistic(
        name="ranking",
        state=Scores,
        update=another_look.find,
        metrics=(),
        custom_empty=another_look.no_scores,
        custom_merge=another_look.join,
        score_limit=2.0**16,
    ),
    learn=another_look.learn,
    # As much again to sort them.
    spare_bytes=spare_bytes,
    metrics=(
        _metric(
            "auroc",
            "Area under the ROC curve",
            _per_class(_auroc),
            "share of pairs of a voxel of the class and one of another in which the first has "
            "the higher score; ties count 1/2",
            "scikit-learn roc_auc_score; Hanley and McNeil 1982, "
            "doi:10.1148/radiology.143.1.7063747",
            parameters=(_EXACT,),
            differs="torchmetrics with thresholds=N and MONAI approximate without a bound",
        ),
        _metric(
            "average_precision",
            "Average precision",
            _per_class(_average_precision),
            "sum over thresholds from high to low of (R_n - R_(n-1)) P_n; P, R: precision and "
            "recall of the voxels at or above a threshold",
            "scikit-learn average_precision_score",
            parameters=(_EXACT,),
            empties="class not in the truth: undefined",
            differs="the trapezoidal area under the curve, which is too optimistic",
        ),
        _metric(
            "partial_auroc",
            "Partial area under the ROC curve",
            _per_class(_partial_auroc),
            "area A under the ROC curve up to the false positive rate f = max_fpr, as "
            "(1 + (A - f^2 / 2) / (f - f^2 / 2)) / 2",
            "scikit-learn roc_auc_score(max_fpr=f); McClish 1989, doi:10.1177/0272989X8900900307",
            parameters=(_MAX_FPR,),
        ),
        _metric(
            "roc_curve",
            "ROC curve",
            _curve(_auroc, _roc),
            "true positive rate over false positive rate; the value is the area, the details "
            f"hold up to {CURVE_POINTS} points of each class with their thresholds",
            "scikit-learn roc_curve",
        ),
        _metric(
            "precision_recall_curve",
            "Precision-recall curve",
            _curve(_average_precision, _precision_recall),
            "precision over recall; the value is the average precision, the details hold up "
            f"to {CURVE_POINTS} points of each class with their thresholds",
            "scikit-learn precision_recall_curve",
            empties="class not in the truth: undefined",
        ),
    ),
)
