"""TIFF stacks and tiles, OME-TIFF and ImageJ; tifffile, an extra, reads their metadata.

The axes of channels come first, then time, then those of space. Segments, which are strips or
tiles, are decoded one by one, and only those that are asked for.
"""

import math
import xml.etree.ElementTree
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamloss.errors import InvalidInputError, ReadError, cause_of, message_of
from streamloss.extras import require
from streamloss.lazy import lazy
from streamloss.raw_volume import RawVolume, open_source
from streamloss.stored_volume import StoredVolume
from streamloss.volume import Region, Volume, chunk_grid, split_at_chunks

READERS = ()

_SUFFIXES = (".tif", ".tiff", ".btf", ".tf8", ".tf2")
# Channels and samples of a colour, time, and space; others are those of a plain stack.
_ORDER = "CSTZYX"
# For each axis of a page, which one of a decoded segment it is: depth, length, width, samples.
_PAGES = {
    "YX": (1, 2),
    "YXS": (1, 2, 3),
    "SYX": (None, 1, 2),
    "ZYX": (0, 1, 2),
    "ZYXS": (0, 1, 2, 3),
    "SZYX": (None, 0, 1, 2),
}
_UNITS = {
    **{"µm": "micrometer", "um": "micrometer", "micron": "micrometer", "\\u00B5m": "micrometer"},
    **{"nm": "nanometer", "mm": "millimeter", "cm": "centimeter", "m": "meter"},
}


def matches(source: Any) -> bool:
    """Tell whether `source` is a TIFF file."""
    return isinstance(source, Path) and source.suffix.lower() in _SUFFIXES and source.is_file()


def open(source: Path, *, level: int, reader: str) -> Volume:  # noqa: A001
    """
    Open the first image of a file.

    Parameters
    ----------
    source
        The file.
    level
        Resolution level of a pyramid.
    reader
        Has no meaning here: there is one.

    Raises
    ------
    InvalidInputError
        If tifffile is not installed, the file is no TIFF file, or there is no such level.
    """
    tifffile = require("tifffile", extra="tiff", what="TIFF")
    name = str(source)
    try:
        file = tifffile.TiffFile(source)
    except (tifffile.TiffFileError, OSError, ValueError) as error:
        raise InvalidInputError(f"{name!r} cannot be read as TIFF: {message_of(error)}") from error
    with file:
        levels = file.series[0].levels
        if not 0 <= level < len(levels):
            shapes = ", ".join(f"{i}: {one.shape}" for i, one in enumerate(levels))
            raise InvalidInputError(
                f"{name!r} has no level {level}; it has {len(levels)} ({shapes})"
            )
        series = levels[level]
        letters = series.axes
        order = sorted(range(len(letters)), key=lambda axis: (_rank(letters[axis]), axis))
        known = all(letter in _ORDER for letter in letters) and len(set(letters)) == len(letters)
        sizes, unit = _sizes(file, levels[0], series)
        page = series.keyframe
        facts: dict[str, Any] = {
            "name": name,
            "axes": tuple(letters[axis].lower() for axis in order) if known else None,
            "spacing": tuple(sizes.get(letters[axis], 1.0) for axis in order) if sizes else None,
            "unit": unit if sizes else None,
            "order": tuple(order),
            "details": {
                "format": _kind(file),
                "codecs": [page.compression.name.lower()] if page.compression > 1 else None,
                "pages": len(series.pages),
                "tiles": list(page.tile) if page.is_tiled else None,
                "level": level if len(levels) > 1 else None,
                "levels": [list(one.shape) for one in levels] if len(levels) > 1 else None,
            },
        }
        dtype = np.dtype(series.dtype).newbyteorder("=")
        if series.dataoffset is not None and page.fillorder == 1:
            stored = dtype.newbyteorder(file.byteorder)
            shape, nbytes = tuple(series.shape), series.size * dtype.itemsize
            place = open_source(
                source, name, gzipped=False, offset=series.dataoffset, nbytes=nbytes
            )
            return RawVolume(
                reader="tiff",
                source=place,
                offset=series.dataoffset,
                stored_shape=shape,
                stored_dtype=stored,
                **facts,
            )
        if tuple(series.shape[-len(page.shape) :]) != page.shape or page.axes not in _PAGES:
            raise InvalidInputError(
                f"{name!r} has pages of the axes {page.axes} in an image of the axes {letters}, "
                "which is not a layout this version reads"
            )
        _refuse_unknown_codec(page, name)
        return TiffVolume(
            path=source,
            level=level,
            stored_shape=tuple(series.shape),
            dtype=dtype,
            page_axes=page.axes,
            segment=(1,) * (len(page.shape) - len(page.chunks)) + tuple(page.chunks),
            **facts,
        )


