"""Where output goes: tables and data to stdout or files, progress to stderr."""

import csv
import math
import os
import re
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from io import StringIO
from pathlib import Path
from typing import IO, TYPE_CHECKING

import click

from streamloss.files import named_failure, why_not_written, write_whole
from streamloss.locations import refuse_to_overwrite

if TYPE_CHECKING:
    from rich.console import Console

    from streamloss.result import Result

# Work that ends sooner needs no progress bar.
_LONG_SECONDS = 1.0
_CSV_COLUMNS = ("metric", "class", "name", "value", "error_bound", "unit")


def target_callback(
    ctx: click.Context, parameter: click.Parameter, value: str | None
) -> str | None:
    """Refuse a file that cannot be written, before any work is done.

    "-" is stdout, for options whose metavar says so.
    """
    takes_stdout = "-" in (parameter.metavar or "")
    if value is None or (value == "-" and takes_stdout and sys.stdout is not None):
        return value
    # A link stays one: what it leads to is replaced.
    path = Path(value).resolve() if Path(value).is_symlink() else Path(value)
    problem: str | None
    if value == "-":
        problem = "stdout is closed" if takes_stdout else "it is no text for stdout, name a file"
    elif path.exists() and not path.is_file() and not path.is_dir():
        # A device or a pipe is written to, not replaced.
        problem = None if os.access(path, os.W_OK) else "permission denied"
    else:
        problem = why_not_written(path)
    if problem is None:
        return value
    raise click.BadParameter(f"cannot write {value}: {problem}", ctx, parameter)


def refuse_same_target(ctx: click.Context) -> None:
    """Refuse two options that would write to the same place."""
    taken: dict[Path | str, tuple[str, str]] = {}
    for option, target in _targets(ctx).items():
        place = target if target == "-" else Path(target).resolve()
        if place in taken:
            other, name = taken[place]
            raise click.UsageError(f"{other} and {option} cannot both go to {name}")
        taken[place] = option, target


def refuse_inputs_as_targets(ctx: click.Context, inputs: Iterable[str]) -> None:
    """Refuse an option that would write over an input, or into one."""
    inputs = list(inputs)
    for option, target in _targets(ctx).items():
        if target != "-":
            refuse_to_overwrite(option, target, inputs)


def _targets(ctx: click.Context) -> dict[str, str]:
    """Return what was given to each option that writes a file."""
    return {
        parameter.opts[0]: ctx.params[parameter.name]
        for parameter in ctx.command.params
        if parameter.callback is target_callback and ctx.params.get(parameter.name or "")
    }


def write(texts: Mapping[str, str]) -> None:
    """Write each text to its target; a file appears complete or not at all.

    Parameters
    ----------
    texts
        Text by target.
    """
    # Files first: whoever reads standard output may close it early.
    for target, text in sorted(texts.items(), key=lambda item: item[0] == "-"):
        if target == "-":
            click.echo(text, nl=False)
        elif Path(target).exists() and not Path(target).is_file():
            # A device or a pipe must not be replaced by a file.
            with named_failure(Path(target)):
                Path(target).write_text(text, encoding="utf-8")
        else:
            # A link is followed, so that it stays one.
            write_whole(Path(target).resolve(), [text.encode()])


def result_csv(result: "Result") -> str:
    """Return a result as tidy CSV.

    One row per metric with an empty class for its value, one per class, and one
    named METRIC.COUNT for each number beside it. Undefined values are empty.
    """
    names = {row["value"]: row["name"] for row in result.classes}
    text = StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(_CSV_COLUMNS)
    for name, metric in result.metrics.items():
        bound = _cell(metric.error_bound)
        writer.writerow([name, "", "", _cell(metric.value), bound, metric.unit])
        for value, number in metric.per_class.items():
            row = [name, value, names.get(value, ""), _cell(number), "", metric.unit]
            writer.writerow(row)
        for count, number in metric.counts.items():
            writer.writerow([f"{name}.{count}", "", "", number, "", ""])
    return text.getvalue()


def deliver(result: "Result", json_target: str | None, csv_target: str | None) -> None:
    """Write a result where it was asked for, and as tables unless its data go to stdout."""
    from streamloss.tables import result_tables

    texts = {}
    if json_target is not None:
        texts[json_target] = result.to_json()
    if csv_target is not None:
        texts[csv_target] = result_csv(result)
    write(texts)
    if "-" not in texts:
        terminal = console()
        for table in result_tables(result, terminal.width):
            terminal.print(table)


def with_flags(sentence: str) -> str:
    """Spell the keywords of a sentence, `name` and name="value", as flags."""
    sentence = re.sub(r'\b([a-z_]+)="(\w+)"', r"`\1` \2", sentence)
    return re.sub(r"`([a-z_]+)`", lambda m: "--" + m[1].replace("_", "-"), sentence)


def _cell(number: float) -> str:
    return "" if math.isnan(number) else repr(number)


def console(file: IO[str] | None = None) -> "Console":
    """Return a console for stdout, or another stream."""
    from rich.console import Console

    return Console(file=file or sys.stdout, highlight=False)


@contextmanager
def progress_bar(description: str, wanted: bool | None) -> Iterator[Callable[[int, int], None]]:
    """Show progress on stderr: a bar on a terminal, elsewhere a line now and then if asked for.

    Parameters
    ----------
    description
        What is going on.
    wanted
        None shows a bar on a terminal once the work turns out to be long.

    Yields
    ------
    Callable
        To be called with (voxels done, voxels in total).
    """
    terminal = sys.stderr.isatty()
    if wanted is False or (wanted is None and not terminal):
        yield lambda done, total: None
    elif terminal:
        with _bar(description, _LONG_SECONDS if wanted is None else 0.0) as update:
            yield update
    else:
        yield _lines(description)


@contextmanager
def _bar(description: str, delay: float) -> Iterator[Callable[[int, int], None]]:
    from rich.progress import (
        BarColumn,
        Progress,
        ProgressColumn,
        Task,
        TaskProgressColumn,
        TextColumn,
        TimeRemainingColumn,
    )
    from rich.text import Text

    from streamloss.tables import format_rate

    class Rate(ProgressColumn):
        def render(self, task: Task) -> Text:
            return Text(format_rate(task.speed) if task.speed else "")

    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        Rate(),
        TimeRemainingColumn(),
        console=console(sys.stderr),
        transient=True,
    )
    task = bar.add_task(description, total=None)
    started = time.monotonic()

    def update(done: int, total: int) -> None:
        bar.update(task, completed=done, total=total)
        if not bar.live.is_started and done < total and time.monotonic() - started >= delay:
            bar.start()

    try:
        yield update
    finally:
        bar.stop()


def _lines(description: str) -> Callable[[int, int], None]:
    """Print a line every tenth of the work."""
    started = time.monotonic()
    printed = 0

    def update(done: int, total: int) -> None:
        nonlocal printed
        from streamloss.tables import format_rate

        tenth = 10 * done // total
        if tenth > printed:
            printed = tenth
            rate = format_rate(done / max(time.monotonic() - started, 1e-9))
            print(f"{description}: {10 * tenth} %, {rate}", file=sys.stderr, flush=True)

    return update
