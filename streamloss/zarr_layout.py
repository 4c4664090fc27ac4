"""Where and how a Zarr array is stored on a local file system, as its metadata say.

zarr-python parses and validates the metadata; what of them is covered is told here. Reading is
in `direct`, codecs in `zarr_codecs`.
"""

import math
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from streamloss.volume import chunk_grid
from streamloss.zarr_codecs import (
    FILTERS,
    Chain,
    NotCoveredError,
    endian_of,
    only_of,
    parse_codecs,
    steps_of,
)

if TYPE_CHECKING:
    import zarr

# A grid costs a byte for each object; beyond this it would take more than a block does.
_MAX_OBJECTS = 2**26
# Index entries of a shard.
_ENTRY = 16


@dataclass(frozen=True)
class Shards:
    """How a shard holds its chunks.

    Attributes
    ----------
    grid
        Chunks of a shard along each axis.
    entry
        Element type of the index as stored.
    checksum
        Whether a crc32c follows the index.
    at_end
        Whether the index is the end of the shard rather than its start.
    """

    grid: tuple[int, ...]
    entry: str
    checksum: bool
    at_end: bool

    @property
    def index_bytes(self) -> int:
        """Size of the index as stored."""
        return _ENTRY * math.prod(self.grid) + 4 * self.checksum


@dataclass(frozen=True)
class Layout:
    """Where and how an array is stored; pickles."""

    name: str
    root: str
    shape: tuple[int, ...]
    chunks: tuple[int, ...]
    objects: tuple[int, ...]
    fill_value: Any
    prefix: str
    separator: str
    chain: Chain
    shards: Shards | None

    @property
    def grid(self) -> tuple[int, ...]:
        """Number of objects (shards, or chunks of an array without shards) along each axis."""
        return chunk_grid(self.shape, self.objects)

    def key(self, index: tuple[int, ...]) -> str:
        """Return where an object is stored, below the array's folder."""
        return self.prefix + self.separator.join(map(str, index))


def layout_of(array: "zarr.Array[Any]", name: str | None = None) -> Layout | None:
    """Return where and how an array is stored, None if that is not covered.

    Parameters as `direct.open_direct`.
    """
    from zarr.storage import LocalStore

    if type(array.store) is not LocalStore or array.ndim == 0:
        return None
    dtype = np.dtype(array.dtype)
    if dtype.kind not in "biuf" or dtype.itemsize > 8:
        return None
    root = (array.store.root / array.path).absolute()
    metadata = array.metadata.to_dict()
    try:
        parse = _parse_v2 if metadata["zarr_format"] == 2 else _parse_v3
        objects, chunks, prefix, separator, chain, shards = parse(metadata, dtype)
    except (NotCoveredError, KeyError):
        # Metadata of a later version may lack a key that was always there.
        return None
    if math.prod(chunk_grid(array.shape, objects)) > _MAX_OBJECTS:
        return None
    native = dtype.newbyteorder("=")
    fill_value = array.metadata.fill_value
    return Layout(
        name=str(array.store.root / array.path) if name is None else name,
        root=str(root),
        shape=array.shape,
        chunks=chunks,
        objects=objects,
        fill_value=native.type(0 if fill_value is None else fill_value),
        prefix=prefix,
        separator=separator,
        chain=chain,
        shards=shards,
    )


def mark_stored(layout: Layout, stored: NDArray[np.bool_]) -> None:
    """
    Mark each stored object in a grid.

    Raises
    ------
    OSError
        If a folder cannot be listed, or what is in the place of one is a file.
    """
    nested = layout.separator == "/"
    # A key is written in one way: no leading zeros, no sign.
    axes = [{str(i): i for i in range(size)} for size in stored.shape]

    # A symbolic link to nowhere is a chunk that was not fetched, not fill.
    def walk(folder: str, below: NDArray[np.bool_]) -> None:
        # Names alone are listed in half the time of names and kinds.
        axis = axes[-below.ndim]
        names = [name for name in os.listdir(folder) if name in axis]  # noqa: PTH208
        if below.ndim == 1:
            below[[axis[name] for name in names]] = True
            return
        for name in names:
            walk(f"{folder}/{name}", below[axis[name]])

    if nested and layout.prefix:
        top = f"{layout.root}/{layout.prefix.rstrip('/')}"
        # An array without any chunk has no such folder, but a folder of its own.
        os.stat(layout.root)  # noqa: PTH116
        if os.path.lexists(top):
            walk(top, stored)
        return
    if nested:
        walk(layout.root, stored)
        return
    for name in os.listdir(layout.root):  # noqa: PTH208
        parts = name.removeprefix(layout.prefix).split(layout.separator)
        if not name.startswith(layout.prefix) or len(parts) != len(axes):
            continue
        index = tuple(axis.get(part, -1) for axis, part in zip(axes, parts, strict=True))
        if min(index) >= 0:
            stored[index] = True


