"""Losses and metrics of segmentation volumes that do not fit in memory.

`score` scores two volumes, `Accumulator` takes chunks, `Result` is what both
return. Every metric is also a function of its name, `streamloss.dice(t, p)`,
that returns its value.
"""

from collections.abc import Callable
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from streamloss.errors import InvalidInputError, ReadError, StreamlossError, WorkerError

if TYPE_CHECKING:
    from streamloss.accumulator import Accumulator
    from streamloss.batching import Batch, batch
    from streamloss.cases import Case, find_cases, read_manifest
    from streamloss.comparison import Comparison, compare
    from streamloss.conversion import convert
    from streamloss.merging import merge
    from streamloss.result import MetricResult, Result
    from streamloss.scoring import score
    from streamloss.study import Study

# Importing Numba and Zarr takes most of a second, so it waits until they are used.
_LAZY = {
    "Accumulator": "accumulator",
    "Batch": "batching",
    "Case": "cases",
    "Comparison": "comparison",
    "MetricResult": "result",
    "Result": "result",
    "Study": "study",
    "batch": "batching",
    "compare": "comparison",
    "convert": "conversion",
    "find_cases": "cases",
    "merge": "merging",
    "read_manifest": "cases",
    "score": "scoring",
}

__all__ = [
    "Accumulator",
    "Batch",
    "Case",
    "Comparison",
    "InvalidInputError",
    "MetricResult",
    "ReadError",
    "Result",
    "StreamlossError",
    "Study",
    "WorkerError",
    "batch",
    "compare",
    "convert",
    "find_cases",
    "merge",
    "read_manifest",
    "score",
]


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(import_module(f"streamloss.{_LAZY[name]}"), name)
    # A submodule that is being imported must not import the registry on its way.
    if not name.startswith("_") and find_spec(f"streamloss.{name}") is None:
        from streamloss.registry import metric_names

        if name in metric_names():
            return _one_liner(name)
    raise AttributeError(f"module 'streamloss' has no attribute '{name}'")


def __dir__() -> list[str]:
    from streamloss.registry import metric_names

    return sorted([*__all__, *metric_names()])


@cache
def _one_liner(name: str) -> Callable[..., float]:
    from streamloss.docstrings import docstring
    from streamloss.scoring import score

    def metric(truth: Any, prediction: Any, **options: Any) -> float:
        # Counts are whole numbers in a result.
        return float(score(truth, prediction, metrics=name, **options)[name].value)

    metric.__name__ = metric.__qualname__ = name
    metric.__doc__ = docstring(name)
    return metric
