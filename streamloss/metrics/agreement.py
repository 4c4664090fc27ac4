"""Agreement over all classes at once, read from the confusion matrix.

Accuracy balanced over classes, correlation, kappa, costs and the matrix itself. All are
integers or fractions until their last division or root.
"""

import json
import math
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamloss.errors import InvalidInputError
from streamloss.metrics.class_counts import ClassCounts, Confusion, one_against_rest
from streamloss.metrics.confusion import (
    KINDS,
    OF_CLASSES,
    predicted_codes,
    ratio,
)
from streamloss.statistic import Metric, Parameter, Readings, Score
from streamloss.task import Task

KAPPA_WEIGHTS = ("none", "linear", "quadratic")


def balanced_accuracy(state: Confusion, task: Task) -> Score:
    """Return the mean recall of all classes in the truth; per class (TPR + TNR) / 2."""
    classes = one_against_rest(state)
    recalls = [
        Fraction(c.true_positives, c.true_positives + c.false_negatives)
        for c in classes
        if c.true_positives + c.false_negatives
    ]
    value = ratio(sum(recalls, Fraction(0)), len(recalls))
    return Score(value, {code: _half_rates(classes[code], task) for code in task.classes.scored})


def _half_rates(c: ClassCounts, task: Task) -> float:
    positives = c.true_positives + c.false_negatives
    negatives = c.true_negatives + c.false_positives
    if not positives or not negatives:
        return math.nan
    rates = Fraction(c.true_positives, positives) + Fraction(c.true_negatives, negatives)
    return float(rates / 2)


def mcc(state: Confusion, task: Task) -> Score:
    """Return Matthews' correlation of all classes; per class, of one against the rest."""
    classes = one_against_rest(state)
    per_class = {code: _mcc_of(classes[code], task) for code in task.classes.scored}
    return Score(_correlation(state.counts.tolist()), per_class)


def _mcc_of(c: ClassCounts, task: Task) -> float:
    return _correlation(_matrix(c))


def _matrix(c: ClassCounts) -> list[list[int]]:
    return [[c.true_negatives, c.false_positives], [c.false_negatives, c.true_positives]]


def _correlation(counts: list[list[int]]) -> float:
    """Return Gorodkin's R_K of a matrix of Python integers."""
    total = sum(map(sum, counts))
    truth = [sum(row) for row in counts]
    prediction = [sum(column) for column in zip(*counts, strict=True)]
    right = sum(counts[code][code] for code in range(len(counts)))
    covariance = right * total - sum(t * p for t, p in zip(truth, prediction, strict=True))
    spread_truth = total**2 - sum(t * t for t in truth)
    spread_prediction = total**2 - sum(p * p for p in prediction)
    square = ratio(covariance**2, spread_truth * spread_prediction)
    return math.copysign(math.sqrt(square), covariance)


def cohen_kappa(state: Confusion, task: Task) -> Score:
    """Return Cohen's kappa of all classes; per class, of one against the rest."""
    classes = one_against_rest(state)
    per_class = {code: _kappa_of(classes[code], task) for code in task.classes.scored}
    return Score(_kappa(state.counts.tolist(), task.parameters["kappa_weights"]), per_class)


def _kappa_of(c: ClassCounts, task: Task) -> float:
    return _kappa(_matrix(c), "none")


def _kappa(counts: list[list[int]], kind: str) -> float:
    total = sum(map(sum, counts))
    truth = [sum(row) for row in counts]
    prediction = [sum(column) for column in zip(*counts, strict=True)]
    observed = expected = 0
    for i, row in enumerate(counts):
        for j, voxels in enumerate(row):
            weight = {"none": int(i != j), "linear": abs(i - j), "quadratic": (i - j) ** 2}[kind]
            observed += weight * voxels
            expected += weight * truth[i] * prediction[j]
    return ratio(expected - observed * total, expected)


def confusion_matrix(state: Confusion, task: Task) -> Score:
    """Return the voxels whose class is right, and as details the whole matrix."""
    matrix = state.counts.tolist()
    return Score(
        float(sum(matrix[code][code] for code in range(len(matrix)))),
        details={"labels": list(task.classes.values), "matrix": matrix},
    )


def _costs(task: Task) -> list[list[Fraction]]:
    size = len(task.classes)
    given = task.parameters["cost_matrix"]
    if given is None:
        return [[Fraction(int(i != j)) for j in range(size)] for i in range(size)]
    return [[Fraction(cost) for cost in row] for row in given]


def expected_cost(state: Confusion, task: Task) -> Score:
    """Return the mean cost of a voxel's prediction."""
    cost, total, _ = _cost_sums(state, task)
    return Score(ratio(cost, total))


