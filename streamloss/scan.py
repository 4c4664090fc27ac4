"""Reads each block once and feeds it to every statistic.

What the statistics are and how blocks are spread over workers is not known here.
"""

import math
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field, replace
from itertools import cycle
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamloss.blocks import Plan, widen
from streamloss.partial import Block, Partial
from streamloss.statistic import needed
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

    Raises
    ------
    ReadError
        If a chunk cannot be read.
    """
    task = replace(job.task, classes=job.known[-1]) if job.known else job.task
    partial = Partial.start(task, job.prediction.dtype)
    with closing(_blocks(job, numbers)) as blocks:
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


def _blocks(job: Job, numbers: Iterable[int]) -> Generator[Block]:
    """Yield blocks that each live until the next one is asked for, read ahead if that helps."""
    # Fresh memory costs a page fault per page, a third of the time of a fast decoder.
    buffers: tuple[dict[str, NDArray[np.uint8]], ...] = ({}, {})
    halo = job.halo
    if not reads_ahead(job.arrays.values()):
        for number in numbers:
            yield _read_block(job, number, halo, buffers[0])
        return
    pool = ThreadPoolExecutor(1, "streamloss-read")
    try:
        ready: Future[Block] | None = None
        for number, unused in zip(numbers, cycle(buffers), strict=False):
            following = pool.submit(_read_block, job, number, halo, unused)
            if ready is not None:
                yield ready.result()
            ready = following
        if ready is not None:
            yield ready.result()
    finally:
        pool.shutdown(cancel_futures=True)


def _read_block(job: Job, number: int, halo: int, buffers: dict[str, NDArray[np.uint8]]) -> Block:
    """Read a block of all arrays into buffers that are reused."""
    core_box = job.plan.block(int(number))
    box, core = widen(core_box, halo, job.plan.region)
    read = {role: _read(volume, box, role, buffers) for role, volume in job.arrays.items()}
    return Block(
        truth=read["truth"],
        prediction=read["prediction"],
        mask=read.get("mask"),
        weights=read.get("weights"),
        core=core,
        origin=tuple(part.start for part in core_box),
        shape=job.truth.shape[-len(core_box) :],
    )


def _read(
    volume: Volume, box: Region, role: str, buffers: dict[str, NDArray[np.uint8]]
) -> NDArray[Any]:
    """Read all channels of a box into the buffer of that role, unless it is in memory."""
    channels = tuple(slice(0, size) for size in volume.shape[: len(volume.shape) - len(box)])
    region = (*channels, *box)
    in_memory = volume.view(region)
    if in_memory is not None:
        return in_memory
    shape = tuple(part.stop - part.start for part in region)
    size = math.prod(shape) * volume.dtype.itemsize
    if role not in buffers or buffers[role].size < size:
        buffers[role] = np.empty(size, np.uint8)
    out = buffers[role][:size].view(volume.dtype).reshape(shape)
    volume.read(region, out)
    return out
