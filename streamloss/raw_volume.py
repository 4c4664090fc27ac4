"""Volumes whose voxels lie one after the other in a file, plain or as one gzip stream.

NumPy, NIfTI, NRRD and uncompressed TIFF files differ in their headers alone; those are read
in `stores`, the voxels here.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamloss.byte_sources import GzipFile, PlainFile, Reader
from streamloss.errors import InvalidInputError
from streamloss.stored_volume import StoredVolume, region_error
from streamloss.volume import Region

# Voxels that are converted on the way are converted so many bytes at a time.
_PIECE_BYTES = 2**20


@dataclass(frozen=True, eq=False)
class RawVolume(StoredVolume):
    """A volume read from one run of bytes.

    Attributes
    ----------
    reader
        As in `Volume`.
    source
        The bytes.
    offset
        Of the first voxel, in bytes.
    stored_shape, stored_dtype
        Extent and element type as stored, slowest axis first.
    order
        For each axis of the volume, the stored axis that it is.
    scale
        Slope and intercept of the values, as in NIfTI; None for the stored ones.
    """

    reader: str
    source: PlainFile | GzipFile
    offset: int
    stored_shape: tuple[int, ...]
    stored_dtype: np.dtype[Any]
    order: tuple[int, ...]
    scale: tuple[float, float] | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """Extent in voxels along each axis."""
        return tuple(self.stored_shape[axis] for axis in self.order)

    @property
    def dtype(self) -> np.dtype[Any]:
        """Element type, in the machine's byte order; float64 for scaled values."""
        return np.dtype(np.float64) if self.scale else self.stored_dtype.newbyteorder("=")

    @property
    def chunks(self) -> tuple[int, ...]:
        """A row, of which no part is cheaper to read, or a plane of a stream."""
        whole = 2 if isinstance(self.source, GzipFile) else 1
        ones = (1,) * (len(self.stored_shape) - whole)
        stored = (*ones, *self.stored_shape[-whole:])
        return tuple(stored[axis] for axis in self.order)

    @property
    def held_bytes(self) -> int:
        """Memory that is held between reads."""
        return self.source.held_bytes

    def decode_bytes(self, region: Region) -> int:
        """Bound the bytes a `read` holds beyond `out`."""
        # A piece as stored, as float64, and the product of that and the slope.
        return 3 * _PIECE_BYTES + self.source.read_bytes

    def read(self, region: Region, out: NDArray[Any]) -> None:
        """
        Fill `out` with the voxels of `region`; may be called by several threads at once.

        Raises
        ------
        ReadError
            If the file ends too early or cannot be decompressed.
        """
        axes = [self.order.index(axis) for axis in range(len(self.order))]
        box = [region[axis] for axis in axes]
        target = out.transpose(axes)
        # The axes from `run` on are read whole, but for the first of them: one run of bytes.
        run = len(box) - 1
        while run > 0 and box[run] == slice(0, self.stored_shape[run]):
            run -= 1
        strides = [math.prod(self.stored_shape[axis + 1 :]) for axis in range(len(box))]
        first = sum(part.start * stride for part, stride in zip(box, strides, strict=True))
        try:
            with self.source.open() as reader:
                for index in np.ndindex(*target.shape[:run]):
                    steps = zip(index, strides, strict=False)
                    start = first + sum(place * stride for place, stride in steps)
                    self._read_run(reader, start, strides[run], target[index])
        except Exception as error:
            raise region_error(self.name, region, error) from error

    def _read_run(self, reader: Reader, start: int, stride: int, target: NDArray[Any]) -> None:
        """Read voxels that lie one after the other, `stride` of them for each first index."""
        offset = self.offset + start * self.stored_dtype.itemsize
        if target.flags.c_contiguous and target.dtype == self.stored_dtype and not self.scale:
            reader.read_into(offset, _bytes_of(target))
        elif target.nbytes > _PIECE_BYTES and len(target) > 1:
            half = len(target) // 2
            self._read_run(reader, start, stride, target[:half])
            self._read_run(reader, start + half * stride, stride, target[half:])
        elif target.nbytes > _PIECE_BYTES:
            self._read_run(reader, start, stride // target.shape[1], target[0])
        else:
            piece = np.empty(target.shape, self.stored_dtype)
            reader.read_into(offset, _bytes_of(piece))
            if self.scale is None:
                target[...] = piece
            else:
                slope, intercept = self.scale
                np.multiply(piece, slope, out=target, dtype=np.float64)
                target += intercept


def _bytes_of(array: NDArray[Any]) -> memoryview:
    return array.reshape(-1).view(np.uint8).data


def open_source(
    path: Any, name: str, *, gzipped: bool, offset: int, start: int = 0, nbytes: int
) -> PlainFile | GzipFile:
    """
    Return the bytes of a file in which `nbytes` of voxels begin at `offset`.

    Parameters
    ----------
    path, name
        The file, and what errors call it.
    gzipped
        Whether it is a gzip stream, which begins at `start`; `offset` counts decoded bytes.
    offset, start, nbytes
        Where the voxels are.

    Raises
    ------
    InvalidInputError
        If a plain file is too short.
    """
    if gzipped:
        return GzipFile(path, offset + nbytes, start)
    size = path.stat().st_size
    if size < offset + nbytes:
        raise InvalidInputError(
            f"{name!r} is cut short: its header tells of {offset + nbytes:,} bytes, "
            f"the file has {size:,}"
        )
    return PlainFile(path)
