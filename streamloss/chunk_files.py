"""Reads files of chunks: one in Python, or several, decoded too, in one compiled call.

Each call into Python gives the interpreter's lock away and waits to get it back, which threads
that read small chunks feel. What is wrong with a chunk the compiled calls do not tell: the caller
reads it by itself. Where files are, and which part of an array they hold, is not known here.
"""

import ctypes
import functools
import io
import os
import stat
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from llvmlite import binding
from numba import types
from numpy.typing import NDArray

from streamloss._jit import inlined, kernel

# Addresses and sizes are integers throughout: a buffer may lie anywhere in a larger array.
_address: Any = types.uintp
_size: Any = types.uint64

# Functions of the C library, which is part of every process.
_open: Any = types.ExternalFunction("open", types.int32(_address, types.int32))
_lseek: Any = types.ExternalFunction("lseek", types.int64(types.int32, types.int64, types.int32))
_pread: Any = types.ExternalFunction(
    "pread", types.int64(types.int32, _address, _size, types.int64)
)
_close: Any = types.ExternalFunction("close", types.int32(types.int32))
# Functions of the libraries that numcodecs is built with, under names of our own.
_unzstd: Any = types.ExternalFunction(
    "streamloss_ZSTD_decompressDCtx", types.int64(_address, _address, _size, _address, _size)
)
_unblosc: Any = types.ExternalFunction(
    "streamloss_blosc_decompress_ctx", types.int32(_address, _address, _size, types.int32)
)

# To open a pipe would else wait for who writes to it.
_NAMES = ("O_CLOEXEC", "O_NONBLOCK", "O_BINARY")
_FLAGS = sum((getattr(os, name, 0) for name in _NAMES), os.O_RDONLY)
_END = os.SEEK_END
_PLAIN, _ZSTD, _BLOSC = 0, 1, 2
_BLOSC_HEADER = 16
CODECS = {"none": _PLAIN, "zstd": _ZSTD, "blosc": _BLOSC}
"""What chunks may be compressed with."""


def read_files(
    codec: str,
    start: NDArray[np.uint8],
    separator: str,
    box: Sequence[range],
    skip: int,
    target: NDArray[np.uint8],
    buffer: NDArray[np.uint8],
) -> int:
    """
    Read whole files, each a chunk, and decode them one after another into an array.

    Parameters
    ----------
    codec
        One of `CODECS`.
    start
        What the paths start with, as bytes; the numbers of the chunk follow.
    separator
        Stands between these.
    box
        Numbers of the chunks along each axis, read in C order.
    skip
        How many of the chunks to leave out from the start.
    target
        Takes all chunks, also those left out; contiguous.
    buffer
        Takes a file as stored; contiguous.

    Returns
    -------
    int
        How many are done, with those left out. The next one is missing, larger than `buffer`,
        damaged, or does not decode to as many bytes as expected.
    """
    if not available():
        return skip
    sizes = np.array([(part.start, len(part)) for part in box], np.int64)
    zstd = _zstd_context()
    done: int = _read_files(
        start, ord(separator), sizes, skip, target, buffer, CODECS[codec], zstd.address
    )
    return done


def read_parts(
    codec: str,
    file: int,
    parts: NDArray[np.int64],
    skip: int,
    target: NDArray[np.uint8],
    buffer: NDArray[np.uint8],
) -> int:
    """
    Read some parts of an open file, each a chunk, and decode them as `read_files` does.

    Parameters
    ----------
    file
        Its descriptor.
    parts
        First byte and number of bytes of each part, (n, 2).
    codec, skip, target, buffer
        As for `read_files`.

    Returns
    -------
    int
        As of `read_files`.
    """
    if not available():
        return skip
    zstd = _zstd_context()
    done: int = _read_parts(file, parts, skip, target, buffer, CODECS[codec], zstd.address)
    return done


@functools.cache
def available() -> bool:
    """Tell whether all functions needed are there, as they are on 64-bit POSIX systems."""
    if sys.platform == "win32" or sys.maxsize < 2**32:
        return False
    try:
        functions = {
            "ZSTD_decompressDCtx": _library("zstd").ZSTD_decompressDCtx,
            "blosc_decompress_ctx": _library("blosc").blosc_decompress_ctx,
        }
        _zstd_context()
    except (AttributeError, ImportError, OSError):
        return False
    for name, function in functions.items():
        address = ctypes.cast(function, ctypes.c_void_p).value
        binding.add_symbol(f"streamloss_{name}", address)  # type: ignore[no-untyped-call]
    return True


def _library(name: str) -> ctypes.CDLL:
    """Return the C library that a module of numcodecs contains or is linked to."""
    module = __import__(f"numcodecs.{name}", fromlist=[name])
    return ctypes.CDLL(module.__file__)


class _ZstdContext:
    """What decompressing takes from chunk to chunk: to set it up is as long as to decode 40 KB."""

    def __init__(self) -> None:
        library = _library("zstd")
        library.ZSTD_createDCtx.restype = ctypes.c_void_p
        library.ZSTD_freeDCtx.argtypes = [ctypes.c_void_p]
        self._free = library.ZSTD_freeDCtx
        self.address: int = library.ZSTD_createDCtx()

    def __del__(self) -> None:
        self._free(self.address)


_local = threading.local()


def _zstd_context() -> _ZstdContext:
    """Return this thread's context, to be held as long as its address is in use."""
    try:
        context: _ZstdContext = _local.zstd
    except AttributeError:
        context = _local.zstd = _ZstdContext()
    return context


