"""`streamloss compare`."""

import csv
import json
import math
from collections.abc import Sequence
from dataclasses import asdict
from io import StringIO
from typing import TYPE_CHECKING, Any

import click

from streamloss.cli.output import console, target_callback, write
from streamloss.cli.sections import Command, Option, joined

if TYPE_CHECKING:
    from rich.table import Table

    from streamloss.comparison import Comparison

SCHEMA = "streamloss.comparison/1"

_EPILOG = """\
Examples:

\b
  streamloss compare scores-unet scores-vnet
  streamloss compare scores/cases/unet scores/cases/vnet --metrics dice
  streamloss compare scores-unet scores-vnet --json - | python -m json.tool
"""


@click.command(cls=Command, epilog=_EPILOG)
@click.argument("a")
@click.argument("b")
@click.option(
    "-m",
    "--metrics",
    cls=Option,
    multiple=True,
    metavar="NAMES",
    help="Metrics, separated by commas [default: all that both have]",
)
@click.option(
    "--allow-unmatched/--no-allow-unmatched",
    cls=Option,
    default=False,
    help="Leave out cases that only one has, instead of refusing [default: no]",
)
@click.option(
    "--allow-copies/--no-allow-copies",
    cls=Option,
    default=False,
    help="Take truths and masks that are not the same files for copies, instead of refusing "
    "[default: no]",
)
@click.option(
    "--confidence",
    cls=Option,
    type=float,
    default=0.95,
    metavar="P",
    help="Probability of the intervals [default: 0.95]",
)
@click.option(
    "--resamples",
    cls=Option,
    type=int,
    default=9999,
    metavar="N",
    help="How often cases are drawn again [default: 9999]",
)
@click.option(
    "--seed", cls=Option, type=int, default=0, metavar="N", help="Seed of it [default: 0]"
)
@click.option(
    "--json",
    "json_target",
    cls=Option,
    metavar="FILE|-",
    callback=target_callback,
    help="Write the comparison as JSON; - is stdout, then without table",
)
@click.option(
    "--csv",
    "csv_target",
    cls=Option,
    metavar="FILE|-",
    callback=target_callback,
    help="Write it as CSV, a row per metric; - is stdout, then without table",
)
def compare(
    a: str,
    b: str,
    metrics: Sequence[str],
    json_target: str | None,
    csv_target: str | None,
    **options: Any,
) -> None:
    """Compare two models by the results that `batch` saved, case by case.

    A and B are output folders of one model each, or the folders of a model in
    FOLDER/cases. Differences are B minus A; the test is Wilcoxon's signed-rank test,
    corrected over the metrics as Holm does. Needs the extra streamloss[stats].
    """
    import streamloss
    from streamloss.options import parse_metrics

    names = parse_metrics(joined(metrics)) if metrics else None
    found = streamloss.compare(a, b, metrics=names, **options)
    texts = {}
    if json_target is not None:
        texts[json_target] = _json(found)
    if csv_target is not None:
        texts[csv_target] = _csv(found)
    write(texts)
    if "-" not in texts:
        terminal = console()
        terminal.print(f"a: {found.model_a} ({a})", markup=False, soft_wrap=True)
        terminal.print(f"b: {found.model_b} ({b})", markup=False, soft_wrap=True)
        terminal.print(_table(found, options["confidence"]))
        if found.unmatched:
            terminal.print(f"left out: {', '.join(found.unmatched)}", markup=False)


def _table(found: "Comparison", confidence: float) -> "Table":
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, collapse_padding=True)
    table.add_column("Metric", overflow="fold")
    headers = ("n", "Mean a", "Mean b", "b - a", f"{100 * confidence:g} % interval")
    for name in (*headers, "p (Holm)", "Better"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in found.differences:
        p = "undefined" if math.isnan(row.p_holm) else f"{row.p_holm:.2g}"
        numbers = [f"{number:.4g}" for number in (row.mean_a, row.mean_b, row.difference)]
        interval = f"{row.low:.3g} to {row.high:.3g}"
        table.add_row(*map(Text, (row.metric, str(row.n), *numbers, interval, p, row.better)))
    return table


def _json(found: "Comparison") -> str:
    plain = asdict(found)
    for row in plain["differences"]:
        for key, value in row.items():
            if isinstance(value, float) and math.isnan(value):
                row[key] = None
    return json.dumps({"schema": SCHEMA, **plain}, indent=2, ensure_ascii=False) + "\n"


def _csv(found: "Comparison") -> str:
    text = StringIO()
    writer = csv.writer(text, lineterminator="\n")
    for number, row in enumerate(map(asdict, found.differences)):
        if number == 0:
            writer.writerow(row)
        writer.writerow(
            "" if isinstance(x, float) and math.isnan(x) else repr(x) if isinstance(x, float) else x
            for x in row.values()
        )
    return text.getvalue()
