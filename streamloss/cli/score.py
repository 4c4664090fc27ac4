"""`streamloss score`."""

from typing import Any

import click

from streamloss.cli.output import (
    deliver,
    progress_bar,
    target_callback,
)
from streamloss.cli.sections import (
    OUTPUT,
    Command,
    Option,
    background_callback,
    given,
    joined,
    result_targets,
    spacing_callback,
)

_INPUTS = "Inputs"
_WHAT = "What to score"
_METRICS = "Metric options"
_RUNNING = "Running"

_EPILOG = """\
Examples:

\b
  streamloss score truth.zarr prediction.zarr
  streamloss score truth.zarr prediction.zarr --metrics dice,iou --json -
  streamloss score truth.zarr probabilities.zarr --metrics cross_entropy \\
      --classes background,liver,tumour --csv scores.csv
  streamloss score ct.zarr/labels/organs logits.zarr --kind logits \\
      --ignore-label 255 --region 0:128,:,: --max-memory 512MiB
  streamloss score brats.zarr prediction.zarr --regions whole=1+2+4,core=1+4
"""


class _ScoreCommand(Command):
    """Adds the options of the metrics, whatever metrics there are."""

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        """Return all options, in the order of the help."""
        from streamloss.registry import parameters

        own = super().get_params(ctx)
        of_metrics = [
            Option(
                [f"--{name.replace('_', '-')}"],
                section=_METRICS,
                metavar="VALUE",
                help=parameter.help[:1].upper() + parameter.help[1:],
            )
            for name, parameter in sorted(parameters().items())
        ]
        place = next(
            i for i, parameter in enumerate(own) if getattr(parameter, "section", "") == _RUNNING
        )
        return [*own[:place], *of_metrics, *own[place:]]

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the metrics after the options."""
        from streamloss.registry import metric_names

        super().format_options(ctx, formatter)
        with formatter.section("Metrics (`streamloss metrics` tells more)"):
            formatter.write_text(", ".join(metric_names()))


@click.command(cls=_ScoreCommand, epilog=_EPILOG)
@click.argument("truth")
@click.argument("prediction")
@click.option(
    "--kind",
    cls=Option,
    section=_INPUTS,
    metavar="KIND",
    help="What the prediction holds: labels, probabilities, logits or values [default: "
    "labels if it is integer, else probabilities]",
)
@click.option(
    "--mask",
    cls=Option,
    section=_INPUTS,
    is_input=True,
    metavar="ARRAY",
    help="Array like the truth; only voxels where it is not 0 are scored",
)
@click.option(
    "--weights",
    cls=Option,
    section=_INPUTS,
    is_input=True,
    metavar="ARRAY",
    help="Array like the truth of whole numbers: how often each voxel counts",
)
@click.option(
    "--region",
    cls=Option,
    section=_INPUTS,
    metavar="BOX",
    help="Part to score, a start:stop per axis such as 0:64,:,8:24",
)
@click.option(
    "--level",
    cls=Option,
    section=_INPUTS,
    type=int,
    metavar="N",
    help="Resolution level of OME-Zarr images [default: 0, the finest]",
)
@click.option(
    "--spacing",
    cls=Option,
    section=_INPUTS,
    multiple=True,
    metavar="SIZES",
    callback=spacing_callback,
    help="Voxel size along each axis such as 3,0.9,0.9, overriding the inputs",
)
@click.option(
    "--missing",
    cls=Option,
    section=_INPUTS,
    metavar="fill|error",
    help="What to do with chunks that are not stored [default: fill]",
)
@click.option(
    "--affine",
    cls=Option,
    section=_INPUTS,
    metavar="check|ignore",
    help="What to do with affines that tell of different grids [default: check, and refuse them]",
)
@click.option(
    "-m",
    "--metrics",
    cls=Option,
    section=_WHAT,
    multiple=True,
    metavar="NAMES",
    help="Metrics, separated by commas [default: a choice that suits the kind]",
)
@click.option(
    "--classes",
    cls=Option,
    section=_WHAT,
    multiple=True,
    metavar="LIST",
    help="A count, label values 1,2,5, names of the labels 0, 1, 2 … or pairs liver=6,tumour=7  "
    "[default: the labels found, or one per channel]",
)
@click.option(
    "--other-labels",
    cls=Option,
    section=_WHAT,
    metavar="error|background",
    help="What labels are that --classes does not name [default: error]",
)
@click.option(
    "--regions",
    cls=Option,
    section=_WHAT,
    multiple=True,
    metavar="LIST",
    help="Regions to score instead of classes, which may overlap, each with its labels: "
    "whole=1+2+4,core=1+4",
)
@click.option(
    "--multilabel/--no-multilabel",
    cls=Option,
    section=_WHAT,
    default=None,
    help="Whether both arrays hold a channel for each of several labels that may overlap; "
    "--classes names them [default: no]",
)
@click.option(
    "--background",
    cls=Option,
    section=_WHAT,
    metavar="LABEL|none",
    callback=background_callback,
    help="Label value of the background [default: 0]",
)
@click.option(
    "--include-background/--no-include-background",
    cls=Option,
    section=_WHAT,
    default=None,
    help="Whether means over classes include the background [default: no]",
)
@click.option(
    "--ignore-label",
    cls=Option,
    section=_WHAT,
    type=int,
    metavar="LABEL",
    help="Voxels with this true label are not scored",
)
@click.option(
    "--threshold",
    cls=Option,
    section=_WHAT,
    type=float,
    metavar="P",
    help="A binary probability at or above it is a positive [default: 0.5]",
)
@click.option(
    "--convention",
    cls=Option,
    section=_WHAT,
    metavar="NAME",
    help="Package whose definitions to follow where they differ, such as monai or sklearn",
)
@click.option(
    "--max-memory",
    cls=Option,
    section=_RUNNING,
    metavar="SIZE",
    help="Bound on the memory taken, such as 512MiB [default: 1GiB]",
)
@click.option(
    "--workers",
    cls=Option,
    section=_RUNNING,
    type=int,
    metavar="N",
    help="Blocks scored at once [default: one per core]",
)
@click.option(
    "--executor",
    cls=Option,
    section=_RUNNING,
    metavar="NAME",
    help="threads, processes, serial or dask [default: threads]",
)
@click.option(
    "--reader",
    cls=Option,
    section=_RUNNING,
    metavar="NAME",
    help="What reads the chunks: auto, direct or zarr [default: auto]",
)
@click.option(
    "--checkpoint",
    cls=Option,
    section=_RUNNING,
    metavar="FOLDER",
    help="Where to save every few seconds what has been added up; the next run with the same "
    "inputs and options goes on from there",
)
@click.option(
    "--shard",
    cls=Option,
    section=_RUNNING,
    metavar="i/N",
    help="Score only the i-th of N runs of blocks, counted from 0, and save its state for "
    "`streamloss merge`",
)
@click.option(
    "--progress/--no-progress",
    cls=Option,
    section=_RUNNING,
    default=None,
    help="Show progress on stderr [default: on a terminal, for long work]",
)
@result_targets
@click.option(
    "--save-state",
    cls=Option,
    section=OUTPUT,
    metavar="FILE",
    callback=target_callback,
    help="Write the state, of which `streamloss merge` makes the result",
)
@click.pass_context
def score(
    ctx: click.Context,
    /,
    truth: str,
    prediction: str,
    json_target: str | None,
    csv_target: str | None,
    progress: bool | None,
    **_: Any,
) -> None:
    """Score PREDICTION against TRUTH: losses and metrics in one pass.

    Both are paths or URLs of Zarr arrays or OME-Zarr images, of labels in one
    (image.zarr/labels/NAME), or of NIfTI, NRRD, HDF5 (file.h5/path), TIFF or .npy files.
    """
    if ctx.params["shard"] is not None:
        _refuse_result_of_part(ctx.params["save_state"], json=json_target, csv=csv_target)
    options = given(ctx, "truth", "prediction", "json_target", "csv_target", "progress")
    for name in ("metrics", "classes", "regions"):
        if name in options:
            options[name] = joined(options[name])

    import streamloss

    with progress_bar("scoring", progress) as update:
        result = streamloss.score(truth, prediction, progress=update, **options)
    if "shard" in options:
        voxels = result.voxels["total"]
        click.echo(f"shard {options['shard']}: {voxels:,} voxels, saved in {options['save_state']}")
    else:
        deliver(result, json_target, csv_target)


def _refuse_result_of_part(state: str | None, **targets: str | None) -> None:
    """Refuse a shard whose state is lost, or whose numbers would pass for those of the whole."""
    if state is None:
        raise click.UsageError("--shard needs --save-state FILE, for `streamloss merge`")
    for option, target in targets.items():
        if target is not None:
            raise click.UsageError(
                f"--{option} of one shard would tell of a part of the volume: "
                "`streamloss merge` writes that of all"
            )
