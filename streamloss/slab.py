"""Voxels made ready for kernels: class codes, scores in two float types, decisions.

A `Slab` is a run of scored voxels in canonical form, a `Window` a box with the
neighbours a halo statistic needs. Raw dtypes, masks and label values end here;
volumes, chunks and metrics are not known.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from streamloss import vecmath
from streamloss._jit import kernel, use_wide_vectors
from streamloss.encoding import encode
from streamloss.lazy import lazy
from streamloss.pairs import count_pairs
from streamloss.task import Task
from streamloss.words import any_beyond, any_from

OUTSIDE_UNIT = "outside [0, 1]"
NOT_FINITE = "not finite (NaN or infinity)"
TOO_LARGE = "too large to be scored exactly"
NO_CLASS = "not among the classes"
NEGATIVE = "negative"

_TILE = 2048


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

    @lazy
    def truth(self) -> NDArray[np.unsignedinteger]:
        """Class code of each voxel's true label, (n,)."""
        return encode(self._raw["truth"], self._task.classes)

    @lazy
    def soft_truth(self) -> NDArray[np.floating]:
        """Distribution or values of the truth, (channels, n)."""
        if self._task.kind == "values":
            return _values(self._raw["truth"])
        return _scores(self._raw["truth"], scale=False)

    @lazy
    def scores(self) -> NDArray[np.floating]:
        """Probabilities, logits or values, (channels, n)."""
        if self._task.kind == "values":
            return _values(self._raw["prediction"])
        return _scores(self._raw["prediction"], scale=self._task.kind == "probabilities")

    @lazy
    def probabilities(self) -> NDArray[np.floating]:
        """Probabilities, (channels, n): computed from logits or 0/1 labels where need be."""
        if self._task.kind == "labels":
            return self.decision.astype(np.float32)[np.newaxis]
        if self._task.kind == "logits":
            out = np.empty(self.scores.shape, np.float64)
            _probabilities_of_logits(self.scores, out)
            return out
        return self.scores

    @lazy
    def decision(self) -> NDArray[np.unsignedinteger]:
        """Class code of each voxel's predicted label, (n,)."""
        task = self._task
        if task.kind == "labels":
            return encode(self._raw["prediction"], task.classes)
        out = np.empty(self.voxels, task.classes.code_dtype)
        if task.channels > 1:
            _argmax(self.scores, out)
        else:
            _at_least(self.scores[0], self.least_positive, out)
        return out

    @lazy
    def _counted(self) -> tuple[NDArray[np.int64], bool]:
        """`pairs`, and whether all codes are of classes."""
        classes = len(self._task.classes)
        counts = np.zeros((classes, classes), np.int64)
        return counts, count_pairs(self.truth, self.decision, counts)

    @property
    def pairs(self) -> NDArray[np.int64]:
        """Voxels by true code and decision, (classes, classes); of a slab without faults."""
        return self._counted[0]

    @lazy
    def least_positive(self) -> np.floating:
        """Least score, in the scores' type, that decides for the positive of two classes."""
        threshold = self._task.threshold
        if self._task.kind == "logits":
            threshold = np.log(threshold / (1 - threshold))
        kind = self.scores.dtype.type
        limit: np.floating = kind(threshold)
        return limit if limit >= threshold else np.nextafter(limit, kind(np.inf))

    def faults(
        self, score_limit: float, in_unit: Callable[[], bool] = lambda: False
    ) -> list[Fault]:
        """Return what cannot be scored, `first` counting within the slab.

        Parameters
        ----------
        score_limit
            Largest magnitude of a logit or value.
        in_unit
            Called once the labels are known to be good, if need be: whether all scores are
            known to be probabilities.

        Raises
        ------
        UnknownLabelsError
            If the class table grows with the data and has to grow first.
        """
        task = self._task
        # To count them tells as much as a look at the labels first, and they are counted anyway.
        if task.kind == "labels" and task.hard_truth and self._counted[1]:
            return []
        found = []
        if task.hard_truth:
            found += self._label_faults("truth", self.truth)
        elif task.kind == "values":
            limit = self._value_limit("truth", score_limit)
            found += _number_faults("truth", self.soft_truth, -limit, limit)
        else:
            found += _number_faults("truth", self.soft_truth, 0.0, 1.0)
        if task.kind == "labels":
            found += self._label_faults("prediction", self.decision)
        elif task.kind == "probabilities":
            raw = self._raw["prediction"]
            # Half floats are checked as they are: they may never be widened, only counted.
            half = raw.dtype == np.float16 and raw.ndim == 1
            checked = half and _halves_in_unit(raw.view(np.uint16))
            if raw.dtype.kind == "f" and not checked and (found or not in_unit()):
                found += _number_faults("prediction", self.scores, 0.0, 1.0)
        else:
            limit = self._value_limit("prediction", score_limit)
            found += _number_faults("prediction", self.scores, -limit, limit)
        return found

    def _value_limit(self, role: str, score_limit: float) -> float:
        """Integers of 64 bits are taken as far as a float64 holds every one of them."""
        raw = self._raw[role].dtype
        return 2.0**53 - 1 if raw.kind in "iu" and raw.itemsize == 8 else score_limit

    def _label_faults(self, role: str, codes: NDArray[np.unsignedinteger]) -> list[Fault]:
        classes = len(self._task.classes)
        if not any_from(codes, classes):
            return []
        raw = self._raw[role]
        if self._task.classes.discovered:
            labels = _distinct(raw)
            if labels[0] >= 0:
                raise UnknownLabelsError(labels)
        bad = codes >= classes
        negative = bad & (raw < 0)
        found = []
        if self._task.classes.discovered:
            bad = negative
        for reason, where in ((NEGATIVE, negative), (NO_CLASS, bad & ~negative)):
            if where.any():
                index = int(where.argmax())
                found.append(Fault(role, reason, int(where.sum()), index, int(raw[index])))
        return found


