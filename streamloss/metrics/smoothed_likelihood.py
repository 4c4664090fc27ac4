"""Kernels of the cross entropy that looks at every class of a voxel, and of the truth's entropy.

They serve smoothed labels, class weights with a soft truth, and the KL divergence;
the state they fill is that of `likelihood`, and `cross_entropy` calls them.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamloss import exact, vecmath
from streamloss._jit import kernel
from streamloss.metrics.likelihood import TILE, _log_sum_exp


@kernel
def _minus_logs(rows: NDArray[Any], logits: bool, eps: float, out: NDArray[np.float64]) -> None:
    """Write -ln p of every class of each voxel; one channel has the classes 0 and 1."""
    channels, size = rows.shape
    top = 1.0 - eps
    # 1 - eps is 1 for an eps below 2**-54, and 1 - q then 0.
    floor = 0.0 if top < 1.0 else eps
    if channels == 1:
        for i in range(size):
            x = np.float64(rows[0, i])
            if logits:
                out[0, i] = vecmath.softplus(x)
                out[1, i] = vecmath.softplus(-x)
            else:
                q = min(max(x, eps), top)
                out[0, i] = -vecmath.log(max(1.0 - q, floor))
                out[1, i] = -vecmath.log(q)
        return
    if logits:
        norm = np.empty(TILE)
        _log_sum_exp(rows, norm)
        for k in range(channels):
            for i in range(size):
                out[k, i] = max(norm[i] - np.float64(rows[k, i]), 0.0)
    else:
        for k in range(channels):
            for i in range(size):
                out[k, i] = -vecmath.log(min(max(np.float64(rows[k, i]), eps), top))


@kernel
def add_smoothed_hard(
    truth: NDArray[Any],
    scores: NDArray[Any],
    logits: bool,
    eps: float,
    weights: NDArray[np.float64],
    smoothing: float,
    smoothed: NDArray[np.int64],
) -> None:
    """Add -sum over k of w_k q_k ln p_k, q the smoothed label, to the sum of the true class."""
    classes = weights.size
    logs = np.empty((classes, TILE))
    for start in range(0, truth.size, TILE):
        codes = truth[start : start + TILE]
        _minus_logs(scores[:, start : start + TILE], logits, eps, logs)
        for k in range(classes):
            other = weights[k] * (smoothing / classes)
            own = weights[k] * (1.0 - smoothing + smoothing / classes)
            for i in range(codes.size):
                logs[k, i] *= own if codes[i] == k else other
            exact.add_fixed_by_class(smoothed, codes, logs[k, : codes.size], classes)


@kernel
def add_smoothed_soft(
    truth: NDArray[Any],
    scores: NDArray[Any],
    logits: bool,
    eps: float,
    weights: NDArray[np.float64],
    smoothing: float,
    smoothed: NDArray[np.int64],
) -> None:
    """Add -sum over k of w_k q_k ln p_k, q the smoothed distribution, to the one sum."""
    classes = weights.size
    logs = np.empty((classes, TILE))
    for start in range(0, scores.shape[1], TILE):
        rows = scores[:, start : start + TILE]
        size = rows.shape[1]
        _minus_logs(rows, logits, eps, logs)
        for k in range(classes):
            # The negative class of one channel is its complement.
            targets = truth[k if truth.shape[0] > 1 else 0, start : start + TILE]
            complement = truth.shape[0] == 1 and k == 0
            for i in range(size):
                y = np.float64(targets[i])
                y = 1.0 - y if complement else y
                logs[k, i] *= weights[k] * ((1.0 - smoothing) * y + smoothing / classes)
            exact.add_fixed_terms(smoothed[0], logs[k, :size])


@kernel
def add_entropy(truth: NDArray[Any], entropy: NDArray[np.int64]) -> None:
    """Add sum over k of y_k ln y_k, where 0 ln 0 is 0, to the one sum."""
    terms = np.empty(TILE)
    for k in range(truth.shape[0]):
        for start in range(0, truth.shape[1], TILE):
            targets = truth[k, start : start + TILE]
            for i in range(targets.size):
                y = np.float64(targets[i])
                # The logarithm of 0 is never taken: 0 times minus infinity would be NaN.
                terms[i] = y * vecmath.log(y if y > 0.0 else 1.0)
            exact.add_fixed_terms(entropy[0], terms[: targets.size])
            if truth.shape[0] == 1:
                for i in range(targets.size):
                    y = 1.0 - np.float64(targets[i])
                    terms[i] = y * vecmath.log(y if y > 0.0 else 1.0)
                exact.add_fixed_terms(entropy[0], terms[: targets.size])
