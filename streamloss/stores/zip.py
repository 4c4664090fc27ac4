"""Zarr in a Zip file, .zip and .ozx, named as file.zarr.zip/path/to/array."""

from pathlib import Path
from typing import Any

from streamloss.locations import split_at_file
from streamloss.stores import zarr as zarr_store
from streamloss.zarr_volume import ZarrVolume

READERS = zarr_store.READERS


def matches(source: Any) -> bool:
    """Tell whether `source` is a Zip file, or leads into one."""
    if not isinstance(source, Path):
        return False
    file, _ = split_at_file(source)
    return file.suffix in (".zip", ".ozx") and file.is_file()


def open(source: Path, *, level: int, reader: str) -> ZarrVolume:  # noqa: A001
    """
    Open a Zarr array, or one resolution level of an OME-Zarr image.

    Parameters
    ----------
    source
        The file, or a path in it.
    level, reader
        As in `stores.zarr`.

    Raises
    ------
    InvalidInputError
        If it is no Zip file, or for what `stores.zarr` refuses.
    """
    from zarr.storage import ZipStore

    file, inner = split_at_file(source)
    store = ZipStore(file, read_only=True)
    return zarr_store.open(store, level=level, reader=reader, path=inner, name=str(source))
