"""Cross entropy, focal loss and KL divergence, read from sums of the negative log-likelihood.

The kernels that fill the sums live in `likelihood` and `smoothed_likelihood`.
"""

import math
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamloss import exact
from streamloss.averages import CLASS_WEIGHTS, check_weights
from streamloss.errors import InvalidInputError
from streamloss.losses import (
    REDUCTION,
    check_reduction,
    loss_score,
    reduced,
    reference_loss,
)
from streamloss.metrics import likelihood
from streamloss.metrics.likelihood import ALPHA_LIMIT, LOGIT_LIMIT, Likelihood, class_weights
from streamloss.metrics.smoothed_likelihood import (
    add_entropy,
    add_smoothed_hard,
    add_smoothed_soft,
)
from streamloss.slab import Slab
from streamloss.statistic import Field, Metric, Parameter, Score, Statistic, number
from streamloss.task import Task


def update(state: Likelihood, slab: Slab, task: Task) -> None:
    """Add the terms of a slab."""
    likelihood.update(state, slab, task)
    if _is_smoothed(task):
        weights, _ = _kernel_weights(task)
        logits, eps = task.kind == "logits", task.parameters["eps"]
        smoothing = task.parameters["label_smoothing"]
        if task.soft_truth:
            truth: NDArray[Any] = slab.soft_truth
            add_smoothed_soft(truth, slab.scores, logits, eps, weights, smoothing, state.smoothed)
        else:
            truth = slab.truth
            add_smoothed_hard(truth, slab.scores, logits, eps, weights, smoothing, state.smoothed)
    if task.soft_truth and task.asks("kl_divergence"):
        add_entropy(slab.soft_truth, state.entropy)


def _weights(task: Task) -> list[float] | None:
    """Return the weight of each class in the cross entropy, or None if none is given."""
    weights: tuple[float, ...] | None = task.parameters.get("class_weights")
    positive: float | None = task.parameters.get("pos_weight")
    if positive is not None:
        return [1.0, positive]
    return None if weights is None else list(weights)


def _is_smoothed(task: Task) -> bool:
    """Whether the sum over voxels needs more than -ln p of each true class."""
    if not task.asks("cross_entropy", "dice_ce_loss"):
        return False
    if task.parameters.get("label_smoothing", 0.0) > 0.0:
        return True
    return task.soft_truth and _weights(task) is not None


def _kernel_weights(task: Task) -> tuple[NDArray[np.float64], float]:
    """Return the weights of the classes scaled to at most 1, and the power of 2 taken out."""
    weights = _weights(task) or [1.0] * len(task.classes)
    scale = 2.0 ** math.frexp(max(weights))[1]
    return np.array(weights) / scale, scale


def validate(task: Task) -> None:
    """Refuse weights that do not fit the number of classes, or each other."""
    check_reduction(task)
    count = len(task.classes)
    alpha = task.parameters.get("alpha")
    check_weights(task)
    if isinstance(alpha, tuple) and len(alpha) != count:
        raise InvalidInputError(
            f"alpha must hold one weight for each of the {count} classes, got {len(alpha)}"
        )
    if isinstance(alpha, float) and task.channels > 1:
        raise InvalidInputError(
            f"alpha of a multi-class focal loss must hold one weight for each of the "
            f"{count} classes, or be none; got the single number {alpha}"
        )
    if task.parameters.get("pos_weight") is not None:
        if task.channels > 1:
            raise InvalidInputError(
                "pos_weight is for two classes, the prediction has "
                f"{task.channels} channels: pass class_weights, one for each class"
            )
        if task.parameters.get("class_weights") is not None:
            raise InvalidInputError(
                "pass either pos_weight, which divides a mean by the voxels, or "
                "class_weights, which divides it by their weights, not both"
            )


def cross_entropy(state: Likelihood, task: Task) -> Score:
    """Return the mean or sum of the negative log-likelihood, weighted and smoothed as asked."""
    weights = _weights(task)
    voxels = [Fraction(int(n)) for n in state.voxels]
    sizes = voxels
    if weights is not None and task.parameters.get("class_weights") and task.hard_truth:
        sizes = [Fraction(w) * n for w, n in zip(weights, voxels, strict=True)]
    error = _term_error(task) * float(sum(voxels))
    totals = [exact.total(group) for group in state.loss]
    if _is_smoothed(task):
        scale = _kernel_weights(task)[1]
        totals = [exact.total(group) * Fraction(scale) for group in state.smoothed]
        # A term for each class of a voxel, of a truth of labels too.
        terms = task.channels if task.soft_truth else 1
        error *= scale * len(task.classes) / terms
    elif weights is not None:
        totals = [Fraction(w) * total for w, total in zip(weights, totals, strict=True)]
        error = _term_error(task) * float(
            sum(Fraction(w) * n for w, n in zip(weights, voxels, strict=True))
        )
    return reduced(totals, voxels, sizes, task, error, _counts(state, task))


