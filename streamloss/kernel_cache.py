"""Keeps compiled kernels on disk, in folders of our own, one file per signature.

Replaces Numba's cache for the kernels of this package: that one writes beside the
sources, fails on a damaged file, and does not notice a change in an inlined helper.
Whatever goes wrong here, the kernel is compiled. No Numba flags and no kernels here.
"""

import ctypes
import hashlib
import os
import pickle
import platform
import shutil
import stat
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import llvmlite
import numba
from llvmlite import binding
from numba.core.caching import NullCache
from numba.core.compiler import CompileResult
from numba.core.runtime.nrt import rtsys
from numba.core.serialize import dumps

# Numba and llvmlite are not typed.
_dumps: Callable[[Any], bytes] = dumps
_address: Callable[[str], int | None] = binding.address_of_symbol
_rebuild: Callable[..., Any] = CompileResult._rebuild

# Other versions, other processors and former sources keep their folders up to this number.
KEPT_FOLDERS = 16
_PREFIX = "kernels-"
# A source file that mentions this may hold kernels or helpers inlined into them.
_MARK = b"_jit"
# Variables of Numba that do not change the code of a kernel.
_NEUTRAL = ("NUMBA_CACHE", "NUMBA_DEBUG_CACHE", "NUMBA_NUM_THREADS", "NUMBA_THREADING")


def source_digest(package: Path) -> str | None:
    """Return a digest of the source files that may hold kernels; contents, not times.

    Parameters
    ----------
    package
        Folder of the package; hashing all of it takes a few milliseconds.
    """
    digest = hashlib.sha256()
    found = False
    try:
        for path in sorted(package.rglob("*.py")):
            text = path.read_bytes()
            if _MARK in text:
                found = True
                digest.update(f"{path.relative_to(package)} {len(text)} ".encode() + text)
    except OSError:
        return None
    return digest.hexdigest() if found else None


# Taken before the kernels are imported, so that machine code never gets the key of sources
# edited since.
_SOURCES = source_digest(Path(__file__).parent)


