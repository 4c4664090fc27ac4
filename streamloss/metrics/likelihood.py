"""Kernels of the negative log-likelihood and its focally weighted form.

The state holds exact sums of fixed-point terms; what is read from it is defined in
`cross_entropy`. Probabilities are clipped, logits are not.
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from streamloss import exact, vecmath
from streamloss._jit import inlined, kernel, use_wide_vectors
from streamloss.slab import Slab
from streamloss.task import Task
from streamloss.words import count_equal, count_ones

# With this many voxels the float64 buffers of a tile stay in the first-level cache.
TILE = 1024
# Keeps every term below the 2**22 that fixed-point sums can take.
LOGIT_LIMIT = 2.0**16
ALPHA_LIMIT = 32.0


class Likelihood(NamedTuple):
    """Sums over voxels, grouped by true class where the truth is labels.

    Attributes
    ----------
    voxels
        Voxels of each group.
    loss
        Sum of the negative log-likelihood, fixed point.
    focal
        Sum of the focal loss, fixed point; zero unless it was asked for.
    clipped
        Voxels with a probability that was clipped to [eps, 1 - eps].
    smoothed
        Sum of the cross entropy with a smoothed or weighted truth, fixed point.
    entropy
        Sum over classes of y ln y, fixed point, of a truth that is not labels.
    """

    voxels: NDArray[np.int64]
    loss: NDArray[np.int64]
    focal: NDArray[np.int64]
    clipped: NDArray[np.int64]
    smoothed: NDArray[np.int64]
    entropy: NDArray[np.int64]


def update(state: Likelihood, slab: Slab, task: Task) -> None:
    """Add the terms of a slab."""
    weights = class_weights(task)
    gamma = task.parameters.get("gamma", 0.0)
    focal = task.asks("focal_loss")
    logits = task.kind == "logits"
    eps = task.parameters.get("eps", 0.0)
    if task.soft_truth:
        add_soft = _add_soft_binary if task.channels == 1 else _add_soft
        add_soft(slab.soft_truth, slab.scores, logits, eps, weights, gamma, focal, *state[:4])
    else:
        add_hard = _add_hard_binary if task.channels == 1 else _add_hard
        add_hard(slab.truth, slab.scores, logits, eps, weights, gamma, focal, *state[:4])


def class_weights(task: Task) -> NDArray[np.float64]:
    """Return focal's alpha of each class; ones if nothing is balanced."""
    alpha = task.parameters.get("alpha", "default")
    if alpha == "default":
        alpha = 0.25 if task.channels == 1 else None
    if alpha is None:
        return np.ones(len(task.classes))
    if isinstance(alpha, float):
        return np.array([1.0 - alpha, alpha])
    return np.array(alpha, np.float64)


@inlined
def _clip(p: float, eps: float, top: float) -> float:
    q = p if p > eps else eps
    return q if q < top else top


@inlined
def _true_class_chances(
    codes: NDArray[Any], row: NDArray[Any], positives: int, eps: float, chances: NDArray[np.float64]
) -> int:
    """Write the clipped probability of each true class; return how many were clipped."""
    use_wide_vectors()
    top = 1.0 - eps
    # A little within [eps, 1 - eps], whatever their rounding to the type of the scores: mostly
    # all of a tile are, and to look at them first takes less than to clip.
    lowest = row.dtype.type(1.001 * eps + 2.0**-140)
    highest = row.dtype.type(min(1.0 - 2.0 * eps, 1.0 - 2.0**-23))
    beyond = False
    for i in range(codes.size):
        beyond |= not ((row[i] >= lowest) & (row[i] <= highest))
    outside = 0
    if beyond:
        # 1 - eps is 1 for an eps below 2**-54, and 1 - q then 0.
        floor = 0.0 if top < 1.0 else eps
        for i in range(codes.size):
            p = np.float64(row[i])
            q = _clip(p, eps, top)
            outside += p != q
            chance = q if codes[i] == 1 else 1.0 - q
            chances[i] = chance if chance > floor else floor
    elif positives == 0:
        for i in range(codes.size):
            chances[i] = 1.0 - np.float64(row[i])
    elif positives == codes.size:
        for i in range(codes.size):
            chances[i] = np.float64(row[i])
    else:
        for i in range(codes.size):
            p = np.float64(row[i])
            chances[i] = p if codes[i] == 1 else 1.0 - p
    return outside


