"""dask.array: the fastest idioms, and the expressions of the manual.

`map_blocks` over chunk-aligned blocks with the NumPy idioms inside, on the
threaded scheduler; array expressions make a task and a temporary of every
operator.
"""

from typing import Any

import dask
import dask.array as da
import numpy as np
import zarr

from benchmarks.peers import numpy_peers
from benchmarks.peers.reading import tuned


def dice_from_zarr(truth: str, prediction: str, idiom: str) -> dict[str, Any]:
    """Return Dice from counts of label pairs of each block."""
    return numpy_peers.dice(_blockwise(numpy_peers.COUNTS[idiom], truth, prediction))


def losses_from_zarr(truth: str, prediction: str) -> dict[str, float]:
    """Return cross entropy, squared error and soft Dice from sums of each block."""
    parts = _blockwise(numpy_peers.three_loss_sums, truth, prediction)
    return numpy_peers.losses(parts, focal=False)


def loss_expressions_from_zarr(truth: str, prediction: str) -> dict[str, float]:
    """Return the same from array expressions, read once."""
    side, threads = tuned(truth, prediction)
    y, p = (_open(path, side) for path in (truth, prediction))
    distance = abs(p - y)
    total = (p.sum(dtype=np.float64) + y.sum(dtype=np.float64)).astype(np.float64)
    expressions = {
        "cross_entropy": -da.log(np.float32(1) - distance).mean(dtype=np.float64),
        "mse": (distance * distance).mean(dtype=np.float64),
        "soft_dice": 2 * (p * y).sum(dtype=np.float64) / total,
    }
    with dask.config.set(scheduler="threads", num_workers=threads):
        return {key: float(value) for key, value in dask.compute(expressions)[0].items()}


def _blockwise(function: Any, truth: str, prediction: str) -> list[Any]:
    side, threads = tuned(truth, prediction)
    y, p = (_open(path, side).to_delayed().ravel() for path in (truth, prediction))

    def one(t: Any, q: Any) -> Any:
        return function(t.reshape(-1), q.reshape(-1))

    tasks = [dask.delayed(one)(t, q) for t, q in zip(y, p, strict=True)]
    with dask.config.set(scheduler="threads", num_workers=threads):
        return list(dask.compute(*tasks))


def _open(path: str, side: int) -> Any:
    array = zarr.open_array(path, mode="r")
    return da.from_array(array, chunks=(side,) * array.ndim, name=False, inline_array=True)
