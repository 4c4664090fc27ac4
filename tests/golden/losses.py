"""Writes losses.json: losses of other packages for small inputs.

Run by hand, in an environment of its own, when a case is added; the tests read the file and
need none of these packages:

    python -m venv golden
    golden/bin/python -m pip install scikit-learn==1.9.1 scipy torch==2.13.0 torchmetrics==1.9.0
    golden/bin/python -m pip install --no-deps monai==1.6.1
    golden/bin/python tests/golden/losses.py

All packages get float64. Inputs are integer arithmetic that needs no random generator.
"""

import json
import platform
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

import numpy as np
import scipy.special
import torch
import torch.nn.functional as F  # noqa: N812
import torchmetrics.functional as torchmetrics_functional
from monai.losses import DiceCELoss, DiceLoss, GeneralizedDiceLoss, TverskyLoss
from sklearn.metrics import brier_score_loss

NOTES = (
    "MONAI's losses get smooth_nr and smooth_dr as in the options and include_background as in "
    "them; its generalized Dice, which rounds class sizes to float32, was kept in float64. Keras "
    "was not installed: its label smoothing is its documented formula in NumPy, as are RetinaNet's "
    "focal loss, log-cosh Dice (Jadon 2020) and focal Tversky."
)


def scatter(count, levels, seed):
    """Whole numbers from 0 to levels - 1: Knuth's multiplicative hash of i, upper bits."""
    i = np.arange(count, dtype=np.uint64)
    hashed = ((i + np.uint64(1)) * np.uint64(2654435761) + np.uint64(seed) * np.uint64(40503)) % (
        np.uint64(2**32)
    )
    hashed = (hashed * (hashed | np.uint64(1))) % np.uint64(2**32)
    return ((hashed >> np.uint64(12)) % np.uint64(levels)).astype(np.int64)


N = 40
LABELS = scatter(N, 2, 1)
CLASSES = scatter(N, 4, 2)
P = (scatter(N, 1023, 3) + 1) / 1024
SOFT = scatter(N, 257, 4) / 256
LOGITS = ((scatter(4 * N, 1025, 5) - 512) / 64).reshape(4, N)
LOGIT = (scatter(N, 1025, 6) - 512) / 64
_RAW = ((scatter(4 * N, 1023, 7) + 1) / 1024).reshape(4, N)
DISTRIBUTION = _RAW / _RAW.sum(axis=0)
_RAW_TRUTH = ((scatter(4 * N, 255, 8) + 1) / 256).reshape(4, N)
SOFT_CLASSES = _RAW_TRUTH / _RAW_TRUTH.sum(axis=0)
COUNTS = scatter(N, 9, 9).astype(np.float64)
VALUES = (scatter(N, 4097, 10) - 2048) / 256
RATES = (scatter(N, 4097, 11) + 1) / 256
WEIGHTS = [0.5, 2.0, 3.25, 1.0]


@contextmanager
def in_double():
    """MONAI rounds the sizes of classes to float32 with `Tensor.float`: here it does not."""
    original = torch.Tensor.float
    torch.Tensor.float = torch.Tensor.double
    try:
        yield
    finally:
        torch.Tensor.float = original


def t(array):
    return torch.as_tensor(np.asarray(array))


def batch(array):
    """(C, n) as a batch of one."""
    rows = np.atleast_2d(array)
    return t(rows)[None]


def one_hot(labels, classes):
    return (labels == np.arange(classes)[:, None]).astype(np.float64)


def rows(logits):
    return t(logits).T.contiguous()


