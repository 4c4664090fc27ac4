"""Writes any volume that can be scored as an OME-Zarr image, block by block.

The image appears under its name when it is complete. Which formats are read is told by
`stores`; what OME-Zarr's metadata look like by `ome`.
"""

import math
import os
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamloss.affine import note_affine
from streamloss.blocks import Plan, format_bytes, plan
from streamloss.class_table import split_list
from streamloss.errors import InvalidInputError, MemoryLimitError
from streamloss.executors import available_workers
from streamloss.files import try_folder
from streamloss.locations import is_url, refuse_to_overwrite
from streamloss.ome import SPATIAL, VERSIONS, image_attributes
from streamloss.prepare import parse_bytes
from streamloss.stores import open_volume
from streamloss.volume import Region, Volume, split_at_chunks

# What zarr-python and its threads take whatever the volume; measured, rounded up.
_FIXED_BYTES = 96 * 2**20
# A chunk that is being encoded, copied, compressed, and compressed with its checksum.
_COPIES_OF_A_CHUNK = 4
# 2**21 and 2**20 voxels: large enough to be decoded fast, small enough to be read in part.
_EXTENT_IN_3D, _EXTENT_IN_2D = 128, 1024
# A slab of a file that is read plane by plane should fit in memory, else each plane is
# decoded for many blocks; thinner chunks than this are too many.
_LEAST_DEPTH = 16
_LARGEST_BLOCK_VOXELS = 2**25
# An interrupt waits for them.
_CHUNKS_WRITTEN_AT_ONCE = 128
_LABEL_DTYPE = np.dtype(np.int32)
_ZSTD_LEVEL = 3


