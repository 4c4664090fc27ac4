"""`streamloss demo`."""

import shlex
import sys
from pathlib import Path

import click

from streamloss.cli.output import console, progress_bar
from streamloss.cli.sections import Command

_EPILOG = """\
Examples:

\b
  streamloss demo
  streamloss demo --size 64 --directory small
"""


@click.command(cls=Command, epilog=_EPILOG)
@click.option(
    "--directory",
    type=click.Path(path_type=Path),
    default=Path("streamloss-demo"),
    show_default=True,
    metavar="FOLDER",
    help="Where to write the volumes",
)
@click.option(
    "--size", type=int, default=192, show_default=True, metavar="N", help="Voxels along each axis"
)
def demo(directory: Path, size: int) -> None:
    """Write a made-up scan and score two predictions of it."""
    import streamloss
    from streamloss.demo import CLASSES, write_demo
    from streamloss.tables import result_tables

    with progress_bar("writing", None) as update:
        paths = write_demo(directory, size, update)
    print(f"wrote {', '.join(str(path) for path in paths.values())}", file=sys.stderr)
    terminal = console()
    for name in ("prediction", "probabilities"):
        classes = ",".join(CLASSES)
        with progress_bar("scoring", None) as update:
            result = streamloss.score(paths["truth"], paths[name], classes=classes, progress=update)
        truth, prediction = (shlex.quote(str(path)) for path in (paths["truth"], paths[name]))
        lines = [f"$ streamloss score {truth}", prediction, f"--classes {classes}"]
        # Soft: a line that the console breaks could not be copied.
        terminal.print(" \\\n    ".join(lines), style="bold", markup=False, soft_wrap=True)
        terminal.print()
        for table in result_tables(result, terminal.width):
            terminal.print(table)
        terminal.print()
