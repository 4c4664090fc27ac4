"""What the volumes in files share, whatever their format: facts, pickling and refusals.

What a format reads and how lives in `stores`; arrays in memory and Zarr arrays, which look
up their facts themselves, share the refusals alone.
"""

from dataclasses import dataclass
from typing import Any

from streamloss.affine import Affine
from streamloss.errors import InvalidInputError, ReadError, cause_of, message_of
from streamloss.volume import Region, StoredChunks


@dataclass(frozen=True, eq=False, kw_only=True)
class StoredVolume:
    """The facts about a volume in a file, named as in `Volume`.

    What a format opens to read voxels is its `lazy` attribute `opened`.
    """

    name: str
    details: dict[str, Any]
    axes: tuple[str, ...] | None = None
    spacing: tuple[float, ...] | None = None
    unit: str | None = None
    affine: Affine | None = None
    fill_value: Any = None

    def __getstate__(self) -> dict[str, Any]:
        """Pickle what to open instead of what is open."""
        return {name: value for name, value in self.__dict__.items() if name != "opened"}

    @property
    def held_bytes(self) -> int:
        """Memory that is held between reads: none."""
        return 0

    @property
    def stored_chunks(self) -> StoredChunks | None:
        """None: which parts are stored is not known."""
        return None

    def view(self, region: Region) -> None:
        """Return None: nothing is in memory."""
        return


def refuse_levels(name: str, level: int) -> None:
    """Refuse a resolution level of an array that has none."""
    if level != 0:
        raise InvalidInputError(f"{name!r} has no resolution levels, so no level {level}")


def region_error(name: str, region: Region, cause: Exception) -> ReadError:
    """Return the error that a region of an array cannot be read."""
    box = ", ".join(f"{part.start}:{part.stop}" for part in region)
    return ReadError(f"cannot read region [{box}] of {name!r}: {cause_of(cause)}")


def chunk_error(name: str, chunk: tuple[int, ...], key: str, cause: Exception) -> ReadError:
    """Return the error that a chunk of an array cannot be read, or the shard that holds it."""
    # What this package finds wrong needs no type.
    told = message_of(cause) if type(cause) is ValueError else cause_of(cause)
    return ReadError(f"cannot read chunk {chunk} of {name!r}, stored under {key!r}: {told}")