def cross_entropy_cases():
    weights = torch.tensor(WEIGHTS, dtype=torch.float64)
    for reduction in ("mean", "sum"):
        for smoothing in (0.0, 0.1):
            for weight in (None, WEIGHTS):
                options = {"kind": "logits", "reduction": reduction}
                options |= {"label_smoothing": smoothing, "class_weights": weight}
                keywords = {"reduction": reduction, "label_smoothing": smoothing}
                keywords["weight"] = None if weight is None else weights
                hard = F.cross_entropy(rows(LOGITS), t(CLASSES), **keywords)
                yield "torch", CLASSES, LOGITS, options, {"cross_entropy": hard}
                soft = F.cross_entropy(rows(LOGITS), rows(SOFT_CLASSES), **keywords)
                more = {**options, "classes": 4}
                yield "torch", SOFT_CLASSES, LOGITS, more, {"cross_entropy": soft}
        positive = torch.tensor(3.5, dtype=torch.float64)
        for truth in (LABELS, SOFT):
            loss = F.binary_cross_entropy_with_logits(
                t(LOGIT), t(truth).double(), pos_weight=positive, reduction=reduction
            )
            options = {"kind": "logits", "reduction": reduction, "pos_weight": 3.5}
            yield "torch", truth, LOGIT, options, {"cross_entropy": loss}
    # Keras BinaryCrossentropy(label_smoothing=0.2), by its formula.
    y = LABELS * 0.8 + 0.1
    q = np.clip(P, 1e-7, 1 - 1e-7)
    loss = -np.mean(y * np.log(q) + (1 - y) * np.log(1 - q))
    options = {"label_smoothing": 0.2, "eps": 1e-7}
    yield "keras formula", LABELS, P, options, {"cross_entropy": loss}
    # torch BCELoss clips the logarithm at -100.
    p, y = np.array([0.0, 1.0, 0.0, 1.0, 0.25]), np.array([1, 0, 0, 1, 1])
    loss = F.binary_cross_entropy(t(p), t(y).double())
    yield "torch", y, p, {"eps": float(np.exp(-100.0))}, {"cross_entropy": loss}
    alpha_t = np.where(LABELS == 1, 0.25, 0.75)
    p_t = np.where(LABELS == 1, P, 1 - P)
    focal = np.sum(-alpha_t * (1 - p_t) ** 2 * np.log(p_t)) / LABELS.sum()
    options = {"reduction": "positives", "alpha": 0.25, "gamma": 2.0}
    yield "RetinaNet formula", LABELS, P, options, {"focal_loss": focal}


def overlap_cases():
    inputs = [
        (LABELS, P, LABELS[None], P[None], {}),
        (SOFT, P, SOFT[None], P[None], {}),
        (CLASSES, DISTRIBUTION, one_hot(CLASSES, 4), DISTRIBUTION, {}),
        (SOFT_CLASSES, DISTRIBUTION, SOFT_CLASSES, DISTRIBUTION, {"classes": 4}),
    ]
    for truth, prediction, y, p, base in inputs:
        y, p = batch(y.astype(np.float64)), batch(p)
        for background in (False, True) if y.shape[1] > 1 else (False,):
            for nr, dr in ((0.0, 0.0), (1e-5, 1e-5), (0.5, 1.0)):
                options = {**base, "include_background": background}
                options |= {"smooth_nr": nr, "smooth_dr": dr}
                keywords = {"include_background": background, "smooth_nr": nr, "smooth_dr": dr}
                for squared in (False, True):
                    more = {**options, "denominator": "squared" if squared else "linear"}
                    dice = DiceLoss(squared_pred=squared, **keywords)(p, y)
                    iou = DiceLoss(squared_pred=squared, jaccard=True, **keywords)(p, y)
                    each = DiceLoss(squared_pred=squared, reduction="none", **keywords)(p, y)
                    log_cosh = np.log(np.cosh(each.numpy())).mean()
                    expected = {"soft_dice_loss": dice, "soft_iou": 1 - iou}
                    expected["log_cosh_dice_loss"] = log_cosh
                    yield "monai", truth, prediction, more, expected
                for alpha, beta in ((0.5, 0.5), (0.3, 0.7), (1.5, 0.0)):
                    tversky = TverskyLoss(alpha=alpha, beta=beta, **keywords)
                    each = TverskyLoss(alpha=alpha, beta=beta, reduction="none", **keywords)
                    focal = (each(p, y).numpy() ** 0.75).mean()
                    more = {**options, "tversky_alpha": alpha, "tversky_beta": beta}
                    expected = {"tversky_loss": tversky(p, y), "focal_tversky_loss": focal}
                    yield "monai", truth, prediction, more, expected
                for kind in ("square", "simple", "uniform"):
                    with in_double():
                        loss = GeneralizedDiceLoss(w_type=kind, **keywords)(p, y)
                    more = {**options, "volume_weights": kind}
                    expected = {"generalized_soft_dice_loss": loss}
                    yield "monai", truth, prediction, more, expected
    options = {"kind": "logits", "include_background": True, "smooth_nr": 1e-5, "smooth_dr": 1e-5}
    options |= {"lambda_dice": 0.7, "lambda_ce": 1.5}
    keywords = {"lambda_dice": 0.7, "lambda_ce": 1.5}
    loss = DiceCELoss(softmax=True, **keywords)(batch(LOGITS), batch(one_hot(CLASSES, 4)))
    yield "monai", CLASSES, LOGITS, options, {"dice_ce_loss": loss}
    loss = DiceCELoss(softmax=True, label_smoothing=0.1, **keywords)
    loss = loss(batch(LOGITS), batch(one_hot(CLASSES, 4)))
    more = {**options, "label_smoothing": 0.1}
    yield "monai", CLASSES, LOGITS, more, {"dice_ce_loss": loss}
    options = {**options, "include_background": False}
    loss = DiceCELoss(sigmoid=True, **keywords)(batch(LOGIT), batch(LABELS.astype(np.float64)))
    yield "monai", LABELS, LOGIT, options, {"dice_ce_loss": loss}


