"""Tells what in a volume could not be scored: how often, and where first."""

from collections.abc import Mapping, Sequence

import numpy as np

from streamloss.errors import InvalidInputError
from streamloss.partial import Partial
from streamloss.registry import definitions
from streamloss.slab import NEGATIVE, NO_CLASS, OUTSIDE_UNIT, Fault
from streamloss.task import Task


def raise_faults(total: Partial, shape: tuple[int, ...], names: Mapping[str, str]) -> None:
    """Raise for the first kind of fault in a sum, if there is one.

    Parameters
    ----------
    total
        The sum.
    shape
        Shape of the volume, without channels.
    names
        What to call truth, prediction and weights.

    Raises
    ------
    InvalidInputError
        Tells what is wrong, how often, and where first.
    """
    found = total.faulty()
    if found is None:
        return
    structure, part = found
    fault = part.faults[min(part.faults)]
    where = tuple(int(i) for i in np.unravel_index(fault.first, shape))
    name = names.get(fault.role, "") + (f", {structure}," if structure else "")
    raise InvalidInputError(_fault_text(fault, name, where, part.task))


def _fault_text(fault: Fault, name: str, where: tuple[int, ...], task: Task) -> str:
    """Return the sentence that tells of a fault."""
    labels = fault.reason in (NEGATIVE, NO_CLASS)
    advice = ""
    if fault.reason == NO_CLASS:
        advice = f" {_short_list(task.classes.values)}{_plain_numbers(task)}"
    if fault.reason == OUTSIDE_UNIT:
        advice = _other_kinds(task)
    value = int(fault.value) if labels else fault.value
    what = "label" if labels else "value"
    return (
        f"{fault.role} {name} has {fault.voxels:,} {what}{'s' * (fault.voxels != 1)} "
        f"{fault.reason}{advice}: the first is {value} at {where}"
    )


def _plain_numbers(task: Task) -> str:
    """Tell that integers which a metric takes for 0 and 1 may be meant as plain numbers."""
    for name in task.metrics:
        kinds = {kind for _, metric in definitions(name) for kind in metric.kinds}
        zero_one = any(
            metric.zero_one_labels and task.kind in metric.kinds for _, metric in definitions(name)
        )
        if task.kind == "labels" and zero_one and "values" in kinds:
            return f' (pass kind="values" if {name} is to compare plain numbers)'
    return ""


def _other_kinds(task: Task) -> str:
    """Tell which kinds the numbers may be of instead, that give all the metrics asked for."""
    kinds = [
        {kind for _, metric in definitions(name) for kind in metric.kinds} for name in task.metrics
    ]
    hints = [
        f'kind="{kind}" if these are {what}'
        for kind, what in (("logits", "raw scores"), ("values", "plain numbers"))
        if all(kind in possible for possible in kinds)
    ]
    return f" (pass {' or '.join(hints)})" if hints else ' (raw scores are kind="logits")'


def _short_list(values: Sequence[int]) -> str:
    if len(values) <= 12:
        return str(list(values))
    return f"[{', '.join(map(str, values[:10]))}, … {values[-1]}]"
