"""From one number per class to one number: averages over classes, and the rule for empty ones.

Every per-class metric goes through here, so that an empty class, a missed one and a spurious
one mean the same to all of them. What the numbers are is not known here.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from streamloss.errors import InvalidInputError
from streamloss.statistic import Parameter, Score
from streamloss.task import Task

AVERAGES = ("macro", "micro", "weighted")
MAX_CLASS_WEIGHT = 1e9
POLICIES = ("nnunet", "monai", "reloaded", "torchmetrics", "omit", "zero", "one")

_LEAVE_OUT = ("monai", "omit")
"""Policies that leave a missed class out of a mean where its number is undefined."""


class Presence(NamedTuple):
    """Amount of a class in truth and in prediction; voxels, or sums of probabilities.

    What is predicted is None for a metric that looks at scores in any case.
    """

    truth: Any
    prediction: Any

    @property
    def missed(self) -> bool:
        """True for a class of the truth that is not predicted."""
        return bool(self.truth > 0 and self.prediction is not None and not self.prediction > 0)

    @property
    def spurious(self) -> bool:
        """True for a predicted class that is not in the truth."""
        return bool(self.prediction is not None and self.prediction > 0 and not self.truth > 0)

    @property
    def empty(self) -> bool:
        """True for a class in neither."""
        return not self.truth > 0 and not (self.prediction is not None and self.prediction > 0)


class Ends(NamedTuple):
    """What a metric can be at best and at worst.

    Attributes
    ----------
    best, worst
        Ends of its range.
    reloaded
        What MetricsReloaded gives a class in neither truth nor prediction.
    missed
        What counts in the mean for a class of the truth that is not predicted, if it is
        undefined because of that: left out, it would improve the mean.
    """

    best: float = 1.0
    worst: float = 0.0
    reloaded: float = math.nan
    missed: float = math.nan


def _one_of(*choices: str) -> Callable[[Any], str]:
    def convert(value: Any) -> str:
        if value not in choices:
            raise ValueError(f"expected {', '.join(choices[:-1])} or {choices[-1]}")
        return str(value)

    return convert


def _weights(value: Any) -> tuple[float, ...] | None:
    if value is None or (isinstance(value, str) and value.lower() == "none"):
        return None
    parts = value.split(",") if isinstance(value, str) else value
    try:
        numbers = tuple(float(part) for part in np.atleast_1d(np.asarray(parts, np.float64)))
    except (TypeError, ValueError):
        numbers = ()
    if not any(numbers) or not all(0.0 <= number <= MAX_CLASS_WEIGHT for number in numbers):
        raise ValueError(
            f"expected one weight from 0 to {MAX_CLASS_WEIGHT:g} per class, not all 0, or none"
        )
    return numbers


AVERAGE = Parameter(
    "average",
    "macro",
    _one_of(*AVERAGES),
    "mean over classes: macro (equal), weighted (by true voxels) or micro (pooled) "
    "[default: macro]",
)
EMPTY = Parameter(
    "empty",
    "nnunet",
    _one_of(*POLICIES),
    "what an empty class scores: nnunet, monai, reloaded, torchmetrics, omit, zero or one "
    "[default: nnunet]",
)
CLASS_WEIGHTS = Parameter(
    "class_weights",
    None,
    _weights,
    "weight of each class, background included, in losses and in means over classes "
    "[default: none, all alike]",
)
OVER_CLASSES = (AVERAGE, EMPTY, CLASS_WEIGHTS)
"""The options of every metric that is averaged over classes."""


def check_weights(task: Task) -> None:
    """Refuse class weights that are not one for each class.

    Raises
    ------
    InvalidInputError
        Says how many there should be.
    """
    weights = task.parameters.get("class_weights")
    expected = len(task.structures or task.classes)
    if weights is None:
        return
    if task.classes.discovered:
        raise InvalidInputError("class_weights needs `classes`, which give the weights an order")
    if len(weights) != expected:
        raise InvalidInputError(
            f"class_weights must hold one weight for each of the {expected} "
            f"{'structures' if task.structures else 'classes, background included'}, "
            f"got {len(weights)}"
        )


def over_classes(
    numbers: Sequence[float],
    task: Task,
    presence: Sequence[Presence],
    *,
    error_bound: Sequence[float] | float = 0.0,
    pooled: Callable[[], tuple[float, float]] | None = None,
    ends: Ends = Ends(),  # noqa: B008
    unit: str | None = None,
) -> Score:
    """Return the average over the scored classes that are defined.

    Parameters
    ----------
    numbers
        One number per class code, NaN where its formula divides by zero.
    task
        Tells the scored classes and, as parameters, `average`, `empty` and `class_weights`.
    presence
        How much there is of each class.
    error_bound
        Error bound of each number, or of all.
    pooled
        Value and bound of all scored classes' voxels together, for `average="micro"`.
    ends
        Best and worst value.
    unit
        Unit, if it is not the metric's own.
    """
    policy = task.parameters.get("empty", EMPTY.default)
    codes = task.classes.scored
    per_class = {c: _settled(numbers[c], presence[c], policy, ends) for c in codes}
    counts = {"undefined_classes": sum(math.isnan(number) for number in per_class.values())}
    if all(presence[c].prediction is not None for c in codes):
        counts |= {
            "empty_classes": sum(presence[c].empty for c in codes),
            "missed_classes": sum(presence[c].missed for c in codes),
            "spurious_classes": sum(presence[c].spurious for c in codes),
        }
    if task.parameters.get("average") == "micro" and pooled is not None:
        value, bound = pooled()
        predicted = [presence[c].prediction for c in codes if presence[c].prediction is not None]
        whole = Presence(
            sum(presence[c].truth for c in codes), sum(predicted) if predicted else None
        )
        settled = _settled(value, whole, policy, ends)
        return Score(settled, per_class, bound, counts, unit=unit)
    entering = {
        c: ends.missed if math.isnan(x) and presence[c].missed and policy not in _LEAVE_OUT else x
        for c, x in per_class.items()
    }
    weights = _class_weights(task, presence)
    defined = [c for c in codes if not math.isnan(entering[c]) and weights[c] > 0]
    value = bound = math.nan
    if defined:
        if all(weights[c] == weights[defined[0]] for c in defined):
            value = math.fsum(entering[c] for c in defined) / len(defined)
        else:
            whole_weight = math.fsum(weights[c] for c in defined)
            value = math.fsum(weights[c] * entering[c] for c in defined) / whole_weight
        bound = max(
            error_bound if isinstance(error_bound, float) else error_bound[c] for c in defined
        )
    return Score(value, per_class, bound, counts, unit=unit)


def _settled(number: float, there: Presence, policy: str, ends: Ends) -> float:
    """Return what a class scores under a policy."""
    if policy == "monai" and not there.truth > 0:
        return math.nan
    if policy == "reloaded":
        if there.empty:
            return ends.reloaded
        return ends.missed if math.isnan(number) and there.missed else number
    if policy == "torchmetrics" and there.empty:
        return math.nan
    if policy in ("zero", "torchmetrics") and math.isnan(number):
        return ends.worst
    if policy == "one" and math.isnan(number):
        return ends.worst if there.missed else ends.best
    return number


def _class_weights(task: Task, presence: Sequence[Presence]) -> list[float]:
    given = task.parameters.get("class_weights")
    weights = [1.0] * len(presence) if given is None else list(given)
    if task.parameters.get("average") == "weighted":
        weights = [w * float(there.truth) for w, there in zip(weights, presence, strict=True)]
    return weights


def naive_mean(numbers: Mapping[int, float], task: Task) -> float:
    """Return the default average of numbers by class code, as a `reference` needs it."""
    given = task.parameters.get("class_weights")
    known = [code for code, number in numbers.items() if not math.isnan(number)]
    weights = [1.0 if given is None else given[code] for code in known]
    total = math.fsum(w * numbers[code] for w, code in zip(weights, known, strict=True))
    return total / math.fsum(weights) if any(weights) else math.nan
