"""Zarr v2 and v3, sharded or not, in any store, plain or as OME-Zarr images.

Chunks are read by `direct` where it knows the store and the codecs, else by zarr-python,
which is imported when the first Zarr source is opened.
"""

import itertools
import json
import math
import os
import posixpath
import re
import sys
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import numpy as np
from numpy.typing import NDArray

from streamloss.affine import Affine, read_affine
from streamloss.direct import DirectReader, open_direct
from streamloss.errors import InvalidInputError, ReadError
from streamloss.extras import require
from streamloss.locations import split_at_file
from streamloss.ome import Level, read_levels
from streamloss.volume import Region, StoredChunks
from streamloss.zarr_memory import read_bytes

if TYPE_CHECKING:
    import zarr
    import zarr.storage

READERS = ("direct", "zarr")
_METADATA = ("zarr.json", ".zarray", ".zgroup")
_OBJECT_STORES = ("s3://", "gs://", "az://")


def matches(source: Any) -> bool:
    """Tell whether `source` is a URL, a Zarr folder or zip file, or an object of zarr-python."""
    if isinstance(source, str):
        return not source.startswith(("n5://", "precomputed://"))
    if isinstance(source, Path):
        file, _ = split_at_file(source)
        return file.suffix in (".zip", ".ozx") if file.is_file() else _has_metadata(source)
    # An object of zarr-python cannot exist before zarr-python is imported.
    zarr = sys.modules.get("zarr")
    return zarr is not None and isinstance(
        source, zarr.Array | zarr.Group | zarr.abc.store.Store | zarr.storage.StorePath
    )


