"""Writes files that appear complete or not at all, whatever ends the process meanwhile."""

import errno
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path


def write_whole(path: Path, parts: Iterable[bytes | memoryview]) -> None:
    """Write a file under a temporary name, see that it is on the disk, then rename it.

    Parameters
    ----------
    path
        What is there already is replaced, or left as it is if anything fails.
    parts
        The content.

    Raises
    ------
    OSError
        If it cannot be written, as on a full disk; names the file.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with named_failure(path):
        try:
            with temporary.open("wb") as file:
                file.writelines(parts)
                file.flush()
                # Without this a file may have its name before its content when a machine goes
                # down.
                os.fsync(file.fileno())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
        _keep_name(path.parent)


def try_folder(folder: Path) -> None:
    """Write a small file and remove it, so that a folder that takes none is found before work.

    Raises
    ------
    OSError
        If the disk is full or the folder cannot be written.
    """
    trial = folder / f".streamloss.{os.getpid()}.tmp"
    try:
        # Fewer bytes may still fit beside the name of a file on a full disk.
        trial.write_bytes(bytes(4096))
    finally:
        trial.unlink(missing_ok=True)


def why_not_written(path: Path) -> str | None:
    """Tell why no file can be written in the place of a path, None if one can."""
    if path.is_dir():
        return "it is a folder"
    if not path.absolute().parent.is_dir():
        return f"there is no folder {path.parent}"
    if path.exists() and not os.access(path, os.W_OK):
        return "permission denied"
    try:
        try_folder(path.absolute().parent)
    except OSError as error:
        return error.strerror
    return None


@contextmanager
def named_failure(path: Path) -> Iterator[None]:
    """Let an `OSError` name the file that could not be written, which a full disk does not."""
    try:
        yield
    except OSError as error:
        error.filename, error.filename2 = str(path), None
        raise


def _keep_name(folder: Path) -> None:
    """See that the names in a folder are on the disk, where that can be asked for."""
    if os.name == "nt":
        return
    try:
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
    except OSError as error:
        # Some network drives cannot, and a folder may be open for writing but not for reading.
        if error.errno not in (errno.EACCES, errno.EBADF, errno.EINVAL):
            raise