@inlined
def _sums(
    codes: NDArray[Any],
    chances: NDArray[np.float64],
    factors: NDArray[np.float64],
    low: float,
    high: float,
    mixed: bool,
    focal: bool,
    squares: bool,
) -> tuple[int, int, int, int]:
    """Return sums of the loss, of that of code 1, and the same of the focal loss.

    In units of `exact.fixed_bits`. The flags are constants, so that each call is a loop of its
    own without a branch. While the divider is busy all else costs little.
    """
    use_wide_vectors()
    total = 0
    inside = 0
    focal_total = 0
    focal_inside = 0
    for i in range(codes.size):
        exponent, ratio = vecmath.log_ratio(chances[i])
        term = -vecmath.log_for_grid(exponent, ratio)
        units = exact.fixed_bits(term)
        total += units
        positive = mixed and codes[i] == 1
        if mixed:
            inside += units if positive else 0
        if focal:
            miss = 1.0 - chances[i]
            factor = miss * miss if squares else factors[i]
            units = exact.fixed_bits(term * factor * (high if positive else low))
            focal_total += units
            if mixed:
                focal_inside += units if positive else 0
    return total, inside, focal_total, focal_inside


@kernel
def _add_hard_binary(
    truth: NDArray[Any],
    scores: NDArray[Any],
    logits: bool,
    eps: float,
    weights: NDArray[np.float64],
    gamma: float,
    focal: bool,
    voxels: NDArray[np.int64],
    loss: NDArray[np.int64],
    focal_loss: NDArray[np.int64],
    clipped: NDArray[np.int64],
) -> None:
    if logits:
        _add_hard_logit(truth, scores, weights, gamma, focal, voxels, loss, focal_loss)
        return
    use_wide_vectors()
    chances = np.empty(TILE)
    factors = np.empty(TILE)
    low, high = weights[0], weights[1]
    squares = gamma == 2.0
    for start in range(0, truth.size, TILE):
        codes = truth[start : start + TILE]
        row = scores[0, start : start + TILE]
        size = codes.size
        positives = count_ones(codes)
        voxels[0] += size - positives
        voxels[1] += positives
        clipped[0] += _true_class_chances(codes, row, positives, eps, chances)
        if focal and not squares:
            for i in range(size):
                miss = 1.0 - chances[i]
                factors[i] = miss * miss
            _raise(factors[:size], 0.5 * gamma)
        if 0 < positives < size:
            if not focal:
                sums = _sums(codes, chances, factors, low, high, True, False, False)
            elif squares:
                sums = _sums(codes, chances, factors, low, high, True, True, True)
            else:
                sums = _sums(codes, chances, factors, low, high, True, True, False)
        else:
            # Tiles of one class, the usual ones of a segmentation, need no masks.
            weight = high if positives == size else low
            if not focal:
                sums = _sums(codes, chances, factors, weight, weight, False, False, False)
            elif squares:
                sums = _sums(codes, chances, factors, weight, weight, False, True, True)
            else:
                sums = _sums(codes, chances, factors, weight, weight, False, True, False)
            if positives == size:
                sums = sums[0], sums[0], sums[2], sums[2]
        exact.add_fixed_pair(loss, size, positives, sums[0], sums[1])
        if focal:
            exact.add_fixed_pair(focal_loss, size, positives, sums[2], sums[3])


