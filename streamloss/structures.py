"""Several things that may overlap in one run: regions of labels, channels of many labels.

Every spelling of `regions` is understood here, and the outcomes of the structures become
one. Each structure by itself is an ordinary binary problem; how it is scored is not known.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from streamloss.class_table import is_integer, parse_classes, split_list
from streamloss.errors import InvalidInputError
from streamloss.statistic import Score
from streamloss.task import Kind, Structure


def settle_structures(
    kind: Kind,
    truth_shape: tuple[int, ...],
    prediction_shape: tuple[int, ...],
    regions: Any,
    multilabel: bool,
    classes: Any,
) -> tuple[Structure, ...]:
    """Return the structures of a run; none if every voxel has one class.

    Parameters
    ----------
    kind
        What the prediction holds.
    truth_shape, prediction_shape
        With the channels.
    regions, multilabel, classes
        As for `streamloss.score`.

    Raises
    ------
    InvalidInputError
        If the spelling is unknown or does not fit the arrays.
    """
    if regions is None and not multilabel:
        return ()
    if kind == "values":
        raise InvalidInputError(
            f'{"multilabel" if multilabel else "regions"} has no meaning for kind="values"'
        )
    if regions is not None:
        if multilabel or classes is not None:
            other = "multilabel" if multilabel else "classes"
            raise InvalidInputError(f"regions and {other} cannot both be given")
        found = parse_regions(regions)
        expected = truth_shape if kind == "labels" else (len(found), *truth_shape)
        if prediction_shape != expected:
            what = (
                "the truth" if kind == "labels" else f"a channel for each of {len(found)} regions"
            )
            raise InvalidInputError(
                f"truth has shape {truth_shape} and prediction {prediction_shape}: "
                f"expected {expected}, as {what}"
            )
        return found
    if truth_shape != prediction_shape or len(truth_shape) < 2:
        raise InvalidInputError(
            f"truth has shape {truth_shape} and prediction {prediction_shape}: with multilabel "
            "both must be (C, *shape), a channel for each label"
        )
    channels = truth_shape[0]
    names: Sequence[str] = [str(channel) for channel in range(channels)]
    if classes is not None:
        values, given = parse_classes(classes)
        if len(values) != channels:
            raise InvalidInputError(
                f"the arrays have {channels} channels, but `classes` names {len(values)}"
            )
        names = given or [str(value) for value in values]
    return tuple(Structure(name) for name in names)


def parse_regions(regions: Any) -> tuple[Structure, ...]:
    """Return the regions of a mapping of names to labels, or of "whole=1+2+4,core=1+4".

    Raises
    ------
    InvalidInputError
        If it is neither, or a region has no labels.

    Examples
    --------
    >>> parse_regions("whole=1+2+4,core=1+4")[1]
    Structure(name='core', labels=(1, 4))
    """
    given = dict(regions) if isinstance(regions, Mapping) else {}
    parts = [] if given else split_list(regions)
    wrong = InvalidInputError(
        "regions must be names with their label values, such as {'whole': [1, 2], 'core': [1]} "
        f"or whole=1+2,core=1, got {regions!r}"
    )
    for part in parts:
        name, sign, labels = part.partition("=") if isinstance(part, str) else ("", "", "")
        if not sign or name.strip() in given:
            raise wrong
        given[name.strip()] = labels.split("+")
    found = []
    for name, labels in given.items():
        several = [labels] if is_integer(labels) else labels
        if isinstance(several, str) or not hasattr(several, "__iter__"):
            raise wrong
        values = [label.strip() if isinstance(label, str) else label for label in several]
        if not str(name) or not values or not all(is_integer(value) for value in values):
            raise wrong
        found.append(Structure(str(name), tuple(dict.fromkeys(int(value) for value in values))))
    if not found:
        raise wrong
    return tuple(found)


def join_scores(scores: Sequence[Score], names: Sequence[str], adds_up: bool) -> Score:
    """Return one score of those of all structures, whose class codes are their numbers.

    Parameters
    ----------
    scores, names
        The score and the name of each structure.
    adds_up
        Whether the value is the sum of theirs rather than the mean.
    """
    defined = [score for score in scores if not math.isnan(score.value)]
    value = bound = math.nan
    if defined:
        value = math.fsum(score.value for score in defined)
        bound = math.fsum(score.error_bound for score in defined)
        if not adds_up:
            value, bound = value / len(defined), max(score.error_bound for score in defined)
    counts: dict[str, int] = {}
    for score in scores:
        for name, count in score.counts.items():
            counts[name] = counts.get(name, 0) + count
    return Score(
        value,
        {code: score.value for code, score in enumerate(scores)},
        bound,
        counts,
        {name: dict(s.details) for name, s in zip(names, scores, strict=True) if s.details},
    )
