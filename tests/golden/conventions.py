"""Writes conventions.json: what each package says of the same small inputs, by its own defaults.

Run by hand, as make_golden.py, with torchmetrics 1.9.0, KonfAI 1.8.7 and Keras 3.15.1 beside the
others:

    golden/bin/python -m pip install torchmetrics==1.9.0 konfai==1.8.7 keras==3.15.1
    KERAS_BACKEND=torch golden/bin/python tests/golden/conventions.py
"""

import json
import platform
from importlib.metadata import version
from pathlib import Path

import keras
import numpy as np
import torch
from konfai.metric.measure import Dice
from monai import losses as monai_losses
from monai import metrics as monai_metrics
from sklearn import metrics as sklearn_metrics
from torchmetrics.functional import classification

NOTES = {
    "nnunet": "nnU-Net was not installed. Its numbers are those of the formulas in its "
    "evaluate_predictions.compute_metrics, undefined where truth and prediction are both empty, "
    "and of nanmean over cases or labels.",
    "reloaded": "MetricsReloaded is in no registry. Its numbers are those of the branches for "
    "empty masks in its pairwise_measures.",
    "keras": "Its losses come out in single precision.",
    "retinanet": "RetinaNet divides the sum of focal losses by the number of positives.",
}
CASES = []
NAN = float("nan")
FOREGROUND = [1, 2, 3, 4]
# Class 1 in neither, class 2 missed, class 3 spurious.
TRUTH = np.array([0, 2, 2, 4, 4, 4, 0, 0], np.uint8)
PREDICTION = np.array([0, 0, 0, 4, 4, 0, 3, 0], np.uint8)
BINARY = np.array([0, 1, 1, 0, 1, 0], np.uint8)
PROBABILITY = np.array([0.0, 1.0, 0.25, 0.4, 0.0, 0.9])


def case(peer, metric, call, value, truth=TRUTH, prediction=PREDICTION, **options):
    CASES.append(
        {
            "peer": peer,
            "metric": metric,
            "source": call,
            "truth": truth.tolist(),
            "prediction": prediction.tolist(),
            "options": options,
            "expected": float(value),
        }
    )


def labels(peer, metric, call, value):
    case(peer, metric, call, value, classes=5)


def scores(peer, metric, call, value, truth=BINARY, prediction=PROBABILITY, **options):
    case(peer, metric, call, value, truth, prediction, kind="probabilities", **options)


def counts(label):
    t, p = label == TRUTH, label == PREDICTION
    return (t & p).sum(), (~t & p).sum(), (t & ~p).sum()


