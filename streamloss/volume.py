"""The one interface through which voxels are read, and how chunks lie in a volume.

A `Volume` is a lazily read array with the facts that scoring needs. The storage
formats that produce one live in `stores/`; nothing here knows any of them.
"""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from streamloss.affine import Affine

Region = tuple[slice, ...]
"""A box of voxels: one `slice(start, stop)` per axis, both given, step 1."""


@dataclass(frozen=True, eq=False)
class StoredChunks:
    """Which parts of a chunked array are really stored.

    Attributes
    ----------
    grid
        Whether each storage object, a chunk or a shard, is there.
    shape
        Extent of one of them in voxels.
    """

    grid: NDArray[np.bool_]
    shape: tuple[int, ...]

    @property
    def total(self) -> int:
        """Chunks of the whole array."""
        return self.grid.size

    @property
    def stored(self) -> int:
        """Chunks that are stored."""
        return int(np.count_nonzero(self.grid))

    @property
    def missing(self) -> int:
        """Chunks that are not stored and read as the fill value."""
        return self.total - self.stored


def chunk_grid(shape: tuple[int, ...], chunks: tuple[int, ...]) -> tuple[int, ...]:
    """Return how many chunks there are along each axis."""
    return tuple(-(-size // chunk) for size, chunk in zip(shape, chunks, strict=True))


def touched_chunks(region: Region, chunks: tuple[int, ...]) -> list[range]:
    """Return the indices of the chunks that a region touches, along each axis."""
    return [
        range(part.start // chunk, -(-part.stop // chunk))
        for part, chunk in zip(region, chunks, strict=True)
    ]


def split_at_chunks(
    region: Region, chunks: tuple[int, ...]
) -> Iterator[tuple[tuple[int, ...], Region, Region]]:
    """
    Split a region where chunks meet.

    Yields
    ------
    tuple
        Index of a chunk, the part of the region in it, and where in the region that is.

    Examples
    --------
    >>> for index, part, place in split_at_chunks((slice(3, 9),), (5,)):
    ...     print(index, part, place)
    (0,) (slice(3, 5, None),) (slice(0, 2, None),)
    (1,) (slice(5, 9, None),) (slice(2, 6, None),)
    """
    for index in itertools.product(*touched_chunks(region, chunks)):
        part = tuple(
            slice(max(i * chunk, whole.start), min((i + 1) * chunk, whole.stop))
            for i, chunk, whole in zip(index, chunks, region, strict=True)
        )
        place = tuple(
            slice(inner.start - whole.start, inner.stop - whole.start)
            for inner, whole in zip(part, region, strict=True)
        )
        yield index, part, place


class Volume(Protocol):
    """An array of voxels that can be read box by box. Must pickle."""

    @property
    def name(self) -> str:
        """What errors and results call this array: its path or URL, or a description."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Extent in voxels along each axis."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """Element type, in the machine's byte order."""

    @property
    def chunks(self) -> tuple[int, ...]:
        """Extent of the smallest box that is decoded as a whole; ones if nothing is."""

    @property
    def fill_value(self) -> Any:
        """What a chunk that is not stored reads as; None if everything is stored."""

    @property
    def spacing(self) -> tuple[float, ...] | None:
        """Voxel size along each axis in `unit`, or None if unknown."""

    @property
    def unit(self) -> str | None:
        """Unit of `spacing`, such as "millimeter", or None if unknown."""

    @property
    def axes(self) -> tuple[str, ...] | None:
        """Name of each axis, such as ("z", "y", "x"), or None if unknown."""

    @property
    def affine(self) -> Affine | None:
        """Where the spatial axes, the last ones, lie in the world, or None if unknown."""

    @property
    def reader(self) -> str:
        """What reads the voxels: "direct", "zarr", "memory" or the name of another format."""

    @property
    def details(self) -> dict[str, Any]:
        """Further facts for `inspect`: format, codecs, shards, levels and so on."""

    def view(self, region: Region) -> NDArray[Any] | None:
        """Return the voxels of `region` without reading, if they are in memory as `dtype`."""

    def read(self, region: Region, out: NDArray[Any]) -> None:
        """Fill `out` (native byte order, shape of `region`) with the voxels of `region`.

        Raises
        ------
        ReadError
            If a chunk cannot be read or decoded; names the array and the chunk.
        """

    def decode_bytes(self, region: Region) -> int:
        """Upper bound of the bytes a `read` of `region` holds beyond `out`."""

    @property
    def held_bytes(self) -> int:
        """Upper bound of the bytes held between reads, once for all that read."""

    @property
    def stored_chunks(self) -> StoredChunks | None:
        """What is stored, keys listed once per volume; None where that cannot be known."""
