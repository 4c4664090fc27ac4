"""Sums of the Poisson negative log-likelihood of plain values.

The sums are exact to the last bit of each term; a sum of magnitudes bounds what cancels in one.
"""

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from streamloss import exact, float_sums, vecmath
from streamloss._jit import kernel
from streamloss.errors import InvalidInputError
from streamloss.losses import REDUCTION, check_reduction, loss_score, reference_loss, switch
from streamloss.slab import Slab
from streamloss.statistic import Field, Metric, Parameter, Score, Statistic, number
from streamloss.task import Task

TILE = 2048
# The exponential of a larger number is near the largest float64, or past it.
LOG_LIMIT = 700.0


class Poisson(NamedTuple):
    """Sums over voxels.

    Attributes
    ----------
    voxels
        Number of voxels, (1,).
    loss, magnitude
        Sums of the loss and of the absolute values of what it is made of.
    outside
        Voxels whose prediction has no likelihood, or none that a float64 holds.
    """

    voxels: NDArray[np.int64]
    loss: NDArray[np.int64]
    magnitude: NDArray[np.int64]
    outside: NDArray[np.int64]


def update(state: Poisson, slab: Slab, task: Task) -> None:
    """Add the terms of a slab."""
    log_input, full = task.parameters["log_input"], task.parameters["full"]
    eps = task.parameters["poisson_eps"]
    _add(slab.soft_truth[0], slab.scores[0], log_input, full, eps, *state)


@kernel
def _add(
    truth: NDArray[np.float64],
    prediction: NDArray[np.float64],
    log_input: bool,
    full: bool,
    eps: float,
    voxels: NDArray[np.int64],
    loss: NDArray[np.int64],
    magnitude: NDArray[np.int64],
    outside: NDArray[np.int64],
) -> None:
    terms = np.empty(TILE)
    sizes = np.empty(TILE)
    voxels[0] += truth.size
    for start in range(0, truth.size, TILE):
        targets = truth[start : start + TILE]
        p = prediction[start : start + TILE]
        for i in range(targets.size):
            t = targets[i]
            x = p[i]
            bad = x > LOG_LIMIT if log_input else x + eps <= 0.0
            outside[0] += bad
            x = 1.0 if bad else x
            if log_input:
                rate = vecmath.exp(x)
                other = t * x
                sizes[i] = rate + abs(other)
            else:
                rate = x
                logarithm = vecmath.log(x + eps)
                other = t * logarithm
                # x + eps is rounded, which moves its logarithm by as much.
                sizes[i] = abs(rate) + abs(other) + abs(t)
            terms[i] = rate - other
            if full and t > 1.0:
                log_t = vecmath.log(t)
                half = 0.5 * (log_t + 1.8378770664093453)
                terms[i] += t * log_t - t + half
                sizes[i] += t * log_t + t + half
        float_sums.add_float_terms(loss[0], terms[: targets.size])
        float_sums.add_float_terms(magnitude[0], sizes[: targets.size])


def poisson_nll(state: Poisson, task: Task) -> Score:
    """Return the mean or sum of the Poisson negative log-likelihood.

    Raises
    ------
    InvalidInputError
        If a prediction has no likelihood.
    """
    outside = int(state.outside[0])
    if outside:
        limit = (
            f"predictions of at most {LOG_LIMIT:g}, the logarithms of rates, with log_input=true "
            "(pass log_input=false if they are the rates)"
            if task.parameters["log_input"]
            else "predictions above -poisson_eps, the rates, with log_input=false"
        )
        raise InvalidInputError(f"poisson_nll needs {limit}: {outside:,} are not")
    score = loss_score(state.loss, state.voxels, task, 0.0)
    size = loss_score(state.magnitude, state.voxels, task, 0.0).value
    return Score(score.value, error_bound=2.0**-49 * size)


def reference(
    truth: NDArray[Any], prediction: NDArray[Any], task: Task
) -> dict[str, tuple[float, dict[int, float]]]:
    """Return the loss from whole arrays, spelled out with NumPy."""
    x, t = prediction[0].astype(np.float64), truth[0].astype(np.float64)
    if task.parameters["log_input"]:
        terms = np.exp(x) - t * x
    else:
        terms = x - t * np.log(x + task.parameters["poisson_eps"])
    if task.parameters["full"]:
        large = np.where(t > 1, t, 2.0)
        stirling = large * np.log(large) - large + 0.5 * np.log(2 * np.pi * large)
        terms = terms + np.where(t > 1, stirling, 0.0)
    return {"poisson_nll": reference_loss(terms, truth, task)}


STATISTIC = Statistic(
    name="poisson",
    state=Poisson,
    fields={
        "voxels": Field((1,)),
        "loss": Field((1,), exact.FLOAT_LIMBS),
        "magnitude": Field((1,), exact.FLOAT_LIMBS),
        "outside": Field((1,)),
    },
    update=update,
    reference=reference,
    validate=check_reduction,
    # The product of two larger numbers would overflow a float64.
    score_limit=1e150,
    metrics=(
        Metric(
            name="poisson_nll",
            title="Poisson negative log-likelihood",
            score=poisson_nll,
            formula="mean of exp(x) - t x over voxels, or with log_input=false of x - t ln(x + "
            "poisson_eps); t: true count, x: predicted log rate, or rate; with full=true, "
            "t ln t - t + ln(2 pi t) / 2 is added where t > 1 (Stirling)",
            source="torch PoissonNLLLoss",
            range=(-math.inf, math.inf),
            higher_is_better=False,
            kinds=("values",),
            empties="no voxel scored: undefined; a prediction without likelihood is refused",
            parameters=(
                Parameter(
                    "log_input",
                    True,
                    switch,
                    "true or false: whether poisson_nll is given logarithms of rates "
                    "[default: true]",
                ),
                Parameter(
                    "full",
                    False,
                    switch,
                    "true or false: whether poisson_nll has Stirling's term [default: false]",
                ),
                Parameter(
                    "poisson_eps",
                    1e-8,
                    number(1e-300, 1.0),
                    "added to a rate before its logarithm is taken [default: 1e-8]",
                ),
                REDUCTION,
            ),
            differs="Keras Poisson takes rates and adds 1e-7",
            conventions={
                "torch": {"log_input": True, "poisson_eps": 1e-8},
                "keras": {"log_input": False, "poisson_eps": 1e-7},
            },
            invariances=frozenset({"duplication"}),
        ),
    ),
)
