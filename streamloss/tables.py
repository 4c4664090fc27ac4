"""A result as rich tables, for `print(result)` and the command line.

Rounds for display only. What a number means and how it is computed is not known here.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from rich import box
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from streamloss.registry import definitions
from streamloss.result import MetricResult, Result

MAX_CLASSES = 40
"""Rows of the table of classes; the worst ones are shown if there are more."""

_UNITS = {"millimeter": "mm", "micrometer": "µm", "nanometer": "nm", "centimeter": "cm"}
# Widest that a number below gets, "1.23456e-05", and a rich column's padding.
_NUMBER_WIDTH = 11
_PADDING = 2
_NAME_WIDTH = 24


def result_tables(result: Result, width: int = 80) -> list[RenderableType]:
    """Return what a person wants to see of a result, top to bottom.

    Parameters
    ----------
    result
        The result.
    width
        Columns of the terminal; metrics that do not fit beside each other go into
        further tables.

    Returns
    -------
    list of RenderableType
        The metrics, the classes, and lines on voxels, missing chunks and time.

    Examples
    --------
    >>> import numpy as np, streamloss as sl
    >>> labels = np.array([0, 1, 1], np.uint8)
    >>> len(result_tables(sl.score(labels, labels, metrics="dice")))
    5
    """
    parts = [_metric_table(result), *_class_tables(result, width)]
    spaced = [part for table in parts for part in (table, "")]
    return [*spaced, Text("\n".join(_lines(result)))]


def format_number(number: float, unit: str = "", digits: int = 6) -> str:
    """Return a number to some significant digits; 0 and 1 stand only for exactly that."""
    if math.isnan(number):
        return "undefined"
    if unit == "voxels" and number == int(number):
        return f"{number:,.0f}"
    return f"{number:.0f}" if number in (0.0, 1.0) else f"{number:#.{digits}g}".rstrip(".")


def _metric_table(result: Result) -> Table:
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, collapse_padding=True)
    table.add_column("Metric", no_wrap=True)
    table.add_column("Value", justify="right", no_wrap=True)
    rows = [_metric_row(name, metric) for name, metric in result.metrics.items()]
    headers = ("Error", "Unit", "Note")
    used = [place for place in range(3) if any(row[place + 2] for row in rows)]
    for place in used:
        table.add_column(headers[place])
    for row in rows:
        table.add_row(row[0], row[1], *(row[place + 2] for place in used))
    return table


def _metric_row(name: str, metric: MetricResult) -> tuple[str, str, str, str, str]:
    notes = [f"{count:,} {key.replace('_', ' ')}" for key, count in metric.counts.items() if count]
    error = f"±{metric.error_bound:.1e}" if metric.error_bound > 0 else ""
    value = format_number(metric.value, metric.unit)
    return name, value, error, metric.unit, ", ".join(notes)


def _class_tables(result: Result, width: int) -> list[RenderableType]:
    columns = {name: metric for name, metric in result.metrics.items() if metric.per_class}
    if not result.classes:
        return []
    rows, left_out = _rows(result, columns)
    named = any(row["name"] != str(row["value"]) for row in rows)
    counted = any(row["truth_voxels"] is not None for row in rows)
    if not columns and not counted:
        return []
    names = list(columns)
    tables: list[RenderableType] = []
    while names or not tables:
        with_voxels = counted and not tables
        fixed = [_width("Class", (str(row["value"]) for row in rows))]
        if named:
            longest = _width("Name", (row["name"] for row in rows))
            fixed.append(min(longest, _NAME_WIDTH))
        if with_voxels:
            for header in ("truth", "prediction"):
                voxels = (f"{row[f'{header}_voxels']:,}" for row in rows)
                fixed.append(_width(f"{header} voxels", voxels))
        room = width - sum(size + _PADDING for size in fixed)
        fitting = 0
        while fitting < len(names):
            room -= max(_NUMBER_WIDTH, len(names[fitting])) + _PADDING
            if room < 0:
                break
            fitting += 1
        fitting = max(fitting, 0 if with_voxels else 1)
        chosen = {name: columns[name] for name in names[:fitting]}
        tables.append(_class_table(rows, chosen, named, with_voxels))
        names = names[fitting:]
    if left_out:
        tables.append(Text(left_out, style="italic"))
    return tables


def _class_table(
    rows: Sequence[Mapping[str, Any]],
    columns: Mapping[str, MetricResult],
    named: bool,
    with_voxels: bool,
) -> Table:
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, collapse_padding=True)
    table.add_column("Class", justify="right", no_wrap=True)
    if named:
        table.add_column("Name", overflow="ellipsis", no_wrap=True, max_width=_NAME_WIDTH)
    if with_voxels:
        table.add_column("Truth voxels", justify="right", no_wrap=True)
        table.add_column("Prediction voxels", justify="right", no_wrap=True)
    for name in columns:
        table.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        cells = [str(row["value"])]
        if named:
            cells.append("" if row["name"] == str(row["value"]) else row["name"])
        if with_voxels:
            cells += [f"{row['truth_voxels']:,}", f"{row['prediction_voxels']:,}"]
        for metric in columns.values():
            number = metric.per_class.get(row["value"])
            cells.append("" if number is None else format_number(number, metric.unit))
        table.add_row(*map(Text, cells))
    return table


def _rows(
    result: Result, columns: Mapping[str, MetricResult]
) -> tuple[Sequence[Mapping[str, Any]], str]:
    """Return the classes to show and a sentence on those left out."""
    rows = result.classes
    if len(rows) <= MAX_CLASSES:
        return rows, ""
    rest = f"{MAX_CLASSES} of {len(rows)} classes; --json or --csv holds all"
    for name, metric in columns.items():
        higher = next((m.higher_is_better for _, m in definitions(name)), None)
        if higher is None:
            continue
        sign = 1.0 if higher else -1.0
        badness = {
            value: math.inf if math.isnan(number) else sign * number
            for value, number in metric.per_class.items()
        }
        worst = sorted(rows, key=lambda row: badness.get(row["value"], math.inf))
        return worst[:MAX_CLASSES], f"The worst by {name}: {rest}"
    return rows[:MAX_CLASSES], f"The first {rest}"


def _width(header: str, cells: Any) -> int:
    return max(len(header), *(len(cell) for cell in cells))


def _lines(result: Result) -> list[str]:
    voxels = result.voxels
    ignored = f", {voxels['ignored']:,} ignored" if voxels["ignored"] else ""
    lines = [f"{voxels['total']:,} voxels, {voxels['scored']:,} scored{ignored}"]
    spacing = result.options.get("spacing")
    if spacing:
        unit = result.inputs.get("truth", {}).get("unit") or ""
        lines.append(f"spacing {format_sizes(spacing)} {_UNITS.get(unit, unit)}".rstrip())
    for role, chunks in result.integrity.items():
        if chunks and chunks["missing"]:
            lines.append(
                f"{role}: {chunks['missing']:,} of {chunks['chunks']:,} chunks are not stored, "
                "read as the fill value"
            )
    timing = result.timing
    if "voxels_per_second" in timing:
        lines.append(
            f"{timing['seconds']:.3g} s, {format_rate(timing['voxels_per_second'])}, "
            f"{timing['workers']} worker{'s' * (timing['workers'] != 1)}"
        )
    return lines


def format_sizes(sizes: Sequence[float]) -> str:
    """Return a shape or a spacing for people, its parts joined by a multiplication sign."""
    return " \u00d7 ".join(f"{size:g}" if isinstance(size, float) else f"{size}" for size in sizes)


def format_rate(voxels_per_second: float) -> str:
    """Return a speed for people, as in "12.3 million voxels/s"."""
    for size, name in ((1e9, "billion "), (1e6, "million "), (1e3, "thousand ")):
        if voxels_per_second >= size:
            return f"{voxels_per_second / size:.3g} {name}voxels/s"
    return f"{voxels_per_second:.3g} voxels/s"
