"""Zarr in a bucket of S3, Google Cloud or Azure; obstore, an extra, reads its objects."""

from datetime import timedelta
from typing import Any
from urllib.parse import urlsplit

from streamloss.errors import InvalidInputError, cause_of
from streamloss.extras import require
from streamloss.stores import zarr as zarr_store
from streamloss.zarr_volume import ZarrVolume

READERS = zarr_store.READERS
PRIORITY = 1
"""Before `stores.zarr`, which takes any URL."""


def matches(source: Any) -> bool:
    """Tell whether `source` is the URL of a place in a bucket."""
    return isinstance(source, str) and source.startswith(("s3://", "gs://", "az://"))


def open(source: str, *, level: int, reader: str) -> ZarrVolume:  # noqa: A001
    """
    Open a Zarr array, or one resolution level of an OME-Zarr image.

    Parameters
    ----------
    source
        The URL; credentials and endpoint are those of the environment.
    level, reader
        As in `stores.zarr`.

    Raises
    ------
    InvalidInputError
        If obstore is not installed or does not know the bucket, or for what `stores.zarr`
        refuses.
    """
    obstore = require("obstore.store", extra="cloud", what=f"{source!r}")
    from zarr.storage import ObjectStore

    parts = urlsplit(source)
    # By default a server that does not answer is asked for three minutes.
    retries = {"max_retries": 3, "retry_timeout": timedelta(seconds=30)}
    try:
        bucket = obstore.from_url(f"{parts.scheme}://{parts.netloc}", retry_config=retries)
    except Exception as error:
        raise InvalidInputError(f"{source!r} cannot be opened: {cause_of(error)}") from error
    # Opened at its root, so that an array finds the image around it.
    store, path = ObjectStore(bucket, read_only=True), parts.path.strip("/")
    return zarr_store.open(store, level=level, reader=reader, path=path, name=source)
