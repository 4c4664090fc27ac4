"""`streamloss batch`."""

import math
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from streamloss.cli.output import console, refuse_inputs_as_targets, target_callback, write
from streamloss.cli.score import _ScoreCommand
from streamloss.cli.score import score as score_command
from streamloss.cli.sections import Option, given, joined
from streamloss.cli.summary import exit_code, print_tables

_CASES = "Inputs"
_RUNNING = "Running"
_OUTPUT = "Output"

_EPILOG = """\
Examples:

\b
  streamloss batch labelsTr predictions --output scores --metrics dice,iou
  streamloss batch labelsTr predictions --output scores --metrics dice,iou \\
      --resume
  streamloss batch cases.csv --output by-scanner --by group
  streamloss batch labelsTr predictions -o summary --format csv,nnunet
  streamloss batch labelsTr predictions -o gated --fail-under dice=0.85

A manifest is CSV with the columns case, truth, prediction and, where wanted, mask,
group and model, or TOML with a [[case]] table for each. Exit codes: 3 some cases
failed, 4 a gate failed; if both happen it is 3.
"""
# The options of `score` that are the same for every case.
_SHARED = [
    parameter
    for parameter in score_command.params
    if isinstance(parameter, Option)
    and parameter.name
    not in ("mask", "weights", "json_target", "csv_target", "workers", "executor", "progress")
    # A volume that needs these is no case among many.
    and parameter.name not in ("checkpoint", "shard", "save_state")
]


def _gates(
    ctx: click.Context, parameter: click.Parameter, parts: Sequence[str]
) -> dict[str, float]:
    """Convert "dice=0.85,iou=0.7" or repeated ones."""
    gates = {}
    for part in filter(None, joined(parts).split(",")):
        name, _, limit = map(str.strip, part.partition("="))
        try:
            gates[name] = float(limit)
        except ValueError:
            gates[name] = math.nan
        if not name or math.isnan(gates[name]):
            raise click.BadParameter(
                f"expected METRIC=NUMBER such as dice=0.85, got {part!r}", ctx, parameter
            )
    return gates


# Its inputs are the volumes in the folders, beside which anything may be written.
@click.command(cls=_ScoreCommand, epilog=_EPILOG, params=_SHARED, arguments_are_inputs=False)
@click.argument("truth", metavar="TRUTHS|MANIFEST")
@click.argument("prediction", metavar="[PREDICTIONS]", required=False)
@click.option(
    "-o",
    "--output",
    cls=Option,
    section=_OUTPUT,
    required=True,
    metavar="FOLDER",
    help="Where a result file per case and the tables go",
)
@click.option(
    "--mask",
    cls=Option,
    section=_CASES,
    metavar="FOLDER",
    help="Folder of masks; only voxels where they are not 0 are scored",
)
@click.option(
    "--model",
    cls=Option,
    section=_CASES,
    metavar="NAME",
    help="Name of what made PREDICTIONS [default: that of the folder]",
)
@click.option(
    "--allow-unmatched/--no-allow-unmatched",
    cls=Option,
    section=_CASES,
    default=False,
    help="Leave out cases that only one folder has, instead of refusing [default: no]",
)
@click.option(
    "--shard",
    cls=Option,
    section=_CASES,
    metavar="i/N",
    help="Score only every N-th case, from the i-th, counted from 0",
)
@click.option(
    "--resume/--no-resume",
    cls=Option,
    section=_RUNNING,
    default=False,
    help="Skip cases that were finished with the same inputs and options [default: no]",
)
@click.option(
    "--workers",
    cls=Option,
    section=_RUNNING,
    type=int,
    metavar="N",
    help="Cores to use, over cases and within them [default: all]",
)
@click.option(
    "--executor",
    cls=Option,
    section=_RUNNING,
    default="auto",
    metavar="NAME",
    help="What scores cases side by side: threads, processes, serial, or auto for "
    "processes where cases are many [default: auto]",
)
@click.option(
    "--progress/--no-progress",
    cls=Option,
    section=_RUNNING,
    default=None,
    help="Show progress on stderr [default: on a terminal]",
)
@click.option(
    "--format",
    "formats",
    cls=Option,
    section=_OUTPUT,
    multiple=True,
    metavar="NAMES",
    help="Files in FOLDER: csv (scores.csv), json, parquet, nnunet (summary.json as "
    "nnU-Net writes it) [default: csv,json]",
)
@click.option(
    "--csv",
    "csv_target",
    cls=Option,
    section=_OUTPUT,
    metavar="FILE|-",
    callback=target_callback,
    help="Write the tidy CSV there too; - is stdout, then without tables",
)
@click.option(
    "--json",
    "json_target",
    cls=Option,
    section=_OUTPUT,
    metavar="FILE|-",
    callback=target_callback,
    help="Write the JSON there too; - is stdout, then without tables",
)
@click.option(
    "--by",
    cls=Option,
    section=_OUTPUT,
    type=click.Choice(["group"]),
    metavar="group",
    help="Sum up each group of cases on its own",
)
@click.option(
    "--seed",
    cls=Option,
    section=_OUTPUT,
    type=click.IntRange(min=0),
    default=0,
    metavar="N",
    help="Seed of the bootstrap intervals in the JSON [default: 0]",
)
@click.option(
    "--fail-under",
    cls=Option,
    section=_OUTPUT,
    multiple=True,
    metavar="METRIC=X",
    callback=_gates,
    help="Exit with 4 if a mean over cases is below X or undefined, such as dice=0.85",
)
@click.option(
    "--fail-over",
    cls=Option,
    section=_OUTPUT,
    multiple=True,
    metavar="METRIC=X",
    callback=_gates,
    help="The same for metrics of which lower is better, such as mse=0.1",
)
@click.pass_context
def batch(
    ctx: click.Context,
    /,
    truth: str,
    prediction: str | None,
    formats: Sequence[str],
    csv_target: str | None,
    json_target: str | None,
    by: str | None,
    fail_under: dict[str, float],
    fail_over: dict[str, float],
    progress: bool | None,
    **settings: Any,
) -> int:
    """Score many cases: the volumes of two folders, matched by name, or a manifest.

    A result file per case appears in FOLDER as soon as the case is done; cases that
    fail are listed with their reasons, and the others go on.
    """
    own = ("truth", "prediction", "mask", "model", "allow_unmatched", "progress", "formats", "by")
    options = given(ctx, *own, "csv_target", "json_target", "fail_under", "fail_over", "executor")
    for name in ("metrics", "classes", "regions"):
        if name in options:
            options[name] = joined(options[name])
    import streamloss
    from streamloss.exports import study_json, tidy_csv

    _check_gates(fail_under, fail_over, options.get("metrics"))
    if prediction is None:
        for name in ("mask", "model", "allow_unmatched"):
            if settings[name]:
                raise click.UsageError(f"--{name.replace('_', '-')} belongs to a pair of folders")
        cases = streamloss.read_manifest(truth)
    else:
        cases = _matched(truth, prediction, settings)
    _refuse_inputs(ctx, cases, None if prediction is not None else truth)
    with _progress_bar(progress) as update:
        done = streamloss.batch(
            cases,
            executor=settings["executor"],
            formats=joined(formats).split(",") if formats else ("csv", "json"),
            by_group=by is not None,
            progress=update,
            **options,
        )
    texts = {}
    if json_target is not None:
        failures = [vars(failure) for failure in done.failures]
        texts[json_target] = study_json(done.study, done.summary, failures)
    if csv_target is not None:
        texts[csv_target] = tidy_csv(done.study)
    write(texts)
    if "-" not in texts:
        print_tables(done)
    return exit_code(done, fail_under, fail_over)


