"""Docstring and worked example of each metric, generated from its definition.

The number in an example comes from the naive reference of the metric, so that telling a
definition needs no kernel; tests run the call. Nothing is defined here.
"""

import math
import textwrap
from typing import Any

import numpy as np

from streamloss.options import ArrayFacts, settle
from streamloss.registry import definitions, needed
from streamloss.task import Kind

# `help` indents by four, on terminals of 80 columns.
_WIDTH = 76
_DIGITS = 4
_LABELS = [0, 1, 1, 0, 1, 0]
_TRUTH: dict[Kind, list[Any]] = {
    "labels": _LABELS,
    "probabilities": _LABELS,
    "logits": _LABELS,
    "values": [0.0, 1.0, 2.0, 1.5, 3.0, 0.5],
}
_PREDICTION: dict[Kind, list[Any]] = {
    "labels": [0, 1, 0, 0, 1, 1],
    "probabilities": [0.1, 0.8, 0.4, 0.3, 0.9, 0.6],
    "logits": [-2.0, 1.5, -0.5, -1.0, 2.5, 0.2],
    "values": [0.5, 1.0, 2.5, 1.0, 2.0, 0.0],
}


def docstring(name: str) -> str:
    """Return the docstring of the function of a metric's name.

    Examples
    --------
    >>> docstring("mse").splitlines()[0]
    'Mean squared error.'
    """
    metric = definitions(name)[0][1]
    kinds = [kind for _, each in definitions(name) for kind in each.kinds]
    unit = f" {metric.unit}" if metric.unit else ""
    better = {True: ", higher is better", False: ", lower is better", None: ""}
    low, high = (_edge(edge) for edge in metric.range)
    options = f"; of this metric: {', '.join(sorted(metric.options))}" if metric.options else ""
    body = {
        "Parameters": [
            ("truth", "Array, path or URL."),
            ("prediction", f"The same; {_either(kinds)}."),
            ("**options", f"Those of `streamloss.score`{options}."),
        ],
        "Returns": [
            (
                "float",
                f"From {low} to {high}{unit}{better[metric.higher_is_better]}; NaN if undefined.",
            )
        ],
    }
    parts = [f"{metric.title}.", _wrapped(f"{metric.formula}. Empty: {metric.empties}.")]
    for title, entries in body.items():
        lines = [title, "-" * len(title)]
        for entry, text in entries:
            lines += [entry, _wrapped(text, "    ")]
        parts.append("\n".join(lines))
    parts.append(f"References\n----------\n{_wrapped(metric.source + '.')}")
    parts.append(f"Examples\n--------\n>>> import numpy as np, streamloss as sl\n{example(name)}")
    return "\n\n".join(parts) + "\n"


def _either(kinds: list[Kind]) -> str:
    names = list(dict.fromkeys(kinds))
    return " or ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def _edge(edge: float) -> str:
    return f"{'-' * (edge < 0)}∞" if math.isinf(edge) else f"{edge:g}"


def _wrapped(text: str, indent: str = "") -> str:
    return textwrap.fill(
        text,
        _WIDTH,
        initial_indent=indent,
        subsequent_indent=indent,
        break_long_words=False,
        break_on_hyphens=False,
    )


def example(name: str) -> str:
    """Return Python statements, as typed at the prompt, that score a metric.

    Examples
    --------
    >>> example("dice").splitlines()[-2:]
    ['>>> round(sl.dice(truth, prediction), 4)', '0.6667']
    """
    metric = definitions(name)[0][1]
    kind = metric.kinds[0]
    options = dict(metric.example)
    # What is not inferred from the arrays must be said.
    said = {"kind": kind, **options} if kind in ("logits", "values") else options
    arguments = "".join(f", {option}={value!r}" for option, value in said.items())
    return "\n".join(
        [
            f">>> truth = np.array({_TRUTH[kind]})",
            f">>> prediction = np.array({_PREDICTION[kind]})",
            f">>> round(sl.{name}(truth, prediction{arguments}), {_DIGITS})",
            repr(round(_value(name, kind, options), _DIGITS)),
        ]
    )


def _value(name: str, kind: Kind, options: dict[str, Any]) -> float:
    """Return the value of the metric, by NumPy alone."""
    truth, prediction = np.array(_TRUTH[kind]), np.array(_PREDICTION[kind])
    facts = (ArrayFacts(array.shape, array.dtype) for array in (truth, prediction))
    classes = None if kind == "values" else 2
    task = settle(*facts, metrics=name, kind=kind, classes=classes, **options)
    if kind != "labels":
        prediction = prediction.reshape(1, -1)
    if not task.hard_truth:
        truth = truth.reshape(1, -1)
    for statistic in needed(task):
        if statistic.reference is not None and name in {each.name for each in statistic.metrics}:
            return float(statistic.reference(truth, prediction, task)[name][0])
    raise AssertionError(f"no reference of {name}")
