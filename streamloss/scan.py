"""Reads each block once and feeds it to every statistic.

What the statistics are and how blocks are spread over workers is not known here.
"""

import math
import threading
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field, replace
from itertools import cycle
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamloss.blocks import Plan, widen
from streamloss.partial import Partial
from streamloss.raw_block import Block
from streamloss.registry import needed
from streamloss.task import Classes, Task
from streamloss.volume import Region, Volume


@dataclass(frozen=True)
class Job:
    """What every worker needs to score blocks; pickles.

    Attributes
    ----------
    task, plan
        The settings and the blocks.
    truth, prediction, mask, weights
        The arrays; truth and prediction may have a leading channel axis.
    known
        Class tables that grew so far, the largest last: a hint that saves each run
        from finding the same labels again. The result is the same without it.
    """

    task: Task
    plan: Plan
    truth: Volume
    prediction: Volume
    mask: Volume | None
    weights: Volume | None = None
    known: list[Classes] = field(default_factory=list)

    @property
    def halo(self) -> int:
        """Voxels read around each block."""
        return max((statistic.halo for statistic in needed(self.task)), default=0)

    @property
    def arrays(self) -> dict[str, Volume]:
        """The arrays by role, those that there are."""
        roles = ("truth", "prediction", "mask", "weights")
        return {role: volume for role in roles if (volume := getattr(self, role)) is not None}


def scan(
    job: Job,
    numbers: Iterable[int],
    progress: Callable[[int], None] = lambda voxels: None,
    kept: threading.local | None = None,
) -> Partial:
    """Return the sum over some blocks of a job.

    Parameters
    ----------
    job
        What to score.
    numbers
        The blocks, by number.
    progress
        Called after each block with the number of its voxels.
    kept
        Where a thread that scans several runs of blocks of a job keeps its buffers between them.

    Raises
    ------
    ReadError
        If a chunk cannot be read.
    """
    task = replace(job.task, classes=job.known[-1]) if job.known else job.task
    partial = Partial.start(task, job.prediction.dtype)
    with closing(_blocks(job, numbers, kept or threading.local())) as blocks:
        for block in blocks:
            partial.absorb(block)
            if partial.task is not task:
                task = partial.task
                job.known.append(task.classes)
            progress(math.prod(block.core_shape))
    return partial


def reads_ahead(volumes: Iterable[Volume]) -> bool:
    """Tell whether a block is read while the one before it is scored.

    That hides the time for which a slow store is waited for. It would gain nothing where
    every core decodes files or scores arrays in memory, and takes a second set of buffers.
    """
    return any(
        volume.reader != "direct" and volume.view((slice(0, 1),) * len(volume.shape)) is None
        for volume in volumes
    )


def _blocks(job: Job, numbers: Iterable[int], kept: threading.local) -> Generator[Block]:
    """Yield blocks that each live until the next one is asked for, read ahead if that helps."""
    if not hasattr(kept, "readers"):
        kept.readers = [_BlockReader(job), _BlockReader(job)]
    if not reads_ahead(job.arrays.values()):
        yield from map(kept.readers[0], numbers)
        return
    pool = ThreadPoolExecutor(1, "streamloss-read")
    try:
        ready: Future[Block] | None = None
        for number, unused in zip(numbers, cycle(kept.readers)):
            following = pool.submit(unused, number)
            if ready is not None:
                yield ready.result()
            ready = following
        if ready is not None:
            yield ready.result()
    finally:
        pool.shutdown(cancel_futures=True)


class _BlockReader:
    """Reads blocks of all arrays of a job, by number, each in the place of the one before."""

    def __init__(self, job: Job) -> None:
        self._plan, self._halo = job.plan, job.halo
        # What a volume tells of itself may take it microseconds, so it is asked once.
        ndim = len(job.plan.region)
        self._shape = job.truth.shape[-ndim:]
        self._sources = {role: _Source(volume, ndim) for role, volume in job.arrays.items()}

    def __call__(self, number: int) -> Block:
        core_box = self._plan.block(int(number))
        box, core = widen(core_box, self._halo, self._plan.region)
        read = {role: source.read(box) for role, source in self._sources.items()}
        return Block(
            truth=read["truth"],
            prediction=read["prediction"],
            mask=read.get("mask"),
            weights=read.get("weights"),
            core=core,
            origin=tuple(part.start for part in core_box),
            shape=self._shape,
        )


class _Source:
    """A volume and the buffer its boxes are read into.

    Fresh memory costs a page fault per page, a third of the time of a fast decoder.
    """

    def __init__(self, volume: Volume, ndim: int) -> None:
        self._volume = volume
        self._channels = tuple(slice(0, size) for size in volume.shape[: len(volume.shape) - ndim])
        self._buffer = np.empty(0, volume.dtype)
        self._out = self._buffer

    def read(self, box: Region) -> NDArray[Any]:
        """Return all channels of a box; read into the buffer unless they are in memory."""
        region = (*self._channels, *box)
        in_memory = self._volume.view(region)
        if in_memory is not None:
            return in_memory
        shape = tuple(part.stop - part.start for part in region)
        if self._out.shape != shape:
            size = math.prod(shape)
            if self._buffer.size < size:
                self._buffer = np.empty(size, self._buffer.dtype)
            self._out = self._buffer[:size].reshape(shape)
        self._volume.read(region, self._out)
        return self._out
