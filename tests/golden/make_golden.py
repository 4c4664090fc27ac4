"""Writes golden.json: numbers of other packages for small inputs.

Run by hand, in an environment of its own, when a case is added; the tests read
the file and need none of these packages:

    python -m venv golden
    golden/bin/python -m pip install scikit-learn==1.9.1 scipy==1.17.1 torch==2.13.0
    golden/bin/python -m pip install --no-deps monai==1.6.1
    golden/bin/python tests/golden/make_golden.py

Inputs are spelled out in the file. Those with no special values come from
`scatter`, integer arithmetic that needs no random generator.
"""

import json
import platform
from importlib.metadata import version
from pathlib import Path

import numpy as np
import scipy.special
import torch
import torch.nn.functional as torch_functional
from monai.losses import DiceLoss
from monai.losses.focal_loss import softmax_focal_loss
from monai.metrics import compute_dice, compute_generalized_dice
from sklearn import metrics as sklearn_metrics
from sklearn.linear_model._sgd_fast import SquaredHinge

NOTES = {
    "float64": "All packages were given float64, so none of them rounds to float32 on the way.",
    "torchvision": "torchvision was not installed. Its sigmoid_focal_loss is written out in torch "
    "from its documented formula, as `torchvision_focal_loss` in make_golden.py.",
    "squared_hinge": "scikit-learn has no squared hinge metric. The binary numbers are the mean of "
    "its SGD loss SquaredHinge, the multi-class ones the square of the margin that its hinge_loss "
    "documents, computed in NumPy.",
    "generalized_dice": "MONAI's weights are float32: its numbers are good to 7 digits.",
    "soft_overlap": "MONAI's DiceLoss and DiceLoss(jaccard=True) with smooth_nr = smooth_dr = 0: "
    "the loss that is undefined for an empty class, without MONAI's default 1e-5.",
}


def scatter(count, levels, seed):
    """Whole numbers from 0 to levels - 1: Knuth's multiplicative hash of i, upper bits."""
    i = np.arange(count, dtype=np.uint64)
    hashed = ((i + np.uint64(1)) * np.uint64(2654435761) + np.uint64(seed) * np.uint64(40503)) % (
        np.uint64(2**32)
    )
    hashed = (hashed * (hashed | np.uint64(1))) % np.uint64(2**32)
    return ((hashed >> np.uint64(12)) % np.uint64(levels)).astype(np.int64)


def fractions(count, seed):
    """Numbers inside (0, 1) on a grid of 1/1024."""
    return (scatter(count, 1023, seed) + 1) / 1024


def scores(shape, seed):
    """Raw scores from -8 to 8 on a grid of 1/64."""
    return ((scatter(int(np.prod(shape)), 1025, seed) - 512) / 64).reshape(shape)


def distributions(classes, count, seed):
    """One distribution per voxel, channel first; sums to 1 but for float64 rounding."""
    raw = fractions(classes * count, seed).reshape(classes, count)
    return raw / raw.sum(axis=0)


def with_ends(probabilities):
    """The same with voxels that are surely 0 and surely 1 at the front."""
    return np.concatenate([[0.0, 1.0, 0.0, 1.0], probabilities])


def torchvision_focal_loss(logits, targets, alpha, gamma):
    """torchvision.ops.sigmoid_focal_loss, mean over elements, by its documented formula."""
    p = torch.sigmoid(logits)
    ce = torch_functional.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    p_t = p * targets + (1 - p) * (1 - targets)
    loss = ce * (1 - p_t) ** gamma
    if alpha >= 0:
        loss = (alpha * targets + (1 - alpha) * (1 - targets)) * loss
    return loss.mean()


CASES = []


def case(name, source, truth, prediction, options, **expected):
    """Add a case; `expected` maps metric names to a value, or to numbers by class value."""

    def plain(number):
        """None where it is undefined: JSON has no NaN."""
        number = float(number.item() if hasattr(number, "item") else number)
        return None if np.isnan(number) else number

    def array(values):
        values = np.asarray(values)
        return {"dtype": values.dtype.str, "values": values.tolist()}

    CASES.append(
        {
            "name": name,
            "source": source,
            "truth": array(truth),
            "prediction": array(prediction),
            "options": options,
            "expected": {
                metric: {str(k): plain(v) for k, v in number.items()}
                if isinstance(number, dict)
                else plain(number)
                for metric, number in expected.items()
            },
        }
    )


