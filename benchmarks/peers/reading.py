"""How peers read Zarr: zarr-python, blocks of whole chunks, a pool of threads.

zarr-python is fastest with blocks of 128 or 256 voxels a side and two or four
readers, which of them depends on chunks and codec: `tuned` tries them once per
pair, before anything is timed, so that every peer reads in its best form.
"""

import itertools
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any

import numpy as np
import zarr

CHOICES = tuple(itertools.product((128, 256), (2, 4)))


def map_blocks(function: Callable[[Any, Any], Any], truth: str, prediction: str) -> list[Any]:
    """Read a pair block by block and return what `function` makes of each flat block."""
    side, threads = tuned(truth, prediction)
    return _map_blocks(function, truth, prediction, side, threads)


@cache
def tuned(truth: str, prediction: str) -> tuple[int, int]:
    """Return the side of a block and the number of threads that read a pair fastest."""
    seconds = {}
    for choice in CHOICES * 2:
        started = time.perf_counter()
        _map_blocks(lambda t, p: None, truth, prediction, *choice)
        spent = time.perf_counter() - started
        seconds[choice] = min(spent, seconds.get(choice, spent))
    return min(seconds, key=seconds.__getitem__)


def _map_blocks(
    function: Callable[[Any, Any], Any], truth: str, prediction: str, side: int, threads: int
) -> list[Any]:
    arrays = [zarr.open_array(path, mode="r") for path in (truth, prediction)]
    corners = itertools.product(*(range(0, size, side) for size in arrays[0].shape))
    boxes = [tuple(slice(start, start + side) for start in corner) for corner in corners]

    def one(box: tuple[slice, ...]) -> Any:
        return function(*(np.asarray(array[box]).reshape(-1) for array in arrays))

    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(one, boxes))


def map_parts(
    function: Callable[[Any, Any], Any], truth: Any, prediction: Any, size: int, threads: int
) -> list[Any]:
    """Return what `function` makes of each `size` voxels of two arrays in memory."""
    truth, prediction = truth.reshape(-1), prediction.reshape(-1)
    parts = [slice(start, start + size) for start in range(0, len(truth), size)]
    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(lambda part: function(truth[part], prediction[part]), parts))
