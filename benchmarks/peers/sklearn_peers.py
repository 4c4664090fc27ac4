"""scikit-learn on arrays in memory; it has no streaming form."""

from typing import Any

import numpy as np
from sklearn.metrics import confusion_matrix, log_loss, roc_auc_score


def dice_in_memory(truth: Any, prediction: Any) -> dict[str, Any]:
    """Return Dice from `confusion_matrix`."""
    counts = confusion_matrix(truth.reshape(-1), prediction.reshape(-1), labels=range(4))
    both = np.diagonal(counts)
    return {"dice": (2 * both / (counts.sum(axis=0) + counts.sum(axis=1)))[1:].tolist()}


def log_loss_in_memory(truth: Any, prediction: Any) -> dict[str, float]:
    """Return the cross entropy by `log_loss`."""
    loss = log_loss(truth.reshape(-1), prediction.reshape(-1).astype(np.float64), labels=(0, 1))
    return {"cross_entropy": float(loss)}


def auroc_in_memory(truth: Any, prediction: Any) -> dict[str, float]:
    """Return the area under the ROC curve."""
    return {"auroc": float(roc_auc_score(truth.reshape(-1), prediction.reshape(-1)))}