@kernel
def _add_hard_logit(
    truth: NDArray[Any],
    scores: NDArray[Any],
    weights: NDArray[np.float64],
    gamma: float,
    focal: bool,
    voxels: NDArray[np.int64],
    loss: NDArray[np.int64],
    focal_loss: NDArray[np.int64],
) -> None:
    use_wide_vectors()
    terms = np.empty(TILE)
    misses = np.empty(TILE)
    for start in range(0, truth.size, TILE):
        codes = truth[start : start + TILE]
        row = scores[0, start : start + TILE]
        size = codes.size
        positives = count_equal(codes, 1)
        voxels[0] += size - positives
        voxels[1] += positives
        for i in range(size):
            x = np.float64(row[i])
            misses[i] = -x if codes[i] == 1 else x
        for i in range(size):
            terms[i] = vecmath.softplus(misses[i])
        exact.add_fixed_by_class(loss, codes, terms[:size], 2)
        if focal:
            for i in range(size):
                misses[i] = vecmath.sigmoid(misses[i])
            _raise(misses[:size], gamma)
            for i in range(size):
                terms[i] *= misses[i] * weights[codes[i]]
            exact.add_fixed_by_class(focal_loss, codes, terms[:size], 2)


@kernel
def _raise(misses: NDArray[np.float64], gamma: float) -> None:
    """Replace each miss by miss ** gamma."""
    use_wide_vectors()
    if gamma == 2.0:
        for i in range(misses.size):
            misses[i] *= misses[i]
    elif gamma == 0.0:
        misses[:] = 1.0
    else:
        for i in range(misses.size):
            misses[i] = vecmath.power(misses[i], gamma)


@kernel
def _add_hard(
    truth: NDArray[Any],
    scores: NDArray[Any],
    logits: bool,
    eps: float,
    weights: NDArray[np.float64],
    gamma: float,
    focal: bool,
    voxels: NDArray[np.int64],
    loss: NDArray[np.int64],
    focal_loss: NDArray[np.int64],
    clipped: NDArray[np.int64],
) -> None:
    use_wide_vectors()
    classes = scores.shape[0]
    terms = np.empty(TILE)
    misses = np.empty(TILE)
    norm = np.empty(TILE)
    picked = np.empty(TILE, scores.dtype)
    top = 1.0 - eps
    for start in range(0, truth.size, TILE):
        codes = truth[start : start + TILE]
        size = codes.size
        rows = scores[:, start : start + TILE]
        rest = size
        for k in range(1, classes):
            found = count_equal(codes, k)
            voxels[k] += found
            rest -= found
        voxels[0] += rest
        if logits:
            _log_sum_exp(rows, norm)
            for i in range(size):
                terms[i] = max(norm[i] - np.float64(rows[codes[i], i]), 0.0)
            if focal:
                for i in range(size):
                    misses[i] = 1.0 - vecmath.exp(-terms[i])
        else:
            # A loop of its own: indexing by class does not vectorise, clipping does.
            for i in range(size):
                picked[i] = rows[codes[i], i]
            outside = 0
            for i in range(size):
                p = np.float64(picked[i])
                q = _clip(p, eps, top)
                outside += p != q
                misses[i] = 1.0 - q
                norm[i], terms[i] = vecmath.log_ratio(q)
            clipped[0] += outside
            for i in range(size):
                terms[i] = -vecmath.log_for_grid(norm[i], terms[i])
        exact.add_fixed_by_class(loss, codes, terms[:size], classes)
        if focal:
            _raise(misses[:size], gamma)
            for i in range(size):
                terms[i] *= misses[i] * weights[codes[i]]
            exact.add_fixed_by_class(focal_loss, codes, terms[:size], classes)


@kernel
def _log_sum_exp(rows: NDArray[Any], out: NDArray[np.float64]) -> None:
    """Write log(sum over channels of exp(row)) of each voxel, without overflow."""
    use_wide_vectors()
    channels, size = rows.shape
    total = np.zeros(TILE)
    # Two buffers in turn: a maximum in place is a masked store, 5 times as slow.
    tops = np.empty((2, TILE))
    for i in range(size):
        tops[0, i] = rows[0, i]
    for k in range(1, channels):
        old, new = tops[(k - 1) & 1], tops[k & 1]
        for i in range(size):
            new[i] = max(old[i], np.float64(rows[k, i]))
    top = tops[(channels - 1) & 1]
    for k in range(channels):
        for i in range(size):
            total[i] += vecmath.exp(np.float64(rows[k, i]) - top[i])
    for i in range(size):
        out[i] = top[i] + vecmath.log(total[i])