def _matched(truth: str, prediction: str, settings: dict[str, Any]) -> Any:
    from streamloss.cases import find_cases
    from streamloss.errors import InvalidInputError

    cases, unmatched = find_cases(truth, prediction, mask=settings["mask"], model=settings["model"])
    for sentence in unmatched:
        print(sentence, file=sys.stderr)
    if unmatched and not settings["allow_unmatched"]:
        raise InvalidInputError(
            f"{len(unmatched)} volume{'s' * (len(unmatched) != 1)} without a counterpart, "
            f"{len(cases)} matched: pass `allow_unmatched` to leave them out"
        )
    return cases


def _refuse_inputs(ctx: click.Context, cases: Any, manifest: str | None) -> None:
    """Refuse outputs that would be written over the manifest, or into a volume of a case."""
    from streamloss.batch_folder import TABLES
    from streamloss.locations import refuse_to_overwrite

    volumes = [
        path
        for case in cases
        for path in (case.truth, case.prediction, case.mask)
        if path is not None
    ]
    if manifest is not None:
        volumes.append(manifest)
        for name in TABLES:
            target = Path(ctx.params["output"], name)
            refuse_to_overwrite("--output", target, [manifest])
    refuse_inputs_as_targets(ctx, volumes)


def _check_gates(under: dict[str, float], over: dict[str, float], metrics: str | None) -> None:
    """Refuse gates that could never tell anything, before any work."""
    from streamloss.errors import InvalidInputError
    from streamloss.options import parse_metrics
    from streamloss.study import higher_is_better

    scored = parse_metrics(metrics)
    for gates, wanted, option, other in (
        (under, True, "`fail_under`", "`fail_over`"),
        (over, False, "`fail_over`", "`fail_under`"),
    ):
        for name in gates:
            parse_metrics(name)
            better = higher_is_better(name)
            if better is None:
                raise InvalidInputError(f"{name} has no direction: it cannot be a gate")
            if better is not wanted:
                direction = "higher" if better else "lower"
                raise InvalidInputError(
                    f"{option} does not suit {name}, of which {direction} is better: use {other}"
                )
            if scored and name not in scored:
                raise InvalidInputError(f"{option} names {name}, which `metrics` does not")


@contextmanager
def _progress_bar(wanted: bool | None) -> Iterator[Callable[[float, int], None]]:
    """Show how many cases are done: a bar on a terminal, elsewhere lines if asked for."""
    if wanted is False or (wanted is None and not sys.stderr.isatty()):
        yield lambda done, total: None
    elif not sys.stderr.isatty():
        yield _lines()
    else:
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (TextColumn("{task.fields[cases]}"), BarColumn(), TimeRemainingColumn())
        with Progress(*columns, console=console(sys.stderr), transient=True) as bar:
            task = bar.add_task("scoring", total=None, cases="")

            def update(done: float, total: int) -> None:
                cases = f"{int(done):,} of {total:,} cases"
                bar.update(task, completed=done, total=total, cases=cases)

            yield update


def _lines() -> Callable[[float, int], None]:
    """Print a line every tenth of the cases."""
    printed = 0

    def update(done: float, total: int) -> None:
        nonlocal printed
        tenth = int(10 * done / total) if total else 0
        if tenth > printed:
            printed = tenth
            print(f"scoring: {int(done):,} of {total:,} cases", file=sys.stderr, flush=True)

    return update
