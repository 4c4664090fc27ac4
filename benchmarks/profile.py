"""Where the time of one worker goes, stage by stage, in nanoseconds a voxel.

`python -m benchmarks.profile` prints the processor time of one thread: reading the
files, decoding them, the kernels with their checks of the voxels, and what remains of
`score`, which is Python, planning and the caches. Each stage runs alone over the same volume.
"""

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import zarr

import streamloss
from benchmarks import floor
from benchmarks.data import Pair, build
from benchmarks.ours import LOSSES
from streamloss.partial import Partial
from streamloss.prepare import prepare
from streamloss.raw_block import Block

# Voxels that kernels are measured on: a part of the volume, about as large as a slab.
SLAB = 2**19
STAGES = ("read", "decode", "kernels", "rest", "all")


def stages(pair: Pair, folder: Path, repeats: int) -> dict[str, float]:
    """Return nanoseconds a voxel of each stage."""
    paths = build(pair, folder)
    options: dict[str, Any] = {"metrics": "dice", "classes": 4}
    if pair.kind != "labels":
        options = {"metrics": LOSSES, "kind": "probabilities"}
    task = prepare(**paths, **options).job.task
    truth, prediction = (_part(path) for path in paths.values())
    block = Block(truth, prediction, None, (slice(0, SLAB),), (0,), (SLAB,))

    def kernels() -> None:
        Partial.start(task, prediction.dtype).absorb(block)

    def read() -> None:
        sizes, _, keys = zip(*(floor._open(Path(path)) for path in paths.values()), strict=True)
        buffer = memoryview(bytearray(max(sizes) + floor.SLACK))
        for files in zip(*keys, strict=True):
            for path in files:
                file = os.open(path, os.O_RDONLY)
                os.readv(file, [buffer])
                os.close(file)

    def everything() -> None:
        streamloss.score(**paths, **options, workers=1, executor="serial")

    found = {
        "read": _time(read, pair.voxels, repeats),
        "decode": _time(lambda: floor.read(**paths, threads=1), pair.voxels, repeats),
        "kernels": _time(kernels, truth.size, 4 * repeats),
        "all": _time(everything, pair.voxels, repeats),
    }
    found["decode"] -= found["read"]
    found["rest"] = 2 * found["all"] - sum(found.values())
    return {stage: found[stage] for stage in STAGES}


def _part(path: str) -> np.ndarray:
    """Return voxels from the middle of an array, flattened."""
    array = zarr.open_array(path, mode="r")
    middle = array.shape[0] // 2
    return np.asarray(array[middle : middle + SLAB // array[0].size + 1]).reshape(-1)[:SLAB].copy()


def _time(call: Callable[[], object], voxels: int, repeats: int) -> float:
    """Return the median processor time of the process in nanoseconds a voxel."""
    call()
    times = []
    for _ in range(repeats):
        start = time.process_time_ns()
        call()
        times.append(time.process_time_ns() - start)
    return median(times) / voxels


def main() -> None:
    """Print a row for each kind of volume."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.profile")
    parser.add_argument("--size", type=int, default=512, help="voxels along an axis")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument(
        "--data", type=Path, default=Path(tempfile.gettempdir()) / "streamloss-benchmarks"
    )
    given = parser.parse_args()
    print(f"{'ns a voxel, one worker':<30}" + "".join(f"{stage:>9}" for stage in STAGES))
    for kind, chunk, codec in (
        ("labels", 64, "zstd"),
        ("labels", 128, "zstd"),
        ("probabilities", 128, "zstd"),
        ("probabilities", 128, "lz4"),
        ("codes", 128, "zstd"),
    ):
        pair = Pair(kind, given.size, chunk, codec)
        found = stages(pair, given.data, given.repeats)
        print(f"{pair.name:<30}" + "".join(f"{found[stage]:9.3f}" for stage in STAGES), flush=True)


if __name__ == "__main__":
    main()