def value_cases():
    truth, values = t(COUNTS), t(VALUES)
    for reduction in ("mean", "sum"):
        for delta in (0.25, 1.0, 3.0):
            loss = F.huber_loss(values, truth, reduction=reduction, delta=delta)
            options = {"kind": "values", "reduction": reduction, "delta": delta}
            yield "torch", COUNTS, VALUES, options, {"huber_loss": loss}
        for full in (False, True):
            for log_input, given in ((True, VALUES), (False, RATES)):
                loss = F.poisson_nll_loss(
                    t(given), truth, log_input=log_input, full=full, reduction=reduction
                )
                options = {"kind": "values", "reduction": reduction}
                options |= {"full": full, "log_input": log_input}
                yield "torch", COUNTS, given, options, {"poisson_nll": loss}
    psnr = torchmetrics_functional.image.peak_signal_noise_ratio(values, truth, data_range=9.0)
    options = {"kind": "values", "data_range": 9.0}
    yield "torchmetrics", COUNTS, VALUES, options, {"psnr": psnr}


def other_cases():
    kl = torchmetrics_functional.kl_divergence(rows(SOFT_CLASSES), rows(DISTRIBUTION))
    yield "torchmetrics", SOFT_CLASSES, DISTRIBUTION, {"classes": 4}, {"kl_divergence": kl}
    kl = F.kl_div(F.log_softmax(rows(LOGITS), dim=1), rows(SOFT_CLASSES), reduction="batchmean")
    options = {"classes": 4, "kind": "logits"}
    yield "torch", SOFT_CLASSES, LOGITS, options, {"kl_divergence": kl}
    kl = np.mean(scipy.special.rel_entr(SOFT, P) + scipy.special.rel_entr(1 - SOFT, 1 - P))
    yield "scipy", SOFT, P, {}, {"kl_divergence": kl}
    brier = brier_score_loss(LABELS, P)
    yield "scikit-learn", LABELS, P, {}, {"brier_score": brier}
    brier = brier_score_loss(LABELS, P, scale_by_half=False)
    yield "scikit-learn", LABELS, P, {"scale_by_half": False}, {"brier_score": brier}
    two = np.stack([1 - P, P])
    yield "scikit-learn", LABELS, two, {}, {"brier_score": brier_score_loss(LABELS, two.T)}
    brier = brier_score_loss(CLASSES, DISTRIBUTION.T)
    yield "scikit-learn", CLASSES, DISTRIBUTION, {}, {"brier_score": brier}
    brier = brier_score_loss(CLASSES, DISTRIBUTION.T, scale_by_half=True)
    options = {"scale_by_half": True}
    yield "scikit-learn", CLASSES, DISTRIBUTION, options, {"brier_score": brier}


def main():
    # torchmetrics makes tensors of the default type for the logarithms of PSNR.
    torch.set_default_dtype(torch.float64)
    arrays = {}

    def name_of(array):
        plain = {"dtype": str(array.dtype), "values": array.tolist()}
        name = next((n for n, known in arrays.items() if known == plain), f"array{len(arrays)}")
        arrays[name] = plain
        return name

    cases = []
    for part in (cross_entropy_cases, overlap_cases, value_cases, other_cases):
        for source, truth, prediction, options, expected in part():
            plain = {name: float(value) for name, value in expected.items()}
            roles = {"truth": name_of(truth), "prediction": name_of(prediction)}
            cases.append({"source": source, **roles, "options": options, "expected": plain})
    packages = ("numpy", "scipy", "scikit-learn", "torch", "torchmetrics", "monai")
    provenance = {
        "command": "python tests/golden/losses.py",
        "python": platform.python_version(),
        "versions": {name: version(name) for name in packages},
        "notes": NOTES,
    }
    path = Path(__file__).with_name("losses.json")
    content = {"provenance": provenance, "arrays": arrays, "cases": cases}
    path.write_text(json.dumps(content) + "\n", encoding="utf-8")
    print(f"{len(cases)} cases -> {path}")


if __name__ == "__main__":
    main()