def convert(
    source: Any,
    target: str | os.PathLike[str],
    *,
    labels: bool = False,
    level: int = 0,
    version: str = "0.5",
    chunks: Any = None,
    max_memory: str | int = "1GiB",
    workers: int | None = None,
    overwrite: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Write a volume as an OME-Zarr image of one level, in bounded memory.

    Values, axes, spacing and unit are kept, and so is where the voxels lie,
    which OME-Zarr has no place for, in an attribute `streamloss`: scores of the
    image are those of the source, and a prediction on another grid is refused.
    Chunks are compressed with zstd and carry a checksum; those that hold
    nothing but zeros are not stored.

    Parameters
    ----------
    source
        Whatever `score` reads.
    target
        Folder to write, whose name ends in .zarr.
    labels
        Whether the values are labels: whole numbers that are stored as floats
        become int32, others are refused, and the image says that it is one of
        labels.
    level
        Resolution level of the source.
    version
        Of OME-Zarr: "0.5" (Zarr v3) or "0.4" (Zarr v2).
    chunks
        Extent of the chunks along each axis; by default 128 along axes of space
        (1024 of a plane), thinner ones of a stream whose slabs do not fit in
        memory.
    max_memory
        Bound on the memory taken beyond importing, in bytes or as "512MiB".
    workers
        Chunks encoded at once; by default one per core.
    overwrite
        Whether `target` may be replaced if it is there; never by what is
        converted from it.
    progress
        Called with (voxels done, voxels in total) as blocks are written.

    Returns
    -------
    Path
        The folder.

    Raises
    ------
    InvalidInputError
        If the source cannot be read, or the target or an option is none.
    ReadError
        If a part of the source cannot be read; nothing is left of the target.

    Examples
    --------
    >>> import numpy as np, streamloss as sl
    >>> np.save("truth.npy", np.eye(64, dtype=np.uint8))
    >>> path = sl.convert("truth.npy", "truth.zarr", labels=True)
    >>> sl.score("truth.npy", path, metrics="dice")["dice"].value
    1.0
    """
    import zarr

    target = _checked_target(target, overwrite)
    # It would be lost, or lose the levels and labels that are not converted.
    refuse_to_overwrite("target", target, [source], replaced=True)
    if version not in VERSIONS:
        raise InvalidInputError(f"version must be {' or '.join(VERSIONS)}, got {version!r}")
    volume = open_volume(source, role="source", level=level)
    if not 2 <= len(volume.shape) <= 5:
        raise InvalidInputError(
            f"source {volume.name!r} has {len(volume.shape)} axes; OME-Zarr has 2 to 5"
        )
    count = available_workers() if workers is None else workers
    if isinstance(count, bool) or not isinstance(count, int) or count < 1:
        raise InvalidInputError(f"workers must be a number of at least 1, got {workers!r}")
    dtype = _label_dtype(volume.dtype) if labels else volume.dtype
    limit = parse_bytes(max_memory)
    extents, blocks = _layout(volume, dtype, chunks, limit, count)
    name = target.name[: -len(target.suffix)].removesuffix(".ome")
    image = _Image(name, volume, dtype, extents, blocks, version, labels)
    # The memory of a write is that of the chunks that are encoded at once.
    with (
        zarr.config.set({"async.concurrency": count}),
        _complete_or_nothing(target, overwrite) as folder,
    ):
        image.write(folder, progress or (lambda done, total: None))
    return target


def _checked_target(target: str | os.PathLike[str], overwrite: bool) -> Path:
    name = os.fspath(target)
    if is_url(name):
        raise InvalidInputError(f"target {name!r} is a URL; expected a local folder")
    path = Path(name).expanduser()
    if path.suffix.lower() != ".zarr":
        raise InvalidInputError(f"target must have a name that ends in .zarr, got {name!r}")
    if not path.absolute().parent.is_dir():
        raise InvalidInputError(f"target {name!r} is in a folder that does not exist")
    if path.exists() and not overwrite:
        raise InvalidInputError(f"target {name!r} is there already: pass `overwrite` to replace it")
    try:
        try_folder(path.absolute().parent)
    except OSError as error:
        raise InvalidInputError(f"cannot write to the target {name!r}: {error.strerror}") from None
    return path


def _label_dtype(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """Return the integer type in which labels of some type are stored."""
    if dtype.kind == "f":
        return _LABEL_DTYPE
    return np.dtype(np.uint8) if dtype.kind == "b" else dtype


def _layout(
    volume: Volume, dtype: np.dtype[Any], chunks: Any, limit: int, workers: int
) -> tuple[tuple[int, ...], Plan]:
    """Choose the chunks to write, and blocks of whole ones to read."""
    extents = _default_chunks(volume) if chunks is None else _parse_chunks(chunks, volume.shape)
    depth = len(extents) - 3
    while True:
        thinnest = chunks is not None or depth < 0 or extents[depth] <= _LEAST_DEPTH
        try:
            blocks = _blocks(volume, dtype, extents, limit, workers)
        except MemoryLimitError:
            if thinnest:
                raise
        else:
            by_planes = volume.chunks[depth + 1 :] == volume.shape[depth + 1 :]
            if thinnest or not (by_planes and blocks.rereads):
                return extents, blocks
        extents = (*extents[:depth], extents[depth] // 2, *extents[depth + 1 :])


def _default_chunks(volume: Volume) -> tuple[int, ...]:
    spatial = min(3, len(volume.shape))
    if volume.axes is not None:
        spatial = max(sum(axis.lower() in SPATIAL for axis in volume.axes), 2)
    extent = _EXTENT_IN_3D if spatial == 3 else _EXTENT_IN_2D
    others = len(volume.shape) - spatial
    return tuple(
        1 if axis < others else min(extent, size) for axis, size in enumerate(volume.shape)
    )


def _parse_chunks(chunks: Any, shape: tuple[int, ...]) -> tuple[int, ...]:
    try:
        extents = tuple(int(extent) for extent in split_list(chunks))
    except (TypeError, ValueError):
        extents = ()
    if len(extents) != len(shape) or min(extents) < 1:
        raise InvalidInputError(
            f"chunks must be {len(shape)} numbers of at least 1, one per axis, got {chunks!r}"
        )
    return tuple(min(extent, size) for extent, size in zip(extents, shape, strict=True))


def _blocks(
    volume: Volume, dtype: np.dtype[Any], extents: tuple[int, ...], limit: int, workers: int
) -> Plan:
    """Return blocks of whole chunks to write, if possible of whole chunks to read too."""
    region = tuple(slice(0, size) for size in volume.shape)
    chunk = math.prod(extents) * dtype.itemsize
    fixed = _FIXED_BYTES + volume.held_bytes + workers * _COPIES_OF_A_CHUNK * chunk

    def cost(shape: tuple[int, ...]) -> int:
        inner = [min(size, part.stop) for size, part in zip(shape, region, strict=True)]
        # One is read while the other is written, and labels are held in both types.
        held = 2 * volume.dtype.itemsize + 2 * dtype.itemsize * (dtype != volume.dtype)
        box = tuple(slice(0, size) for size in inner)
        return math.prod(inner) * held + volume.decode_bytes(box)

    least = fixed + cost(extents)
    if least > limit:
        raise MemoryLimitError(
            f"max_memory is too small: converting needs at least {format_bytes(least)}, "
            f"{format_bytes(limit)} is allowed"
        )
    aligned = False
    for grids in ((extents, volume.chunks), (extents,)):
        found = plan(region, grids, cost, limit - fixed, _LARGEST_BLOCK_VOXELS)
        sizes = zip(found.block_shape, extents, volume.shape, strict=True)
        if all(block % extent == 0 or block >= size for block, extent, size in sizes):
            aligned = len(grids) == 2
            break
    return replace(found, rereads=found.rereads or not aligned)


@contextmanager
def _complete_or_nothing(target: Path, overwrite: bool) -> Iterator[Path]:
    """Give a folder beside the target that takes its name when all is written."""
    folder = target.with_name(f".{target.name}.{os.getpid()}.partial")
    replaced = target.with_name(f".{target.name}.{os.getpid()}.replaced")
    try:
        yield folder
        if overwrite and target.exists():
            target.rename(replaced)
        folder.rename(target)
    finally:
        if replaced.exists() and not target.exists():
            replaced.rename(target)
        shutil.rmtree(folder, ignore_errors=True)
        shutil.rmtree(replaced, ignore_errors=True)


@dataclass(frozen=True)
class _Image:
    """What is written, and in which pieces."""

    name: str
    volume: Volume
    dtype: np.dtype[Any]
    chunks: tuple[int, ...]
    blocks: Plan
    version: str
    labels: bool

    def write(self, folder: Path, progress: Callable[[int, int], None]) -> None:
        """Write all blocks to a folder that is not there yet."""
        volume = self.volume
        total = math.prod(volume.shape)
        done = 0
        writer = ThreadPoolExecutor(1, "streamloss-write")
        try:
            array = writer.submit(self._create, folder).result()
            for box, block in _read_ahead(volume, self.blocks):
                values = _as_labels(block, self.dtype, box, volume.name) if self.labels else block
                for _, part, place in split_at_chunks(box, self._written_at_once()):
                    writer.submit(array.__setitem__, part, values[place]).result()
                done += block.size
                progress(done, total)
        finally:
            # An interrupt ends the wait for zarr-python, not its writes, and what they write
            # to must not be removed before they end.
            writer.shutdown()

    def _written_at_once(self) -> tuple[int, ...]:
        """Return the extent of so few chunks that an interrupt need not wait long for them."""
        left = _CHUNKS_WRITTEN_AT_ONCE
        extents = []
        for size, chunk in reversed(list(zip(self.volume.shape, self.chunks, strict=True))):
            count = min(-(-size // chunk), left)
            extents.append(count * chunk)
            left //= count
        return tuple(reversed(extents))

    def _create(self, folder: Path) -> Any:
        """Create the image and the array of its one level, with a checksum for each chunk."""
        import zarr
        from numcodecs import Zstd  # type: ignore[import-untyped]
        from zarr.codecs import Crc32cCodec, ZstdCodec

        volume = self.volume
        axes, attributes = image_attributes(
            volume.shape,
            volume.axes,
            volume.spacing,
            volume.unit,
            name=self.name,
            version=self.version,
            labels=self.labels,
        )
        noted: dict[str, Any] = {} if volume.affine is None else note_affine(volume.affine)
        if volume.spacing is None:
            # OME-Zarr demands a scale; this tells that it stands for none.
            noted["spacing"] = None
        if noted:
            attributes["streamloss"] = noted
        v3 = self.version == "0.5"
        image = zarr.create_group(folder, zarr_format=3 if v3 else 2, attributes=attributes)
        # In Zarr v2 the frames of zstd hold the checksum.
        compressors: Any = (
            (ZstdCodec(level=_ZSTD_LEVEL), Crc32cCodec())
            if v3
            else Zstd(level=_ZSTD_LEVEL, checksum=True)
        )
        return image.create_array(
            "0",
            shape=volume.shape,
            dtype=self.dtype,
            chunks=self.chunks,
            dimension_names=axes if v3 else None,
            compressors=compressors,
            chunk_key_encoding=None if v3 else {"name": "v2", "separator": "/"},
        )


def _read_ahead(volume: Volume, blocks: Plan) -> Iterator[tuple[Region, NDArray[Any]]]:
    """Yield each block while the next one is read; it lives until the next but one is asked for."""

    def read(number: int) -> tuple[Region, NDArray[Any]]:
        box = blocks.block(number)
        shape = tuple(part.stop - part.start for part in box)
        size = math.prod(shape)
        block = buffers[number % 2][:size].reshape(shape)
        volume.read(box, block)
        return box, block

    largest = math.prod(
        min(extent, size) for extent, size in zip(blocks.block_shape, volume.shape, strict=True)
    )
    buffers = [np.empty(largest, volume.dtype) for _ in range(2)]
    pool = ThreadPoolExecutor(1, "streamloss-read")
    try:
        ready: Future[tuple[Region, NDArray[Any]]] = pool.submit(read, 0)
        for number in range(1, len(blocks)):
            found = ready.result()
            ready = pool.submit(read, number)
            yield found
        yield ready.result()
    finally:
        pool.shutdown(cancel_futures=True)


def _as_labels(block: NDArray[Any], dtype: np.dtype[Any], box: Region, name: str) -> NDArray[Any]:
    """Return whole numbers as integers, and refuse others."""
    if block.dtype == dtype:
        return block
    with np.errstate(invalid="ignore"):
        whole = block.astype(dtype)
    wrong = whole != block
    if wrong.any():
        place = np.unravel_index(int(wrong.argmax()), block.shape)
        where = tuple(int(i) + part.start for i, part in zip(place, box, strict=True))
        raise InvalidInputError(
            f"source {name!r} holds no labels: the value at {where} is {block[place]}, "
            f"expected whole numbers that fit into {dtype}"
        )
    return whole
