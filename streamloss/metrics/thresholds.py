"""What hard metrics would be at other thresholds, and calibration in bins of equal mass.

All are read from the histograms of the ranking statistic, whose counts at the edges of its
bins are exact; thresholds are such edges.
"""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamloss.averages import OVER_CLASSES, Ends, naive_mean
from streamloss.metrics.calibration import BINS
from streamloss.metrics.class_counts import ClassCounts
from streamloss.metrics.histograms import (
    Histogram,
    Ranking,
    interval,
    least,
    over_histograms,
)
from streamloss.metrics.ranking import KINDS, class_probabilities
from streamloss.metrics.rates import BETA
from streamloss.statistic import Metric, Parameter, Readings, Score, discover, number
from streamloss.task import Task

STEPS = 100
"""The thresholds of a curve are 0, 1 / STEPS … 1."""


def _counts(h: Histogram) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Return TP, FP, FN and TN with the threshold at each edge, as floats."""
    tp, fp = np.cumsum(h.positives).astype(np.float64), np.cumsum(h.negatives).astype(np.float64)
    return tp, fp, tp[-1:] - tp, fp[-1:] - fp


def _best(
    formula: Callable[..., NDArray[np.float64]],
) -> Callable[[Ranking, Task], Score]:
    def score(state: Ranking, task: Task) -> Score:
        details = {}

        def best(h: Histogram, code: int) -> tuple[float, float]:
            if not h.positives.sum() or not h.negatives.sum():
                return math.nan, math.nan
            tp, fp, fn, tn = _counts(h)
            with np.errstate(invalid="ignore", divide="ignore"):
                values = formula(tp, fp, fn, tn, task)
            # Of equal ones the first, which is the highest threshold.
            place = int(np.nanargmax(values))
            details[str(task.classes.values[code])] = {"score": float(values[place])}
            return float(h.thresholds[place]), 0.0

        return replace(over_histograms(best, state, task), details=details)

    return score


def _dice(tp: Any, fp: Any, fn: Any, tn: Any, task: Task) -> NDArray[np.float64]:
    return np.asarray(2 * tp / (2 * tp + fp + fn))


def _iou(tp: Any, fp: Any, fn: Any, tn: Any, task: Task) -> NDArray[np.float64]:
    return np.asarray(tp / (tp + fp + fn))


def _f_beta(tp: Any, fp: Any, fn: Any, tn: Any, task: Task) -> NDArray[np.float64]:
    square = task.parameters["beta"] ** 2
    return np.asarray((1 + square) * tp / ((1 + square) * tp + square * fn + fp))


def _youden(tp: Any, fp: Any, fn: Any, tn: Any, task: Task) -> NDArray[np.float64]:
    return np.asarray(tp / (tp + fn) + tn / (tn + fp) - 1)


def sensitivity_at_specificity(state: Ranking, task: Task) -> Score:
    """Return the highest sensitivity at a specificity of at least the one asked for."""

    def highest(h: Histogram, code: int) -> tuple[float, float]:
        if not h.positives.sum() or not h.negatives.sum():
            return math.nan, math.nan
        tp, fp, _, tn = _counts(h)
        allowed = int((tn / (tn + fp) >= task.parameters["specificity_at_least"]).sum())
        low = float(tp[allowed - 1] / tp[-1]) if allowed else 0.0
        high = low
        if allowed < len(tp) and not h.tied[allowed]:
            # All positives of the bin in which the limit lies may come before its negatives.
            high = float(tp[allowed] / tp[-1])
        return interval(low, high)

    return over_histograms(highest, state, task)


def threshold_curve(state: Ranking, task: Task) -> Score:
    """Return every metric of counts at many thresholds; the value is the best Dice."""
    details: dict[str, dict[str, list[float | None]]] = {}

    def best(h: Histogram, code: int) -> tuple[float, float]:
        positives, negatives = int(h.positives.sum()), int(h.negatives.sum())
        if not positives:
            return math.nan, math.nan
        edges = least(code, task)
        thresholds = edges[np.searchsorted(edges, np.linspace(0.0, 1.0, STEPS + 1))]
        places = np.searchsorted(-h.thresholds, -thresholds, "right")
        tp, fp = (np.append(0, np.cumsum(part))[places] for part in (h.positives, h.negatives))
        curve: dict[str, list[float | None]] = {"threshold": thresholds.tolist()}
        for hits, wrong in zip(tp.tolist(), fp.tolist(), strict=True):
            c = ClassCounts(hits, wrong, positives - hits, negatives - wrong)
            for name, formula in formulas.items():
                value = formula(c, binary)
                curve.setdefault(name, []).append(None if math.isnan(value) else value)
        details[str(task.classes.values[code])] = curve
        return max(x for x in curve["dice"] if x is not None), 0.0

    metrics = discover()["confusion"].metrics
    formulas = {m.name: m.of_counts for m in metrics if m.of_counts is not None}
    binary = Task("labels", (), parameters={"beta": task.parameters["beta"]}, spacing=task.spacing)
    return replace(over_histograms(best, state, task), details=details)


def adaptive_calibration_error(state: Ranking, task: Task) -> Score:
    """Return the mean gap of bins that hold equally many voxels."""

    def mean_gap(h: Histogram, code: int) -> tuple[float, float]:
        voxels = h.positives + h.negatives
        if not voxels.sum():
            return math.nan, math.nan
        # Scores are within the two edges of their bin.
        edges = np.append(least(code, task), 1.0)
        places = np.searchsorted(edges[:-1], h.thresholds)
        low, high = edges[places], np.where(h.tied, edges[places], edges[places + 1])
        centre, slack = (low + high) / 2, (high - low) / 2
        gaps, errors = [], []
        for part in _equal_mass(voxels, task.parameters["bins"]):
            n = float(voxels[part].sum())
            gaps.append(abs(h.positives[part].sum() - (voxels * centre)[part].sum()) / n)
            errors.append(float((voxels * slack)[part].sum()) / n)
        return math.fsum(gaps) / len(gaps), math.fsum(errors) / len(errors) + 2.0**-40

    return over_histograms(mean_gap, state, task, ends=Ends(best=0.0, worst=1.0))


def _equal_mass(voxels: NDArray[np.int64], count: int) -> list[slice]:
    """Cut a histogram into runs of about equally many voxels; a bin is never cut."""
    ends = np.cumsum(voxels)
    targets = ends[-1] * np.arange(1, count + 1) / count
    cuts = np.unique(np.searchsorted(ends, targets * (1 - 1e-12)) + 1)
    return [slice(a, b) for a, b in zip([0, *cuts[:-1]], cuts, strict=True)]


def reference(
    truth: NDArray[Any], prediction: NDArray[Any], task: Task
) -> dict[str, tuple[float, dict[int, float]]]:
    """Return every metric here from whole arrays, threshold by threshold."""
    p = class_probabilities(prediction, task)
    results: dict[str, dict[int, float]] = {metric.name: {} for metric in READINGS.metrics}
    for code in task.classes.scored:
        y = truth == code
        edges = least(code, task)
        places = np.searchsorted(edges, p[code], "right") - 1
        candidates = edges[np.unique(places)[::-1]]
        counts = [
            tuple(np.float64(np.sum(part)) for part in (hit & y, hit & ~y, ~hit & y, ~hit & ~y))
            for hit in (edges[places] >= threshold for threshold in candidates)
        ]
        both = y.any() and not y.all()
        for name, formula in _FORMULAS.items():
            with np.errstate(invalid="ignore", divide="ignore"):
                asked = name != "f_beta" or "beta" in task.parameters
                values = [
                    formula(tp, fp, fn, tn, task) if asked else 0.0 for tp, fp, fn, tn in counts
                ]
            best = candidates[int(np.nanargmax(np.array(values)))] if both else math.nan
            results[f"best_threshold_{name}"][code] = float(best)
        wanted = task.parameters.get("specificity_at_least", 0.95)
        reached = [0.0]
        for score in np.unique(p[code]):
            hit = p[code] >= score
            if both and np.sum(~hit & ~y) / np.sum(~y) >= wanted:
                reached.append(float(np.sum(hit & y) / np.sum(y)))
        results["sensitivity_at_specificity"][code] = max(reached) if both else math.nan
        curve = [np.float64(0.0)]
        for threshold in np.linspace(0.0, 1.0, STEPS + 1):
            hit = edges[places] >= edges[np.searchsorted(edges, threshold)]
            if hit.any() or y.any():
                curve.append(2 * np.sum(hit & y) / (np.sum(hit) + np.sum(y)))
        results["threshold_curve"][code] = float(max(curve)) if y.any() else math.nan
        order = np.argsort(-p[code], kind="stable")
        voxels = np.bincount(places, minlength=len(edges))[::-1]
        runs = _equal_mass(voxels[voxels > 0], task.parameters.get("bins", 15))
        ends = np.append(0, np.cumsum(voxels[voxels > 0]))
        gaps = [
            abs(np.mean(y[order][a:b]) - np.mean(p[code][order][a:b]))
            for a, b in ((ends[run.start], ends[run.stop]) for run in runs)
        ]
        results["adaptive_calibration_error"][code] = float(np.mean(gaps))
    return {name: (naive_mean(numbers, task), numbers) for name, numbers in results.items()}


_FORMULAS = {"dice": _dice, "iou": _iou, "f_beta": _f_beta, "youden": _youden}
_LEAST = Parameter(
    "specificity_at_least",
    0.95,
    number(0.0, 1.0),
    "specificity that sensitivity_at_specificity keeps [default: 0.95]",
)


def _metric(name: str, title: str, score: Any, formula: str, source: str, **facts: Any) -> Metric:
    own = facts.pop("parameters", ())
    return Metric(
        name=name,
        title=title,
        score=score,
        formula=f"{formula}; one class against the rest, mean over the scored classes that are "
        "defined",
        source=source,
        range=(0.0, 1.0),
        kinds=KINDS,
        parameters=(*own, *OVER_CLASSES),
        empties="class not in the truth, or all of it: undefined",
        **{"higher_is_better": None, "invariances": frozenset({"duplication"}), **facts},
    )


def _best_metric(name: str, title: str, text: str, parameters: Any = ()) -> Metric:
    return _metric(
        f"best_threshold_{name}",
        f"Best threshold for {title}",
        _best(_FORMULAS[name]),
        f"the probability at or above which voxels are best called positive by {text}; of "
        "equally good ones the highest; exact for scores of 8 and 16 bits, else the best of "
        "the edges of some 225,000 bins; details hold the score there",
        "exhaustive search",
        parameters=parameters,
    )


READINGS = Readings(
    statistic="ranking",
    reference=reference,
    metrics=(
        _best_metric("dice", "Dice", "Dice"),
        _best_metric("iou", "IoU", "intersection over union"),
        _best_metric(
            "f_beta",
            "F-beta",
            "F-beta",
            parameters=(BETA,),
        ),
        _best_metric("youden", "Youden's J", "recall + specificity - 1"),
        _metric(
            "sensitivity_at_specificity",
            "Sensitivity at a specificity",
            sensitivity_at_specificity,
            "highest recall over all thresholds whose specificity is at least specificity_at_least",
            "torchmetrics SensitivityAtSpecificity",
            parameters=(_LEAST,),
            higher_is_better=True,
        ),
        _metric(
            "threshold_curve",
            "Metrics over the threshold",
            threshold_curve,
            f"every rate and overlap at the thresholds 0, 1/{STEPS} … 1, moved up to the next "
            "edge of a bin, in the details; the value is the largest Dice",
            "the metrics of labels, at each threshold",
            higher_is_better=True,
            parameters=(BETA,),
        ),
        _metric(
            "adaptive_calibration_error",
            "Adaptive calibration error (ACE)",
            adaptive_calibration_error,
            "mean over bins of |h/n - s/n|, bins of equally many voxels in the order of their "
            "probability, equal ones kept together; n: voxels of a bin, h: those of the class, "
            "s: sum of their probabilities",
            "Nixon et al. 2019, arXiv:1904.01685",
            parameters=(BINS,),
            higher_is_better=False,
        ),
    ),
)
