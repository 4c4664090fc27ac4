"""What a statistic and a metric are, how states are made and merged, and where they are found.

A statistic is a named tuple of integer arrays with `empty`, `update` and `merge`;
a metric is a pure function of one. The statistics themselves live one to a file
in `metrics/`; nothing here knows any of them.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from importlib import import_module
from pkgutil import iter_modules
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from streamloss import exact
from streamloss.task import Kind, Task

State = Any
"""A NamedTuple of int64 arrays, its type declared by the statistic."""

Axis = Literal["class", "truth_group", "channel"] | int | Callable[[Task], int]


Invariance = Literal["class_permutation", "true_negatives", "duplication", "monotone_scores"]
INVARIANCES: dict[Invariance, str] = {
    "class_permutation": "renaming the classes, background aside, in truth and prediction alike",
    "true_negatives": "adding voxels that are background in both",
    "duplication": "scoring every voxel twice",
    "monotone_scores": "a strictly increasing map of the scores",
}


class Field(NamedTuple):
    """Shape of one array of a state.

    Attributes
    ----------
    axes
        "class" (one entry per class), "truth_group" (per true class, or one for
        a truth that is not labels), "channel" (per score of a voxel, one for labels), a number,
        or what gives a number for a task.
    limbs
        0 for counts; otherwise the limbs of an exact sum, as a last axis.
    """

    axes: tuple[Axis, ...]
    limbs: int = 0


@dataclass(frozen=True)
class Score:
    """One metric's outcome.

    Attributes
    ----------
    value
        The headline number; NaN where it is undefined.
    per_class
        One number per class code that has one; NaN where it is undefined.
    error_bound
        How far `value` can be from the number its definition gives.
    counts
        Further whole numbers that belong beside it, such as clipped voxels.
    details
        What is more than a number: the points of a curve, a matrix. Lists, strings and
        numbers in dictionaries, as JSON has them, with None for what is undefined.
    unit
        Unit of the value, where it is not the metric's own.
    """

    value: float
    per_class: Mapping[int, float] = field(default_factory=dict)
    error_bound: float = 0.0
    counts: Mapping[str, int] = field(default_factory=dict)
    details: Mapping[str, Any] = field(default_factory=dict)
    unit: str | None = None


@dataclass(frozen=True)
class Parameter:
    """An option of a metric.

    Attributes
    ----------
    name
        Keyword of `score` and, with dashes, flag of the command line.
    default
        Value if the option is not given.
    convert
        Turns what a user gave, a string or a Python object, into the value;
        raises ValueError with a sentence that says what is accepted.
    help
        One line for `--help`.
    """

    name: str
    default: Any
    convert: Callable[[Any], Any]
    help: str


@dataclass(frozen=True)
class Metric:
    """A score that can be read from a statistic, with its definition.

    Attributes
    ----------
    name, title
        Name in code and name in prose.
    score
        Pure function of the merged state and the task; of a metric with `parts`, of their
        scores by name and the task.
    formula
        The definition; its symbols are explained beside it.
    source
        Where the definition comes from.
    range
        Smallest and largest value possible.
    higher_is_better
        Direction; None for a count that has none.
    symmetric
        Whether swapping truth and prediction labels leaves the value alone.
    kinds
        Kinds of prediction the metric can be computed from.
    default_for
        Kinds for which the metric is scored when none is named.
    soft_truth
        Whether the truth may be a distribution in [0, 1].
    zero_one_labels
        Whether labels, where it takes them, stand for the numbers 0 and 1.
    unit
        Unit of the value; "" for a pure number.
    empties
        What happens when a class or the volume is empty.
    parameters
        Options of the metric.
    differs
        Which well-known packages define the name otherwise, and how.
    conventions
        By the name of such a package, the options that give its numbers.
    invariances
        What leaves the value alone, of `INVARIANCES`.
    parts
        Metrics, perhaps of other statistics, whose scores this one is made from.
    combine
        How the values of independent structures give one: their mean, or for numbers
        of voxels their sum.
    example
        Options of the example that is shown with the definition: those without which it
        cannot be scored.
    of_counts
        Of a metric that is a formula of each class's four counts, that formula.
    """

    name: str
    title: str
    score: Callable[[State, Task], Score]
    formula: str
    source: str
    range: tuple[float, float]
    higher_is_better: bool | None
    kinds: tuple[Kind, ...]
    empties: str
    symmetric: bool = False
    default_for: tuple[Kind, ...] = ()
    soft_truth: bool = False
    zero_one_labels: bool = False
    unit: str = ""
    parameters: tuple[Parameter, ...] = ()
    differs: str = ""
    conventions: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    invariances: frozenset[Invariance] = frozenset()
    parts: tuple[str, ...] = ()
    combine: Literal["mean", "sum"] = "mean"
    example: Mapping[str, Any] = field(default_factory=dict)
    of_counts: Callable[[Any, Task], float] | None = None

    @property
    def options(self) -> set[str]:
        """Names of its parameters."""
        return {parameter.name for parameter in self.parameters}


@dataclass(frozen=True)
class Readings:
    """Further metrics of a statistic that is declared in another file of `metrics/`.

    Attributes
    ----------
    statistic
        Name of the statistic.
    metrics
        What else can be read from it.
    reference, validate
        As those of `Statistic`, of these metrics.
    """

    statistic: str
    metrics: tuple[Metric, ...]
    reference: Callable[..., dict[str, tuple[float, dict[int, float]]]]
    validate: Callable[[Task], None] = lambda task: None


@dataclass(frozen=True)
class Statistic:
    """A sufficient statistic: the state, how voxels enter it, and the metrics it yields.

    Attributes
    ----------
    name
        The module's name.
    state
        NamedTuple class of the state's arrays.
    fields
        Shape of each of them; empty if `custom_empty` and `custom_merge` are given.
    update
        Adds voxels: `update(state, slab, task)` with a `Slab` of scored voxels, or,
        if `halo` > 0, `update(state, window, task)` with a `Window` of the volume.
        Fills the arrays in place, or returns the new state if they cannot grow.
    metrics
        What can be read from it.
    reference
        The same scores from whole arrays in naive NumPy:
        `reference(truth, prediction, task)` gives {metric: (value, {class code: value})}.
        `truth` holds class codes of shape (n,), or a distribution or values of shape
        (channels, n); `prediction` holds class codes (n,) or scores (channels, n).
    validate
        Raises InvalidInputError if the task's parameters do not fit together.
    halo
        Voxels needed around a block on each side; 0 for voxelwise statistics.
    score_limit
        Largest magnitude of a logit or value it can take.
    clipped
        Reads from a state how many voxels had a probability that was clipped. Such a statistic
        can take in whatever is predicted for one of two classes: where none was clipped, all
        were probabilities.
    class_voxels
        Reads the voxels of each class in truth and in prediction from a state.
    custom_empty, custom_merge
        Replace the generic ones for a state that is not a fixed set of arrays.
    ask
        Returns what another pass over the data should find out, or None if all is known:
        plain data that the answering statistic reads in `task.questions`.
    answer
        The statistic of that pass, named like this one.
    learn
        Returns the state with what the pass found out, from both states and the task.
    spare_bytes
        Memory that answers take beside the state.
    """

    name: str
    state: type[Any]
    update: Callable[[State, Any, Task], State | None]
    metrics: tuple[Metric, ...]
    fields: Mapping[str, Field] = field(default_factory=dict)
    reference: Callable[..., dict[str, tuple[float, dict[int, float]]]] | None = None
    validate: Callable[[Task], None] = lambda task: None
    halo: int = 0
    score_limit: float = math.inf
    clipped: Callable[[State], int] | None = None
    class_voxels: Callable[[State], tuple[NDArray[np.int64], NDArray[np.int64]]] | None = None
    custom_empty: Callable[[Task], State] | None = None
    custom_merge: Callable[[State, State], State] | None = None
    ask: Callable[[State, Task], Any] = lambda state, task: None
    answer: "Statistic | None" = None
    learn: Callable[[State, State, Task], State] | None = None
    spare_bytes: Callable[[Task], int] = lambda task: 0

    def empty(self, task: Task) -> State:
        """Return the identity of `merge`."""
        if self.custom_empty is not None:
            return self.custom_empty(task)
        return self.state(**{name: _zeros(shape, task) for name, shape in self.fields.items()})

    def merge(self, a: State, b: State) -> State:
        """Return the state of the voxels of both; exactly associative and commutative."""
        if self.custom_merge is not None:
            return self.custom_merge(a, b)
        merged = {}
        for name, shape in self.fields.items():
            total = getattr(a, name) + getattr(b, name)
            merged[name] = exact.canonical(total) if shape.limbs else total
        return self.state(**merged)

    def spread(self, state: State, positions: NDArray[np.intp], task: Task) -> State:
        """Return `state` with class code i moved to `positions[i]` of a larger class table."""
        if self.custom_empty is not None:
            return state
        moved = {}
        for name, shape in self.fields.items():
            wide = _zeros(shape, task)
            places = [
                positions
                if axis == "class" or (axis == "truth_group" and task.hard_truth)
                else np.arange(size)
                for axis, size in zip(shape.axes, wide.shape, strict=False)
            ]
            wide[np.ix_(*places)] = getattr(state, name)
            moved[name] = wide
        return self.state(**moved)

    def state_bytes(self, task: Task) -> int:
        """Return the memory one state takes."""
        state: int = sum(part.nbytes for part in self.empty(task))
        return state + self.spare_bytes(task)


def _zeros(shape: Field, task: Task) -> NDArray[np.int64]:
    sizes = {
        "class": len(task.classes),
        "truth_group": task.truth_groups,
        "channel": max(task.channels, 1),
    }
    extents = [
        axis if isinstance(axis, int) else sizes[axis] if isinstance(axis, str) else axis(task)
        for axis in shape.axes
    ]
    return np.zeros(extents + [shape.limbs] * bool(shape.limbs), np.int64)


@cache
def discover() -> Mapping[str, Statistic]:
    """Return every statistic by name, with all the metrics that `metrics/` reads from it.

    A module there declares a `STATISTIC`, or as `READINGS` further metrics of one.
    """
    package = import_module("streamloss.metrics")
    names = sorted(module.name for module in iter_modules(package.__path__))
    modules = [import_module(f"streamloss.metrics.{name}") for name in names]
    readings = [module.READINGS for module in modules if hasattr(module, "READINGS")]
    statistics = [module.STATISTIC for module in modules if hasattr(module, "STATISTIC")]
    return {
        statistic.name: _with_readings(
            statistic, [r for r in readings if r.statistic == statistic.name]
        )
        for statistic in statistics
    }


def _with_readings(statistic: Statistic, readings: Sequence[Readings]) -> Statistic:
    own = statistic.reference

    def reference(*args: Any) -> dict[str, tuple[float, dict[int, float]]]:
        results = {} if own is None else own(*args)
        for more in readings:
            results |= more.reference(*args)
        return results

    def validate(task: Task) -> None:
        statistic.validate(task)
        for more in readings:
            more.validate(task)

    metrics = (*statistic.metrics, *(metric for more in readings for metric in more.metrics))
    return replace(statistic, metrics=metrics, reference=reference, validate=validate)


def number(low: float, high: float) -> Callable[[Any], float]:
    """Return a converter to a float in [low, high], for a `Parameter`."""

    def convert(value: Any) -> float:
        try:
            result = float(value)
        except (TypeError, ValueError):
            result = math.nan
        if isinstance(value, bool) or not low <= result <= high:
            raise ValueError(f"expected a number from {low:g} to {high:g}")
        return result

    return convert
