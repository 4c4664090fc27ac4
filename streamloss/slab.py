"""Voxels made ready for kernels: class codes, scores in two float types, decisions.

A `Slab` is a run of scored voxels in canonical form, a `Window` a box with the
neighbours a halo statistic needs. Raw dtypes, masks and label values end here;
volumes, chunks and metrics are not known.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from streamloss import vecmath
from streamloss._jit import kernel
from streamloss.task import Classes, Task

OUTSIDE_UNIT = "outside [0, 1]"
NOT_FINITE = "not finite (NaN or infinity)"
TOO_LARGE = "too large to be scored exactly"
NO_CLASS = "not among the classes"
NEGATIVE = "negative"


class Fault(NamedTuple):
    """Voxels that cannot be scored.

    Attributes
    ----------
    role
        "truth" or "prediction".
    reason
        What is wrong with them.
    voxels
        How many there are.
    first
        Position of the first, along the flattened array.
    value
        Its value.
    """

    role: str
    reason: str
    voxels: int
    first: int
    value: float


class UnknownLabelsError(Exception):
    """Labels turned up that a discovered class table does not hold yet."""

    def __init__(self, values: NDArray[Any]) -> None:
        super().__init__(values)
        self.values = values


@dataclass(frozen=True)
class Window:
    """A box of the volume with its neighbourhood, for statistics with a halo.

    Attributes
    ----------
    truth, prediction
        Class codes, with the halo that lies inside the volume; voxels that are
        not scored hold the code of the background, or of the first class.
    scored
        Whether each of these voxels is scored.
    core
        Where, in these arrays, the voxels are that this window stands for.
    origin
        Coordinate in the volume of the first core voxel.
    """

    truth: NDArray[np.unsignedinteger]
    prediction: NDArray[np.unsignedinteger]
    scored: NDArray[np.bool_]
    core: tuple[slice, ...]
    origin: tuple[int, ...]


class Slab:
    """A run of voxels, all of them scored, ready for kernels.

    Parameters
    ----------
    truth
        Raw labels (n,), or a distribution or values (n,) or (C, n).
    prediction
        Raw labels (n,), or scores (n,) or (C, n).
    task
        The run's settings.
    """

    def __init__(self, truth: NDArray[Any], prediction: NDArray[Any], task: Task) -> None:
        self._task = task
        self._raw = {"truth": truth, "prediction": prediction}
        self.voxels = truth.shape[-1]

    @cached_property
    def truth(self) -> NDArray[np.unsignedinteger]:
        """Class code of each voxel's true label, (n,)."""
        return encode(self._raw["truth"], self._task)

    @cached_property
    def soft_truth(self) -> NDArray[np.floating]:
        """True distribution or true values, (channels, n)."""
        if self._task.kind == "values":
            return _values(self._raw["truth"])
        return _scores(self._raw["truth"], scale=False)

    @cached_property
    def scores(self) -> NDArray[np.floating]:
        """Probabilities, logits or values, (channels, n)."""
        if self._task.kind == "values":
            return _values(self._raw["prediction"])
        return _scores(self._raw["prediction"], scale=self._task.kind == "probabilities")

    @cached_property
    def probabilities(self) -> NDArray[np.floating]:
        """Probabilities, (channels, n): computed from logits or 0/1 labels where need be."""
        if self._task.kind == "labels":
            return self.decision.astype(np.float32)[np.newaxis]
        if self._task.kind == "logits":
            out = np.empty(self.scores.shape, np.float64)
            _probabilities_of_logits(self.scores, out)
            return out
        return self.scores

    @cached_property
    def decision(self) -> NDArray[np.unsignedinteger]:
        """Class code of each voxel's predicted label, (n,)."""
        task = self._task
        if task.kind == "labels":
            return encode(self._raw["prediction"], task)
        out = np.empty(self.voxels, task.code_dtype)
        if task.channels > 1:
            _argmax(self.scores, out)
        elif task.kind == "logits":
            _at_least(self.scores, np.log(task.threshold / (1 - task.threshold)), out)
        else:
            _at_least(self.scores, task.threshold, out)
        return out

    def faults(self, score_limit: float) -> list[Fault]:
        """Return what cannot be scored, `first` counting within the slab.

        Raises
        ------
        UnknownLabelsError
            If the class table grows with the data and has to grow first.
        """
        task = self._task
        found = []
        if task.hard_truth:
            found += self._label_faults("truth", self.truth)
        elif task.kind == "values":
            found += _number_faults("truth", self.soft_truth, -score_limit, score_limit)
        else:
            found += _number_faults("truth", self.soft_truth, 0.0, 1.0)
        if task.kind == "labels":
            found += self._label_faults("prediction", self.decision)
        elif task.kind == "probabilities":
            if self._raw["prediction"].dtype.kind == "f":
                found += _number_faults("prediction", self.scores, 0.0, 1.0)
        else:
            found += _number_faults("prediction", self.scores, -score_limit, score_limit)
        return found

    def _label_faults(self, role: str, codes: NDArray[np.unsignedinteger]) -> list[Fault]:
        classes = len(self._task.classes)
        if not codes.size or largest(codes) < classes:
            return []
        raw = self._raw[role]
        bad = codes >= classes
        found = []
        negative = bad & (raw < 0)
        if self._task.classes.discovered:
            if not negative.any():
                raise UnknownLabelsError(np.unique(raw[bad]))
            bad = negative
        for reason, where in ((NEGATIVE, negative), (NO_CLASS, bad & ~negative)):
            if where.any():
                index = int(where.argmax())
                found.append(Fault(role, reason, int(where.sum()), index, int(raw[index])))
        return found


