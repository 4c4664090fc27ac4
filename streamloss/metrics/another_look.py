"""A second pass over scores whose order within a bin matters to an area under a curve.

A pass holds the scores of some bins, at most `MAX_SCORES`, and counts their pairs; passes go on
until no open bin is small enough. How areas follow from that is told in `ranking`.
"""

import functools
import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from streamloss.metrics import score_bins
from streamloss.slab import Slab
from streamloss.task import Task

MAX_SCORES = 2**22
"""Scores that another pass holds at most; a bin with more stays an interval."""
_SCORE_BYTES = 2 + 4 + 8 + 1


def spare_bytes(task: Task) -> int:
    """Return the memory that the scores of a pass take, if there is one."""
    return 2 * _SCORE_BYTES * MAX_SCORES if task.parameters.get("exact") else 0


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
    channels, bins, values, positives
        Channel, bin, score and whether the voxel is of the channel's class.
    """

    channels: NDArray[np.uint16]
    bins: NDArray[np.int32]
    values: NDArray[np.float64]
    positives: NDArray[np.bool_]


def find(state: Scores, slab: Slab, task: Task) -> Scores:
    """Collect the scores of a slab in the bins that are looked into."""
    wanted = task.questions["ranking"]
    layout = score_bins.bins_of(task)
    # One logit is a score itself: far from 0 many have the same probability.
    scores = slab.scores if layout.values == "logits" else slab.probabilities
    found = [state]
    for channel, row in enumerate(slab.probabilities):
        places = score_bins.places(row, layout)
        chosen = wanted[channel][places]
        code = channel if task.channels > 1 else 1
        values = scores[channel][chosen].astype(np.float64)
        channels = np.full(values.size, channel, np.uint16)
        bins = places[chosen].astype(np.int32)
        found.append(Scores(channels, bins, values, slab.truth[chosen] == code))
    return functools.reduce(join, found)


def join(a: Scores, b: Scores) -> Scores:
    """Return the scores of both, sorted."""
    channels = np.concatenate([a.channels, b.channels])
    bins = np.concatenate([a.bins, b.bins])
    values = np.concatenate([a.values, b.values])
    positives = np.concatenate([a.positives, b.positives])
    order = np.lexsort((positives, values, channels))
    return Scores(channels[order], bins[order], values[order], positives[order])


def no_scores(task: Task) -> Scores:
    """Return the scores of no voxel."""
    return Scores(np.empty(0, np.uint16), np.empty(0, np.int32), np.empty(0), np.empty(0, np.bool_))


def ask(state: Any, task: Task) -> NDArray[np.bool_] | None:
    """Choose the bins to look into, those first whose order could matter most."""
    if not task.parameters.get("exact"):
        return None
    known = state.known if isinstance(state, Ordered) else {}
    negatives, positives = state.counts[:, 0], state.counts[:, 1]
    voxels = negatives + positives
    matters = negatives.astype(np.float64) * positives
    # A bin of positives only matters to the precision of each.
    both = task.channels == 1 and 0 in task.classes.scored
    matters = np.maximum(matters, (voxels > 1) & ((positives > 0) | both))
    matters *= ~score_bins.tied(score_bins.bins_of(task))
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


def learn(state: Any, found: Scores, task: Task) -> Ordered:
    """Count the pairs, and sum the precisions, of the bins that were looked into."""
    known = dict(state.known) if isinstance(state, Ordered) else {}
    last = state.counts.shape[2] - 1
    for channel in range(len(state.counts)):
        of_channel = found.channels == channel
        values, hits = found.values[of_channel], found.positives[of_channel]
        places = found.bins[of_channel]
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
                    v, y, place = -v, ~y, last - place
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
