"""The parts of the benchmark; each returns plain rows."""

import os
import platform
import sys
from collections.abc import Callable
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks import batches as batch_runs
from benchmarks import huge, kernels, memory
from benchmarks.compare import compare
from benchmarks.contestants import mine, studies
from benchmarks.data import Pair, build, sparse
from benchmarks.figures import READING

Rows = list[dict[str, Any]]


def log(text: str) -> None:
    """Tell on stderr what is going on."""
    print(text, file=sys.stderr, flush=True)


def kernels_in_cache() -> Rows:
    """Return nanoseconds a voxel of each kernel and the ratio to a plain sum."""
    return kernels.measure()


def end_to_end(
    data: Path,
    size: int,
    threads: int,
    rounds: int,
    peers: str | None,
    chosen: Callable[[str], bool],
) -> dict[str, Any]:
    """Return a table of contestants for each study."""
    tables = {}
    for study in studies(threads):
        if not chosen(study.name) or not (peers or any(not one.peer for one in study.others)):
            continue
        pair = Pair(study.kind, size // study.size_divisor, study.chunk, study.codec)
        log(f"{study.title}: {pair.name}")
        rows = compare(
            study.ours,
            study.others,
            build(pair, data),
            pair.voxels,
            peers=peers,
            rounds=rounds,
        )
        tables[study.name] = {"title": f"{study.title}, {pair.size}³", "rows": rows}
    return tables


def thread_scaling(data: Path, size: int, threads: int, rounds: int) -> dict[str, Rows]:
    """Return times of 1 … n workers on arrays in memory: counts, losses, and reading alone."""
    tables = {}
    for name, kind in (("dice", "labels"), ("losses", "probabilities"), (READING, "labels")):
        log(f"threads: {name}")
        pair = Pair(kind, size, 128)
        one = mine(name, 1, memory=True)
        if name == READING:
            one = replace(one, call="benchmarks.floor:add_up")
        *fewer, all_workers = (
            replace(one, name=str(workers), options={"workers": workers})
            for workers in range(1, threads + 1)
        )
        rows = compare(
            all_workers, fewer, build(pair, data), pair.voxels, peers=None, rounds=rounds
        )
        tables[name] = sorted(rows, key=lambda row: int(row["name"]))
    return tables


def sparse_volumes(data: Path, size: int, threads: int, rounds: int) -> Rows:
    """Return times of a dense pair and of one that stores 1 % of its chunks."""
    log("sparse volumes")
    pair = Pair("labels", size, 64 if size < 1024 else 128)
    return compare(
        replace(mine("dice", threads), name="dense"),
        [replace(mine("dice", threads), name="1 % of chunks stored")],
        build(pair, data),
        pair.voxels,
        peers=None,
        rounds=rounds,
        other_paths=sparse(pair, data, 0.01),
    )


def batches(data: Path, threads: int, rounds: int) -> Rows:
    """Return times and peak memory of whole batches by one and by all workers."""
    log("batches")
    return batch_runs.measure(data, threads, rounds)


def huge_volumes(data: Path, size: int, threads: int, rounds: int) -> dict[str, Rows]:
    """Return what merging states, saving checkpoints and a Dask cluster cost."""
    log("huge volumes: merging, checkpoints, Dask")
    return {
        "merging": huge.merging(data, rounds),
        "checkpoints": huge.checkpoints(data, size, rounds),
        "dask": huge.dask(data, 512, threads, rounds),
    }


def scale_sweep(data: Path, sizes: list[int], rounds: int) -> Rows:
    """Return time and peak memory above import for growing volumes, each run a new process."""
    rows = []
    for size in sizes:
        log(f"scale: {size}³")
        pair = Pair("labels", size, 128)
        paths = build(pair, data)
        wanted = {**paths, "metrics": "dice", "classes": 4, "max_memory": "512MiB"}
        # The first compiles, if the kernel cache is cold.
        _, *runs = [memory.measure(**wanted) for _ in range(1 + rounds)]
        seconds = [run["seconds"] for run in runs]
        rows.append(
            {
                "size": size,
                "voxels": pair.voxels,
                "seconds": seconds,
                "voxels_per_second": pair.voxels / median(seconds),
                "peak_bytes": [run["peak"] for run in runs],
                "projected_bytes": runs[0]["projected_bytes"],
                "max_memory": runs[0]["max_memory"],
            }
        )
    return rows


def machine(threads: int) -> dict[str, Any]:
    """Return what the figures depend on."""
    model = platform.processor() or platform.machine()
    if (facts := Path("/proc/cpuinfo")).exists():
        lines = facts.read_text().splitlines()
        names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
        model = names[0] if names else model
    packages = ("streamloss", "numba", "numpy", "numcodecs", "zarr")
    return {
        "cpu": model,
        "cores": os.cpu_count(),
        "threads": threads,
        "load_at_start": round(os.getloadavg()[0], 2),
        "system": platform.system(),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in packages},
    }
