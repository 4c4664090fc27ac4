"""Pure geometry: from chunk grids and a memory limit to an ordered run of blocks.

No volume is known here, only shapes and a function that tells what a block costs.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray

from streamloss.errors import InvalidInputError
from streamloss.lazy import lazy
from streamloss.volume import Region


@dataclass(frozen=True)
class Plan:
    """A box of voxels cut into blocks on a regular grid.

    Attributes
    ----------
    region
        The box to cover.
    block_shape
        Extent of the blocks; those at the border are smaller.
    block_bytes
        Most memory that reading and holding one block takes.
    rereads
        Whether some chunk must be decoded for more than one block.
    """

    region: Region
    block_shape: tuple[int, ...]
    block_bytes: int
    rereads: bool

    @lazy
    def grid(self) -> tuple[range, ...]:
        """Return the indices of the blocks along each axis."""
        return tuple(
            range(part.start // size, -(-part.stop // size))
            for part, size in zip(self.region, self.block_shape, strict=True)
        )

    def __len__(self) -> int:
        return math.prod(len(indices) for indices in self.grid)

    def block(self, number: int) -> Region:
        """Return the box of block `number`, counted in C order."""
        box: list[slice] = []
        for indices, part, size in zip(
            reversed(self.grid), reversed(self.region), reversed(self.block_shape), strict=True
        ):
            number, place = divmod(number, len(indices))
            start = indices[place] * size
            box.append(slice(max(start, part.start), min(start + size, part.stop)))
        return tuple(reversed(box))

    def stored_blocks(
        self, grid: NDArray[np.bool_], object_shape: tuple[int, ...]
    ) -> NDArray[np.bool_]:
        """Tell for every block, in the shape of the block grid, whether any part is stored.

        Parameters
        ----------
        grid
            Whether each storage object is there.
        object_shape
            Extent of one of them.
        """
        counts = grid.astype(np.int64)
        for axis, (indices, part, size, extent) in enumerate(
            zip(self.grid, self.region, self.block_shape, object_shape, strict=True)
        ):
            starts = np.array(indices) * size
            first = np.maximum(starts, part.start) // extent
            last = -(-np.minimum(starts + size, part.stop) // extent)
            # Differences of running sums count the objects that a block touches.
            sums = np.insert(np.cumsum(counts, axis), 0, 0, axis)
            counts = np.take(sums, last, axis) - np.take(sums, first, axis)
        return counts > 0

    def voxels(self, blocks: NDArray[np.bool_]) -> int:
        """Return how many voxels the chosen blocks hold."""
        counts = blocks.astype(np.int64)
        for indices, part, size in zip(self.grid, self.region, self.block_shape, strict=True):
            starts = np.array(indices) * size
            lengths = np.minimum(starts + size, part.stop) - np.maximum(starts, part.start)
            counts = np.tensordot(lengths, counts, (0, 0))
        return int(counts)


def widen(box: Region, halo: int, limits: Region) -> tuple[Region, Region]:
    """Return the box with a halo, as far as the limits allow, and where the box lies in it."""
    if halo == 0:
        return box, tuple(slice(0, part.stop - part.start) for part in box)
    wide, core = [], []
    for part, limit in zip(box, limits, strict=True):
        start = max(part.start - halo, limit.start)
        wide.append(slice(start, min(part.stop + halo, limit.stop)))
        core.append(slice(part.start - start, part.stop - start))
    return tuple(wide), tuple(core)


def plan(
    region: Region,
    chunk_grids: Sequence[tuple[int, ...]],
    cost: Callable[[tuple[int, ...]], int],
    limit: int,
    target_voxels: int,
    *,
    chunkwise: bool = False,
) -> Plan:
    """Choose blocks over whole chunks of every grid, as far as the limit allows.

    Parameters
    ----------
    region
        The box of voxels to cover.
    chunk_grids
        Chunk shape of each array that is read.
    cost
        Bytes that reading and holding a block of some shape takes.
    limit
        Most bytes one block may take.
    target_voxels
        Size at which larger blocks no longer pay.
    chunkwise
        Whether chunks are decoded one by one, best in their place: blocks then grow along the
        slowest axes, as far as each chunk is one run of the block. Else along the fastest.

    Raises
    ------
    InvalidInputError
        If not even the smallest block fits; names both numbers.
    """
    stops = tuple(part.stop for part in region)
    coarse = tuple(
        min(max(sizes), stop)
        for sizes, stop in zip(zip(*chunk_grids, strict=True), stops, strict=True)
    )
    common = tuple(
        min(math.lcm(*sizes), stop)
        for sizes, stop in zip(zip(*chunk_grids, strict=True), stops, strict=True)
    )
    # A block of whole chunks of both grids along every axis reads nothing twice. Where
    # that is too large, give it up on the axes where that costs the fewest decodes.
    fitting = [
        shape for shape in product(*zip(common, coarse, strict=True)) if cost(shape) <= limit
    ]
    shape = (
        min(fitting, key=lambda shape: (_decodes(region, shape, chunk_grids), math.prod(shape)))
        if fitting
        else _halve_until_it_fits(coarse, cost, limit)
    )

    axes = range(len(shape))
    # Beyond the first axis along which a chunk extends, chunks would no longer be runs.
    slowest = next((axis for axis in axes if shape[axis] > 1), len(shape) - 1)
    for axis in axes[: slowest + 1] if chunkwise else reversed(axes):
        while shape[axis] < stops[axis]:
            larger = (*shape[:axis], min(shape[axis] * 2, stops[axis]), *shape[axis + 1 :])
            if math.prod(larger) > target_voxels or cost(larger) > limit:
                break
            shape = larger
    return cut(region, shape, chunk_grids, cost)


def cut(
    region: Region,
    shape: tuple[int, ...],
    chunk_grids: Sequence[tuple[int, ...]],
    cost: Callable[[tuple[int, ...]], int],
) -> Plan:
    """Return the plan with blocks of some shape. Parameters as `plan`."""
    common = tuple(
        min(math.lcm(*sizes), part.stop)
        for sizes, part in zip(zip(*chunk_grids, strict=True), region, strict=True)
    )
    once = _decodes(region, common, chunk_grids)
    return Plan(region, shape, cost(shape), _decodes(region, shape, chunk_grids) > once)


def _halve_until_it_fits(
    shape: tuple[int, ...], cost: Callable[[tuple[int, ...]], int], limit: int
) -> tuple[int, ...]:
    """Cut a block of one chunk along its slowest axes, which keeps reads contiguous."""
    while cost(shape) > limit and max(shape) > 1:
        axis = next(axis for axis, size in enumerate(shape) if size > 1)
        shape = (*shape[:axis], shape[axis] // 2, *shape[axis + 1 :])
    if cost(shape) > limit:
        raise InvalidInputError(
            f"max_memory is too small: the smallest block that can be read needs "
            f"{format_bytes(cost(shape))} a worker, {format_bytes(limit)} is left for it"
        )
    return shape


def _decodes(
    region: Region, shape: tuple[int, ...], chunk_grids: Sequence[tuple[int, ...]]
) -> float:
    """Return how many voxels are decoded to read a region in blocks of some shape."""
    total = 0.0
    for chunks in chunk_grids:
        voxels = 1.0
        for part, size, chunk in zip(region, shape, chunks, strict=True):
            # A chunk is read once, and once more for each border of blocks within it. Counted
            # in closed form: blocks of one voxel of a long array would be millions.
            touched = -(-part.stop // chunk) - part.start // chunk
            touched += _borders(part, size) - _borders(part, math.lcm(size, chunk))
            voxels *= touched * chunk
        total += voxels
    return total


def _borders(part: slice, size: int) -> int:
    """Return how many multiples of a size lie within a part, its ends not counted."""
    return int((part.stop - 1) // size - part.start // size)


def format_bytes(count: float) -> str:
    """Return a number of bytes for people, as in "1.5 GiB"."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.3g} {unit}"
        count /= 1024
    return f"{count:.3g} TiB"
