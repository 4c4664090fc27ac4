"""The saved cases of a study as tidy CSV, JSON, Parquet and as nnU-Net's summary.json.

Every number is as it was saved, never rounded. Nothing is computed here but what nnU-Net's
format asks for.
"""

import csv
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from io import StringIO
from pathlib import Path
from secrets import token_hex
from typing import Any

import numpy as np

from streamloss.class_table import parse_classes
from streamloss.errors import InvalidInputError
from streamloss.extras import require
from streamloss.result import Result, class_key
from streamloss.study import SavedCase, Study, Summary

SCHEMA = "streamloss.batch/1"
COLUMNS = ("case", "model", "class", "metric", "value", "error_bound", "n")
NNUNET_COUNTS = {
    "FN": "false_negatives",
    "FP": "false_positives",
    "TN": "true_negatives",
    "TP": "true_positives",
}
"""The metrics that `nnunet_summary` needs of every case."""


def tidy_rows(study: Study) -> Iterator[dict[str, Any]]:
    """Yield a row for each case, metric and class, those of a case one after the other.

    Class is None in the row of the headline value. `error_bound` is that of the
    headline value, NaN in the others. `n` is the number of scored voxels of the case.
    """
    for case in map(SavedCase.full, study.cases):
        for name, metric in case.metrics.items():
            for value, number in ((None, metric.value), *metric.per_class.items()):
                yield {
                    "case": case.name,
                    "model": case.model,
                    "class": value,
                    "metric": name,
                    "value": number,
                    "error_bound": metric.error_bound if value is None else math.nan,
                    "n": case.voxels["scored"],
                    "group": case.group,
                }


def tidy_csv(study: Study) -> str:
    """Return the tidy rows as CSV; None and undefined numbers are empty cells.

    The column group is last, and only there if any case has one.
    """
    columns = [*COLUMNS, *["group"] * any(case.group for case in study.cases)]
    text = StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    for row in tidy_rows(study):
        writer.writerow([_cell(row[column]) for column in columns])
    return text.getvalue()


def write_parquet(study: Study, path: Path) -> None:
    """Write the tidy rows as Parquet: classes are text, None and undefined numbers null.

    Raises
    ------
    MissingPackageError
        If pyarrow is not installed; names the extra.
    """
    pyarrow = require_pyarrow()
    grouped = any(case.group for case in study.cases)
    types = {
        **dict.fromkeys(("case", "model", "class", "metric", "group"), pyarrow.string()),
        "n": pyarrow.int64(),
        **dict.fromkeys(("value", "error_bound"), pyarrow.float64()),
    }
    names = [*COLUMNS, *["group"] * grouped]
    rows = [{name: _none(row[name]) for name in names} for row in tidy_rows(study)]
    for row in rows:
        # Some classes are names, and the tables of all batches have one schema.
        row["class"] = None if row["class"] is None else str(row["class"])
    schema = pyarrow.schema([(name, types[name]) for name in names])
    temporary = path.with_name(f".{token_hex(8)}.partial")
    try:
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows, schema=schema), temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def require_pyarrow() -> Any:
    """Return pyarrow with its Parquet, or refuse to start if that cannot be written at the end.

    Raises
    ------
    MissingPackageError
        If pyarrow is not installed; names the extra.
    """
    require("pyarrow.parquet", extra="parquet", what="Parquet")
    return require("pyarrow", extra="parquet", what="Parquet")


