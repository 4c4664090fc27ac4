"""N5, Neuroglancer precomputed and, if the reader is asked for, Zarr, by TensorStore.

The package `tensorstore` is an extra and is imported when the first such source is opened.
Axes are in the order of zarr-python, slowest first: (z, y, x), or (channel, z, y, x).
"""

import json
import math
import os
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import urlparse
from urllib.request import url2pathname

import numpy as np
from numpy.typing import NDArray

from streamloss.errors import InvalidInputError, ReadError, cause_of
from streamloss.extras import require
from streamloss.lazy import lazy
from streamloss.stored_volume import StoredVolume
from streamloss.stores import object_store
from streamloss.stores import zarr as zarr_store
from streamloss.volume import Region, StoredChunks, split_at_chunks, touched_chunks
from streamloss.zarr_volume import ZarrVolume

READERS = ("tensorstore",)
PRIORITY = -2
"""Only what no other format reads, unless the reader is asked for."""

_SCHEMES = ("n5://", "precomputed://")
# Enough to hide the latency of a remote store, few enough to bound the memory of a read.
_IN_FLIGHT = 8
_UNITS = {
    "nm": "nanometer",
    "um": "micrometer",
    "µm": "micrometer",
    "mm": "millimeter",
    "cm": "centimeter",
    "m": "meter",
}


def matches(source: Any) -> bool:
    """Tell whether `source` is a URL, or a folder of N5, precomputed or Zarr data.

    Also if it is an object of zarr-python, which `open` refuses.
    """
    if isinstance(source, str):
        return True
    if not isinstance(source, Path):
        return zarr_store.matches(source)
    if not source.is_dir():
        return False
    return (
        any((source / name).is_file() for name in ("attributes.json", "s0/attributes.json"))
        or "scales" in _read_json(source, "info")
        or zarr_store.matches(source)
    )


def open(source: Any, *, level: int, reader: str) -> "TensorStoreVolume":  # noqa: A001
    """
    Open an N5 dataset, a Neuroglancer precomputed volume or a Zarr array.

    Parameters
    ----------
    source
        A local folder, or a URL that TensorStore knows (s3, gs, http, https), with
        `n5://` or `precomputed://` in front of it if wanted.
    level
        Scale of a precomputed volume, group `s0`, `s1` … of an N5 multiscale group, or
        level of an OME-Zarr image.
    reader
        Has no meaning here: there is one.

    Raises
    ------
    InvalidInputError
        If the package is not installed, there is no such volume or level, or it is an object
        of zarr-python.
    """
    if not isinstance(source, str | Path):
        raise InvalidInputError(
            f"{str(source)!r} is an open object of zarr-python, which TensorStore cannot read; "
            "pass its path or URL instead"
        )
    ts = _import()
    name = str(source)
    scheme = next((prefix for prefix in _SCHEMES if name.startswith(prefix)), "")
    location: Path | str = source
    if scheme:
        location = name.removeprefix(scheme)
        if location.startswith(("/", "file://")):
            location = Path(url2pathname(urlparse(location).path))
    try:
        if scheme != "n5://":
            info = _read_json(location, "info")
            if "scales" in info:
                return _open_precomputed(location, name, info, level)
        if scheme != "precomputed://":
            attributes = _read_json(location, "attributes.json")
            if "dimensions" in attributes or _read_json(location, "s0/attributes.json"):
                return _open_n5(location, name, attributes, level)
        if scheme or (isinstance(source, Path) and not zarr_store.matches(source)):
            raise InvalidInputError(
                f"{name!r} holds neither an N5 dataset, itself or as s0, nor a precomputed volume"
            )
        module = object_store if object_store.matches(source) else zarr_store
        volume = module.open(source, level=level, reader="zarr")
        spec = {
            "driver": "zarr3" if volume.array.metadata.zarr_format == 3 else "zarr",
            "kvstore": _kvstore(Path(volume.name) if isinstance(source, Path) else volume.name),
        }
        store = ts.open(spec, read=True, context=_context()).result()
    except InvalidInputError:
        raise
    except Exception as error:
        message = f"{name!r} cannot be opened by TensorStore: {cause_of(error)}"
        raise InvalidInputError(message) from error
    return _volume(store, volume.name, volume.details, facts=volume)


