"""Reads Zarr arrays on a local file system without zarr-python between file and voxels.

zarr-python parses and validates the metadata; from there on a chunk's bytes go into a
reused buffer and are decoded into another, or straight into the caller's array. What is
not covered here is left to zarr-python; formats and metadata live in `stores`.
"""

import functools
import io
import itertools
import math
import os
import struct
import threading
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from streamloss.errors import ReadError
from streamloss.volume import Region

if TYPE_CHECKING:
    import zarr

Bytes = NDArray[np.uint8]
Step = Callable[[Bytes, Bytes], Bytes]
"""Undoes one codec: takes what it wrote and a buffer, returns what it was given.

The buffer is as large as the result must be, or may be at most where that is not known. A
result that fills it is the buffer itself; another is a part of it or lies elsewhere.
"""

# A grid costs a byte for each object; beyond this it would take more than a block does.
_MAX_OBJECTS = 2**26
_READ = os.O_RDONLY | getattr(os, "O_BINARY", 0)
# Python objects and the state of a decoder.
_SMALL = 2**17
# Index entries of a shard and of its empty chunks.
_ENTRY = 16
_EMPTY = 2**64 - 1
# A region widened by a halo touches at most eight shards in three dimensions.
_INDEXES = 8
# Python's decompressors allocate their output, so they are fed in pieces that stay in cache.
_PIECE = 2**16

_CHECKSUMS = ("adler32", "crc32", "crc32c", "fletcher32", "jenkins_lookup3")
_FILTERS = ("astype", "bitround", "delta", "fixedscaleoffset", "packbits", "quantize")


class _Thread(threading.local):
    """The buffers of a thread, shared by all readers so that they stay in its cache."""

    def __init__(self) -> None:
        self.encoded: Bytes = np.empty(0, np.uint8)
        self.decoded: Bytes = np.empty(0, np.uint8)


_thread = _Thread()


@dataclass(frozen=True)
class _Chain:
    """How the bytes of a chunk become its voxels.

    Attributes
    ----------
    steps
        What undoes each codec, in the order of decoding, and the bytes that must come of
        it, or None where that depends on the data.
    dtype
        Element type as stored.
    order
        Axes of the array, in the order they are stored; None for C order.
    widens
        Whether a filter may store wider elements than it decodes to.
    """

    steps: tuple[tuple[Step, int | None], ...]
    dtype: np.dtype[Any]
    order: tuple[int, ...] | None
    widens: bool


