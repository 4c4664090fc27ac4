"""Reads Zarr arrays on a local file system without zarr-python between file and voxels.

zarr-python parses and validates the metadata; from there on a chunk's bytes go into a
reused buffer and are decoded into another, or straight into the caller's array. What is
not covered is left to zarr-python; metadata are read in `zarr_layout`, formats in `stores`.
"""

import functools
import itertools
import math
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from streamloss.chunk_files import (
    fetch_file,
    fetch_part,
    open_file,
    read_files,
    read_parts,
)
from streamloss.errors import ReadError, cause_of
from streamloss.shard_index import EMPTY, ShardIndexes
from streamloss.stored_volume import chunk_error
from streamloss.volume import Region
from streamloss.zarr_codecs import Bytes, largest_stored
from streamloss.zarr_layout import Layout, layout_of, mark_stored

if TYPE_CHECKING:
    import zarr

# Python objects and the state of a decoder.
_SMALL = 2**18
# Half a million objects, as bits.
_LARGEST_LIST = 2**16


Fetch = Callable[[Bytes], int]
"""Puts a chunk as stored into a buffer, if that holds it, and returns the bytes it takes."""
Piece = tuple[tuple[int, ...], Region, NDArray[Any]]
"""A box of a grid: its index, a region within it, and the part of an array that takes it."""


class _Thread(threading.local):
    """The buffers of a thread, shared by all readers so that they stay in its cache."""

    def __init__(self) -> None:
        self.encoded: Bytes = np.empty(0, np.uint8)
        self.decoded: Bytes = np.empty(0, np.uint8)


_thread = _Thread()


def open_direct(array: "zarr.Array[Any]", name: str | None = None) -> "DirectReader | None":
    """
    Prepare to read an array directly.

    Parameters
    ----------
    array
        The open array, whose metadata zarr-python has validated.
    name
        What errors call the array; its path by default.

    Returns
    -------
    DirectReader or None
        None if its store, grid, key encoding, element type or a codec is not covered.

    Examples
    --------
    >>> import tempfile, zarr
    >>> path = tempfile.mkdtemp()
    >>> array = zarr.create_array(path, data=np.arange(6, dtype="i4"), chunks=(4,))
    >>> out = np.empty(4, "i4")
    >>> open_direct(array).read((slice(1, 5),), out)
    >>> out
    array([1, 2, 3, 4], dtype=int32)
    """
    layout = layout_of(array, name)
    return None if layout is None else DirectReader(layout)