def log_loss_cases():
    truth = np.concatenate([[0, 0, 1, 1], scatter(40, 2, 1)]).astype(np.uint8)
    p = with_ends(fractions(40, 2))
    case(
        "binary log loss with probabilities of exactly 0 and 1",
        "sklearn.metrics.log_loss(truth, p)",
        truth,
        p,
        {"kind": "probabilities"},
        cross_entropy=sklearn_metrics.log_loss(truth, p),
    )
    case(
        "binary log loss, summed",
        "sklearn.metrics.log_loss(truth, p, normalize=False)",
        truth,
        p,
        {"kind": "probabilities", "reduction": "sum"},
        cross_entropy=sklearn_metrics.log_loss(truth, p, normalize=False),
    )
    eps = 1e-3
    clipped = np.clip(p, eps, 1 - eps)
    case(
        "binary log loss with eps = 1e-3",
        "sklearn.metrics.log_loss(truth, numpy.clip(p, eps, 1 - eps))",
        truth,
        p,
        {"kind": "probabilities", "eps": eps},
        cross_entropy=sklearn_metrics.log_loss(truth, clipped),
    )
    classes = np.concatenate([[0, 1, 2, 0], scatter(36, 3, 3)]).astype(np.int16)
    q = distributions(3, 36, 4)
    sure = np.array([[1, 0, 0], [0, 1, 0], [0, 1, 0], [0, 0, 1]], float).T
    q = np.concatenate([sure, q], axis=1)
    case(
        "log loss of three classes with probabilities of exactly 0 and 1",
        "sklearn.metrics.log_loss(truth, q.T, labels=[0, 1, 2])",
        classes,
        q,
        {"kind": "probabilities"},
        cross_entropy=sklearn_metrics.log_loss(classes, q.T, labels=[0, 1, 2]),
    )


def hinge_cases():
    truth = scatter(30, 2, 5).astype(np.uint8)
    x = scores((30,), 6) / 4
    signed = 2 * truth.astype(int) - 1
    case(
        "binary hinge loss, labels 0 and 1 standing for -1 and 1",
        "sklearn.metrics.hinge_loss(2 truth - 1, x); "
        "mean of sklearn.linear_model._sgd_fast.SquaredHinge(1.0).py_loss(x, 2 truth - 1)",
        truth,
        x,
        {"kind": "logits"},
        hinge_loss=sklearn_metrics.hinge_loss(signed, x),
        squared_hinge_loss=np.mean(
            [SquaredHinge(1.0).py_loss(float(a), float(b)) for a, b in zip(x, signed, strict=True)]
        ),
    )
    classes = scatter(30, 4, 7).astype(np.int32)
    rows = scores((4, 30), 8) / 4
    own = rows[classes, np.arange(30)]
    others = np.where(np.arange(4)[:, np.newaxis] == classes, -np.inf, rows).max(axis=0)
    case(
        "hinge loss of four classes, Crammer and Singer",
        "sklearn.metrics.hinge_loss(truth, x.T, labels=[0, 1, 2, 3]); see squared_hinge",
        classes,
        rows,
        {"kind": "logits"},
        hinge_loss=sklearn_metrics.hinge_loss(classes, rows.T, labels=[0, 1, 2, 3]),
        squared_hinge_loss=np.mean(np.maximum(1 - (own - others), 0) ** 2),
    )


def error_cases():
    truth, prediction = scores((50,), 9) * 37, scores((50,), 10) * 41
    functions = {
        "mse": sklearn_metrics.mean_squared_error,
        "mae": sklearn_metrics.mean_absolute_error,
        "rmse": sklearn_metrics.root_mean_squared_error,
    }
    source = "sklearn.metrics.mean_squared_error, mean_absolute_error, root_mean_squared_error"
    case(
        "errors of values",
        source,
        truth,
        prediction,
        {"kind": "values"},
        **{name: f(truth, prediction) for name, f in functions.items()},
    )
    labels, p = scatter(50, 2, 11).astype(np.uint8), with_ends(fractions(46, 12))
    case(
        "errors of probabilities",
        source,
        labels,
        p,
        {"kind": "probabilities"},
        **{name: f(labels, p) for name, f in functions.items()},
    )
    other = scatter(50, 2, 13).astype(np.uint8)
    case(
        "errors of labels as the numbers 0 and 1",
        source,
        labels,
        other,
        {"kind": "labels", "classes": [0, 1]},
        **{name: f(labels, other) for name, f in functions.items()},
    )
    soft, q = distributions(3, 20, 14), distributions(3, 20, 15)
    case(
        "errors of three channels against a distribution",
        source + " of y.T, q.T",
        soft,
        q,
        {"kind": "probabilities", "classes": 3},
        mse=functions["mse"](soft.T, q.T),
        mae=functions["mae"](soft.T, q.T),
        rmse=np.sqrt(functions["mse"](soft.T, q.T)),
    )


