"""Paired comparison of two models over the same cases, from saved results.

Differences of the headline values, case by case; no volume is read again.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamloss.errors import InvalidInputError
from streamloss.extras import require
from streamloss.study import (
    RESAMPLES,
    SavedCase,
    Study,
    bootstrap_intervals,
    higher_is_better,
    mean,
    read_saved,
)

# Of the largest value, to which differences are ranked.
_DIGITS = 12


@dataclass(frozen=True)
class Difference:
    """One metric: second minus first, over the cases where both are defined.

    Attributes
    ----------
    metric
        Its name.
    n, undefined
        Pairs with both values, and those without.
    mean_a, mean_b
        Means over these pairs.
    difference, low, high
        Mean of b - a and its bootstrap percentile interval.
    median_difference
        Median of b - a.
    p, p_holm
        Of the two-sided Wilcoxon signed-rank test, and after Holm's correction over the
        metrics compared; NaN without pairs.
    better
        "a" or "b" by the mean difference, "" if it is 0 or the metric has no direction.
    """

    metric: str
    n: int
    undefined: int
    mean_a: float
    mean_b: float
    difference: float
    low: float
    high: float
    median_difference: float
    p: float
    p_holm: float
    better: str


@dataclass(frozen=True)
class Comparison:
    """What `compare` returns.

    Attributes
    ----------
    model_a, model_b
        What is compared.
    differences
        One for each metric that both have.
    unmatched
        Cases that only one of them has, which are left out.
    """

    model_a: str
    model_b: str
    differences: tuple[Difference, ...]
    unmatched: tuple[str, ...]


def compare(
    a: str | Path | Study,
    b: str | Path | Study,
    *,
    metrics: str | Sequence[str] | None = None,
    allow_unmatched: bool = False,
    allow_copies: bool = False,
    confidence: float = 0.95,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Comparison:
    """Compare two models over the cases both were scored on.

    The test is Wilcoxon's signed-rank test, two-sided: differences of 0 are
    left out (Wilcoxon's own rule), small samples without ties are tested
    exactly, and if all differences are 0 then p is 1. Differences are ranked
    as they are to 12 digits of the largest value: what they differ by beyond
    these is rounding, which must not part ties. Holm's step-down correction
    is over the metrics.

    Parameters
    ----------
    a, b
        Output folder of a `batch` with one model, the folder of one model in
        its `cases`, or a `Study`.
    metrics
        Which to compare, names or text such as "dice,iou"; by default all
        that both have.
    allow_unmatched
        Whether cases that only one has are left out instead of refused.
    allow_copies
        Whether truths and masks that are not the same files are taken for
        copies instead of refused; a copy that kept the times of its files is
        known for one.
    confidence, resamples, seed
        Of the bootstrap intervals, which resample pairs of cases.

    Raises
    ------
    InvalidInputError
        If one holds several models, cases are unmatched or were scored with
        different options or against different truths or masks, or a metric is
        lacking.
    MissingPackageError
        If SciPy is not installed; names the extra.

    References
    ----------
    Wilcoxon, Individual comparisons by ranking methods, Biometrics Bulletin 1,
    1945. Holm, A simple sequentially rejective multiple test procedure,
    Scandinavian Journal of Statistics 6, 1979.

    Examples
    --------
    >>> import numpy as np, streamloss as sl, zarr
    >>> for number in range(6):
    ...     truth = np.arange(64).reshape(4, 4, 4) < 20 + number
    ...     for folder, missed in (("truth", 0), ("unet", 2), ("vnet", 6)):
    ...         found = truth & (np.arange(64).reshape(4, 4, 4) >= missed)
    ...         array = zarr.save_array(f"{folder}/{number}.zarr", found)
    >>> for model in ("unet", "vnet"):
    ...     cases, _ = sl.find_cases("truth", model)
    ...     done = sl.batch(cases, output=f"scores-{model}", metrics="dice")
    >>> dice = sl.compare("scores-unet", "scores-vnet").differences[0]
    >>> round(dice.difference, 3), dice.p, dice.better
    (-0.108, 0.03125, 'a')
    """
    require("scipy.stats", extra="stats", what="comparing")
    first, second = _one_model(a), _one_model(b)
    cases_a, cases_b = ({case.name: case for case in study.cases} for study in (first, second))
    names = sorted(set(cases_a) & set(cases_b))
    unmatched = sorted(set(cases_a) ^ set(cases_b))
    if unmatched and not allow_unmatched:
        raise InvalidInputError(
            f"{len(unmatched)} cases are in one of the two only, the first is {unmatched[0]}: "
            "pass `allow_unmatched` to leave them out"
        )
    if not names:
        raise InvalidInputError("the two have no case in common")
    common = [metric for metric in first.metrics if metric in second.metrics]
    if not common:
        raise InvalidInputError(
            f"the two have no metric in common: {first.models[0]} has "
            f"{', '.join(first.metrics)}, {second.models[0]} has {', '.join(second.metrics)}"
        )
    given = metrics.split(",") if isinstance(metrics, str) else metrics or common
    wanted = list(dict.fromkeys(name.strip() for name in given))
    for metric in wanted:
        if metric not in common:
            raise InvalidInputError(
                f"{metric} is not in both: common metrics are {', '.join(common)}"
            )
    for name in names:
        _refuse_what_differs(cases_a[name], cases_b[name], allow_copies)
    values = {
        metric: np.array(
            [[cases[name].values.get(metric, math.nan) for name in names]
             for cases in (cases_a, cases_b)]
        )
        for metric in wanted
    }  # fmt: skip
    tested = {metric: _signed_rank(_defined(values[metric])) for metric in wanted}
    corrected = holm(tested)
    defined = [_defined(values[metric]) for metric in wanted]
    intervals = bootstrap_intervals([b - a for a, b in defined], confidence, resamples, seed)
    differences = tuple(
        _difference(
            metric,
            pairs,
            len(names) - pairs.shape[1],
            (tested[metric], corrected[metric]),
            interval,
        )
        for metric, pairs, interval in zip(wanted, defined, intervals, strict=True)
    )
    return Comparison(first.models[0], second.models[0], differences, tuple(unmatched))


def holm(p: Mapping[str, float]) -> dict[str, float]:
    """Return p values after Holm's step-down correction; NaN is no test and stays.

    The smallest of m is multiplied by m, the next by m - 1 and so on; none may be
    smaller than one before it, or larger than 1.

    Examples
    --------
    >>> holm({"dice": 0.01, "iou": 0.04, "mse": 0.03})
    {'dice': 0.03, 'iou': 0.06, 'mse': 0.06}
    """
    known = sorted((name for name in p if not math.isnan(p[name])), key=lambda name: p[name])
    corrected = dict(p)
    largest = 0.0
    for rank, name in enumerate(known):
        largest = max(largest, min((len(known) - rank) * p[name], 1.0))
        corrected[name] = largest
    return corrected


def _one_model(source: str | Path | Study) -> Study:
    study = source if isinstance(source, Study) else Study.load(source)
    models = study.models
    if len(models) != 1:
        where = "the study" if isinstance(source, Study) else str(source)
        raise InvalidInputError(
            f"{where} holds the models {', '.join(models) or 'none'}, expected one: "
            "name the folder of a model in its folder cases"
        )
    return study


def _refuse_what_differs(a: SavedCase, b: SavedCase, allow_copies: bool) -> None:
    """Refuse a pair whose values do not mean the same."""
    (first, facts_a), (second, facts_b) = read_saved(a.path), read_saved(b.path)
    prints_a, prints_b = (facts.get("fingerprint") or {} for facts in (facts_a, facts_b))
    for role in () if allow_copies else ("truth", "mask"):
        was, other = prints_a.get(role), prints_b.get(role)
        if not _is_same_source(was, other):
            one, two = ("none" if part is None else part["path"] for part in (was, other))
            raise InvalidInputError(
                f"case {a.name} was scored with the {role} {one} by {a.path} and {two} by "
                f"{b.path}, which are not the same files: the values cannot be compared, unless "
                "they are copies, then pass `allow_copies`"
            )
    for name in first.options:
        was, other = first.options[name], second.options.get(name)
        if name == "parameters":
            # Metrics that only one has may bring parameters of their own.
            shared = set(was) & set(other or {})
            was, other = ({key: part[key] for key in shared} for part in (was, other or {}))
        if was != other:
            raise InvalidInputError(
                f"case {a.name} was scored with {name} {was} by {a.path} and {other} by {b.path}: "
                "the values cannot be compared"
            )
    if first.voxels != second.voxels:
        raise InvalidInputError(
            f"case {a.name} has {first.voxels['scored']:,} scored voxels in {a.path} and "
            f"{second.voxels['scored']:,} in {b.path}: the values cannot be compared"
        )


def _is_same_source(one: Mapping[str, Any] | None, other: Mapping[str, Any] | None) -> bool:
    """Tell whether two fingerprints are of the same files, which may have been moved."""
    if one is None or other is None:
        return one is other
    key = "path" if one["digest"] is None or other["digest"] is None else "digest"
    return bool(one[key] == other[key])


def _defined(pairs: NDArray[np.float64]) -> NDArray[np.float64]:
    return pairs[:, ~np.isnan(pairs).any(axis=0)]


def _signed_rank(pairs: NDArray[np.float64]) -> float:
    from scipy.stats import wilcoxon

    if not pairs.size:
        return math.nan
    largest = float(np.abs(pairs).max())
    unit = 10.0 ** math.floor(math.log10(largest)) if largest else 1.0
    differences = np.rint((pairs[1] - pairs[0]) / unit * 10.0 ** (_DIGITS - 1))
    if not differences.any():
        return 1.0
    # SciPy counts zeros as ties that forbid the exact test, so they are left out before.
    return float(wilcoxon(differences[differences != 0.0], method="auto").pvalue)


def _difference(
    metric: str,
    defined: NDArray[np.float64],
    undefined: int,
    p: tuple[float, float],
    interval: tuple[float, float],
) -> Difference:
    n = defined.shape[1]
    nan = math.nan
    if n == 0:
        return Difference(metric, 0, undefined, nan, nan, nan, nan, nan, nan, *p, "")
    differences = defined[1] - defined[0]
    change = mean(differences)
    low, high = interval
    better = higher_is_better(metric)
    winner = ""
    if better is not None and change != 0.0:
        winner = "b" if (change > 0.0) == better else "a"
    return Difference(
        metric=metric,
        n=n,
        undefined=undefined,
        mean_a=mean(defined[0]),
        mean_b=mean(defined[1]),
        difference=change,
        low=low,
        high=high,
        median_difference=float(np.median(differences)),
        p=p[0],
        p_holm=p[1],
        better=winner,
    )