class KernelCache(NullCache):
    """Cache of one kernel, for the `_cache` of its dispatcher.

    Parameters
    ----------
    function
        The kernel before compilation, from a module of this package.

    Notes
    -----
    A file holds a checksum and one compiled signature, and is replaced as a whole, so
    processes that start together write the same thing twice at worst.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function

    @property
    def cache_path(self) -> str | None:
        """The folder that is read first, for `Dispatcher.stats`."""
        return next((str(folder) for folder in folders()), None)

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        """Return the compiled signature, or None if it must be compiled."""
        for folder in folders():
            # A broken file raises nearly anything, and costs no more than compiling.
            with suppress(Exception):
                return _load((folder / self._file_name(sig)).read_bytes(), target_context)
        return None

    def save_overload(self, sig: Any, data: Any) -> None:
        """Save a compiled signature in the first folder that can be written to."""
        if data.lifted or data.library.has_dynamic_globals:
            return
        # A later Numba may hold what is saved elsewhere; the kernel is compiled all the same.
        with suppress(Exception):
            content = _dumps((_outside_symbols(data), data._reduce()))
            content = hashlib.sha256(content).digest() + content
            for folder in folders():
                with suppress(OSError):
                    _make(folder)
                    _write(folder / self._file_name(sig), content)
                    return

    def _file_name(self, sig: Any) -> str:
        function = self._function
        cells = tuple(cell.cell_contents for cell in function.__closure__ or ())
        code = function.__code__
        identity = repr((str(sig), code.co_firstlineno)).encode() + (
            _dumps(cells) if cells else b""
        )
        name = f"{function.__module__}.{function.__qualname__}".replace("<", "").replace(">", "")
        return f"{name}-{hashlib.sha256(identity).hexdigest()[:16]}"


def _load(content: bytes, target_context: Any) -> Any:
    digest, content = content[:32], content[32:]
    if hashlib.sha256(content).digest() != digest:
        raise ValueError("damaged file")
    symbols, reduced = pickle.loads(content)
    # Numba would set up everything it needs to compile, which takes 0.4 s. To run, a
    # kernel needs the memory runtime and whatever symbols it was linked against; LLVM
    # aborts the process when one is missing.
    rtsys.initialize(target_context)
    if not all(_address(symbol) or hasattr(ctypes.pythonapi, symbol) for symbol in symbols):
        target_context.refresh()
    return _rebuild(target_context, *reduced)


def _outside_symbols(compiled: Any) -> list[str]:
    """Return the names that the machine code of a kernel takes from elsewhere."""
    module = compiled.library._final_module
    return [
        value.name
        for values in (module.functions, module.global_variables)
        for value in values
        if value.is_declaration and not value.name.startswith("llvm.")
    ]


def folders() -> Iterator[Path]:
    """Yield the folders to look for kernels in and to write them to, best first.

    `STREAMLOSS_CACHE_DIR` or else the user's cache folder, then a temporary one. None
    need exist or be writable.
    """
    name = _folder_name()
    if name is None:
        return
    root = os.environ.get("STREAMLOSS_CACHE_DIR") or _user_cache()
    if root:
        yield Path(root).absolute() / name
    with suppress(OSError):
        shared = Path(tempfile.gettempdir()) / f"streamloss-{_user()}"
        shared.mkdir(mode=0o700, exist_ok=True)
        # Loading a kernel runs what its file says: nobody else may have put it there.
        if _is_private(shared):
            yield shared / name


def _user_cache() -> str | None:
    """Return our part of the platform's cache folder, None without a home."""
    if sys.platform == "win32":
        root = os.environ.get("LOCALAPPDATA", "")
    elif sys.platform == "darwin":
        root = os.path.expanduser("~/Library/Caches")  # noqa: PTH111 (Path raises without a home)
    else:
        root = os.environ.get("XDG_CACHE_HOME", "")
        if not os.path.isabs(root):  # noqa: PTH117 (relative ones are to be ignored)
            root = os.path.expanduser("~/.cache")  # noqa: PTH111
    return str(Path(root, "streamloss")) if Path(root).is_absolute() else None


def _user() -> str:
    return "" if sys.platform == "win32" else str(os.getuid())


def _is_private(folder: Path) -> bool:
    if sys.platform == "win32":
        return True
    status = folder.lstat()
    return (
        stat.S_ISDIR(status.st_mode)
        and status.st_uid == os.getuid()
        and not status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
    )


@cache
def _folder_name() -> str | None:
    """Return the key of all that decides the machine code but function and signature.

    None if there are no sources to tell one version of the kernels from the next.
    """
    if _SOURCES is None:
        return None
    from numba.core.registry import cpu_target

    settings = sorted(
        item
        for item in os.environ.items()
        if item[0].startswith("NUMBA_") and not item[0].startswith(_NEUTRAL)
    )
    python = platform.python_version()
    versions = (_SOURCES, numba.__version__, llvmlite.__version__, sys.implementation.name, python)
    processor = cpu_target.target_context.codegen().magic_tuple()
    digest = hashlib.sha256(repr((versions, processor, settings)).encode()).hexdigest()
    return f"{_PREFIX}numba{numba.__version__}-python{python}-{digest[:16]}"


def _make(folder: Path) -> None:
    """Create a folder; a new one makes the oldest ones go."""
    if folder.is_dir():
        return
    folder.mkdir(parents=True, exist_ok=True)
    with suppress(OSError):
        others = sorted(folder.parent.glob(f"{_PREFIX}*"), key=lambda path: path.stat().st_mtime)
        for old in others[:-KEPT_FOLDERS]:
            shutil.rmtree(old, ignore_errors=True)


def _write(path: Path, content: bytes) -> None:
    """Write a file that appears complete or not at all."""
    temporary = path.with_name(f"{path.name}.{os.urandom(8).hex()}")
    try:
        temporary.write_bytes(content)
        temporary.replace(path)
    except OSError:
        with suppress(OSError):
            temporary.unlink()
        raise