def normalized_expected_cost(state: Confusion, task: Task) -> Score:
    """Return the expected cost over that of the best constant prediction."""
    cost, _, naive = _cost_sums(state, task)
    return Score(ratio(cost, naive))


def _cost_sums(state: Confusion, task: Task) -> tuple[Fraction, int, Fraction]:
    """Return the sum of all costs, the voxels, and the costs if one class were predicted."""
    counts, costs = state.counts.tolist(), _costs(task)
    codes = range(len(counts))
    truth = [sum(row) for row in counts]
    cost = sum((costs[i][j] * counts[i][j] for i in codes for j in codes), Fraction(0))
    naive = (sum((costs[i][j] * truth[i] for i in codes), Fraction(0)) for j in codes)
    return cost, sum(truth), min(naive, default=Fraction(0))


def _errors_of(c: ClassCounts, task: Task) -> float:
    return ratio(c.false_positives + c.false_negatives, sum(c))


def _normalized_errors_of(c: ClassCounts, task: Task) -> float:
    positives = c.true_positives + c.false_negatives
    return ratio(c.false_positives + c.false_negatives, min(positives, sum(c) - positives))


def validate(task: Task) -> None:
    """Refuse a cost matrix of another size than the classes."""
    matrix = task.parameters.get("cost_matrix")
    if matrix is None:
        return
    size = len(task.classes)
    if task.classes.discovered:
        raise InvalidInputError("cost_matrix needs `classes`, which give its rows their labels")
    if len(matrix) != size:
        raise InvalidInputError(
            f"cost_matrix must have {size} rows and columns, one per class "
            f"{list(task.classes.values)}, got {len(matrix)}"
        )


def reference(
    truth: NDArray[Any], prediction: NDArray[Any], task: Task
) -> dict[str, tuple[float, dict[int, float]]]:
    """Return every metric here from whole arrays, spelled out with NumPy."""
    prediction = predicted_codes(prediction, task)
    size = len(task.classes)
    counts = np.zeros((size, size))
    np.add.at(counts, (np.asarray(truth, np.intp), np.asarray(prediction, np.intp)), 1)

    def correlation(matrix: NDArray[np.float64]) -> float:
        n, t, p = matrix.sum(), matrix.sum(1), matrix.sum(0)
        spread = np.sqrt((n * n - t @ t) * (n * n - p @ p))
        return float((n * np.trace(matrix) - t @ p) / spread) if spread else math.nan

    def kappa(matrix: NDArray[np.float64], kind: str) -> float:
        i, j = np.indices(matrix.shape)
        weights = {"none": i != j, "linear": abs(i - j), "quadratic": (i - j) ** 2}[kind]
        chance = np.outer(matrix.sum(1), matrix.sum(0)) / matrix.sum()
        expected = (weights * chance).sum()
        return float(1 - (weights * matrix).sum() / expected) if expected else math.nan

    with np.errstate(invalid="ignore"):
        recalls = np.diag(counts) / counts.sum(1)
    two = {}
    for code in task.classes.scored:
        t, p = truth == code, prediction == code
        two[code] = np.array([[(~t & ~p).sum(), (~t & p).sum()], [(t & ~p).sum(), (t & p).sum()]])
    halves = {
        code: (m[0, 0] / m[0].sum() + m[1, 1] / m[1].sum()) / 2 if m.sum(1).all() else math.nan
        for code, m in two.items()
    }
    costs = np.array(_costs(task) if "cost_matrix" in task.parameters else 1 - np.eye(size), float)
    naive = float((costs * counts.sum(1)[:, np.newaxis]).sum(0).min())
    cost = float((costs * counts).sum())
    kind = task.parameters.get("kappa_weights", "none")
    return {
        "balanced_accuracy": (float(np.nanmean(recalls)), halves),
        "mcc": (correlation(counts), {c: correlation(m * 1.0) for c, m in two.items()}),
        "cohen_kappa": (kappa(counts, kind), {c: kappa(m * 1.0, "none") for c, m in two.items()}),
        "confusion_matrix": (float(np.trace(counts)), {}),
        "expected_cost": (cost / truth.size, {}),
        "normalized_expected_cost": (cost / naive if naive else math.nan, {}),
    }


def _kappa_weights(value: Any) -> str:
    text = "none" if value is None else value
    if text not in KAPPA_WEIGHTS:
        raise ValueError("expected none, linear or quadratic")
    return str(text)


