"""The volumes that are measured: deterministic, lifelike, written once and kept.

Smooth random fields stand for anatomy; the prediction sees the same fields a
little displaced, so that its errors lie at borders. Probabilities are a sigmoid
of distance from a border with noise in every voxel, so that they compress as
network outputs do, not as constants. Volumes beyond `TILE` mirror a tile at its
faces, which keeps borders continuous and writing cheap.
"""

import json
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray

TILE = 512
PLANES = 128
# A new number makes cached volumes of older code be written anew.
VERSION = 3


@dataclass(frozen=True)
class Pair:
    """A truth and a prediction on disk.

    Attributes
    ----------
    kind
        "labels" (four classes), "probabilities" (float32) or "codes" (uint8 probabilities).
    size
        Voxels along each of three axes.
    chunk
        Voxels of a chunk along each axis.
    codec
        "zstd" (the default of Zarr v3) or "lz4" (blosc).
    """

    kind: str
    size: int
    chunk: int
    codec: str = "zstd"

    @property
    def name(self) -> str:
        """Folder and row name."""
        return f"{self.kind}-{self.size}-{self.chunk}-{self.codec}"

    @property
    def voxels(self) -> int:
        """Voxels scored."""
        return self.size**3

    @property
    def dtypes(self) -> tuple[str, str]:
        """Element types of truth and prediction."""
        return "u1", "f4" if self.kind == "probabilities" else "u1"


def build(pair: Pair, folder: Path) -> dict[str, str]:
    """Write a pair unless it is there, and return its paths by role."""
    home = folder / pair.name
    paths = {role: str(home / f"{role}.zarr") for role in ("truth", "prediction")}
    stamp = home / "complete.json"
    if stamp.exists() and json.loads(stamp.read_text()) == VERSION:
        return paths
    shutil.rmtree(home, ignore_errors=True)
    arrays = [
        zarr.create_array(
            path,
            shape=(pair.size,) * 3,
            chunks=(pair.chunk,) * 3,
            dtype=dtype,
            compressors=zarr.codecs.BloscCodec(cname="lz4") if pair.codec == "lz4" else "auto",
            # Every chunk is stored, so that a dense pair is dense.
            config={"write_empty_chunks": True},
        )
        for path, dtype in zip(paths.values(), pair.dtypes, strict=True)
    ]
    tile = min(pair.size, TILE)
    for start, slabs in _slabs(pair.kind, tile):
        for where, mirror in _mirrored(pair.size, tile, start):
            for array, slab in zip(arrays, slabs, strict=True):
                array[where] = slab[mirror]
    stamp.write_text(json.dumps(VERSION))
    return paths


def sparse(pair: Pair, folder: Path, share: float) -> dict[str, str]:
    """Return a copy of a pair that stores only a share of its chunks."""
    dense = build(pair, folder)
    home = folder / f"{pair.name}-sparse"
    paths = {role: str(home / Path(path).name) for role, path in dense.items()}
    shutil.rmtree(home, ignore_errors=True)
    side = -(-pair.size // pair.chunk)
    kept = np.random.default_rng(1).choice(side**3, max(1, round(share * side**3)), replace=False)
    for role, path in dense.items():
        target = Path(paths[role])
        target.mkdir(parents=True)
        shutil.copy(Path(path) / "zarr.json", target)
        for number in kept:
            key = Path("c", *(str(i) for i in np.unravel_index(number, (side,) * 3)))
            if (Path(path) / key).exists():
                (target / key).parent.mkdir(parents=True, exist_ok=True)
                os.link(Path(path) / key, target / key)
    return paths


def load(path: str) -> NDArray[Any]:
    """Return a whole array."""
    return np.asarray(zarr.open_array(path, mode="r")[:])


def _mirrored(
    size: int, tile: int, start: int
) -> Iterator[tuple[tuple[slice, ...], tuple[slice, ...]]]:
    """Yield where a slab of the tile goes in the volume, and how it is flipped there."""
    planes = min(PLANES, tile)
    for index in np.ndindex(*(-(-size // tile),) * 3):
        flipped = [number % 2 == 1 for number in index]
        first = tile - start - planes if flipped[0] else start
        origin = (index[0] * tile + first, index[1] * tile, index[2] * tile)
        extent = (planes, tile, tile)
        yield (
            tuple(slice(o, o + e) for o, e in zip(origin, extent, strict=True)),
            tuple(slice(None, None, -1 if flip else 1) for flip in flipped),
        )


def _slabs(kind: str, size: int) -> Iterator[tuple[int, tuple[NDArray[Any], NDArray[Any]]]]:
    """Yield the first plane, the truth and the prediction of each slab of a tile."""
    rng = np.random.default_rng(0)
    body, organ = (_field(rng, size, cells) for cells in (6, 11))
    texture, error = (_field(rng, size, cells) for cells in (24, 40))
    # Detail of some five voxels, as folds of a brain have at 1 mm: labels compress about
    # 20 times with it, as real label maps do (17 to 31 times), and 70 times without.
    folds = _field(rng, size, size // 5)
    for start in range(0, size, PLANES):
        planes = slice(start, min(start + PLANES, size))
        detail = texture(planes) + 1.2 * folds(planes)
        inside = body(planes) + 0.25 * detail
        moved = inside + 0.12 * (shift := error(planes))
        if kind == "labels":
            part = organ(planes) + 0.25 * detail
            yield start, (_classes(inside, part), _classes(moved, part + 0.12 * shift))
            continue
        truth = (inside > 0.4).astype(np.uint8)
        logit = 7.0 * (moved - 0.4)
        logit += 0.5 * rng.standard_normal(logit.shape, np.float32)
        np.clip(logit, -14.0, 14.0, out=logit)
        probability = 1.0 / (1.0 + np.exp(-logit))
        if kind == "codes":
            probability = np.rint(255.0 * probability).astype(np.uint8)
        yield start, (truth, probability)


def _classes(body: NDArray[Any], organ: NDArray[Any]) -> NDArray[np.uint8]:
    """Return background, body, organ and the core of the organ as labels 0 to 3."""
    inside = body > 0.2
    return inside.astype(np.uint8) + (inside & (organ > 0.3)) + (inside & (organ > 1.0))


def _field(
    rng: np.random.Generator, size: int, cells: int
) -> Callable[[slice], NDArray[np.float32]]:
    """Return a smooth random field, about standard normal, by planes.

    Random numbers on a coarse grid are spread by a Gaussian as wide as a cell:
    separable, thus three small matrix products.
    """
    grid = rng.standard_normal((cells,) * 3).astype(np.float32)
    position = (np.arange(size) + 0.5) * cells / size - 0.5
    weights = np.exp(-0.9 * (position[:, np.newaxis] - np.arange(cells)) ** 2)
    weights = (weights / np.sqrt((weights**2).sum(axis=1, keepdims=True))).astype(np.float32)

    def planes(part: slice) -> NDArray[np.float32]:
        block = np.tensordot(weights[part], grid, axes=1)
        block = np.einsum("zyx,Yy->zYx", block, weights, optimize=True)
        return np.ascontiguousarray(block @ weights.T)

    return planes
