"""Histograms of probabilities by true class, and the areas under curves read from them.

The bins are fine near 0 and near 1. Where a bin can hold unequal scores the areas are
intervals: a value and its error bound. Thresholds are read from the same state elsewhere.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from streamloss._jit import float_bits, kernel
from streamloss.averages import OVER_CLASSES, Ends, Presence, naive_mean, over_classes
from streamloss.errors import InvalidInputError
from streamloss.losses import switch
from streamloss.slab import Slab
from streamloss.statistic import Field, Invariance, Metric, Parameter, Score, Statistic, number
from streamloss.task import Kind, Task

TILE = 1024
# From 2**-6 to 1 - 2**-6 bins have one width, 2**-6 of the steps below in each octave; below
# 2**-30 there is one bin, and one more for 0.
_OCTAVES = 24
_MIDDLE = 2.0**-6
_LEAST = 2.0**-30
_LEAST_BITS = int(np.float64(_LEAST).view(np.int64))
MAX_SCORES = 2**22
"""Scores that another pass holds at most; a bin with more stays an interval."""
CURVE_POINTS = 200
"""Points that a curve is thinned to."""


class Ranking(NamedTuple):
    """Voxels by score.

    Attributes
    ----------
    counts
        `counts[c, y, b]`: voxels whose probability of channel c lies in bin b, of its class
        (y = 1) or of another (y = 0).
    """

    counts: NDArray[np.int64]


class Ordered(NamedTuple):
    """A ranking of which the order within some bins is known from another pass.

    Attributes
    ----------
    counts
        As in `Ranking`.
    known
        By class code and bin, twice the pairs of the bin that are in the right order (a tie
        is one), and the sum over its voxels of the class of the precision at their score.
    """

    counts: NDArray[np.int64]
    known: dict[tuple[int, int], tuple[int, float]]


class Scores(NamedTuple):
    """The scores in the bins that a pass looks into, sorted.

    Attributes
    ----------
    channels, values, positives
        Channel, probability and whether the voxel is of the channel's class.
    """

    channels: NDArray[np.uint16]
    values: NDArray[np.float64]
    positives: NDArray[np.bool_]


def resolution(task: Task) -> int:
    """Return the binary digits that a bin keeps of a probability below 2**-6.

    With 11 of them every 8- and 16-bit code has a bin of its own and a state takes 3.6 MB a
    channel; many channels get fewer.
    """
    return 11 if task.channels <= 8 else 7 if task.channels <= 128 else 3


def bins(task: Task) -> int:
    """Return the number of bins of a channel."""
    steps = 1 << resolution(task)
    return 2 * (2 + _OCTAVES * steps) + 62 * steps + 1


def update(state: Ranking, slab: Slab, task: Task) -> None:
    """Count the voxels of a slab."""
    _count(slab.truth, slab.probabilities, resolution(task), state.counts)


@kernel
def _count(
    truth: NDArray[Any], probabilities: NDArray[Any], digits: int, counts: NDArray[np.int64]
) -> None:
    total = counts.shape[2]
    steps = 1 << digits
    low = 2 + _OCTAVES * steps
    shift = 52 - digits
    first = (_LEAST_BITS >> shift) - 2
    places = np.empty(TILE, np.int64)
    for k in range(probabilities.shape[0]):
        code = k if probabilities.shape[0] > 1 else 1
        for start in range(0, truth.size, TILE):
            codes = truth[start : start + TILE]
            row = probabilities[k, start : start + TILE]
            for i in range(codes.size):
                p = np.float64(row[i])
                rest = 1.0 - p
                q = p if p < rest else rest
                # A zero takes bin 0, what is below the least octave bin 1.
                end = (float_bits(q) >> shift) - first
                end = end if q >= _LEAST else (1 if q > 0.0 else 0)
                end = end if p < 0.5 else total - 1 - end
                middle = np.int64(p * (64.0 * steps)) - steps + low
                places[i] = middle if q >= _MIDDLE else end
            for i in range(codes.size):
                counts[k, 1 if codes[i] == code else 0, places[i]] += 1


@functools.lru_cache(maxsize=4)
def edges(digits: int) -> NDArray[np.float64]:
    """Return the least probability that each bin can hold."""
    steps = 1 << digits
    first = _LEAST_BITS >> (52 - digits)
    octaves = np.arange(first, first + _OCTAVES * steps, dtype=np.int64) << (52 - digits)
    below = np.concatenate([[0.0, np.nextafter(0.0, 1.0)], octaves.view(np.float64)])
    middle = np.arange(steps, 63 * steps + 1) / (64.0 * steps)
    # Mirrored bins hold their larger end.
    above = np.minimum(np.nextafter(1.0 - np.append(below[1:], _MIDDLE)[::-1], 2.0), 1.0)
    return np.concatenate([below, middle, above])


class Histogram(NamedTuple):
    """Voxels of one class and of the others by bin, from the highest score down.

    Attributes
    ----------
    positives, negatives
        Voxels of each bin that is not empty.
    thresholds
        Least probability of each of these bins.
    tied
        Whether the scores in a bin are all equal.
    known
        What `Ordered` knows of each of these bins, by its place here.
    """

    positives: NDArray[np.int64]
    negatives: NDArray[np.int64]
    thresholds: NDArray[np.float64]
    tied: NDArray[np.bool_]
    known: dict[int, tuple[int, float]]


def histogram(state: Ranking | Ordered, code: int, task: Task) -> Histogram:
    """Return the histogram of a class against the rest."""
    digits = resolution(task)
    thresholds = edges(digits)
    tied = _tied(task)
    if task.channels > 1:
        negatives, positives = state.counts[code]
    elif code == 1:
        negatives, positives = state.counts[0]
    else:
        # The probability of the other class is the complement.
        positives, negatives = state.counts[0][:, ::-1]
        tied = tied[::-1]
    filled = np.flatnonzero(positives + negatives)[::-1]
    known = {}
    if isinstance(state, Ordered):
        for place, bin_number in enumerate(filled.tolist()):
            if (code, bin_number) in state.known:
                known[place] = state.known[code, bin_number]
    return Histogram(positives[filled], negatives[filled], thresholds[filled], tied[filled], known)


def _tied(task: Task) -> NDArray[np.bool_]:
    """Tell which bins can hold but one value of the type the scores have."""
    digits = resolution(task)
    total = bins(task)
    if task.kind == "probabilities" and (
        task.score_bits <= 8 or (task.score_bits == 16 and digits == 11)
    ):
        return np.ones(total, np.bool_)
    tied = np.zeros(total, np.bool_)
    tied[0] = tied[-1] = True
    if task.kind == "probabilities" and task.score_bits == 32:
        # 1 - p of a float32 above 1/2 is a whole number of 2**-24.
        near_one = 1.0 - edges(digits) < 2.0 ** (digits - 24)
        tied |= near_one
    return tied


def interval(low: float, high: float) -> tuple[float, float]:
    """Return the middle of an interval and its half width with the rounding of both ends."""
    rounding = 0.0 if low == high else 2.0**-52
    return (low + high) / 2, (high - low) / 2 + rounding


def _auroc(h: Histogram, task: Task) -> tuple[float, float]:
    positives, negatives = h.positives.tolist(), h.negatives.tolist()
    above = twice = open_pairs = 0
    for place, (p, n, tied) in enumerate(zip(positives, negatives, h.tied.tolist(), strict=True)):
        inside = h.known[place][0] if place in h.known else n * p
        twice += 2 * n * above + inside
        above += p
        open_pairs += 0 if tied or place in h.known else n * p
    pairs = 2 * above * sum(negatives)
    if not pairs:
        return math.nan, math.nan
    return twice / pairs, open_pairs / pairs


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
    # At best all positives of a bin come first and together. At worst each comes alone after
    # all negatives: a sum over i of (a + i) / (a + i + c), with sum 1 / (x + i) bounded by an
    # integral, as 1 / x is convex.
    best = p * tp / (tp + fp - n)
    before = tp - p
    worst = p - fp * np.log1p(p / (before + fp + 0.5))
    low = math.fsum(np.where(tied, precise, worst)) / tp[-1]
    high = math.fsum(np.where(tied, precise, best)) / tp[-1]
    if tied.all():
        return high, 2.0**-50
    value, bound = interval(max(low, 0.0), min(high, 1.0))
    return value, bound + 2.0**-48


def _partial_auroc(h: Histogram, task: Task) -> tuple[float, float]:
    limit = task.parameters["max_fpr"]
    p, n = h.positives.astype(np.float64), h.negatives.astype(np.float64)
    if p.sum() == 0 or n.sum() == 0:
        return math.nan, math.nan
    tpr, fpr = np.cumsum(p) / p.sum(), np.cumsum(n) / n.sum()
    before_t, before_f = np.append(0.0, tpr[:-1]), np.append(0.0, fpr[:-1])
    areas = []
    for corner in ("worst", "best"):
        # Within an open bin the curve runs along one of the sides of its box.
        mid_t = np.where(h.tied, (before_t + tpr) / 2, before_t if corner == "worst" else tpr)
        mid_f = np.where(h.tied, (before_f + fpr) / 2, fpr if corner == "worst" else before_f)
        t = np.append(0.0, np.stack([mid_t, tpr], 1).ravel())
        f = np.append(0.0, np.stack([mid_f, fpr], 1).ravel())
        inside = f <= limit
        stop = int(np.searchsorted(f, limit, "right"))
        f, t = (
            np.append(f[inside], limit),
            np.append(t[inside], np.interp(limit, f[stop - 1 : stop + 1], t[stop - 1 : stop + 1])),
        )
        area = math.fsum(np.diff(f) * (t[1:] + t[:-1]) / 2)
        chance, top = limit * limit / 2, limit
        areas.append((1 + (area - chance) / (top - chance)) / 2)
    value, bound = interval(*areas)
    return value, bound + 2.0**-48


def _per_class(
    formula: Callable[[Histogram, Task], tuple[float, float]],
) -> Callable[[Ranking, Task], Score]:
    def score(state: Ranking, task: Task) -> Score:
        histograms = [histogram(state, code, task) for code in range(len(task.classes))]
        return class_scores([formula(h, task) for h in histograms], histograms, task)

    return score


def class_scores(
    found: Sequence[tuple[float, float]], histograms: Sequence[Histogram], task: Task
) -> Score:
    """Return the average of a value and a bound per class."""
    presence = [Presence(int(h.positives.sum()), int(h.positives.sum())) for h in histograms]
    return over_classes(
        [value for value, _ in found],
        task,
        presence,
        error_bound=[0.0 if math.isnan(bound) else bound for _, bound in found],
        ends=Ends(),
    )


def _find(state: Scores, slab: Slab, task: Task) -> Scores:
    """Collect the scores of a slab in the bins that are looked into."""
    wanted = task.questions["ranking"]
    least = edges(resolution(task))
    found = [state]
    for channel, row in enumerate(slab.probabilities):
        chosen = wanted[channel][np.searchsorted(least, row, "right") - 1]
        code = channel if task.channels > 1 else 1
        values = row[chosen].astype(np.float64)
        channels = np.full(values.size, channel, np.uint16)
        found.append(Scores(channels, values, slab.truth[chosen] == code))
    return functools.reduce(_join, found)


def _join(a: Scores, b: Scores) -> Scores:
    channels = np.concatenate([a.channels, b.channels])
    values = np.concatenate([a.values, b.values])
    positives = np.concatenate([a.positives, b.positives])
    order = np.lexsort((positives, values, channels))
    return Scores(channels[order], values[order], positives[order])


def _no_scores(task: Task) -> Scores:
    return Scores(np.empty(0, np.uint16), np.empty(0), np.empty(0, np.bool_))


def _ask(state: Ranking | Ordered, task: Task) -> NDArray[np.bool_] | None:
    """Choose the bins to look into, those first whose order could matter most."""
    if not task.parameters.get("exact"):
        return None
    known = state.known if isinstance(state, Ordered) else {}
    negatives, positives = state.counts[:, 0], state.counts[:, 1]
    voxels = negatives + positives
    matters = negatives.astype(np.float64) * positives
    # A bin of positives only matters to the precision of each.
    both = task.channels == 1 and 0 in task.classes.scored
    matters = np.maximum(matters, (voxels > 1) & ((positives > 0) | both)) * ~_tied(task)
    for code, place in known:
        matters[code if task.channels > 1 else 0, place] = 0.0
    matters[voxels > MAX_SCORES] = 0.0
    order = np.argsort(-matters, axis=None, kind="stable")
    order = order[: int(np.count_nonzero(matters))]
    within = order[np.cumsum(voxels.reshape(-1)[order]) <= MAX_SCORES]
    if not within.size:
        return None
    chosen = np.zeros(matters.size, np.bool_)
    chosen[within] = True
    return chosen.reshape(matters.shape)


def _learn(state: Ranking | Ordered, found: Scores, task: Task) -> Ordered:
    """Count the pairs, and sum the precisions, of the bins that were looked into."""
    known = dict(state.known) if isinstance(state, Ordered) else {}
    least = edges(resolution(task))
    for channel in range(len(state.counts)):
        of_channel = found.channels == channel
        values, hits = found.values[of_channel], found.positives[of_channel]
        places = np.searchsorted(least, values, "right") - 1
        starts = np.flatnonzero(np.diff(places, prepend=-1))
        codes = (channel,) if task.channels > 1 else task.classes.scored
        for code in codes:
            negatives, positives = state.counts[channel]
            mirrored = task.channels == 1 and code == 0
            if mirrored:
                negatives, positives = positives[::-1], negatives[::-1]
            above = [part.sum() - np.cumsum(part) for part in (positives, negatives)]
            for start, stop in zip(starts, [*starts[1:], len(places)], strict=True):
                v, y, place = values[start:stop], hits[start:stop], int(places[start])
                if mirrored:
                    v, y, place = 1.0 - v, ~y, len(least) - 1 - place
                tp, fp = (int(part[place]) for part in above)
                known[code, place] = _inside(v, y, tp, fp)
    return Ordered(state.counts, known)


def _inside(
    values: NDArray[np.float64], hits: NDArray[np.bool_], tp: int, fp: int
) -> tuple[int, float]:
    """Return twice the pairs in order, and the sum of precisions, of the scores in one bin."""
    _, groups = np.unique(-values, return_inverse=True)
    p, n = np.bincount(groups[hits]), np.bincount(groups[~hits])
    size = max(len(p), len(n))
    p, n = np.pad(p, (0, size - len(p))), np.pad(n, (0, size - len(n)))
    before = np.cumsum(p) - p
    twice = int((n * (2 * before + p)).sum())
    hits_above, all_above = tp + np.cumsum(p), tp + fp + np.cumsum(p + n)
    return twice, math.fsum(p * hits_above / np.maximum(all_above, 1))


def validate(task: Task) -> None:
    """Refuse an exact ranking of weighted voxels."""
    if task.parameters.get("exact") and task.weighted:
        raise InvalidInputError("exact=True cannot be combined with weights of voxels")


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
    fields={"counts": Field(("channel", 2, bins))},
    update=update,
    reference=reference,
    validate=validate,
    score_limit=2.0**16,
    ask=_ask,
    answer=Statistic(
        name="ranking",
        state=Scores,
        update=_find,
        metrics=(),
        custom_empty=_no_scores,
        custom_merge=_join,
        score_limit=2.0**16,
    ),
    learn=_learn,
    # Scores of 11 bytes, and as much again to sort them.
    spare_bytes=lambda task: 22 * MAX_SCORES if task.parameters.get("exact") else 0,
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
