"""Scans the blocks of a run on an executor, pass after pass, and sums them up.

What a checkpoint does with a sum, and how an executor spreads the work, is known elsewhere.
"""

import functools
import math
import os
import socket
import threading
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamloss.checkpoint import Checkpoint, Savepoint
from streamloss.errors import WorkerError
from streamloss.executors import Pool, open_executor
from streamloss.origin import Origin, of_look
from streamloss.partial import Partial
from streamloss.prepare import Run, another_pass
from streamloss.scan import Job, scan

# Runs of blocks per worker: enough that the last ones end together.
RUNS_PER_WORKER = 8
# Of ever shorter runs, as many per worker would be left if all were as long as the next.
SHORTER_RUNS_PER_WORKER = 3
LARGE_RUN = 2**26
"""Bytes of the voxels of a run of blocks that outweigh what it costs to start one, and are soon
done."""


def execute(
    run: Run,
    origin: Origin,
    executor: Any,
    progress: Callable[[int, int], None] | None,
    checkpoint: Checkpoint | None = None,
) -> Partial:
    """Return the sum over all blocks of a run, of as many passes as its statistics ask for.

    Parameters
    ----------
    run
        What to scan.
    origin
        Where its sum comes from.
    executor
        As for `score`.
    progress
        Called with (voxels done, voxels in total) of each pass.
    checkpoint
        Where sums are saved, and taken from.
    """
    with open_executor(executor, run.workers) as pool:
        shares_memory = executor in ("threads", "serial")

        def one_pass(run: Run, origin: Origin) -> Partial:
            saved = None if checkpoint is None else checkpoint.of_pass(origin, run.job.task)
            return _scan_all(run, pool, shares_memory, progress, saved)

        total = one_pass(run, origin)
        look = 0
        while total.faulty() is None and (task := total.asking()) is not None:
            look += 1
            further = another_pass(run, task)
            total = total.learned(one_pass(further, of_look(further, origin, look)))
    return total


def _scan_all(
    run: Run,
    pool: Pool,
    shares_memory: bool,
    progress: Callable[[int, int], None] | None,
    savepoint: Savepoint | None,
) -> Partial:
    """Return the sum of one pass."""
    dtype = run.job.prediction.dtype
    voxel, copies = run.unstored
    total, begun = voxel.times(copies).settled(dtype), 0
    if savepoint is not None and (saved := savepoint.load()) is not None:
        total, begun = saved
    advance = _progress(run, progress)
    advance(total.scored + total.ignored)

    function = (
        functools.partial(scan, run.job, progress=advance, kept=threading.local())
        if shares_memory
        else functools.partial(_scan_elsewhere, _places(run.job), run.job)
    )
    runs = _runs(run, begun, pool.width, shares_memory, savepoint is not None)
    # What was saved is settled, and no more voxels can enter it but as a settled sum.
    fresh: Partial | None = None
    added = 0
    for count, part in pool.add_up(function, runs):
        fresh = part if fresh is None else fresh.merge(part)
        begun += sum(map(len, runs[added : added + count]))
        added += count
        if not shares_memory:
            advance(part.scored + part.ignored)
        if savepoint is not None and savepoint.due and added < len(runs):
            savepoint.save(total.merge(fresh.settled(dtype)), begun)
    if fresh is not None:
        total = total.merge(fresh.settled(dtype))
        if savepoint is not None:
            savepoint.save(total, begun)
    return total


def _places(job: Job) -> dict[str, str]:
    """Return where on this machine's file systems the volumes are that are on one."""
    names = [volume.name for volume in job.arrays.values()]
    return {name: os.path.abspath(name) for name in names if os.path.exists(name)}  # noqa: PTH100, PTH110


def _scan_elsewhere(places: Mapping[str, str], job: Job, numbers: NDArray[np.intp]) -> Partial:
    """Scan in another process, perhaps of another machine, that must see the same files.

    Where it does not, every chunk would pass for one that is not stored.
    """
    for name, place in places.items():
        if os.path.abspath(name) != place or not os.path.exists(name):  # noqa: PTH100, PTH110
            raise WorkerError(
                f"a worker on {socket.gethostname()} does not see {place}: give absolute paths "
                "on a file system that all workers share"
            )
    return scan(job, numbers)


def _runs(
    run: Run, begun: int, width: int, shares_memory: bool, saved: bool
) -> list[NDArray[np.intp]]:
    """Cut the blocks that are left into runs, one after another."""
    blocks = run.blocks[begun:]
    block = math.prod(run.job.plan.block_shape) * _bytes_per_voxel(run.job)
    if not shares_memory:
        # To send one away and get its sum back takes milliseconds.
        large = len(blocks) * block // LARGE_RUN
        count = max(min(RUNS_PER_WORKER * width, large), 2 * width)
        if saved:
            count = max(count, large)
        return np.array_split(blocks, min(count, len(blocks))) if len(blocks) else []
    # Ever shorter ones, down to a block: workers then end within a block of each other.
    largest = max(1, LARGE_RUN // block) if saved else len(blocks)
    ends, left = [], len(blocks)
    while left:
        left -= min(largest, -(-left // (SHORTER_RUNS_PER_WORKER * width)))
        ends.append(len(blocks) - left)
    return np.split(blocks, ends[:-1]) if ends else []


def _bytes_per_voxel(job: Job) -> int:
    ndim = len(job.plan.region)
    return sum(
        math.prod(volume.shape[:-ndim]) * volume.dtype.itemsize for volume in job.arrays.values()
    )


def _progress(run: Run, progress: Callable[[int, int], None] | None) -> Callable[[int], None]:
    """Return a function that takes voxels that are done, from any thread."""
    if progress is None:
        return lambda voxels: None
    plan = run.job.plan
    chosen = np.zeros([len(indices) for indices in plan.grid], np.bool_)
    chosen.reshape(-1)[run.blocks] = True
    whole = plan.voxels(chosen) + run.unstored[1]
    done = 0
    one_at_a_time = threading.Lock()

    def advance(voxels: int) -> None:
        nonlocal done
        with one_at_a_time:
            done += voxels
            progress(done, whole)

    return advance
