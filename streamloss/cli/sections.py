"""Commands whose help lists the options in sections."""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import click

from streamloss.cli.output import target_callback

OUTPUT = "Output"
"""Section of the options that tell where data go."""

T = TypeVar("T")


class Option(click.Option):
    """An option that belongs to a section of the help."""

    def __init__(self, *args: Any, section: str = "Options", **kwargs: Any) -> None:
        self.section = section
        super().__init__(*args, **kwargs)


class Command(click.Command):
    """A command whose help lists the options in sections, in the order of declaration."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write each section, those of other options last."""
        sections: dict[str, list[tuple[str, str]]] = {}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is not None and isinstance(parameter, click.Option):
                title = getattr(parameter, "section", "Other")
                sections.setdefault(title, []).append(record)
        for title, records in sections.items():
            with formatter.section(title):
                formatter.write_dl(records)


def result_targets(command: Callable[..., T]) -> Callable[..., T]:
    """Add the options that tell where a result goes."""
    for name, what in (
        ("csv", "all values as CSV, one per row"),
        ("json", "the whole result as JSON"),
    ):
        option = click.option(
            f"--{name}",
            f"{name}_target",
            cls=Option,
            section=OUTPUT,
            metavar="FILE|-",
            callback=target_callback,
            help=f"Write {what}; - is stdout, then without tables",
        )
        command = option(command)
    return command


def given(ctx: click.Context, *without: str) -> dict[str, Any]:
    """Return the options the user gave, except some."""
    return {
        name: value
        for name, value in ctx.params.items()
        if name not in without
        and ctx.get_parameter_source(name) is not click.core.ParameterSource.DEFAULT
    }


def joined(parts: Sequence[str]) -> str:
    """Return a repeated list option as one list."""
    return ",".join(parts)


def spacing_callback(
    ctx: click.Context, parameter: click.Parameter, parts: Sequence[str]
) -> list[float]:
    """Convert "3,0.9,0.9" or repeated numbers."""
    try:
        return [float(part) for part in joined(parts).split(",") if part]
    except ValueError:
        raise click.BadParameter(
            f"expected a number per axis such as 3,0.9,0.9, got {joined(parts)!r}", ctx, parameter
        ) from None


def background_callback(
    ctx: click.Context, parameter: click.Parameter, value: str | None
) -> int | None:
    """Convert a label value or "none"."""
    if value is None or value.lower() == "none":
        return None
    try:
        return int(value)
    except ValueError:
        raise click.BadParameter(
            f"expected a label value or none, got {value!r}", ctx, parameter
        ) from None