def focal_loss(state: Likelihood, task: Task) -> Score:
    """Return the mean or sum of the focal loss."""
    error = _term_error(task) * float(class_weights(task).max())
    return loss_score(state.focal, state.voxels, task, error, _counts(state, task))


def kl_divergence(state: Likelihood, task: Task) -> Score:
    """Return the mean or sum of the cross entropy less the entropy of the truth."""
    voxels = [Fraction(int(n)) for n in state.voxels]
    totals = [
        exact.total(loss) + exact.total(entropy)
        for loss, entropy in zip(state.loss, state.entropy, strict=True)
    ]
    if task.channels == 1:
        # Of two distributions the divergence is not negative: what is below 0 is rounding.
        totals = [max(total, Fraction(0)) for total in totals]
    term = _term_error(task)
    if task.soft_truth:
        term += max(task.channels, 2) * (exact.FIXED_ROUNDING + 2.0**-52)
    return reduced(totals, voxels, voxels, task, term * float(sum(voxels)), _counts(state, task))


def _counts(state: Likelihood, task: Task) -> dict[str, int]:
    return {"clipped_voxels": int(state.clipped[0])} if task.kind == "probabilities" else {}


def _term_error(task: Task) -> float:
    """Bound the rounding of one voxel's term: of the float64 arithmetic and of the grid."""
    terms = task.channels if task.soft_truth else 1
    largest = -math.log(task.parameters["eps"]) if "eps" in task.parameters else 2 * LOGIT_LIMIT
    if task.kind == "logits":
        largest = 2 * LOGIT_LIMIT
    # The 2**-46 is that of `vecmath.log_for_grid`. 1 - p_t is off by 2**-53, and gamma times as
    # much in its power.
    gamma = float(task.parameters.get("gamma", 0.0))
    return terms * (exact.FIXED_ROUNDING + 2.0**-46 + (2.0**-49 + gamma * 2.0**-51) * largest)


def reference(
    truth: NDArray[Any], prediction: NDArray[Any], task: Task
) -> dict[str, tuple[float, dict[int, float]]]:
    """Return every metric from whole arrays, spelled out with NumPy."""
    scores = prediction.astype(np.float64)
    if task.kind == "logits":
        if task.channels == 1:
            log_p = -np.stack([np.logaddexp(0, scores[0]), np.logaddexp(0, -scores[0])])
        else:
            log_p = scores - np.logaddexp.reduce(scores, axis=0)
        p = np.exp(log_p)
        miss = 1 - p if task.channels > 1 else p[::-1]
    else:
        p = np.clip(scores, task.parameters["eps"], 1 - task.parameters["eps"])
        p = np.concatenate([1 - p, p]) if task.channels == 1 else p
        log_p, miss = np.log(p), 1 - p if task.channels > 1 else p[::-1]
    gamma, alpha = task.parameters.get("gamma", 0.0), class_weights(task)
    if task.hard_truth:
        y = (truth == np.arange(len(task.classes))[:, np.newaxis]).astype(np.float64)
    else:
        y = truth.astype(np.float64)
        y = np.concatenate([1 - y, y]) if task.channels == 1 else y
    cross = -np.sum(y * log_p, axis=0)
    if task.channels == 1:
        focal = cross * np.sum(y * miss, axis=0) ** gamma * (alpha @ y)
    else:
        focal = -np.sum(alpha[:, np.newaxis] * y * miss**gamma * log_p, axis=0)
    entropy = -np.sum(y * np.log(np.where(y > 0, y, 1)), axis=0)
    smoothing = task.parameters.get("label_smoothing", 0.0)
    weights = np.array(_weights(task) or [1.0] * len(y))
    smoothed = -weights @ (((1 - smoothing) * y + smoothing / len(y)) * log_p)
    sizes = None
    if task.hard_truth and task.parameters.get("class_weights"):
        sizes = weights @ y
    return {
        "cross_entropy": reference_loss(smoothed, truth, task, sizes),
        "focal_loss": reference_loss(focal, truth, task),
        "kl_divergence": reference_loss(cross - entropy, truth, task),
    }


def _alpha(value: Any) -> float | str | tuple[float, ...] | None:
    if value is None or (isinstance(value, str) and value.lower() == "none"):
        return None
    if isinstance(value, str) and value == "default":
        return value
    parts = value.split(",") if isinstance(value, str) else value
    try:
        numbers = tuple(float(part) for part in np.atleast_1d(np.asarray(parts, np.float64)))
    except (TypeError, ValueError):
        numbers = (math.nan,)
    top = 1.0 if len(numbers) == 1 else ALPHA_LIMIT
    if not all(0.0 <= weight <= top for weight in numbers):
        raise ValueError(
            "expected a number from 0 to 1 (binary), one weight from 0 to "
            f"{ALPHA_LIMIT:g} per class (multi-class), or none"
        )
    return numbers[0] if len(numbers) == 1 else numbers


def _pos_weight(value: Any) -> float | None:
    if value is None or (isinstance(value, str) and value.lower() == "none"):
        return None
    return number(0.0, 1e9)(value)


