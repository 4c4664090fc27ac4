"""What has been added up so far: one state per statistic, and what could not be scored.

A `Partial` takes in blocks of raw voxels and merges with others. It knows
nothing of volumes, files or threads.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamloss.class_table import MAX_CLASSES
from streamloss.errors import InvalidInputError
from streamloss.lazy import lazy
from streamloss.raw_block import Block
from streamloss.registry import needed
from streamloss.slab import Fault, Slab, UnknownLabelsError, Window
from streamloss.statistic import State, Statistic
from streamloss.tally import add_to_tally, empty_tally, slabs_by_digit
from streamloss.task import Task

# Kernels run over one slab after another while it is in the second-level cache;
# larger slabs spread the cost of calling a kernel over more voxels.
SLAB_BYTES = 2**21
MAX_WEIGHT = 65535
"""With larger weights the counts of a huge volume might not fit in 64 bits."""
NO_WEIGHT = f"outside 0 to {MAX_WEIGHT:,}"


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
    parts
        What a task of several structures or of weighted voxels is made of, which has no
        states itself: a partial of each structure by its name, or of the voxels whose weight
        has a binary digit, by the number of the digit.
    """

    task: Task
    states: dict[str, State] = field(default_factory=dict)
    scored: int = 0
    ignored: int = 0
    faults: dict[tuple[str, str], Fault] = field(default_factory=dict)
    tally: NDArray[np.int64] | None = None
    parts: dict[str, "Partial"] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.task.weighted:
            return
        if self.task.structures:
            for structure in self.task.structures:
                part = self.task.of_part(structure.name)
                self.parts.setdefault(structure.name, Partial(part))
        elif not self.states:
            self.states = {s.name: s.empty(self.task) for s in self._statistics}

    @classmethod
    def start(cls, task: Task, dtype: np.dtype[Any]) -> "Partial":
        """Return an empty sum for predictions of `dtype`, tallied where that pays."""
        if task.weighted:
            return cls(task)
        if task.structures:
            names = [structure.name for structure in task.structures]
            return cls(task, parts={n: cls.start(task.of_part(n), dtype) for n in names})
        return cls(task, tally=None if task.questions else empty_tally(task, dtype))

    def __reduce__(self) -> tuple[type["Partial"], tuple[Any, ...]]:
        # Statistics hold functions and are found again by name where this is unpickled.
        return Partial, tuple(getattr(self, part.name) for part in fields(self))

    @lazy
    def _statistics(self) -> list[Statistic]:
        return needed(self.task)

    @lazy
    def _score_limit(self) -> float:
        return min((statistic.score_limit for statistic in self._statistics), default=math.inf)

    @lazy
    def _clipping(self) -> Statistic | None:
        """Find the statistic, if any, that sees all scores and may before they are checked."""
        if self.task.channels != 1 or not self.task.hard_truth or self.tally is not None:
            return None
        return next((s for s in self._statistics if s.clipped is not None), None)

    def absorb(self, block: Block) -> None:
        """Add the voxels of a block.

        Raises
        ------
        InvalidInputError
            If more classes turn up than a discovered table may hold.
        """
        if self.task.weighted or self.task.structures:
            self._absorb_parts(block)
            return
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

    def _absorb_parts(self, block: Block) -> None:
        """Give each part its share of a block."""
        keep = block.scored(self.task.ignore_label)
        weights = self._checked_weights(block) if self.task.weighted else None
        if weights is not None:
            keep &= weights > 0
        scored = int(np.count_nonzero(keep[block.core]))
        self.scored += scored
        self.ignored += math.prod(block.core_shape) - scored
        # Where nothing is left out, nothing need be taken out.
        rest = replace(block, mask=None if scored == keep.size else keep, weights=None)
        if weights is not None:
            self._absorb_by_weight(rest, weights)
        else:
            for index, structure in enumerate(self.task.structures):
                self.parts[structure.name].absorb(rest.of_structure(index, structure))

    def _checked_weights(self, block: Block) -> NDArray[Any]:
        weights = block.weights
        assert weights is not None, "the blocks of a weighted run have weights"
        bad = (weights < 0) | (weights > MAX_WEIGHT)
        inner = bad[block.core].reshape(-1)
        if not inner.any():
            return weights
        first = int(inner.argmax())
        value = weights[block.core].reshape(-1)[first]
        index = block.index_in_volume(first)
        fault = Fault("weights", NO_WEIGHT, int(inner.sum()), index, float(value))
        self._note(fault)
        return np.where(bad, 0, weights)

    def _note(self, fault: Fault) -> None:
        key = (fault.role, fault.reason)
        self.faults[key] = _join(self.faults[key], fault) if key in self.faults else fault

    def _absorb_by_weight(self, block: Block, weights: NDArray[Any]) -> None:
        for digit in range(int(weights.max()).bit_length()):
            has_digit = (weights >> digit) & 1 != 0
            if block.mask is not None:
                has_digit &= block.mask
            if has_digit[block.core].any():
                name = str(digit)
                if name not in self.parts:
                    self.parts[name] = Partial.start(self.task.of_part(), block.prediction.dtype)
                self.parts[name].absorb(replace(block, mask=has_digit))

    def faulty(self) -> "tuple[str, Partial] | None":
        """Return the first part with faults and the name of its structure, or None."""
        if self.faults:
            return "", self
        for name, part in self.parts.items():
            found = part.faulty()
            if found is not None:
                return (found[0] if self.task.weighted else name), found[1]
        return None

    def merge(self, other: "Partial") -> "Partial":
        """Return the sum of both; exactly associative and commutative."""
        if self.task.weighted or self.task.structures:
            names = {**self.parts, **other.parts}
            return Partial(
                self.task,
                scored=self.scored + other.scored,
                ignored=self.ignored + other.ignored,
                faults=_joined(self.faults, other.faults),
                parts={
                    name: self.parts[name].merge(other.parts[name])
                    if name in self.parts and name in other.parts
                    else names[name]
                    for name in names
                },
            )
        values = {*self.task.classes.values, *other.task.classes.values}
        a, b = self._with_classes(values), other._with_classes(values)
        return Partial(
            a.task,
            {s.name: s.merge(a.states[s.name], b.states[s.name]) for s in a._statistics},
            a.scored + b.scored,
            a.ignored + b.ignored,
            _joined(a.faults, b.faults),
            _sum(a.tally, b.tally),
        )

    def asking(self) -> Task | None:
        """Return the task of another pass over the data, None if no statistic needs one."""
        asked: dict[str, Any] = {}
        for name, part in self.parts.items():
            task = part.asking()
            if task is not None:
                asked[name] = task.questions
        for statistic in self._statistics if self.states else ():
            question = statistic.ask(self.states[statistic.name], self.task)
            if question is not None:
                asked[statistic.name] = question
        return replace(self.task, questions=asked) if asked else None

    def learned(self, answer: "Partial") -> "Partial":
        """Return the sum with what another pass, of the task that `asking` gave, found out."""
        states = dict(self.states)
        for statistic in self._statistics if self.states else ():
            if statistic.learn is not None and statistic.name in answer.states:
                found = answer.states[statistic.name]
                states[statistic.name] = statistic.learn(states[statistic.name], found, answer.task)
        parts = {name: part.learned(answer.parts[name]) for name, part in self.parts.items()}
        return replace(self, states=states, parts=parts)

    def settled(self, dtype: np.dtype[Any]) -> "Partial":
        """Return the same sum with the tallied voxels, predictions of `dtype`, in the states."""
        if self.task.weighted:
            total = Partial(replace(self.task, weighted=False))
            for digit, part in self.parts.items():
                total = total.merge(part.settled(dtype).times(2 ** int(digit)))
            return replace(
                total, scored=self.scored, ignored=self.ignored, faults=self.faults | total.faults
            )
        if self.task.structures:
            parts = {name: part.settled(dtype) for name, part in self.parts.items()}
            return replace(self, parts=parts)
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
        fed: list[Statistic] = []

        def none_clipped() -> bool:
            first = self._clipping
            if first is None or first.clipped is None:
                return False
            # Before the check, which would otherwise read all scores from further away.
            before = first.clipped(self.states[first.name])
            self._update(first, slab)
            fed.append(first)
            return first.clipped(self.states[first.name]) == before

        try:
            faults = slab.faults(self._score_limit, none_clipped)
        except UnknownLabelsError as unknown:
            self._learn(int(value) for value in unknown.values)
            self._add(truth, prediction, block, start, chosen)
            return
        for fault in faults:
            index = fault.first if chosen is None else int(np.flatnonzero(chosen)[fault.first])
            self._note(fault._replace(first=block.index_in_volume(start + index)))
        self.scored += slab.voxels
        if self.faults:
            return
        if self.tally is not None:
            add_to_tally(slab, prediction, self.tally)
        else:
            self._feed(slab, fed)

    def _feed(self, slab: Slab, fed: Sequence[Statistic] = ()) -> None:
        for statistic in self._statistics:
            if not statistic.halo and statistic not in fed:
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
        scored = block.scored(self.task.ignore_label)
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


def state_bytes(task: Task) -> int:
    """Return the memory the states of a task take at most."""
    if task.weighted:
        return MAX_WEIGHT.bit_length() * state_bytes(task.of_part())
    if task.structures:
        return len(task.structures) * state_bytes(task.of_part())
    table = 8 * MAX_CLASSES**2 if task.classes.discovered else 0
    return table + sum(statistic.state_bytes(task) for statistic in needed(task))


def _sum(a: NDArray[np.int64] | None, b: NDArray[np.int64] | None) -> NDArray[np.int64] | None:
    if a is None or b is None:
        return b if a is None else a
    return a + b


def _joined(
    a: dict[tuple[str, str], Fault], b: dict[tuple[str, str], Fault]
) -> dict[tuple[str, str], Fault]:
    return a | {key: _join(a[key], fault) if key in a else fault for key, fault in b.items()}


def _join(a: Fault, b: Fault) -> Fault:
    first = a if a.first <= b.first else b
    return first._replace(voxels=a.voxels + b.voxels)
