"""What `streamloss batch` tells at the end: what failed, the means, and gates that broke.

Options are read and files are written in `batch`.
"""

import sys
from collections.abc import Sequence
from textwrap import wrap
from typing import TYPE_CHECKING

from streamloss.cli.output import console, with_flags

if TYPE_CHECKING:
    from rich.table import Table

    from streamloss.batching import Batch
    from streamloss.study import Summary

EXIT_FAILED_CASES = 3
EXIT_GATE = 4
_COLUMNS = ("Metric", "n", "Undefined", "Mean", "Median", "Worst", "Worst case")
# Between two columns of the table, and the width that names get at least.
_PADDING = 2
_NARROWEST = 12


def exit_code(done: "Batch", under: dict[str, float], over: dict[str, float]) -> int:
    """Tell of failed cases and gates on stderr, and return the exit code."""
    broken = []
    for gates, sign, word in ((under, 1.0, "below"), (over, -1.0, "above")):
        for metric, limit in gates.items():
            rows = [row for row in done.summary if row.metric == metric]
            if not rows:
                broken.append(f"{metric} was not scored")
            # An undefined mean compares as false, and so fails.
            broken += [
                f"the mean {metric} of {_of(row)} is {row.mean!r}, {word} {limit!r}"
                if row.n
                else f"the mean {metric} of {_of(row)} is undefined"
                for row in rows
                if not sign * row.mean >= sign * limit
            ]
    for sentence in broken:
        print(f"gate failed: {sentence}", file=sys.stderr)
    if done.failures:
        return EXIT_FAILED_CASES
    return EXIT_GATE if broken else 0


def _of(row: "Summary") -> str:
    return f"{row.model}, group {row.group}" if row.group else row.model


def print_tables(done: "Batch") -> None:
    """Tell what failed, then what was scored; the means come last, where eyes are."""
    from rich.text import Text

    terminal = console()
    if done.failures:
        terminal.print(f"{len(done.failures):,} failed:")
        for failure in done.failures:
            line = f"  {failure.case} ({failure.model}): {with_flags(failure.reason)}"
            terminal.print(Text(line))
        terminal.print()
    finished = f"{len(done.study.cases):,} cases with results"
    if done.skipped:
        finished += f", {done.skipped:,} of them finished before"
    terminal.print(finished)
    models = dict.fromkeys((row.model, row.group) for row in done.summary)
    for model, group in models:
        rows = [row for row in done.summary if (row.model, row.group) == (model, group)]
        terminal.print()
        if len(models) > 1:
            terminal.print(_of(rows[0]), style="bold", markup=False)
        terminal.print(_summary_table(rows, terminal.width))


def _summary_table(rows: Sequence["Summary"], width: int) -> "Table":
    from rich import box
    from rich.table import Table
    from rich.text import Text

    from streamloss.tables import format_number

    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, collapse_padding=True)
    table.add_column(_COLUMNS[0], no_wrap=True)
    for name in _COLUMNS[1:-1]:
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column(_COLUMNS[-1], no_wrap=True)
    lines = []
    for row in rows:
        # Five digits leave room for the name of a case; the files hold all.
        numbers = [
            format_number(number, digits=6 if 1e5 <= number < 1e6 else 5)
            for number in (row.mean, row.median, row.worst)
        ]
        if not row.worst_case:
            numbers[2] = ""
        lines.append((row.metric, f"{row.n:,}", f"{row.undefined:,}", *numbers, row.worst_case))
    widths = [max(map(len, column)) for column in zip(_COLUMNS, *lines, strict=True)]
    # Metrics get what numbers and cases leave, or half of it where both have long names.
    room = width - sum(widths[1:-1]) - _PADDING * (len(_COLUMNS) - 1)
    metric_width = min(widths[0], max(room - widths[-1], room // 2, _NARROWEST))
    case_width = max(room - metric_width, _NARROWEST)
    for metric, *numbers, case in lines:
        cells = (_wrapped(metric, metric_width), *numbers, _shortened(case, case_width))
        table.add_row(*map(Text, cells))
    return table


def _wrapped(metric: str, width: int) -> str:
    """Break the name of a metric between its words."""
    words = metric.replace("_", " ")
    # At the end of a line stays the underscore.
    return "_\n".join(wrap(words, width - 1)).replace(" ", "_") if len(metric) > width else metric


def _shortened(case: str, width: int) -> str:
    """Leave out the middle of a long name: cases differ at the beginning or at the end."""
    end = (width - 1) // 2
    return case if len(case) <= width else f"{case[: width - 1 - end]}…{case[-end:]}"