def _number_faults(
    role: str, numbers: NDArray[np.floating], low: float, high: float
) -> list[Fault]:
    # A limit past the numbers' type would be infinity in it, and let infinity pass.
    largest = np.finfo(numbers.dtype).max
    low, high = max(low, -float(largest)), min(high, float(largest))
    if not any_beyond(numbers.reshape(-1), high, signed=low < 0):
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


def _distinct(labels: NDArray[Any]) -> NDArray[Any]:
    """Return the values that occur, sorted."""
    if labels.itemsize > 2:
        return np.unique(labels)
    # Sorting, or hashing as `np.unique` does, took 20 times as long as a flag per value.
    seen = np.zeros(2 ** (8 * labels.itemsize), np.bool_)
    _mark(labels.view(f"u{labels.itemsize}"), seen)
    values = np.flatnonzero(seen).astype(f"u{labels.itemsize}").view(labels.dtype)
    return np.sort(values)


@kernel
def _mark(codes: NDArray[Any], seen: NDArray[np.bool_]) -> None:
    for i in range(codes.size):
        seen[codes[i]] = True


@kernel
def _halves_in_unit(codes: NDArray[np.uint16]) -> bool:
    """Whether the codes of float16 numbers are of 0 to 1; -0 counts as 0."""
    outside = False
    for i in range(codes.size):
        outside |= codes[i] > 0x3C00 and codes[i] != 0x8000
    return not outside


@kernel
def _at_least(scores: NDArray[Any], threshold: Any, out: NDArray[Any]) -> None:
    use_wide_vectors()
    for i in range(out.size):
        out[i] = scores[i] >= threshold


@kernel
def _argmax(scores: NDArray[Any], out: NDArray[Any]) -> None:
    # The maximum first, then how many channels come before the first that equals it; ties go to
    # the lowest class, as in NumPy. To keep the larger of two in place would be a masked store, 5
    # times as slow.
    use_wide_vectors()
    channels, voxels = scores.shape
    tops = np.empty((2, _TILE), scores.dtype)
    found = np.empty(_TILE, np.int32)
    codes = np.empty(_TILE, np.int32)
    for start in range(0, voxels, _TILE):
        target = out[start : start + _TILE]
        row = scores[0, start : start + _TILE]
        for i in range(target.size):
            tops[0, i] = row[i]
            found[i] = 0
            codes[i] = 0
        for k in range(1, channels):
            row = scores[k, start : start + _TILE]
            old, new = tops[(k - 1) & 1], tops[k & 1]
            for i in range(target.size):
                new[i] = max(old[i], row[i])
        top = tops[(channels - 1) & 1]
        for k in range(channels):
            row = scores[k, start : start + _TILE]
            for i in range(target.size):
                found[i] |= row[i] == top[i]
                codes[i] += 1 - found[i]
        for i in range(target.size):
            target[i] = codes[i]


@kernel
def _probabilities_of_logits(scores: NDArray[Any], out: NDArray[Any]) -> None:
    use_wide_vectors()
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