def study_json(
    study: Study, summaries: Iterable[Summary], failures: Sequence[Mapping[str, str]]
) -> str:
    """Return values of all cases, summaries and failures as JSON; undefined is null."""
    cases = []
    for case in map(SavedCase.full, study.cases):
        metrics = {
            name: {
                "value": _none(metric.value),
                "per_class": {str(key): _none(value) for key, value in metric.per_class.items()},
                "error_bound": _none(metric.error_bound),
                "unit": metric.unit,
            }
            for name, metric in case.metrics.items()
        }
        row = {"case": case.name, "model": case.model, "group": case.group}
        cases.append({**row, "voxels": case.voxels, "metrics": metrics})
    plain = {
        "schema": SCHEMA,
        "summary": [
            {key: _none(value) for key, value in asdict(summary).items()} for summary in summaries
        ],
        "failures": list(failures),
        "cases": cases,
    }
    return json.dumps(plain, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def require_labels(options: Mapping[str, Any]) -> None:
    """Refuse to start if nnU-Net's summary has no key for the classes.

    Raises
    ------
    InvalidInputError
        If the channels of a multilabel volume have no label values.
    """
    classes = options.get("classes")
    if options.get("multilabel") and (classes is None or parse_classes(classes)[1] is not None):
        raise InvalidInputError(
            "nnU-Net's summary names classes by label values: give `classes` a list of those "
            f"of the channels, such as 1,2,3, got {classes!r}"
        )


def nnunet_summary(study: Study) -> str:
    """Return the cases of one model as nnU-Net v2 writes summary.json.

    Keys and rules are those of `compute_metrics_on_folder` in nnU-Net's
    `nnunetv2/evaluation/evaluate_predictions.py`: the mean of a label leaves out the
    cases where it is undefined, the foreground mean is the plain mean of the labels'
    means, keys are sorted, and an undefined number is the literal NaN. A region goes by
    the tuple of its labels, such as "(1, 2)". A label that a case has nowhere counts as
    empty in it.

    Raises
    ------
    InvalidInputError
        If a case lacks a metric this needs.
    """
    loaded = [(case, case.load()) for case in study.cases]
    for case, result in loaded:
        lacking = [name for name in NNUNET_COUNTS.values() if name not in result.metrics]
        if lacking:
            raise InvalidInputError(
                f"nnU-Net's summary needs {', '.join(lacking)}, which {case.path} lacks"
            )
    called = [_nnunet_labels(result) for _, result in loaded]
    # nnU-Net's order, in which it adds up means: of labels by value, of regions as declared.
    labels = sorted(
        dict.fromkeys(label for names in called for label in names),
        key=lambda label: math.inf if isinstance(label, tuple) else label,
    )
    entries = [
        {
            "metrics": {str(label): _nnunet_metrics(result, names.get(label)) for label in labels},
            "prediction_file": result.inputs["prediction"]["name"],
            "reference_file": result.inputs["truth"]["name"],
        }
        for (_, result), names in zip(loaded, called, strict=True)
    ]
    means: dict[str, dict[str, float]] = {}
    for label in map(str, labels):
        rows = [entry["metrics"][label] for entry in entries]
        means[label] = {key: _mean([r[key] for r in rows], True) for key in rows[0]}
    foreground = [numbers for label, numbers in means.items() if label != "0"]
    keys = foreground[0] if foreground else {}
    plain = {
        "foreground_mean": {key: _mean([m[key] for m in foreground], False) for key in keys},
        "mean": means,
        "metric_per_case": entries,
    }
    return json.dumps(plain, indent=4, sort_keys=True)


def _nnunet_labels(result: Result) -> dict[int | tuple[int, ...], int | str]:
    """Return what results call each class by what nnU-Net does: a label, or those of a region."""
    regions = result.options["regions"]
    if regions:
        return {tuple(labels): class_key(name) for name, labels in regions.items()}
    return {int(label): label for label in result.metrics["true_positives"].per_class}


def _nnunet_metrics(result: Result, name: int | str | None) -> dict[str, float]:
    counts = {}
    for key, metric in NNUNET_COUNTS.items():
        per_class = result.metrics[metric].per_class
        absent = result.voxels["scored"] if key == "TN" else 0
        counts[key] = int(absent if name is None else per_class.get(name, absent))
    tp, wrong = counts["TP"], counts["FP"] + counts["FN"]
    return {
        **counts,
        "Dice": 2 * tp / (2 * tp + wrong) if tp + wrong else math.nan,
        "IoU": tp / (tp + wrong) if tp + wrong else math.nan,
        "n_pred": counts["FP"] + tp,
        "n_ref": counts["FN"] + tp,
    }


def _mean(numbers: Sequence[float], defined_only: bool) -> float:
    chosen = [n for n in numbers if not (defined_only and math.isnan(n))]
    return float(np.mean(chosen)) if chosen else math.nan


def _cell(value: Any) -> str:
    value = _none(value)
    if value is None:
        return ""
    # NumPy's floats, which Python's JSON writes as its own, show their type.
    return repr(float(value)) if isinstance(value, float) else str(value)


def _none(value: Any) -> Any:
    return None if isinstance(value, float) and math.isnan(value) else value
