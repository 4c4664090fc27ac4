"""Opens, validates and plans a run, without reading a voxel."""

import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamloss.alignment import common_spacing, refuse_different_axes, refuse_different_grids
from streamloss.blocks import Plan, cut, format_bytes, plan
from streamloss.class_table import is_integer, split_list
from streamloss.errors import InvalidInputError, MemoryLimitError
from streamloss.executors import available_workers
from streamloss.options import ArrayFacts, settle
from streamloss.partial import SLAB_BYTES, Partial, state_bytes
from streamloss.raw_block import Block
from streamloss.registry import needed
from streamloss.scan import Job, reads_ahead
from streamloss.stores import open_volume
from streamloss.task import Task
from streamloss.volume import Region, Volume

# Beyond this a larger block no longer makes reading cheaper: read directly, 2**18 voxels took
# about 1.1 times as long as 2**20 with chunks of 64³. zarr-python has a cost for every read.
TARGET_BLOCK_VOXELS = {"direct": 2**21, "memory": 2**20}
TARGET_BLOCK_VOXELS_OF_OTHERS = 2**22
# What a process takes to compile and run kernels, whatever the volume; measured
# by benchmarks/memory.py, rounded up.
FIXED_BYTES = 160 * 2**20
# For how many workers the blocks of a part of a run are cut, however many there are.
_WORKERS_OF_A_PART = 8

_SIZES = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


@dataclass(frozen=True)
class Run:
    """A validated, planned job and how it will be executed.

    Attributes
    ----------
    job
        What to score.
    blocks
        Numbers of the blocks to read.
    unstored
        The sum over one voxel of which nothing is stored, and how many those are.
    workers
        How many blocks are scored at once.
    projected_bytes
        Most memory the run takes beyond what importing took.
    max_memory
        What it may take.
    saved
        Whether its sum is saved as it goes on.
    """

    job: Job
    blocks: NDArray[np.intp]
    unstored: tuple[Partial, int]
    workers: int
    projected_bytes: int
    max_memory: int
    saved: bool


def prepare(
    truth: Any,
    prediction: Any,
    *,
    mask: Any = None,
    weights: Any = None,
    spacing: Sequence[float] | None = None,
    region: Any = None,
    level: int = 0,
    reader: str = "auto",
    missing: str = "fill",
    affine: str = "check",
    max_memory: str | int = "1GiB",
    workers: int | None = None,
    parts: int = 1,
    saved: bool = False,
    **options: Any,
) -> Run:
    """Open, validate and plan, without reading a voxel.

    Parameters as `score`. A run that is cut into several `parts` has the same blocks whatever
    the number of workers. The sum of one that is `saved` has copies while it is written.
    """
    arrays = {
        "truth": open_volume(truth, role="truth", level=level, reader=reader),
        "prediction": open_volume(prediction, role="prediction", level=level, reader=reader),
    }
    facts = {
        role: ArrayFacts(volume.shape, volume.dtype, volume.axes) for role, volume in arrays.items()
    }
    task = settle(
        facts["truth"],
        facts["prediction"],
        spacing=spacing,
        weighted=weights is not None,
        **options,
    )
    ndim = len(arrays["truth"].shape) - task.truth_has_channels
    shape = arrays["truth"].shape[-ndim:]
    for role, source in (("mask", mask), ("weights", weights)):
        if source is None:
            continue
        volume = open_volume(source, role=role, level=level, reader=reader)
        if volume.shape != shape:
            raise InvalidInputError(
                f"{role} has shape {volume.shape}, expected {shape} as the truth"
            )
        if volume.dtype.kind == "f":
            hint = ": a voxel of weight 3 counts as three" if role == "weights" else ""
            raise InvalidInputError(
                f"{role} must be of an integer or boolean type, it is {volume.dtype}{hint}"
            )
        arrays[role] = volume
    if missing not in ("fill", "error"):
        raise InvalidInputError(f"missing must be fill or error, got '{missing}'")
    if missing == "error":
        _refuse_missing(arrays)
    found = common_spacing(arrays, ndim) if spacing is None else task.spacing
    if found is not None and len(found) != ndim:
        raise InvalidInputError(f"spacing must be {ndim} numbers, one per axis, got {list(found)}")
    refuse_different_axes(arrays, ndim)
    if affine == "check":
        refuse_different_grids(arrays)
    elif affine != "ignore":
        raise InvalidInputError(f"affine must be check or ignore, got {affine!r}")
    unit = next((volume.unit for volume in arrays.values() if volume.unit is not None), None)
    task = replace(task, spacing=found, spacing_unit=None if found is None else unit)
    box = parse_region(region, shape)
    limit = parse_bytes(max_memory)
    # Parts have the same blocks whether they are saved as they go on or not.
    return _plan(task, arrays, box, limit, workers, parts=parts, saved=saved or parts > 1)


