"""What has been added up so far: one state per statistic, and what could not be scored.

A `Partial` takes in blocks of raw voxels and merges with others. It knows
nothing of volumes, files or threads.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field, fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamloss.class_table import MAX_CLASSES
from streamloss.errors import InvalidInputError
from streamloss.lazy import lazy
from streamloss.slab import Fault, Slab, UnknownLabelsError, Window
from streamloss.statistic import State, Statistic, needed
from streamloss.tally import add_to_tally, slabs_by_digit
from streamloss.task import Task

# Kernels run over one slab after another while it is in the second-level cache;
# larger slabs spread the cost of calling a kernel over more voxels.
SLAB_BYTES = 2**20


@dataclass(frozen=True)
class Block:
    """A box of raw voxels, with its place in the volume.

    Attributes
    ----------
    truth, prediction
        Raw arrays over the box, (*box) or (C, *box).
    mask
        Voxels that are not zero are scored; None scores all.
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

    @lazy
    def core_shape(self) -> tuple[int, ...]:
        """Extent of the core."""
        return tuple(part.stop - part.start for part in self.core)

    def flat(self, array: NDArray[Any]) -> NDArray[Any]:
        """Return the core voxels as (n,) or (C, n), contiguous, without a copy if they are."""
        index: tuple[Any, ...] = (..., *self.core)
        inner = np.ascontiguousarray(array[index])
        return inner.reshape(*array.shape[: array.ndim - len(self.core)], -1)

    def index_in_volume(self, index: int) -> int:
        """Return where along the flattened volume a flat core index lies."""
        inner = np.unravel_index(index, self.core_shape)
        place = tuple(int(i) + o for i, o in zip(inner, self.origin, strict=True))
        return int(np.ravel_multi_index(place, self.shape))


