"""Counts of voxels by true and predicted class: the confusion matrix, and one class of it.

What is read from them is defined in `confusion` and the modules that add to it.
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from streamloss._jit import kernel, use_wide_vectors
from streamloss.slab import Slab
from streamloss.task import Task

# Few enough voxels to count in 32 bits.
_RUN = 2**20


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
    if task.channels == 1 and task.kind != "labels":
        # To write the decisions and count them would take twice as long.
        count_decisions(slab.truth, slab.scores[0], slab.least_positive, state.counts)
    else:
        np.add(state.counts, slab.pairs, out=state.counts)


@kernel
def count_decisions(
    truth: NDArray[np.uint8], scores: NDArray[Any], least: Any, counts: NDArray[Any]
) -> None:
    """Add the number of voxels of each pair of true code and decision to `counts`.

    Parameters
    ----------
    truth
        uint8 of one dimension, 0 or 1.
    scores
        As many float32 or float64.
    least
        Smallest score of the decision for 1, of the scores' type.
    counts
        int64 of shape (2, 2); updated in place.
    """
    use_wide_vectors()
    for start in range(0, truth.size, _RUN):
        codes = truth[start : start + _RUN]
        row = scores[start : start + _RUN]
        trues = predicted = both = np.int32(0)
        for i in range(codes.size):
            # In 32 bits, as wide as a float32: half the instructions of 64.
            code = np.int32(codes[i])
            decision = np.int32(row[i] >= least)
            trues = np.int32(trues + code)
            predicted = np.int32(predicted + decision)
            both = np.int32(both + (code & decision))
        counts[1, 1] += both
        counts[1, 0] += trues - both
        counts[0, 1] += predicted - both
        counts[0, 0] += codes.size - trues - predicted + both


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
