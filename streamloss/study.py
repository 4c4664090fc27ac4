"""Statistics over cases from saved results; no volume is read again.

A study is what a batch saved: one result file per case. Means, quartiles and bootstrap
intervals resample cases, never voxels. How results are made and exported is not known here.
"""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from itertools import pairwise
from numbers import Integral, Real
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamloss.errors import InvalidInputError
from streamloss.result import MetricResult, Result

CASES = "cases"
"""The folder of an output folder that holds a folder per model."""

RESAMPLES = 9999
# Resampled indices held at a time, in numbers of 8 bytes.
_RESAMPLED_AT_ONCE = 2**20


@dataclass(frozen=True)
class SavedCase:
    """A case whose result is saved; its values, and where the rest is.

    Attributes
    ----------
    name, model, group
        As in the manifest.
    path
        The result file.
    values
        Headline value of each metric; NaN if undefined.
    voxels, metrics
        As in the result, but without definitions and details: curves may be long. Empty where
        they are not kept: those of many cases would take more memory than scoring does.
    """

    name: str
    model: str
    group: str
    path: Path
    values: Mapping[str, float]
    voxels: Mapping[str, int] = field(default_factory=dict)
    metrics: Mapping[str, MetricResult] = field(default_factory=dict)

    @classmethod
    def of(cls, result: Result, batch: Mapping[str, Any], path: Path) -> "SavedCase":
        """Return the case of a result from what its file has in the field "batch"."""
        return cls(
            batch["case"],
            batch["model"],
            batch["group"],
            path,
            {name: metric.value for name, metric in result.metrics.items()},
            result.voxels,
            {
                name: replace(metric, definition="", details={})
                for name, metric in result.metrics.items()
            },
        )

    @classmethod
    def read(cls, path: Path) -> "SavedCase":
        """Return the case of a result file.

        Raises
        ------
        InvalidInputError
            If it is not the result of a batch.
        """
        return cls.of(*read_saved(path), path)

    def brief(self) -> "SavedCase":
        """Return the case without `voxels` and `metrics`."""
        return replace(self, voxels={}, metrics={})

    def full(self) -> "SavedCase":
        """Return the case with `voxels` and `metrics`, read where they are not kept."""
        return self if self.metrics else SavedCase.read(self.path)

    def load(self) -> Result:
        """Read the whole result."""
        return read_saved(self.path)[0]


@dataclass(frozen=True)
class Summary:
    """One metric over the cases of one model, or of one group of them.

    Attributes
    ----------
    model, group, metric
        What is summed up; group is "" for all cases.
    n, undefined
        Cases whose value is defined, and those whose value is not.
    mean, low, high
        Mean over the defined ones and its bootstrap percentile interval.
    minimum, first_quartile, median, third_quartile, maximum
        Quantiles of the defined ones, linearly interpolated.
    worst, worst_case
        Value and name of the worst case; NaN and "" for a metric without direction.
    """

    model: str
    group: str
    metric: str
    n: int
    undefined: int
    mean: float
    low: float
    high: float
    minimum: float
    first_quartile: float
    median: float
    third_quartile: float
    maximum: float
    worst: float
    worst_case: str