def overlap_cases():
    # Class 1003 is in the truth alone, 9 in the prediction alone, 11 in neither.
    values = [0, 7, 1003, 9, 11]
    truth = np.array([0, 7, 1003])[scatter(60, 3, 16)].astype(np.uint16)
    prediction = np.array([0, 7, 7, 9])[scatter(60, 4, 17)].astype(np.uint16)
    matrix = sklearn_metrics.confusion_matrix(truth, prediction, labels=values)
    one_against_rest = sklearn_metrics.multilabel_confusion_matrix(truth, prediction, labels=values)
    options = {"labels": values, "average": None, "zero_division": np.nan}
    per_class = {
        "dice": sklearn_metrics.f1_score(truth, prediction, **options),
        # jaccard_score takes no NaN: the undefined class is left out by hand below.
        "iou": sklearn_metrics.jaccard_score(truth, prediction, **{**options, "zero_division": 0}),
        "precision": sklearn_metrics.precision_score(truth, prediction, **options),
        "recall": sklearn_metrics.recall_score(truth, prediction, **options),
        "true_negatives": one_against_rest[:, 0, 0],
        "false_positives": one_against_rest[:, 0, 1],
        "false_negatives": one_against_rest[:, 1, 0],
        "true_positives": one_against_rest[:, 1, 1],
    }
    per_class["iou"][values.index(11)] = np.nan
    case(
        "overlap of sparse labels, with classes missing on either side and on both",
        "sklearn.metrics.f1_score, jaccard_score, precision_score, recall_score with average=None "
        "and zero_division=nan (iou: 0, then nan where both are empty); "
        "multilabel_confusion_matrix; accuracy_score",
        truth,
        prediction,
        {"kind": "labels", "classes": values, "include_background": True},
        accuracy=sklearn_metrics.accuracy_score(truth, prediction),
        **{name: dict(zip(values, numbers, strict=True)) for name, numbers in per_class.items()},
    )
    CASES[-1]["confusion_matrix"] = matrix.tolist()
    binary, p = scatter(60, 2, 18).astype(np.uint8), with_ends(fractions(56, 19))
    p[4] = 0.5
    decided = p >= 0.5
    case(
        "binary overlap of thresholded probabilities",
        "sklearn.metrics.f1_score, jaccard_score, precision_score, recall_score, accuracy_score "
        "of (truth, p >= 0.5)",
        binary,
        p,
        {"kind": "probabilities"},
        dice=sklearn_metrics.f1_score(binary, decided),
        iou=sklearn_metrics.jaccard_score(binary, decided),
        precision=sklearn_metrics.precision_score(binary, decided),
        recall=sklearn_metrics.recall_score(binary, decided),
        accuracy=sklearn_metrics.accuracy_score(binary, decided),
    )
    classes, x = scatter(40, 3, 20).astype(np.uint8), scores((3, 40), 21)
    decided = x.argmax(axis=0)
    case(
        "overlap of three classes decided by argmax of logits, mean of the foreground",
        "sklearn.metrics.f1_score, jaccard_score of (truth, argmax x), "
        'labels=[1, 2], average="macro"',
        classes,
        x,
        {"kind": "logits"},
        dice=sklearn_metrics.f1_score(classes, decided, labels=[1, 2], average="macro"),
        iou=sklearn_metrics.jaccard_score(classes, decided, labels=[1, 2], average="macro"),
        accuracy=sklearn_metrics.accuracy_score(classes, decided),
    )


