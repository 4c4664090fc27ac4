"""NRRD images, .nrrd and .nhdr, raw or gzip; pynrrd, an extra, reads their headers.

Axes are slowest first, (z, y, x), as in SimpleITK; an axis of channels or components, which
NRRD lists first or last, comes before them.
"""

import math
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from streamloss.affine import Affine, as_ras
from streamloss.errors import InvalidInputError, message_of
from streamloss.extras import require
from streamloss.raw_volume import RawVolume, open_source
from streamloss.stored_volume import refuse_levels

READERS = ()

_TYPES = {
    "i1": ("signed char", "int8", "int8_t"),
    "u1": ("uchar", "unsigned char", "uint8", "uint8_t"),
    "i2": ("short", "short int", "signed short", "signed short int", "int16", "int16_t"),
    "u2": ("ushort", "unsigned short", "unsigned short int", "uint16", "uint16_t"),
    "i4": ("int", "signed int", "int32", "int32_t"),
    "u4": ("uint", "unsigned int", "uint32", "uint32_t"),
    "i8": (
        *("longlong", "long long", "long long int", "signed long long", "signed long long int"),
        *("int64", "int64_t"),
    ),
    "u8": (*("ulonglong", "unsigned long long", "unsigned long long int", "uint64", "uint64_t"),),
    "f4": ("float",),
    "f8": ("double",),
}
_UNITS = {"mm": "millimeter", "um": "micrometer", "µm": "micrometer", "nm": "nanometer"}
_SPATIAL = ("domain", "space")
_GZIP = ("gzip", "gz")
_ENDIAN = {"big": ">", "little": "<"}
_REQUIRED = ("type", "sizes", "encoding")


def matches(source: Any) -> bool:
    """Tell whether `source` is a .nrrd or .nhdr file."""
    named = isinstance(source, Path) and source.suffix.lower() in (".nrrd", ".nhdr")
    return named and source.is_file()


def open(source: Path, *, level: int, reader: str) -> RawVolume:  # noqa: A001
    """
    Open an image.

    Parameters
    ----------
    source
        The file, or the header of a detached one.
    level
        Resolution level; there is level 0 only.
    reader
        Has no meaning here: there is one.

    Raises
    ------
    InvalidInputError
        If pynrrd is not installed, the file is no NRRD image, is cut short, is encoded or
        split in a way that cannot be read box by box, or has no such level.
    """
    require("nrrd", extra="nrrd", what="NRRD")
    name = str(source)
    refuse_levels(name, level)
    header, start = _read_header(source)
    lacking = [field for field in _REQUIRED if field not in header]
    if lacking:
        raise InvalidInputError(f"{name!r} is no NRRD image: its header lacks {lacking[0]}")
    sizes = tuple(map(int, header["sizes"]))
    dtype = _dtype(header, name)
    nbytes = math.prod(sizes) * dtype.itemsize
    encoding = str(header["encoding"]).lower()
    if encoding not in ("raw", *_GZIP):
        raise InvalidInputError(f"{name!r} has the encoding {encoding}; expected raw or gzip")
    gzipped = encoding in _GZIP
    path, start = _data_file(source, header, start)
    offset = _skip(header, name, path, nbytes)
    if not gzipped:
        start, offset = 0, start + offset
    spatial = _spatial_axes(header, len(sizes))
    affine = _affine(header, spatial)
    spacing = _spacing(header, spatial) if affine is None else affine.spacing
    others = [axis for axis in range(len(sizes)) if axis not in spatial]
    if spacing is not None:
        spacing = (1.0,) * len(others) + spacing
    # In the order of the volume, by their place in the file, which is slowest first.
    order = [len(sizes) - 1 - axis for axis in (*others, *reversed(spatial))]
    named = len(spatial) <= 3 and len(others) <= 1
    units = {str(unit) for unit in header.get("space units", header.get("units", ()))}
    return RawVolume(
        name=name,
        reader="nrrd",
        source=open_source(path, name, gzipped=gzipped, offset=offset, start=start, nbytes=nbytes),
        offset=offset,
        stored_shape=sizes[::-1],
        stored_dtype=dtype,
        order=tuple(order),
        details={
            "format": "NRRD",
            "codecs": ["gzip"] if gzipped else None,
            "data_file": None if path == source else str(path),
        },
        axes=(*("c" for _ in others), *("z", "y", "x")[3 - len(spatial) :]) if named else None,
        spacing=spacing,
        unit=_UNITS.get(units.pop()) if spacing is not None and len(units) == 1 else None,
        affine=affine,
    )


