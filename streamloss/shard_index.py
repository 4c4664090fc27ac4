"""Reads the indexes of shards, and refuses a shard that is not what its index says.

How shards are laid out is told by `zarr_layout`. What their chunks hold is not looked at here.
"""

import os
import threading
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamloss.chunk_files import fill, open_file
from streamloss.zarr_codecs import Bytes, undo_crc32c
from streamloss.zarr_layout import Shards

EMPTY = 2**64 - 1
"""Index entry of a chunk that is not stored, twice."""

# A region widened by a halo touches at most eight shards in three dimensions.
_INDEXES = 8
# Blocks in a plane of a large array touch some hundred shards again and again.
_SHARDS = 2**9
_SHARD_BYTES = 400


class ShardIndexes:
    """
    The indexes of an array's shards, of which each thread keeps those it read last; pickles.

    Of more shards it is kept that they are what their indexes say.

    Parameters
    ----------
    shards
        How the shards hold their chunks.
    """

    def __init__(self, shards: Shards) -> None:
        self.shards = shards
        self._local = threading.local()
        self._good: dict[str, tuple[int, ...]] = {}

    def __reduce__(self) -> tuple[Any, ...]:
        return ShardIndexes, (self.shards,)

    @property
    def held_bytes(self) -> int:
        """Upper bound of the bytes a thread holds."""
        # As stored, as integers and in the checks of the newest one.
        return (_INDEXES + 6) * self.shards.index_bytes + _SHARDS * _SHARD_BYTES

    def check(self, key: str, path: str, status: os.stat_result) -> None:
        """
        Refuse a shard as `read` does, if this version of it has not been looked at.

        Parameters
        ----------
        key, path, status
            Where the shard is stored, its file and the status of that.
        """
        if self._good.get(key) == _version(status):
            return
        with open_file(path) as (file, opened):
            self.read(key, file, opened)
        # Threads share this: to take out the oldest one would be a race.
        if len(self._good) >= _SHARDS:
            self._good.clear()
        self._good[key] = _version(opened)

    def read(self, key: str, file: int, status: os.stat_result) -> NDArray[np.uint64]:
        """
        Return offset and length of each chunk of a shard.

        Parameters
        ----------
        key
            Where the shard is stored.
        file, status
            Its open file.

        Raises
        ------
        ValueError
            If the shard is too small for its index, its checksum differs, or its chunks do
            not lie within it or leave bytes at its end.
        """
        known: dict[str, tuple[Any, NDArray[np.uint64]]] = self._local.__dict__
        version = _version(status)
        if key in known and known[key][0] == version:
            return known[key][1]
        entries = self._read(file, status.st_size)
        if len(known) >= _INDEXES:
            del known[next(iter(known))]
        known[key] = version, entries
        return entries

    def _read(self, file: int, size: int) -> NDArray[np.uint64]:
        start, stop = index_place(self.shards, size)
        data = np.empty(stop - start, np.uint8)
        fill(file, start, data)
        return check_index(self.shards, data, size)


def _version(status: os.stat_result) -> tuple[int, ...]:
    return status.st_ino, status.st_size, status.st_mtime_ns


def index_place(shards: Shards, size: int) -> tuple[int, int]:
    """
    Return where the index of a shard of some size starts and ends.

    Raises
    ------
    ValueError
        If it is too small for its index.
    """
    if size == 0:
        raise ValueError("the file is empty")
    if size < shards.index_bytes:
        raise ValueError(
            f"the shard has {size:,} bytes, fewer than the {shards.index_bytes:,} of its index"
        )
    start = size - shards.index_bytes if shards.at_end else 0
    return start, start + shards.index_bytes


def check_index(shards: Shards, data: Bytes, size: int) -> NDArray[np.uint64]:
    """
    Return offset and length of each chunk of a shard.

    Parameters
    ----------
    shards
        How the shard holds its chunks.
    data
        Its index, as stored.
    size
        How many bytes it has.

    Raises
    ------
    ValueError
        As by `ShardIndexes.read`.
    """
    packed = undo_crc32c(data, data) if shards.checksum else data
    entries = packed.view(shards.entry).astype(np.uint64).reshape(*shards.grid, 2)
    offset, length = entries[..., 0], entries[..., 1]
    stored = (offset != EMPTY) | (length != EMPTY)
    low, high = (0, size - data.nbytes) if shards.at_end else (data.nbytes, size)
    # Without adding, which might overflow.
    room = high - np.minimum(offset, np.uint64(high))
    good = (offset >= low) & (length > 0) & (length <= room)
    if not np.all(good | ~stored):
        raise ValueError(f"the index of the shard points outside bytes {low:,} to {high:,}")
    end = int((offset + length).max(where=stored, initial=low))
    # Chunks may leave room between them, but a shard that has grown, been written twice
    # over, or been cut so that other bytes pass for its index, ends elsewhere.
    if end != high:
        raise ValueError(f"the chunks of the shard end at byte {end:,}, expected {high:,}")
    return entries
