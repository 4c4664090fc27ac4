"""Finds what `metrics/` declares: metrics and parameters by name, the statistics of a task.

What statistics and metrics are, and how their modules are discovered, is told by `statistic`.
"""

from collections.abc import Mapping
from dataclasses import replace
from functools import cache

from streamloss.statistic import Metric, Parameter, Score, State, Statistic, discover
from streamloss.task import Kind, Task


def metric_names() -> list[str]:
    """Return the name of every metric there is, sorted."""
    return sorted(_definitions())


def definitions(name: str) -> list[tuple[Statistic, Metric]]:
    """Return the statistics that yield a metric, with its definition there."""
    return _definitions().get(name, [])


@cache
def _definitions() -> dict[str, list[tuple[Statistic, Metric]]]:
    found: dict[str, list[tuple[Statistic, Metric]]] = {}
    for statistic in discover().values():
        for metric in statistic.metrics:
            found.setdefault(metric.name, []).append((statistic, metric))
    return found


def parameters() -> dict[str, Parameter]:
    """Return every parameter of every metric by name."""
    return {
        parameter.name: parameter
        for statistic in discover().values()
        for metric in statistic.metrics
        for parameter in metric.parameters
    }


def needed(task: Task) -> list[Statistic]:
    """Return the statistics a task's metrics are read from, each once.

    With labels as truth the voxels of each class are always counted. In a later pass, those
    that answer its questions.
    """
    if task.questions:
        answers = (s.answer for s in discover().values() if s.name in task.questions)
        return [statistic for statistic in answers if statistic is not None]
    return _needed(task.metrics, task.kind, task.hard_truth)


@cache
def _needed(metrics: tuple[str, ...], kind: Kind, hard_truth: bool) -> list[Statistic]:
    asked = {*metrics}
    for name in metrics:
        asked.update(*(m.parts for _, m in definitions(name) if kind in m.kinds))
    return [
        statistic
        for statistic in discover().values()
        if any(m.name in asked and kind in m.kinds for m in statistic.metrics)
        or (statistic.class_voxels is not None and hard_truth)
    ]


def read(name: str, states: Mapping[str, State], task: Task) -> tuple[Metric, Score]:
    """Return a metric's definition for a task and its score from the merged states."""
    statistic, metric = next((s, m) for s, m in definitions(name) if task.kind in m.kinds)
    if not metric.parts:
        return metric, metric.score(states[statistic.name], task)
    # A part is scored with the options that the whole declares, and no others.
    own = {p.name: task.parameters[p.name] for p in metric.parameters}
    inner = replace(task, parameters=own)
    return metric, metric.score({part: read(part, states, inner)[1] for part in metric.parts}, task)
