"""Histograms of probabilities by true class, which voxels enter and metrics are read from.

Bins are described in `score_bins`; areas under curves are read in `ranking`, thresholds in
`thresholds`.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from streamloss.averages import Ends, Presence, over_classes
from streamloss.metrics import score_bins
from streamloss.metrics.another_look import Ordered
from streamloss.slab import Slab
from streamloss.statistic import Score
from streamloss.task import Task


class Ranking(NamedTuple):
    """Voxels by score.

    Attributes
    ----------
    counts
        `counts[c, y, b]`: voxels whose probability of channel c lies in bin b, of its class
        (y = 1) or of another (y = 0).
    """

    counts: NDArray[np.int64]


def update(state: Ranking, slab: Slab, task: Task) -> None:
    """Count the voxels of a slab."""
    bins = score_bins.bins_of(task)
    for channel, row in enumerate(slab.probabilities):
        code = channel if task.channels > 1 else 1
        score_bins.count(slab.truth, row, code, bins, state.counts[channel])


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


def least(code: int, task: Task) -> NDArray[np.float64]:
    """Return the least probability of a class that each of its bins can hold, from 0 up."""
    bins = score_bins.bins_of(task)
    mirrored = task.channels == 1 and code != 1
    return score_bins.least_mirrored(bins) if mirrored else score_bins.least(bins)


def histogram(state: Ranking | Ordered, code: int, task: Task) -> Histogram:
    """Return the histogram of a class against the rest."""
    if task.channels == 1 and code != 1:
        # The probability of the other class is the complement.
        return _filled(state.counts[0][::-1, ::-1], code, task, state)
    return _filled(state.counts[code if task.channels > 1 else 0], code, task, state)


def _filled(
    counts: NDArray[np.int64], code: int, task: Task, state: Ranking | Ordered | None = None
) -> Histogram:
    negatives, positives = counts
    mirrored = task.channels == 1 and code != 1
    tied = score_bins.tied(score_bins.bins_of(task))[:: -1 if mirrored else 1]
    filled = np.flatnonzero(positives + negatives)[::-1]
    known = {}
    if isinstance(state, Ordered):
        for place, bin_number in enumerate(filled.tolist()):
            if (code, bin_number) in state.known:
                known[place] = state.known[code, bin_number]
    thresholds = least(code, task)[filled]
    return Histogram(positives[filled], negatives[filled], thresholds, tied[filled], known)


def interval(low: float, high: float) -> tuple[float, float]:
    """Return the middle of an interval and its half width with the rounding of both ends."""
    rounding = 0.0 if low == high else 2.0**-52
    return (low + high) / 2, (high - low) / 2 + rounding


def over_histograms(
    formula: Callable[[Histogram, int], tuple[float, float]],
    state: Ranking,
    task: Task,
    ends: Ends = Ends(),  # noqa: B008
) -> Score:
    """Return the average over classes of a value and its bound.

    Parameters
    ----------
    formula
        From the histogram of a class and its code to the value and its bound, NaN if undefined.
    state, task
        As for a score.
    ends
        Best and worst value.
    """
    numbers, bounds = [math.nan] * len(task.classes), [0.0] * len(task.classes)
    presence = [Presence(0, None)] * len(task.classes)
    for code in task.classes.scored:
        h = histogram(state, code, task)
        value, bound = formula(h, code)
        numbers[code], bounds[code] = value, 0.0 if math.isnan(bound) else bound
        presence[code] = Presence(int(h.positives.sum()), None)

    def pooled() -> tuple[float, float]:
        scored = task.classes.scored
        if len(scored) == 1:
            return numbers[scored[0]], bounds[scored[0]]
        # The classes of several channels have the same bins.
        return formula(_filled(state.counts[list(scored)].sum(axis=0), scored[0], task), scored[0])

    return over_classes(
        numbers,
        task,
        presence,
        error_bound=bounds,
        pooled=pooled if task.classes.scored else None,
        ends=ends,
    )
