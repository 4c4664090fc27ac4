"""The errors a caller may want to catch, and how they quote those of other packages.

Every message is one sentence that says what was expected, what was got and the
values. Nothing else lives here.
"""


class StreamlossError(Exception):
    """Base of every error this package raises on purpose."""


class InvalidInputError(StreamlossError, ValueError):
    """The inputs or options cannot be scored: exit code 2."""


class MissingPackageError(InvalidInputError, ImportError):
    """A package is not installed that only some inputs or options need."""


class MemoryLimitError(InvalidInputError):
    """Nothing fits into `max_memory`; a larger one is needed."""


class ReadError(StreamlossError, RuntimeError):
    """A chunk could not be read or decoded while scoring: exit code 1."""


class WorkerError(StreamlossError, RuntimeError):
    """A process that scored blocks ended or cannot do the work: exit code 1."""


def message_of(error: Exception) -> str:
    """Return what an error says, in one line."""
    return " ".join(str(error).split())


def file_error(error: OSError) -> str:
    """Return what the system says, and of which file, without the number of the error."""
    if error.strerror is None:
        return message_of(error)
    return error.strerror if error.filename is None else f"{error.strerror}: {error.filename!r}"


def cause_of(error: Exception) -> str:
    """Return the type of an error and what it says, if anything, in one line."""
    return f"{type(error).__name__}: {message_of(error)}".rstrip(": ")
