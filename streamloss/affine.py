"""Where the voxels of an array lie in the world, and how far apart two such grids are.

Formats that know it tell an `Affine`; what becomes of two that differ is decided elsewhere.
"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Affine:
    """Position of each voxel: the origin and, for each spatial axis, a step times the index.

    Attributes
    ----------
    steps
        Way in the world from a voxel to the next, for each of the last axes of the array.
    origin
        Position of the centre of the first voxel.
    space
        Where the axes of the world point, such as "RAS" (to the right, to the front,
        upwards); "" if unknown.
    """

    steps: tuple[tuple[float, ...], ...]
    origin: tuple[float, ...]
    space: str = ""

    @property
    def spacing(self) -> tuple[float, ...]:
        """Length of each step, to the precision of float32, in which headers store it."""
        return tuple(float(str(np.float32(math.hypot(*step)))) for step in self.steps)

    @property
    def is_regular(self) -> bool:
        """Whether all numbers are finite and the steps span a space."""
        matrix = np.array(self.steps)
        if not (np.isfinite(matrix).all() and np.isfinite(self.origin).all()):
            return False
        return bool(np.linalg.matrix_rank(matrix) == len(self.steps))

    def distance(self, other: "Affine", shape: Sequence[int]) -> float:
        """Return how many voxels apart the two place the corner where they differ most.

        Parameters
        ----------
        other
            An affine of the same array shape, in the same space.
        shape
            Extent of the array along the spatial axes.
        """
        corners = np.array(list(itertools.product(*((0, size - 1) for size in shape))))
        apart = _positions(self, corners) - _positions(other, corners)
        return float(np.linalg.norm(apart, axis=1).max() / min(self.spacing))

    def __str__(self) -> str:
        rows = zip(*self.steps, self.origin, strict=True)
        text = ", ".join(f"[{', '.join(f'{number:g}' for number in row)}]" for row in rows)
        return f"[{text}]"


def as_ras(affine: Affine, flipped: Sequence[bool]) -> Affine:
    """Return an affine whose world axes point right, front and up.

    Parameters
    ----------
    affine
        The affine, whose world axes lie along these lines.
    flipped
        Whether each world axis points the other way.
    """
    signs = [-1.0 if flip else 1.0 for flip in flipped]

    def turn(vector: tuple[float, ...]) -> tuple[float, ...]:
        # Adding 0 turns -0 into 0.
        return tuple(sign * part + 0.0 for sign, part in zip(signs, vector, strict=True))

    return Affine(tuple(map(turn, affine.steps)), turn(affine.origin), "RAS")


def read_affine(noted: Any) -> Affine | None:
    """Return the affine that `note_affine` noted; None for anything else."""
    try:
        found = noted["affine"]
        steps = tuple(tuple(map(float, step)) for step in found["steps"])
        affine = Affine(steps, tuple(map(float, found["origin"])), str(found["space"]))
        regular = affine.is_regular
    except (KeyError, TypeError, ValueError):
        return None
    return affine if regular else None


def note_affine(affine: Affine) -> dict[str, Any]:
    """Return an affine as JSON for an attribute of a group."""
    steps = [list(step) for step in affine.steps]
    return {"affine": {"steps": steps, "origin": list(affine.origin), "space": affine.space}}


def _positions(affine: Affine, indices: NDArray[np.int_]) -> NDArray[np.float64]:
    positions: NDArray[np.float64] = indices @ np.array(affine.steps) + np.array(affine.origin)
    return positions
