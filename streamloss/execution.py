"""Scans the blocks of a run on an executor, pass after pass, and sums them up.

What a checkpoint does with a sum, and how an executor spreads the work, is known elsewhere.
"""

import functools
import math
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamloss.checkpoint import Checkpoint, Savepoint
from streamloss.executors import open_executor
from streamloss.origin import Origin, of_look
from streamloss.partial import Partial
from streamloss.prepare import Run, another_pass
from streamloss.scan import scan

# Runs of blocks per worker: enough that the last ones end together.
RUNS_PER_WORKER = 8
# With a checkpoint a run of blocks is no larger, so that there is something to save soon.
SAVED_VOXELS = 2**25


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

    def one_pass(run: Run, origin: Origin) -> Partial:
        saved = None if checkpoint is None else checkpoint.of_pass(origin, run.job.task)
        return _scan_all(run, executor, progress, saved)

    total = one_pass(run, origin)
    look = 0
    while total.faulty() is None and (task := total.asking()) is not None:
        look += 1
        further = another_pass(run, task)
        total = total.learned(one_pass(further, of_look(further, origin, look)))
    return total


def _scan_all(
    run: Run,
    executor: Any,
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

    shares_memory = executor in ("threads", "serial")
    function = (
        functools.partial(scan, run.job, progress=advance)
        if shares_memory
        else functools.partial(scan, run.job)
    )
    runs = _runs(run, begun, savepoint is not None)
    # What was saved is settled, and no more voxels can enter it but as a settled sum.
    fresh: Partial | None = None
    added = 0
    with open_executor(executor, run.workers) as add_up:
        for count, part in add_up(function, runs):
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


def _runs(run: Run, begun: int, small: bool) -> list[NDArray[np.intp]]:
    """Cut the blocks that are left into runs, one after another."""
    blocks = run.blocks[begun:]
    count = RUNS_PER_WORKER * run.workers
    if small:
        count = max(count, len(blocks) * math.prod(run.job.plan.block_shape) // SAVED_VOXELS)
    return np.array_split(blocks, min(count, len(blocks))) if len(blocks) else []


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
