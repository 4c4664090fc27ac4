"""Starting: what an import costs, and a kernel cache that nothing can break.

The tests may run as root, for whom no folder is read-only; a place that cannot be written
to is therefore a path below a regular file, or a write that is made to fail.
"""

import ast
import errno
import hashlib
import importlib
import json
import os
import pickle
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from numba import njit

import streamloss
from streamloss import kernel_cache
from streamloss.kernel_cache import KernelCache, source_digest

PACKAGE = Path(streamloss.__file__).parent


@pytest.fixture
def places(tmp_path, monkeypatch):
    """Set up an empty cache folder and an empty folder for temporary files."""
    monkeypatch.setenv("STREAMLOSS_CACHE_DIR", str(tmp_path / "cache"))
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    return tmp_path


def double(x: int) -> int:
    return 2 * x


def loads_from_cache() -> bool:
    """Call a kernel as a new process would; tell whether it was compiled before."""
    dispatcher = njit(double)
    dispatcher._cache = KernelCache(double)
    assert dispatcher(21) == 42
    return bool(sum(dispatcher.stats.cache_hits.values()))


def files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def run(*code: str, **environment: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, *code],
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def output(process: "subprocess.Popen[str]") -> str:
    out, err = process.communicate()
    assert process.returncode == 0, err
    return out


def test_import_loads_neither_numpy_nor_numba_nor_zarr():
    code = "import sys, streamloss; print({'numpy', 'numba', 'zarr', 'rich'} & set(sys.modules))"
    assert output(run("-c", code)) == "set()\n"


def test_a_kernel_is_compiled_once(places):
    assert not loads_from_cache()
    assert loads_from_cache()
    (saved,) = files(places)
    assert saved.is_relative_to(places / "cache")


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: b"",
        lambda content: content[:40],
        lambda content: content[: len(content) // 2],
        lambda content: content[:1000] + bytes([content[1000] ^ 1]) + content[1001:],
        lambda content: b"garbage" * 100,
        lambda content: hashlib.sha256(b"no pickle").digest() + b"no pickle",
        lambda content: _signed(pickle.dumps(([], ("wrong", "things")))),
    ],
    ids=["empty", "header", "truncated", "bit", "garbage", "no pickle", "wrong pickle"],
)
def test_a_damaged_file_is_compiled_anew_and_replaced(places, damage: Callable[[bytes], bytes]):
    loads_from_cache()
    (saved,) = files(places)
    saved.write_bytes(damage(saved.read_bytes()))
    assert not loads_from_cache()
    assert loads_from_cache()
    assert files(places) == [saved]


def _signed(content: bytes) -> bytes:
    return hashlib.sha256(content).digest() + content


def test_a_kernel_whose_symbols_are_not_there_yet_is_loaded_after_setting_up_numba(
    places, monkeypatch
):
    loads_from_cache()
    (saved,) = files(places)
    symbols, reduced = pickle.loads(saved.read_bytes()[32:])
    saved.write_bytes(_signed(pickle.dumps(([*symbols, "no such symbol"], reduced))))
    refreshed = []
    context = njit(double).targetctx
    refresh = type(context).refresh
    monkeypatch.setattr(type(context), "refresh", lambda c: refreshed.append(c) or refresh(c))
    assert loads_from_cache()
    assert refreshed


def test_an_unwritable_folder_gives_way_to_a_temporary_one(places, monkeypatch):
    (places / "file").write_text("")
    monkeypatch.setenv("STREAMLOSS_CACHE_DIR", str(places / "file" / "cache"))
    assert not loads_from_cache()
    assert loads_from_cache()
    saved = [path for path in files(places) if path.name != "file"]
    assert len(saved) == 1
    assert saved[0].is_relative_to(places / "temporary")


def test_without_any_writable_folder_kernels_are_compiled(places, monkeypatch):
    (places / "file").write_text("")
    monkeypatch.setenv("STREAMLOSS_CACHE_DIR", str(places / "file" / "cache"))
    monkeypatch.setattr(tempfile, "tempdir", str(places / "file" / "temporary"))
    assert not loads_from_cache()
    assert not loads_from_cache()
    assert files(places) == [places / "file"]


def test_a_read_only_cache_is_read(places, monkeypatch):
    loads_from_cache()

    def refuse(*arguments: Any, **keywords: Any) -> None:
        raise PermissionError(errno.EACCES, "read-only")

    for name in ("mkdir", "write_bytes", "replace"):
        monkeypatch.setattr(Path, name, refuse)
    assert loads_from_cache()