class DirectReader:
    """
    Reads one array; may be called by several threads at once, and pickles.

    Parameters
    ----------
    layout
        Where and how the array is stored.
    listed
        What `stored` returned, as packed bits; by default it is found out.
    """

    def __init__(self, layout: Layout, listed: bytes | None = None) -> None:
        self.layout = layout
        self._nbytes = math.prod(layout.chunks) * layout.chain.dtype.itemsize
        # What compiled code decodes, empty if nothing.
        native = layout.chain.dtype.isnative
        self._codec = layout.chain.only if native and layout.chain.only else ""
        self._start = np.frombuffer(os.fsencode(f"{layout.root}/{layout.prefix}"), np.uint8)
        self._stored: NDArray[np.bool_] | None = None
        if listed is not None:
            bits = np.unpackbits(np.frombuffer(listed, np.uint8), count=math.prod(layout.grid))
            self._stored = bits.astype(np.bool_).reshape(layout.grid)
        self._indexes = None if layout.shards is None else ShardIndexes(layout.shards)

    def __reduce__(self) -> tuple[Any, ...]:
        listed = None if self._stored is None else np.packbits(self._stored).tobytes()
        # Each run of blocks takes it along; beyond this, processes list the keys again.
        small = listed is not None and len(listed) <= _LARGEST_LIST
        return DirectReader, (self.layout, listed if small else None)

    @property
    def object_shape(self) -> tuple[int, ...]:
        """Extent of what one file holds: a shard, or a chunk of an array without shards."""
        return self.layout.objects

    def stored(self) -> NDArray[np.bool_]:
        """
        Tell which shards, or chunks of an array without shards, are stored.

        Their keys are listed once, at the first call.

        Returns
        -------
        ndarray of bool
            One element for each position of the grid of `object_shape`.

        Raises
        ------
        ReadError
            If a folder of the array cannot be listed.
        """
        if self._stored is None:
            # Two threads may both list; the results are the same.
            layout = self.layout
            stored = np.zeros(layout.grid, np.bool_)
            try:
                mark_stored(layout, stored)
            except OSError as error:
                raise ReadError(
                    f"cannot list the chunks of {layout.name!r}: {cause_of(error)}"
                ) from error
            stored.flags.writeable = False
            self._stored = stored
        return self._stored

    def decode_bytes(self, region: Region) -> int:
        """Upper bound of the bytes a thread holds beyond `out` in a `read` of `region`."""
        chain = self.layout.chain
        largest = largest_stored(self._nbytes, chain)
        # Decoders that do not decode into a buffer return their output as fresh bytes.
        held = largest + 2 * self._nbytes
        if chain.widens or len(chain.steps) > 1:
            # Input and output of a step, and two float64 temporaries of a filter.
            held += 2 * largest + 16 * math.prod(self.layout.chunks)
        if self._indexes is not None:
            held += self._indexes.held_bytes
        return held + _SMALL

    def read(self, region: Region, out: NDArray[Any]) -> None:
        """
        Fill `out` (native byte order, shape of `region`) with the voxels of `region`.

        Raises
        ------
        ReadError
            If a chunk is missing that was listed, is empty, truncated or oversized, fails
            its checksum or cannot be decoded.
        """
        if self.layout.shards is None:
            self._read_grid(region, out, self.stored(), self._read_files, self._read_object)
            return
        for piece in _pieces(region, self.layout.objects, out):
            if self.stored()[piece[0]]:
                self._read_object(*piece)
            else:
                piece[2][...] = self.layout.fill_value

    def _read_files(self, box: Sequence[range], skip: int, target: Bytes) -> int:
        layout = self.layout
        return read_files(
            self._codec, self._start, layout.separator, box, skip, target, _thread.encoded
        )

    def _read_object(self, index: tuple[int, ...], inside: Region, view: NDArray[Any]) -> None:
        """Read a shard, or a chunk of an array without shards, of which `inside` goes to `view`."""
        key = self.layout.key(index)
        path = f"{self.layout.root}/{key}"
        try:
            if self._indexes is None:
                self._read_chunk(functools.partial(fetch_file, path), inside, view)
            else:
                self._read_shard(self._indexes, path, index, inside, view)
        except ReadError:
            raise
        except Exception as error:
            raise chunk_error(self.layout.name, index, key, error) from error

    def _read_shard(
        self,
        indexes: ShardIndexes,
        path: str,
        index: tuple[int, ...],
        inside: Region,
        view: NDArray[Any],
    ) -> None:
        with open_file(path) as (file, status):
            key = self.layout.key(index)
            entries = indexes.read(key, file, status)

            def together(box: Sequence[range], skip: int, target: Bytes) -> int:
                parts = entries[_slices(box)].reshape(-1, 2).astype(np.int64)
                return read_parts(self._codec, file, parts, skip, target, _thread.encoded)

            def alone(local: tuple[int, ...], part: Region, voxels: NDArray[Any]) -> None:
                offset, length = entries[local].tolist()
                try:
                    self._read_chunk(
                        functools.partial(fetch_part, file, offset, length), part, voxels
                    )
                except Exception as error:
                    places = zip(index, indexes.shards.grid, local, strict=True)
                    chunk = tuple(i * n + j for i, n, j in places)
                    raise chunk_error(self.layout.name, chunk, key, error) from error

            self._read_grid(inside, view, entries[..., 0] != EMPTY, together, alone)

    def _read_grid(
        self,
        region: Region,
        out: NDArray[Any],
        present: NDArray[np.bool_],
        together: Callable[[Sequence[range], int, Bytes], int],
        alone: Callable[[tuple[int, ...], Region, NDArray[Any]], None],
    ) -> None:
        """Read a region of a grid of chunks, by compiled code those that need not be moved.

        `together` reads a box of chunks but the first ones and tells how many are done; what
        is wrong with the next one, if anything, `alone` tells.
        """
        box = self._in_place(region, out)
        if box is None or not present[_slices(box)].all():
            count = done = 0
        else:
            count = math.prod(map(len, box))
            target = out.reshape(-1).view(np.uint8)[: count * self._nbytes]
            done = together(box, 0, target)
            if done == count and target.size == out.nbytes:
                return
        for number, piece in enumerate(_pieces(region, self.layout.chunks, out)):
            if number < done:
                continue
            if not present[piece[0]]:
                piece[2][...] = self.layout.fill_value
                continue
            alone(*piece)
            if box is not None and number + 1 < count:
                done = together(box, number + 1, target)

    def _in_place(self, region: Region, out: NDArray[Any]) -> list[range] | None:
        """Return the box of whole chunks that follow one another from the start of `out`."""
        chain = self.layout.chain
        if not self._codec or chain.order is not None or not out.flags.c_contiguous:
            return None
        box: list[range] = []
        before, within = 1, False
        for part, extent in zip(region, self.layout.chunks, strict=True):
            count, rest = divmod(part.stop - part.start, extent)
            # Chunks side by side would alternate; a part of one may only be the last.
            if part.start % extent or not count or (within and (count > 1 or rest)):
                return None
            if rest and before > 1:
                return None
            before *= count
            within = within or extent > 1
            box.append(range(part.start // extent, part.start // extent + count))
        return box

    def _place(self, view: NDArray[Any]) -> Bytes | None:
        """Return where in `view` a chunk can be decoded, None if its voxels must be moved."""
        chain = self.layout.chain
        if view.shape != self.layout.chunks or not chain.dtype.isnative:
            return None
        placed = view if chain.order is None else view.transpose(chain.order)
        return placed.reshape(-1).view(np.uint8) if placed.flags.c_contiguous else None

    def _read_chunk(self, fetch: Fetch, inside: Region, view: NDArray[Any]) -> None:
        """Decode a chunk, of which `inside` goes to `view`."""
        layout, chain = self.layout, self.layout.chain
        place = self._place(view)
        if place is None and _thread.decoded.size < self._nbytes:
            _thread.decoded = np.empty(self._nbytes, np.uint8)
        target = _thread.decoded[: self._nbytes] if place is None else place
        if chain.steps:
            self._decode(fetch, target)
        else:
            size = fetch(target)
            if size != self._nbytes:
                raise ValueError(f"it has {size:,} bytes, expected {self._nbytes:,}")
        if place is None:
            voxels = target.view(chain.dtype)
            if chain.order is None:
                voxels = voxels.reshape(layout.chunks)
            else:
                shape = [layout.chunks[axis] for axis in chain.order]
                voxels = voxels.reshape(shape).transpose(np.argsort(chain.order))
            view[...] = voxels[inside]

    def _decode(self, fetch: Fetch, target: Bytes) -> None:
        """Read and decode a chunk into `target`, which it must fill exactly."""
        chain = self.layout.chain
        while (size := fetch(_thread.encoded)) > _thread.encoded.size:
            largest = largest_stored(self._nbytes, chain)
            if size > largest:
                raise ValueError(f"it has {size:,} bytes, expected at most {largest:,}")
            _thread.encoded = np.empty(min(size + size // 4, largest), np.uint8)
        if size == 0:
            raise ValueError("the file is empty")
        data = _thread.encoded[:size]
        for step, expected in chain.steps:
            buffer = target
            if expected != target.size:
                buffer = np.empty(expected or largest_stored(self._nbytes, chain), np.uint8)
            data = step(data, buffer)
            if expected is not None and data.size != expected:
                raise ValueError(f"it decodes to {data.size:,} bytes, expected {expected:,}")
        if data is not target:
            target[...] = data


def _pieces(region: Region, extents: tuple[int, ...], out: NDArray[Any]) -> Iterator[Piece]:
    """Cut a region along a grid."""
    axes = [
        _split(part.start, part.stop, extent) for part, extent in zip(region, extents, strict=True)
    ]
    for piece in itertools.product(*axes):
        index, inside, place = zip(*piece, strict=True)
        yield index, inside, out[place]


def _slices(box: Sequence[range]) -> Region:
    return tuple(slice(part.start, part.stop) for part in box)


# Blocks repeat few ranges along an axis; computing them anew took 7 µs of 30 per chunk.
@functools.lru_cache(maxsize=2**14)
def _split(start: int, stop: int, extent: int) -> list[tuple[int, slice, slice]]:
    """Cut a range along one axis of a grid: number of each part, range in it and in `out`."""
    return [
        (
            i,
            slice(max(start - i * extent, 0), min(stop - i * extent, extent)),
            slice(max(i * extent - start, 0), min(i * extent + extent, stop) - start),
        )
        for i in range(start // extent, -(-stop // extent))
    ]
