"""Sums of hinge losses of raw scores, exact to the last bit of each term."""

import math
from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from streamloss import exact, float_sums
from streamloss._jit import kernel
from streamloss.losses import REDUCTION, check_reduction, reduced, reference_loss
from streamloss.slab import Slab
from streamloss.statistic import Field, Metric, Score, Statistic
from streamloss.task import Task

TILE = 2048


class Hinge(NamedTuple):
    """Sums over the voxels of each true class.

    Attributes
    ----------
    voxels
        Voxels of each class.
    hinge, squared
        Sums of the hinge loss and of its square.
    """

    voxels: NDArray[np.int64]
    hinge: NDArray[np.int64]
    squared: NDArray[np.int64]


def update(state: Hinge, slab: Slab, task: Task) -> None:
    """Add the terms of a slab."""
    _add(
        slab.truth,
        slab.scores,
        task.asks("hinge_loss"),
        task.asks("squared_hinge_loss"),
        *state,
    )


@kernel
def _add(
    truth: NDArray[Any],
    scores: NDArray[Any],
    plain: bool,
    square: bool,
    voxels: NDArray[np.int64],
    hinge: NDArray[np.int64],
    squared: NDArray[np.int64],
) -> None:
    channels = scores.shape[0]
    classes = voxels.size
    terms = np.empty(TILE)
    rival = np.empty(TILE)
    for start in range(0, truth.size, TILE):
        codes = truth[start : start + TILE]
        size = codes.size
        for i in range(size):
            voxels[codes[i]] += 1
        if channels == 1:
            for i in range(size):
                x = np.float64(scores[0, start + i])
                terms[i] = max(1.0 - (x if codes[i] == 1 else -x), 0.0)
        else:
            for i in range(size):
                rival[i] = -np.inf
            for k in range(channels):
                for i in range(size):
                    x = np.float64(scores[k, start + i])
                    rival[i] = max(rival[i], x) if codes[i] != k else rival[i]
            for i in range(size):
                own = np.float64(scores[codes[i], start + i])
                terms[i] = max(1.0 - (own - rival[i]), 0.0)
        if plain:
            float_sums.add_float_by_class(hinge, codes, terms[:size], classes)
        if square:
            for i in range(size):
                terms[i] *= terms[i]
            float_sums.add_float_by_class(squared, codes, terms[:size], classes)


def hinge_loss(state: Hinge, task: Task) -> Score:
    """Return the mean or sum of the hinge loss."""
    return _score(state.hinge, state, task, 2.0**-51)


def squared_hinge_loss(state: Hinge, task: Task) -> Score:
    """Return the mean or sum of the squared hinge loss."""
    return _score(state.squared, state, task, 2.0**-49)


def _score(sums: NDArray[np.int64], state: Hinge, task: Task, relative: float) -> Score:
    """Bound the error by the rounding of the terms: the sum itself is exact.

    A term 1 - m is off by an ulp of m, which is at most the term's own plus 2^-52.
    """
    totals = [exact.total(group) for group in sums]
    voxels = [Fraction(int(n)) for n in state.voxels]
    error = relative * (float(sum(totals)) + float(sum(voxels)))
    return reduced(totals, voxels, voxels, task, error)


def reference(
    truth: NDArray[Any], prediction: NDArray[Any], task: Task
) -> dict[str, tuple[float, dict[int, float]]]:
    """Return both losses from whole arrays, spelled out with NumPy."""
    x = prediction.astype(np.float64)
    if task.channels == 1:
        margin = x[0] * np.where(truth == 1, 1.0, -1.0)
    else:
        own = truth == np.arange(len(x))[:, np.newaxis]
        margin = np.max(np.where(own, x, -np.inf), axis=0) - np.max(
            np.where(own, -np.inf, x), axis=0
        )
    terms = np.maximum(1 - margin, 0)
    return {
        "hinge_loss": reference_loss(terms, truth, task),
        "squared_hinge_loss": reference_loss(terms**2, truth, task),
    }


def _metric(name: str, title: str, score: Any, power: str, source: str) -> Metric:
    return Metric(
        name=name,
        title=title,
        score=score,
        formula=f"max(0, 1 - m){power}, mean over voxels; m: the margin, s x for one raw score x "
        "with s = 1 for positives and -1 for negatives, or x of the true class less the "
        "largest other x (Crammer and Singer)",
        source=source,
        range=(0.0, math.inf),
        higher_is_better=False,
        kinds=("logits",),
        empties="no voxel scored: undefined",
        parameters=(REDUCTION,),
        invariances=frozenset({"class_permutation", "duplication"}),
    )


STATISTIC = Statistic(
    name="hinge",
    state=Hinge,
    fields={
        "voxels": Field(("class",)),
        "hinge": Field(("class",), exact.FLOAT_LIMBS),
        "squared": Field(("class",), exact.FLOAT_LIMBS),
    },
    update=update,
    reference=reference,
    validate=check_reduction,
    # The square of a larger score would overflow a float64.
    score_limit=1e150,
    metrics=(
        _metric("hinge_loss", "Hinge loss", hinge_loss, "", "scikit-learn hinge_loss"),
        _metric(
            "squared_hinge_loss",
            "Squared hinge loss",
            squared_hinge_loss,
            "^2",
            "torchmetrics HingeLoss(squared=True)",
        ),
    ),
)
