"""The catalogue of metrics as Markdown, generated from the registry.

`python -m streamloss.catalogue > streamloss/metrics/README.md` renews the copy in the
sources. Nothing is defined here.
"""

import math
from collections.abc import Iterable

from streamloss.docstrings import example
from streamloss.registry import definitions, metric_names
from streamloss.statistic import INVARIANCES, Metric

_HEAD = """\
# Metric catalogue

Generated from the registry by `python -m streamloss.catalogue`; a test fails when it is stale.
`streamloss metrics NAME` prints the same for one metric.

How the classes become one number, what is left out, and what empties do is said once for all
metrics in the README of the project. Range and direction are those of the headline value.
Examples follow `import numpy as np, streamloss as sl`; tests run them.
"""


def catalogue() -> str:
    """Return the definitions of all metrics as Markdown.

    Examples
    --------
    >>> print(catalogue().splitlines()[0])
    # Metric catalogue
    """
    rows = [
        "| metric | range | better | from | statistic |",
        "|---|---|---|---|---|",
        *(_row(name) for name in metric_names()),
    ]
    sections = [_section(name) for name in metric_names()]
    return "\n".join([_HEAD, *rows, "", *sections])


def _row(name: str) -> str:
    first = definitions(name)[0][1]
    kinds = sorted({kind for _, metric in definitions(name) for kind in metric.kinds})
    statistics = ", ".join(statistic.name for statistic, _ in definitions(name))
    return (
        f"| [`{name}`](#{name}) | {_range(first)} | {_direction(first)} | "
        f"{', '.join(kinds)} | {statistics} |"
    )


def _section(name: str) -> str:
    lines = [f"## {name}", ""]
    several = definitions(name)
    for _, metric in several:
        where = f" of {' or '.join(metric.kinds)}" if len(several) > 1 else ""
        lines += [f"**{metric.title}{where}.** {_cell(metric.formula)}.", ""]
        lines += [f"- {label}: {text}" for label, text in _facts(metric) if text]
        lines.append("")
    lines += ["```python", example(name), "```", ""]
    return "\n".join(lines)


def _facts(metric: Metric) -> Iterable[tuple[str, str]]:
    yield "Empties", metric.empties
    yield "Unit", metric.unit
    properties = ["symmetric in truth and prediction"] if metric.symmetric else []
    properties += [f"unchanged by {INVARIANCES[key]}" for key in sorted(metric.invariances)]
    yield "Properties", "; ".join(properties)
    yield "Truth", "may be a distribution in [0, 1]" if metric.soft_truth else ""
    yield "Options", "; ".join(f"`{p.name}`: {_cell(p.help)}" for p in metric.parameters)
    yield "Source", metric.source
    yield "Others", metric.differs
    conventions = (
        f"`{peer}`: " + ", ".join(f"{option}={value!r}" for option, value in options.items())
        for peer, options in sorted(metric.conventions.items())
    )
    yield "Conventions", "; ".join(conventions)


def _range(metric: Metric) -> str:
    low, high = metric.range
    left = "(-∞" if low == -math.inf else f"[{low:g}"
    right = "∞)" if high == math.inf else f"{high:g}]"
    return f"{left}, {right}"


def _direction(metric: Metric) -> str:
    return {True: "higher", False: "lower", None: "-"}[metric.higher_is_better]


def _cell(text: str) -> str:
    return text.replace("|", r"\|").replace("*", r"\*")


if __name__ == "__main__":
    print(catalogue(), end="")
