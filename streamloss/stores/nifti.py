"""NIfTI-1 and NIfTI-2 images, .nii and .nii.gz; nibabel, an extra, reads their headers.

Axes are slowest first, (z, y, x) or (c, z, y, x), as in SimpleITK and OME-Zarr, and as the
voxels are stored; nibabel lists them fastest first.
"""

import math
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from streamloss.affine import Affine
from streamloss.errors import InvalidInputError, message_of
from streamloss.extras import require
from streamloss.raw_volume import RawVolume, open_source
from streamloss.stored_volume import refuse_levels

READERS = ()

_UNITS = {"mm": "millimeter", "meter": "meter", "micron": "micrometer"}
_TIMES = ("sec", "msec", "usec")


def matches(source: Any) -> bool:
    """Tell whether `source` is a .nii or .nii.gz file."""
    named = isinstance(source, Path) and source.name.lower().endswith((".nii", ".nii.gz"))
    return named and source.is_file()


def open(source: Path, *, level: int, reader: str) -> RawVolume:  # noqa: A001
    """
    Open an image.

    Parameters
    ----------
    source
        The file.
    level
        Resolution level; there is level 0 only.
    reader
        Has no meaning here: there is one.

    Raises
    ------
    InvalidInputError
        If nibabel is not installed, the file is no NIfTI image or cut short, or has no such
        level.
    """
    nibabel = require("nibabel", extra="nifti", what="NIfTI")
    name = str(source)
    refuse_levels(name, level)
    try:
        image = nibabel.load(source)
    except (nibabel.filebasedimages.ImageFileError, OSError, EOFError, zlib.error) as error:
        raise InvalidInputError(f"{name!r} cannot be read as NIfTI: {message_of(error)}") from error
    header, stored = image.header, image.dataobj
    # Axes of extent 1 after the third stand for nothing.
    listed = tuple(map(int, stored.shape))
    shape = listed[:3] + tuple(size for size in listed[3:] if size != 1)
    gzipped = name.lower().endswith(".gz")
    nbytes = math.prod(shape) * stored.dtype.itemsize
    length, time = header.get_xyzt_units()
    affine = _affine(image, len(shape[:3]))
    spacing = _sizes(header) if affine is None else affine.spacing
    if spacing is not None:
        spacing = (1.0,) * len(shape[3:]) + spacing
    # The stored values, unless there are a slope and an intercept that change them.
    scale = (float(stored.slope), float(stored.inter))
    fourth = ("t",) if time in _TIMES else ("c",)
    axes = ("x", "y", "z", *fourth)[: len(shape)] if len(shape) <= 4 else None
    return RawVolume(
        name=name,
        reader="nifti",
        source=open_source(source, name, gzipped=gzipped, offset=stored.offset, nbytes=nbytes),
        offset=stored.offset,
        stored_shape=shape[::-1],
        stored_dtype=stored.dtype,
        order=tuple(range(len(shape))),
        details={
            "format": "NIfTI-2" if isinstance(image, nibabel.Nifti2Image) else "NIfTI-1",
            "codecs": ["gzip"] if gzipped else None,
            "slope": scale[0] if scale != (1.0, 0.0) else None,
            "intercept": scale[1] if scale != (1.0, 0.0) else None,
        },
        axes=None if axes is None else axes[::-1],
        spacing=spacing,
        unit=_UNITS.get(length) if spacing is not None else None,
        affine=affine,
        scale=None if scale == (1.0, 0.0) else scale,
    )


def _affine(image: Any, axes: int) -> Affine | None:
    """Return what the header says for sure: a coded sform or qform, of which sform goes first."""
    matrix, code = image.get_sform(coded=True)
    if not code:
        matrix, code = image.get_qform(coded=True)
    if not code:
        return None
    steps = tuple(tuple(map(float, matrix[:3, axis])) for axis in reversed(range(axes)))
    affine = Affine(steps, tuple(map(float, matrix[:3, 3])), "RAS")
    return affine if affine.is_regular else None


def _sizes(header: Any) -> tuple[float, ...] | None:
    """Return the voxel size, slowest axis first; None if the header has none."""
    sizes = tuple(float(str(np.float32(size))) for size in header.get_zooms()[:3])
    return sizes[::-1] if all(0 < size < math.inf for size in sizes) else None
