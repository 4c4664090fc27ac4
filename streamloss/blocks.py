"""Pure geometry: from chunk grids and a memory limit to an ordered run of blocks.

No volume is known here, only shapes and a function that tells what a block costs.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from streamloss.errors import InvalidInputError
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

    @property
    def grid(self) -> tuple[range, ...]:
        """Indices of the blocks along each axis."""
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

    def runs(self, count: int) -> Iterator[range]:
        """Cut the block numbers into about `count` even runs."""
        total = len(self)
        edges = [total * i // count for i in range(count + 1)]
        return (range(a, b) for a, b in pairwise(edges) if b > a)


def widen(box: Region, halo: int, limits: Region) -> tuple[Region, Region]:
    """Return the box with a halo, as far as the limits allow, and where the box lies in it."""
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

    Raises
    ------
    InvalidInputError
        If not even the smallest block fits; names both numbers.
    """
    extent = tuple(part.stop - part.start for part in region)
    shape = [_unit(sizes) for sizes in zip(*chunk_grids, strict=True)]
    shape = [min(size, part.stop) for size, part in zip(shape, region, strict=True)]

    # Too large for the limit: halve the slowest axis first, on a chunk border
    # of the coarser grid while that is possible.
    coarse = [max(sizes) for sizes in zip(*chunk_grids, strict=True)]
    while cost(tuple(shape)) > limit and max(shape) > 1:
        over = [axis for axis, size in enumerate(shape) if size > coarse[axis]]
        axis = over[0] if over else next(a for a, size in enumerate(shape) if size > 1)
        half = shape[axis] // 2
        shape[axis] = max(coarse[axis], half // coarse[axis] * coarse[axis]) if over else half
    smallest = cost(tuple(shape))
    if smallest > limit:
        raise InvalidInputError(
            f"max_memory is too small: the smallest block that can be read needs "
            f"{format_bytes(smallest)} a worker, {format_bytes(limit)} is left for it"
        )

    # Room to spare: grow along the fastest axis first, where reads stay contiguous.
    for axis in reversed(range(len(shape))):
        while shape[axis] < region[axis].stop:
            larger = list(shape)
            larger[axis] = min(shape[axis] * 2, -(-extent[axis] // shape[axis]) * shape[axis])
            if larger[axis] <= shape[axis]:
                break
            voxels = math.prod(min(s, e) for s, e in zip(larger, extent, strict=True))
            if voxels > target_voxels or cost(tuple(larger)) > limit:
                break
            shape = larger
    final = tuple(shape)
    rereads = any(
        size % chunk and size < part.stop
        for chunks in chunk_grids
        for size, chunk, part in zip(final, chunks, region, strict=True)
    )
    return Plan(region, final, cost(final), rereads)


def _unit(sizes: tuple[int, ...]) -> int:
    """Return an extent of whole chunks of every grid, unless that would be far larger."""
    common = math.lcm(*sizes)
    return common if common <= 4 * max(sizes) else max(sizes)


def format_bytes(count: float) -> str:
    """Return a number of bytes for people, as in "1.5 GiB"."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.3g} {unit}"
        count /= 1024
    return f"{count:.3g} TiB"
