"""The streaming object for people who bring their own chunks."""

import os
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamloss.errors import InvalidInputError
from streamloss.faults import raise_faults
from streamloss.options import ArrayFacts, check_keywords, parse_metrics, settle
from streamloss.partial import Partial
from streamloss.raw_block import Block
from streamloss.result import Result
from streamloss.scoring import build_result
from streamloss.state import load_sum, save_sum
from streamloss.stores import open_volume
from streamloss.task import Task


class Accumulator:
    """Adds up chunks of truth and prediction.

    Their order, and that of merging, does not change a bit of the result.

    Parameters
    ----------
    metrics, kind, classes, other_labels, background, include_background,
    ignore_label, regions, multilabel, threshold, spacing, convention
        As for `streamloss.score`. What is not given is settled by the first
        chunk.
    **parameters
        Options of the metrics, such as `eps`, `alpha`, `gamma`, `reduction`.

    Examples
    --------
    >>> import numpy as np, streamloss as sl
    >>> accumulator = sl.Accumulator(metrics=["mse"])
    >>> for start in (0, 2):
    ...     truth = np.array([0, 1, 1, 0])[start : start + 2]
    ...     prediction = np.array([0.5, 1.0, 0.5, 0.0])[start : start + 2]
    ...     accumulator.update(truth, prediction)
    >>> accumulator.compute()["mse"].value
    0.125

    Another machine saved its part, which is merged:

    >>> part = sl.Accumulator(metrics=["mse"])
    >>> part.update(np.array([1, 1]), np.array([0.0, 1.0]))
    >>> part.save("part.slstate")
    >>> accumulator.merge(sl.Accumulator.load("part.slstate"))
    >>> accumulator.compute()["mse"].value
    0.25
    """

    def __init__(
        self,
        metrics: str | Iterable[str] | None = None,
        *,
        kind: str | None = None,
        classes: Any = None,
        other_labels: str = "error",
        background: int | None = 0,
        include_background: bool = False,
        ignore_label: int | None = None,
        regions: Any = None,
        multilabel: bool = False,
        threshold: float = 0.5,
        spacing: Sequence[float] | None = None,
        convention: str | None = None,
        **parameters: Any,
    ) -> None:
        check_keywords(parameters)
        self._options: dict[str, Any] = {
            "metrics": parse_metrics(metrics) or None,
            "kind": kind,
            "classes": classes,
            "other_labels": other_labels,
            "background": background,
            "include_background": include_background,
            "ignore_label": ignore_label,
            "regions": regions,
            "multilabel": multilabel,
            "threshold": threshold,
            "spacing": spacing,
            "convention": convention,
            **parameters,
        }
        self._partial: Partial | None = None

    def update(self, truth: Any, prediction: Any, mask: Any = None, weights: Any = None) -> None:
        r"""Add a chunk; if it is refused, nothing of it is added.

        Parameters
        ----------
        truth
            Labels (\*shape), or a distribution (\*shape) or (C, \*shape), or
            values.
        prediction
            Labels or values (\*shape), or scores (\*shape) or (C, \*shape).
        mask
            Voxels where it is not zero are scored, (\*shape); by default all.
        weights
            How often each voxel counts, whole numbers (\*shape); by default
            once.

        Raises
        ------
        InvalidInputError
            If the chunk does not fit the options or the chunks before it; a
            coordinate in the message counts within the chunk.
        """
        arrays = {"truth": _native(truth, "truth"), "prediction": _native(prediction, "prediction")}
        facts = {role: ArrayFacts(a.shape, a.dtype) for role, a in arrays.items()}
        task = settle(facts["truth"], facts["prediction"], **self._options)
        if self._partial is not None:
            task = _same_task(self._partial.task, task)
        ndim = arrays["truth"].ndim - task.truth_has_channels
        shape = arrays["truth"].shape[arrays["truth"].ndim - ndim :]
        for role, given in (("mask", mask), ("weights", weights)):
            if given is None:
                continue
            arrays[role] = _native(given, role)
            if arrays[role].shape != shape or arrays[role].dtype.kind == "f":
                raise InvalidInputError(
                    f"{role} must be integer or boolean of shape {shape}, "
                    f"it is {arrays[role].dtype} of shape {arrays[role].shape}"
                )
        chunk = Partial(replace(task, weighted=weights is not None))
        core = tuple(slice(0, size) for size in shape)
        chunk.absorb(
            Block(
                arrays["truth"],
                arrays["prediction"],
                arrays.get("mask"),
                core,
                origin=(0,) * ndim,
                shape=shape,
                weights=arrays.get("weights"),
            )
        )
        raise_faults(chunk, shape, dict.fromkeys(arrays, "chunk"))
        chunk = chunk.settled(arrays["prediction"].dtype)
        self._partial = chunk if self._partial is None else self._partial.merge(chunk)

    def merge(self, other: "Accumulator") -> None:
        """Add what another accumulator of the same options has added up.

        Raises
        ------
        InvalidInputError
            If the two were made with different options.
        """
        if other._partial is None:
            return
        if self._partial is None:
            self._partial = other._partial
            return
        _same_task(self._partial.task, other._partial.task)
        self._partial = self._partial.merge(other._partial)

    def compute(self) -> Result:
        """Return the metrics of all chunks so far.

        Raises
        ------
        InvalidInputError
            If no chunk was added yet.
        """
        if self._filled().asking() is not None:
            raise InvalidInputError(
                "exact=True needs to see the scores again, which an Accumulator cannot: use "
                "streamloss.score, or leave exact out and take the error bound"
            )
        return build_result(self._filled(), inputs={}, options={}, integrity={}, timing={})

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write everything added up so far to a state file."""
        save_sum(Path(path), self._filled())

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "Accumulator":
        """Return the accumulator that was saved; it goes on where that stopped.

        Raises
        ------
        InvalidInputError
            If the file is missing, truncated, changed or something else.
        """
        partial = load_sum(path).partial
        task, table = partial.task, partial.task.classes
        accumulator = cls(
            task.metrics,
            kind=task.kind,
            classes=_classes_option(task),
            other_labels=table.others,
            background=table.background,
            include_background=table.include_background,
            ignore_label=task.ignore_label,
            regions={s.name: s.labels for s in task.structures if s.labels} or None,
            multilabel=bool(task.structures) and not task.structures[0].labels,
            threshold=task.threshold,
            spacing=task.spacing,
            convention=task.convention,
            **task.parameters,
        )
        accumulator._partial = partial
        return accumulator

    def _filled(self) -> Partial:
        if self._partial is None:
            raise InvalidInputError("no chunk was added yet: call update first")
        return self._partial


def _classes_option(task: Task) -> Any:
    """Return `classes` as it would give this task."""
    table = task.classes
    if task.structures:
        return None if task.structures[0].labels else [s.name for s in task.structures]
    if table.discovered or not len(table):
        return None
    return dict(zip(table.names, table.values, strict=True))


def _native(array: Any, role: str) -> NDArray[Any]:
    """Return a contiguous array in the machine's byte order, refusing what no volume may be."""
    got = np.asarray(array)
    volume = open_volume(got, role=role)
    return np.asarray(got, volume.dtype, order="C")


def _same_task(first: Task, other: Task) -> Task:
    """Return `first` if `other` differs from it at most in the labels found so far."""
    if other.classes.discovered and first.classes.discovered:
        other = replace(other, classes=first.classes)
    for name, expected in vars(first).items():
        got = getattr(other, name)
        if got != expected:
            raise InvalidInputError(
                f"this does not fit what was added before: {name} was {expected}, now {got}"
            )
    return first
