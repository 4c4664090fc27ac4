"""Tells whether a volume has changed, without reading it where that can be.

What settings a run has is told by its task; here is only what identifies stored voxels.
"""

import hashlib
import json
import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from streamloss.locations import ZARR_METADATA, is_url, split_at_file
from streamloss.stores import files_beside
from streamloss.volume import Volume


def of_source(source: str) -> dict[str, Any]:
    """Return what tells whether a volume has changed: its path and a digest of its files.

    The digest covers the name, size and time of change of every file, metadata and
    chunks, none of which is read, also of those beside the named one that hold its voxels,
    and the attributes of the Zarr groups around an array, which may tell its spacing. Of a URL
    only the address is known.
    """
    if is_url(source):
        return {"path": source, "files": None, "bytes": None, "digest": None}
    path = Path(source).expanduser()
    # An array inside a file changes with that file.
    place, _ = split_at_file(path)
    digest, count, size = hashlib.sha256(), 0, 0
    for name, length, time in sorted(_files(place, path)):
        digest.update(f"{name}\0{length}\0{time}\n".encode())
        count, size = count + 1, size + length
    # What lies around an array is a bonus; it may be unreadable or forbidden.
    with suppress(OSError, ValueError, AttributeError):
        for attributes in _attributes_around(place):
            digest.update(attributes)
    return {
        "path": os.fspath(path.resolve()),
        "files": count,
        "bytes": size,
        "digest": digest.hexdigest(),
    }


def of_volume(volume: Volume) -> dict[str, Any]:
    """Return what `of_source` does of an open volume; of an array in memory, of its voxels.

    Of an array in a bucket the digest covers the name, size and version of every object, and
    what the groups around it tell. What computes its voxels, such as a dask array, is known by
    its name alone.
    """
    array = volume.view(tuple(slice(0, size) for size in volume.shape))
    if isinstance(array, np.memmap) and array.filename is not None:
        return of_source(os.fspath(array.filename))
    if array is None:
        place, _ = split_at_file(Path(volume.name))
        return of_source(volume.name) if place.exists() else _of_objects(volume)
    digest = hashlib.sha256()
    for part in array if array.ndim > 1 else [array]:
        digest.update(np.ascontiguousarray(part).data)
    return {"path": volume.name, "files": 0, "bytes": array.nbytes, "digest": digest.hexdigest()}


def _of_objects(volume: Volume) -> dict[str, Any]:
    """Return what tells whether an array in a bucket has changed, of others the name alone."""
    list_objects = getattr(volume, "stored_objects", tuple)
    digest, count, size = hashlib.sha256(), 0, 0
    for name, length, version in sorted(list_objects()):
        digest.update(f"{name}\0{length}\0{version}\n".encode())
        count, size = count + 1, size + length
    digest.update(repr((volume.spacing, volume.unit, volume.axes, volume.affine)).encode())
    if not count:
        return {"path": volume.name, "files": None, "bytes": None, "digest": None}
    return {"path": volume.name, "files": count, "bytes": size, "digest": digest.hexdigest()}


def _files(place: Path, source: Path) -> Iterable[tuple[str, int, int]]:
    """Yield the name, size and time of change of the files of a source, which is at a place."""
    if place.is_file():
        # By the last name alone: on another machine their folders may be called otherwise.
        beside = ((other.name, other) for other in files_beside(source))
        for name, file in (("", place), *beside):
            facts = file.stat()
            yield name, facts.st_size, facts.st_mtime_ns
    root = os.fspath(place)
    pending = [root] if place.is_dir() else []
    while pending:
        with os.scandir(pending.pop()) as entries:
            for entry in entries:
                if entry.is_dir():
                    pending.append(entry.path)
                else:
                    # Arrays have many chunks: this is much faster than `os.path.relpath`.
                    facts = entry.stat()
                    name = entry.path[len(root) :].lstrip(os.sep)
                    yield name, facts.st_size, facts.st_mtime_ns


def _attributes_around(path: Path) -> Iterable[bytes]:
    """Yield the attributes of the Zarr groups that hold an array, innermost first."""
    folder = os.fspath(path.absolute()) if path.is_dir() else ""
    while folder:
        # Text, as paths are slow and a batch looks around thousands of arrays.
        folder = folder.rpartition(os.sep)[0]
        if not any(os.path.isfile(f"{folder}{os.sep}{name}") for name in ZARR_METADATA):  # noqa: PTH113
            return
        # A file may be written anew for an array beside this one, so its time tells nothing.
        with suppress(FileNotFoundError):
            facts = json.loads(Path(f"{folder}{os.sep}zarr.json").read_bytes())
            yield json.dumps(facts.get("attributes"), sort_keys=True).encode()
        with suppress(FileNotFoundError):
            yield Path(f"{folder}{os.sep}.zattrs").read_bytes()
