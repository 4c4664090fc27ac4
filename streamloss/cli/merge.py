"""`streamloss merge`."""

import click

from streamloss.cli.output import deliver
from streamloss.cli.sections import Command, result_targets

_EPILOG = """\
Examples:

\b
  streamloss score truth.zarr prediction.zarr \\
      --shard 0/2 --save-state part-0.slstate
  streamloss score truth.zarr prediction.zarr \\
      --shard 1/2 --save-state part-1.slstate
  streamloss merge part-*.slstate --json scores.json
"""


@click.command(cls=Command, epilog=_EPILOG)
@click.argument("states", metavar="STATE...", nargs=-1, required=True)
@result_targets
def merge(states: tuple[str, ...], json_target: str | None, csv_target: str | None) -> None:
    """Merge the states that the shards of one volume saved into the result of the whole.

    Every shard must be there exactly once, of the same inputs and options; the result is
    what one run would have given, byte for byte.
    """
    import streamloss

    deliver(streamloss.merge(states), json_target, csv_target)