def logit_cases():
    truth, x = scatter(40, 2, 22).astype(np.uint8), scores((40,), 23)
    x[:4] = [1000.0, -1000.0, 700.25, -37.5]
    signed = np.where(truth == 1, x, -x)
    loss = -scipy.special.log_expit(signed)
    miss = scipy.special.expit(-signed)
    weight = np.where(truth == 1, 0.25, 0.75)
    case(
        "binary losses of logits up to 1000",
        "scipy.special: -log_expit(s x), times 0.25 or 0.75 times expit(-s x)^2",
        truth,
        x,
        {"kind": "logits", "alpha": 0.25, "gamma": 2.0},
        cross_entropy=loss.mean(),
        focal_loss=(weight * miss**2 * loss).mean(),
    )
    classes, rows = scatter(40, 4, 24).astype(np.uint8), scores((4, 40), 25)
    rows[:, 0] = [1000.0, -1000.0, 0.0, 999.0]
    log_p = scipy.special.log_softmax(rows, axis=0)[classes, np.arange(40)]
    miss = 1 - scipy.special.softmax(rows, axis=0)[classes, np.arange(40)]
    case(
        "losses of four classes from logits up to 1000",
        "scipy.special: -log_softmax(x), times (1 - softmax(x))^1.5",
        classes,
        rows,
        {"kind": "logits", "gamma": 1.5},
        cross_entropy=-log_p.mean(),
        focal_loss=-(miss**1.5 * log_p).mean(),
    )
    soft = distributions(4, 40, 26)
    case(
        "losses of four classes from logits against a distribution",
        "scipy.special: -sum y log_softmax(x), times (1 - softmax(x))^2",
        soft,
        rows,
        {"kind": "logits", "gamma": 2.0, "classes": 4},
        cross_entropy=-(soft * scipy.special.log_softmax(rows, axis=0)).sum(axis=0).mean(),
        focal_loss=-(
            soft
            * (1 - scipy.special.softmax(rows, axis=0)) ** 2
            * scipy.special.log_softmax(rows, axis=0)
        )
        .sum(axis=0)
        .mean(),
    )


def torch_cases():
    truth, x = scatter(40, 2, 27).astype(np.uint8), scores((40,), 28)
    soft = fractions(40, 29)
    for name, y in (("labels", truth), ("a soft truth", soft)):
        target, logits = torch.tensor(y, dtype=torch.float64), torch.tensor(x)
        case(
            f"torch: binary losses of logits against {name}",
            "torch.nn.functional.binary_cross_entropy_with_logits(x, y); "
            "torchvision_focal_loss(x, y, alpha=0.25, gamma=2)",
            y,
            x,
            {"kind": "logits", "alpha": 0.25, "gamma": 2.0},
            cross_entropy=torch_functional.binary_cross_entropy_with_logits(logits, target),
            focal_loss=torchvision_focal_loss(logits, target, 0.25, 2.0),
        )
        case(
            f"torchvision: focal loss against {name} without balancing, gamma 0.5",
            "torchvision_focal_loss(x, y, alpha=-1, gamma=0.5)",
            y,
            x,
            {"kind": "logits", "alpha": None, "gamma": 0.5},
            focal_loss=torchvision_focal_loss(logits, target, -1, 0.5),
        )
    p = fractions(40, 30)
    case(
        "torch: binary cross entropy of probabilities against a soft truth",
        "torch.nn.functional.binary_cross_entropy(p, y)",
        soft,
        p,
        {"kind": "probabilities"},
        cross_entropy=torch_functional.binary_cross_entropy(torch.tensor(p), torch.tensor(soft)),
    )
    classes, rows = scatter(40, 3, 31).astype(np.uint8), scores((3, 40), 32)
    logits = torch.tensor(rows.T)
    case(
        "torch: cross entropy of three classes from logits",
        "torch.nn.functional.cross_entropy(x, truth)",
        classes,
        rows,
        {"kind": "logits"},
        cross_entropy=torch_functional.cross_entropy(logits, torch.tensor(classes.astype(int))),
    )
    soft = distributions(3, 40, 33)
    case(
        "torch: cross entropy of three classes from logits against a distribution",
        "torch.nn.functional.cross_entropy(x, y)",
        soft,
        rows,
        {"kind": "logits", "classes": 3},
        cross_entropy=torch_functional.cross_entropy(logits, torch.tensor(soft.T)),
    )


