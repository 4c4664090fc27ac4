"""Lets zarr-python read an array through a store and codecs that refuse what it would overlook.

For any store, so that only what zarr-python fetches is looked at. Files on a local file system
`file_checks` sees before. Imports zarr.
"""

import copy
from typing import Any

import zarr
from zarr.abc.store import ByteRequest, Store
from zarr.core.buffer import Buffer, BufferPrototype
from zarr.storage import LocalStore, StorePath, WrapperStore

from streamloss.checked_codecs import check_codecs
from streamloss.shard_index import check_index, index_place
from streamloss.zarr_layout import Shards, codecs_of, sharding_of


class CheckedStore(WrapperStore[Store]):
    """A store of which one array reads its chunks.

    Parameters
    ----------
    store
        Where they are.
    shards
        How shards hold them; None if there are none, or that is not known.
    """

    def __init__(self, store: Store, shards: Shards | None) -> None:
        super().__init__(store)
        self._shards = shards

    async def get(
        self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None
    ) -> Buffer | None:
        """
        Return an object or a part of it, None if there is no such object.

        Raises
        ------
        ValueError
            If it is empty, or a shard that is fetched whole, or said to hold nothing, and is
            not what its index says.
        """
        data = await self._store.get(key, prototype, byte_range)
        if data is None:
            return None
        # zarr-python takes a shard of no bytes for one that holds nothing.
        if len(data) == 0:
            raise ValueError("it is empty")
        if self._shards is not None:
            stored = data.as_numpy_array()
            # Where a shard ends, a part of it does not tell. But if its index says that it holds
            # nothing, then the index must be all there is of it.
            if stored.size == self._shards.index_bytes and (stored == 255).all():
                whole = await self._store.get(key, prototype)
                stored = stored if whole is None else whole.as_numpy_array()
                byte_range = None
            if byte_range is None:
                start, stop = index_place(self._shards, stored.size)
                check_index(self._shards, stored[start:stop], stored.size)
        return data


def checked_array(array: "zarr.Array[Any]") -> "zarr.Array[Any]":
    """Return the same array, whose chunks are refused if they are not whole.

    Parameters
    ----------
    array
        An open array, which stays as it is.
    """
    # Codecs of its own: to be checked they change.
    metadata: Any = copy.deepcopy(array.metadata)
    checked = _moved(array, metadata, CheckedStore(array.store, sharding_of(array)))
    check_codecs(codecs_of(checked))
    return checked


def absolute_array(array: "zarr.Array[Any]") -> "zarr.Array[Any]":
    """Return the same array, whose files stay the same when the working directory changes."""
    if type(array.store) is not LocalStore:
        return array
    return _moved(array, array.metadata, LocalStore(array.store.root.absolute(), read_only=True))


def _moved(array: "zarr.Array[Any]", metadata: Any, store: Store) -> "zarr.Array[Any]":
    """Return an array with the same path in another store."""
    return zarr.Array(zarr.AsyncArray(metadata, StorePath(store, array.path), config=array.config))