@dataclass(frozen=True)
class _Shards:
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
class _Layout:
    """Where and how an array is stored; pickles."""

    name: str
    root: str
    shape: tuple[int, ...]
    chunks: tuple[int, ...]
    objects: tuple[int, ...]
    fill_value: Any
    prefix: str
    separator: str
    chain: _Chain
    shards: _Shards | None


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
    from zarr.storage import LocalStore

    if type(array.store) is not LocalStore or array.ndim == 0:
        return None
    dtype = np.dtype(array.dtype)
    if dtype.kind not in "biuf" or dtype.itemsize > 8:
        return None
    root = array.store.root / array.path
    metadata = array.metadata.to_dict()
    try:
        parse = _parse_v2 if metadata["zarr_format"] == 2 else _parse_v3
        objects, chunks, prefix, separator, chain, shards = parse(metadata, dtype)
    except (_NotCoveredError, KeyError):
        # Metadata of a later version may lack a key that was always there.
        return None
    if math.prod(_grid(array.shape, objects)) > _MAX_OBJECTS:
        return None
    native = dtype.newbyteorder("=")
    fill_value = array.metadata.fill_value
    layout = _Layout(
        name=str(root) if name is None else name,
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
    return DirectReader(layout)


class DirectReader:
    """
    Reads one array; may be called by several threads at once, and pickles.

    Parameters
    ----------
    layout
        Where and how the array is stored.
    """

    def __init__(self, layout: _Layout) -> None:
        self.layout = layout
        self._nbytes = math.prod(layout.chunks) * layout.chain.dtype.itemsize
        self._stored: NDArray[np.bool_] | None = None
        # Indexes of the shards that a thread read last, by path.
        self._local = threading.local()

    def __reduce__(self) -> tuple[Any, ...]:
        return DirectReader, (self.layout,)

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
            stored = np.zeros(_grid(layout.shape, layout.objects), np.bool_)
            try:
                for index in _list(layout, stored.shape):
                    stored[index] = True
            except OSError as error:
                raise ReadError(
                    f"cannot list the chunks of {layout.name!r}: {_cause(error)}"
                ) from error
            stored.flags.writeable = False
            self._stored = stored
        return self._stored

    def decode_bytes(self, region: Region) -> int:
        """Upper bound of the bytes a thread holds beyond `out` in a `read` of `region`."""
        chain, shards = self.layout.chain, self.layout.shards
        largest = _largest(self._nbytes, chain)
        # Decoders that do not decode into a buffer return their output as fresh bytes.
        held = largest + 2 * self._nbytes
        if chain.widens or len(chain.steps) > 1:
            # Input and output of a step, and two float64 temporaries of a filter.
            held += 2 * largest + 16 * math.prod(self.layout.chunks)
        if shards is not None:
            # As stored, as integers and in the checks of the newest one.
            held += (_INDEXES + 6) * shards.index_bytes
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
        layout = self.layout
        stored = self.stored()
        for index, inside, view in _pieces(region, layout.objects, out):
            if not stored[index]:
                view[...] = layout.fill_value
                continue
            key = layout.prefix + layout.separator.join(map(str, index))
            chunk = index
            try:
                # os.open takes 9.5 µs with reading 2 kB, io.FileIO 13.7 and open 14.5.
                file = os.open(f"{layout.root}/{key}", _READ)
                try:
                    status = os.fstat(file)
                    if status.st_size == 0:
                        raise ValueError("the file is empty")
                    if layout.shards is None:
                        self._read_chunk(file, 0, status.st_size, inside, view)
                        continue
                    entries = self._index(layout.shards, file, status, key)
                    for local, part, voxels in _pieces(inside, layout.chunks, view):
                        chunk = tuple(
                            i * n + j
                            for i, n, j in zip(index, layout.shards.grid, local, strict=True)
                        )
                        offset, length = entries[local].tolist()
                        if offset == _EMPTY:
                            voxels[...] = layout.fill_value
                        else:
                            self._read_chunk(file, offset, length, part, voxels)
                finally:
                    os.close(file)
            except Exception as error:
                raise ReadError(
                    f"cannot read chunk {chunk} of {layout.name!r}, stored under {key!r}: "
                    f"{_cause(error)}"
                ) from error

    def _read_chunk(
        self, file: int, offset: int, size: int, inside: Region, view: NDArray[Any]
    ) -> None:
        """Decode `size` bytes as a chunk, of which `inside` goes to `view`."""
        layout, chain = self.layout, self.layout.chain
        target = None
        if view.shape == layout.chunks and chain.dtype.isnative:
            placed = view if chain.order is None else view.transpose(chain.order)
            if placed.flags.c_contiguous:
                target = placed.reshape(-1).view(np.uint8)
        direct = target is not None
        if target is None:
            if _thread.decoded.size < self._nbytes:
                _thread.decoded = np.empty(self._nbytes, np.uint8)
            target = _thread.decoded[: self._nbytes]
        if chain.steps:
            self._decode(file, offset, size, target)
        else:
            if size != self._nbytes:
                raise ValueError(f"it has {size:,} bytes, expected {self._nbytes:,}")
            _fill(file, offset, target)
        if not direct:
            voxels = target.view(chain.dtype)
            if chain.order is None:
                voxels = voxels.reshape(layout.chunks)
            else:
                shape = [layout.chunks[axis] for axis in chain.order]
                voxels = voxels.reshape(shape).transpose(np.argsort(chain.order))
            view[...] = voxels[inside]

    def _decode(self, file: int, offset: int, size: int, target: Bytes) -> None:
        """Read and decode `size` bytes into `target`, which they must fill exactly."""
        chain = self.layout.chain
        if _thread.encoded.size < size:
            largest = _largest(self._nbytes, chain)
            if size > largest:
                raise ValueError(f"it has {size:,} bytes, expected at most {largest:,}")
            _thread.encoded = np.empty(min(size + size // 4, largest), np.uint8)
        data = _thread.encoded[:size]
        _fill(file, offset, data)
        for step, expected in chain.steps:
            buffer = target
            if expected != target.size:
                buffer = np.empty(expected or _largest(self._nbytes, chain), np.uint8)
            data = step(data, buffer)
            if expected is not None and data.size != expected:
                raise ValueError(f"it decodes to {data.size:,} bytes, expected {expected:,}")
        if data is not target:
            target[...] = data

    def _index(
        self, shards: _Shards, file: int, status: os.stat_result, key: str
    ) -> NDArray[np.uint64]:
        """Return offset and length of each chunk of a shard."""
        known: dict[str, tuple[Any, NDArray[np.uint64]]] = self._local.__dict__
        size = status.st_size
        version = (status.st_ino, size, status.st_mtime_ns)
        if key in known and known[key][0] == version:
            return known[key][1]
        data = np.empty(shards.index_bytes, np.uint8)
        if size < data.size:
            raise ValueError(
                f"the shard has {size:,} bytes, fewer than the {data.size:,} of its index"
            )
        _fill(file, size - data.size if shards.at_end else 0, data)
        packed = _crc32c(data, data) if shards.checksum else data
        entries = packed.view(shards.entry).astype(np.uint64).reshape(*shards.grid, 2)
        offset, length = entries[..., 0], entries[..., 1]
        stored = (offset != _EMPTY) | (length != _EMPTY)
        low, high = (0, size - data.nbytes) if shards.at_end else (data.nbytes, size)
        # Without adding, which might overflow.
        room = high - np.minimum(offset, np.uint64(high))
        good = (offset >= low) & (length > 0) & (length <= room)
        if not np.all(good | ~stored):
            raise ValueError(f"the index of the shard points outside bytes {low:,} to {high:,}")
        end = int((offset + length).max(where=stored, initial=low))
        if not shards.checksum and end != high:
            # A shard that is cut or extended may shift the index and still point inside.
            raise ValueError(f"the chunks of the shard end at byte {end:,}, expected {high:,}")
        if len(known) >= _INDEXES:
            del known[next(iter(known))]
        known[key] = version, entries
        return entries


def _fill(file: int, offset: int, target: Bytes) -> None:
    """Read exactly as many bytes as `target` holds."""
    done = 0
    while done < target.size:
        # One call reads at most 2 GiB.
        count = _pread(file, [target[done:]], offset + done)
        if count == 0:
            raise ValueError(f"it ends after {done:,} of {target.size:,} bytes")
        done += count


def _seek_and_read(file: int, buffers: list[Bytes], offset: int) -> int:
    """Stand in for `os.preadv` on Windows."""
    os.lseek(file, offset, os.SEEK_SET)
    return io.FileIO(file, closefd=False).readinto(buffers[0].data) or 0


_pread: Callable[[int, list[Bytes], int], int] = getattr(os, "preadv", _seek_and_read)


def _pieces(
    region: Region, extents: tuple[int, ...], out: NDArray[Any]
) -> Iterator[tuple[tuple[int, ...], Region, NDArray[Any]]]:
    """Cut a region along a grid: index of each box, region within it, its part of `out`."""
    axes = [
        _split(part.start, part.stop, extent) for part, extent in zip(region, extents, strict=True)
    ]
    for piece in itertools.product(*axes):
        index, inside, place = zip(*piece, strict=True)
        yield index, inside, out[place]


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


def _list(layout: _Layout, grid: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
    """Yield the index of each stored object."""
    nested = layout.separator == "/"

    def walk(folder: str, prefix: str, index: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
        with os.scandir(folder) as entries:
            for entry in entries:
                if not entry.name.startswith(prefix):
                    continue
                rest = entry.name[len(prefix) :]
                parts = [rest] if nested else rest.split(layout.separator)
                if not all(part.isdecimal() and part.isascii() for part in parts):
                    continue
                found = (*index, *map(int, parts))
                complete = len(found) == len(grid)
                # A key is written in one way: no leading zeros.
                if len(found) > len(grid) or [str(i) for i in found[len(index) :]] != parts:
                    continue
                if not all(map(int.__lt__, found, grid)):
                    continue
                # A symbolic link to nowhere is a chunk that was not fetched, not fill.
                folder_below = entry.is_dir()
                if complete and not folder_below:
                    yield found
                elif nested and folder_below and not complete:
                    yield from walk(entry.path, "", found)

    if nested and layout.prefix:
        below = f"{layout.root}/{layout.prefix}"
        # An array without any chunk has no such folder, but a folder of its own.
        os.stat(layout.root)  # noqa: PTH116
        if os.path.isdir(below):  # noqa: PTH112
            yield from walk(below, "", ())
    else:
        yield from walk(layout.root, layout.prefix, ())


class _NotCoveredError(Exception):
    """Something in the metadata that this module does not know."""


def _parse_v2(metadata: dict[str, Any], dtype: np.dtype[Any]) -> tuple[Any, ...]:
    """Return the fields of a layout from the metadata of Zarr v2."""
    codecs = [*(metadata["filters"] or ()), metadata["compressor"]]
    chunks = tuple(metadata["chunks"])
    nbytes = math.prod(chunks) * dtype.itemsize
    order = tuple(range(len(chunks)))[::-1] if metadata["order"] == "F" else None
    steps = _steps([codec for codec in codecs if codec is not None], nbytes)
    widens = any(codec is not None and codec["id"] in _FILTERS for codec in codecs)
    chain = _Chain(steps, dtype, None if len(chunks) == 1 else order, widens)
    return chunks, chunks, "", metadata["dimension_separator"], chain, None


def _parse_v3(metadata: dict[str, Any], dtype: np.dtype[Any]) -> tuple[Any, ...]:
    """Return the fields of a layout from the metadata of Zarr v3."""
    if metadata["chunk_grid"]["name"] != "regular" or metadata.get("storage_transformers"):
        raise _NotCoveredError
    objects = tuple(metadata["chunk_grid"]["configuration"]["chunk_shape"])
    encoding = metadata["chunk_key_encoding"]
    separators = {"default": "/", "v2": "."}
    separator = encoding.get("configuration", {}).get("separator", separators[encoding["name"]])
    prefix = f"c{separator}" if encoding["name"] == "default" else ""
    codecs = list(metadata["codecs"])
    if codecs[0]["name"] != "sharding_indexed":
        return objects, objects, prefix, separator, _parse_codecs(codecs, dtype, objects), None
    if len(codecs) > 1:
        raise _NotCoveredError
    sharding = codecs[0]["configuration"]
    chunks = tuple(sharding["chunk_shape"])
    names = [codec["name"] for codec in sharding["index_codecs"]]
    if names not in (["bytes"], ["bytes", "crc32c"]):
        raise _NotCoveredError
    shards = _Shards(
        grid=_grid(objects, chunks),
        entry=">u8" if _endian(sharding["index_codecs"][0]) == "big" else "<u8",
        checksum="crc32c" in names,
        at_end=sharding.get("index_location", "end") == "end",
    )
    chain = _parse_codecs(list(sharding["codecs"]), dtype, chunks)
    return objects, chunks, prefix, separator, chain, shards


def _parse_codecs(
    codecs: list[dict[str, Any]], dtype: np.dtype[Any], chunks: tuple[int, ...]
) -> _Chain:
    """Return the chain of a list of codecs of Zarr v3."""
    order = tuple(range(len(chunks)))
    configurations = []
    stored = None
    for codec in codecs:
        kind = codec["name"]
        settings = codec.get("configuration") or {}
        if kind == "transpose" and stored is None:
            order = tuple(order[axis] for axis in settings["order"])
        elif kind == "bytes" and stored is None:
            stored = dtype.newbyteorder(">" if _endian(codec) == "big" else "<")
        elif kind.startswith("numcodecs."):
            configurations.append({**settings, "id": kind.removeprefix("numcodecs.")})
        elif kind in ("zstd", "blosc", "gzip", "crc32c") and stored is not None:
            # Only how to decode matters, which the data themselves say.
            configurations.append({"id": kind})
        else:
            raise _NotCoveredError
    if stored is None:
        raise _NotCoveredError
    plain = order == tuple(range(len(chunks)))
    filters = [entry for entry in configurations if entry["id"] in _FILTERS]
    if filters and (
        not plain
        or not stored.isnative
        or filters[0]["id"] == "packbits"
        or np.dtype(filters[0].get("decode_dtype", filters[0].get("dtype", dtype))) != dtype
    ):
        # zarr-python hands such filters arrays; only here are their bytes the same.
        raise _NotCoveredError
    nbytes = math.prod(chunks) * dtype.itemsize
    return _Chain(_steps(configurations, nbytes), stored, None if plain else order, bool(filters))


def _endian(codec: dict[str, Any]) -> str | None:
    endian = (codec.get("configuration") or {}).get("endian")
    return getattr(endian, "value", endian)


def _steps(codecs: list[dict[str, Any]], nbytes: int) -> tuple[tuple[Step, int | None], ...]:
    """Return what undoes the codecs, in the order of decoding."""
    steps: list[tuple[Step, int | None]] = []
    size: int | None = nbytes
    for codec in codecs:
        kind = codec["id"]
        steps.append((_step(codec), size))
        if kind in _CHECKSUMS and size is not None:
            size += 4
        elif kind != "shuffle":
            size = None
    return tuple(reversed(steps))


def _step(codec: dict[str, Any]) -> Step:
    """Return what undoes a codec, given its configuration in the form of numcodecs."""
    import numcodecs  # type: ignore[import-untyped]

    kind = codec["id"]
    if kind == "zstd":
        return functools.partial(_zstd, numcodecs.Zstd())
    if kind == "blosc":
        return functools.partial(_blosc, numcodecs.Blosc())
    if kind == "lz4":
        return functools.partial(_lz4, numcodecs.LZ4())
    if kind == "gzip":
        return functools.partial(_inflate, functools.partial(zlib.decompressobj, 31))
    if kind == "zlib":
        return functools.partial(_inflate, zlib.decompressobj)
    if kind == "crc32c" and codec.get("location", "end") == "end":
        return _crc32c
    if kind in _CHECKSUMS or kind in _FILTERS or kind == "shuffle":
        return functools.partial(_generic, numcodecs.get_codec(codec))
    # Beside bz2 and lzma, at some 30 MB/s, zarr-python costs nothing, and they take megabytes.
    raise _NotCoveredError


def _zstd(codec: Any, data: Bytes, target: Bytes) -> Bytes:
    size = _zstd_size(data[:14].tobytes())
    if size is not None and size > target.size:
        raise ValueError(f"it decodes to {size:,} bytes, expected {target.size:,}")
    if size == target.size:
        codec.decode(data, target)
        return target
    # Several frames, or one that does not tell its size, or another size is to be refused.
    return np.frombuffer(codec.decode(data), np.uint8)


def _zstd_size(header: bytes) -> int | None:
    """Return the size that the first frame declares (RFC 8878, 3.1.1.1), None if unknown."""
    if len(header) < 6 or header[:4] != b"\x28\xb5\x2f\xfd":
        return None
    flags = header[4]
    single = flags >> 5 & 1
    width = (single, 2, 4, 8)[flags >> 6]
    start = 5 + (1 - single) + (0, 1, 2, 4)[flags & 3]
    size = int.from_bytes(header[start : start + width], "little")
    return size + 256 * (width == 2) if width else None


def _blosc(codec: Any, data: Bytes, target: Bytes) -> Bytes:
    from numcodecs import blosc

    if data.size < 16:
        raise ValueError(f"it has {data.size} bytes, fewer than a blosc header")
    size, _, stored = struct.unpack("<III", data[4:16].tobytes())
    if stored != data.size:
        # c-blosc reads as far as the header says, whatever the buffer.
        raise ValueError(f"it has {data.size:,} bytes, expected {stored:,} by its blosc header")
    if size > target.size:
        raise ValueError(f"it decodes to {size:,} bytes, expected {target.size:,}")
    decoded = target if size == target.size else target[:size]
    # In the main thread numcodecs lets blosc start threads of its own, which would compete
    # with the other workers; that choice of numcodecs holds for the whole process.
    adaptive = blosc.use_threads is None and (threading.current_thread() is threading.main_thread())
    if adaptive:
        blosc.use_threads = False
    try:
        codec.decode(data, decoded)
    finally:
        if adaptive:
            blosc.use_threads = None
    return decoded


def _lz4(codec: Any, data: Bytes, target: Bytes) -> Bytes:
    size = int.from_bytes(data[:4].tobytes(), "little")
    if size > target.size:
        raise ValueError(f"it decodes to {size:,} bytes, expected {target.size:,}")
    decoded = target if size == target.size else target[:size]
    codec.decode(data, decoded)
    return decoded


def _inflate(start: Callable[[], Any], data: Bytes, target: Bytes) -> Bytes:
    """Decompress a stream of zlib, or the several of a gzip file."""
    stream, done = start(), 0
    for position in range(0, data.size, _PIECE):
        piece = data[position : position + _PIECE].tobytes()
        while piece:
            if stream.eof:
                stream = start()
            # One more than fits tells too many from enough.
            decoded = stream.decompress(piece, target.size - done + 1)
            if done + len(decoded) > target.size:
                raise ValueError(f"it decodes to more than the {target.size:,} bytes expected")
            target[done : done + len(decoded)] = np.frombuffer(decoded, np.uint8)
            done += len(decoded)
            piece = stream.unused_data
    if not stream.eof:
        raise ValueError(f"it is cut short, after {done:,} of {target.size:,} bytes decoded")
    return target[:done] if done != target.size else target


def _crc32c(data: Bytes, target: Bytes) -> Bytes:
    import google_crc32c

    if data.size < 4:
        raise ValueError(f"it has {data.size} bytes, too few for its checksum")
    stored = int.from_bytes(data[-4:].tobytes(), "little")
    computed = google_crc32c.value(data[:-4])
    if stored != computed:
        raise ValueError(f"its crc32c is {computed:08x}, expected the stored {stored:08x}")
    return data[:-4]


def _generic(codec: Any, data: Bytes, target: Bytes) -> Bytes:
    """Undo a filter of numcodecs, which returns an array."""
    decoded = np.asarray(codec.decode(data))
    return decoded.reshape(-1, order="A").view(np.uint8)


def _largest(nbytes: int, chain: _Chain) -> int:
    """Return the most bytes that a chunk can take as stored."""
    if not chain.steps:
        return nbytes
    widest = nbytes * (8 // chain.dtype.itemsize if chain.widens else 1)
    return widest + widest // 8 + 2**16


def _grid(shape: tuple[int, ...], extents: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(-(-size // extent) for size, extent in zip(shape, extents, strict=True))


def _cause(error: Exception) -> str:
    """Say in one line what went wrong."""
    text = " ".join(str(error).split())
    return text if type(error) is ValueError else f"{type(error).__name__}: {text}".rstrip(": ")
