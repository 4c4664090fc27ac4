"""The frozen outcome of a run, to and from JSON.

Numbers are never rounded but for display; an undefined one is NaN in Python and
null in JSON.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from html import escape
from io import StringIO
from typing import Any

from streamloss.errors import InvalidInputError

SCHEMA = "streamloss.result/1"


@dataclass(frozen=True)
class MetricResult:
    """One metric.

    Attributes
    ----------
    value
        The headline number; NaN if undefined.
    per_class
        Number of each class by label value, or of each structure by name;
        NaN if undefined.
    unit
        Unit of the value; "" for a pure number.
    error_bound
        How far `value` can be from what the definition gives.
    definition
        The formula.
    counts
        Whole numbers beside it: undefined classes, clipped voxels.
    details
        What is more than a number: the points of a curve, a matrix.

    Examples
    --------
    >>> import numpy as np, streamloss as sl
    >>> truth, prediction = np.array([0, 1, 1, 2]), np.array([0, 1, 1, 0])
    >>> dice = sl.score(truth, prediction, metrics="dice")["dice"]
    >>> dice.value, dice.per_class, dice.counts["missed_classes"]
    (0.5, {1: 1.0, 2: 0.0}, 1)
    """

    value: float
    per_class: Mapping[int | str, float]
    unit: str
    error_bound: float
    definition: str
    counts: Mapping[str, int] = field(default_factory=dict)
    details: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Result:
    """What `score` returns: numbers with all that they depend on.

    `result["dice"]` is a `MetricResult`; printing a result shows tables.

    Attributes
    ----------
    inputs
        Name, shape, type and spacing of each array.
    options
        The settled options that decide the numbers.
    voxels
        Counts "total", "scored" and "ignored".
    classes
        Value, name and voxels in truth and prediction of each class.
    metrics
        The metrics by name.
    integrity
        Stored and missing chunks of each array.
    timing
        Seconds, voxels per second, workers; not the same from run to run.
    versions
        Versions of the software.
    empties
        Scored classes in neither truth nor prediction (`empty_classes`), in the
        truth alone (`missed_classes`) and in the prediction alone
        (`spurious_classes`); nothing where the truth is no labels.

    Examples
    --------
    >>> import numpy as np, streamloss as sl
    >>> truth, prediction = np.array([0, 1, 1, 2]), np.array([0, 1, 2, 2])
    >>> result = sl.score(truth, prediction, metrics=["dice", "accuracy"])
    >>> result["accuracy"].value
    0.75
    >>> result["dice"].per_class
    {1: 0.6666666666666666, 2: 0.6666666666666666}
    >>> sl.Result.from_json(result.to_json()) == result
    True
    """

    inputs: Mapping[str, Any]
    options: Mapping[str, Any]
    voxels: Mapping[str, int]
    classes: tuple[Mapping[str, Any], ...]
    metrics: Mapping[str, MetricResult]
    integrity: Mapping[str, Any] = field(default_factory=dict)
    timing: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    empties: Mapping[str, int] = field(default_factory=dict)

    def __getitem__(self, name: str) -> MetricResult:
        try:
            return self.metrics[name]
        except KeyError:
            raise KeyError(f"{name} was not scored; scored: {', '.join(self.metrics)}") from None

    def to_dict(self) -> dict[str, Any]:
        """Return dictionaries, lists, strings and numbers; undefined is None."""
        plain: dict[str, Any] = {"schema": SCHEMA}
        for part in fields(self):
            plain[part.name] = getattr(self, part.name)
        plain["classes"] = [dict(row) for row in self.classes]
        plain["metrics"] = {
            name: {
                "value": _null(metric.value),
                "per_class": {str(v): _null(x) for v, x in metric.per_class.items()},
                "unit": metric.unit,
                "error_bound": _null(metric.error_bound),
                "definition": metric.definition,
                **metric.counts,
                **({"details": dict(metric.details)} if metric.details else {}),
            }
            for name, metric in self.metrics.items()
        }
        return plain

    def to_json(self) -> str:
        """Return the result as indented JSON, schema "streamloss.result/1"."""
        return json.dumps(self.to_dict(), indent=2, ensure_ascii=False, allow_nan=False) + "\n"

    @classmethod
    def from_json(cls, text: str) -> "Result":
        """Return the result that `to_json` wrote.

        Raises
        ------
        InvalidInputError
            If the text is not such a result.
        """
        try:
            plain = json.loads(text)
        except ValueError as error:
            raise InvalidInputError(f"not a result: {error}") from None
        return cls.from_dict(plain)

    @classmethod
    def from_dict(cls, plain: Any) -> "Result":
        """Return the result that `to_dict` made plain.

        Raises
        ------
        InvalidInputError
            If it is not such a dictionary.
        """
        if not isinstance(plain, dict) or plain.get("schema") != SCHEMA:
            raise InvalidInputError(f'not a result: expected the schema "{SCHEMA}"')
        parts = [part.name for part in fields(cls)]
        # Results of earlier versions do not count empties.
        lacking = [name for name in parts if name not in plain and name != "empties"]
        if lacking:
            raise InvalidInputError(f"not a whole result: it lacks {', '.join(lacking)}")
        known = {"value", "per_class", "unit", "error_bound", "definition", "details"}
        metrics = {
            name: MetricResult(
                value=_nan(entry["value"]),
                per_class={class_key(v): _nan(x) for v, x in entry["per_class"].items()},
                unit=entry["unit"],
                error_bound=_nan(entry["error_bound"]),
                definition=entry["definition"],
                counts={key: entry[key] for key in entry if key not in known},
                details=entry.get("details", {}),
            )
            for name, entry in plain["metrics"].items()
        }
        given = {name: plain[name] for name in parts if name in plain}
        return cls(**{**given, "metrics": metrics, "classes": tuple(plain["classes"])})

    def __str__(self) -> str:
        from rich.console import Console

        from streamloss.tables import result_tables

        text = StringIO()
        # In a notebook rich would write there instead.
        console = Console(file=text, width=80, color_system=None, force_jupyter=False)
        for table in result_tables(self):
            console.print(table)
        return text.getvalue()

    def _repr_html_(self) -> str:
        """Return what a notebook shows."""
        return f"<pre>{escape(str(self))}</pre>"


def class_key(text: str) -> int | str:
    """Return the label value that a text spells, or the name that it is."""
    return int(text) if text.removeprefix("-").isdecimal() else text


def _null(number: float) -> float | None:
    return None if math.isnan(number) else number


def _nan(number: float | None) -> float:
    return math.nan if number is None else number