def monai_cases():
    classes = scatter(40, 3, 34).astype(np.uint8)
    p = distributions(3, 40, 35)
    one_hot = (classes == np.arange(3)[:, np.newaxis]).astype(np.float64)
    soft = distributions(3, 40, 36)
    options = {"smooth_nr": 0.0, "smooth_dr": 0.0, "reduction": "none", "include_background": True}

    def by_class(loss, prediction, target):
        numbers = loss(torch.tensor(prediction[np.newaxis]), torch.tensor(target[np.newaxis]))
        return np.asarray(numbers).reshape(-1)

    for name, truth, y, more in (
        ("labels", classes, one_hot, {}),
        ("a distribution", soft, soft, {"classes": 3}),
    ):
        dice_loss = by_class(DiceLoss(**options), p, y)
        iou = 1 - by_class(DiceLoss(jaccard=True, **options), p, y)
        case(
            f"MONAI: soft overlap of three classes against {name}",
            "monai.losses.DiceLoss(smooth_nr=0, smooth_dr=0, reduction='none'), and with "
            "jaccard=True",
            truth,
            p,
            {"kind": "probabilities", "include_background": True, **more},
            soft_dice=dict(enumerate(1 - dice_loss)),
            soft_dice_loss=dict(enumerate(dice_loss)),
            soft_iou=dict(enumerate(iou)),
        )
    binary, q = scatter(40, 2, 37).astype(np.uint8), fractions(40, 38)
    target = binary.astype(np.float64)[np.newaxis]
    case(
        "MONAI: soft overlap of one channel",
        "monai.losses.DiceLoss(smooth_nr=0, smooth_dr=0, reduction='none'), and with jaccard=True",
        binary,
        q,
        {"kind": "probabilities"},
        soft_dice=1 - by_class(DiceLoss(**options), q[np.newaxis], target)[0],
        soft_dice_loss=by_class(DiceLoss(**options), q[np.newaxis], target)[0],
        soft_iou=1 - by_class(DiceLoss(jaccard=True, **options), q[np.newaxis], target)[0],
    )
    rows, weights = scores((3, 40), 39), [0.5, 1.0, 2.5]
    terms = softmax_focal_loss(
        torch.tensor(rows[np.newaxis]),
        torch.tensor(one_hot[np.newaxis]),
        gamma=2.0,
        alpha=torch.tensor(weights),
    )
    case(
        "MONAI: focal loss of three classes from logits with a weight for each",
        "monai.losses.focal_loss.softmax_focal_loss(x, one-hot truth, gamma=2, alpha=w), "
        "sum over channels, mean over voxels",
        classes,
        rows,
        {"kind": "logits", "gamma": 2.0, "alpha": weights},
        focal_loss=terms.sum(dim=1).mean(),
    )


