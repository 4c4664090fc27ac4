"""Joint counts of true class and prediction code, for predictions of 8 or 16 bits.

Voxels of equal class and code have equal terms, so they are counted while scanning
and enter the states once, at the end. States are exact, so their bytes are the same
as if every voxel had entered by itself. What the states are is not known here.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamloss._jit import kernel
from streamloss.slab import Slab
from streamloss.task import Task

_EVEN_BYTES = np.uint64(0x00FF00FF00FF00FF)
_BYTE = np.uint64(8)
_KEY = np.uint64(0xFFFF)
_SECOND, _THIRD, _FOURTH = np.uint64(16), np.uint64(32), np.uint64(48)


def empty_tally(task: Task, dtype: np.dtype[Any]) -> NDArray[np.int64] | None:
    """Return counts of zero, (classes, codes), or None where counting does not pay or apply.

    Parameters
    ----------
    task
        The run's settings.
    dtype
        Type of the raw prediction.
    """
    if (
        task.kind == "probabilities"
        and task.channels == 1
        and task.hard_truth
        and (dtype.kind in "uf" and dtype.itemsize <= 2)
    ):
        return np.zeros((len(task.classes), 2 ** (8 * dtype.itemsize)), np.int64)
    return None


def add_to_tally(slab: Slab, codes: NDArray[Any], tally: NDArray[np.int64]) -> None:
    """Count the voxels of a slab.

    Parameters
    ----------
    slab
        Tells the true classes.
    codes
        Raw predictions of 8 or 16 bits, (n,).
    tally
        Changed in place.
    """
    if codes.dtype.kind == "f":
        codes = codes.view(np.uint16)
    if codes.dtype.itemsize == 1 and slab.truth.itemsize == 1:
        _count_bytes(slab.truth, codes, tally)
    else:
        _count(slab.truth, codes, tally, tally, tally, tally)


@kernel
def _count_bytes(truth: NDArray[Any], codes: NDArray[Any], tally: NDArray[np.int64]) -> None:
    # Keys of 16 bits, class and code, of four voxels in one machine word. Neighbours often hold
    # the same pair, and adding to one address waits for the last addition to it, so each of
    # eight has a table.
    edge = truth.size - truth.size % 8
    t = truth[:edge].view(np.uint64)
    p = codes[:edge].view(np.uint64)
    # Of two classes a row would be 2 KiB, and a load from two rows further wait for a store, which
    # has the same low twelve bits of its address.
    tables = np.zeros((8, tally.size + 48), np.uint32)
    one = np.uint32(1)
    for i in range(t.size):
        even = ((t[i] & _EVEN_BYTES) << _BYTE) | (p[i] & _EVEN_BYTES)
        odd = (t[i] & ~_EVEN_BYTES) | ((p[i] >> _BYTE) & _EVEN_BYTES)
        tables[0, even & _KEY] += one
        tables[1, odd & _KEY] += one
        tables[2, (even >> _SECOND) & _KEY] += one
        tables[3, (odd >> _SECOND) & _KEY] += one
        tables[4, (even >> _THIRD) & _KEY] += one
        tables[5, (odd >> _THIRD) & _KEY] += one
        tables[6, even >> _FOURTH] += one
        tables[7, odd >> _FOURTH] += one
    for k in range(tables.shape[0]):
        for i in range(tally.shape[0]):
            for j in range(256):
                tally[i, j] += tables[k, 256 * i + j]
    for i in range(edge, truth.size):
        tally[truth[i], codes[i]] += 1


@kernel
def _count(
    truth: NDArray[Any],
    codes: NDArray[Any],
    first: NDArray[np.int64],
    second: NDArray[np.int64],
    third: NDArray[np.int64],
    fourth: NDArray[np.int64],
) -> None:
    edge = truth.size - truth.size % 4
    for i in range(0, edge, 4):
        first[truth[i], codes[i]] += 1
        second[truth[i + 1], codes[i + 1]] += 1
        third[truth[i + 2], codes[i + 2]] += 1
        fourth[truth[i + 3], codes[i + 3]] += 1
    for i in range(edge, truth.size):
        first[truth[i], codes[i]] += 1


def slabs_by_digit(
    tally: NDArray[np.int64], dtype: np.dtype[Any], task: Task
) -> Iterator[Slab | None]:
    """Yield, from the highest binary digit of the counts down, the pairs that have it.

    Parameters
    ----------
    tally
        Voxels by class and code.
    dtype
        Type of the predictions that were counted.
    task
        The run's settings.

    Notes
    -----
    Doubling a sum before each slab and adding the slab to it gives every pair its count;
    None stands for no pair. That takes 40 slabs of a few hundred voxels instead of one
    update for each of them.
    """
    values = np.array(task.classes.values, np.int64)
    unsigned = np.dtype(f"u{dtype.itemsize}")
    for digit in reversed(range(int(tally.max()).bit_length())):
        classes, codes = np.nonzero((tally >> digit) & 1)
        yield (
            Slab(values[classes], codes.astype(unsigned).view(dtype), task) if codes.size else None
        )
