"""How far predicted probabilities are from the frequencies they promise.

The state holds counts, hits and exact sums of probabilities of equal-width bins, of the top
label and of every class; the kernels that fill it live in `confidence_bins`. Bins of equal mass
are read from the ranking histogram elsewhere.
"""

import math
from collections.abc import Callable
from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from streamloss import exact
from streamloss.averages import OVER_CLASSES, Ends, Presence, naive_mean, over_classes
from streamloss.losses import choice
from streamloss.metrics.confidence_bins import add_binary, add_class, add_top
from streamloss.metrics.ranking import KINDS, class_probabilities
from streamloss.slab import Slab
from streamloss.statistic import Field, Metric, Parameter, Score, Statistic
from streamloss.task import Task

MAX_BINS = 100


class Calibration(NamedTuple):
    """Voxels by confidence; only the bins asked for are used.

    Attributes
    ----------
    top_voxels, top_hits, top_sums
        Of the class with the highest probability: voxels of each bin, those that are of that
        class, and the sum of the probabilities.
    voxels, hits, sums
        The same of every channel by its own probability.
    """

    top_voxels: NDArray[np.int64]
    top_hits: NDArray[np.int64]
    top_sums: NDArray[np.int64]
    voxels: NDArray[np.int64]
    hits: NDArray[np.int64]
    sums: NDArray[np.int64]


class Bin(NamedTuple):
    """One bin: voxels, those of the class, and the sum of their probabilities."""

    voxels: int
    hits: int
    total: Fraction


def update(state: Calibration, slab: Slab, task: Task) -> None:
    """Add the voxels of a slab."""
    bins = task.parameters["bins"]
    if task.channels == 1:
        add_binary(slab.truth, slab.probabilities[0], bins, *state)
        return
    curve = task.asks("reliability_curve")
    if curve or task.asks(*_TOP_METRICS):
        add_top(slab.truth, slab.probabilities, bins, *state[:3])
    if curve or task.asks(*_CLASSWISE):
        for code, row in enumerate(slab.probabilities):
            add_class(slab.truth, row, code, bins, *(part[code] for part in state[3:]))


def top_bins(state: Calibration, task: Task) -> list[Bin]:
    """Return the bins of the top label."""
    return [
        Bin(int(state.top_voxels[b]), int(state.top_hits[b]), exact.total(state.top_sums[b]))
        for b in range(task.parameters["bins"])
    ]


def class_bins(state: Calibration, code: int, task: Task) -> list[Bin]:
    """Return the bins of one class by its own probability."""
    channel = code if task.channels > 1 else 0
    bins = [
        Bin(
            int(state.voxels[channel, b]),
            int(state.hits[channel, b]),
            exact.total(state.sums[channel, b]),
        )
        for b in range(task.parameters["bins"])
    ]
    if task.channels > 1 or code == 1:
        return bins
    return [Bin(b.voxels, b.voxels - b.hits, b.voxels - b.total) for b in reversed(bins)]


def expected_error(bins: list[Bin]) -> float:
    """Return the mean over voxels of |hits - sum of probabilities| of their bin."""
    voxels = sum(b.voxels for b in bins)
    return float(sum(abs(b.hits - b.total) for b in bins) / voxels) if voxels else math.nan


def _largest_error(bins: list[Bin]) -> float:
    gaps = [abs(b.hits - b.total) / b.voxels for b in bins if b.voxels]
    return float(max(gaps)) if gaps else math.nan


def _mean_error(bins: list[Bin]) -> float:
    gaps = [abs(b.hits - b.total) / b.voxels for b in bins if b.voxels]
    return float(sum(gaps) / len(gaps)) if gaps else math.nan


def _reliability(bins: list[Bin]) -> float:
    voxels = sum(b.voxels for b in bins)
    squares = (Fraction(b.hits - b.total) ** 2 / b.voxels for b in bins if b.voxels)
    return float(sum(squares) / voxels) if voxels else math.nan


def _resolution(bins: list[Bin]) -> float:
    voxels = sum(b.voxels for b in bins)
    if not voxels:
        return math.nan
    base = Fraction(sum(b.hits for b in bins), voxels)
    squares = (b.voxels * (Fraction(b.hits, b.voxels) - base) ** 2 for b in bins if b.voxels)
    return float(sum(squares) / voxels)


def _uncertainty(bins: list[Bin]) -> float:
    voxels = sum(b.voxels for b in bins)
    if not voxels:
        return math.nan
    base = Fraction(sum(b.hits for b in bins), voxels)
    return float(base * (1 - base))


# A mean of probabilities is off by the grid, their gap to a frequency as much, a square twice.
_ERROR = 2 * exact.FIXED_ROUNDING + 2.0**-52


