"""The floor under every score: read and decode both arrays, and discard.

Chunk files are read into a reused buffer and decoded by numcodecs into another,
one thread per core, truth and prediction in turn. For arrays in memory the floor
is to add up their bytes.
"""

import itertools
import json
import math
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numcodecs
import numpy as np
from numba import njit
from numpy.typing import NDArray

# Chunks that do not compress are stored a little larger than they are.
SLACK = 2**16
# Words of 8 bytes that a thread adds up at a time.
PART = 2**17


def read(truth: str, prediction: str, threads: int) -> dict[str, Any]:
    """Decode every stored chunk of a pair; the bytes decoded are the value."""
    sizes, decoders, keys = zip(*(_open(Path(path)) for path in (truth, prediction)), strict=True)
    remaining = iter(list(zip(*keys, strict=True)))
    lock = threading.Lock()

    def work(_: int) -> int:
        compressed = memoryview(bytearray(max(sizes) + SLACK))
        outputs = [memoryview(bytearray(size)) for size in sizes]
        decoded = 0
        while True:
            with lock:
                pair = next(remaining, None)
            if pair is None:
                return decoded
            for path, decode, output in zip(pair, decoders, outputs, strict=True):
                file = os.open(path, os.O_RDONLY)
                size = os.readv(file, [compressed])
                os.close(file)
                decode(compressed[:size], output)
                decoded += len(output)

    numcodecs.blosc.use_threads = False
    with ThreadPoolExecutor(threads) as pool:
        return {"decoded_bytes": sum(pool.map(work, range(threads)))}


def add_up(truth: NDArray[Any], prediction: NDArray[Any], workers: int) -> dict[str, Any]:
    """Read arrays in memory by some threads; the sum of their words is the value."""
    words = [array.reshape(-1).view(np.uint64) for array in (truth, prediction)]
    parts = [array[start : start + PART] for array in words for start in range(0, array.size, PART)]
    with ThreadPoolExecutor(workers) as pool:
        sums = pool.map(_sum_of_each, [parts[first::workers] for first in range(workers)])
        return {"sum": sum(map(int, sums)) % 2**64}


def _sum_of_each(parts: list[NDArray[np.uint64]]) -> int:
    return sum(int(_sum(part)) for part in parts)


@njit(nogil=True)
def _sum(words):
    total = np.uint64(0)
    for word in words:
        total += word
    return total


def _open(path: Path) -> tuple[int, Callable[..., Any], Iterator[str]]:
    """Return bytes of a chunk, its decoder, and the files of all chunks."""
    facts = json.loads((path / "zarr.json").read_text())
    chunk = facts["chunk_grid"]["configuration"]["chunk_shape"]
    codec = {"zstd": numcodecs.Zstd, "blosc": numcodecs.Blosc}[facts["codecs"][-1]["name"]]()
    size = math.prod(chunk) * np.dtype(facts["data_type"]).itemsize
    grid = [range(-(-extent // part)) for extent, part in zip(facts["shape"], chunk, strict=True)]
    files = (f"{path}/c/" + "/".join(map(str, index)) for index in itertools.product(*grid))
    return size, codec.decode, files