def count_cases():
    truth = (scatter(90, 7, 51) % 4).astype(np.uint8)
    prediction = np.where(scatter(90, 3, 52) > 0, truth, scatter(90, 4, 53)).astype(np.uint8)
    labels = [0, 1, 2, 3]
    multilabel = sklearn_metrics.multilabel_confusion_matrix(truth, prediction, labels=labels)
    two = {k: [int(n) for n in multilabel[k].reshape(-1)] for k in labels}
    options = {"kind": "labels", "classes": labels, "include_background": True}
    case(
        "rates and agreement of four classes",
        "sklearn.metrics: balanced_accuracy_score, matthews_corrcoef, cohen_kappa_score, recall of "
        "the negatives of multilabel_confusion_matrix",
        truth,
        prediction,
        options,
        balanced_accuracy=sklearn_metrics.balanced_accuracy_score(truth, prediction),
        mcc=sklearn_metrics.matthews_corrcoef(truth, prediction),
        cohen_kappa=sklearn_metrics.cohen_kappa_score(truth, prediction),
        specificity={k: tn / (tn + fp) for k, (tn, fp, _, _) in two.items()},
        negative_predictive_value={k: tn / (tn + fn) for k, (tn, _, fn, _) in two.items()},
        false_positive_rate={k: fp / (fp + tn) for k, (tn, fp, _, _) in two.items()},
        false_negative_rate={k: fn / (fn + tp) for k, (_, _, fn, tp) in two.items()},
    )
    case(
        "generalized Dice of four classes",
        "monai.metrics.generalized_dice.compute_generalized_dice(sum_over_classes=True)",
        truth,
        prediction,
        options,
        generalized_dice=compute_generalized_dice(
            torch.tensor(np.eye(4)[prediction].T[None]),
            torch.tensor(np.eye(4)[truth].T[None]),
            sum_over_classes=True,
        ),
    )
    for weights in ("linear", "quadratic"):
        case(
            f"kappa of four classes, {weights}",
            f"sklearn.metrics.cohen_kappa_score(weights={weights!r})",
            truth,
            prediction,
            {**options, "kappa_weights": weights},
            cohen_kappa=sklearn_metrics.cohen_kappa_score(truth, prediction, weights=weights),
        )
    for average in ("macro", "micro", "weighted"):
        for beta in (0.5, 2.0):
            case(
                f"F-beta, {average}, beta {beta}",
                f"sklearn.metrics.fbeta_score(beta={beta}, labels=[1, 2, 3], average={average!r})",
                truth,
                prediction,
                {**options, "include_background": False, "average": average, "beta": beta},
                f_beta=sklearn_metrics.fbeta_score(
                    truth, prediction, beta=beta, labels=[1, 2, 3], average=average
                ),
            )
        case(
            f"precision, recall and IoU, {average}",
            f"sklearn.metrics, labels=[1, 2, 3], average={average!r}",
            truth,
            prediction,
            {**options, "include_background": False, "average": average},
            precision=sklearn_metrics.precision_score(
                truth, prediction, labels=[1, 2, 3], average=average
            ),
            recall=sklearn_metrics.recall_score(
                truth, prediction, labels=[1, 2, 3], average=average
            ),
            iou=sklearn_metrics.jaccard_score(truth, prediction, labels=[1, 2, 3], average=average),
        )
    t, p = truth > 1, prediction > 1
    plus, minus = sklearn_metrics.class_likelihood_ratios(t, p)
    case(
        "likelihood ratios",
        "sklearn.metrics.class_likelihood_ratios",
        t,
        p,
        {"kind": "labels"},
        positive_likelihood_ratio=plus,
        negative_likelihood_ratio=minus,
    )
    # Class 1 in neither, class 2 missed, class 3 spurious.
    truth = np.array([0, 2, 2, 4, 4, 4, 0, 0], np.uint8)
    prediction = np.array([0, 0, 0, 4, 4, 0, 3, 0], np.uint8)
    one_hot = [torch.tensor(np.eye(5)[array].T[None]) for array in (prediction, truth)]
    monai = compute_dice(*one_hot, include_background=False, ignore_empty=True)[0]
    case(
        "Dice of empty, missed and spurious classes as MONAI",
        "monai.metrics.compute_dice(include_background=False, ignore_empty=True)",
        truth,
        prediction,
        {"kind": "labels", "classes": 5, "convention": "monai"},
        dice={k: monai[k - 1] for k in (1, 2, 3, 4)},
    )
    case(
        "Dice and precision of empty, missed and spurious classes as scikit-learn",
        "sklearn.metrics.f1_score and precision_score (labels=[1, 2, 3, 4], zero_division=0)",
        truth,
        prediction,
        {"kind": "labels", "classes": 5, "convention": "sklearn"},
        dice=sklearn_metrics.f1_score(
            truth, prediction, labels=[1, 2, 3, 4], average="macro", zero_division=0
        ),
        precision=sklearn_metrics.precision_score(
            truth, prediction, labels=[1, 2, 3, 4], average="macro", zero_division=0
        ),
    )


def main():
    for write_cases in (
        log_loss_cases,
        hinge_cases,
        error_cases,
        overlap_cases,
        logit_cases,
        torch_cases,
        monai_cases,
        count_cases,
    ):
        write_cases()
    packages = ("numpy", "scipy", "scikit-learn", "torch", "monai")
    provenance = {
        "command": "python tests/golden/make_golden.py",
        "python": platform.python_version(),
        "versions": {name: version(name) for name in packages},
        "notes": NOTES,
    }
    header = json.dumps(provenance, indent=2)
    rows = ",\n".join(json.dumps(entry, allow_nan=False) for entry in CASES)
    path = Path(__file__).with_name("golden.json")
    path.write_text(f'{{"provenance": {header},\n"cases": [\n{rows}\n]}}\n', encoding="utf-8")


if __name__ == "__main__":
    main()