@dataclass(frozen=True, eq=False)
class TensorStoreVolume(StoredVolume):
    """An array whose voxels are read by TensorStore."""

    spec: dict[str, Any]
    """What TensorStore opens, with axes in the order of this volume."""
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    chunks: tuple[int, ...]
    facts: ZarrVolume | None
    """The same array as zarr-python sees it, which knows its files; None for other formats."""
    reader: str = "tensorstore"

    @lazy
    def opened(self) -> Any:
        """Open what `spec` names, as a `tensorstore.TensorStore`."""
        return _import().open(self.spec, read=True, context=_context()).result()

    def read(self, region: Region, out: NDArray[Any]) -> None:
        """
        Fill `out` with the voxels of `region`; may be called by several threads at once.

        Raises
        ------
        ReadError
            If a chunk cannot be read or decoded. Nothing writes to `out` any more then.
        """
        ts = _import()
        pending: deque[tuple[tuple[int, ...], Any]] = deque()
        checks = None if self.facts is None else self.facts.checks
        objects = self.chunks if checks is None else checks.objects
        try:
            # Shard by shard, so that an index is read once.
            for _, part, within in split_at_chunks(region, objects):
                if checks is not None:
                    checks.check_objects(part)
                for index, box, place in split_at_chunks(part, self.chunks):
                    if len(pending) == _IN_FLIGHT:
                        self._finish(*pending.popleft())
                    if checks is not None:
                        checks.check_chunk(index)
                    # Decodes into `out`; `read` would return a new array.
                    target = ts.array(out[within][place])
                    pending.append((index, target.write(self.opened[box]).commit))
            while pending:
                self._finish(*pending.popleft())
        finally:
            for _, future in pending:
                # `out` is reused, so nothing may write to it later; one error is enough.
                future.exception()

    def _finish(self, index: tuple[int, ...], future: Any) -> None:
        try:
            future.result()
        except Exception as error:
            raise ReadError(
                f"cannot read chunk {index} of {self.name!r}: {cause_of(error)}"
            ) from error

    def decode_bytes(self, region: Region) -> int:
        """
        Bound the bytes a `read` of `region` holds beyond `out`.

        Each chunk in flight is held as stored, decoded, and between two codecs.
        """
        touched = math.prod(map(len, touched_chunks(region, self.chunks)))
        decoded = math.prod(self.chunks) * self.dtype.itemsize
        stored = decoded + decoded // 64 + 4096
        checks = None if self.facts is None else self.facts.checks
        held = 0 if checks is None else checks.held_bytes
        return int(min(touched, _IN_FLIGHT) * (stored + 2 * decoded) + held + 2**20)

    @property
    def stored_chunks(self) -> StoredChunks | None:
        """What is stored of a Zarr array; None for other formats."""
        return None if self.facts is None else self.facts.stored_chunks


def _open_precomputed(
    location: Path | str, name: str, info: Mapping[str, Any], level: int
) -> TensorStoreVolume:
    scales = info["scales"]
    if not 0 <= level < len(scales):
        sizes = ", ".join(f"{i}: {tuple(scale['size'][::-1])}" for i, scale in enumerate(scales))
        raise InvalidInputError(f"{name!r} has no level {level}; it has {len(scales)} ({sizes})")
    spec = {
        "driver": "neuroglancer_precomputed",
        "kvstore": _kvstore(location),
        "scale_index": level,
    }
    ts = _import()
    store = ts.open(spec, read=True, context=_context()).result().T
    channels = store.shape[0]
    if channels == 1:
        store = store[0]
    scale = scales[level]
    details = {
        "format": "Neuroglancer precomputed",
        "codecs": [scale["encoding"]],
        "shards": "sharding" in scale,
        "voxel_offset": scale.get("voxel_offset", [0, 0, 0])[::-1],
        "level": level,
        "levels": [{"path": other["key"], "shape": other["size"][::-1]} for other in scales],
    }
    spacing = _sizes(scale.get("resolution"), [1, 1, 1])
    if spacing is not None and channels > 1:
        spacing = (1.0, *spacing)
    return _volume(store, name, details, spacing=spacing, unit="nanometer")


def _open_n5(
    location: Path | str, name: str, attributes: Mapping[str, Any], level: int
) -> TensorStoreVolume:
    group: Mapping[str, Any] = {}
    if "dimensions" not in attributes:
        group, path = attributes, f"s{level}"
        attributes = _read_json(location, f"{path}/attributes.json")
        if "dimensions" not in attributes:
            raise InvalidInputError(f"{name!r} has no level {level}: there is no dataset {path!r}")
        location = location / path if isinstance(location, Path) else f"{location}/{path}"
        name = f"{name}/{path}"
    elif level != 0:
        raise InvalidInputError(
            f"{name!r} is one array, not a multiscale group, so it has no level {level}"
        )
    ts = _import()
    spec = {"driver": "n5", "kvstore": _kvstore(location)}
    store = ts.open(spec, read=True, context=_context()).result().T
    compression = attributes.get("compression", {"type": attributes.get("compressionType")})
    details = {"format": "N5", "codecs": [str(compression.get("type"))], "shards": None}
    spacing, unit = _n5_spacing(attributes, group, level)
    return _volume(store, name, details, spacing=spacing, unit=unit)


