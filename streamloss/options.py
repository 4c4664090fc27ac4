"""From a user's options and the facts of two arrays to a `Task`.

Every spelling of an option is understood, every default chosen and every
contradiction refused here, before a voxel is read.
"""

import difflib
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from streamloss.class_table import is_integer, parse_classes, settle_classes, split_list
from streamloss.errors import InvalidInputError
from streamloss.registry import definitions, metric_names, needed, parameters
from streamloss.statistic import Parameter, discover
from streamloss.structures import settle_structures
from streamloss.task import KINDS, Kind, Task

CHANNEL_AXES = ("c", "channel", "class")
KEYWORDS = (
    *("metrics", "kind", "classes", "other_labels", "background", "include_background"),
    "ignore_label",
    *("mask", "weights", "regions", "multilabel", "threshold", "spacing", "region", "level"),
    *("convention", "missing", "affine"),
    *("max_memory", "workers", "executor", "reader", "progress"),
)
"""The keywords of `score` that belong to no metric, for suggestions."""


class ArrayFacts(NamedTuple):
    """What is known of an array before it is read."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    axes: tuple[str, ...] | None = None


def settle(
    truth: ArrayFacts,
    prediction: ArrayFacts,
    *,
    metrics: str | Iterable[str] | None = None,
    kind: str | None = None,
    classes: Any = None,
    background: int | None = 0,
    include_background: bool = False,
    other_labels: str = "error",
    ignore_label: int | None = None,
    regions: Any = None,
    multilabel: bool = False,
    weighted: bool = False,
    threshold: float = 0.5,
    spacing: Sequence[float] | None = None,
    convention: str | None = None,
    **given: Any,
) -> Task:
    """Return the task these options describe for these arrays.

    Raises
    ------
    InvalidInputError
        One sentence on the first thing that does not fit.
    """
    check_keywords(given)
    names = parse_metrics(metrics)
    for name, flag in (("include_background", include_background), ("multilabel", multilabel)):
        if not isinstance(flag, bool):
            raise InvalidInputError(f"{name} must be true or false, got {flag!r}")
    settled_kind = _kind(kind, truth, prediction, names)
    if not truth.shape:
        raise InvalidInputError("truth has shape (): expected an array of at least one axis")
    structures = settle_structures(
        settled_kind, truth.shape, prediction.shape, regions, multilabel, classes
    )
    if structures:
        # Each is a binary problem, labels 0 and 1.
        classes, background, include_background = (0, 1), 0, False
        channels = 0 if settled_kind == "labels" else 1
        soft_truth = truth.dtype.kind == "f"
    else:
        channels, soft_truth = _layout(settled_kind, truth, prediction, classes)
    if classes is None and settled_kind == "labels" and _takes_zero_one_labels(names):
        classes = (0, 1)
    table = settle_classes(
        settled_kind,
        truth.dtype,
        classes,
        channels,
        _integer("background", background),
        include_background,
        other_labels,
    )
    label = _integer("ignore_label", ignore_label)
    if label is not None and (settled_kind == "values" or soft_truth):
        raise InvalidInputError("ignore_label needs a truth of labels")
    task = Task(
        kind=settled_kind,
        metrics=names or _default_metrics(settled_kind, soft_truth),
        classes=table,
        channels=channels,
        score_bits=8 * prediction.dtype.itemsize if channels else 0,
        half_scores=bool(channels) and prediction.dtype == np.float16,
        soft_truth=soft_truth,
        threshold=_number("threshold", threshold, 0.0, 1.0),
        spacing=_spacing(spacing),
        ignore_label=label,
        structures=structures,
        weighted=weighted,
    )
    _check_metrics(task)
    task = _with_parameters(replace(task, convention=convention), given)
    for statistic in needed(task):
        statistic.validate(task)
        if weighted and statistic.halo:
            unfit = [metric.name for metric in statistic.metrics if task.asks(metric.name)]
            raise InvalidInputError(f"{', '.join(unfit)} cannot be scored with weights of voxels")
    return task


def suggest(name: str, known: Iterable[str]) -> str:
    """Return a hint at the nearest known name, or at all of them."""
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    if close:
        return f"did you mean '{close[0]}'?"
    return f"known: {', '.join(names[:12])}{' …' if len(names) > 12 else ''}"


def parse_metrics(metrics: Any) -> tuple[str, ...]:
    """Return the metric names of a list or of "a,b"; none for the default ones.

    Raises
    ------
    InvalidInputError
        If there is no such metric; tells the nearest.
    """
    if metrics is None:
        return ()
    names = tuple(dict.fromkeys(map(str, split_list(metrics))))
    known = metric_names()
    for name in names:
        if name not in known:
            raise InvalidInputError(f"unknown metric '{name}': {suggest(name, known)}")
    if not names:
        raise InvalidInputError(
            f"metrics must be names of metrics, or left out for the default ones, got {metrics!r}"
        )
    return names


def _default_metrics(kind: Kind, soft_truth: bool) -> tuple[str, ...]:
    return tuple(
        metric.name
        for name in metric_names()
        for _, metric in definitions(name)
        if kind in metric.default_for and (metric.soft_truth or not soft_truth)
    )


def check_keywords(given: Iterable[str]) -> None:
    """Refuse keywords that are no option of any metric, and tell the nearest that is one.

    Raises
    ------
    InvalidInputError
        If there is one.
    """
    known = parameters()
    for name in given:
        if name not in known:
            raise InvalidInputError(
                f"unknown option '{name}': {suggest(name, [*known, *KEYWORDS])}"
            )


def check_kind(kind: Any) -> Kind:
    """Return a kind, or refuse what is none.

    Raises
    ------
    InvalidInputError
        Names the kinds that there are.
    """
    if kind not in KINDS:
        raise InvalidInputError(f"unknown kind '{kind}': expected one of {', '.join(KINDS)}")
    found: Kind = kind
    return found


def _kind(
    kind: str | None, truth: ArrayFacts, prediction: ArrayFacts, names: tuple[str, ...]
) -> Kind:
    if kind is not None:
        settled = check_kind(kind)
    else:
        settled = "probabilities" if prediction.dtype.kind == "f" else "labels"
        possible = [set(_kinds_of(name)) for name in names]
        common = set.intersection(*possible) if possible else set()
        # Hinge losses, for one, take nothing but logits.
        if common == {"logits"} and settled == "probabilities":
            settled = common.pop()
    truth_is_label = truth.dtype.kind in "biu"
    if settled == "labels" and (not truth_is_label or prediction.dtype.kind not in "biu"):
        what, dtype = (
            ("truth", truth.dtype) if not truth_is_label else ("prediction", prediction.dtype)
        )
        raise InvalidInputError(
            f"labels must be of an integer or boolean type, the {what} is {dtype}: "
            'pass kind="values" to compare the numbers themselves; labels that a file stores as '
            "floats become integers by `streamloss convert IN OUT.zarr --labels`"
        )
    if settled == "probabilities" and prediction.dtype.kind == "i":
        raise InvalidInputError(
            "probabilities must be floating point, or unsigned integers scaled to their "
            f"maximum, the prediction is {prediction.dtype}"
        )
    if settled == "logits" and prediction.dtype.kind != "f":
        raise InvalidInputError(
            f"logits must be floating point, the prediction is {prediction.dtype}"
        )
    return settled


def _layout(
    kind: Kind, truth: ArrayFacts, prediction: ArrayFacts, classes: Any
) -> tuple[int, bool]:
    """Return scores per voxel and whether the truth is a distribution."""
    if kind in ("labels", "values"):
        if truth.shape != prediction.shape:
            hint = ""
            if prediction.shape[1:] == truth.shape and kind == "labels":
                hint = '; if the first axis holds one channel per class, pass kind="probabilities"'
            elif prediction.shape == truth.shape[::-1]:
                hint = "; NIfTI and NRRD files are read slowest axis first, (z, y, x)"
            raise InvalidInputError(
                f"truth has shape {truth.shape} and prediction {prediction.shape}: "
                f"they must be the same{hint}"
            )
        return (0 if kind == "labels" else 1), False
    float_truth = truth.dtype.kind == "f"
    if prediction.shape[1:] == truth.shape and len(prediction.shape) > 1:
        if prediction.shape[0] > 1 and float_truth:
            raise InvalidInputError(
                f"truth of type {truth.dtype} and shape {truth.shape} cannot be the labels of "
                f"{prediction.shape[0]} classes: expected integer labels, or a distribution "
                f"of shape {prediction.shape}"
            )
        return prediction.shape[0], float_truth
    if truth.shape != prediction.shape:
        raise InvalidInputError(
            f"truth has shape {truth.shape} and prediction {prediction.shape}: expected the "
            f"same shape, or (C, {', '.join(map(str, truth.shape))}) with one channel per class"
        )
    if _channel_first(truth, prediction, classes, float_truth):
        return prediction.shape[0], True
    return 1, float_truth


def _channel_first(
    truth: ArrayFacts, prediction: ArrayFacts, classes: Any, float_truth: bool
) -> bool:
    """Whether two arrays of one shape both hold a channel per class."""
    if truth.axes is not None and prediction.axes is not None:
        return truth.axes[0] in CHANNEL_AXES and prediction.axes[0] in CHANNEL_AXES
    if classes is None or len(truth.shape) < 2:
        return False
    count = len(parse_classes(classes)[0])
    return count == truth.shape[0] and (float_truth or count > 2)


def _kinds_of(name: str) -> list[Kind]:
    return sorted({kind for _, metric in definitions(name) for kind in metric.kinds})


def _takes_zero_one_labels(names: tuple[str, ...]) -> bool:
    """Whether a metric was asked for that takes labels as the numbers 0 and 1."""
    return any(
        "labels" in metric.kinds and metric.zero_one_labels
        for name in names
        for _, metric in definitions(name)
    )


def _number(name: str, value: Any, low: float, high: float) -> float:
    """Return a number strictly between two others."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if isinstance(value, bool) or not low < number < high:
        raise InvalidInputError(
            f"{name} must be a number between {low:g} and {high:g}, got {value!r}"
        )
    return number


