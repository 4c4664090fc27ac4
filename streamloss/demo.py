"""A made-up scan with organs and small lesions, and two imperfect predictions of it.

Plain arithmetic and seeded noise only, so that every machine writes the same voxels.
Knows nothing of scoring.
"""

import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamloss.errors import InvalidInputError

CLASSES = ("background", "liver", "spleen", "kidneys", "lesion")
SPACING = (2.0, 0.8, 0.8)
CHUNK = 64
SMALLEST = 32

_MARKER = "streamloss-demo.json"
_NAMES = ("truth.zarr", "prediction.zarr", "probabilities.zarr")

Ellipsoid = tuple[Sequence[float], Sequence[float]]
"""Centre and radii, in parts of the volume's extent."""

_ORGANS: tuple[tuple[Ellipsoid, ...], ...] = (
    (((0.42, 0.42, 0.33), (0.20, 0.22, 0.21)), ((0.36, 0.36, 0.50), (0.11, 0.13, 0.16))),
    (((0.38, 0.60, 0.80), (0.13, 0.11, 0.08)),),
    (((0.66, 0.64, 0.30), (0.13, 0.08, 0.07)), ((0.64, 0.64, 0.68), (0.13, 0.08, 0.07))),
)
_LESIONS: tuple[Ellipsoid, ...] = (
    ((0.40, 0.40, 0.30), (0.030, 0.040, 0.036)),
    ((0.48, 0.48, 0.38), (0.018, 0.022, 0.024)),
    ((0.36, 0.34, 0.46), (0.014, 0.020, 0.016)),
    ((0.34, 0.50, 0.28), (0.012, 0.016, 0.016)),
)
# A model that shifts and erodes organs, misses the last lesion and makes one up.
_SHIFT = (0.006, -0.008, 0.010)
_EROSION = 0.95
_SPURIOUS: Ellipsoid = ((0.36, 0.60, 0.79), (0.016, 0.022, 0.020))
_SEEN_LESIONS = (*_LESIONS[:-1], _SPURIOUS)
_NOISE = 0.06


def write_demo(
    directory: Path, size: int, progress: Callable[[int, int], None] = lambda done, total: None
) -> Mapping[str, Path]:
    """Write truth, prediction and probabilities as OME-Zarr 0.5 images.

    Parameters
    ----------
    directory
        Where to; may hold an earlier demo, which is replaced.
    size
        Voxels along each axis.
    progress
        Called with (voxels done, voxels in total).

    Returns
    -------
    Mapping
        The paths by "truth", "prediction" and "probabilities".

    Raises
    ------
    InvalidInputError
        If the directory holds something else, or the size is too small for the lesions.
    """
    if size < SMALLEST:
        raise InvalidInputError(f"the demo needs a size of at least {SMALLEST}, got {size}")
    _claim(directory, size)
    paths = {name.partition(".")[0]: directory / name for name in _NAMES}
    shape = (size, size, size)
    truth = _create(paths["truth"], shape, "uint8")
    prediction = _create(paths["prediction"], shape, "uint8")
    probabilities = _create(paths["probabilities"], (len(CLASSES), *shape), "float32")
    done = 0
    for number, box in enumerate(_boxes(size)):
        truth[box] = _labels(_organ_fields(box, size, _LESIONS))
        noise = np.random.default_rng(number).random(
            [part.stop - part.start for part in box], np.float32
        )
        fields = _organ_fields(box, size, _SEEN_LESIONS, _SHIFT, _EROSION)
        fields = [field + _NOISE * (noise - 0.5) for field in fields]
        prediction[box] = _labels(fields)
        probabilities[slice(None), *box] = _soft(fields)
        done += noise.size
        progress(done, size**3)
    return paths


