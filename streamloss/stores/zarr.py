"""Zarr v2 and v3, sharded or not, in folders and any store, plain or as OME-Zarr images.

Finds the array that a path, URL, group or image stands for; how it is read is told in
`zarr_volume`, Zip files and buckets have modules of their own. zarr-python is imported
when the first Zarr source is opened.
"""

import itertools
import json
import posixpath
import sys
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from streamloss.direct import open_direct
from streamloss.errors import InvalidInputError, MissingPackageError, cause_of
from streamloss.locations import ZARR_METADATA
from streamloss.ome import read_levels
from streamloss.zarr_volume import ZarrVolume, level_shapes, member

if TYPE_CHECKING:
    import zarr

READERS = ("direct", "zarr")


def matches(source: Any) -> bool:
    """Tell whether `source` is a URL, a Zarr folder, or an object of zarr-python."""
    if isinstance(source, str):
        return not source.startswith(("n5://", "precomputed://"))
    if isinstance(source, Path):
        return _has_metadata(source)
    # An object of zarr-python cannot exist before zarr-python is imported.
    zarr = sys.modules.get("zarr")
    return zarr is not None and isinstance(
        source, zarr.Array | zarr.Group | zarr.abc.store.Store | zarr.storage.StorePath
    )


def open(  # noqa: A001
    source: Any, *, level: int, reader: str, path: str = "", name: str | None = None
) -> ZarrVolume:
    """
    Open a Zarr array, or one resolution level of an OME-Zarr image.

    Parameters
    ----------
    source
        A local path, a URL, or a `zarr.Array`, `zarr.Group`, store or `StorePath`.
    level
        Resolution level; a plain array has level 0 only.
    reader
        "zarr" for zarr-python, "direct" for files read without it, "auto" for the
        latter where it knows the array.
    path, name
        Of a store: where in it, and what errors call that.

    Raises
    ------
    InvalidInputError
        If there is no Zarr array or image, more than one, or no such level, or "direct"
        is asked for and does not know the array.
    """
    import zarr
    from zarr.errors import UnstableSpecificationWarning, ZarrUserWarning

    with warnings.catch_warnings():
        # zarr-python's advice to writers of files; a reader cannot act on it.
        warnings.simplefilter("ignore", ZarrUserWarning)
        warnings.simplefilter("ignore", UnstableSpecificationWarning)
        if name is None and isinstance(source, str | Path):
            name = str(source)
        node = _open_node(source, path, repr(name or str(source)))
        if isinstance(node, zarr.Group):
            volume = _open_group(node, name, level)
        else:
            volume = _open_array(node, name, level)
        direct = None if reader == "zarr" else open_direct(volume.array, volume.name)
        if direct is not None:
            return replace(volume, direct=direct)
        if reader == "direct":
            raise InvalidInputError(
                f"{volume.name!r} cannot be read directly: its store, codecs or key encoding are "
                'not covered; pass reader="auto" to leave it to zarr-python'
            )
        from streamloss.checked_store import absolute_array, checked_array

        array = absolute_array(volume.array)
        return replace(volume, array=array, checked=checked_array(array))


def _open_node(source: Any, path: str, name: str) -> "zarr.Array[Any] | zarr.Group":
    """Open what a path, URL or store holds, for reading only."""
    import zarr
    from zarr.abc.store import Store
    from zarr.storage import FsspecStore, LocalStore, StorePath

    if isinstance(source, zarr.Array | zarr.Group):
        return source
    try:
        store: Any = source
        if isinstance(source, str):
            store = FsspecStore.from_url(source, read_only=True)
        elif isinstance(source, Path):
            store = LocalStore(source, read_only=True)
            # To open it as zarr-python does, in a thread of its own, takes three times as long.
            if (metadata := source / "zarr.json").is_file():
                facts = json.loads(metadata.read_bytes())
                if isinstance(facts, dict) and facts.get("node_type") == "array":
                    return zarr.Array.from_dict(StorePath(store), facts)
        if isinstance(store, Store) and not store.read_only:
            # A writable store need not offer a read-only copy; a path in it opens as it is.
            store = StorePath(store)
        return zarr.open(store=store, path=path, mode="r")
    except ImportError as error:
        raise MissingPackageError(
            f"{name} needs a package that is not installed, fsspec or the one for its protocol: "
            f"{cause_of(error)}"
        ) from error
    except FileNotFoundError as error:
        raise InvalidInputError(f"{name} does not exist or holds no Zarr array or group") from error
    except Exception as error:
        raise InvalidInputError(f"{name} cannot be opened as Zarr: {cause_of(error)}") from error


