"""Soft overlap of probabilities with the truth: Dice, IoU, Tversky, and the losses made of them.

All are read from the sums of `moments`; the bounds on their errors are proven here.
"""

import math
from collections.abc import Callable
from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from streamloss import exact
from streamloss.averages import OVER_CLASSES, Ends, Presence, naive_mean, over_classes
from streamloss.losses import choice, log_cosh, power
from streamloss.metrics.moments import OVERLAP, Moments
from streamloss.metrics.ranking import class_probabilities
from streamloss.statistic import Metric, Parameter, Readings, Score, number
from streamloss.task import Task

# Each sum over voxels is off by at most a grid step a voxel, one of the complement by three.
SUM_ERROR = 3 * Fraction(2 * exact.FIXED_ROUNDING)
_ROUNDING = 2.0**-53


class _Sums(NamedTuple):
    """Exact sums of one class: of p, y and p y, or of p^2, y^2 and p y."""

    probability: Fraction
    truth: Fraction
    overlap: Fraction


class _Ratio(NamedTuple):
    """(both B + smooth_nr) / (probability P + truth Y + overlap B + smooth_dr) of the sums."""

    both: Fraction
    probability: Fraction
    truth: Fraction
    overlap: Fraction


DICE = _Ratio(Fraction(2), Fraction(1), Fraction(1), Fraction(0))
# Both sides are doubled, as in MONAI, so that the smoothing is that of Dice.
IOU = _Ratio(Fraction(2), Fraction(2), Fraction(2), Fraction(-2))


def _tversky(task: Task) -> _Ratio:
    alpha = Fraction(task.parameters["tversky_alpha"])
    beta = Fraction(task.parameters["tversky_beta"])
    return _Ratio(Fraction(1), alpha, beta, 1 - alpha - beta)


def sums_of_classes(state: Moments, task: Task, *, squared: bool) -> list[_Sums]:
    """Return the sums of each class code."""
    voxels = int(state.voxels.sum())
    truth = state.truth_squared if squared and task.soft_truth else state.truth
    probability = state.probability_squared if squared else state.probability
    sums = [
        _Sums(*(exact.total(part[k]) for part in (probability, truth, state.overlap)))
        for k in range(len(state.probability))
    ]
    if task.channels == 1:
        # The negative class is the complement of the one channel.
        p, y, both = (
            exact.total(part[0]) for part in (state.probability, state.truth, state.overlap)
        )
        squares = (sums[0].probability, sums[0].truth)
        of_ones = (voxels - 2 * p + squares[0], voxels - 2 * y + squares[1])
        plain = (voxels - p, voxels - y)
        sums.insert(0, _Sums(*(of_ones if squared else plain), voxels - p - y + both))
    return sums


def divided(
    top: Fraction, bottom: Fraction, top_error: Fraction, bottom_error: Fraction
) -> tuple[float, float]:
    """Return a ratio in [0, 1] and how far it can be off."""
    if bottom <= 0:
        return math.nan, math.nan
    ratio = top / bottom
    # |a/b - a'/b'| <= (|a - a'| + a'/b' |b - b'|) / b, and b >= b' - |b - b'|.
    least = bottom - bottom_error
    slack = float((top_error + ratio * bottom_error) / least) if least > 0 else 1.0
    return float(min(max(ratio, Fraction(0)), Fraction(1))), min(slack, 1.0) + _ROUNDING


def _ratio_of(sums: _Sums, ratio: _Ratio, task: Task, error: Fraction) -> tuple[float, float]:
    """Return a ratio of sums that are each off by at most `error`, and how far it can be off."""
    p, y, both = sums
    weight = abs(ratio.probability) + abs(ratio.truth) + abs(ratio.overlap)
    return divided(
        ratio.both * both + Fraction(task.parameters["smooth_nr"]),
        ratio.probability * p
        + ratio.truth * y
        + ratio.overlap * both
        + Fraction(task.parameters["smooth_dr"]),
        ratio.both * error,
        weight * error,
    )