def test_a_full_disk_leaves_nothing_behind(places, monkeypatch):
    def write_half(path: Path, content: bytes) -> None:
        with path.open("wb") as file:
            file.write(content[: len(content) // 2])
        raise OSError(errno.ENOSPC, "no space left on device")

    monkeypatch.setattr(Path, "write_bytes", write_half)
    assert not loads_from_cache()
    assert not files(places)


@pytest.mark.skipif(sys.platform == "win32", reason="temporary folders are private on Windows")
def test_a_temporary_folder_that_others_may_write_to_is_not_trusted(places, monkeypatch):
    (places / "file").write_text("")
    monkeypatch.setenv("STREAMLOSS_CACHE_DIR", str(places / "file"))
    shared = places / "temporary" / f"streamloss-{os.getuid()}"
    shared.mkdir()
    shared.chmod(0o777)
    assert not list(shared.iterdir())
    assert not loads_from_cache()
    assert not loads_from_cache()
    assert not files(shared)


def test_the_default_is_the_cache_folder_of_the_platform(places, monkeypatch):
    monkeypatch.delenv("STREAMLOSS_CACHE_DIR")
    monkeypatch.setenv("HOME", str(places))
    monkeypatch.setenv("LOCALAPPDATA", str(places))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert next(kernel_cache.folders()).is_relative_to(places)
    monkeypatch.setattr(sys, "platform", "linux")
    assert next(kernel_cache.folders()).parent == places / ".cache" / "streamloss"
    monkeypatch.setenv("XDG_CACHE_HOME", str(places / "xdg"))
    assert next(kernel_cache.folders()).parent == places / "xdg" / "streamloss"


def test_without_a_home_kernels_go_to_a_temporary_folder(places, monkeypatch):
    for name in ("STREAMLOSS_CACHE_DIR", "XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)
    assert next(kernel_cache.folders()).is_relative_to(places / "temporary")


def test_only_so_many_folders_are_kept(places):
    cache = places / "cache"
    for number in range(kernel_cache.KEPT_FOLDERS + 3):
        (cache / f"kernels-{number}").mkdir(parents=True)
        os.utime(cache / f"kernels-{number}", (number, number))
    (cache / "of the user").mkdir()
    loads_from_cache()
    left = {path.name for path in cache.iterdir()}
    assert len(left) == kernel_cache.KEPT_FOLDERS + 1
    assert "of the user" in left
    assert "kernels-3" not in left
    assert loads_from_cache()


@pytest.mark.parametrize("name", ["vecmath.py", "exact.py", "slab.py", "metrics/class_counts.py"])
def test_a_changed_helper_makes_a_new_key(tmp_path, name: str):
    package = tmp_path / "streamloss"
    shutil.copytree(PACKAGE, package, ignore=shutil.ignore_patterns("__pycache__"))
    assert source_digest(package) == source_digest(PACKAGE)
    source = package / name
    os.utime(source, (0, 0))
    assert source_digest(package) == source_digest(PACKAGE)
    source.write_text(source.read_text() + "\n")
    assert source_digest(package) != source_digest(PACKAGE)


def test_a_change_of_the_command_line_keeps_the_key(tmp_path):
    package = tmp_path / "streamloss"
    shutil.copytree(PACKAGE, package, ignore=shutil.ignore_patterns("__pycache__"))
    (package / "cli" / "score.py").write_text("")
    assert source_digest(package) == source_digest(PACKAGE)


def test_kernels_take_constants_only_from_files_in_the_key():
    def in_key(path: Path) -> bool:
        return "_jit" in path.read_text(encoding="utf-8")

    def numbers(value) -> bool:
        if isinstance(value, tuple):
            return any(map(numbers, value))
        return isinstance(value, int | float | np.ndarray | np.generic)

    for path in filter(in_key, PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("streamloss."):
                module = importlib.import_module(node.module)
                for name in node.names:
                    value = getattr(module, name.name)
                    assert not numbers(value) or in_key(Path(module.__file__)), (
                        path.name,
                        name.name,
                    )


def test_functions_of_the_user_keep_their_own_cache(places, monkeypatch):
    monkeypatch.syspath_prepend(places)
    source = "from numba import njit\n\n@njit(cache=True)\ndef triple(x):\n    return 3 * x\n"
    (places / "of_the_user.py").write_text(source)
    triple = importlib.import_module("of_the_user").triple
    assert triple(2) == 6
    assert Path(triple.stats.cache_path) == places / "__pycache__"
    assert not (places / "cache").exists()


def test_eight_processes_start_cold_at_once(tmp_path):
    # A copy, so that nothing else writes to it.
    package = tmp_path / "source" / "streamloss"
    shutil.copytree(PACKAGE, package, ignore=shutil.ignore_patterns("__pycache__"))
    sources = files(package)
    cache = tmp_path / "cache"
    environment = {
        "PYTHONPATH": str(package.parent),
        "PYTHONDONTWRITEBYTECODE": "1",
        "STREAMLOSS_CACHE_DIR": str(cache),
    }
    truth = np.arange(4096, dtype=np.uint8).reshape(16, 16, 16) % 3 % 2
    for name, array in {"truth": truth, "prediction": 1 - truth}.items():
        zarr.create_array(tmp_path / f"{name}.zarr", data=array, chunks=(8, 16, 16))
    inputs = [str(tmp_path / f"{name}.zarr") for name in ("truth", "prediction")]
    arguments = ["score", *inputs, "--metrics", "mse", "--json", "-"]
    processes = [run("-P", "-m", "streamloss", *arguments, **environment) for _ in range(8)]
    results = [json.loads(output(process)) for process in processes]
    for result in results:
        del result["timing"]
        assert result == results[0]
    saved = files(cache)
    assert saved
    assert len(list(cache.iterdir())) == 1
    assert {path.name.split(".")[0] for path in saved} == {"streamloss"}
    assert files(package) == sources

    # A ninth loads what they wrote, and never sets up the compiler.
    code = (
        "import sys; from streamloss.cli import main; "
        "sys.exit(main(sys.argv[1:]) or 'numba.np.linalg' in sys.modules)"
    )
    warm = json.loads(output(run("-P", "-c", code, *arguments, **environment)))
    del warm["timing"]
    assert warm == results[0]
    assert files(cache) == saved