def files_beside(source: Path) -> list[Path]:
    """Return the other files that hold pages of the first image.

    None if tifffile is not installed or the file cannot be read: whoever opens it tells.
    """
    found: set[Path] = set()
    with suppress(Exception):
        tifffile = require("tifffile", extra="tiff", what="TIFF")
        with tifffile.TiffFile(source) as file:
            # Other kinds never have several files, so their pages need not be looked at.
            if file.is_ome or file.is_mmstack or file.is_ndtiff:
                series = file.series[0]
                for page in series.pages if series.is_multifile else ():
                    if page is not None:
                        found.add(Path(page.parent.filehandle.path).resolve())
    return sorted(found - {source.resolve()})


@dataclass(frozen=True, eq=False)
class TiffVolume(StoredVolume):
    """An image whose strips or tiles are decoded one by one.

    Attributes
    ----------
    path, level
        The file and the resolution level.
    stored_shape, order
        Extent in the order of the file, and which of its axes each axis of the volume is.
    page_axes, segment
        Letters of the axes of a page, the last ones of the file, and extent of a strip or tile.
    """

    path: Path
    level: int
    stored_shape: tuple[int, ...]
    dtype: np.dtype[Any]
    order: tuple[int, ...]
    page_axes: str
    segment: tuple[int, ...]
    reader: str = "tiff"

    @property
    def shape(self) -> tuple[int, ...]:
        """Extent in voxels along each axis."""
        return tuple(self.stored_shape[axis] for axis in self.order)

    @property
    def chunks(self) -> tuple[int, ...]:
        """Extent of a strip or tile."""
        stored = (1,) * (len(self.stored_shape) - len(self.segment)) + self.segment
        return tuple(stored[axis] for axis in self.order)

    @lazy
    def opened(self) -> "_Pages":
        """Read where the segments are and how they are decoded."""
        import tifffile

        with tifffile.TiffFile(self.path) as file:
            series = file.series[0].levels[self.level]
            page = series.keyframe
            segments = [
                None
                if part is None
                else (Path(part.parent.filehandle.path), part.dataoffsets, part.databytecounts)
                for part in series.pages
            ]
            counts = chunk_grid(page.shape, self.segment)
            return _Pages(page.decode, page.jpegtables, page.nodata, segments, counts)

    def read(self, region: Region, out: NDArray[Any]) -> None:
        """
        Fill `out` with the voxels of `region`; may be called by several threads at once.

        Raises
        ------
        ReadError
            If a strip or tile cannot be read or decoded; names it.
        """
        axes = [self.order.index(axis) for axis in range(len(self.order))]
        box = [region[axis] for axis in axes]
        target = out.transpose(axes)
        outer = len(box) - len(self.segment)
        for index in np.ndindex(*target.shape[:outer]):
            place = tuple(i + part.start for i, part in zip(index, box, strict=False))
            number = int(np.ravel_multi_index(place, self.stored_shape[:outer])) if outer else 0
            self._read_page(number, tuple(box[outer:]), target[index])

    def _read_page(self, number: int, box: Region, target: NDArray[Any]) -> None:
        pages = self.opened
        located = pages.segments[number]
        if located is None:
            target[...] = pages.nodata
            return
        path, offsets, sizes = located
        with path.open("rb", buffering=0) as file:
            for place, piece, where in split_at_chunks(box, self.segment):
                segment = int(np.ravel_multi_index(place, pages.counts))
                inner = tuple(
                    slice(part.start - i * extent, part.stop - i * extent)
                    for part, i, extent in zip(piece, place, self.segment, strict=True)
                )
                try:
                    if sizes[segment] == 0:
                        target[where] = pages.nodata
                        continue
                    file.seek(offsets[segment])
                    stored = file.read(sizes[segment])
                    if len(stored) < sizes[segment]:
                        raise EOFError("the file is cut short")
                    decoded, _, shape = pages.decode(stored, segment, jpegtables=pages.jpegtables)
                    extents = [1 if at is None else shape[at] for at in _PAGES[self.page_axes]]
                    target[where] = decoded.reshape(extents)[inner]
                except Exception as error:
                    raise ReadError(
                        f"cannot read segment {place} of page {number} of {self.name!r}: "
                        f"{cause_of(error)}"
                    ) from error

    def decode_bytes(self, region: Region) -> int:
        """
        Bound the bytes a `read` of `region` holds beyond `out`.

        A segment as stored, and before and after the codec at work.
        """
        decoded = math.prod(self.segment) * self.dtype.itemsize
        return int(3 * (decoded + decoded // 64) + 2**20)


@dataclass(frozen=True)
class _Pages:
    """Where the segments of each page are (None for one that is not stored), and their codec."""

    decode: Any
    jpegtables: bytes | None
    nodata: Any
    segments: list[tuple[Path, Any, Any] | None]
    counts: tuple[int, ...]


def _rank(letter: str) -> int:
    """Return where an axis stands: channels first, then others, then space."""
    return _ORDER.index(letter) if letter in _ORDER else _ORDER.index("Z")


def _kind(file: Any) -> str:
    if file.is_ome:
        return "OME-TIFF"
    return "ImageJ TIFF" if file.is_imagej else "TIFF"


def _refuse_unknown_codec(page: Any, name: str) -> None:
    """Find out now that a segment cannot be decoded, rather than from the first one."""
    try:
        page.decode(None, 0)
    except (ValueError, NotImplementedError) as error:
        # Without it tifffile decodes the simplest codecs only.
        require("imagecodecs", extra="tiff", what=f"{name!r} of the codec {page.compression.name}")
        raise InvalidInputError(f"{name!r} cannot be decoded: {message_of(error)}") from error


def _sizes(file: Any, finest: Any, series: Any) -> tuple[dict[str, float], str | None]:
    """Return the voxel size by letter of the axis, of this level, and its unit."""
    sizes, unit = _ome_sizes(file.ome_metadata) if file.is_ome else _imagej_sizes(file)
    spatial = [letter for letter in series.axes if letter in "ZYX"]
    # A size that is known along some axes only cannot be compared.
    if unit is None or not all(0 < sizes.get(letter, 0) < math.inf for letter in spatial):
        return {}, None
    scale = {
        letter: sizes[letter]
        * finest.shape[finest.axes.index(letter)]
        / series.shape[series.axes.index(letter)]
        for letter in spatial
    }
    return scale, unit


def _ome_sizes(metadata: str) -> tuple[dict[str, float], str | None]:
    """Read the physical sizes of the first image; None for the unit if they differ in it."""
    root = xml.etree.ElementTree.fromstring(metadata)
    pixels = root.find(".//{*}Image/{*}Pixels")
    if pixels is None:
        return {}, None
    sizes, units = {}, set()
    for letter in "ZYX":
        text = pixels.get(f"PhysicalSize{letter}")
        if text is not None:
            sizes[letter] = float(text)
            units.add(pixels.get(f"PhysicalSize{letter}Unit", "µm"))
    return sizes, _UNITS.get(units.pop()) if len(units) == 1 else None


def _imagej_sizes(file: Any) -> tuple[dict[str, float], str | None]:
    """Read the spacing of the slices, and the resolution in the unit that ImageJ tells."""
    metadata = file.imagej_metadata or {}
    unit = _UNITS.get(str(metadata.get("unit")))
    tags = file.pages.first.tags
    sizes = {}
    for letter, tag in (("Y", "YResolution"), ("X", "XResolution")):
        per_unit, one = tags[tag].value if tag in tags else (0, 1)
        if per_unit > 0:
            sizes[letter] = one / per_unit
    if "spacing" in metadata:
        sizes["Z"] = abs(float(metadata["spacing"]))
    return sizes, unit