def _score_of(
    ratio: Callable[[Task], _Ratio],
    finish: Callable[[float, float, Task], tuple[float, float]] = lambda x, bound, task: (x, bound),
    ends: Ends = Ends(),  # noqa: B008
    squares: bool = True,
) -> Callable[[Moments, Task], Score]:
    """Return the score that is the mean over classes of a ratio, or of a function of it.

    Parameters
    ----------
    ratio
        Coefficients of the sums.
    finish
        From the ratio of a class and its bound to the number of the class and its bound.
    ends
        Best and worst value.
    squares
        Whether `denominator` may ask for squares.
    """

    def score(state: Moments, task: Task) -> Score:
        sums = sums_of_classes(
            state, task, squared=squares and task.parameters["denominator"] == "squared"
        )
        error = SUM_ERROR * int(state.voxels.sum())
        found = [finish(*_ratio_of(each, ratio(task), task, error), task) for each in sums]

        def pooled() -> tuple[float, float]:
            chosen = [sums[code] for code in task.classes.scored]
            whole = _Sums(*(sum(part, Fraction(0)) for part in zip(*chosen, strict=True)))
            return finish(*_ratio_of(whole, ratio(task), task, len(chosen) * error), task)

        return over_classes(
            [value for value, _ in found],
            task,
            [Presence(each.truth, each.probability) for each in sums],
            error_bound=[bound for _, bound in found],
            pooled=pooled if task.classes.scored else None,
            ends=ends,
        )

    return score


def _complement(value: float, bound: float, task: Task) -> tuple[float, float]:
    return 1.0 - value, bound


def _focal(value: float, bound: float, task: Task) -> tuple[float, float]:
    gamma: float = task.parameters["tversky_gamma"]
    miss = 1.0 - value
    return math.nan if math.isnan(miss) else power(miss, gamma), _power_error(miss, bound, gamma)


def _log_cosh(value: float, bound: float, task: Task) -> tuple[float, float]:
    # The slope of log cosh is at most 1.
    loss = math.nan if math.isnan(value) else max(log_cosh(1.0 - value), 0.0)
    return loss, bound + 2.0**-51


_LOSS = Ends(best=0.0, worst=1.0)
soft_dice = _score_of(lambda task: DICE)
soft_dice_loss = _score_of(lambda task: DICE, _complement, _LOSS)
soft_iou = _score_of(lambda task: IOU)
tversky_index = _score_of(_tversky, squares=False)
tversky_loss = _score_of(_tversky, _complement, _LOSS, squares=False)
focal_tversky_loss = _score_of(_tversky, _focal, _LOSS, squares=False)
log_cosh_dice_loss = _score_of(
    lambda task: DICE, _log_cosh, Ends(best=0.0, worst=math.log(math.cosh(1.0)))
)


def _power_error(x: float, bound: float, gamma: float) -> float:
    """Bound |x^gamma - y^gamma| for y in [0, 1] within `bound` of x, and the power's rounding."""
    if math.isnan(x) or not gamma:
        return 0.0 * x
    if gamma >= 1.0:
        error = gamma * bound
    else:
        error = bound**gamma
        if x > bound:
            error = min(error, gamma * (x - bound) ** (gamma - 1.0) * bound)
    # The rounding is that of `vecmath.power`, below 2.4e-13 for the largest exponents.
    return min(error, 1.0) + 2.0**-42


def loss_of(score: Callable[[Moments, Task], Score]) -> Callable[[Moments, Task], Score]:
    """Return 1 less a score."""

    def loss(state: Moments, task: Task) -> Score:
        got = score(state, task)
        per_class = {code: 1.0 - x for code, x in got.per_class.items()}
        return Score(1.0 - got.value, per_class, got.error_bound, got.counts)

    return loss


