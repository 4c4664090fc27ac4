"""Undoes the codecs of Zarr chunks, from bytes as stored to the bytes of the voxels.

Knows the codecs, not where chunks are: files, shards and regions are in `direct`.
"""

import bz2
import functools
import lzma
import math
import struct
import threading
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamloss._jit import inlined, kernel
from streamloss.chunk_files import CODECS

Bytes = NDArray[np.uint8]
Step = Callable[[Bytes, Bytes], Bytes]
"""Undoes one codec: takes what it wrote and a buffer, returns what it was given.

The buffer is as large as the result must be, or may be at most where that is not known. A
result that fills it is the buffer itself; another is a part of it or lies elsewhere.
"""

# Python's decompressors allocate their output, so they are fed in pieces that stay in cache.
_PIECE = 2**16
# Larger chunks of zstd take 1.1 times as long in a compiled call as by `zstandard`, which is built
# otherwise than the library of numcodecs; smaller ones 0.7 to 1 (`python -m benchmarks.decoders`).
_LARGE = 2**21
# Of zstd frames that do not say what they decode to, or are no such frames.
_UNTOLD, _BROKEN = -1, -2

_CHECKSUMS = ("adler32", "crc32", "crc32c", "fletcher32", "jenkins_lookup3")
FILTERS = ("astype", "bitround", "delta", "fixedscaleoffset", "packbits", "quantize")


class NotCoveredError(Exception):
    """Something in the metadata that this module does not know."""


