"""NumPy's .npy files, read box by box."""

import math
from pathlib import Path
from typing import Any

import numpy as np

from streamloss.errors import InvalidInputError, message_of
from streamloss.raw_volume import RawVolume, open_source
from streamloss.stored_volume import refuse_levels

READERS = ()


def matches(source: Any) -> bool:
    """Tell whether `source` is a .npy file."""
    return isinstance(source, Path) and source.suffix.lower() == ".npy" and source.is_file()


def open(source: Path, *, level: int, reader: str) -> RawVolume:  # noqa: A001
    """
    Open an array that `numpy.save` wrote.

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
        If the file is no .npy file, is cut short, holds Python objects, or has no such level.
    """
    name = str(source)
    refuse_levels(name, level)
    try:
        # Mapping the file checks the header and the file's size; its voxels are read otherwise,
        # since mapped memory counts as the process's and a lost disk ends the process.
        mapped = np.lib.format.open_memmap(source, mode="r")
    except (ValueError, EOFError, SyntaxError) as error:
        raise InvalidInputError(f"{name!r} cannot be read as .npy: {message_of(error)}") from error
    dtype, axes = mapped.dtype, tuple(range(mapped.ndim))
    fortran = mapped.flags.f_contiguous and not mapped.flags.c_contiguous
    nbytes = math.prod(mapped.shape) * dtype.itemsize
    return RawVolume(
        name=name,
        reader="npy",
        source=open_source(source, name, gzipped=False, offset=mapped.offset, nbytes=nbytes),
        offset=mapped.offset,
        stored_shape=mapped.shape[::-1] if fortran else mapped.shape,
        stored_dtype=dtype,
        order=axes[::-1] if fortran else axes,
        details={"format": "NumPy", "order": "F" if fortran else "C"},
    )