@contextmanager
def open_file(path: str) -> Iterator[tuple[int, os.stat_result]]:
    """Open a file to read it; yield its descriptor and status.

    Raises
    ------
    ValueError
        If there is something else in its place.
    """
    file = os.open(path, _FLAGS)
    try:
        status = os.fstat(file)
        refuse_others(status)
        yield file, status
    finally:
        os.close(file)


def refuse_others(status: os.stat_result) -> None:
    """Raise ValueError if the status is that of something else than a file."""
    if not stat.S_ISREG(status.st_mode):
        kind = "a folder" if stat.S_ISDIR(status.st_mode) else "no file"
        raise ValueError(f"what is stored there is {kind}")


def fetch_file(path: str, buffer: NDArray[np.uint8]) -> int:
    """Read a file if the buffer holds it; return how many bytes it has."""
    with open_file(path) as (file, status):
        return fetch_part(file, 0, status.st_size, buffer)


def fetch_part(file: int, offset: int, size: int, buffer: NDArray[np.uint8]) -> int:
    """Read some bytes of an open file if the buffer holds them; return how many they are."""
    if size <= buffer.size:
        fill(file, offset, buffer[:size])
    return size


def fill(file: int, offset: int, target: NDArray[np.uint8]) -> None:
    """Read exactly as many bytes as `target` holds."""
    done = 0
    while done < target.size:
        # One call reads at most 2 GiB.
        count = _read_at(file, [target[done:]], offset + done)
        if count == 0:
            raise ValueError(f"it ends after {done:,} of {target.size:,} bytes")
        done += count


def _seek_and_read(file: int, buffers: list[NDArray[np.uint8]], offset: int) -> int:
    """Stand in for `os.preadv` on Windows."""
    os.lseek(file, offset, os.SEEK_SET)
    return io.FileIO(file, closefd=False).readinto(buffers[0].data) or 0


_read_at: Callable[[int, list[NDArray[np.uint8]], int], int] = getattr(os, "preadv", _seek_and_read)


@kernel
def _read_files(
    start: NDArray[np.uint8],
    separator: int,
    box: NDArray[np.int64],
    skip: int,
    target: NDArray[np.uint8],
    buffer: NDArray[np.uint8],
    codec: int,
    context: int,
) -> int:
    ndim = box.shape[0]
    count = 1
    for axis in range(ndim):
        count *= box[axis, 1]
    nbytes = target.size // count
    # A number takes at most 19 digits, and is followed by a separator or the end.
    path = np.empty(start.size + 20 * ndim, np.uint8)
    path[: start.size] = start
    for number in range(skip, count):
        at, rest, step = start.size, number, count
        for axis in range(ndim):
            step //= box[axis, 1]
            at = _write_number(path, at, box[axis, 0] + rest // step)
            path[at] = separator
            at += 1
            rest %= step
        path[at - 1] = 0
        file = _open(path.ctypes.data, _FLAGS)
        if file < 0:
            return number
        size = _lseek(file, 0, _END)
        place = target.ctypes.data + number * nbytes
        good = _fetch(file, 0, size, place, nbytes, buffer, codec, context)
        _close(file)
        if not good:
            return number
    return count


@inlined
def _write_number(text: NDArray[np.uint8], at: int, number: int) -> int:
    """Write a number in decimal digits; return where they end."""
    digits = 1
    while number >= 10**digits:
        digits += 1
    for i in range(digits):
        text[at + digits - 1 - i] = 48 + number % 10
        number //= 10
    return at + digits


@kernel
def _read_parts(
    file: int,
    parts: NDArray[np.int64],
    skip: int,
    target: NDArray[np.uint8],
    buffer: NDArray[np.uint8],
    codec: int,
    context: int,
) -> int:
    count: int = parts.shape[0]
    nbytes = target.size // count
    for number in range(skip, count):
        place = target.ctypes.data + number * nbytes
        offset, size = parts[number, 0], parts[number, 1]
        if not _fetch(file, offset, size, place, nbytes, buffer, codec, context):
            return number
    return count


@inlined
def _fetch(
    file: int,
    offset: int,
    size: int,
    target: int,
    nbytes: int,
    buffer: NDArray[np.uint8],
    codec: int,
    context: int,
) -> bool:
    """Read a part of a file and decode it; tell whether that gave as many bytes as expected."""
    if codec == _PLAIN:
        return size == nbytes and _fill(file, offset, size, target)
    return (
        0 < size <= buffer.size
        and _fill(file, offset, size, buffer.ctypes.data)
        and _decode(buffer, size, target, nbytes, codec, context)
    )


@inlined
def _fill(file: int, offset: int, size: int, target: int) -> bool:
    done = 0
    while done < size:
        count = _pread(file, target + done, size - done, offset + done)
        if count <= 0:
            return False
        done += count
    return True


@inlined
def _decode(
    data: NDArray[np.uint8], size: int, target: int, nbytes: int, codec: int, context: int
) -> bool:
    if codec == _ZSTD:
        decoded: int = _unzstd(context, target, nbytes, data.ctypes.data, size)
        return decoded == nbytes
    # The library reads as far as this header says, whatever the buffer.
    if size < _BLOSC_HEADER or size != (data[12] | data[13] << 8 | data[14] << 16 | data[15] << 24):
        return False
    decoded = _unblosc(data.ctypes.data, target, nbytes, 1)
    return decoded == nbytes
