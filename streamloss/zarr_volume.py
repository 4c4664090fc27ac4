"""The volume that a Zarr array is, and what its image says about it.

Voxels are read by `direct` where it knows the store and the codecs, else by zarr-python.
Which array a path, URL or group stands for is found in `stores.zarr`.
"""

import math
import os
import posixpath
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from streamloss.affine import Affine, read_affine
from streamloss.direct import DirectReader
from streamloss.errors import ReadError
from streamloss.file_checks import FileChecks, checks_of
from streamloss.locations import ZARR_METADATA
from streamloss.ome import Level, read_levels
from streamloss.stored_volume import chunk_error, region_error
from streamloss.volume import Region, StoredChunks, chunk_grid, split_at_chunks
from streamloss.zarr_layout import codecs_of
from streamloss.zarr_memory import read_bytes

if TYPE_CHECKING:
    import zarr


@dataclass(frozen=True, eq=False)
class ZarrVolume:
    """A Zarr array, read file by file where that is known, else by zarr-python."""

    array: "zarr.Array[Any]"
    name: str
    level: Level | None
    """What the OME metadata of the image say about this array."""
    image: "zarr.Group | None"
    """The OME image that holds this array."""
    direct: DirectReader | None = None
    """Reads the files; zarr-python does where it is None."""
    checked: Any = None
    """The array as zarr-python is to read it, by `checked_store`."""
    held_bytes: int = 0

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        if self.checked is not None:
            from streamloss.checked_codecs import check_codecs

            # Those within shards are made anew.
            check_codecs(codecs_of(self.checked))

    @property
    def reader(self) -> str:
        """What reads the voxels."""
        return "zarr" if self.direct is None else "direct"

    @cached_property
    def shape(self) -> tuple[int, ...]:
        """Extent in voxels along each axis."""
        return self.array.shape

    @cached_property
    def dtype(self) -> np.dtype[Any]:
        """Element type, in the machine's byte order."""
        return np.dtype(self.array.dtype).newbyteorder("=")

    @property
    def chunks(self) -> tuple[int, ...]:
        """Extent of the smallest box that is decoded as a whole; the inner chunk of a shard."""
        return self.array.chunks

    @property
    def fill_value(self) -> Any:
        """What a chunk that is not stored reads as; zero if a v2 array leaves it undefined."""
        return self.dtype.type(0 if self.array.fill_value is None else self.array.fill_value)

    @property
    def axes(self) -> tuple[str, ...] | None:
        """Axis names of the image, else `dimension_names` (v3) or `_ARRAY_DIMENSIONS` (v2)."""
        if self.level is not None and self.level.axes is not None:
            names: Any = self.level.axes
        else:
            names = getattr(self.array.metadata, "dimension_names", None)
            names = names or self.array.attrs.get("_ARRAY_DIMENSIONS")
        if not isinstance(names, list | tuple) or len(names) != self.array.ndim:
            return None
        return tuple(names) if all(isinstance(name, str) for name in names) else None

    @property
    def spacing(self) -> tuple[float, ...] | None:
        """Voxel size of the image level, else the array's attribute `spacing`."""
        if self._noted.get("spacing", ...) is None:
            return None
        if self.level is not None and self.level.spacing is not None:
            spacing: Any = self.level.spacing
        else:
            spacing = self.array.attrs.get("spacing")
        if not isinstance(spacing, list | tuple) or len(spacing) != self.array.ndim:
            return None
        if not all(isinstance(size, int | float) and 0 < size < math.inf for size in spacing):
            return None
        return tuple(float(size) for size in spacing)

    @property
    def unit(self) -> str | None:
        """Unit of the image's spatial axes."""
        return None if self.level is None or self.spacing is None else self.level.unit

    @property
    def affine(self) -> Affine | None:
        """Where a converted file said that its voxels lie."""
        return read_affine(self._noted)

    @cached_property
    def _noted(self) -> Mapping[str, Any]:
        """What `streamloss convert` noted of the file, beside what OME-Zarr has a place for."""
        attributes = {} if self.image is None else self.image.attrs
        noted = attributes.get("streamloss")
        # A level that someone else added to the image has another spacing and place.
        if isinstance(noted, Mapping) and read_levels(attributes)[0] == self.level:
            return noted
        return {}

    @property
    def codecs(self) -> list[Any]:
        """What encodes a chunk, in that order: codecs of zarr-python, or of numcodecs for v2."""
        return codecs_of(self.array)

    @property
    def details(self) -> dict[str, Any]:
        """Further facts for `inspect`; reads the metadata of an image's other levels."""
        version = self.array.metadata.zarr_format
        configurations = [
            codec.get_config() if version == 2 else codec.to_dict() for codec in self.codecs
        ]
        facts: dict[str, Any] = {
            "format": f"Zarr v{version}",
            "codecs": [_readable(codec) for codec in configurations],
            "shards": self.array.shards,
            "order": self.array.order,
            "fill_value": self.fill_value.item(),
        }
        if self.image is not None and self.level is not None:
            levels = read_levels(self.image.attrs)
            facts["level"] = levels.index(self.level)
            facts["levels"] = level_shapes(self.image, levels)
        return facts

    def view(self, region: Region) -> None:
        """Return None: nothing is in memory."""
        return

    def read(self, region: Region, out: NDArray[Any]) -> None:
        """
        Fill `out` with the voxels of `region`; may be called by several threads at once.

        Raises
        ------
        ReadError
            If a chunk cannot be read or decoded. zarr-python may still be writing other
            chunks of the region into `out` then.
        """
        if self.direct is not None:
            self.direct.read(region, out)
            return
        from zarr.buffer.cpu import NDBuffer

        if self.checks is not None:
            self.checks.check_objects(region)
        try:
            self.checked.get_basic_selection(region, out=NDBuffer.from_numpy_array(out))
        except Exception as error:
            raise self._explain(region, error) from error

    def _explain(self, region: Region, error: Exception) -> ReadError:
        """Find the first chunk of `region` that cannot be read by reading one at a time."""
        outer = self.array.shards or self.chunks
        # A shard may be refused as a whole, and none of its chunks by itself.
        for extents in (self.chunks, outer):
            for _, box, _ in split_at_chunks(region, extents):
                try:
                    self.checked.get_basic_selection(box)
                except Exception as cause:
                    chunk, place = (
                        tuple(part.start // size for part, size in zip(box, sizes, strict=True))
                        for sizes in (self.chunks, outer)
                    )
                    key = self.array.metadata.encode_chunk_key(place)
                    return chunk_error(self.name, chunk, key, cause)
        return region_error(self.name, region, error)

    def decode_bytes(self, region: Region) -> int:
        """Bound the bytes a `read` of `region` holds beyond `out`."""
        if self.direct is not None:
            return self.direct.decode_bytes(region)
        import zarr

        metadata = self.array.metadata
        # A v2 filter may store a wider type than the one it decodes to.
        itemsize = 8 if metadata.zarr_format == 2 and metadata.filters else self.dtype.itemsize
        held = 0 if self.checks is None else self.checks.index_bytes
        return held + read_bytes(
            self.codecs,
            region,
            self.array.shards or self.chunks,
            itemsize,
            zarr.config.get("async.concurrency") * zarr.config.get("codec_pipeline.batch_size"),
        )

    @cached_property
    def checks(self) -> FileChecks | None:
        """What looks at the files before another package than ours reads them, if known."""
        return checks_of(self.array, self.name)

    @cached_property
    def stored_chunks(self) -> StoredChunks | None:
        """What is stored, chunks or the shards of a sharded array, keys listed once."""
        if self.direct is not None:
            return StoredChunks(self.direct.stored(), self.direct.object_shape)
        from zarr.storage import LocalStore

        if not self.array.store.supports_listing:
            return None
        outer = self.array.shards or self.chunks
        grid = np.zeros(chunk_grid(self.shape, outer), np.bool_)
        encode = self.array.metadata.encode_chunk_key
        files, listed = isinstance(self.array.store, LocalStore), False
        try:
            for key in _keys(self.array):
                listed |= key in ZARR_METADATA
                # Rather than to parse each key encoding, guess the index and encode it.
                index = tuple(map(int, re.findall(r"[0-9]+", key)))[: grid.ndim]
                if not all(map(int.__lt__, index, grid.shape)):
                    continue
                place = encode((*index, *(0,) * (grid.ndim - len(index))))
                # Folders in the place of chunks, and files in that of folders, refuses who reads.
                if key == place or (files and (key == f"{place}/" or place.startswith(f"{key}/"))):
                    grid[index] = True
        except (OSError, NotImplementedError):
            # Some file systems of fsspec say that they list, and raise.
            return None
        # A store that does not list the array's own metadata cannot list its chunks either.
        return StoredChunks(grid, outer) if listed else None

    def stored_objects(self) -> Iterator[tuple[str, int, str]]:
        """Yield name, size and version of each object of an array in a bucket, none of others."""
        from zarr.storage import ObjectStore

        if isinstance(self.array.store, ObjectStore):
            import obstore

            # A folder's prefix ends with its name, as S3 has no folders.
            for page in obstore.list(self.array.store.store, prefix=f"{self.array.path}/"):
                for entry in page:
                    version = entry["e_tag"] or str(entry["last_modified"])
                    yield entry["path"], entry["size"], version


def member(group: "zarr.Group", path: str) -> Any:
    """Return the node at a path within a group, or None if there is none."""
    try:
        return group[posixpath.normpath(path)]
    except (KeyError, OSError):
        return None


def level_shapes(image: "zarr.Group", levels: tuple[Level, ...]) -> list[dict[str, Any]]:
    """List the path, shape (None if the array is missing) and spacing of each level."""
    return [
        {
            "path": level.path,
            "shape": getattr(member(image, level.path), "shape", None),
            "spacing": level.spacing,
        }
        for level in levels
    ]


def _keys(array: "zarr.Array[Any]") -> Iterator[str]:
    """Yield the keys below an array, relative to it, of folders with a slash at the end."""
    from zarr.core.sync import collect_aiterator
    from zarr.storage import LocalStore

    if isinstance(array.store, LocalStore):
        # A key has a number for each axis, perhaps after a prefix.
        yield from _files(array.store.root / array.path, "", array.ndim + 1)
        return
    prefix = f"{array.path}/" if array.path else ""
    for key in collect_aiterator(array.store.list_prefix(prefix)):
        yield key.removeprefix(prefix)


def _files(folder: Path, prefix: str, depth: int) -> Iterator[str]:
    """Yield files and folders below a folder, at most so many folders deep, those of links too."""
    # LocalStore.list_prefix asks for the status of each file.
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir():
                yield f"{prefix}{entry.name}/"
                if depth > 1:
                    yield from _files(folder / entry.name, f"{prefix}{entry.name}/", depth - 1)
                continue
            if entry.is_symlink() and not os.path.exists(entry.path):  # noqa: PTH110
                # zarr-python would read the fill value.
                raise ReadError(f"cannot list {folder}: {entry.name!r} is a link to nowhere")
            yield f"{prefix}{entry.name}"


def _readable(value: Any) -> str:
    """Write a codec's configuration as `name(key=value, …)`."""
    if isinstance(value, dict):
        name = value.get("name", value.get("id"))
        settings = value.get("configuration", value) or {}
        shown = ", ".join(
            f"{key}={_readable(setting)}"
            for key, setting in settings.items()
            if key not in ("id", "name", "index_codecs")
        )
        return f"{name}({shown})" if shown else f"{name}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_readable, value))}]"
    return str(value).lower() if isinstance(value, bool) or value is None else str(value)