def with_blocks(run: Run, block: tuple[int, ...]) -> Run:
    """Return the run with blocks of some shape.

    Raises
    ------
    MemoryLimitError
        If they do not fit into its memory.
    """
    job = run.job
    region, limit = job.plan.region, run.max_memory
    return _plan(job.task, job.arrays, region, limit, run.workers, saved=run.saved, block=block)


def _plan(
    task: Task,
    arrays: Mapping[str, Volume],
    box: Region,
    limit: int,
    workers: int | None,
    *,
    saved: bool,
    parts: int = 1,
    block: tuple[int, ...] | None = None,
) -> Run:
    ndim = len(box)
    wanted = available_workers() if workers is None else workers
    if not is_integer(wanted) or isinstance(wanted, str) or wanted < 1:
        raise InvalidInputError(f"workers must be a number of at least 1, got {workers!r}")
    halo = max(statistic.halo for statistic in needed(task))
    states = state_bytes(task)
    # What is derived of a block for its parts: truth, prediction and two masks, of a byte each.
    derived = 4 * bool(task.weighted or task.structures)

    # A block that is read while another is scored is held beside it.
    held = 1 + reads_ahead(arrays.values())

    def cost(shape: tuple[int, ...]) -> int:
        inner = [min(s, b.stop - b.start) for s, b in zip(shape, box, strict=True)]
        extents = [s + 2 * halo for s in inner]
        voxels = math.prod(extents)
        total: int = 0
        decoding = 0
        for volume in arrays.values():
            channels = volume.shape[:-ndim]
            total += held * math.prod(channels) * voxels * volume.dtype.itemsize
            # A block lies on a chunk border unless it is smaller than a chunk.
            part = tuple(slice(0, c) for c in channels) + tuple(
                slice(0, min(e, size))
                for e, size in zip(extents, volume.shape[-ndim:], strict=True)
            )
            decoding = max(decoding, volume.decode_bytes(part))
        return int(total + decoding + (4 * bool(halo) + derived) * voxels)

    # Copies of a slab in canonical types: codes, float64 scores, temporaries.
    scratch = SLAB_BYTES * 8 + 2**20
    # The sum and what is added to it; what was saved, what is being saved, and a step towards it.
    sums = 5 if saved else 2
    fixed = FIXED_BYTES + sums * states + sum(volume.held_bytes for volume in arrays.values())
    # Small volumes are cut finer, so that every worker gets a share. Parts of one run may have
    # any number of workers, and the same blocks.
    shares = wanted if parts == 1 else _WORKERS_OF_A_PART * parts
    even = math.prod(part.stop - part.start for part in box) // (2 * shares)
    target = max(
        TARGET_BLOCK_VOXELS.get(volume.reader, TARGET_BLOCK_VOXELS_OF_OTHERS)
        for volume in (arrays["truth"], arrays["prediction"])
    )
    # A column of chunks has more halo than a cube of them.
    chunkwise = halo == 0 and all(volume.reader == "direct" for volume in arrays.values())
    grids = [volume.chunks[-ndim:] for volume in arrays.values()]

    def room(count: int) -> int:
        return (limit - fixed) // count - scratch - states

    def blocks_for(count: int) -> Plan:
        if block is not None:
            return cut(box, block, grids, cost)
        size = min(target, even)
        return plan(box, grids, cost, room(count), size, chunkwise=chunkwise)

    fitting: dict[int, Plan] = {}
    for count in range(wanted, 0, -1):
        with suppress(InvalidInputError):
            blocks = blocks_for(count if parts == 1 else 1)
            if blocks.block_bytes <= room(count):
                fitting[count] = blocks
                if not blocks.rereads:
                    break
    if not fitting:
        smallest = fixed + states + scratch + cost(block or (1,) * ndim)
        raise MemoryLimitError(
            f"max_memory is too small: scoring needs at least {format_bytes(smallest)}, "
            f"{format_bytes(limit)} is allowed"
        )
    # Rather fewer workers, each with more memory, than a chunk that is decoded twice.
    count, blocks = next(
        ((count, blocks) for count, blocks in fitting.items() if not blocks.rereads),
        next(iter(fitting.items())),
    )
    projected = fixed + count * (blocks.block_bytes + scratch + states)
    arguments = arrays["truth"], arrays["prediction"], arrays.get("mask"), arrays.get("weights")
    job = Job(task, blocks, *arguments)
    chosen, unstored = _blocks_to_read(job)
    at_once = max(min(count, len(chosen)), 1)
    return Run(job, chosen, unstored, at_once, projected, limit, saved)


