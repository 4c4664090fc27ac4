"""Looks at the files of a Zarr array before a package reads them that overlooks what is wrong.

On a local file system only: elsewhere each look would be another download. What zarr-python
overlooks within a chunk, `checked_codecs` sees; `direct` needs none of this.
"""

import math
import os
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from streamloss.chunk_files import fill, open_file, refuse_others
from streamloss.shard_index import EMPTY, ShardIndexes
from streamloss.stored_volume import chunk_error
from streamloss.volume import Region, split_at_chunks
from streamloss.zarr_codecs import (
    Bytes,
    NotCoveredError,
    Step,
    inflate,
    parse_codecs,
    undo_zstd,
    zstd_size,
)
from streamloss.zarr_layout import sharding_of

if TYPE_CHECKING:
    import zarr

# Codecs of TensorStore that overlook bytes behind a chunk or a checksum that is cut off.
_OVERLOOKING = ("zstd", "gzip", "zlib", "bz2", "crc32c")


@dataclass(frozen=True)
class FileChecks:
    """What is known of the files of an array without reading them; pickles."""

    name: str
    root: str
    metadata: Any
    """Those of zarr-python, which name a file."""
    objects: tuple[int, ...]
    """Extent of what one file holds: a shard, or a chunk of an array without shards."""
    chunks: tuple[int, ...]
    nbytes: int
    """Size of a chunk, decoded."""
    codecs: tuple[str, ...]
    """What turns its voxels, as bytes, into those stored."""
    steps: tuple[tuple[Step, int | None], ...]
    """What undoes them, if not even the last one can be judged by itself."""
    indexes: ShardIndexes | None

    @property
    def index_bytes(self) -> int:
        """Upper bound of the bytes of indexes that a thread holds."""
        return 0 if self.indexes is None else self.indexes.held_bytes

    @property
    def held_bytes(self) -> int:
        """Upper bound of the bytes that a thread holds in `check_chunk`."""
        # As stored and decoded, of which Python's decompressors hold a copy.
        return self.index_bytes + 3 * self._largest + 2**17

    @property
    def _largest(self) -> int:
        """The most bytes that any codec makes of a chunk."""
        return self.nbytes + self.nbytes // 8 + 2**16

    def check_objects(self, region: Region) -> None:
        """
        Look at what is stored of a region, and at the indexes of shards, but at no chunk.

        Raises
        ------
        ReadError
            If it is no file, or empty, or a shard and not what its index says.
        """
        for index, part, _ in split_at_chunks(region, self.objects):
            first = tuple(p.start // size for p, size in zip(part, self.chunks, strict=True))
            self._check(first, index, None)

    def check_chunk(self, chunk: tuple[int, ...]) -> None:
        """
        Look at a chunk as stored, if its last codec needs that.

        Of zstd, only the headers of blocks are looked at, if the frames say what they decode
        to. Streams of gzip, zlib and bz2 are decoded, once more than by who reads them, and so
        is what several codecs have made, unless all but the last are checksums.

        Raises
        ------
        ReadError
            If it is no file, goes on after its end, or is cut short.
        """
        if not self.steps and not (self.codecs and self.codecs[-1] in _OVERLOOKING):
            return
        grid = [n // m for n, m in zip(self.objects, self.chunks, strict=True)]
        index, local = zip(*map(divmod, chunk, grid), strict=True)
        self._check(chunk, index, local)

    def _check(
        self, chunk: tuple[int, ...], index: tuple[int, ...], local: tuple[int, ...] | None
    ) -> None:
        """Look at the index of a shard, if it is one, and at the chunk of a place in the file."""
        key = self.metadata.encode_chunk_key(index)
        path = f"{self.root}/{key}"
        try:
            if local is None:
                # A third of what it takes to open it.
                status = os.stat(path)  # noqa: PTH116
                refuse_others(status)
                if status.st_size == 0:
                    raise ValueError("the file is empty")
                if self.indexes is not None:
                    self.indexes.check(key, path, status)
                return
            with open_file(path) as (file, status):
                offset, length = 0, status.st_size
                if self.indexes is not None:
                    entries = self.indexes.read(key, file, status)
                    if entries[local][0] == EMPTY:
                        return
                    offset, length = entries[local].tolist()
                self._check_stored(file, offset, length)
        except Exception as error:
            # Else nothing is stored: fill values.
            if isinstance(error, FileNotFoundError) and not os.path.islink(path):  # noqa: PTH114
                return
            raise chunk_error(self.name, chunk, key, error) from error

    def _check_stored(self, file: int, offset: int, length: int) -> None:
        if length > self._largest:
            raise ValueError(f"it has {length:,} bytes, expected at most {self._largest:,}")
        # Read, not mapped: to map a file that is cut meanwhile ends the process.
        data = np.empty(length, np.uint8)
        fill(file, offset, data)
        for step, size in self.steps:
            data = step(data, np.empty(self._largest if size is None else size, np.uint8))
            self._check_size(data.size, size)
        if self.steps:
            return
        # What the last codec was given.
        expected: int | None = self.nbytes
        for codec in self.codecs[:-1]:
            expected = expected + 4 if expected is not None and codec == "crc32c" else None
        self._check_size(self._decoded_size(data, expected), expected)

    def _check_size(self, found: int, expected: int | None) -> None:
        if expected is not None and found != expected:
            raise ValueError(f"it decodes to {found:,} bytes, expected {expected:,}")

    def _decoded_size(self, data: Bytes, expected: int | None) -> int:
        """Return what the last codec makes of some bytes, all of which it needs."""
        codec = self.codecs[-1]
        most = self._largest if expected is None else expected
        if codec == "crc32c":
            return data.size - 4
        if codec == "zstd":
            told = zstd_size(data)
            return undo_zstd(data, np.empty(most, np.uint8)).size if told is None else told
        return sum(map(len, inflate({"id": codec}, data, most)))


def checks_of(array: "zarr.Array[Any]", name: str) -> FileChecks | None:
    """
    Return what checks the files of an array.

    Parameters
    ----------
    array
        The open array, whose metadata zarr-python has validated.
    name
        What errors call it.

    Returns
    -------
    FileChecks or None
        None if it is not on a local file system.
    """
    from zarr.storage import LocalStore

    if type(array.store) is not LocalStore or array.ndim == 0:
        return None
    metadata: dict[str, Any] = array.metadata.to_dict()
    shards = sharding_of(array)
    if metadata["zarr_format"] == 2:
        codecs = [*(metadata["filters"] or ()), metadata["compressor"]]
        names = [codec["id"] for codec in codecs if codec is not None]
    else:
        *before, last = metadata["codecs"]
        codecs = [*before, last]
        if last["name"] == "sharding_indexed":
            # Chunks of shards that are not known, or within another codec, are not looked at.
            codecs = [] if shards is None or before else last["configuration"]["codecs"]
        names = [codec["name"] for codec in codecs]
    names = [name for name in names if name not in ("transpose", "bytes")]
    steps: tuple[tuple[Step, int | None], ...] = ()
    # Of Zarr v2, TensorStore knows arrays with one codec only.
    if metadata["zarr_format"] == 3 and any(name != "crc32c" for name in names[:-1]):
        with suppress(NotCoveredError):
            steps = parse_codecs(codecs, np.dtype(array.dtype), array.chunks).steps
    return FileChecks(
        name=name,
        root=str((array.store.root / array.path).absolute()),
        metadata=array.metadata,
        objects=array.shards or array.chunks,
        chunks=array.chunks,
        nbytes=math.prod(array.chunks) * array.dtype.itemsize,
        codecs=tuple(names),
        steps=steps,
        indexes=None if shards is None else ShardIndexes(shards),
    )