def _parse_v2(metadata: dict[str, Any], dtype: np.dtype[Any]) -> tuple[Any, ...]:
    """Return the fields of a layout from the metadata of Zarr v2."""
    codecs = [*(metadata["filters"] or ()), metadata["compressor"]]
    codecs = [codec for codec in codecs if codec is not None]
    chunks = tuple(metadata["chunks"])
    nbytes = math.prod(chunks) * dtype.itemsize
    order = tuple(range(len(chunks)))[::-1] if metadata["order"] == "F" else None
    widens = any(codec["id"] in FILTERS for codec in codecs)
    order = None if len(chunks) == 1 else order
    chain = Chain(steps_of(codecs, nbytes), dtype, order, widens, only_of(codecs, nbytes))
    return chunks, chunks, "", metadata["dimension_separator"], chain, None


def _parse_v3(metadata: dict[str, Any], dtype: np.dtype[Any]) -> tuple[Any, ...]:
    """Return the fields of a layout from the metadata of Zarr v3."""
    if metadata["chunk_grid"]["name"] != "regular" or metadata.get("storage_transformers"):
        raise NotCoveredError
    objects = tuple(metadata["chunk_grid"]["configuration"]["chunk_shape"])
    encoding = metadata["chunk_key_encoding"]
    separators = {"default": "/", "v2": "."}
    separator = encoding.get("configuration", {}).get("separator", separators[encoding["name"]])
    prefix = f"c{separator}" if encoding["name"] == "default" else ""
    codecs = list(metadata["codecs"])
    if codecs[0]["name"] != "sharding_indexed":
        return objects, objects, prefix, separator, parse_codecs(codecs, dtype, objects), None
    if len(codecs) > 1:
        raise NotCoveredError
    sharding = codecs[0]["configuration"]
    shards = shards_of(sharding, objects)
    chunks = tuple(sharding["chunk_shape"])
    chain = parse_codecs(list(sharding["codecs"]), dtype, chunks)
    return objects, chunks, prefix, separator, chain, shards


def codecs_of(array: "zarr.Array[Any]") -> list[Any]:
    """Return what encodes a chunk, in that order: codecs of zarr-python, or of numcodecs for v2."""
    metadata = array.metadata
    if metadata.zarr_format == 3:
        return list(metadata.codecs)
    return [codec for codec in (*(metadata.filters or ()), metadata.compressor) if codec]


def sharding_of(array: "zarr.Array[Any]") -> Shards | None:
    """Return how the shards of an array hold their chunks; None if there are none, or not known."""
    metadata: dict[str, Any] = array.metadata.to_dict()
    objects = array.shards or array.chunks
    if metadata["zarr_format"] == 2:
        return None
    *before, sharding = metadata["codecs"]
    if sharding["name"] != "sharding_indexed" or {codec["name"] for codec in before} - {
        "transpose"
    }:
        return None
    for codec in before:
        objects = tuple(objects[axis] for axis in codec["configuration"]["order"])
    try:
        return shards_of(sharding["configuration"], objects)
    except NotCoveredError:
        return None


def shards_of(sharding: dict[str, Any], objects: tuple[int, ...]) -> Shards:
    """Return how shards of some extent hold their chunks by the settings of their codec.

    Raises
    ------
    NotCoveredError
        If their index is encoded in a way not known here.
    """
    names = [codec["name"] for codec in sharding["index_codecs"]]
    if names not in (["bytes"], ["bytes", "crc32c"]):
        raise NotCoveredError
    return Shards(
        grid=chunk_grid(objects, tuple(sharding["chunk_shape"])),
        entry=">u8" if endian_of(sharding["index_codecs"][0]) == "big" else "<u8",
        checksum="crc32c" in names,
        at_end=sharding.get("index_location", "end") == "end",
    )
