"""Refuses arrays of equal shape whose voxels do not lie at the same places.

What volumes tell of themselves is compared: spacing, axes and affine. Nothing is resampled,
and no voxel is read.
"""

from collections.abc import Mapping

import numpy as np

from streamloss.errors import InvalidInputError
from streamloss.volume import Volume

# Headers hold float32 and are rewritten by many tools; what is farther apart than this part
# of a voxel has been moved.
_LARGEST_DISTANCE = 0.1


def common_spacing(arrays: Mapping[str, Volume], ndim: int) -> tuple[float, ...] | None:
    """Return the spacing that the arrays tell, None if none does; refuse different ones."""
    known = {
        role: volume.spacing[-ndim:]
        for role, volume in arrays.items()
        if volume.spacing is not None
    }
    if not known:
        return None
    first_role, first = next(iter(known.items()))
    for role, spacing in known.items():
        if not np.allclose(first, spacing, rtol=1e-5, atol=0.0):
            raise InvalidInputError(
                f"{first_role} has a spacing of {list(first)} and {role} of {list(spacing)}: "
                "they must be the same, or pass `spacing` to say what is right"
            )
    return first


def refuse_different_axes(arrays: Mapping[str, Volume], ndim: int) -> None:
    """Refuse arrays whose axes have other names, or the same in another order."""
    known = {
        role: tuple(name.lower() for name in volume.axes[-ndim:])
        for role, volume in arrays.items()
        if volume.axes is not None
    }
    for role, axes in known.items():
        first_role, first = next(iter(known.items()))
        if axes != first:
            raise InvalidInputError(
                f"{first_role} has the axes {list(first)} and {role} {list(axes)}: "
                "they must be the same, in the same order"
            )


def refuse_different_grids(arrays: Mapping[str, Volume]) -> None:
    """Refuse arrays that lie elsewhere, flipped, shifted or turned, though of equal shape."""
    known = {role: volume for role, volume in arrays.items() if volume.affine is not None}
    for role, volume in known.items():
        first_role, first = next(iter(known.items()))
        mine, theirs = volume.affine, first.affine
        if mine is None or theirs is None or mine.space != theirs.space:
            continue
        if len(mine.origin) != len(theirs.origin) or len(mine.steps) != len(theirs.steps):
            continue
        apart = mine.distance(theirs, volume.shape[-len(mine.steps) :])
        if apart > _LARGEST_DISTANCE:
            raise InvalidInputError(
                f"{first_role} and {role} lie on different grids, up to {apart:.3g} voxels apart: "
                f"the affine of {first_role} is {theirs}, that of {role} {mine}: resample one to "
                'the grid of the other, or pass affine="ignore" if a header is wrong'
            )