def _top(formula: Callable[[list[Bin]], float]) -> Callable[[Calibration, Task], Score]:
    def score(state: Calibration, task: Task) -> Score:
        positive = task.channels == 1 and task.parameters["confidence"] == "positive"
        bins = class_bins(state, 1, task) if positive else top_bins(state, task)
        return Score(formula(bins), error_bound=_ERROR)

    return score


def _classwise(formula: Callable[[list[Bin]], float]) -> Callable[[Calibration, Task], Score]:
    def score(state: Calibration, task: Task) -> Score:
        found = [class_bins(state, code, task) for code in range(len(task.classes))]
        sizes = [sum(b.hits for b in bins) for bins in found]

        def pooled() -> tuple[float, float]:
            scored = zip(*(found[code] for code in task.classes.scored), strict=True)
            together = [
                Bin(
                    sum(b.voxels for b in bins),
                    sum(b.hits for b in bins),
                    sum((b.total for b in bins), Fraction(0)),
                )
                for bins in scored
            ]
            return formula(together), 2 * _ERROR

        return over_classes(
            [formula(bins) for bins in found],
            task,
            [Presence(size, None) for size in sizes],
            error_bound=2 * _ERROR,
            pooled=pooled if task.classes.scored else None,
            ends=Ends(best=0.0, worst=1.0),
        )

    return score


def _curve(state: Calibration, task: Task) -> Score:
    def points(bins: list[Bin]) -> list[dict[str, float | int | None]]:
        return [
            {
                "voxels": b.voxels,
                "confidence": float(b.total / b.voxels) if b.voxels else None,
                "frequency": b.hits / b.voxels if b.voxels else None,
            }
            for b in bins
        ]

    top = top_bins(state, task)
    details = {
        "top_label": points(top),
        **{
            str(task.classes.values[code]): points(class_bins(state, code, task))
            for code in task.classes.scored
        },
    }
    return Score(expected_error(top), error_bound=_ERROR, details=details)


def reference(
    truth: NDArray[Any], prediction: NDArray[Any], task: Task
) -> dict[str, tuple[float, dict[int, float]]]:
    """Return every metric here from whole arrays, bin by bin."""
    p = class_probabilities(prediction, task)
    count = task.parameters.get("bins", 15)

    def binned(chance: NDArray[np.float64], hit: NDArray[np.bool_]) -> list[Bin]:
        places = np.clip(np.ceil(chance * count).astype(int) - 1, 0, None)
        chosen = [places == b for b in range(count)]
        return [
            Bin(int(c.sum()), int(hit[c].sum()), Fraction(math.fsum(chance[c]))) for c in chosen
        ]

    label = np.argmax(p, axis=0) if task.channels > 1 else (p[1] >= 0.5).astype(int)
    top = own = binned(np.take_along_axis(p, label[np.newaxis], 0)[0], truth == label)
    if task.channels == 1 and task.parameters.get("confidence") == "positive":
        own = binned(p[1], truth == 1)
    results: dict[str, tuple[float, dict[int, float]]] = {
        "expected_calibration_error": (expected_error(own), {}),
        "maximum_calibration_error": (_largest_error(own), {}),
        "average_calibration_error": (_mean_error(own), {}),
        "reliability_curve": (expected_error(top), {}),
    }
    for name, formula in _CLASSWISE.items():
        per_class = {}
        for code in task.classes.scored:
            # The bins of the other class of a binary problem are those of the one, mirrored.
            bins = binned(p[1] if task.channels == 1 else p[code], truth == max(code, 1))
            if task.channels > 1:
                bins = binned(p[code], truth == code)
            elif code == 0:
                bins = [Bin(b.voxels, b.voxels - b.hits, b.voxels - b.total) for b in bins[::-1]]
            per_class[code] = formula(bins)
        results[name] = naive_mean(per_class, task), per_class
    return results


_TOP_METRICS = (
    "expected_calibration_error",
    "maximum_calibration_error",
    "average_calibration_error",
)
_CLASSWISE: dict[str, Callable[[list[Bin]], float]] = {
    "classwise_calibration_error": expected_error,
    "brier_reliability": _reliability,
    "brier_resolution": _resolution,
    "brier_uncertainty": _uncertainty,
}


def _bins(value: Any) -> int:
    text = str(value)
    if isinstance(value, bool) or not text.isdecimal() or not 1 <= int(text) <= MAX_BINS:
        raise ValueError(f"expected a whole number from 1 to {MAX_BINS}")
    return int(text)


BINS = Parameter("bins", 15, _bins, "bins of calibration metrics [default: 15]")
_CONFIDENCE = Parameter(
    "confidence",
    "top",
    choice("top", "positive"),
    "probability that binary calibration errors look at: of the label that is called, or of the "
    "positive class [default: top]",
)
_OF_TOP: dict[str, Any] = {
    "parameters": (BINS, _CONFIDENCE),
    "conventions": {"torchmetrics": {"confidence": "positive"}},
}


