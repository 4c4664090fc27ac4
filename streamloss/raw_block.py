"""A block of raw voxels: what is read of all arrays at once, and where it lies.

Its voxels are as they are stored. How blocks are cut and what is added up of them is not
known here.
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamloss.encoding import encode
from streamloss.lazy import lazy
from streamloss.task import Classes, Structure


@dataclass(frozen=True)
class Block:
    """A box of raw voxels, with its place in the volume.

    Attributes
    ----------
    truth, prediction
        Raw arrays over the box, (*box) or (C, *box).
    mask
        Voxels that are not zero are scored; None scores all.
    weights
        How often each voxel counts, an integer from 0 to 65,535; None for once.
    core
        Where in the box the voxels are that this block stands for; the rest is halo.
    origin
        Coordinate in the volume of the first core voxel.
    shape
        Shape of the whole volume, without channels.
    """

    truth: NDArray[Any]
    prediction: NDArray[Any]
    mask: NDArray[Any] | None
    core: tuple[slice, ...]
    origin: tuple[int, ...]
    shape: tuple[int, ...]
    weights: NDArray[Any] | None = None

    @lazy
    def core_shape(self) -> tuple[int, ...]:
        """Extent of the core."""
        return tuple(part.stop - part.start for part in self.core)

    def flat(self, array: NDArray[Any]) -> NDArray[Any]:
        """Return the core voxels as (n,) or (C, n), contiguous, without a copy if they are."""
        channels = array.shape[: array.ndim - len(self.core)]
        if array.shape[len(channels) :] != self.core_shape:
            index: tuple[Any, ...] = (..., *self.core)
            array = array[index]
        return np.ascontiguousarray(array).reshape(*channels, -1)

    def index_in_volume(self, index: int) -> int:
        """Return where along the flattened volume a flat core index lies."""
        inner = np.unravel_index(index, self.core_shape)
        place = tuple(int(i) + o for i, o in zip(inner, self.origin, strict=True))
        return int(np.ravel_multi_index(place, self.shape))

    def scored(self, ignore_label: int | None) -> NDArray[np.bool_]:
        """Tell for each voxel of the box, without channels, whether it is scored."""
        ndim = len(self.core)
        scored = np.ones(self.truth.shape[self.truth.ndim - ndim :], np.bool_)
        if self.mask is not None:
            scored &= self.mask != 0
        if ignore_label is not None:
            counted = self.truth != ignore_label
            scored &= counted if counted.ndim == ndim else counted.all(axis=0)
        return scored

    def of_structure(self, index: int, structure: Structure) -> "Block":
        """Return the binary problem of one of several structures, the one of this number."""
        if not structure.labels:
            return replace(self, truth=self.truth[index], prediction=self.prediction[index])
        truth = _holds(self.truth, structure.labels)
        if self.prediction.ndim > len(self.core):
            return replace(self, truth=truth, prediction=self.prediction[index])
        return replace(self, truth=truth, prediction=_holds(self.prediction, structure.labels))


def _holds(labels: NDArray[Any], values: tuple[int, ...]) -> NDArray[np.bool_]:
    """Tell for each voxel whether its label is one of some values."""
    region = Classes(values)
    codes = encode(np.ascontiguousarray(labels).reshape(-1), region)
    return (codes < len(region)).reshape(labels.shape)
