"""What `streamloss batch` tells at the end: what failed, the means, and gates that broke.

Options are read and files are written in `batch`.
"""

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from streamloss.cli.output import console, with_flags

if TYPE_CHECKING:
    from rich.table import Table

    from streamloss.batching import Batch
    from streamloss.study import Summary

EXIT_FAILED_CASES = 3
EXIT_GATE = 4


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
        terminal.print(_summary_table(rows))


def _summary_table(rows: Sequence["Summary"]) -> "Table":
    from rich import box
    from rich.table import Table
    from rich.text import Text

    from streamloss.tables import format_number

    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, collapse_padding=True)
    table.add_column("Metric", no_wrap=True)
    for name in ("n", "Undefined", "Mean", "Median", "Worst"):
        table.add_column(name, justify="right", no_wrap=True)
    # Last, since names of cases may be long and then go on in the next line.
    table.add_column("Worst case", overflow="fold")
    for row in rows:
        # Five digits leave room for the name of a case; the files hold all.
        numbers = [
            format_number(number, digits=5 if number < 1e5 else 6)
            for number in (row.mean, row.median, row.worst)
        ]
        if not row.worst_case:
            numbers[2] = ""
        cells = [row.metric, f"{row.n:,}", f"{row.undefined:,}", *numbers, row.worst_case]
        table.add_row(*map(Text, cells))
    return table
