"""What scoring float32 losses adds to the floor at least, by all cores.

The kernels alone, over voxels that stay in cache; and a logarithm for each voxel, rounded to the
grid and added up, and nothing else. The values are no result of the volume.
"""

import threading
from functools import lru_cache
from typing import Any

import numpy as np
import zarr

from benchmarks import logarithms
from benchmarks.ours import LOSSES
from streamloss.partial import Partial
from streamloss.prepare import prepare
from streamloss.raw_block import Block
from streamloss.task import Task

# A float32 and a byte for each of these stay in the second-level cache.
_SLAB = 2**18


def kernels(truth: str, prediction: str, threads: int) -> dict[str, Any]:
    """Feed a slab from the middle of a volume to the kernels until all voxels are counted."""
    block, task, voxels = _slab(truth, prediction)
    rounds = voxels // block.truth.size // threads

    def work() -> None:
        partial = Partial.start(task, block.prediction.dtype)
        for _ in range(rounds):
            partial.absorb(block)

    _at_once(work, threads)
    return {}


def logarithm(truth: str, prediction: str, threads: int) -> dict[str, Any]:
    """Take the logarithm of as many numbers as there are voxels."""
    block, _, voxels = _slab(truth, prediction)
    chances = block.prediction.reshape(-1)[: logarithms.TILE].astype(np.float64) + 2.0**-52
    loop = _loop()

    def work() -> None:
        loop(chances, np.empty(chances.size), voxels // chances.size // threads)

    _at_once(work, threads)
    return {}


@lru_cache
def _slab(truth: str, prediction: str) -> tuple[Block, Task, int]:
    """Return voxels from the middle of a pair, what to do with them, and how many there are."""
    arrays = [zarr.open_array(path, mode="r") for path in (truth, prediction)]
    task = prepare(truth, prediction, metrics=LOSSES, kind="probabilities").job.task
    middle, plane = arrays[0].shape[0] // 2, arrays[0][0].size
    planes = slice(middle, middle + -(-_SLAB // plane))
    parts = [np.asarray(array[planes]).reshape(-1)[:_SLAB].copy() for array in arrays]
    block = Block(*parts, None, (slice(0, _SLAB),), (0,), (_SLAB,))
    return block, task, arrays[0].size


@lru_cache
def _loop() -> Any:
    return logarithms.loop_over(logarithms.in_use)


def _at_once(work: Any, threads: int) -> None:
    running = [threading.Thread(target=work) for _ in range(threads)]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()
