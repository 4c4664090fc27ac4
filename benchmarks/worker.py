"""Runs named functions in an environment of its own, one JSON line for each.

In:  {"call": "module:function", "truth": path, "prediction": path,
      "memory": whether to pass arrays instead of paths, "options": {...}}
Out: {"seconds": ..., "values": {...}} or {"error": ...}

Loading arrays and importing libraries come before the clock starts. Nothing of
`streamloss` is imported here, so that peers need not have it.
"""

import importlib
import json
import sys
import time
from functools import lru_cache
from typing import Any

import numpy as np


@lru_cache(maxsize=2)
def _load(path: str) -> Any:
    import zarr

    return np.ascontiguousarray(zarr.open_array(path, mode="r")[:])


def _answer(request: dict[str, Any]) -> dict[str, Any]:
    module, name = request["call"].split(":")
    function = getattr(importlib.import_module(module), name)
    sources = [request["truth"], request["prediction"]]
    if request["memory"]:
        sources = [_load(path) for path in sources]
    started = time.perf_counter()
    values = function(*sources, **request["options"])
    return {"seconds": time.perf_counter() - started, "values": values}


def main() -> None:
    """Answer until the input ends."""
    # What libraries print must not reach the protocol.
    replies, sys.stdout = sys.stdout, sys.stderr
    for line in sys.stdin:
        try:
            reply = _answer(json.loads(line))
        except Exception as error:
            reply = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(reply), file=replies, flush=True)


if __name__ == "__main__":
    main()
