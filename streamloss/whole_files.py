"""Reads a whole file into a buffer in one call that does without the interpreter.

`os.open`, `os.fstat`, `os.preadv` and `os.close` each give the interpreter's lock away and wait
to get it back, which threads that read small chunks feel. What is in the files is not known here.
"""

import os
import sys
from typing import Any

import numpy as np
from numba import types
from numpy.typing import NDArray

from streamloss._jit import kernel

# Functions of the C library, which is part of every process.
_bytes: Any = types.CPointer(types.uint8)  # type: ignore[no-untyped-call]
_open: Any = types.ExternalFunction("open", types.int32(_bytes, types.int32))
_lseek: Any = types.ExternalFunction("lseek", types.int64(types.int32, types.int64, types.int32))
_pread: Any = types.ExternalFunction(
    "pread", types.int64(types.int32, _bytes, types.uint64, types.int64)
)
_close: Any = types.ExternalFunction("close", types.int32(types.int32))

_FLAGS = os.O_RDONLY | getattr(os, "O_CLOEXEC", 0)
_END = os.SEEK_END
# Some file systems say of a folder that it has all bytes there can be.
_LARGEST = 2**60


def read_whole(path: str, buffer: NDArray[np.uint8]) -> int:
    """
    Read a file, if the buffer holds it.

    Parameters
    ----------
    path
        Where it is.
    buffer
        Takes its bytes from the start on; contiguous.

    Returns
    -------
    int
        Bytes of the file; where they are more than `buffer` has, none were read.

    Raises
    ------
    OSError
        If it cannot be opened or read.
    """
    name = np.frombuffer(os.fsencode(path) + b"\0", np.uint8)
    size: int = _read(name, buffer) if _COMPILED else 0
    # The other way also tells what went wrong.
    return size if 0 < size < _LARGEST else _read_in_python(path, buffer)


@kernel
def _read(path: NDArray[np.uint8], buffer: NDArray[np.uint8]) -> int:
    """Return the size of a file, or -1 if something went wrong."""
    file = _open(path.ctypes, _FLAGS)
    if file < 0:
        return -1
    size: int = _lseek(file, 0, _END)
    done = 0
    while size <= buffer.size and done < size:
        count = _pread(file, buffer[done:].ctypes, size - done, done)
        if count <= 0:
            size = -1
        else:
            done += count
    _close(file)
    return size


# Only there are these functions as declared; and without a compiler there is nothing to call.
_COMPILED = sys.platform != "win32" and sys.maxsize > 2**32 and hasattr(_read, "py_func")


def _read_in_python(path: str, buffer: NDArray[np.uint8]) -> int:
    with open(path, "rb", buffering=0) as file:  # noqa: PTH123 (of thousands)
        size = os.fstat(file.fileno()).st_size
        done = 0
        while size <= buffer.size and done < size:
            count = file.readinto(buffer[done:size].data)
            if not count:
                raise ValueError(f"it ends after {done:,} of {size:,} bytes")
            done += count
        return size
