"""`streamloss convert`."""

from typing import Any

import click

from streamloss.cli.output import console, progress_bar
from streamloss.cli.sections import Command, Option, given, joined

_EPILOG = """\
Examples:

\b
  streamloss convert scan.nii.gz scan.zarr
  streamloss convert organs.nii.gz organs.zarr --labels
  streamloss convert stack.ome.tif stack.zarr --chunks 64,256,256
  streamloss convert volumes.h5/raw raw.zarr --ome-version 0.4
"""


@click.command(cls=Command, epilog=_EPILOG)
@click.argument("source", metavar="IN")
@click.argument("target", metavar="OUT.zarr")
@click.option(
    "--labels/--image",
    cls=Option,
    default=False,
    help="Whether IN holds labels: whole numbers stored as floats become integers, others "
    "are refused, and OUT says what it is [default: image]",
)
@click.option("--level", cls=Option, type=int, metavar="N", help="Level of IN [default: 0]")
@click.option(
    "--ome-version",
    "version",
    cls=Option,
    metavar="0.5|0.4",
    help="Version of OME-Zarr, of Zarr v3 or v2 [default: 0.5]",
)
@click.option(
    "--chunks",
    cls=Option,
    multiple=True,
    metavar="SIZES",
    help="Extent of chunks along each axis such as 64,128,128 [default: 128 along axes of space]",
)
@click.option("--max-memory", cls=Option, metavar="SIZE", help="As in `score` [default: 1GiB]")
@click.option(
    "--workers",
    cls=Option,
    type=int,
    metavar="N",
    help="Chunks encoded at once [default: one per core]",
)
@click.option(
    "--overwrite/--no-overwrite",
    cls=Option,
    default=False,
    help="Replace OUT if it is there [default: no]",
)
@click.option(
    "--progress/--no-progress",
    cls=Option,
    default=None,
    help="Show progress on stderr [default: on a terminal, for long work]",
)
@click.pass_context
def convert(
    ctx: click.Context, /, source: str, target: str, progress: bool | None, **_: Any
) -> None:
    """Write IN, whatever `score` reads, as the OME-Zarr image OUT.zarr.

    Values, axes, spacing and place are kept, so that scores stay the same; chunks are
    compressed and carry a checksum. OUT appears when it is complete.
    """
    options = given(ctx, "source", "target", "progress")
    if "chunks" in options:
        options["chunks"] = joined(options["chunks"])

    import streamloss
    from streamloss.stores import open_volume
    from streamloss.tables import format_sizes

    with progress_bar("converting", progress) as update:
        streamloss.convert(source, target, progress=update, **options)
    written = open_volume(target, role="target")
    stored = written.stored_chunks
    counted = "" if stored is None else f", {stored.stored:,} of {stored.total:,} stored"
    console().print(
        f"{target}: {format_sizes(written.shape)} {written.dtype}, "
        f"chunks of {format_sizes(written.chunks)}{counted}",
        markup=False,
        soft_wrap=True,
    )
