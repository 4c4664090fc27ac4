"""Arrays in memory and array objects: NumPy, memmap, dask, xarray, h5py and their like.

Reads anything with `shape`, `dtype` and slicing; storage formats on disk live elsewhere.
"""

import math
import mmap
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamloss.errors import InvalidInputError
from streamloss.stored_volume import refuse_levels, region_error
from streamloss.stores import zarr as zarr_store
from streamloss.volume import Region, StoredChunks, touched_chunks

READERS = ()
PRIORITY = -1
"""Array objects of a storage format have a shape, too, and belong to that format."""

_KINDS = {
    "numpy": "NumPy array",
    "dask": "dask array",
    "xarray": "xarray array",
    "h5py": "HDF5 dataset",
}


def matches(source: Any) -> bool:
    """Tell whether `source` is an object with a shape, an element type and slicing.

    Those of zarr-python are none: nothing would look at what their chunks are.
    """
    return not zarr_store.matches(source) and all(
        hasattr(source, name) for name in ("shape", "dtype", "__getitem__")
    )


def open(source: Any, *, level: int, reader: str) -> "ArrayVolume":  # noqa: A001
    """
    Open an array object.

    Parameters
    ----------
    source
        The array.
    level
        Resolution level; an array object has level 0 only.
    reader
        Has no meaning for an array object, which reads itself.

    Raises
    ------
    InvalidInputError
        If the array has no such level, or no known extent or NumPy type, or is masked.
    """
    kind = _KINDS.get(
        type(source).__module__.partition(".")[0],
        f"{type(source).__module__}.{type(source).__qualname__}",
    )
    try:
        shape = tuple(int(extent) for extent in source.shape)
        dtype = np.dtype(source.dtype)
    except (TypeError, ValueError) as error:
        raise InvalidInputError(
            f"is a {kind} of shape {source.shape!r} and type {source.dtype!r}; "
            "expected a known shape and a NumPy type"
        ) from error
    name = f"{kind} {shape} {dtype}"
    refuse_levels(name, level)
    if isinstance(source, np.ma.MaskedArray):
        raise InvalidInputError(
            f"{name!r} is a masked array, whose mask would be ignored; "
            "give filled values, and the mask as an array of its own"
        )
    dims = getattr(source, "dims", None)
    named = isinstance(dims, tuple) and all(isinstance(dim, str) for dim in dims)
    return ArrayVolume(
        source=source,
        name=name,
        shape=shape,
        dtype=dtype.newbyteorder("="),
        chunks=(1,) * len(shape)
        if isinstance(source, np.ndarray)
        else _chunks(getattr(source, "chunks", None), shape),
        axes=dims if named else None,
    )


@dataclass(frozen=True, eq=False)
class ArrayVolume:
    """A volume whose voxels come from slicing an array object."""

    source: Any
    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    chunks: tuple[int, ...]
    axes: tuple[str, ...] | None
    fill_value: None = None
    spacing: None = None
    unit: None = None
    affine: None = None
    reader: str = "memory"
    held_bytes: int = 0

    def __getstate__(self) -> dict[str, Any]:
        """Pickle a memory-mapped array as its place in the file, not as its voxels."""
        state = dict(self.__dict__)
        if isinstance(self.source, np.memmap) and self.source.filename and self.source.mode != "c":
            state["source"] = _place_in_file(self.source)
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        if isinstance(state["source"], dict):
            filename = state["source"].pop("filename")
            state["source"] = np.ndarray(buffer=np.memmap(filename, mode="r"), **state["source"])
        self.__dict__.update(state)

    @property
    def details(self) -> dict[str, Any]:
        """Further facts for `inspect`."""
        return {"format": self.name.partition(" (")[0]}

    def view(self, region: Region) -> NDArray[Any] | None:
        """Return a part of a NumPy array in the machine's byte order, not of others."""
        if isinstance(self.source, np.ndarray) and self.source.dtype == self.dtype:
            part: NDArray[Any] = self.source[region]
            return part
        return None

    def read(self, region: Region, out: NDArray[Any]) -> None:
        """
        Fill `out` with the voxels of `region`.

        Raises
        ------
        ReadError
            If slicing or computing the array raises.
        """
        try:
            out[...] = np.asarray(self.source[region])
        except Exception as error:
            raise region_error(self.name, region, error) from error

    def decode_bytes(self, region: Region) -> int:
        """
        Bound the bytes a `read` of `region` holds beyond `out`.

        A NumPy array is copied straight into `out`. Others return a new array, made from
        whole chunks in two forms (stored and decoded, or before and after being joined);
        what the task graph of a lazy array holds inside its tasks cannot be known.
        """
        if isinstance(self.source, np.ndarray):
            return 0
        voxels = math.prod(extent.stop - extent.start for extent in region)
        covered = math.prod(
            len(touched) * chunk
            for touched, chunk in zip(touched_chunks(region, self.chunks), self.chunks, strict=True)
        )
        return int((voxels + 2 * covered) * self.dtype.itemsize + 2**20)

    @property
    def stored_chunks(self) -> StoredChunks | None:
        """None: an array object is complete."""
        return None


def _place_in_file(array: "np.memmap[Any, Any]") -> dict[str, Any]:
    """Describe a memory-mapped array, or a view of one, for `np.ndarray`."""
    # A view keeps the `offset` of its base, so the place follows from the addresses.
    mapped = np.frombuffer(array._mmap, np.uint8)  # type: ignore[attr-defined]
    start = array.offset - array.offset % mmap.ALLOCATIONGRANULARITY
    return {
        "filename": array.filename,
        "shape": array.shape,
        "dtype": array.dtype,
        "strides": array.strides,
        "offset": start + array.ctypes.data - mapped.ctypes.data,
    }


def _chunks(chunks: Any, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Take the chunk extents of h5py (ints) or dask (a tuple for each axis), or the shape."""
    if not isinstance(chunks, tuple) or len(chunks) != len(shape):
        return shape
    if all(isinstance(axis, tuple) for axis in chunks):
        return tuple(max(axis, default=1) for axis in chunks)
    return chunks if all(isinstance(axis, int) for axis in chunks) else shape