def _number_faults(
    role: str, numbers: NDArray[np.floating], low: float, high: float
) -> list[Fault]:
    if not _count_outside(numbers, low, high):
        return []
    finite = np.isfinite(numbers)
    outside = OUTSIDE_UNIT if (low, high) == (0.0, 1.0) else TOO_LARGE
    found = []
    for reason, bad in (
        (NOT_FINITE, ~finite),
        (outside, finite & ((numbers < low) | (numbers > high))),
    ):
        voxels = bad.any(axis=0)
        if voxels.any():
            index = int(voxels.argmax())
            value = float(numbers[int(bad[:, index].argmax()), index])
            found.append(Fault(role, reason, int(voxels.sum()), index, value))
    return found


def _rows(raw: NDArray[Any]) -> NDArray[Any]:
    return raw if raw.ndim == 2 else raw[np.newaxis]


def _scores(raw: NDArray[Any], *, scale: bool) -> NDArray[np.floating]:
    """Bring scores to float32 or float64 without losing a bit; integers are fractions of max."""
    rows = _rows(raw)
    if rows.dtype.kind in "bu" and scale:
        top = 1 if rows.dtype.kind == "b" else int(np.iinfo(rows.dtype).max)
        return rows / np.float64(top)
    wide = np.float32 if rows.dtype.itemsize <= 2 or rows.dtype == np.float32 else np.float64
    return np.ascontiguousarray(rows, wide)


def _values(raw: NDArray[Any]) -> NDArray[np.floating]:
    return np.ascontiguousarray(_rows(raw), np.float64)


def encode(raw: NDArray[Any], task: Task) -> NDArray[np.unsignedinteger]:
    """Turn label values into class codes; a label of no class gets a code past the last.

    Parameters
    ----------
    raw
        Labels of any integer type or bool, (n,), contiguous.
    task
        Its class table tells the codes.
    """
    return _encoder(task.classes, task.code_dtype, raw.dtype)(raw)