def _integer(name: str, value: Any) -> int | None:
    if value is None:
        return None
    if not is_integer(value):
        raise InvalidInputError(f"{name} must be an integer or none, got {value!r}")
    return int(value)


def _spacing(spacing: Any) -> tuple[float, ...] | None:
    if spacing is None:
        return None
    return tuple(_number("spacing", size, 0.0, math.inf) for size in split_list(spacing)) or (
        _number("spacing", spacing, 0.0, math.inf),
    )


def _check_metrics(task: Task) -> None:
    for name in task.metrics:
        kinds = _kinds_of(name)
        chosen = [metric for _, metric in definitions(name) if task.kind in metric.kinds]
        if not chosen:
            raise InvalidInputError(
                f"{name} cannot be computed from {task.kind}: it needs {' or '.join(kinds)}"
            )
        if task.soft_truth and not chosen[0].soft_truth:
            raise InvalidInputError(
                f"{name} needs a truth of integer labels, the truth is a distribution"
            )
        if chosen[0].zero_one_labels and task.kind == "labels" and task.classes.values != (0, 1):
            raise InvalidInputError(
                f"{name} of labels takes them as the numbers 0 and 1, the classes are "
                f'{list(task.classes.values)}: pass kind="values" to compare the numbers'
            )


def _with_parameters(task: Task, given: Mapping[str, Any]) -> Task:
    wanted = {
        parameter.name: parameter
        for name in task.metrics
        for _, metric in definitions(name)
        for parameter in metric.parameters
    }
    settled = {name: parameter.default for name, parameter in wanted.items()}
    settled |= _presets(task)
    for name, value in given.items():
        if name not in wanted:
            users = sorted(n for n in metric_names() if _takes(n, name))
            raise InvalidInputError(
                f"{name} is an option of {', '.join(users)}, none of which is scored here"
            )
        settled[name] = _convert(wanted[name], value)
    return replace(task, parameters=settled)


