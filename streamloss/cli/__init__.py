"""The command line: parses arguments, calls the public API, turns errors into exit codes.

Each command has a module here. They import Numba and Zarr only when they run, so
that `--help` answers at once.
"""

import os
import sys
import warnings
from collections.abc import Sequence
from typing import Any

import click

from streamloss.cli.batch import batch
from streamloss.cli.compare import compare
from streamloss.cli.convert import convert
from streamloss.cli.demo import demo
from streamloss.cli.inspect import inspect
from streamloss.cli.merge import merge
from streamloss.cli.metrics import metrics
from streamloss.cli.output import with_flags
from streamloss.cli.score import score
from streamloss.errors import InvalidInputError, ReadError, WorkerError, file_error

EXIT_ERROR = 1
EXIT_USAGE = 2
EXIT_INTERRUPTED = 130


@click.group(
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="`streamloss COMMAND --help` tells more of each. "
    "Exit codes: 0 fine, 1 runtime error, 2 usage or validation error, "
    "3 some cases of a batch failed, 4 a gate failed.",
)
@click.version_option(package_name="streamloss", message="%(prog)s %(version)s")
def program() -> None:
    """Losses and metrics of segmentation volumes that do not fit in memory."""


for command in (score, batch, merge, compare, convert, inspect, metrics, demo):
    program.add_command(command)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code.

    Parameters
    ----------
    arguments
        By default those of the process.
    """
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _show_warning
            code = program.main(arguments, prog_name="streamloss", standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as error:
        print(error.format_message(), file=sys.stderr)
        return EXIT_USAGE
    except click.NoSuchOption as error:
        near = f": did you mean {error.possibilities[0]}?" if error.possibilities else ""
        return _fail(f"no such option {error.option_name}{near}", EXIT_USAGE)
    except click.ClickException as error:
        message = error.format_message()
        return _fail(message[:1].lower() + message[1:].removesuffix("."), EXIT_USAGE)
    except InvalidInputError as error:
        return _fail(with_flags(str(error)), EXIT_USAGE)
    except (ReadError, WorkerError) as error:
        return _fail(str(error), EXIT_ERROR)
    except MemoryError as error:
        return _fail(f"out of memory: {error}".removesuffix(": "), EXIT_ERROR)
    except OSError as error:
        return _fail(file_error(error), EXIT_ERROR)
    except (click.Abort, KeyboardInterrupt):
        return _fail("interrupted", EXIT_INTERRUPTED)
    except Exception as error:
        if "STREAMLOSS_TRACEBACK" in os.environ:
            raise
        return _fail(
            f"unexpected {type(error).__name__}: {error} "
            "(STREAMLOSS_TRACEBACK=1 shows where; please report it)",
            EXIT_ERROR,
        )
    return code if isinstance(code, int) else 0


def _show_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    print(f"warning: {message}", file=sys.stderr)


def _fail(sentence: str, code: int) -> int:
    print(f"error: {sentence}", file=sys.stderr)
    return code
