"""A second pass over scores whose order within a bin matters to an area under a curve.

A pass holds the scores of some bins, at most `MAX_SCORES`, and counts their pairs; passes go on
until no open bin is small enough. How areas follow from that is told in `ranking`.
"""

import functools
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from streamloss._jit import kernel
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
        hits = slab.truth[chosen] == code
        order = np.lexsort((hits, values))
        found.append(Scores(channels, bins[order], values[order], hits[order]))
    return functools.reduce(join, found)


def join(a: Scores, b: Scores) -> Scores:
    """Return the scores of both, sorted as each of them is."""
    if not len(a.values) or not len(b.values):
        return a if len(a.values) else b
    # Merging takes a twentieth of the time of sorting all anew, which every part would cost.
    first = _from_first(a.channels, a.values, a.positives, b.channels, b.values, b.positives)

    def both(ours: NDArray[Any], theirs: NDArray[Any]) -> NDArray[Any]:
        joined = np.empty(len(first), ours.dtype)
        joined[first], joined[~first] = ours, theirs
        return joined

    return Scores(
        both(a.channels, b.channels),
        both(a.bins, b.bins),
        both(a.values, b.values),
        both(a.positives, b.positives),
    )


@kernel
def _from_first(
    channels: NDArray[np.uint16],
    values: NDArray[np.float64],
    positives: NDArray[np.bool_],
    other_channels: NDArray[np.uint16],
    other_values: NDArray[np.float64],
    other_positives: NDArray[np.bool_],
) -> NDArray[np.bool_]:
    """Tell for each place of two sorted sequences made one whether it is of the first."""
    first = np.zeros(len(values) + len(other_values), np.bool_)
    i = j = 0
    for place in range(len(first)):
        if i == len(values):
            break
        if j == len(other_values):
            mine = True
        elif channels[i] != other_channels[j]:
            mine = channels[i] < other_channels[j]
        elif values[i] != other_values[j]:
            mine = values[i] < other_values[j]
        else:
            mine = positives[i] <= other_positives[j]
        first[place] = mine
        if mine:
            i += 1
        else:
            j += 1
    return first


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
                    v, y, place = -v[::-1], ~y[::-1], last - place
                tp, fp = (int(part[place]) for part in above)
                known[code, place] = _inside(v, y, tp, fp)
    return Ordered(state.counts, known)


@kernel
def _inside(
    values: NDArray[np.float64], hits: NDArray[np.bool_], tp: int, fp: int
) -> tuple[int, float]:
    """Return twice the pairs in order, and the sum of precisions, of the scores in one bin.

    Scores come sorted. A pass may open 100,000 bins, so this is a loop of its own: NumPy took
    100 µs for each.
    """
    twice = above = 0
    seen = tp + fp
    precision = lost = 0.0
    i = len(values) - 1
    while i >= 0:
        value = values[i]
        p = n = 0
        while i >= 0 and values[i] == value:
            p += hits[i]
            n += not hits[i]
            i -= 1
        twice += n * (2 * above + p)
        above += p
        tp += p
        seen += p + n
        if p > 0:
            # What a sum loses is kept beside it, as Neumaier does.
            term = p * tp / seen
            total = precision + term
            lost += (precision - total) + term if precision >= term else (term - total) + precision
            precision = total
    return twice, precision + lost
