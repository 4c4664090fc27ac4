"""Writes ranking.json: areas and calibration errors of scikit-learn and torchmetrics.

Run by hand, as make_golden.py, with torchmetrics 1.9.0 beside scikit-learn:

    golden/bin/python -m pip install torchmetrics==1.9.0
    golden/bin/python tests/golden/make_ranking.py
"""

import json
import platform
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from make_golden import distributions, fractions, scatter
from sklearn import metrics
from torchmetrics.functional import classification

CASES = []


def case(name, source, truth, prediction, options, **expected):
    CASES.append(
        {
            "name": name,
            "source": source,
            "truth": truth.tolist(),
            "prediction": prediction.tolist(),
            "dtype": prediction.dtype.str,
            "options": options,
            "expected": {name: float(value) for name, value in expected.items()},
        }
    )


def areas(truth, scores, **options):
    return {
        "auroc": metrics.roc_auc_score(truth, scores),
        "average_precision": metrics.average_precision_score(truth, scores),
        "partial_auroc": metrics.roc_auc_score(truth, scores, max_fpr=0.3),
    }


def calibration(truth, probabilities):
    y, p = torch.tensor(truth), torch.tensor(probabilities.T.copy())
    return {
        "expected_calibration_error": classification.multiclass_calibration_error(
            p, y, num_classes=p.shape[1], n_bins=15, norm="l1"
        ),
        "maximum_calibration_error": classification.multiclass_calibration_error(
            p, y, num_classes=p.shape[1], n_bins=15, norm="max"
        ),
    }


def main():
    truth = scatter(120, 2, 1)
    scores = np.clip(0.25 * truth + 0.75 * fractions(120, 2), 0, 1)
    areas_source = "sklearn.metrics roc_auc_score, average_precision_score"
    for dtype in ("f8", "f4"):
        case(
            f"{dtype} scores",
            areas_source,
            truth,
            scores.astype(dtype),
            {"max_fpr": 0.3, "exact": True},
            **areas(truth, scores.astype(dtype)),
        )
    codes = np.round(scores * 20).astype("u1") * 12
    case(
        "8-bit scores with ties",
        areas_source,
        truth,
        codes,
        {"kind": "probabilities", "max_fpr": 0.3},
        **areas(truth, codes),
    )
    ends = np.concatenate([np.zeros(20), np.ones(20), scores[40:]])
    case(
        "scores of exactly 0 and 1",
        areas_source,
        truth,
        ends,
        {"max_fpr": 0.3},
        **areas(truth, ends),
    )
    logits = np.log(scores / (1 - scores))
    case(
        "logits",
        areas_source,
        truth,
        logits,
        {"kind": "logits", "max_fpr": 0.3},
        **areas(truth, logits),
    )
    labels, p = scatter(120, 3, 5), distributions(3, 120, 6)
    one = {"include_background": True}
    case(
        "three classes, one against the rest",
        "sklearn.metrics.roc_auc_score(multi_class='ovr')",
        labels,
        p,
        one,
        auroc=metrics.roc_auc_score(labels, p.T, multi_class="ovr"),
        average_precision=metrics.average_precision_score(labels, p.T),
    )
    case(
        "calibration of three classes",
        "torchmetrics multiclass_calibration_error(n_bins=15), norm l1 and max",
        labels,
        p,
        one,
        **calibration(labels, p),
    )
    case(
        "calibration of the positive class",
        "torchmetrics binary_calibration_error(n_bins=15)",
        truth,
        scores,
        {},
        classwise_calibration_error=classification.binary_calibration_error(
            torch.tensor(scores), torch.tensor(truth), n_bins=15
        ),
    )
    case(
        "sensitivity at a specificity of 0.8",
        "torchmetrics binary_sensitivity_at_specificity",
        truth,
        scores,
        {"specificity_at_least": 0.8},
        sensitivity_at_specificity=classification.binary_sensitivity_at_specificity(
            torch.tensor(scores), torch.tensor(truth), min_specificity=0.8
        )[0],
    )
    packages = ("numpy", "scikit-learn", "torch", "torchmetrics")
    provenance = {
        "command": "python tests/golden/make_ranking.py",
        "python": platform.python_version(),
        "versions": {name: version(name) for name in packages},
    }
    path = Path(__file__).with_name("ranking.json")
    rows = ",\n".join(json.dumps(entry, allow_nan=False) for entry in CASES)
    header = json.dumps(provenance, indent=2)
    path.write_text(f'{{"provenance": {header},\n"cases": [\n{rows}\n]}}\n', encoding="utf-8")


if __name__ == "__main__":
    main()
