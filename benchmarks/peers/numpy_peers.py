"""NumPy as experts write it: counts of label pairs and sums for losses, block by block.

Three ways to count, all exact. `bincount` of joint codes is the usual one; it
converts every code to int64 first, thus the tiles. `packed` gives it four voxels in each code,
a quarter of the conversions. `nonzero` compares and counts bytes with vector
instructions in tiles that stay in cache.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from benchmarks.peers.reading import map_blocks, map_parts

CLASSES = 4
TILE = 2**18
# Enough work for each call of the pool, and for a histogram of 2**16 bins.
PART = 2**22
EPSILON = 2.0**-52


def bincount(truth: Any, prediction: Any) -> Any:
    """Return true positives, true and predicted voxels of each class."""
    counts = np.zeros(CLASSES**2, np.int64)
    for start in range(0, len(truth), TILE):
        codes = truth[start : start + TILE] << np.uint8(2)
        codes |= prediction[start : start + TILE]
        counts += np.bincount(codes, minlength=CLASSES**2)
    return _sums(counts)


def packed(truth: Any, prediction: Any) -> Any:
    """Return the same from histograms of four voxels at a time."""
    whole = len(truth) // 8 * 8
    codes = truth[:whole].view(np.uint64) << np.uint64(2)
    codes |= prediction[:whole].view(np.uint64)
    codes |= codes >> np.uint64(4)
    codes &= np.uint64(0x00FF00FF00FF00FF)
    codes |= codes >> np.uint64(8)
    counts = np.bincount(codes.view(np.uint16)[::2], minlength=2**16).reshape((16,) * 4)
    axes = range(4)
    pairs = sum(counts.sum(axis=tuple(other for other in axes if other != axis)) for axis in axes)
    return _sums(pairs) + bincount(truth[whole:], prediction[whole:])


def nonzero(truth: Any, prediction: Any) -> Any:
    """Return the same from comparisons, counted as bytes."""
    sums = np.zeros((3, CLASSES), np.int64)
    buffers = np.empty((2, min(TILE, len(truth))), bool)
    for start in range(0, len(truth), TILE):
        t, p = truth[start : start + TILE], prediction[start : start + TILE]
        in_truth, in_prediction = buffers[:, : len(t)]
        for value in range(1, CLASSES):
            np.equal(t, value, out=in_truth)
            np.equal(p, value, out=in_prediction)
            sums[1, value] += np.count_nonzero(in_truth)
            sums[2, value] += np.count_nonzero(in_prediction)
            np.logical_and(in_truth, in_prediction, out=in_truth)
            sums[0, value] += np.count_nonzero(in_truth)
    return sums


COUNTS: dict[str, Callable[[Any, Any], Any]] = {
    "bincount": bincount,
    "packed": packed,
    "nonzero": nonzero,
}


def dice_from_zarr(truth: str, prediction: str, idiom: str) -> dict[str, Any]:
    """Return Dice of the foreground classes of two arrays on disk."""
    return dice(map_blocks(COUNTS[idiom], truth, prediction))


def dice_in_memory(truth: Any, prediction: Any, idiom: str, threads: int) -> dict[str, Any]:
    """Return Dice of the foreground classes of two arrays in memory."""
    return dice(map_parts(COUNTS[idiom], truth, prediction, PART, threads))


def losses_from_zarr(truth: str, prediction: str) -> dict[str, float]:
    """Return four losses of two arrays on disk."""
    return losses(map_blocks(loss_sums, truth, prediction))


def losses_in_memory(truth: Any, prediction: Any, threads: int) -> dict[str, float]:
    """Return four losses of two arrays in memory."""
    return losses(map_parts(loss_sums, truth, prediction, PART, threads))


def loss_sums(truth: Any, prediction: Any, focal: bool = True) -> Any:
    """Return voxels, sums of log-loss, focal loss, squared error, p, y and p y of a block.

    With y of 0 or 1, d = |p - y| is all that log-loss and squared error need:
    one logarithm a voxel, in float32, in tiles that stay in cache.
    """
    scale = np.float32(1 / 255) if prediction.dtype == np.uint8 else np.float32(1)
    sums = np.zeros(7)
    floats = np.empty((4, min(TILE // 4, len(truth))), np.float32)
    for start in range(0, len(truth), floats.shape[1]):
        t = truth[start : start + floats.shape[1]]
        p, y, distance, log = floats[:, : len(t)]
        np.multiply(prediction[start : start + len(t)], scale, out=p)
        np.copyto(y, t)
        np.subtract(p, y, out=distance)
        np.abs(distance, out=distance)
        squared = np.dot(distance, distance)
        np.subtract(np.float32(1), distance, out=log)
        np.maximum(log, np.float32(EPSILON), out=log)
        np.log(log, out=log)
        sums += (len(t), -log.sum(), 0, squared, p.sum(), np.count_nonzero(t), np.dot(p, y))
        if focal:
            np.multiply(distance, distance, out=distance)
            np.multiply(distance, log, out=distance)
            # alpha is 1/4 for positives and 3/4 for negatives.
            sums[2] -= 0.75 * distance.sum() - 0.5 * np.dot(distance, y)
    return sums


def losses(parts: list[Any], focal: bool = True) -> dict[str, float]:
    """Return the losses from the sums of all blocks."""
    voxels, log, focused, squared, p, y, overlap = np.sum(parts, axis=0)
    found = {
        "cross_entropy": log / voxels,
        "mse": squared / voxels,
        "soft_dice": 2 * overlap / (p + y),
    }
    return {key: float(value) for key, value in found.items()} | (
        {"focal_loss": float(focused / voxels)} if focal else {}
    )


def dice(parts: list[Any]) -> dict[str, list[float]]:
    """Return Dice of the foreground classes from the counts of all blocks."""
    both, in_truth, in_prediction = np.sum(parts, axis=0)[:, 1:]
    return {"dice": (2 * both / (in_truth + in_prediction)).tolist()}


three_loss_sums = partial(loss_sums, focal=False)


def _sums(pairs: Any) -> Any:
    pairs = pairs.reshape(CLASSES, CLASSES)
    return np.stack([np.diagonal(pairs), pairs.sum(axis=1), pairs.sum(axis=0)])