def _metric(name: str, title: str, score: Any, formula: str, source: str, **facts: Any) -> Metric:
    return Metric(
        name=name,
        title=title,
        score=score,
        formula=formula,
        source=source,
        kinds=KINDS,
        empties="no voxel scored: undefined",
        **{
            "range": (0.0, 1.0),
            "higher_is_better": False,
            "parameters": (BINS,),
            "invariances": frozenset({"duplication"}),
            **facts,
        },
    )


_TOP = "bins (k/M, (k + 1)/M] of the highest probability of a voxel; n: voxels, h: those of "
_SYMBOLS = f"{_TOP}that class, s: sum of the probabilities of a bin, N: all voxels"
_OWN = (
    "bins (k/M, (k + 1)/M] of the probability of a class; n: voxels, h: those of the class, "
    "s: sum of the probabilities of a bin, N: all voxels; mean over the scored classes"
)
_OVER = (BINS, *OVER_CLASSES)

STATISTIC = Statistic(
    name="calibration",
    state=Calibration,
    fields={
        "top_voxels": Field((MAX_BINS,)),
        "top_hits": Field((MAX_BINS,)),
        "top_sums": Field((MAX_BINS,), exact.FIXED_LIMBS),
        "voxels": Field(("channel", MAX_BINS)),
        "hits": Field(("channel", MAX_BINS)),
        "sums": Field(("channel", MAX_BINS), exact.FIXED_LIMBS),
    },
    update=update,
    reference=reference,
    score_limit=2.0**16,
    metrics=(
        _metric(
            "expected_calibration_error",
            "Expected calibration error (ECE)",
            _top(expected_error),
            f"sum over bins of |h - s| / N; {_SYMBOLS}",
            "Guo et al. 2017, arXiv:1706.04599; torchmetrics MulticlassCalibrationError(norm='l1')",
            differs="torchmetrics' binary one takes the probability of the positive class",
            **_OF_TOP,
        ),
        _metric(
            "maximum_calibration_error",
            "Maximum calibration error (MCE)",
            _top(_largest_error),
            f"largest |h - s| / n of the bins; {_SYMBOLS}",
            "Guo et al. 2017, arXiv:1706.04599; torchmetrics CalibrationError(norm='max')",
            differs="as expected_calibration_error",
            **_OF_TOP,
        ),
        _metric(
            "average_calibration_error",
            "Average calibration error of equal-width bins",
            _top(_mean_error),
            f"mean of |h - s| / n over the bins that are not empty; {_SYMBOLS}",
            "Neumann et al. 2018; MONAI CalibrationErrorMetric(calibration_reduction='average')",
            parameters=(BINS, _CONFIDENCE),
        ),
        _metric(
            "classwise_calibration_error",
            "Classwise expected calibration error",
            _classwise(_CLASSWISE["classwise_calibration_error"]),
            f"sum over bins of |h - s| / N; {_OWN}",
            "Kull et al. 2019, arXiv:1910.12656; torchmetrics BinaryCalibrationError for two",
            parameters=_OVER,
        ),
        _metric(
            "brier_reliability",
            "Reliability part of the Brier score",
            _classwise(_CLASSWISE["brier_reliability"]),
            f"sum over bins of n (s/n - h/n)^2 / N; {_OWN}",
            "Murphy 1973, doi:10.1175/1520-0450(1973)012<0595:ANVPOT>2.0.CO;2, of the bins' means",
            parameters=_OVER,
        ),
        _metric(
            "brier_resolution",
            "Resolution part of the Brier score",
            _classwise(_CLASSWISE["brier_resolution"]),
            f"sum over bins of n (h/n - f)^2 / N, f: frequency of the class; {_OWN}",
            "Murphy 1973, doi:10.1175/1520-0450(1973)012<0595:ANVPOT>2.0.CO;2, of the bins' means",
            parameters=_OVER,
            higher_is_better=True,
            range=(0.0, 0.25),
        ),
        _metric(
            "brier_uncertainty",
            "Uncertainty part of the Brier score",
            _classwise(_CLASSWISE["brier_uncertainty"]),
            f"f (1 - f), f: frequency of the class; {_OWN}. Reliability - resolution + "
            "uncertainty is the Brier score of forecasts replaced by their bin's mean",
            "Murphy 1973, doi:10.1175/1520-0450(1973)012<0595:ANVPOT>2.0.CO;2, of the bins' means",
            parameters=_OVER,
            higher_is_better=None,
            range=(0.0, 0.25),
        ),
        _metric(
            "reliability_curve",
            "Reliability curve",
            _curve,
            "frequency of a class over its probability; the value is the expected calibration "
            f"error, the details hold each bin; {_SYMBOLS}",
            "Guo et al. 2017, arXiv:1706.04599; scikit-learn calibration_curve",
        ),
    ),
)
