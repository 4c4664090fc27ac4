"""The one interface through which voxels are read.

A `Volume` is a lazily read array with the facts that scoring needs. The storage
formats that produce one live in `stores/`; nothing here knows any of them.
"""

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

Region = tuple[slice, ...]
"""A box of voxels: one `slice(start, stop)` per axis, both given, step 1."""


@dataclass(frozen=True)
class StoredChunks:
    """How much of a chunked array is really stored."""

    total: int
    stored: int

    @property
    def missing(self) -> int:
        """Chunks that are not stored and read as the fill value."""
        return self.total - self.stored


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
        """Extent of the smallest box that is decoded as a whole."""

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
    def details(self) -> dict[str, Any]:
        """Further facts for `inspect`: format, codecs, shards, levels and so on."""

    def read(self, region: Region, out: NDArray[Any]) -> None:
        """Fill `out` (native byte order, shape of `region`) with the voxels of `region`.

        Raises
        ------
        ReadError
            If a chunk cannot be read or decoded; names the array and the chunk.
        """

    def decode_bytes(self, region: Region) -> int:
        """Upper bound of the bytes a `read` of `region` holds beyond `out`."""

    def stored_chunks(self) -> StoredChunks | None:
        """Count the stored chunks by listing keys once; None where that cannot be known."""