@dataclass
class Partial:
    """States of the voxels taken in so far.

    Attributes
    ----------
    task
        The run's settings; its class table grows if it is discovered.
    states
        State of each statistic, by its name.
    scored, ignored
        Voxels that entered the states, and that were left out by mask or ignore label.
    faults
        What could not be scored, by role and reason; once there is any, voxels
        are only checked.
    tally
        Voxels by true class and prediction code that are still to enter the states,
        or None if voxels enter them at once.
    """

    task: Task
    states: dict[str, State] = field(default_factory=dict)
    scored: int = 0
    ignored: int = 0
    faults: dict[tuple[str, str], Fault] = field(default_factory=dict)
    tally: NDArray[np.int64] | None = None

    def __post_init__(self) -> None:
        if not self.states:
            self.states = {s.name: s.empty(self.task) for s in self._statistics}

    def __reduce__(self) -> tuple[type["Partial"], tuple[Any, ...]]:
        # Statistics hold functions and are found again by name where this is unpickled.
        return Partial, tuple(getattr(self, part.name) for part in fields(self))

    @lazy
    def _statistics(self) -> list[Statistic]:
        return needed(self.task)

    @lazy
    def _score_limit(self) -> float:
        return min(statistic.score_limit for statistic in self._statistics)

    def absorb(self, block: Block) -> None:
        """Add the voxels of a block.

        Raises
        ------
        InvalidInputError
            If more classes turn up than a discovered table may hold.
        """
        truth, prediction = block.flat(block.truth), block.flat(block.prediction)
        keep = self._keep(block, truth)
        voxels = truth.shape[-1]
        bytes_per_voxel = (truth.nbytes + prediction.nbytes) // voxels
        step = max(4096, SLAB_BYTES // bytes_per_voxel)
        for start in range(0, voxels, step):
            span = slice(start, min(start + step, voxels))
            t, p = truth[..., span], prediction[..., span]
            chosen = None if keep is None else keep[span]
            if chosen is not None and not chosen.all():
                self.ignored += chosen.size - int(np.count_nonzero(chosen))
                t, p = t[..., chosen], p[..., chosen]
            if t.shape[-1]:
                self._add(t, p, block, start, chosen)
        if not self.faults:
            for statistic in self._statistics:
                if statistic.halo:
                    self._update(statistic, self._window(block))

    def merge(self, other: "Partial") -> "Partial":
        """Return the sum of both; exactly associative and commutative."""
        values = {*self.task.classes.values, *other.task.classes.values}
        a, b = self._with_classes(values), other._with_classes(values)
        faults = dict(a.faults)
        for key, fault in b.faults.items():
            faults[key] = _join(faults[key], fault) if key in faults else fault
        return Partial(
            a.task,
            {s.name: s.merge(a.states[s.name], b.states[s.name]) for s in a._statistics},
            a.scored + b.scored,
            a.ignored + b.ignored,
            faults,
            _sum(a.tally, b.tally),
        )

    def settled(self, dtype: np.dtype[Any]) -> "Partial":
        """Return the same sum with the tallied voxels, predictions of `dtype`, in the states."""
        if self.tally is None:
            return self
        total = Partial(self.task)
        for slab in slabs_by_digit(self.tally, dtype, self.task):
            total = total.merge(total)
            if slab is not None:
                part = Partial(self.task)
                part._feed(slab)
                total = total.merge(part)
        return replace(self.merge(total), tally=None)

    def times(self, count: int) -> "Partial":
        """Return the sum of `count` copies, by doubling."""
        total = Partial(self.task)
        doubled = self
        while count:
            if count % 2:
                total = total.merge(doubled)
            count //= 2
            if count:
                doubled = doubled.merge(doubled)
        return total

    def _keep(self, block: Block, truth: NDArray[Any]) -> NDArray[np.bool_] | None:
        keep = None
        if block.mask is not None:
            keep = block.flat(block.mask) != 0
        if self.task.ignore_label is not None:
            counted = truth != self.task.ignore_label
            keep = counted if keep is None else keep & counted
        return keep

    def _add(
        self,
        truth: NDArray[Any],
        prediction: NDArray[Any],
        block: Block,
        start: int,
        chosen: NDArray[np.bool_] | None,
    ) -> None:
        slab = Slab(truth, prediction, self.task)
        try:
            faults = slab.faults(self._score_limit)
        except UnknownLabelsError as unknown:
            self._learn(int(value) for value in unknown.values)
            self._add(truth, prediction, block, start, chosen)
            return
        for fault in faults:
            index = fault.first if chosen is None else int(np.flatnonzero(chosen)[fault.first])
            found = fault._replace(first=block.index_in_volume(start + index))
            key = (fault.role, fault.reason)
            self.faults[key] = _join(self.faults[key], found) if key in self.faults else found
        self.scored += slab.voxels
        if self.faults:
            return
        if self.tally is not None:
            add_to_tally(slab, prediction, self.tally)
        else:
            self._feed(slab)

    def _feed(self, slab: Slab) -> None:
        for statistic in self._statistics:
            if not statistic.halo:
                self._update(statistic, slab)

    def _update(self, statistic: Statistic, voxels: Slab | Window) -> None:
        grown = statistic.update(self.states[statistic.name], voxels, self.task)
        if grown is not None:
            self.states[statistic.name] = grown

    def _learn(self, values: Iterable[int]) -> None:
        wider = self._with_classes({*self.task.classes.values, *(v for v in values if v >= 0)})
        self.task, self.states = wider.task, wider.states

    def _with_classes(self, values: set[int]) -> "Partial":
        table = self.task.classes
        if values == set(table.values):
            return self
        wider = table.with_values(values)
        if len(wider) > MAX_CLASSES:
            raise InvalidInputError(
                f"more than {MAX_CLASSES} different labels: name the ones to score "
                'with `classes`, or pass kind="values" if these are not labels'
            )
        task = replace(self.task, classes=wider)
        positions = np.searchsorted(wider.values, table.values)
        states = {s.name: s.spread(self.states[s.name], positions, task) for s in self._statistics}
        return replace(self, task=task, states=states)

    def _window(self, block: Block) -> Window:
        shape = block.truth.shape
        channels = block.prediction.shape[: block.prediction.ndim - len(shape)]
        scored = np.ones(shape, np.bool_)
        if block.mask is not None:
            scored &= block.mask != 0
        if self.task.ignore_label is not None:
            scored &= block.truth != self.task.ignore_label
        arrays = block.truth.reshape(-1), block.prediction.reshape(*channels, -1)
        slab = Slab(*arrays, self.task)
        if self.task.classes.discovered:
            # The halo may hold labels that this worker has not met yet.
            seen = {int(v) for array in arrays for v in np.unique(array[scored.reshape(-1)])}
            self._learn(seen)
            slab = Slab(*arrays, self.task)
        task = self.task
        truth, prediction = slab.truth.reshape(shape), slab.decision.reshape(shape)
        # A label of no class is a fault, told by the block that has it in its core.
        scored &= (truth < len(task.classes)) & (prediction < len(task.classes))
        background = task.classes.background
        nothing = task.classes.values.index(background) if background is not None else 0
        return Window(
            np.where(scored, truth, truth.dtype.type(nothing)),
            np.where(scored, prediction, prediction.dtype.type(nothing)),
            scored,
            block.core,
            block.origin,
        )


def _sum(a: NDArray[np.int64] | None, b: NDArray[np.int64] | None) -> NDArray[np.int64] | None:
    if a is None or b is None:
        return b if a is None else a
    return a + b


def _join(a: Fault, b: Fault) -> Fault:
    first = a if a.first <= b.first else b
    return first._replace(voxels=a.voxels + b.voxels)