def another_pass(run: Run, task: Task) -> Run:
    """Return the run that answers the questions of a task."""
    job = replace(run.job, task=task, known=[])
    blocks, unstored = _blocks_to_read(job)
    return replace(run, job=job, blocks=blocks, unstored=unstored)


def _blocks_to_read(job: Job) -> tuple[NDArray[np.intp], tuple[Partial, int]]:
    """Choose the blocks of which anything is stored, and sum up a voxel of the others."""
    nothing = Partial(job.task), 0
    everything = np.arange(len(job.plan))
    grids = [job.truth.stored_chunks, job.prediction.stored_chunks]
    if job.halo or job.mask is not None or job.weights is not None:
        return everything, nothing
    ndim = len(job.plan.region)
    needed_blocks = np.zeros([len(indices) for indices in job.plan.grid], np.bool_)
    for chunks in grids:
        if chunks is None:
            return everything, nothing
        channels = tuple(range(chunks.grid.ndim - ndim))
        needed_blocks |= job.plan.stored_blocks(
            np.asarray(chunks.grid.any(axis=channels)), chunks.shape[-ndim:]
        )
    if needed_blocks.all():
        return everything, nothing
    voxel = Partial(job.task)
    truth, prediction = (
        np.full(
            (*volume.shape[: len(volume.shape) - ndim], *(1,) * ndim),
            volume.fill_value,
            volume.dtype,
        )
        for volume in (job.truth, job.prediction)
    )
    one = (1,) * ndim
    voxel.absorb(Block(truth, prediction, None, (slice(0, 1),) * ndim, (0,) * ndim, one))
    if voxel.faulty() is not None:
        # The fill value cannot be scored; reading it tells where and how often.
        return everything, nothing
    return np.flatnonzero(needed_blocks), (voxel, job.plan.voxels(~needed_blocks))


def _refuse_missing(arrays: Mapping[str, Volume]) -> None:
    for role, volume in arrays.items():
        chunks = volume.stored_chunks
        if volume.fill_value is None:
            continue
        if chunks is None:
            raise InvalidInputError(
                f'missing="error" cannot be checked: {role} {volume.name} is in a store '
                "that does not list its keys"
            )
        if chunks.missing:
            raise InvalidInputError(
                f"{role} {volume.name} lacks {chunks.missing:,} of {chunks.total:,} chunks: "
                f'pass missing="fill" to read them as the fill value {volume.fill_value}'
            )


def parse_region(region: Any, shape: tuple[int, ...]) -> Region:
    """Return the box a user asked for, the whole shape by default.

    Raises
    ------
    InvalidInputError
        If it is not one range inside the volume per axis.
    """
    if region is None:
        return tuple(slice(0, size) for size in shape)
    expected = f"region must be one start:stop per axis within {shape}, got {region!r}"
    parts = [region] if isinstance(region, slice) else split_list(region)
    if len(parts) != len(shape):
        raise InvalidInputError(expected)
    box = []
    for part, size in zip(parts, shape, strict=True):
        try:
            if isinstance(part, str):
                start, stop = (int(edge) if edge.strip() else None for edge in part.split(":"))
            elif isinstance(part, slice):
                start, stop = part.start, part.stop
                if part.step not in (None, 1):
                    raise ValueError
            else:
                start, stop = part
            chosen = slice(0 if start is None else int(start), size if stop is None else int(stop))
        except (TypeError, ValueError):
            raise InvalidInputError(expected) from None
        if not 0 <= chosen.start < chosen.stop <= size:
            raise InvalidInputError(expected)
        box.append(chosen)
    return tuple(box)


def parse_bytes(size: str | int) -> int:
    """Return a number of bytes from 1024, "64MiB", "1.5GB" (1024-based throughout).

    Raises
    ------
    InvalidInputError
        If it is not a positive size.
    """
    text = str(size).strip().upper().removesuffix("B").removesuffix("I")
    unit = text[-1:] if text[-1:].isalpha() else ""
    try:
        count = int(float(text.removesuffix(unit)) * _SIZES[unit])
    except (KeyError, ValueError, OverflowError):
        count = 0
    if count <= 0:
        raise InvalidInputError(f'max_memory must be a size such as "512MiB", got {size!r}')
    return count