@dataclass(frozen=True)
class Study:
    """The saved cases of one or more models.

    Examples
    --------
    >>> import numpy as np, streamloss as sl, zarr
    >>> for name in ("a", "b"):
    ...     for folder in ("truth", "unet"):
    ...         _ = zarr.save_array(f"{folder}/{name}.zarr", np.eye(4) > 0)
    >>> cases, _ = sl.find_cases("truth", "unet")
    >>> done = sl.batch(cases, output="scores", metrics="dice,iou")
    >>> study = sl.Study.load("scores")
    >>> study.models, study.metrics
    (['unet'], ['dice', 'iou'])
    >>> [(case.name, case.values["dice"]) for case in study.cases]
    [('a', 1.0), ('b', 1.0)]
    """

    cases: tuple[SavedCase, ...]

    @classmethod
    def load(cls, folder: str | Path) -> "Study":
        """Read what a batch saved.

        Parameters
        ----------
        folder
            Output folder of `batch`, or the folder of one model in its
            `cases`.

        Raises
        ------
        InvalidInputError
            If there are no results, or one is damaged.
        """
        cases = saved_cases(Path(folder))
        if not cases:
            raise InvalidInputError(f"{folder} holds no results of a batch")
        return cls(cases)

    @property
    def models(self) -> list[str]:
        """The models, sorted."""
        return sorted({case.model for case in self.cases})

    @property
    def metrics(self) -> list[str]:
        """The metrics of any case, in the order of the first that has them."""
        return list(dict.fromkeys(name for case in self.cases for name in case.values))

    def of(self, model: str) -> "Study":
        """Return the cases of one model."""
        return Study(tuple(case for case in self.cases if case.model == model))

    def summary(
        self,
        *,
        by_group: bool = False,
        confidence: float = 0.95,
        resamples: int = RESAMPLES,
        seed: int = 0,
    ) -> list[Summary]:
        """Sum up each metric over the cases of each model.

        Parameters
        ----------
        by_group
            Whether each group of cases is summed up on its own.
        confidence
            Probability of the bootstrap intervals, between 0 and 1.
        resamples
            How often cases are drawn again, with replacement.
        seed
            Of the random numbers; the same seed gives the same bytes.
        """
        strata: dict[tuple[str, str], list[SavedCase]] = {}
        for case in self.cases:
            strata.setdefault((case.model, case.group if by_group else ""), []).append(case)
        metrics = self.metrics
        rows = []
        for (model, group), cases in sorted(strata.items()):
            values = [_defined(cases, metric) for metric in metrics]
            samples = [np.array(list(defined.values())) for defined in values]
            intervals = bootstrap_intervals(samples, confidence, resamples, seed)
            rows += [
                _summarise(model, group, metric, defined, len(cases) - len(defined), interval)
                for metric, defined, interval in zip(metrics, values, intervals, strict=True)
            ]
        return rows


def result_paths(folder: Path) -> list[Path]:
    """Return the result files of an output folder, or of the folder of one model, sorted."""
    root = folder / CASES
    pattern = (root, "*/*.json") if root.is_dir() else (folder, "*.json")
    return sorted(path for path in pattern[0].glob(pattern[1]) if not path.name.startswith("."))


def saved_cases(
    folder: Path, known: Mapping[Path, SavedCase] = MappingProxyType({})
) -> tuple[SavedCase, ...]:
    """Read the results of a folder but those that are known, and return all by model and name.

    Raises
    ------
    InvalidInputError
        If one is no result of a batch, or a case is there twice: a copy would enter the means.
    """
    found = [known.get(path) or SavedCase.read(path).brief() for path in result_paths(folder)]
    cases = tuple(sorted(found, key=lambda case: (case.model, case.name)))
    for one, other in pairwise(cases):
        if (one.model, one.name) == (other.model, other.name):
            raise InvalidInputError(
                f"{one.path} and {other.path} are both the result of case {one.name} of model "
                f"{one.model}: remove one"
            )
    return cases


def read_saved(path: Path) -> tuple[Result, dict[str, Any]]:
    """Return a result that a batch saved, and the facts that it saved with it.

    Raises
    ------
    InvalidInputError
        If it is not the result of a batch.
    """
    try:
        plain = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InvalidInputError(f"{path} is not a result: {error}") from None
    try:
        result = Result.from_dict(plain)
    except InvalidInputError as error:
        raise InvalidInputError(f"{path} is {error}") from None
    batch = plain.get("batch")
    if not isinstance(batch, dict):
        raise InvalidInputError(f"{path} was not saved by a batch")
    return result, batch


def _defined(cases: Sequence[SavedCase], metric: str) -> dict[str, float]:
    """Return the values of a metric that are defined, by the names of the cases."""
    values = {case.name: case.values.get(metric, math.nan) for case in cases}
    return {name: value for name, value in values.items() if not math.isnan(value)}


