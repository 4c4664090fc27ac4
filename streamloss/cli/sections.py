"""Commands whose help lists the options in sections."""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import click

from streamloss.cli.output import (
    refuse_inputs_as_targets,
    refuse_same_target,
    target_callback,
)

OUTPUT = "Output"
"""Section of the options that tell where data go."""

T = TypeVar("T")


class Option(click.Option):
    """An option that belongs to a section of the help, and may name what is read."""

    def __init__(
        self, *args: Any, section: str = "Options", is_input: bool = False, **kwargs: Any
    ) -> None:
        self.section = section
        self.is_input = is_input
        super().__init__(*args, **kwargs)


class Command(click.Command):
    """A command whose help lists the options in sections, in the order of declaration.

    No option whose callback is `target_callback` may write over what is read: the arguments
    and the options that say they are inputs. A command whose arguments name no such files
    says so.
    """

    def __init__(self, *args: Any, arguments_are_inputs: bool = True, **kwargs: Any) -> None:
        self.arguments_are_inputs = arguments_are_inputs
        super().__init__(*args, **kwargs)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command, unless an output would destroy an input or another output."""
        refuse_same_target(ctx)
        inputs: list[str] = []
        for parameter in self.params:
            is_argument = isinstance(parameter, click.Argument)
            value = ctx.params.get(parameter.name or "")
            if value and (
                self.arguments_are_inputs if is_argument else getattr(parameter, "is_input", False)
            ):
                inputs += [value] if isinstance(value, str) else value
        refuse_inputs_as_targets(ctx, inputs)
        return super().invoke(ctx)

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
