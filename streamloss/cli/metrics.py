"""`streamloss metrics`."""

import json
import math
from typing import TYPE_CHECKING, Any

import click

from streamloss.cli.output import console, target_callback, write
from streamloss.cli.sections import Command, Option

if TYPE_CHECKING:
    from rich.console import RenderableType

    from streamloss.statistic import Metric

SCHEMA = "streamloss.metrics/1"

_EPILOG = """\
Examples:

\b
  streamloss metrics
  streamloss metrics focal_loss
  streamloss metrics --json metrics.json
"""

_ARROWS = {True: "↑", False: "↓", None: " "}
_LETTERS = {"labels": "l", "probabilities": "p", "logits": "g", "values": "v"}
_BETTER = {True: "higher is better", False: "lower is better", None: "neither is better"}


@click.command(cls=Command, epilog=_EPILOG, arguments_are_inputs=False)
@click.argument("name", required=False)
@click.option(
    "--json",
    "json_target",
    cls=Option,
    section="Output",
    metavar="FILE|-",
    callback=target_callback,
    help="Write the definitions as JSON; - is stdout",
)
def metrics(name: str | None, json_target: str | None) -> None:
    """List all metrics, or tell the definition of NAME, with a worked example."""
    from streamloss.docstrings import example
    from streamloss.errors import InvalidInputError
    from streamloss.options import suggest
    from streamloss.registry import definitions, metric_names

    known = metric_names()
    if name is not None and name not in known:
        raise InvalidInputError(f"unknown metric '{name}': {suggest(name, known)}")
    chosen = {
        each: [metric for _, metric in definitions(each)]
        for each in ([name] if name is not None else known)
    }
    if json_target is not None:
        plain = {each: [_plain(metric) for metric in found] for each, found in chosen.items()}
        text = json.dumps({"schema": SCHEMA, "metrics": plain}, indent=2, ensure_ascii=False)
        write({json_target: text + "\n"})
    if json_target != "-":
        terminal = console()
        if name is None:
            terminal.print(_overview(chosen))
        else:
            for metric in chosen[name]:
                terminal.print(_sheet(metric))
            # Each line by itself, so that it can be copied.
            terminal.print("\nExample", style="bold")
            terminal.print(example(name), markup=False, soft_wrap=True)


def _overview(chosen: dict[str, list["Metric"]]) -> "RenderableType":
    from rich import box
    from rich.table import Table
    from rich.text import Text

    from streamloss.task import KINDS

    table = Table(
        box=box.SIMPLE_HEAD,
        show_edge=False,
        pad_edge=False,
        collapse_padding=True,
        caption="From: l labels, p probabilities, g logits, v values. ↑ higher is better, "
        "↓ lower. `streamloss metrics NAME` tells the definition.",
        caption_justify="left",
    )
    ranges = {
        name: f"{_range(found[0])} {_ARROWS[found[0].higher_is_better]}"
        for name, found in chosen.items()
    }
    table.add_column("Metric", no_wrap=True, min_width=max(map(len, chosen)))
    table.add_column("From", no_wrap=True, min_width=len(KINDS))
    table.add_column("Range", no_wrap=True, min_width=max(map(len, ranges.values())))
    table.add_column("Title")
    for name, found in chosen.items():
        kinds = {kind for metric in found for kind in metric.kinds}
        first = found[0]
        table.add_row(
            name,
            "".join(_LETTERS[kind] if kind in kinds else "·" for kind in KINDS),
            ranges[name],
            Text(first.title.partition(" (")[0]),
        )
    return table


def _sheet(metric: "Metric") -> "RenderableType":
    from rich.table import Table
    from rich.text import Text

    from streamloss.statistic import INVARIANCES

    facts = {
        "Formula": metric.formula,
        "Range": f"{_range(metric)}, {_BETTER[metric.higher_is_better]}",
        "Unit": metric.unit,
        "Prediction": ", ".join(metric.kinds),
        "Truth": _truth(metric),
        "Symmetric": "swapping truth and prediction changes nothing" if metric.symmetric else "",
        "Empty": metric.empties,
        "Options": "\n".join(
            f"--{parameter.name.replace('_', '-')}: {parameter.help}"
            for parameter in metric.parameters
        ),
        "Source": metric.source,
        "Unchanged by": "; ".join(INVARIANCES[key] for key in sorted(metric.invariances)),
        "Differs": metric.differs,
        "Conventions": "\n".join(
            f"{peer}: " + ", ".join(f"{option}={value}" for option, value in options.items())
            for peer, options in sorted(metric.conventions.items())
        ),
    }
    grid = Table.grid(padding=(0, 2))
    grid.add_column(no_wrap=True, style="bold")
    grid.add_column(overflow="fold")
    grid.add_row("Name", Text(metric.name))
    grid.add_row("Title", Text(metric.title))
    for title, fact in facts.items():
        if fact:
            grid.add_row(title, Text(fact))
    return grid


def _truth(metric: "Metric") -> str:
    if metric.kinds == ("values",):
        return "values"
    return "labels, or a distribution in [0, 1]" if metric.soft_truth else "labels"


def _range(metric: "Metric") -> str:
    low, high = ("∞" if math.isinf(edge) else f"{edge:g}" for edge in metric.range)
    return f"{'-' if metric.range[0] < 0 and low == '∞' else ''}{low} … {high}"


def _plain(metric: "Metric") -> dict[str, Any]:
    return {
        "title": metric.title,
        "formula": metric.formula,
        "range": [None if math.isinf(edge) else edge for edge in metric.range],
        "higher_is_better": metric.higher_is_better,
        "symmetric": metric.symmetric,
        "unit": metric.unit,
        "kinds": list(metric.kinds),
        "default_for": list(metric.default_for),
        "soft_truth": metric.soft_truth,
        "empties": metric.empties,
        "options": {
            parameter.name: {"default": parameter.default, "help": parameter.help}
            for parameter in metric.parameters
        },
        "source": metric.source,
        "differs": metric.differs,
        "invariances": sorted(metric.invariances),
        "conventions": {peer: dict(options) for peer, options in metric.conventions.items()},
    }
