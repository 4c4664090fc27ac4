"""From a user's options and the facts of two arrays to a `Task`.

Every spelling of an option is understood, every default chosen and every
contradiction refused here, before a voxel is read.
"""

import difflib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from streamloss.errors import InvalidInputError
from streamloss.statistic import Parameter, definitions, metric_names, needed, parameters
from streamloss.task import KINDS, Classes, Kind, Task

CHANNEL_AXES = ("c", "channel", "class")


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
    ignore_label: int | None = None,
    threshold: float = 0.5,
    spacing: Sequence[float] | None = None,
    **given: Any,
) -> Task:
    """Return the task these options describe for these arrays.

    Raises
    ------
    InvalidInputError
        One sentence on the first thing that does not fit.
    """
    names = _metric_names(metrics)
    settled_kind = _kind(kind, truth, prediction)
    channels, soft_truth = _layout(settled_kind, truth, prediction, classes)
    table = _classes(settled_kind, truth, classes, channels, background, include_background)
    if settled_kind == "labels" and not len(table) and _only_zero_one(names):
        table = _table((0, 1), None, background, include_background)
    task = Task(
        kind=settled_kind,
        metrics=names or _default_metrics(settled_kind, soft_truth),
        classes=table,
        channels=channels,
        soft_truth=soft_truth,
        threshold=_threshold(threshold),
        spacing=None if spacing is None else tuple(float(size) for size in spacing),
        ignore_label=_ignore_label(ignore_label, settled_kind, soft_truth),
    )
    _check_metrics(task)
    task = _with_parameters(task, given)
    for statistic in needed(task):
        statistic.validate(task)
    return task


def suggest(name: str, known: Iterable[str]) -> str:
    """Return a hint at the nearest known name, or at all of them."""
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    return f"did you mean '{close[0]}'?" if close else f"known: {', '.join(names)}"


def split_list(value: str | Iterable[Any]) -> list[Any]:
    """Return a list from a list, from "a,b" or from ["a,b", "c"]."""
    items = [value] if isinstance(value, str) else list(value)
    return [
        part
        for item in items
        for part in ([p.strip() for p in item.split(",")] if isinstance(item, str) else [item])
        if part != ""
    ]


def _metric_names(metrics: str | Iterable[str] | None) -> tuple[str, ...]:
    if metrics is None:
        return ()
    names = tuple(dict.fromkeys(split_list(metrics)))
    known = metric_names()
    for name in names:
        if name not in known:
            raise InvalidInputError(f"unknown metric '{name}': {suggest(str(name), known)}")
    if not names:
        raise InvalidInputError("no metric was named: leave `metrics` out for the default ones")
    return names


def _default_metrics(kind: Kind, soft_truth: bool) -> tuple[str, ...]:
    return tuple(
        metric.name
        for name in metric_names()
        for _, metric in definitions(name)
        if kind in metric.default_for and (metric.soft_truth or not soft_truth)
    )