def _n5_spacing(
    attributes: Mapping[str, Any], group: Mapping[str, Any], level: int
) -> tuple[tuple[float, ...] | None, str | None]:
    """Read the voxel size of an N5 dataset, its own or that of the finest level, and its unit."""
    ones = [1] * len(attributes["dimensions"])
    scales = group.get("scales")
    factors = scales[level] if isinstance(scales, list) and level < len(scales) else ones
    factors = attributes.get("downsamplingFactors", factors)
    for holder in (attributes, group):
        # `resolution` is that of the array which carries it, `pixelResolution` is that of
        # the finest level wherever it stands.
        own = ones if holder is attributes else factors
        spacing = _sizes(holder.get("resolution"), own)
        units = holder.get("units")
        if spacing is None:
            pixel = holder.get("pixelResolution")
            if not isinstance(pixel, Mapping):
                pixel = {"dimensions": pixel}
            spacing = _sizes(pixel.get("dimensions"), factors)
            units = [pixel.get("unit")]
        if spacing is not None:
            units = units if isinstance(units, list) and units else [None]
            # Lengths in different units cannot be compared, so they are as good as unknown.
            if any(unit != units[0] for unit in units):
                return None, None
            return spacing, _UNITS.get(units[0], units[0])
    return None, None


def _sizes(resolution: Any, factors: Any) -> tuple[float, ...] | None:
    """Multiply sizes that are listed fastest axis first; None unless all are valid."""
    try:
        sizes = tuple(float(a) * float(b) for a, b in zip(resolution, factors, strict=True))
    except (TypeError, ValueError):
        return None
    return sizes[::-1] if all(0 < size < math.inf for size in sizes) else None


def _volume(
    store: Any,
    name: str,
    details: dict[str, Any],
    *,
    spacing: tuple[float, ...] | None = None,
    unit: str | None = None,
    facts: ZarrVolume | None = None,
) -> TensorStoreVolume:
    """Describe an open array, by the facts another format knows or else by TensorStore's."""
    ts = _import()
    # The origin of a precomputed volume may lie anywhere; here each axis starts at 0.
    store = store[ts.d[:].translate_to[0]]
    dtype = np.dtype(store.dtype.numpy_dtype).newbyteorder("=")
    labels = tuple(store.domain.labels)
    return TensorStoreVolume(
        spec=store.spec(retain_context=False).to_json(),
        name=name,
        shape=tuple(store.shape),
        dtype=dtype,
        # None of an array without axes.
        chunks=tuple(store.chunk_layout.read_chunk.shape or ()),
        fill_value=dtype.type(0) if facts is None else facts.fill_value,
        spacing=spacing if facts is None else facts.spacing,
        unit=(unit if spacing is not None else None) if facts is None else facts.unit,
        axes=(labels if all(labels) else None) if facts is None else facts.axes,
        details=details,
        facts=facts,
        affine=None if facts is None else facts.affine,
    )


def _read_json(location: Path | str, key: str) -> Mapping[str, Any]:
    """Read metadata below a folder or URL; empty if there are none."""
    if isinstance(location, Path):
        content = (location / key).read_bytes() if (location / key).is_file() else b""
    else:
        store = _import().KvStore.open(_kvstore(location), context=_context()).result()
        content = store.read(key).result().value
    try:
        value = json.loads(content or b"{}")
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def _kvstore(location: Path | str) -> Any:
    """Return how TensorStore names a folder or URL."""
    if isinstance(location, Path):
        return {"driver": "file", "path": f"{location.absolute().as_posix()}/"}
    return f"{location.rstrip('/')}/"


@cache
def _context() -> Any:
    """Return what all reads share: no cache, since each chunk is read once, and few threads."""
    cores = os.cpu_count() or 1
    return _import().Context(
        {
            "cache_pool": {"total_bytes_limit": 0},
            "data_copy_concurrency": {"limit": cores},
            "file_io_concurrency": {"limit": cores},
        }
    )


def _import() -> Any:
    what = 'N5, precomputed and reader="tensorstore"'
    return require("tensorstore", extra="tensorstore", what=what)
