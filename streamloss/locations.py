"""How a user names an array, a path, a path into a file or a URL, and what may lie there.

Nothing is opened as a volume here.
"""

import os
import re
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import urlparse
from urllib.request import url2pathname

from streamloss.errors import InvalidInputError

ZARR_METADATA = ("zarr.json", ".zarray", ".zgroup")
"""Of which every folder of a Zarr hierarchy has one."""

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*(://|::)")


def is_url(name: str) -> bool:
    """Tell whether a name is a URL rather than a path."""
    return _URL.match(name) is not None


def split_at_file(path: Path) -> tuple[Path, str]:
    """Return the file that a path leads to or into, and the path within it.

    Formats such as HDF5 and Zip hold a tree in one file, so that `scan.h5/volumes/raw`
    names an array. What lies on no file is returned as it is.

    Examples
    --------
    >>> _ = Path("scan.h5").write_bytes(b"")
    >>> split_at_file(Path("scan.h5/volumes/raw"))
    (PosixPath('scan.h5'), 'volumes/raw')
    """
    if path.exists():
        return path, ""
    for outer in path.parents:
        if outer.exists():
            return (outer, path.relative_to(outer).as_posix()) if outer.is_file() else (path, "")
    return path, ""


def local_path(source: str) -> str | None:
    """Return the path that a name means on this machine, None for a URL of another."""
    if source.startswith("file://"):
        return url2pathname(urlparse(source).path)
    return None if is_url(source) else os.path.expanduser(source)  # noqa: PTH111


def refuse_to_overwrite(
    option: str, target: str | os.PathLike[str], inputs: Iterable[Any], *, replaced: bool = False
) -> None:
    """Refuse a target that is an input or lies within one, whatever links lead there.

    Parameters
    ----------
    option
        What the message calls the target.
    target
        A path, of which nothing need be there.
    inputs
        Whatever `score` takes; those that lie in no file are passed over.
    replaced
        Whether a folder that is the target goes with all that is in it.

    Raises
    ------
    InvalidInputError
        Names the target and the input.
    """
    own, *around = _identities(Path(target).expanduser())
    # A batch has thousands of inputs in few folders.
    image_of = cache(_image_of)
    for source in inputs:
        place = _place(source, image_of)
        input_itself = None if place is None else _identity(place)
        if place is None or input_itself is None:
            continue
        if input_itself == own:
            relation = "it is"
        elif input_itself in around:
            relation = "it lies within"
        elif replaced and own is not None and own in _identities(Path(place)):
            relation = "it holds"
        else:
            continue
        name = source if isinstance(source, str | os.PathLike) else place
        raise InvalidInputError(
            f"{option} cannot write {os.fspath(target)}: {relation} the input {os.fspath(name)}"
        )


def _identities(path: Path) -> list[tuple[int, int] | None]:
    """Return the identity of a place and of each folder around it."""
    resolved = path.resolve()
    return [_identity(place) for place in (resolved, *resolved.parents)]


def _identity(place: str | Path) -> tuple[int, int] | None:
    """Return what tells a place from all others whatever its name, None if nothing is there."""
    with suppress(OSError, ValueError):
        facts = os.stat(place)  # noqa: PTH116
        return facts.st_dev, facts.st_ino
    return None


def _place(source: Any, image_of: Callable[[str], str | None]) -> Path | str | None:
    """Return the file or folder on this machine that an input lies in, None if there is none.

    Of an array in Zarr it is the outermost group, which tells the spacing.
    """
    if not isinstance(source, str | os.PathLike):
        # A memory-mapped array knows its file, one of zarr-python the folder of its store.
        source = getattr(source, "filename", getattr(getattr(source, "store", None), "root", None))
        if not isinstance(source, str | os.PathLike):
            return None
    path = local_path(os.fspath(source))
    if path is None:
        return None
    # Text, as paths are slow.
    place = os.path.abspath(path)  # noqa: PTH100
    if os.path.islink(place):  # noqa: PTH114
        place = os.path.realpath(place)
    if os.path.isdir(place):  # noqa: PTH112
        return image_of(os.path.dirname(place)) or place  # noqa: PTH120
    # What no file can be called fails when it is opened, and tells why.
    with suppress(OSError, ValueError):
        return split_at_file(Path(place))[0]
    return None


def _image_of(folder: str) -> str | None:
    """Return the outermost of the Zarr groups that a folder lies in or is, None if it is none."""
    found = None
    folder = os.path.realpath(folder)
    while any(os.path.isfile(os.path.join(folder, name)) for name in ZARR_METADATA):  # noqa: PTH113, PTH118
        found, folder = folder, os.path.dirname(folder)  # noqa: PTH120
    return found
