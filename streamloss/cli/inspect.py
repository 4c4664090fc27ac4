"""`streamloss inspect`."""

import json
import math
from typing import TYPE_CHECKING, Any

import click

from streamloss.cli.output import console, target_callback, write
from streamloss.cli.sections import Command, Option, given

if TYPE_CHECKING:
    from rich.console import RenderableType

    from streamloss.volume import Volume

SCHEMA = "streamloss.inspect/1"

_EPILOG = """\
Examples:

\b
  streamloss inspect truth.zarr
  streamloss inspect truth.zarr prediction.zarr --max-memory 512MiB
"""


@click.command(cls=Command, epilog=_EPILOG)
@click.argument("array")
@click.argument("prediction", required=False)
@click.option("--kind", cls=Option, metavar="KIND", help="As in `score`")
@click.option("--level", cls=Option, type=int, metavar="N", help="Level of OME-Zarr images")
@click.option("--max-memory", cls=Option, metavar="SIZE", help="As in `score`")
@click.option("--workers", cls=Option, type=int, metavar="N", help="As in `score`")
@click.option(
    "--json",
    "json_target",
    cls=Option,
    metavar="FILE|-",
    callback=target_callback,
    help="Write the facts as JSON; - is stdout",
)
@click.pass_context
def inspect(
    ctx: click.Context, /, array: str, prediction: str | None, json_target: str | None, **_: Any
) -> None:
    """Tell what an ARRAY is, and what scoring it would need.

    With a PREDICTION, ARRAY is the truth and the plan is the one of this pair.
    Otherwise the plan is for scoring ARRAY against one like itself.
    """
    from streamloss.errors import InvalidInputError
    from streamloss.stores import open_volume

    options = given(ctx, "array", "prediction", "json_target")
    level = options.get("level", 0)
    roles = {"array": array} if prediction is None else {"truth": array, "prediction": prediction}
    volumes = {role: open_volume(uri, role=role, level=level) for role, uri in roles.items()}
    facts: dict[str, Any] = {role: _facts(volume) for role, volume in volumes.items()}
    if prediction is None and "kind" not in options:
        options["kind"] = "values" if volumes["array"].dtype.kind == "f" else "labels"
    problem = None
    try:
        facts["plan"] = _plan(array, array if prediction is None else prediction, options)
    except InvalidInputError as error:
        # What the arrays are is most wanted when they do not fit together.
        facts["plan"], problem = None, error
    if json_target is not None:
        text = json.dumps({"schema": SCHEMA, **facts}, indent=2, ensure_ascii=False)
        write({json_target: text + "\n"})
    if json_target != "-":
        terminal = console()
        terminal.print(_table(facts))
    if problem is not None:
        raise problem


def _facts(volume: "Volume") -> dict[str, Any]:
    chunks = volume.stored_chunks
    details = {name: fact for name, fact in volume.details.items() if fact is not None}
    fill = details.pop("fill_value", volume.fill_value)
    return {
        "name": volume.name,
        "shape": list(volume.shape),
        "dtype": volume.dtype.name,
        "axes": None if volume.axes is None else list(volume.axes),
        "spacing": None if volume.spacing is None else list(volume.spacing),
        "unit": volume.unit,
        "affine": None
        if volume.affine is None
        else f"{volume.affine} {volume.affine.space}".rstrip(),
        "decoded_bytes": math.prod(volume.shape) * volume.dtype.itemsize,
        "chunks": list(volume.chunks),
        "stored_chunks": None
        if chunks is None
        else {"total": chunks.total, "stored": chunks.stored, "missing": chunks.missing},
        # NaN and infinity are no JSON.
        "fill_value": str(fill) if isinstance(fill, float) and not math.isfinite(fill) else fill,
        **details,
    }


def _plan(truth: str, prediction: str, options: dict[str, Any]) -> dict[str, Any]:
    from streamloss.prepare import prepare

    run = prepare(truth, prediction, **options)
    plan = run.job.plan
    return {
        "kind": run.job.task.kind,
        "metrics": list(run.job.task.metrics),
        "blocks": len(plan),
        "block_shape": list(plan.block_shape),
        "rereads": plan.rereads,
        "workers": run.workers,
        "projected_bytes": run.projected_bytes,
        "max_memory": run.max_memory,
    }


def _table(facts: dict[str, Any]) -> "RenderableType":
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    arrays = {role: part for role, part in facts.items() if role != "plan"}
    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True, style="bold")
    for _ in arrays:
        table.add_column(overflow="fold", ratio=1)
    if len(arrays) > 1:
        table.add_row("", *(Text(role, style="bold") for role in arrays))
    shown = {role: _shown(part) for role, part in arrays.items()}
    for key in dict.fromkeys(key for part in shown.values() for key in part):
        table.add_row(key, *(Text(part.get(key, "")) for part in shown.values()))
    if facts["plan"] is None:
        return table
    plan = Table.grid(padding=(0, 2))
    plan.add_column(no_wrap=True, style="bold")
    plan.add_column(overflow="fold")
    for key, fact in _shown_plan(facts["plan"]).items():
        plan.add_row(key, Text(fact))
    title = "To score it against one like itself" if "array" in arrays else "To score this pair"
    return Group(table, "", Text(title, style="bold"), plan)


def _shown(facts: dict[str, Any]) -> dict[str, str]:
    """Return the facts of an array as text for people."""
    from streamloss.blocks import format_bytes
    from streamloss.tables import format_sizes

    facts = dict(facts)
    spacing, unit = facts.pop("spacing"), facts.pop("unit")
    shown = {
        "name": facts.pop("name"),
        "shape": format_sizes(facts.pop("shape")),
        "dtype": facts.pop("dtype"),
        "axes": ", ".join(facts.pop("axes") or ()) or "unknown",
        "spacing": "unknown"
        if spacing is None
        else f"{format_sizes(spacing)} {unit or ''}".rstrip(),
        "affine": facts.pop("affine") or "unknown",
        "decoded": format_bytes(facts.pop("decoded_bytes")),
        "chunks": format_sizes(facts.pop("chunks")),
    }
    chunks = facts.pop("stored_chunks")
    if chunks is not None:
        missing = f", {chunks['missing']:,} missing" if chunks["missing"] else ""
        shown["stored"] = f"{chunks['stored']:,} of {chunks['total']:,} chunks{missing}"
    for key, fact in facts.items():
        if fact is not None:
            shown[key.replace("_", " ")] = _text(fact)
    return shown


def _shown_plan(plan: dict[str, Any]) -> dict[str, str]:
    from streamloss.blocks import format_bytes
    from streamloss.tables import format_sizes

    return {
        "kind": plan["kind"],
        "metrics": ", ".join(plan["metrics"]),
        "blocks": f"{plan['blocks']:,} of {format_sizes(plan['block_shape'])}",
        "chunks": "some are decoded more than once" if plan["rereads"] else "each is decoded once",
        "workers": str(plan["workers"]),
        "memory": f"{format_bytes(plan['projected_bytes'])} at most, "
        f"{format_bytes(plan['max_memory'])} allowed",
    }


def _text(fact: Any) -> str:
    """Return a list of numbers as a shape, other lists one to a line."""
    from streamloss.tables import format_sizes

    if isinstance(fact, dict):
        return ", ".join(_text(part) for part in fact.values() if part is not None)
    if isinstance(fact, list | tuple):
        if all(isinstance(part, int | float) for part in fact):
            return format_sizes(fact)
        return "\n".join(_text(part) for part in fact)
    return str(fact)