@kernel
def _add_soft_binary(
    truth: NDArray[Any],
    scores: NDArray[Any],
    logits: bool,
    eps: float,
    weights: NDArray[np.float64],
    gamma: float,
    focal: bool,
    voxels: NDArray[np.int64],
    loss: NDArray[np.int64],
    focal_loss: NDArray[np.int64],
    clipped: NDArray[np.int64],
) -> None:
    terms = np.empty(TILE)
    misses = np.empty(TILE)
    balanced = weights[0] != 1.0 or weights[1] != 1.0
    top = 1.0 - eps
    # As in `_add_hard_binary`.
    floor = 0.0 if top < 1.0 else eps
    voxels[0] += scores.shape[1]
    for start in range(0, scores.shape[1], TILE):
        targets = truth[0, start : start + TILE]
        row = scores[0, start : start + TILE]
        size = row.size
        outside = 0
        for i in range(size):
            y = np.float64(targets[i])
            if logits:
                x = np.float64(row[i])
                q = vecmath.sigmoid(x)
                terms[i] = y * vecmath.softplus(-x) + (1.0 - y) * vecmath.softplus(x)
            else:
                p = np.float64(row[i])
                q = _clip(p, eps, top)
                outside += p != q
                complement = max(1.0 - q, floor)
                terms[i] = -(y * vecmath.log(q) + (1.0 - y) * vecmath.log(complement))
            # 1 - p_t with torchvision's p_t = p y + (1 - p)(1 - y).
            misses[i] = q * (1.0 - y) + (1.0 - q) * y
        clipped[0] += outside
        exact.add_fixed_terms(loss[0], terms[:size])
        if focal:
            _raise(misses[:size], gamma)
            for i in range(size):
                terms[i] *= misses[i]
            if balanced:
                for i in range(size):
                    y = np.float64(targets[i])
                    terms[i] *= weights[1] * y + weights[0] * (1.0 - y)
            exact.add_fixed_terms(focal_loss[0], terms[:size])


@kernel
def _add_soft(
    truth: NDArray[Any],
    scores: NDArray[Any],
    logits: bool,
    eps: float,
    weights: NDArray[np.float64],
    gamma: float,
    focal: bool,
    voxels: NDArray[np.int64],
    loss: NDArray[np.int64],
    focal_loss: NDArray[np.int64],
    clipped: NDArray[np.int64],
) -> None:
    terms = np.empty(TILE)
    misses = np.empty(TILE)
    norm = np.empty(TILE)
    outside = np.empty(TILE, np.bool_)
    voxels[0] += scores.shape[1]
    for start in range(0, scores.shape[1], TILE):
        targets = truth[:, start : start + TILE]
        rows = scores[:, start : start + TILE]
        size = rows.shape[1]
        outside[:] = False
        if logits:
            _log_sum_exp(rows, norm)
        for k in range(rows.shape[0]):
            for i in range(size):
                if logits:
                    terms[i] = max(norm[i] - np.float64(rows[k, i]), 0.0)
                    misses[i] = 1.0 - vecmath.exp(-terms[i])
                else:
                    p = np.float64(rows[k, i])
                    q = min(max(p, eps), 1.0 - eps)
                    outside[i] |= p != q
                    terms[i] = -vecmath.log(q)
                    misses[i] = 1.0 - q
                terms[i] *= np.float64(targets[k, i])
            exact.add_fixed_terms(loss[0], terms[:size])
            if focal:
                _raise(misses[:size], gamma)
                for i in range(size):
                    terms[i] *= misses[i] * weights[k]
                exact.add_fixed_terms(focal_loss[0], terms[:size])
        for i in range(size):
            clipped[0] += outside[i]
