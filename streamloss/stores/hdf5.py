"""Datasets in HDF5 files, named as file.h5/path/to/dataset; h5py, an extra, reads them.

The name may end at the file, or at a group, if that holds one dataset alone.
"""

import itertools
import math
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamloss.errors import InvalidInputError, ReadError, cause_of, message_of
from streamloss.extras import require
from streamloss.lazy import lazy
from streamloss.locations import split_at_file
from streamloss.stored_volume import StoredVolume, refuse_levels, region_error
from streamloss.volume import Region, StoredChunks, chunk_grid, split_at_chunks

READERS = ()
PRIORITY = -1
"""After those that go by the name: a file that is called otherwise is opened to see."""

_SUFFIXES = (".h5", ".hdf5")
_SIGNATURE = b"\x89HDF\r\n\x1a\n"
# Attributes by which programs tell the voxel size, and their unit: those of this package,
# of ilastik and PlantSeg, and of the challenges on electron microscopy.
_SPACINGS = (("spacing", None), ("element_size_um", "micrometer"), ("resolution", "nanometer"))
# HDF5 converts types and gathers rows in buffers of this size.
_BUFFER_BYTES = 2**20


def matches(source: Any) -> bool:
    """Tell whether `source` is an HDF5 file or leads into one."""
    if not isinstance(source, Path):
        return False
    file, _ = split_at_file(source)
    if not file.is_file():
        return False
    if file.suffix.lower() in _SUFFIXES:
        return True
    with file.open("rb") as start:
        return start.read(len(_SIGNATURE)) == _SIGNATURE


def open(source: Path, *, level: int, reader: str) -> "Hdf5Volume":  # noqa: A001
    """
    Open a dataset.

    Parameters
    ----------
    source
        The file, with the path of a group or dataset in it.
    level
        Resolution level; there is level 0 only.
    reader
        Has no meaning here: there is one.

    Raises
    ------
    InvalidInputError
        If h5py is not installed, the file is no HDF5 file, has no such dataset or several,
        or there is no such level.
    """
    h5py = require("h5py", extra="hdf5", what="HDF5")
    name = str(source)
    refuse_levels(name, level)
    file, path = split_at_file(source)
    try:
        opened = h5py.File(file, "r")
    except OSError as error:
        message = f"{str(file)!r} cannot be read as HDF5: {message_of(error)}"
        raise InvalidInputError(message) from error
    with opened:
        path = _find(h5py, opened, file, path)
        dataset = opened[path]
        spacing, unit = _spacing(dataset.attrs, dataset.ndim)
        labels = tuple(dimension.label for dimension in dataset.dims)
        return Hdf5Volume(
            name=f"{file}/{path}",
            file=file,
            path=path,
            shape=dataset.shape,
            dtype=_dtype(dataset, f"{file}/{path}"),
            chunks=dataset.chunks or (*(1,) * (dataset.ndim - 1), *dataset.shape[-1:]),
            fill_value=dataset.fillvalue if dataset.chunks else None,
            spacing=spacing,
            unit=unit,
            axes=labels if labels and all(labels) else None,
            details={"format": "HDF5", "codecs": _codecs(dataset)},
            filtered=bool(dataset.chunks),
        )


def files_beside(source: Path) -> list[Path]:
    """Return the other files that hold voxels of a dataset, or lead to it.

    Those of external storage, of the sources of a virtual dataset, and behind external links,
    each of which may lead further. What is not there or cannot be read leads nowhere, nor does
    anything if h5py is not installed: whoever opens it tells.
    """
    file, path = split_at_file(source)
    seen: set[tuple[Path, str | None]] = set()
    pending: list[tuple[Path, str | None]] = [(file, path)]
    while pending:
        place, inner = pending.pop()
        # HDF5 goes by the name, but links in a circle may name a file in ever longer ways.
        key = (place.resolve(), inner)
        if key in seen:
            continue
        seen.add(key)
        if inner is not None:
            with suppress(Exception):
                h5py = require("h5py", extra="hdf5", what="HDF5")
                with h5py.File(place, "r") as opened:
                    pending += _leads(h5py, opened, place, inner)
    return sorted({other for other, _ in seen} - {file.resolve()})