def _open_array(array: "zarr.Array[Any]", name: str | None, level: int) -> ZarrVolume:
    """Open an array that the user named, with what an image around it says about it."""
    name = name or _name(array)
    if level != 0:
        raise InvalidInputError(
            f"{name!r} is one array, not a multiscale image, so it has no level {level}"
        )
    for image, path in _groups_around(array):
        for candidate in read_levels(image.attrs):
            if posixpath.normpath(candidate.path) == path:
                return ZarrVolume(array, name, candidate, image)
    return ZarrVolume(array, name, None, None)


def _open_group(group: "zarr.Group", name: str | None, level: int) -> ZarrVolume:
    """Open a level of the image that a group is, or of the only image within it."""
    import zarr

    name = name or _name(group)
    levels = read_levels(group.attrs)
    if not levels:
        found = list(itertools.islice(_images(group, ""), 11))
        if len(found) == 1 and isinstance(found[0][1], zarr.Group):
            return _open_group(found[0][1], posixpath.join(name, found[0][0]), level)
        if not found:
            raise InvalidInputError(f"{name!r} is a Zarr group in which no array can be found")
        paths = ", ".join(path for path, _ in found[:10]) + (" …" if len(found) > 10 else "")
        raise InvalidInputError(
            f"{name!r} is a Zarr group, not an array or image; pick one within it: {paths}"
        )
    if not 0 <= level < len(levels):
        sizes = ", ".join(
            f"{i}: {entry['shape']}" for i, entry in enumerate(level_shapes(group, levels))
        )
        raise InvalidInputError(f"{name!r} has no level {level}; it has {len(levels)} ({sizes})")
    path = levels[level].path
    node = member(group, path)
    if not isinstance(node, zarr.Array):
        raise InvalidInputError(
            f"{name!r} declares level {level} at {path!r}, where there is no array"
        )
    return ZarrVolume(node, posixpath.join(name, path), levels[level], group)


def _name(node: "zarr.Array[Any] | zarr.Group") -> str:
    """Name a node of a hierarchy by its path or URL, the same in every run."""
    from zarr.storage import FsspecStore, LocalStore, MemoryStore

    store = node.store
    if isinstance(store, LocalStore):
        return str(store.root / node.path)
    if isinstance(store, FsspecStore):
        return posixpath.join(str(store.fs.unstrip_protocol(store.path)), node.path).rstrip("/")
    if isinstance(store, MemoryStore):
        # The store's own name holds its address.
        return f"memory:{node.path or '/'}"
    return str(node.store_path)


def _groups_around(array: "zarr.Array[Any]") -> Iterator[tuple["zarr.Group", str]]:
    """Yield the groups that hold an array, innermost first, and its path in each."""
    import zarr
    from zarr.storage import FsspecStore, LocalStore, StorePath

    store, path = array.store, array.path
    if isinstance(store, LocalStore):
        # A path into a hierarchy is opened as a store of its own.
        path = (store.root / path).absolute().as_posix()
        store = LocalStore(Path(path).anchor, read_only=True)
        path = path.removeprefix(store.root.as_posix())
    elif isinstance(store, FsspecStore):
        path = posixpath.join(store.path, path).strip("/")
        root = "/" if store.path.startswith("/") else ""
        store = FsspecStore(store.fs, read_only=True, path=root)
    inner = ""
    while path:
        path, _, last = path.rpartition("/")
        inner = posixpath.join(last, inner).rstrip("/")
        # To let zarr-python find nothing takes 2 ms.
        if isinstance(store, LocalStore) and not _has_metadata(store.root / path):
            return
        try:
            node = zarr.open(store=StorePath(store, path), mode="r")
        except Exception:
            # What lies around an array is a bonus; it may be unreadable or forbidden.
            return
        if not isinstance(node, zarr.Group):
            return
        yield node, inner


def _has_metadata(folder: Path) -> bool:
    try:
        return any((folder / name).is_file() for name in ZARR_METADATA)
    except PermissionError:
        # Whoever opens it tells.
        return True


def _images(group: "zarr.Group", prefix: str) -> Iterator[tuple[str, Any]]:
    """Yield the outermost images and plain arrays within a group, by path."""
    import zarr

    for name, node in sorted(group.members()):
        path = posixpath.join(prefix, name)
        if isinstance(node, zarr.Array) or read_levels(node.attrs):
            yield path, node
        else:
            yield from _images(node, path)