EPS = Parameter(
    "eps",
    2.0**-52,
    number(1e-300, 0.5),
    "probabilities are clipped to [eps, 1 - eps] [default: 2^-52, as scikit-learn]",
)
_ALPHA = Parameter(
    "alpha",
    "default",
    _alpha,
    "focal weight of positives (negatives get 1 - alpha), one per class, or none "
    "[default: 0.25 for binary, none for multi-class]",
)
_GAMMA = Parameter("gamma", 2.0, number(0.0, 1e6), "focal exponent [default: 2]")
WEIGHTS = (
    CLASS_WEIGHTS,
    Parameter(
        "pos_weight",
        None,
        _pos_weight,
        "weight of the positives in a binary cross entropy, whose mean divides by the voxels "
        "[default: none]",
    ),
    Parameter(
        "label_smoothing",
        0.0,
        number(0.0, 1.0),
        "share of the truth of a cross entropy that is spread evenly over the classes [default: 0]",
    ),
)

STATISTIC = Statistic(
    name="likelihood",
    state=Likelihood,
    fields={
        "voxels": Field(("truth_group",)),
        "loss": Field(("truth_group",), exact.FIXED_LIMBS),
        "focal": Field(("truth_group",), exact.FIXED_LIMBS),
        "clipped": Field((1,)),
        "smoothed": Field(("truth_group",), exact.FIXED_LIMBS),
        "entropy": Field(("truth_group",), exact.FIXED_LIMBS),
    },
    update=update,
    reference=reference,
    validate=validate,
    score_limit=LOGIT_LIMIT,
    clipped=lambda state: int(state.clipped[0]),
    metrics=(
        Metric(
            name="cross_entropy",
            title="Cross entropy (log loss)",
            score=cross_entropy,
            formula="-sum over classes k of w_k y_k ln p_k, mean over voxels, in nats; "
            "y: true distribution, one-hot for labels; p: predicted probability, clipped "
            "to [eps, 1 - eps], or the softmax or sigmoid of logits; w: 1, or class_weights, "
            "and then the mean over labels divides by the sum of their weights, or 1 and "
            "pos_weight; with label_smoothing s, y_k becomes (1 - s) y_k + s / classes; "
            "clipped_voxels counts those whose probability was clipped: of the true class, or, "
            "if the truth is a distribution, of any",
            source="scikit-learn log_loss; weights and smoothing as torch CrossEntropyLoss and "
            "BCEWithLogitsLoss(pos_weight)",
            range=(0.0, math.inf),
            higher_is_better=False,
            kinds=("probabilities", "logits"),
            default_for=("probabilities", "logits"),
            empties="no voxel scored, or none of positive weight: undefined",
            soft_truth=True,
            unit="nat",
            parameters=(EPS, *WEIGHTS, REDUCTION),
            differs="Keras clips at 1e-7; torch BCELoss clips ln p at -100",
            conventions={"keras": {"eps": 1e-7}, "torch": {"eps": math.exp(-100.0)}},
            invariances=frozenset({"class_permutation", "duplication"}),
        ),
        Metric(
            name="focal_loss",
            title="Focal loss",
            score=focal_loss,
            formula="-alpha_t (1 - p_t)^gamma ln p_t, mean over voxels; p_t: probability of "
            "the true class; alpha_t: alpha for positives and 1 - alpha for negatives "
            "(binary), or the weight of the true class (multi-class)",
            source="Lin et al. 2017, doi:10.1109/ICCV.2017.324; torchvision sigmoid_focal_loss",
            range=(0.0, math.inf),
            higher_is_better=False,
            kinds=("probabilities", "logits"),
            default_for=("probabilities", "logits"),
            empties="no voxel scored: undefined",
            soft_truth=True,
            unit="nat",
            parameters=(EPS, _ALPHA, _GAMMA, REDUCTION),
            differs="MONAI's FocalLoss leaves alpha out by default; RetinaNet divides the sum "
            "by the positives",
            conventions={"monai": {"alpha": None}, "retinanet": {"reduction": "positives"}},
            invariances=frozenset({"class_permutation", "duplication"}),
        ),
        Metric(
            name="kl_divergence",
            title="Kullback-Leibler divergence",
            score=kl_divergence,
            formula="sum over classes k of y_k (ln y_k - ln p_k), 0 ln 0 = 0, mean over voxels, "
            "in nats; y: true distribution, one-hot for labels, for which it is the cross "
            "entropy; p: predicted probability, clipped to [eps, 1 - eps], or the softmax or "
            "sigmoid of logits; it is negative only where a y or p does not sum to 1",
            source="Kullback and Leibler 1951, doi:10.1214/aoms/1177729694; SciPy rel_entr",
            range=(-math.inf, math.inf),
            higher_is_better=False,
            kinds=("probabilities", "logits"),
            empties="no voxel scored: undefined",
            soft_truth=True,
            unit="nat",
            parameters=(EPS, REDUCTION),
            differs="torchmetrics divides y and p by their sums first; torch KLDivLoss with "
            "reduction=mean divides by voxels times classes",
            invariances=frozenset({"class_permutation", "duplication"}),
        ),
    ),
)