def _summarise(
    model: str,
    group: str,
    metric: str,
    defined: Mapping[str, float],
    undefined: int,
    interval: tuple[float, float],
) -> Summary:
    if not defined:
        nan = math.nan
        return Summary(
            model, group, metric, 0, undefined, nan, nan, nan, nan, nan, nan, nan, nan, nan, ""
        )
    numbers = np.array(list(defined.values()))
    minimum, first, middle, third, maximum = map(
        float, np.quantile(numbers, (0.0, 0.25, 0.5, 0.75, 1.0))
    )
    better = higher_is_better(metric)
    worst_case = ""
    if better is not None:
        worst_case = (min if better else max)(defined, key=lambda name: defined[name])
    low, high = interval
    return Summary(
        model=model,
        group=group,
        metric=metric,
        n=len(defined),
        undefined=undefined,
        mean=mean(numbers),
        low=low,
        high=high,
        minimum=minimum,
        first_quartile=first,
        median=middle,
        third_quartile=third,
        maximum=maximum,
        worst=defined.get(worst_case, math.nan),
        worst_case=worst_case,
    )


def mean(numbers: NDArray[np.float64]) -> float:
    """Return the mean, correctly rounded sum first, so that no order of cases shows."""
    return math.fsum(numbers) / len(numbers)


def bootstrap_intervals(
    samples: Sequence[NDArray[np.float64]],
    confidence: float = 0.95,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> list[tuple[float, float]]:
    """Return the percentile interval of the mean over resampled cases, for each sample of numbers.

    Cases are drawn with replacement, as many as there are; the interval holds the
    middle `confidence` of the means (Efron and Tibshirani, An Introduction to the
    Bootstrap, 1993, chapter 13). One case alone tells nothing of the others: NaN.
    The interval of a sample does not depend on the others.

    Raises
    ------
    InvalidInputError
        If `confidence` is not between 0 and 1, or `resamples` or `seed` are no such number.
    """
    if not isinstance(confidence, Real) or not 0.0 < confidence < 1.0:
        raise InvalidInputError(f"confidence must be between 0 and 1, got {confidence!r}")
    for name, number, least in (("resamples", resamples, 1), ("seed", seed, 0)):
        if not isinstance(number, Integral) or number < least:
            raise InvalidInputError(
                f"{name} must be a whole number of at least {least}, got {number!r}"
            )
    tail = (1.0 - confidence) / 2.0
    intervals = [(math.nan, math.nan)] * len(samples)
    # Samples of one size are drawn alike, which takes longer than their means do.
    by_size: dict[int, list[int]] = {}
    for place, sample in enumerate(samples):
        by_size.setdefault(len(sample), []).append(place)
    for size, places in by_size.items():
        if size < 2:
            continue
        means = np.empty((len(places), resamples))
        for start, drawn in _drawn_cases(size, resamples, seed):
            for row, place in zip(means, places, strict=True):
                row[start : start + len(drawn)] = samples[place][drawn].mean(axis=1)
        for row, place in zip(means, places, strict=True):
            low, high = np.quantile(row, (tail, 1.0 - tail))
            intervals[place] = float(low), float(high)
    return intervals


def _drawn_cases(size: int, resamples: int, seed: int) -> Iterator[tuple[int, NDArray[np.int64]]]:
    """Yield the cases of some resamples after others, with the number of the first of these."""
    generator = np.random.default_rng(seed)
    rows = max(_RESAMPLED_AT_ONCE // size, 1)
    for start in range(0, resamples, rows):
        yield start, generator.integers(0, size, (min(rows, resamples - start), size))


@cache
def higher_is_better(metric: str) -> bool | None:
    """Return the direction of a metric, None if it has none or is not known."""
    from streamloss.registry import definitions

    return next((found.higher_is_better for _, found in definitions(metric)), None)
