"""What is being scored, once every option is settled.

A `Task` is the plain, picklable outcome of validation that scan, statistics and
scores share: the kind of prediction, the class table, the parameters. Nothing
here reads voxels or interprets a user's spelling of an option.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np

Kind = Literal["labels", "probabilities", "logits", "values"]
KINDS: tuple[Kind, ...] = ("labels", "probabilities", "logits", "values")


NOTHING: Mapping[str, Any] = {"": None}
"""The questions of a pass in which no statistic asks anything."""


@dataclass(frozen=True)
class Classes:
    """The label values that are scored, in the order of their codes 0, 1, 2 ….

    Attributes
    ----------
    values
        Label value of each class, background included.
    names
        Display name of each class.
    background
        The label value that is background, or None if there is none.
    include_background
        Whether means over classes include the background.
    discovered
        True if the table grows with the labels met while scanning.
    others
        What a label of no class is: an "error", or "background".
    """

    values: tuple[int, ...] = ()
    names: tuple[str, ...] = ()
    background: int | None = 0
    include_background: bool = False
    discovered: bool = False
    others: Literal["error", "background"] = "error"

    def __len__(self) -> int:
        return len(self.values)

    @property
    def code_dtype(self) -> np.dtype[Any]:
        """Smallest type that holds every class code and one value to mean "no class"."""
        return np.dtype(np.uint8 if len(self) < 256 else np.uint16)

    @property
    def scored(self) -> tuple[int, ...]:
        """Codes of the classes that enter a mean over classes."""
        return tuple(
            code
            for code, value in enumerate(self.values)
            if self.include_background or value != self.background
        )

    def with_values(self, values: Iterable[int]) -> "Classes":
        """Return the sorted table of these values and the ones already there."""
        union = tuple(sorted({*self.values, *values}))
        return replace(self, values=union, names=self.default_names(union))

    def default_names(self, values: Iterable[int]) -> tuple[str, ...]:
        """Name classes after their value when nothing better is known."""
        return tuple("background" if value == self.background else str(value) for value in values)


@dataclass(frozen=True)
class Structure:
    """One of several things, which may overlap, that a run scores each against the rest.

    Attributes
    ----------
    name
        What to call it.
    labels
        The label values it is made of; none if it is a channel of a multi-label truth.
    """

    name: str
    labels: tuple[int, ...] = ()


@dataclass(frozen=True)
class Task:
    """Everything a statistic may ask about the run it is part of.

    Attributes
    ----------
    kind
        What the prediction holds.
    metrics
        The metric names asked for, so that a kernel can leave out the rest.
    classes
        The class table; empty for `values`.
    channels
        Scores per voxel: 1 for binary and values, C for multi-class, 0 for labels.
    score_bits
        Bits of a score as it is stored, 0 for labels.
    half_scores
        Whether scores are stored as float16.
    soft_truth
        True if the truth is a distribution in [0, 1] instead of labels.
    threshold
        A positive is a binary probability at or above this.
    parameters
        Value of each metric parameter, defaults filled in.
    convention
        The package whose definitions were asked for; decides defaults of parameters.
    spacing, spacing_unit
        Voxel size per axis, or None if unknown, and its unit if an input tells it.
    ignore_label
        Truth value whose voxels are not scored, or None.
    structures
        Regions or channels that are scored independently, each as a binary problem with
        the other settings; none if there is one class to a voxel.
    weighted
        Whether a voxel counts as often as a volume of weights says.
    questions
        What statistics ask of another pass over the data, by their names; in a run of
        structures by those of the structures first. Empty in the first pass.
    """

    kind: Kind
    metrics: tuple[str, ...]
    classes: Classes = field(default_factory=Classes)
    channels: int = 0
    score_bits: int = 0
    half_scores: bool = False
    soft_truth: bool = False
    threshold: float = 0.5
    parameters: Mapping[str, Any] = field(default_factory=dict)
    convention: str | None = None
    spacing: tuple[float, ...] | None = None
    spacing_unit: str | None = None
    ignore_label: int | None = None
    structures: tuple[Structure, ...] = ()
    weighted: bool = False
    questions: Mapping[str, Any] = field(default_factory=dict)

    @property
    def truth_has_channels(self) -> bool:
        """True if the truth has a leading axis of channels."""
        if self.structures:
            return not self.structures[0].labels
        return self.soft_truth and self.channels > 1

    def of_part(self, name: str = "") -> "Task":
        """Return the settings of one part of a run of several: of a structure, or of a weight.

        What is left out is decided before voxels reach a part.
        """
        if self.weighted:
            return replace(self, weighted=False, ignore_label=None)
        # Weights are those of the structures, and weigh their scores.
        own = {n: None if n == "class_weights" else v for n, v in self.parameters.items()}
        # In a pass for other structures nothing is asked of this one.
        asked = self.questions.get(name, NOTHING) if self.questions else {}
        return replace(self, structures=(), ignore_label=None, parameters=own, questions=asked)

    @property
    def hard_truth(self) -> bool:
        """True if the truth is labels."""
        return not self.soft_truth and self.kind != "values"

    @property
    def truth_groups(self) -> int:
        """Groups a loss is summed in: one per true class, or one if truth is not labels."""
        return len(self.classes) if self.hard_truth else 1

    def asks(self, *names: str) -> bool:
        """Whether any of these metrics was asked for."""
        return any(name in self.metrics for name in names)