def _claim(directory: Path, size: int) -> None:
    """Take a new, empty or earlier demo directory; delete nothing but an earlier demo."""
    if directory.exists():
        if not directory.is_dir():
            raise InvalidInputError(f"{directory} is a file, expected a folder for the demo")
        if any(directory.iterdir()) and not (directory / _MARKER).is_file():
            raise InvalidInputError(
                f"{directory} holds something else than a demo: name another folder"
            )
    directory.mkdir(parents=True, exist_ok=True)
    # Written first, so that an interrupted demo can be run again.
    (directory / _MARKER).write_text(json.dumps({"size": size}) + "\n")
    for name in _NAMES:
        if (directory / name).exists():
            shutil.rmtree(directory / name)


def _create(path: Path, shape: tuple[int, ...], dtype: str) -> Any:
    """Create an OME-Zarr image with one level and return its array."""
    import zarr
    from zarr.codecs import ZstdCodec

    channels = shape[:-3]
    axes: list[dict[str, str]] = [{"name": "c", "type": "channel"}] * len(channels)
    axes += [{"name": name, "type": "space", "unit": "millimeter"} for name in "zyx"]
    scale = [1.0] * len(channels) + list(SPACING)
    transformations = [{"type": "scale", "scale": scale}]
    multiscale = {
        "name": path.stem,
        "axes": axes,
        "datasets": [{"path": "0", "coordinateTransformations": transformations}],
    }
    group = zarr.create_group(
        path, attributes={"ome": {"version": "0.5", "multiscales": [multiscale]}}
    )
    return group.create_array(
        "0",
        shape=shape,
        dtype=dtype,
        chunks=tuple(1 for _ in channels) + tuple(min(CHUNK, extent) for extent in shape[-3:]),
        compressors=ZstdCodec(level=1),
        dimension_names=[axis["name"] for axis in axes],
        fill_value=0,
    )


def _boxes(size: int) -> Iterator[tuple[slice, ...]]:
    """Cut the volume along its chunks."""
    parts = [slice(start, min(start + CHUNK, size)) for start in range(0, size, CHUNK)]
    return product(parts, repeat=3)


def _organ_fields(
    box: tuple[slice, ...],
    size: int,
    lesions: Sequence[Ellipsoid],
    shift: Sequence[float] = (0.0, 0.0, 0.0),
    scale: float = 1.0,
) -> list[NDArray[np.float32]]:
    """Return a field per class but the background: below 1 inside, above 1 outside."""
    return [_field(box, size, shapes, shift, scale) for shapes in (*_ORGANS, lesions)]


def _field(
    box: tuple[slice, ...],
    size: int,
    shapes: Sequence[Ellipsoid],
    shift: Sequence[float],
    scale: float,
) -> NDArray[np.float32]:
    fields = []
    for centre, radii in shapes:
        axes = [
            ((np.arange(part.start, part.stop, dtype=np.float32) + 0.5) / size - c - s)
            / (r * scale)
            for part, c, s, r in zip(box, centre, shift, radii, strict=True)
        ]
        z, y, x = (axis * axis for axis in axes)
        fields.append(z[:, np.newaxis, np.newaxis] + y[:, np.newaxis] + x)
    nearest: NDArray[np.float32] = np.minimum.reduce(fields)
    return nearest


def _labels(fields: Sequence[NDArray[np.float32]]) -> NDArray[np.uint8]:
    """Return the class of each voxel; a later class lies over an earlier one."""
    labels = np.zeros(fields[0].shape, np.uint8)
    for code, field in enumerate(fields, start=1):
        labels[field < 1.0] = code
    return labels


def _soft(fields: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
    """Return something like a softmax: (classes, z, y, x), summing to about 1."""
    weights = np.ones((len(CLASSES), *fields[0].shape), np.float32)
    for code, field in enumerate(fields, start=1):
        squared = np.clip(field, 0.2, 10.0) ** 2
        weights[code] = 1.0 / (squared * squared * squared)
    # The organ around a lesion must not win over it.
    weights[-1] *= np.maximum(weights[1:-1].max(axis=0), 1.0)
    weights /= weights.sum(axis=0)
    return weights
