"""From label values to class codes: by a table for small integers, by search for large ones.

Which labels are classes is told by the class table; a label without a class gets a code that
is of none, and whether that is a fault is not known here.
"""

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamloss._jit import kernel
from streamloss.task import Classes


def encode(raw: NDArray[Any], classes: Classes) -> NDArray[np.unsignedinteger]:
    """Turn label values into class codes; a label of no class gets a code past the last.

    Parameters
    ----------
    raw
        Labels of any integer type or bool, (n,), contiguous.
    classes
        Tells the codes.
    """
    return _encoder(classes, classes.code_dtype, raw.dtype)(raw)


@lru_cache(maxsize=64)
def _encoder(
    classes: Classes, codes: np.dtype[Any], dtype: np.dtype[Any]
) -> Callable[[NDArray[Any]], NDArray[np.unsignedinteger]]:
    count = len(classes)
    if dtype.kind == "b":
        return _encoder_of_bool(classes, codes)
    unsigned = np.dtype(f"u{dtype.itemsize}")
    rest = np.iinfo(codes).max
    if classes.others == "background" and classes.background is not None:
        rest = classes.values.index(classes.background)
    elif classes.values == tuple(range(count)) and unsigned == codes:
        # The labels are the codes. Negative ones become codes past the last.
        return lambda raw: raw.view(unsigned)
    if dtype.itemsize <= 2:
        table = np.full(2 ** (8 * dtype.itemsize), rest, codes)
        for code, value in enumerate(classes.values):
            if np.iinfo(dtype).min <= value <= np.iinfo(dtype).max:
                table[value % table.size] = code

        def look_up(raw: NDArray[Any]) -> NDArray[np.unsignedinteger]:
            out = np.empty(raw.shape, codes)
            _encode_table(raw.view(unsigned), table, out)
            return out

        return look_up

    pairs = sorted(
        (value, code)
        for code, value in enumerate(classes.values)
        if np.iinfo(dtype).min <= value <= np.iinfo(dtype).max
    )
    values = np.array([value for value, _ in pairs], dtype)
    places = np.array([code for _, code in pairs], codes)

    def search(raw: NDArray[Any]) -> NDArray[np.unsignedinteger]:
        out = np.empty(raw.shape, codes)
        _encode_search(raw, values, places, codes.type(rest), out)
        return out

    return search


def _encoder_of_bool(
    classes: Classes, codes: np.dtype[Any]
) -> Callable[[NDArray[Any]], NDArray[np.unsignedinteger]]:
    as_bytes = _encoder(classes, codes, np.dtype(np.uint8))
    return lambda raw: as_bytes(raw.view(np.uint8))


@kernel
def _encode_table(raw: NDArray[Any], table: NDArray[Any], out: NDArray[Any]) -> None:
    for i in range(out.size):
        out[i] = table[raw[i]]


@kernel
def _encode_search(
    raw: NDArray[Any],
    values: NDArray[Any],
    places: NDArray[Any],
    none: int,
    out: NDArray[Any],
) -> None:
    # Labels come in runs, so the code of the last voxel is nearly always right.
    last = raw[0]
    code = none
    known = False
    for i in range(raw.size):
        value = raw[i]
        if not known or value != last:
            low = 0
            high = values.size
            while low < high:
                middle = (low + high) // 2
                if values[middle] < value:
                    low = middle + 1
                else:
                    high = middle
            code = places[low] if low < values.size and values[low] == value else none
            last = value
            known = True
        out[i] = code