def monai_cases():
    one_hot = [torch.tensor(np.eye(5)[array].T[None]) for array in (PREDICTION, TRUTH)]
    dice = monai_metrics.compute_dice(*one_hot, include_background=False, ignore_empty=True)
    iou = monai_metrics.compute_iou(*one_hot, include_background=False, ignore_empty=True)
    labels("monai", "dice", "monai.metrics.compute_dice, nanmean", dice.nanmean())
    labels("monai", "dice_loss", "1 - monai.metrics.compute_dice, nanmean", 1 - dice.nanmean())
    labels("monai", "iou", "monai.metrics.compute_iou, nanmean", iou.nanmean())
    matrix = monai_metrics.get_confusion_matrix(*one_hot, include_background=False)
    for metric, name in (
        ("precision", "precision"),
        ("recall", "sensitivity"),
        ("specificity", "specificity"),
        ("f_beta", "f1 score"),
    ):
        got = monai_metrics.compute_confusion_matrix_metric(name, matrix).nanmean()
        call = f"monai.metrics.compute_confusion_matrix_metric({name!r}), nanmean"
        labels("monai", metric, call, got)
    y, p = (torch.tensor(x, dtype=torch.float64)[None, None] for x in (BINARY, PROBABILITY))
    dice = monai_losses.DiceLoss()(p, y)
    scores("monai", "soft_dice_loss", "monai.losses.DiceLoss()", dice)
    scores("monai", "soft_dice", "1 - monai.losses.DiceLoss()", 1 - dice)
    iou = 1 - monai_losses.DiceLoss(jaccard=True)(p, y)
    scores("monai", "soft_iou", "1 - monai.losses.DiceLoss(jaccard=True)", iou)
    tversky = monai_losses.TverskyLoss()(p, y)
    scores("monai", "tversky_loss", "monai.losses.TverskyLoss()", tversky)
    scores("monai", "tversky_index", "1 - monai.losses.TverskyLoss()", 1 - tversky)
    x = np.log(
        np.array([0.1, 0.7, 0.25, 0.4, 0.6, 0.9]) / np.array([0.9, 0.3, 0.75, 0.6, 0.4, 0.1])
    )
    focal = monai_losses.FocalLoss()(torch.tensor(x)[None, None], y)
    case("monai", "focal_loss", "monai.losses.FocalLoss()", focal, BINARY, x, kind="logits")
    q = np.array([[0.5, 0.25, 0.1, 0.6], [0.25, 0.5, 0.7, 0.2], [0.25, 0.25, 0.2, 0.2]])
    three = np.array([0, 1, 1, 2], np.uint8)
    y, p = torch.tensor(np.eye(3)[three].T[None]), torch.tensor(q[None])
    generalized = monai_losses.GeneralizedDiceLoss()(p, y)
    options = {"include_background": True}
    call = "monai.losses.GeneralizedDiceLoss()"
    scores("monai", "generalized_soft_dice_loss", call, generalized, three, q, **options)
    scores("monai", "generalized_soft_dice", f"1 - {call}", 1 - generalized, three, q, **options)
    both = monai_losses.DiceCELoss(softmax=True)(torch.log(p), y)
    case(
        "monai",
        "dice_ce_loss",
        "monai.losses.DiceCELoss(softmax=True)",
        both,
        three,
        np.log(q),
        kind="logits",
        **options,
    )


def torchmetrics_cases():
    t, p = torch.tensor(TRUTH).long(), torch.tensor(PREDICTION).long()
    for metric, function in (
        ("dice", classification.multiclass_f1_score),
        ("f_beta", classification.multiclass_f1_score),
        ("iou", classification.multiclass_jaccard_index),
        ("precision", classification.multiclass_precision),
        ("recall", classification.multiclass_recall),
        ("specificity", classification.multiclass_specificity),
    ):
        value = function(p, t, num_classes=5, average="macro")
        call = f"torchmetrics.functional.classification.{function.__name__}(average='macro')"
        case("torchmetrics", metric, call, value, classes=5, include_background=True)
    y, q = torch.tensor(BINARY).long(), torch.tensor(PROBABILITY)
    for metric, norm in (("expected", "l1"), ("maximum", "max")):
        value = classification.binary_calibration_error(q, y, n_bins=15, norm=norm)
        call = f"torchmetrics.functional.classification.binary_calibration_error(norm='{norm}')"
        scores("torchmetrics", f"{metric}_calibration_error", call, value)


def sklearn_cases():
    options = {"labels": FOREGROUND, "average": "macro", "zero_division": 0}
    for metric, function in (
        ("dice", sklearn_metrics.f1_score),
        ("f_beta", sklearn_metrics.f1_score),
        ("iou", sklearn_metrics.jaccard_score),
        ("precision", sklearn_metrics.precision_score),
        ("recall", sklearn_metrics.recall_score),
    ):
        value = function(TRUTH, PREDICTION, **options)
        labels("sklearn", metric, f"sklearn.metrics.{function.__name__}(zero_division=0)", value)