def files_beside(source: Path) -> list[Path]:
    """Return the files beside a header, of which one may hold its voxels, and the one that does.

    What it names is left out if it is not there, or pynrrd is not installed.
    """
    beside = source.parent.glob(f"{source.stem}.*") if source.suffix.lower() == ".nhdr" else ()
    found = [path for path in beside if path != source]
    with suppress(Exception):
        path, _ = _data_file(source, *_read_header(source))
        if not any(path.samefile(other) for other in (source, *found)):
            found.append(path)
    return found


def _read_header(source: Path) -> tuple[Mapping[str, Any], int]:
    """Return the header and where it ends."""
    nrrd = require("nrrd", extra="nrrd", what="NRRD")
    try:
        with source.open("rb") as file:
            return nrrd.read_header(file), file.tell()
    except (nrrd.NRRDError, OSError, ValueError, StopIteration) as error:
        message = f"{str(source)!r} cannot be read as NRRD: {message_of(error)}"
        raise InvalidInputError(message) from error


def _dtype(header: Mapping[str, Any], name: str) -> np.dtype[Any]:
    code = next((code for code, names in _TYPES.items() if header["type"].lower() in names), None)
    if code is None:
        raise InvalidInputError(f"{name!r} has elements of type {header['type']!r}")
    endian = str(header.get("endian", "")).lower()
    if endian not in _ENDIAN and np.dtype(code).itemsize > 1:
        raise InvalidInputError(
            f"{name!r} does not say its byte order: expected endian big or little"
        )
    return np.dtype(_ENDIAN.get(endian, "=") + code)


def _data_file(source: Path, header: Mapping[str, Any], start: int) -> tuple[Path, int]:
    """Return the file with the data and where in it they start."""
    named = header.get("data file", header.get("datafile"))
    if named is None:
        return source, start
    if not isinstance(named, str) or named.split()[0] == "LIST" or "%" in named:
        raise InvalidInputError(f"{str(source)!r} has its data in several files; expected one")
    path = source.parent / named
    if not path.is_file():
        raise InvalidInputError(
            f"{str(source)!r} names the data file {named!r}, which is not there"
        )
    return path, 0


def _skip(header: Mapping[str, Any], name: str, path: Path, nbytes: int) -> int:
    """Return the bytes that are left out before the voxels."""
    lines = int(header.get("line skip", header.get("lineskip", 0)))
    skip = int(header.get("byte skip", header.get("byteskip", 0)))
    if lines > 0 or skip < -1 or (skip == -1 and header["encoding"].lower() in _GZIP):
        raise InvalidInputError(
            f"{name!r} skips {lines} lines and {skip} bytes before its data; "
            "expected no lines, and bytes or the end of a raw file"
        )
    return path.stat().st_size - nbytes if skip == -1 else skip


def _spatial_axes(header: Mapping[str, Any], count: int) -> list[int]:
    """Return which axes lie in space: by their directions, else their kinds, else all."""
    directions = header.get("space directions")
    if directions is not None:
        return [
            axis
            for axis, step in enumerate(directions)
            if step is not None and not np.isnan(np.asarray(step, float)).any()
        ]
    kinds = header.get("kinds")
    if kinds is None:
        return list(range(count))
    return [axis for axis, kind in enumerate(kinds) if kind in (*_SPATIAL, "???", "none")]


def _affine(header: Mapping[str, Any], spatial: list[int]) -> Affine | None:
    """Return the affine, in RAS where the header says where the axes point."""
    directions, origin = header.get("space directions"), header.get("space origin")
    if directions is None or origin is None or not spatial:
        return None
    steps = tuple(tuple(map(float, directions[axis])) for axis in reversed(spatial))
    affine = Affine(steps, tuple(map(float, origin)))
    if not affine.is_regular:
        return None
    space = str(header.get("space", "")).lower()
    named = {"ras": "right-anterior-superior", "las": "left-anterior-superior",
             "lps": "left-posterior-superior"}.get(space, space)  # fmt: skip
    signs = [word in ("left", "posterior", "inferior") for word in named.split("-")]
    known = {"right", "left", "anterior", "posterior", "superior", "inferior"}
    return as_ras(affine, signs) if len(signs) == 3 and set(named.split("-")) <= known else affine


def _spacing(header: Mapping[str, Any], spatial: list[int]) -> tuple[float, ...] | None:
    spacings = header.get("spacings")
    directions = header.get("space directions")
    if spacings is not None:
        sizes = [float(spacings[axis]) for axis in reversed(spatial)]
    elif directions is not None:
        sizes = [float(np.linalg.norm(directions[axis])) for axis in reversed(spatial)]
    else:
        return None
    return tuple(sizes) if all(0 < size < math.inf for size in sizes) else None