def _cost_matrix(value: Any) -> tuple[tuple[float, ...], ...] | None:
    if value is None or (isinstance(value, str) and value.lower() == "none"):
        return None
    try:
        rows = json.loads(value) if isinstance(value, str) else value
        matrix = np.asarray(rows, np.float64)
    except (TypeError, ValueError):
        matrix = np.empty(0)
    if matrix.ndim != 2 or len(matrix) != matrix.shape[1] or not (matrix >= 0).all():
        raise ValueError("expected rows of costs of at least 0 such as [[0, 1], [5, 0]]")
    if not np.isfinite(matrix).all():
        raise ValueError("expected finite costs")
    return tuple(tuple(float(cost) for cost in row) for row in matrix)


_KAPPA = Parameter(
    "kappa_weights",
    "none",
    _kappa_weights,
    "cost of a disagreement in kappa: none (all alike), linear or quadratic in the "
    "difference of class positions [default: none]",
)
_COSTS = Parameter(
    "cost_matrix",
    None,
    _cost_matrix,
    "costs as rows of true and columns of predicted classes, such as [[0,1],[5,0]] "
    "[default: 0 if right, else 1]",
)
_NO_VOXEL = "no voxel scored: undefined"


def _metric(name: str, title: str, score: Any, formula: str, source: str, **facts: Any) -> Metric:
    return Metric(
        name=name,
        title=title,
        score=score,
        formula=formula,
        source=source,
        kinds=KINDS,
        **{
            "range": (0.0, 1.0),
            "higher_is_better": True,
            "empties": _NO_VOXEL,
            "invariances": OF_CLASSES,
            **facts,
        },
    )


READINGS = Readings(
    statistic="confusion",
    reference=reference,
    validate=validate,
    metrics=(
        _metric(
            "balanced_accuracy",
            "Balanced accuracy",
            balanced_accuracy,
            "mean over the classes in the truth, background included, of the share of their "
            "voxels that is right; per class (recall + specificity) / 2",
            "scikit-learn balanced_accuracy_score",
            empties="classes that are not in the truth are left out; per class undefined then",
            of_counts=_half_rates,
        ),
        _metric(
            "mcc",
            "Matthews correlation coefficient",
            mcc,
            "(c n - sum_k t_k p_k) / sqrt((n^2 - sum_k t_k^2) (n^2 - sum_k p_k^2)); n: voxels, "
            "c: those that are right, t_k and p_k: voxels of class k in truth and prediction, "
            "background included; per class of one against the rest",
            "scikit-learn matthews_corrcoef; Gorodkin 2004, doi:10.1016/j.compbiolchem.2004.09.006",
            range=(-1.0, 1.0),
            symmetric=True,
            empties="truth or prediction of one class only: undefined",
            differs="scikit-learn gives 0 where it is undefined",
            of_counts=_mcc_of,
        ),
        _metric(
            "cohen_kappa",
            "Cohen's kappa",
            cohen_kappa,
            "1 - sum_ij w_ij n_ij / sum_ij w_ij e_ij; n_ij: voxels of true class i and predicted "
            "class j, background included, e_ij: those expected by chance, w_ij: 1 unless "
            "i = j, or |i - j|, or (i - j)^2; per class of one against the rest, unweighted",
            "scikit-learn cohen_kappa_score; Cohen 1960, doi:10.1177/001316446002000104",
            range=(-math.inf, 1.0),
            symmetric=True,
            empties="truth and prediction of one and the same class: undefined",
            parameters=(_KAPPA,),
            of_counts=_kappa_of,
        ),
        _metric(
            "confusion_matrix",
            "Confusion matrix",
            confusion_matrix,
            "voxels whose class is right; details hold the voxels of each true class (row) and "
            "predicted class (column)",
            "scikit-learn confusion_matrix",
            range=(0.0, math.inf),
            higher_is_better=None,
            unit="voxels",
            combine="sum",
            symmetric=False,
            empties="an empty class has zeros",
            invariances=frozenset({"class_permutation"}),
        ),
        _metric(
            "expected_cost",
            "Expected cost",
            expected_cost,
            "sum_ij c_ij n_ij / n; n_ij: voxels of true class i and predicted class j, c_ij: "
            "the cost of that, n: voxels",
            "Ferrer 2022, arXiv:2209.05355",
            range=(0.0, math.inf),
            higher_is_better=False,
            parameters=(_COSTS,),
            of_counts=_errors_of,
        ),
        _metric(
            "normalized_expected_cost",
            "Normalized expected cost",
            normalized_expected_cost,
            "sum_ij c_ij n_ij / min_j sum_i c_ij t_i: the expected cost over that of always "
            "predicting the one class that costs least; t_i: voxels of true class i",
            "Ferrer 2022, arXiv:2209.05355",
            range=(0.0, math.inf),
            higher_is_better=False,
            empties="undefined where a constant prediction costs nothing",
            parameters=(_COSTS,),
            differs="MetricsReloaded's default costs are 1 / (2 prior) of either class",
            of_counts=_normalized_errors_of,
        ),
    ),
)
