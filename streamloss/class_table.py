"""From the spellings of `classes` a user may give to a class table."""

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np

from streamloss.errors import InvalidInputError
from streamloss.task import Classes, Kind

MAX_CLASSES = 1024
"""A confusion matrix of more classes outgrows its purpose and the memory plan."""


def settle_classes(
    kind: Kind,
    truth_dtype: np.dtype[Any],
    classes: Any,
    channels: int,
    background: int | None,
    include_background: bool,
    other_labels: str = "error",
) -> Classes:
    """Return the class table of a run.

    Parameters
    ----------
    kind
        What the prediction holds.
    truth_dtype
        Type of the truth: bool has the labels 0 and 1.
    classes
        As the user gave it, or None.
    channels
        Scores per voxel.
    background, include_background, other_labels
        As for `streamloss.score`.

    Raises
    ------
    InvalidInputError
        If the spelling is unknown or does not fit the channels or the background.
    """
    if other_labels not in ("error", "background"):
        raise InvalidInputError(f"other_labels must be error or background, got {other_labels!r}")
    if other_labels == "background" and (classes is None or background is None):
        raise InvalidInputError(
            'other_labels="background" needs `classes`, which name the labels to score, '
            "and a background label"
        )
    if kind == "values":
        if classes is not None:
            raise InvalidInputError('classes have no meaning for kind="values"')
        return Classes(background=None)
    if classes is not None:
        values, names = parse_classes(classes)
    elif kind == "labels" and truth_dtype.kind != "b":
        start = () if background is None else (background,)
        return Classes((), (), background, include_background, discovered=True).with_values(start)
    else:
        values, names = tuple(range(max(channels, 2))), None
        if background is not None and background not in values:
            raise InvalidInputError(
                f"background must be one of the classes {list(values)} or none, got {background}"
            )
    names = names or Classes(background=background).default_names(values)
    if background is not None and background not in values:
        values, names = (background, *values), ("background", *names)
    if channels and len(values) != max(channels, 2):
        shape = "no channel axis or one channel" if channels == 1 else f"{channels} channels"
        raise InvalidInputError(
            f"the prediction has {shape}, so {max(channels, 2)} classes, but `classes` names "
            f"{len(values)} with the background: {list(values)}"
        )
    _refuse_too_many(len(values))
    others: Literal["error", "background"] = "error"
    if other_labels == "background":
        others = "background"
    return Classes(values, names, background, include_background, others=others)


def parse_classes(classes: Any) -> tuple[tuple[int, ...], tuple[str, ...] | None]:
    """Return label values and, if given, names from any spelling of `classes`.

    Raises
    ------
    InvalidInputError
        If it is no count, list of values, list of names, or mapping of names to values, or
        there are too many.
    """
    values: tuple[Any, ...] = ()
    names: tuple[str, ...] | None = None
    parts = _parts(classes)
    if isinstance(parts, int):
        _refuse_too_many(parts)
        values = tuple(range(parts))
    elif isinstance(parts, Mapping):
        names, values = tuple(map(str, parts)), tuple(parts.values())
    elif parts and all(is_integer(part) for part in parts):
        values = tuple(parts)
    elif parts and all(isinstance(part, str) and part.count("=") == 1 for part in parts):
        names, values = zip(*(part.split("=") for part in parts), strict=True)
    elif parts and all(isinstance(part, str) for part in parts):
        values, names = tuple(range(len(parts))), tuple(parts)
    if not values or not all(is_integer(value) for value in values):
        raise InvalidInputError(
            "classes must be a count, a list of label values, a list of names, or name=value "
            f"pairs, got {classes!r}"
        )
    _refuse_too_many(len(values))
    if len({int(value) for value in values}) < len(values):
        raise InvalidInputError(f"classes names a label value twice: {classes!r}")
    return tuple(int(value) for value in values), names


def _refuse_too_many(count: int) -> None:
    if count > MAX_CLASSES:
        raise InvalidInputError(f"at most {MAX_CLASSES:,} classes can be scored, got {count:,}")


def is_integer(value: Any) -> bool:
    """Whether a value is an integer, or a string that spells one."""
    if isinstance(value, str):
        return value.removeprefix("-").isdecimal()
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


def split_list(value: Any) -> list[Any]:
    """Return a list from "a,b", from ["a,b", "c"] or from any iterable; else an empty one."""
    items = [value] if isinstance(value, str) else value
    if not hasattr(items, "__iter__"):
        return []
    return [
        part
        for item in items
        for part in ([p.strip() for p in item.split(",")] if isinstance(item, str) else [item])
        if part != ""
    ]


def _parts(classes: Any) -> Any:
    if isinstance(classes, Mapping):
        return classes
    if isinstance(classes, str) and classes.strip().isdecimal():
        return int(classes)
    if is_integer(classes) and not isinstance(classes, str):
        return int(classes)
    return split_list(classes)