@dataclass(frozen=True, eq=False)
class Hdf5Volume(StoredVolume):
    """A dataset, read by h5py, which reads one thread after the other."""

    file: Path
    path: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    chunks: tuple[int, ...]
    filtered: bool
    """Whether it is stored in chunks, which are decoded as a whole."""
    reader: str = "hdf5"

    @lazy
    def opened(self) -> Any:
        """Open the dataset, without the cache of chunks: each is read once."""
        h5py = require("h5py", extra="hdf5", what="HDF5")
        return h5py.File(self.file, "r", rdcc_nbytes=0)[self.path]

    def read(self, region: Region, out: NDArray[Any]) -> None:
        """
        Fill `out` with the voxels of `region`; may be called by several threads at once.

        Raises
        ------
        ReadError
            If a chunk cannot be read or decoded.
        """
        try:
            if out.flags.c_contiguous:
                self.opened.read_direct(out, region)
            else:
                out[...] = self.opened[region]
        except Exception as error:
            raise self._explain(region, error) from error

    def _explain(self, region: Region, error: Exception) -> ReadError:
        """Name the first chunk of `region` that cannot be read."""
        for index, box, _ in split_at_chunks(region, self.chunks) if self.filtered else ():
            try:
                self.opened[box]
            except Exception:
                return ReadError(f"cannot read chunk {index} of {self.name!r}: {cause_of(error)}")
        return region_error(self.name, region, error)

    def decode_bytes(self, region: Region) -> int:
        """
        Bound the bytes a `read` of `region` holds beyond `out`.

        A chunk as stored, and before and after the filter at work; `out` once more if it is
        not contiguous.
        """
        size = self.dtype.itemsize
        voxels = math.prod(part.stop - part.start for part in region)
        chunk = math.prod(self.chunks) * size if self.filtered else 0
        return int(voxels * size + 3 * (chunk + chunk // 64) + 2 * _BUFFER_BYTES)

    @lazy
    def stored_chunks(self) -> StoredChunks | None:
        """Which chunks are stored; None for a dataset that is one piece."""
        if not self.filtered:
            return None
        grid = np.zeros(chunk_grid(self.shape, self.chunks), np.bool_)

        def note(chunk: Any) -> None:
            place = zip(chunk.chunk_offset, self.chunks, strict=True)
            grid[tuple(offset // size for offset, size in place)] = True

        self.opened.id.chunk_iter(note)
        return StoredChunks(grid, self.chunks)


def _find(h5py: Any, file: Any, location: Path, path: str) -> str:
    """Return the path of the one dataset that is named, or lies below a group that is."""
    node = file.get(path) if path else file
    if node is None:
        raise InvalidInputError(f"{str(location)!r} has no {path!r}{_choice(h5py, file)}")
    if isinstance(node, h5py.Dataset):
        return path
    found = _datasets(h5py, node, path)
    if len(found) == 1:
        return found[0]
    where = f"{str(location)!r}" + (f" has the group {path!r}, which" if path else "")
    if not found:
        raise InvalidInputError(f"{where} holds no dataset of numbers")
    raise InvalidInputError(f"{where} holds several datasets{_choice(h5py, node, path)}")


def _leads(h5py: Any, opened: Any, file: Path, path: str) -> Iterator[tuple[Path, str | None]]:
    """Yield the datasets in this file or others, and the raw files (None), that one lies in."""
    node, names = opened, _find(h5py, opened, file, path).split("/")
    while names:
        name, *names = names
        link = node.get(name, getlink=True) if name not in ("", ".") else None
        if isinstance(link, h5py.ExternalLink):
            other = _located(link.filename, file, os.environ.get("HDF5_EXT_PREFIX", ""))
            if other is not None:
                yield other, "/".join((link.path, *names))
            return
        if isinstance(link, h5py.SoftLink):
            node = opened if link.path.startswith("/") else node
            names = link.path.split("/") + names
        elif link is not None:
            node = node[name]
    # What the environment says of where to look is told by these.
    prefixes = node.id.get_access_plist()
    for name, *_ in node.external or ():
        raw = Path(os.fsdecode(prefixes.get_efile_prefix()), name)
        if raw.is_file():
            yield raw, None
    for part in node.virtual_sources() if node.is_virtual else ():
        prefix = os.fsdecode(prefixes.get_virtual_prefix())
        yield from _sources(h5py, file, part.file_name, part.dset_name, prefix)


def _sources(
    h5py: Any, file: Path, name: str, dataset: str, prefix: str
) -> Iterator[tuple[Path, str]]:
    """Yield a source of a virtual dataset, or those that a pattern stands for, up to a gap."""
    patterns = [text for text in (name, dataset) if _numbered(text, 0) != _numbered(text, 1)]
    for number in itertools.count() if patterns else (0,):
        place = file if name == "." else _located(_numbered(name, number), file, prefix)
        if place is None:
            return
        inner = _numbered(dataset, number)
        if dataset in patterns:
            with h5py.File(place, "r") as opened:
                if inner not in opened:
                    return
        yield place, inner


def _numbered(pattern: str, number: int) -> str:
    """Fill in the number of a block, %b; a percent sign is written %%."""
    return re.sub("%[b%]", lambda found: str(number) if found[0] == "%b" else "%", pattern)


def _located(name: str, file: Path, prefix: str) -> Path | None:
    """Return the file that another one names, looked for where HDF5 does, in its order."""
    # One that is not where its full name says may have been moved along with the other.
    full = Path(name)
    last = full.name if full.is_absolute() else name
    folders = [Path(folder) for folder in prefix.split(os.pathsep) if folder]
    folders += [file.parent, Path(), file.resolve().parent]
    choice = [full] * full.is_absolute() + [folder / last for folder in folders]
    return next((path for path in choice if path.is_file()), None)


def _datasets(h5py: Any, group: Any, path: str) -> list[str]:
    """List the datasets of numbers with an axis or more below a group that a path leads to.

    By the way there: the group may be in another file, where it has another name.
    """
    found: list[str] = []

    def note(name: str, node: Any) -> None:
        if isinstance(node, h5py.Dataset) and node.dtype.kind in "biuf" and node.ndim > 0:
            found.append(f"{path}/{name}".strip("/"))

    group.visititems(note)
    return found


def _choice(h5py: Any, group: Any, path: str = "") -> str:
    paths = _datasets(h5py, group, path)
    listed = ", ".join(paths[:10]) + (" …" if len(paths) > 10 else "")
    return f"; pick one of them by its path, file/path: {listed}" if paths else ""


def _dtype(dataset: Any, name: str) -> np.dtype[Any]:
    """Return the element type in the machine's byte order."""
    if dataset.shape is None:
        raise InvalidInputError(f"{name!r} has no voxels: it is an empty dataset")
    dtype: np.dtype[Any] = np.dtype(dataset.dtype)
    return dtype.newbyteorder("=")


def _spacing(
    attributes: Mapping[str, Any], axes: int
) -> tuple[tuple[float, ...] | None, str | None]:
    """Return the voxel size that an attribute tells, and its unit."""
    for name, unit in _SPACINGS:
        try:
            sizes = tuple(float(size) for size in np.ravel(attributes[name]))
        except (KeyError, TypeError, ValueError):
            continue
        # Spatial axes are the last ones.
        if 0 < len(sizes) <= axes and all(0 < size < math.inf for size in sizes):
            return (1.0,) * (axes - len(sizes)) + sizes, unit
    return None, None


def _codecs(dataset: Any) -> list[str]:
    """Name the filters in the order in which they encode."""
    filters = dataset.id.get_create_plist()
    return [
        filters.get_filter(number)[3].decode(errors="replace").partition(" ")[0]
        for number in range(filters.get_nfilters())
    ]
