"""Several things that may overlap in one run: regions of labels, channels of many labels.

Every spelling of `regions` is understood here, and the outcomes of the structures become
one. Each structure by itself is an ordinary binary problem; how it is scored is not known.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from streamloss.class_table import is_integer, parse_classes, split_list
from streamloss.errors import InvalidInputError
from streamloss.statistic import Metric, Score
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


def join_scores(
    scores: Sequence[Score], names: Sequence[str], weights: Sequence[float], metric: Metric
) -> Score:
    """Return one score of those of all structures, whose class codes are their numbers.

    Parameters
    ----------
    scores, names, weights
        The score of each structure, its name and its weight in a mean.
    metric
        What was scored.
    """
    defined = [
        (weight, score)
        for weight, score in zip(weights, scores, strict=True)
        if weight > 0 and not math.isnan(score.value)
    ]
    value = bound = math.nan
    if defined and metric.combine == "sum":
        value = math.fsum(score.value for _, score in defined)
        bound = math.fsum(score.error_bound for _, score in defined)
    elif defined:
        bound = max(score.error_bound for _, score in defined)
        if len({weight for weight, _ in defined}) == 1:
            value = math.fsum(score.value for _, score in defined) / len(defined)
        else:
            whole = math.fsum(weight for weight, _ in defined)
            value = math.fsum(weight * score.value for weight, score in defined) / whole
    counts: dict[str, int] = {}
    for score in scores:
        for name, count in score.counts.items():
            counts[name] = counts.get(name, 0) + count
    # A per-class metric tells of the one class what it is before it enters a mean.
    averaged = "average" in metric.options
    return Score(
        value,
        {c: s.per_class.get(1, s.value) if averaged else s.value for c, s in enumerate(scores)},
        bound,
        counts,
        {name: dict(s.details) for name, s in zip(names, scores, strict=True) if s.details},
        next((score.unit for score in scores), None),
    )
