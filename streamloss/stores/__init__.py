"""Opens whatever the user names as a `Volume`.

Each module here is one storage format and offers `matches(source) -> bool`,
`open(source, *, level, reader) -> Volume` and the names of its `READERS` if one may be
chosen; one whose voxels may lie in other files than the one that is named also offers
`files_beside(source) -> list[Path]`. Adding a module adds a format. They receive a `Path` that
exists or leads into a file that does, a URL as `str`, or an object. Nothing here knows any format.
"""

import importlib
import os
import pkgutil
import re
from collections.abc import Callable
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

from streamloss.errors import InvalidInputError
from streamloss.locations import local_path, split_at_file
from streamloss.volume import Volume

__all__ = ["files_beside", "open_volume"]


def open_volume(source: Any, *, role: str, level: int = 0, reader: str = "auto") -> Volume:
    """
    Open an array of voxels for reading, whatever its storage format.

    Parameters
    ----------
    source
        A path or URL, or an array object that some module of `streamloss.stores` matches.
    role
        What errors call the array, such as "truth" or "prediction".
    level
        Resolution level of a multiscale image; 0 is the finest.
    reader
        "auto" for the fastest one that reads the array, or the name of one.

    Returns
    -------
    Volume
        The array: lazily read, not empty, of a boolean, integer or float type.

    Raises
    ------
    InvalidInputError
        If the source does not exist, is of no known format, lacks the level, is empty or
        has elements that are no plain numbers.
    MissingPackageError
        If the format needs a package that is not installed; names the extra.

    Examples
    --------
    >>> import numpy as np
    >>> open_volume(np.zeros((4, 8), np.uint8), role="truth").name
    'NumPy array (4, 8) uint8'
    """
    if isinstance(source, str | os.PathLike):
        source = _locate(os.fspath(source), role)
    formats = _formats()
    _check_reader(reader, formats)
    store = next(
        (
            module
            for module in formats
            # A format with one way to be read is read so, whatever reads the rest.
            if not module.READERS or reader in ("auto", *module.READERS)
            if module.matches(source)
        ),
        None,
    )
    if store is None:
        readable = ", ".join(module.__name__.rpartition(".")[2] for module in formats)
        raise InvalidInputError(
            f"{role} {_describe(source)}, not a format this version reads; readable: {readable}"
        )
    try:
        volume: Volume = store.open(source, level=level, reader=reader)
    except InvalidInputError as error:
        # The formats name the array, only the caller knows its role.
        raise type(error)(f"{role} {error}") from error.__cause__
    if volume.dtype.kind not in "biuf" or volume.dtype.itemsize > 8:
        raise InvalidInputError(
            f"{role} {volume.name!r} has elements of type {volume.dtype}; "
            "expected booleans, integers or floats of at most 64 bits"
        )
    if 0 in volume.shape:
        raise InvalidInputError(
            f"{role} {volume.name!r} has no voxels: its shape is {volume.shape}"
        )
    return volume


def files_beside(source: Path) -> list[Path]:
    """Return the files beside the named one in which its voxels may lie, as its format knows.

    Only formats that may have such files open it, and what they cannot read has none.
    """
    store = next((module for module in _formats() if module.matches(source)), None)
    tell: Callable[[Path], list[Path]] | None = getattr(store, "files_beside", None)
    return [] if tell is None else tell(source)


def _check_reader(reader: str, formats: list[ModuleType]) -> None:
    known = {name for module in formats for name in module.READERS}
    if reader != "auto" and reader not in known:
        raise InvalidInputError(
            f"unknown reader {reader!r}: expected auto, {', '.join(sorted(known))}"
        )


@cache
def _formats() -> list[ModuleType]:
    """Import the storage formats, those of higher `PRIORITY` (default 0) first."""
    modules = [
        importlib.import_module(f"{__name__}.{module.name}")
        for module in pkgutil.iter_modules(__path__)
    ]
    return sorted(modules, key=lambda module: -getattr(module, "PRIORITY", 0))


def _locate(source: str, role: str) -> Path | str:
    """Return a URL as it is, anything else as a path that exists or leads into a file."""
    place = local_path(source)
    if place is None:
        return source
    path = Path(place)
    if not source or not (path.exists() or split_at_file(path)[1]):
        raise InvalidInputError(f"{role} does not exist: {source!r}")
    return path


def _describe(source: Any) -> str:
    """Say what a source of unknown format is, as the predicate of a sentence."""
    if isinstance(source, str):
        return f"{source!r} is a URL"
    if not isinstance(source, Path):
        return f"is of type {type(source).__module__}.{type(source).__qualname__}"
    if source.is_dir():
        names = sorted(entry.name for entry in source.iterdir())
        more = f" and {len(names) - 5} more" if len(names) > 5 else ""
        found = f"holding {', '.join(names[:5])}{more}" if names else "without anything in it"
        return f"{str(source)!r} is a plain folder {found}"
    # All suffixes, for those like .nii.gz, but no parts of names like scan.2024-01.final.
    kind = re.search(r"(\.[A-Za-z]\w{0,7}){1,2}$", source.name)
    return f"{str(source)!r} is a file" + (f" of kind {kind.group()}" if kind else "")
