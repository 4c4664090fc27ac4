"""Imports flow one way: a module uses only those that stand before it here."""

import ast
import itertools
import re
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

import streamloss

PACKAGE = Path(streamloss.__file__).parent
ORDER = [
    "errors",
    "extras",
    "locations",
    "affine",
    "task",
    "volume",
    "byte_sources",
    "stored_volume",
    "raw_volume",
    "lazy",
    "kernel_cache",
    "_jit",
    "vecmath",
    "words",
    "exact",
    "float_sums",
    "pairs",
    "encoding",
    "slab",
    "statistic",
    "averages",
    "losses",
    "metrics",
    "registry",
    "class_table",
    "structures",
    "options",
    "tally",
    "raw_block",
    "partial",
    "chunk_files",
    "zarr_codecs",
    "checked_codecs",
    "zarr_layout",
    "shard_index",
    "checked_store",
    "direct",
    "file_checks",
    "ome",
    "zarr_memory",
    "zarr_volume",
    "stores",
    "blocks",
    "scan",
    "cluster",
    "executors",
    "alignment",
    "prepare",
    "files",
    "conversion",
    "fingerprints",
    "shards",
    "origin",
    "state",
    "checkpoint",
    "execution",
    "faults",
    "result",
    "tables",
    "docstrings",
    "catalogue",
    "scoring",
    "accumulator",
    "merging",
    "cases",
    "study",
    "exports",
    "comparison",
    "batch_folder",
    "lanes",
    "batching",
    "",
    "demo",
    "cli",
    "__main__",
]
# Metrics see neither volumes nor blocks, executors or chunks.
KERNELS = {"_jit", "vecmath", "exact", "float_sums", "words"}
ALLOWED = {"metrics": {"errors", "task", "slab", "statistic", "averages", "losses", *KERNELS}}


def room(path):
    """The module, or the folder of modules, that a file belongs to."""
    name = path.relative_to(PACKAGE).with_suffix("").parts[0]
    return "" if name == "__init__" else name


def imported(node):
    """The rooms of streamloss that a statement imports when the module is loaded."""
    if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "streamloss":
        parts = (node.module or "").split(".")
        return [parts[1]] if len(parts) > 1 else [alias.name for alias in node.names]
    if isinstance(node, ast.Import):
        names = [alias.name.split(".") for alias in node.names]
        return ["".join(name[1:2]) for name in names if name[0] == "streamloss"]
    return []


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: path.stem)
def test_imports_flow_one_way(path):
    here = room(path)
    for node in ast.parse(path.read_text()).body:
        for other in imported(node):
            if other == here:
                continue
            assert ORDER.index(other) < ORDER.index(here), f"{here} imports {other}"
            assert other in ALLOWED.get(here, ORDER), f"{here} imports {other}"


def test_packages_that_are_imported_are_declared():
    project = tomllib.loads((PACKAGE.parent / "pyproject.toml").read_text())["project"]
    wanted = itertools.chain(project["dependencies"], *project["optional-dependencies"].values())
    declared = {re.match(r"[\w-]+", entry)[0] for entry in wanted}
    found = set()
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                found |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                found.add(node.module.partition(".")[0])
    distributions = packages_distributions()
    # Numba tells which version of llvmlite it needs.
    for name in found - {"streamloss", "llvmlite"} - sys.stdlib_module_names:
        assert declared & set(distributions.get(name, [name])), f"{name} is not declared"