def other_cases():
    maps = [torch.tensor(x)[None, None] for x in (PREDICTION, TRUTH)]
    dice = Dice(labels=FOREGROUND)
    _, per_label = dice.combine_metric([dice.partial_metric(*maps)])
    value = np.nanmean(list(per_label.values()))
    labels("konfai", "dice", "konfai.metric.measure.Dice, nanmean", value)
    y, p = torch.tensor(BINARY, dtype=torch.float64), torch.tensor(PROBABILITY)
    entropy = torch.nn.functional.binary_cross_entropy(p, y)
    scores("torch", "cross_entropy", "torch.nn.functional.binary_cross_entropy", entropy)
    keras.config.set_floatx("float64")
    entropy = keras.losses.BinaryCrossentropy()(BINARY.astype(float), PROBABILITY)
    scores("keras", "cross_entropy", "keras.losses.BinaryCrossentropy()", entropy)
    rates, seen = np.array([0.5, 2.0, 4.0]), np.array([0.0, 3.0, 4.0])
    poisson = keras.losses.Poisson()(seen, rates)
    case("keras", "poisson_nll", "keras.losses.Poisson()", poisson, seen, rates, kind="values")
    poisson = torch.nn.functional.poisson_nll_loss(*map(torch.tensor, (rates, seen)))
    call = "torch.nn.functional.poisson_nll_loss"
    case("torch", "poisson_nll", call, poisson, seen, rates, kind="values")
    q = np.clip(PROBABILITY, 0.01, 0.99)
    own = np.where(BINARY == 1, q, 1 - q)
    focal = -np.where(BINARY == 1, 0.25, 0.75) * (1 - own) ** 2 * np.log(own)
    value = focal.sum() / BINARY.sum()
    scores("retinanet", "focal_loss", "see retinanet", value, prediction=q)


def written_out_cases():
    formulas = {
        "dice": lambda tp, fp, fn: (2 * tp, 2 * tp + fp + fn),
        "f_beta": lambda tp, fp, fn: (2 * tp, 2 * tp + fp + fn),
        "dice_loss": lambda tp, fp, fn: (fp + fn, 2 * tp + fp + fn),
        "iou": lambda tp, fp, fn: (tp, tp + fp + fn),
        "precision": lambda tp, fp, fn: (tp, tp + fp),
        "recall": lambda tp, fp, fn: (tp, tp + fn),
    }
    # A label in neither mask, by MetricsReloaded: its Dice and F-beta are 1, its IoU is undefined.
    in_neither = {"dice": 1.0, "f_beta": 1.0, "dice_loss": 0.0}
    for metric, formula in formulas.items():
        numbers, reloaded = [], []
        for label in FOREGROUND:
            top, bottom = formula(*counts(label))
            number = top / bottom if bottom else NAN
            # Neither package lets a missed label improve a precision here.
            missed = metric == "precision" and label == 2
            numbers.append(0.0 if missed else number)
            empty = label == 1
            reloaded.append(in_neither.get(metric, NAN) if empty else numbers[-1])
        labels("nnunet", metric, "see nnunet", np.nanmean(numbers))
        labels("reloaded", metric, "see reloaded", np.nanmean(reloaded))


def main():
    for write_cases in (
        monai_cases,
        torchmetrics_cases,
        sklearn_cases,
        other_cases,
        written_out_cases,
    ):
        write_cases()
    packages = ("numpy", "scikit-learn", "torch", "monai", "torchmetrics", "konfai", "keras")
    provenance = {
        "command": "KERAS_BACKEND=torch python tests/golden/conventions.py",
        "python": platform.python_version(),
        "versions": {name: version(name) for name in packages},
        "notes": NOTES,
    }
    header = json.dumps(provenance, indent=2)
    rows = ",\n".join(json.dumps(entry, allow_nan=False) for entry in CASES)
    path = Path(__file__).with_name("conventions.json")
    path.write_text(f'{{"provenance": {header},\n"cases": [\n{rows}\n]}}\n', encoding="utf-8")


if __name__ == "__main__":
    main()