def reference(
    truth: NDArray[Any], prediction: NDArray[Any], task: Task
) -> dict[str, tuple[float, dict[int, float]]]:
    """Return every metric from whole arrays, spelled out with NumPy."""
    if not task.asks(*OVERLAP):
        return {}
    p, y = whole_distributions(truth, prediction, task)
    options = {"tversky_alpha": 0.5, "tversky_beta": 0.5, "tversky_gamma": 1.0} | dict(
        task.parameters
    )
    nr, dr = options.get("smooth_nr", 0.0), options.get("smooth_dr", 0.0)
    exponent = 2 if options.get("denominator") == "squared" else 1
    alpha, beta = options["tversky_alpha"], options["tversky_beta"]
    names = ("soft_dice", "soft_iou", "tversky_index")
    per_class: dict[str, dict[int, float]] = {name: {} for name in names}
    for code in task.classes.scored:
        both = math.fsum(p[code] * y[code])
        sum_p, sum_y = math.fsum(p[code] ** exponent), math.fsum(y[code] ** exponent)
        false_p, false_y = math.fsum(p[code] * (1 - y[code])), math.fsum((1 - p[code]) * y[code])
        for name, top, bottom in (
            ("soft_dice", 2 * both, sum_p + sum_y),
            ("soft_iou", 2 * both, 2 * (sum_p + sum_y - both)),
            ("tversky_index", both, both + alpha * false_p + beta * false_y),
        ):
            defined = bottom + dr > 0
            per_class[name][code] = (top + nr) / (bottom + dr) if defined else math.nan
    for loss, name, function in (
        ("soft_dice_loss", "soft_dice", lambda x: 1 - x),
        ("tversky_loss", "tversky_index", lambda x: 1 - x),
        (
            "focal_tversky_loss",
            "tversky_index",
            lambda x: max(1 - x, 0) ** options["tversky_gamma"],
        ),
        ("log_cosh_dice_loss", "soft_dice", lambda x: math.log(math.cosh(1 - x))),
    ):
        per_class[loss] = {code: function(x) for code, x in per_class[name].items()}
    results = {}
    for name, numbers in per_class.items():
        results[name] = naive_mean(numbers, task), numbers
    return results