@lru_cache(maxsize=64)
def _encoder(
    classes: Classes, codes: np.dtype[Any], dtype: np.dtype[Any]
) -> Callable[[NDArray[Any]], NDArray[np.unsignedinteger]]:
    count = len(classes)
    if dtype.kind == "b":
        return _encoder_of_bool(classes, codes)
    unsigned = np.dtype(f"u{dtype.itemsize}")
    if classes.values == tuple(range(count)) and unsigned == codes:
        # The labels are the codes. Negative ones become codes past the last.
        return lambda raw: raw.view(unsigned)
    none = np.iinfo(codes).max
    if dtype.itemsize <= 2:
        table = np.full(2 ** (8 * dtype.itemsize), none, codes)
        for code, value in enumerate(classes.values):
            if np.iinfo(dtype).min <= value <= np.iinfo(dtype).max:
                table[value % table.size] = code
        return lambda raw: table[raw.view(unsigned)]

    pairs = sorted(
        (value, code)
        for code, value in enumerate(classes.values)
        if np.iinfo(dtype).min <= value <= np.iinfo(dtype).max
    )
    values = np.array([value for value, _ in pairs], dtype)
    places = np.array([code for _, code in pairs], codes)

    def search(raw: NDArray[Any]) -> NDArray[np.unsignedinteger]:
        out = np.empty(raw.shape, codes)
        _encode_search(raw, values, places, codes.type(none), out)
        return out

    return search


def _encoder_of_bool(
    classes: Classes, codes: np.dtype[Any]
) -> Callable[[NDArray[Any]], NDArray[np.unsignedinteger]]:
    as_bytes = _encoder(classes, codes, np.dtype(np.uint8))
    return lambda raw: as_bytes(raw.view(np.uint8))


@kernel
def _encode_search(
    raw: NDArray[Any],
    values: NDArray[Any],
    places: NDArray[Any],
    none: int,
    out: NDArray[Any],
) -> None:
    # Labels come in runs, so the code of the last voxel is nearly always right.
    last = raw[0]
    code = none
    known = False
    for i in range(raw.size):
        value = raw[i]
        if not known or value != last:
            low = 0
            high = values.size
            while low < high:
                middle = (low + high) // 2
                if values[middle] < value:
                    low = middle + 1
                else:
                    high = middle
            code = places[low] if low < values.size and values[low] == value else none
            last = value
            known = True
        out[i] = code


@kernel
def largest(codes: NDArray[Any]) -> int:
    """Return the largest code; vectorises, unlike NumPy's reduction over uint8 views."""
    top: int = codes[0]
    for i in range(codes.size):
        top = max(top, codes[i])
    return top


@kernel
def _count_outside(numbers: NDArray[Any], low: float, high: float) -> int:
    outside = 0
    for k in range(numbers.shape[0]):
        for i in range(numbers.shape[1]):
            # NaN fails both comparisons, so it counts as outside.
            outside += not (low <= numbers[k, i] <= high)
    return outside


@kernel
def _at_least(scores: NDArray[Any], threshold: float, out: NDArray[Any]) -> None:
    for i in range(scores.shape[1]):
        out[i] = scores[0, i] >= threshold


@kernel
def _argmax(scores: NDArray[Any], out: NDArray[Any]) -> None:
    # Ties go to the lowest class, as in NumPy.
    channels, voxels = scores.shape
    for start in range(0, voxels, 2048):
        stop = min(start + 2048, voxels)
        best = scores[0, start:stop].copy()
        out[start:stop] = 0
        for k in range(1, channels):
            for i in range(stop - start):
                score = scores[k, start + i]
                higher = score > best[i]
                best[i] = score if higher else best[i]
                out[start + i] = k if higher else out[start + i]


@kernel
def _probabilities_of_logits(scores: NDArray[Any], out: NDArray[Any]) -> None:
    channels, voxels = scores.shape
    if channels == 1:
        for i in range(voxels):
            out[0, i] = vecmath.sigmoid(np.float64(scores[0, i]))
        return
    for i in range(voxels):
        top = scores[0, i]
        for k in range(1, channels):
            top = max(top, scores[k, i])
        total = 0.0
        for k in range(channels):
            out[k, i] = vecmath.exp(np.float64(scores[k, i]) - np.float64(top))
            total += out[k, i]
        for k in range(channels):
            out[k, i] /= total