@dataclass(frozen=True)
class Chain:
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
    only
        The only codec, if `chunk_files` is to undo it; "none" without codecs.
    """

    steps: tuple[tuple[Step, int | None], ...]
    dtype: np.dtype[Any]
    order: tuple[int, ...] | None
    widens: bool
    only: str | None


def parse_codecs(
    codecs: list[dict[str, Any]], dtype: np.dtype[Any], chunks: tuple[int, ...]
) -> Chain:
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
            stored = dtype.newbyteorder(">" if endian_of(codec) == "big" else "<")
        elif kind.startswith("numcodecs."):
            configurations.append({**settings, "id": kind.removeprefix("numcodecs.")})
        elif kind in ("zstd", "blosc", "gzip", "crc32c") and stored is not None:
            # Only how to decode matters, which the data themselves say.
            configurations.append({"id": kind})
        else:
            raise NotCoveredError
    if stored is None:
        raise NotCoveredError
    plain = order == tuple(range(len(chunks)))
    filters = [entry for entry in configurations if entry["id"] in FILTERS]
    if filters and (
        not plain
        or not stored.isnative
        or filters[0]["id"] == "packbits"
        or np.dtype(filters[0].get("decode_dtype", filters[0].get("dtype", dtype))) != dtype
    ):
        # zarr-python hands such filters arrays; only here are their bytes the same.
        raise NotCoveredError
    nbytes = math.prod(chunks) * dtype.itemsize
    return Chain(
        steps_of(configurations, nbytes),
        stored,
        None if plain else order,
        bool(filters),
        only_of(configurations, nbytes),
    )


def endian_of(codec: dict[str, Any]) -> str | None:
    """Return "big", "little" or, for single bytes, None."""
    endian = (codec.get("configuration") or {}).get("endian")
    return getattr(endian, "value", endian)


def steps_of(codecs: list[dict[str, Any]], nbytes: int) -> tuple[tuple[Step, int | None], ...]:
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


def only_of(codecs: list[dict[str, Any]], nbytes: int) -> str | None:
    """Return what `Chain.only` is for chunks of some size and codecs."""
    names: list[str] = [codec["id"] for codec in codecs] or ["none"]
    if len(names) > 1 or names[0] not in CODECS or (names[0] == "zstd" and nbytes > _LARGE):
        return None
    return names[0]


def _step(codec: dict[str, Any]) -> Step:
    """Return what undoes a codec, given its configuration in the form of numcodecs."""
    import numcodecs  # type: ignore[import-untyped]

    kind = codec["id"]
    if kind == "zstd":
        return undo_zstd
    if kind == "blosc":
        return functools.partial(_blosc, numcodecs.Blosc())
    if kind == "lz4":
        return functools.partial(_lz4, numcodecs.LZ4())
    if kind in ("gzip", "zlib"):
        return functools.partial(_inflate, codec)
    if kind == "crc32c" and codec.get("location", "end") == "end":
        return undo_crc32c
    if kind in _CHECKSUMS or kind in FILTERS or kind == "shuffle":
        return functools.partial(_generic, numcodecs.get_codec(codec))
    # Beside bz2 and lzma, at some 30 MB/s, zarr-python costs nothing, and they take megabytes.
    raise NotCoveredError


class _Decompressors(threading.local):
    """What a thread keeps between chunks: to set one up takes as long as to decode 40 KB."""

    def __init__(self) -> None:
        import zstandard

        self.zstd = zstandard.ZstdDecompressor()


@functools.cache
def _decompressors() -> _Decompressors:
    return _Decompressors()


def undo_zstd(data: Bytes, target: Bytes) -> Bytes:
    """Decode zstd frames, as far as the buffer holds what they decode to."""
    zstd_size(data)
    reader = _decompressors().zstd.stream_reader(data.data, read_across_frames=True)
    done = 0
    while done < target.size and (count := reader.readinto(target[done:])):
        done += count
    # One byte more than fits tells too many from enough, before they take memory.
    if done == target.size and reader.read(1):
        raise ValueError(f"it decodes to more than the {target.size:,} bytes expected")
    return target if done == target.size else target[:done]


def zstd_size(data: Bytes) -> int | None:
    """Return the bytes that zstd frames decode to, None if one of them does not tell.

    A decompressor stops where a frame ends, or where all it decodes to is there: that nothing
    else follows, and nothing is missing, is seen from the lengths of the blocks.

    Raises
    ------
    ValueError
        If it is not one frame or more, the last one whole.
    """
    size = int(_frames(data))
    if size == _BROKEN:
        raise ValueError("it is no run of whole zstd frames")
    return None if size == _UNTOLD else size


@kernel
def _frames(data: Bytes) -> int:
    """Return what zstd frames (RFC 8878, 3.1) say they decode to, _UNTOLD or _BROKEN."""
    at = size = 0
    told = True
    while at < data.size:
        # No frame is shorter than what tells its size and one block.
        if data.size - at < 8:
            return _BROKEN
        magic = _number(data, at, 4)
        if magic >> 4 == 0x184D2A5:
            # To be skipped.
            at += 8 + _number(data, at + 4, 4)
            continue
        if magic != 0xFD2FB528:
            return _BROKEN
        flags = int(data[at + 4])
        single = (flags >> 5) & 1
        width = (single, 2, 4, 8)[flags >> 6]
        at += 5 + (1 - single) + (0, 1, 2, 4)[flags & 3]
        if at + width > data.size:
            return _BROKEN
        told = told and width > 0
        # Two bytes tell of what a single one cannot.
        size += _number(data, at, width) + (256 if width == 2 else 0)
        at += width
        last = False
        while not last:
            if at + 3 > data.size:
                return _BROKEN
            block = _number(data, at, 3)
            last = block & 1 == 1
            # One byte that is repeated, or as many as the block tells.
            at += 3 + (1 if (block >> 1) & 3 == 1 else block >> 3)
        at += 4 * ((flags >> 2) & 1)
    if data.size == 0 or at != data.size:
        return _BROKEN
    return size if told else _UNTOLD


@inlined
def _number(data: Bytes, start: int, width: int) -> int:
    """Return a little-endian number."""
    number = 0
    for i in range(width):
        number |= int(data[start + i]) << (8 * i)
    return number


def _blosc(codec: Any, data: Bytes, target: Bytes) -> Bytes:
    from numcodecs import blosc

    size = blosc_size(data)
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


def blosc_size(data: Bytes) -> int:
    """Return the bytes that a chunk decodes to by its blosc header.

    Raises
    ------
    ValueError
        If it has not the bytes that the header says; c-blosc reads these whatever the buffer.
    """
    if data.size < 16:
        raise ValueError(f"it has {data.size} bytes, fewer than a blosc header")
    size, _, stored = struct.unpack("<III", data[4:16].tobytes())
    if stored != data.size:
        raise ValueError(f"it has {data.size:,} bytes, expected {stored:,} by its blosc header")
    return int(size)


def _lz4(codec: Any, data: Bytes, target: Bytes) -> Bytes:
    size = int.from_bytes(data[:4].tobytes(), "little")
    if size > target.size:
        raise ValueError(f"it decodes to {size:,} bytes, expected {target.size:,}")
    decoded = target if size == target.size else target[:size]
    codec.decode(data, decoded)
    return decoded


def _inflate(codec: dict[str, Any], data: Bytes, target: Bytes) -> Bytes:
    done = 0
    for piece in inflate(codec, data, target.size):
        target[done : done + len(piece)] = np.frombuffer(piece, np.uint8)
        done += len(piece)
    return target[:done] if done != target.size else target


def inflate(codec: dict[str, Any], data: Bytes, most: int | None = None) -> Iterator[bytes]:
    """
    Yield what a stream of zlib, or the several of gzip, bz2 or lzma, decompress to.

    Parameters
    ----------
    codec
        Its configuration in the form of numcodecs.
    data
        The streams.
    most
        How many bytes may come of them; any number by default.

    Raises
    ------
    ValueError
        If more comes of them, they are cut short, or something else follows.
    """
    new = _decompressor(codec)
    stream, done = new(), 0
    for position in range(0, data.size, _PIECE):
        piece = data[position : position + _PIECE].tobytes()
        while piece:
            if stream.eof:
                if codec["id"] == "zlib":
                    raise ValueError("it goes on after the end of its zlib stream")
                stream = new()
            # One more than fits tells too many from enough.
            limit = () if most is None else (most - done + 1,)
            decoded = stream.decompress(piece, *limit)
            done += len(decoded)
            if most is not None and done > most:
                raise ValueError(f"it decodes to more than the {most:,} bytes expected")
            yield decoded
            piece = stream.unused_data
    if not stream.eof:
        raise ValueError(f"it is cut short, after {done:,} bytes decoded")


def _decompressor(codec: dict[str, Any]) -> Callable[[], Any]:
    """Return what makes Python's decompressor of a codec's streams."""
    kind = codec["id"]
    if kind == "gzip":
        return functools.partial(zlib.decompressobj, 31)
    if kind == "zlib":
        return zlib.decompressobj
    if kind == "bz2":
        return bz2.BZ2Decompressor
    return functools.partial(
        lzma.LZMADecompressor, format=codec["format"], filters=codec["filters"]
    )


def undo_crc32c(data: Bytes, target: Bytes) -> Bytes:
    """Check the crc32c at the end of some bytes and return the others."""
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


def largest_stored(nbytes: int, chain: Chain) -> int:
    """Return the most bytes that a chunk can take as stored."""
    if not chain.steps:
        return nbytes
    widest = nbytes * (8 // chain.dtype.itemsize if chain.widens else 1)
    return widest + widest // 8 + 2**16