def whole_distributions(
    truth: NDArray[Any], prediction: NDArray[Any], task: Task
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return probabilities and truth of every class, (classes, n), from whole arrays."""
    p = class_probabilities(prediction, task)
    if task.hard_truth:
        y = (truth == np.arange(len(task.classes))[:, np.newaxis]).astype(np.float64)
    else:
        y = truth.astype(np.float64)
        y = np.concatenate([1 - y, y]) if task.channels == 1 else y
    return p, y


SMOOTHING = (
    Parameter(
        "smooth_nr",
        0.0,
        number(0.0, 1e9),
        "added to the numerator of a soft overlap, at most smooth_dr [default: 0]",
    ),
    Parameter(
        "smooth_dr",
        0.0,
        number(0.0, 1e9),
        "added to the denominator of a soft overlap [default: 0]",
    ),
)
_DENOMINATOR = Parameter(
    "denominator",
    "linear",
    choice("linear", "squared"),
    "linear or squared: whether the denominator of soft Dice and IoU sums p and y or their "
    "squares [default: linear]",
)
_TVERSKY = (
    Parameter(
        "tversky_alpha", 0.5, number(0.0, 1e6), "Tversky weight of false positives [default: 0.5]"
    ),
    Parameter(
        "tversky_beta", 0.5, number(0.0, 1e6), "Tversky weight of false negatives [default: 0.5]"
    ),
)
_TVERSKY_GAMMA = Parameter(
    "tversky_gamma",
    0.75,
    number(0.0, 100.0),
    "exponent of the focal Tversky loss [default: 0.75, 1 / gamma of its paper's gamma 4/3]",
)
OF_DICE = (*SMOOTHING, _DENOMINATOR, *OVER_CLASSES)
MONAI = {"smooth_nr": 1e-5, "smooth_dr": 1e-5}
_MONAI_DIFFERS = (
    "MONAI adds 1e-5 to numerator and denominator, so that an empty class scores 1, and its "
    "mean includes the background"
)
SYMBOLS = (
    "; p: probability of the class, y: its truth, sums over voxels; smooth_nr and smooth_dr are "
    "added to numerator and denominator"
)
_MEAN = "; mean over the scored classes that are defined"
_SQUARED = "; with denominator=squared, p^2 and y^2 in it"


def overlap_metric(name: str, title: str, score: Any, formula: str, **facts: Any) -> Metric:
    """Return a metric of soft overlaps."""
    return Metric(
        name=name,
        title=title,
        score=score,
        formula=formula,
        range=(0.0, 1.0) if "range" not in facts else facts.pop("range"),
        kinds=("probabilities", "logits"),
        empties="class without truth and probability: undefined, unless smooth_dr is above 0",
        soft_truth=True,
        higher_is_better=facts.pop("higher_is_better", False),
        differs=facts.pop("differs", _MONAI_DIFFERS),
        conventions=facts.pop("conventions", {"monai": MONAI}),
        invariances=facts.pop(
            "invariances", frozenset({"class_permutation", "true_negatives", "duplication"})
        ),
        **facts,
    )


READINGS = Readings(
    statistic="moments",
    reference=reference,
    metrics=(
        overlap_metric(
            "soft_dice",
            "Soft Dice coefficient",
            soft_dice,
            f"2 sum(p y) / (sum p + sum y){SYMBOLS}{_SQUARED}{_MEAN}",
            source="MONAI DiceLoss; squared: Milletari et al. 2016, arXiv:1606.04797",
            higher_is_better=True,
            default_for=("probabilities",),
            parameters=OF_DICE,
        ),
        overlap_metric(
            "soft_dice_loss",
            "Soft Dice loss",
            soft_dice_loss,
            f"1 - 2 sum(p y) / (sum p + sum y){SYMBOLS}{_SQUARED}{_MEAN}",
            source="MONAI DiceLoss; squared: Milletari et al. 2016, arXiv:1606.04797",
            parameters=OF_DICE,
        ),
        overlap_metric(
            "soft_iou",
            "Soft intersection over union",
            soft_iou,
            f"2 sum(p y) / (2 (sum p + sum y - sum(p y))){SYMBOLS}{_SQUARED}{_MEAN}",
            source="MONAI DiceLoss(jaccard=True)",
            higher_is_better=True,
            parameters=OF_DICE,
        ),
        overlap_metric(
            "log_cosh_dice_loss",
            "Log-cosh Dice loss",
            log_cosh_dice_loss,
            f"ln cosh(1 - 2 sum(p y) / (sum p + sum y)){SYMBOLS}{_SQUARED}{_MEAN}",
            source="Jadon 2020, doi:10.1109/CIBCB48159.2020.9277638",
            parameters=OF_DICE,
            differs="some implementations take ln cosh of the mean over classes",
            conventions={},
        ),
        overlap_metric(
            "tversky_index",
            "Tversky index",
            tversky_index,
            "sum(p y) / (sum(p y) + tversky_alpha sum(p (1 - y)) + tversky_beta sum((1 - p) y))"
            f"{SYMBOLS}{_MEAN}",
            source="Salehi et al. 2017, arXiv:1706.05721; MONAI TverskyLoss",
            higher_is_better=True,
            parameters=(*SMOOTHING, *_TVERSKY, *OVER_CLASSES),
        ),
        overlap_metric(
            "tversky_loss",
            "Tversky loss",
            tversky_loss,
            "1 - sum(p y) / (sum(p y) + tversky_alpha sum(p (1 - y)) + tversky_beta "
            f"sum((1 - p) y)){SYMBOLS}{_MEAN}",
            source="Salehi et al. 2017, arXiv:1706.05721; MONAI TverskyLoss",
            parameters=(*SMOOTHING, *_TVERSKY, *OVER_CLASSES),
        ),
        overlap_metric(
            "focal_tversky_loss",
            "Focal Tversky loss",
            focal_tversky_loss,
            f"(1 - tversky_index)^tversky_gamma{SYMBOLS}{_MEAN}",
            source="Abraham and Khan 2019, doi:10.1109/ISBI.2019.8759329",
            parameters=(*SMOOTHING, *_TVERSKY, _TVERSKY_GAMMA, *OVER_CLASSES),
            differs="the paper's exponent is 1 / gamma, its sum over classes is a mean here, and "
            "its alpha weighs the false negatives; MONAI has an asymmetric form of it only",
            conventions={},
        ),
    ),
)