def _kind(kind: str | None, truth: ArrayFacts, prediction: ArrayFacts) -> Kind:
    if kind is not None:
        if kind not in KINDS:
            raise InvalidInputError(f"unknown kind '{kind}': expected one of {', '.join(KINDS)}")
        settled: Kind = kind
    else:
        settled = "probabilities" if prediction.dtype.kind == "f" else "labels"
    truth_is_label = truth.dtype.kind in "biu"
    if settled == "labels" and (not truth_is_label or prediction.dtype.kind not in "biu"):
        what, dtype = (
            ("truth", truth.dtype) if not truth_is_label else ("prediction", prediction.dtype)
        )
        raise InvalidInputError(
            f"labels must be of an integer or boolean type, the {what} is {dtype}: "
            'pass kind="values" to compare the numbers themselves'
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
    count = len(_parse_classes(classes, None)[0])
    return count == truth.shape[0] and (float_truth or count > 2)


def _parse_classes(
    classes: Any, background: int | None
) -> tuple[tuple[int, ...], tuple[str, ...] | None]:
    """Return label values and, if given, names from any spelling of `classes`."""
    expected = (
        "classes must be a count, a list of label values, a list of names, or name=value pairs, "
        f"got {classes!r}"
    )
    if isinstance(classes, Mapping):
        items = [(str(name), value) for name, value in classes.items()]
    elif isinstance(classes, bool) or classes is None:
        raise InvalidInputError(expected)
    elif isinstance(classes, int | np.integer):
        if classes < 1:
            raise InvalidInputError(expected)
        return tuple(range(int(classes))), None
    else:
        parts = split_list(classes)
        if len(parts) == 1 and isinstance(classes, str) and parts[0].isdigit():
            return _parse_classes(int(parts[0]), background)
        if parts and all(isinstance(part, str) and "=" in part for part in parts):
            items = [tuple(part.split("=", 1)) for part in parts]
        elif parts and all(_is_integer(part) for part in parts):
            values = tuple(int(part) for part in parts)
            return _unique(values, classes), None
        elif parts and all(isinstance(part, str) for part in parts):
            return tuple(range(len(parts))), tuple(parts)
        else:
            raise InvalidInputError(expected)
    if not all(_is_integer(value) for _, value in items):
        raise InvalidInputError(expected)
    return _unique(tuple(int(v) for _, v in items), classes), tuple(n for n, _ in items)


def _is_integer(value: Any) -> bool:
    if isinstance(value, str):
        return value.lstrip("-").isdigit()
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


def _unique(values: tuple[int, ...], classes: Any) -> tuple[int, ...]:
    if len(set(values)) < len(values):
        raise InvalidInputError(f"classes names a label value twice: {classes!r}")
    return values


def _table(
    values: tuple[int, ...],
    names: tuple[str, ...] | None,
    background: int | None,
    include_background: bool,
) -> Classes:
    table = Classes((), (), background, include_background)
    given = names or table.default_names(values)
    if background is not None and background not in values:
        values, given = (background, *values), ("background", *given)
    return Classes(values, given, background, include_background)


def _classes(
    kind: Kind,
    truth: ArrayFacts,
    classes: Any,
    channels: int,
    background: int | None,
    include_background: bool,
) -> Classes:
    if kind == "values":
        if classes is not None:
            raise InvalidInputError('classes have no meaning for kind="values"')
        return Classes(background=None)
    if classes is not None:
        table = _table(*_parse_classes(classes, background), background, include_background)
    elif kind == "labels":
        if truth.dtype.kind != "b":
            start = () if background is None else (background,)
            table = Classes((), (), background, include_background, discovered=True)
            return table.with_values(start)
        table = _table((0, 1), None, background, include_background)
    else:
        table = _table(tuple(range(max(channels, 2))), None, background, include_background)
    if channels and len(table) != max(channels, 2):
        shape = "no channel axis or one channel" if channels == 1 else f"{channels} channels"
        raise InvalidInputError(
            f"the prediction has {shape}, so {max(channels, 2)} classes, but `classes` names "
            f"{len(table)} with the background: {list(table.values)}"
        )
    return table


def _only_zero_one(names: tuple[str, ...]) -> bool:
    """Whether a metric was asked for that takes labels as the numbers 0 and 1."""
    return any(
        "labels" in metric.kinds and metric.zero_one_labels
        for name in names
        for _, metric in definitions(name)
    )


def _threshold(threshold: float) -> float:
    value = float(threshold)
    if not 0.0 < value < 1.0:
        raise InvalidInputError(f"threshold must lie between 0 and 1, got {threshold}")
    return value


def _ignore_label(label: int | None, kind: Kind, soft_truth: bool) -> int | None:
    if label is None:
        return None
    if kind == "values" or soft_truth:
        raise InvalidInputError("ignore_label needs a truth of labels")
    if not _is_integer(label):
        raise InvalidInputError(f"ignore_label must be an integer, got {label!r}")
    return int(label)


def _check_metrics(task: Task) -> None:
    for name in task.metrics:
        kinds = sorted({kind for _, metric in definitions(name) for kind in metric.kinds})
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
    known = parameters()
    wanted = {
        parameter.name: parameter
        for name in task.metrics
        for _, metric in definitions(name)
        for parameter in metric.parameters
    }
    settled = {name: parameter.default for name, parameter in wanted.items()}
    for name, value in given.items():
        if name not in known:
            raise InvalidInputError(f"unknown option '{name}': {suggest(name, known)}")
        if name not in wanted:
            users = sorted(n for n in metric_names() if _takes(n, name))
            raise InvalidInputError(
                f"{name} is an option of {', '.join(users)}, none of which is scored here"
            )
        settled[name] = _convert(wanted[name], value)
    return Task(**{**vars(task), "parameters": settled})


def _takes(metric: str, parameter: str) -> bool:
    return any(p.name == parameter for _, m in definitions(metric) for p in m.parameters)


def _convert(parameter: Parameter, value: Any) -> Any:
    try:
        return parameter.convert(value)
    except (TypeError, ValueError) as error:
        raise InvalidInputError(f"{parameter.name}: {error}, got {value!r}") from None