def _presets(task: Task) -> dict[str, Any]:
    """Return the options that give a peer's numbers, of all metrics that have some."""
    if task.convention is None:
        return {}
    known = {peer for s in discover().values() for m in s.metrics for peer in m.conventions}
    if task.convention not in known:
        raise InvalidInputError(
            f"unknown convention '{task.convention}': {suggest(str(task.convention), known)}"
        )
    chosen = [m for name in task.metrics for _, m in definitions(name) if task.kind in m.kinds]
    presets: dict[str, tuple[str, Any]] = {}
    for metric in chosen:
        for option, value in metric.conventions.get(task.convention, {}).items():
            first, other = presets.setdefault(option, (metric.name, value))
            if other != value:
                raise InvalidInputError(
                    f'convention="{task.convention}" needs {option}={other!r} for {first} and '
                    f"{value!r} for {metric.name}: score them in two runs"
                )
    if not any(task.convention in metric.conventions for metric in chosen):
        raise InvalidInputError(
            f"{task.convention} has no convention of its own for {', '.join(task.metrics)}"
        )
    return {option: value for option, (_, value) in presets.items()}


def _takes(metric: str, parameter: str) -> bool:
    return any(p.name == parameter for _, m in definitions(metric) for p in m.parameters)


def _convert(parameter: Parameter, value: Any) -> Any:
    try:
        return parameter.convert(value)
    except (TypeError, ValueError) as error:
        raise InvalidInputError(f"{parameter.name}: {error}, got {value!r}") from None