def open(source: Any, *, level: int, reader: str) -> "ZarrVolume":  # noqa: A001
    """
    Open a Zarr array, or one resolution level of an OME-Zarr image.

    Parameters
    ----------
    source
        A local path, a URL, or a `zarr.Array`, `zarr.Group`, store or `StorePath`.
    level
        Resolution level; a plain array has level 0 only.
    reader
        "zarr" for zarr-python, "direct" for files read without it, "auto" for the
        latter where it knows the array.

    Raises
    ------
    InvalidInputError
        If there is no Zarr array or image, more than one, or no such level, or "direct"
        is asked for and does not know the array.
    """
    import zarr
    from zarr.errors import UnstableSpecificationWarning, ZarrUserWarning

    with warnings.catch_warnings():
        # zarr-python's advice to writers of files; a reader cannot act on it.
        warnings.simplefilter("ignore", ZarrUserWarning)
        warnings.simplefilter("ignore", UnstableSpecificationWarning)
        node = _open_node(source)
        name = str(source) if isinstance(source, str | Path) else None
        if isinstance(node, zarr.Group):
            volume = _open_group(node, name, level)
        else:
            volume = _open_array(node, name, level)
    return volume if reader == "zarr" else _with_direct(volume, reader)


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
    held_bytes: int = 0

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
    def details(self) -> dict[str, Any]:
        """Further facts for `inspect`; reads the metadata of an image's other levels."""
        metadata = self.array.metadata
        if metadata.zarr_format == 2:
            codecs = [codec.get_config() for codec in metadata.filters or ()]
            codecs += [metadata.compressor.get_config()] if metadata.compressor else []
        else:
            codecs = [codec.to_dict() for codec in metadata.codecs]
        facts: dict[str, Any] = {
            "format": f"Zarr v{metadata.zarr_format}",
            "codecs": [_readable(codec) for codec in codecs],
            "shards": self.array.shards,
            "order": self.array.order,
            "fill_value": self.fill_value.item(),
        }
        if self.image is not None and self.level is not None:
            levels = read_levels(self.image.attrs)
            facts["level"] = levels.index(self.level)
            facts["levels"] = _shapes(self.image, levels)
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

        try:
            self.array.get_basic_selection(region, out=NDBuffer.from_numpy_array(out))
        except Exception as error:
            raise self._explain(region, error) from error

    def _explain(self, region: Region, error: Exception) -> ReadError:
        """Find the first chunk of `region` that cannot be read by reading one at a time."""
        grid = [
            range(extent.start // chunk, -(-extent.stop // chunk))
            for extent, chunk in zip(region, self.chunks, strict=True)
        ]
        for index in itertools.product(*grid):
            box = tuple(
                slice(i * chunk, min((i + 1) * chunk, size))
                for i, chunk, size in zip(index, self.chunks, self.shape, strict=True)
            )
            try:
                self.array.get_basic_selection(box)
            except Exception as cause:
                outer = self.array.shards or self.chunks
                key = self.array.metadata.encode_chunk_key(
                    tuple(extent.start // size for extent, size in zip(box, outer, strict=True))
                )
                return ReadError(
                    f"cannot read chunk {index} of {self.name!r}, stored under {key!r}: "
                    f"{_cause(cause)}"
                )
        box_text = ", ".join(f"{extent.start}:{extent.stop}" for extent in region)
        return ReadError(f"cannot read region [{box_text}] of {self.name!r}: {_cause(error)}")

    def decode_bytes(self, region: Region) -> int:
        """Bound the bytes a `read` of `region` holds beyond `out`."""
        if self.direct is not None:
            return self.direct.decode_bytes(region)
        import zarr

        metadata = self.array.metadata
        codecs = (
            [*(metadata.filters or ()), metadata.compressor]
            if metadata.zarr_format == 2
            else list(metadata.codecs)
        )
        # A v2 filter may store a wider type than the one it decodes to.
        itemsize = 8 if metadata.zarr_format == 2 and metadata.filters else self.dtype.itemsize
        return read_bytes(
            codecs,
            region,
            self.array.shards or self.chunks,
            itemsize,
            zarr.config.get("async.concurrency") * zarr.config.get("codec_pipeline.batch_size"),
        )

    @cached_property
    def stored_chunks(self) -> StoredChunks | None:
        """What is stored, chunks or the shards of a sharded array, keys listed once."""
        if self.direct is not None:
            return StoredChunks(self.direct.stored(), self.direct.object_shape)
        outer = self.array.shards or self.chunks
        grid = np.zeros(
            [-(-size // chunk) for size, chunk in zip(self.shape, outer, strict=True)], np.bool_
        )
        encode = self.array.metadata.encode_chunk_key
        listed = False
        try:
            for key in _keys(self.array):
                listed |= key in _METADATA
                # Rather than to parse each key encoding, guess the index and encode it.
                index = tuple(map(int, re.findall(r"[0-9]+", key)))[: grid.ndim]
                if len(index) == grid.ndim and all(map(int.__lt__, index, grid.shape)):
                    grid[index] |= encode(index) == key
        except (OSError, NotImplementedError):
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


def _with_direct(volume: ZarrVolume, reader: str) -> ZarrVolume:
    """Read a volume's files directly if possible."""
    direct = open_direct(volume.array, volume.name)
    if direct is None and reader == "direct":
        raise InvalidInputError(
            f"{volume.name!r} cannot be read directly: its store, codecs or key encoding are "
            'not covered; pass reader="auto" to leave it to zarr-python'
        )
    return replace(volume, direct=direct)


def _open_node(source: Any) -> "zarr.Array[Any] | zarr.Group":
    """Open what a path, URL or store holds, for reading only."""
    import zarr
    from zarr.abc.store import Store
    from zarr.storage import FsspecStore, LocalStore, StorePath, ZipStore

    if isinstance(source, zarr.Array | zarr.Group):
        return source
    name = repr(str(source))
    try:
        store: Any = source
        if isinstance(source, str) and source.startswith(_OBJECT_STORES):
            return zarr.open(store=_object_store(source), mode="r")
        if isinstance(source, str):
            store = FsspecStore.from_url(source, read_only=True)
        elif isinstance(source, Path):
            file, inner = split_at_file(source)
            if file.is_file():
                return zarr.open(store=ZipStore(file, read_only=True), path=inner, mode="r")
            store = LocalStore(source, read_only=True)
            # To open it as zarr-python does, in a thread of its own, takes three times as long.
            if (metadata := source / "zarr.json").is_file():
                facts = json.loads(metadata.read_bytes())
                if isinstance(facts, dict) and facts.get("node_type") == "array":
                    return zarr.Array.from_dict(StorePath(store), facts)
        if isinstance(store, Store) and not store.read_only:
            # A writable store need not offer a read-only copy; a path in it opens as it is.
            store = StorePath(store)
        return zarr.open(store=store, mode="r")
    except InvalidInputError:
        raise
    except ImportError as error:
        raise InvalidInputError(
            f"{name} needs a package that is not installed, fsspec or the one for its protocol: "
            f"{_cause(error)}"
        ) from error
    except FileNotFoundError as error:
        raise InvalidInputError(f"{name} does not exist or holds no Zarr array or group") from error
    except Exception as error:
        raise InvalidInputError(f"{name} cannot be opened as Zarr: {_cause(error)}") from error


def _object_store(url: str) -> "zarr.storage.StorePath":
    """Return a place in a bucket; credentials and endpoint are those of the environment."""
    obstore = require("obstore.store", extra="cloud", what=f"{url!r}")
    from zarr.storage import ObjectStore, StorePath

    parts = urlsplit(url)
    # By default a server that does not answer is asked for three minutes.
    retries = {"max_retries": 3, "retry_timeout": timedelta(seconds=30)}
    bucket = obstore.from_url(f"{parts.scheme}://{parts.netloc}", retry_config=retries)
    # Opened at its root, so that an array finds the image around it.
    return StorePath(ObjectStore(bucket, read_only=True), parts.path.strip("/"))


def _open_array(array: "zarr.Array[Any]", name: str | None, level: int) -> ZarrVolume:
    """Open an array that the user named, with what an image around it says about it."""
    name = name or _name(array)
    if level != 0:
        raise InvalidInputError(
            f"{name!r} is one array, not a multiscale image, so it has no level {level}"
        )
    for image, path in _groups_around(array):
        for candidate in read_levels(image.attrs):
            if posixpath.normpath(candidate.path) == path:
                return ZarrVolume(array, name, candidate, image)
    return ZarrVolume(array, name, None, None)


def _open_group(group: "zarr.Group", name: str | None, level: int) -> ZarrVolume:
    """Open a level of the image that a group is, or of the only image within it."""
    import zarr

    name = name or _name(group)
    levels = read_levels(group.attrs)
    if not levels:
        found = list(itertools.islice(_images(group, ""), 11))
        if len(found) == 1 and isinstance(found[0][1], zarr.Group):
            return _open_group(found[0][1], posixpath.join(name, found[0][0]), level)
        if not found:
            raise InvalidInputError(f"{name!r} is a Zarr group in which no array can be found")
        paths = ", ".join(path for path, _ in found[:10]) + (" …" if len(found) > 10 else "")
        raise InvalidInputError(
            f"{name!r} is a Zarr group, not an array or image; pick one within it: {paths}"
        )
    if not 0 <= level < len(levels):
        sizes = ", ".join(
            f"{i}: {entry['shape']}" for i, entry in enumerate(_shapes(group, levels))
        )
        raise InvalidInputError(f"{name!r} has no level {level}; it has {len(levels)} ({sizes})")
    path = levels[level].path
    node = _member(group, path)
    if not isinstance(node, zarr.Array):
        raise InvalidInputError(
            f"{name!r} declares level {level} at {path!r}, where there is no array"
        )
    return ZarrVolume(node, posixpath.join(name, path), levels[level], group)


def _name(node: "zarr.Array[Any] | zarr.Group") -> str:
    """Name a node of a hierarchy by its path or URL, the same in every run."""
    from zarr.storage import FsspecStore, LocalStore, MemoryStore

    store = node.store
    if isinstance(store, LocalStore):
        return str(store.root / node.path)
    if isinstance(store, FsspecStore):
        return posixpath.join(str(store.fs.unstrip_protocol(store.path)), node.path).rstrip("/")
    if isinstance(store, MemoryStore):
        # The store's own name holds its address.
        return f"memory:{node.path or '/'}"
    return str(node.store_path)


def _groups_around(array: "zarr.Array[Any]") -> Iterator[tuple["zarr.Group", str]]:
    """Yield the groups that hold an array, innermost first, and its path in each."""
    import zarr
    from zarr.storage import FsspecStore, LocalStore, StorePath

    store, path = array.store, array.path
    if isinstance(store, LocalStore):
        # A path into a hierarchy is opened as a store of its own.
        path = (store.root / path).absolute().as_posix()
        store = LocalStore(Path(path).anchor, read_only=True)
        path = path.removeprefix(store.root.as_posix())
    elif isinstance(store, FsspecStore):
        path = posixpath.join(store.path, path).strip("/")
        root = "/" if store.path.startswith("/") else ""
        store = FsspecStore(store.fs, read_only=True, path=root)
    inner = ""
    while path:
        path, _, last = path.rpartition("/")
        inner = posixpath.join(last, inner).rstrip("/")
        # To let zarr-python find nothing takes 2 ms.
        if isinstance(store, LocalStore) and not _has_metadata(store.root / path):
            return
        try:
            node = zarr.open(store=StorePath(store, path), mode="r")
        except Exception:
            # What lies around an array is a bonus; it may be unreadable or forbidden.
            return
        if not isinstance(node, zarr.Group):
            return
        yield node, inner


def _has_metadata(folder: Path) -> bool:
    return any((folder / name).is_file() for name in _METADATA)


def _images(group: "zarr.Group", prefix: str) -> Iterator[tuple[str, Any]]:
    """Yield the outermost images and plain arrays within a group, by path."""
    import zarr

    for name, node in sorted(group.members()):
        path = posixpath.join(prefix, name)
        if isinstance(node, zarr.Array) or read_levels(node.attrs):
            yield path, node
        else:
            yield from _images(node, path)


def _member(group: "zarr.Group", path: str) -> Any:
    try:
        return group[posixpath.normpath(path)]
    except (KeyError, OSError):
        return None


def _shapes(image: "zarr.Group", levels: tuple[Level, ...]) -> list[dict[str, Any]]:
    """List the path, shape (None if the array is missing) and spacing of each level."""
    return [
        {
            "path": level.path,
            "shape": getattr(_member(image, level.path), "shape", None),
            "spacing": level.spacing,
        }
        for level in levels
    ]


def _keys(array: "zarr.Array[Any]") -> Iterator[str]:
    """Yield the keys below an array, relative to it."""
    from zarr.core.sync import collect_aiterator
    from zarr.storage import LocalStore

    if isinstance(array.store, LocalStore):
        root = array.store.root / array.path
        # LocalStore.list_prefix asks for the status of each file.
        for folder, _, files in os.walk(root, onerror=_raise):
            prefix = Path(folder).relative_to(root).as_posix()
            yield from files if prefix == "." else (f"{prefix}/{file}" for file in files)
        return
    if not array.store.supports_listing:
        raise NotImplementedError
    prefix = f"{array.path}/" if array.path else ""
    for key in collect_aiterator(array.store.list_prefix(prefix)):
        yield key.removeprefix(prefix)


def _raise(error: OSError) -> None:
    raise error


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


def _cause(error: Exception) -> str:
    """Say in one line what went wrong."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}".rstrip(": ")
