"""Speed and peak memory of batches, each run a new process.

Memory is counted above what importing took, in the process and in each that it started.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import repeat
from pathlib import Path
from typing import Any

from benchmarks.data import Pair, build

MAX_MEMORY = 512 * 2**20
# Cases and voxels along each axis: many small ones, hundreds and scores of larger ones, and few
# that are each scored by all workers. Shorter batches would measure the noise of the machine.
BATCHES = ((2048, 64), (384, 256), (96, 512), (3, 1024))

# Python keeps the bytecode of what it imports, as it does where nobody forbids that: each process
# of a batch would else compile this package anew.
ENVIRONMENT = {
    name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"
}

MEASURED_RUN = """
import json, resource, sys, time
import streamloss as sl
import streamloss.batching, streamloss.stores.zarr, zarr
from streamloss.statistic import discover
discover()

def peak():
    lines = open("/proc/self/status").read().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))

request = json.load(sys.stdin)
cases = [sl.Case(**case) for case in request.pop("cases")]
baseline = peak()
# Loading compiled kernels takes a quarter of a second, whatever the number of cases.
sl.score(cases[0].truth, cases[0].prediction, metrics=request["metrics"], classes=4, workers=1)
started = time.perf_counter()
sl.batch(cases, executor="auto", **request)
seconds = time.perf_counter() - started
# The largest of the children, as if each had been as large.
child = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
others = max(child - baseline, 0) * (request["workers"] - 1)
print(json.dumps({"seconds": seconds, "peak": peak() - baseline + others}))
"""

# What a second process has to do before it scores its first case, and that case.
FIRST_CASE = """
import sys
import streamloss as sl
sl.score(*sys.argv[1:], metrics="dice", classes=4, workers=1)
"""


def measure(data: Path, threads: int, rounds: int) -> list[dict[str, Any]]:
    """Return a row for each batch and number of workers, their runs interleaved."""
    rows = []
    for count, size in BATCHES:
        cases = _cases(data, count, size)
        numbers = sorted({1, threads})
        runs: dict[int, list[dict[str, Any]]] = {workers: [] for workers in numbers}
        apart: list[float] = []
        start: list[float] = []
        # The first compiles, if the kernel cache is cold.
        _run(cases[:1], 1)
        for _ in range(rounds):
            for workers in numbers:
                runs[workers].append(_run(cases, workers))
            if count % threads == 0:
                apart.append(_seconds_apart([cases[first::threads] for first in range(threads)]))
                start.append(_seconds_to_start(cases[0]))
        rows += [
            {
                "name": f"{count} × {size}³",
                "workers": workers,
                "seconds": [run["seconds"] for run in found],
                "seconds_apart": apart,
                "seconds_to_start": start,
                "peak_bytes": [run["peak"] for run in found],
                "max_memory": MAX_MEMORY,
            }
            for workers, found in runs.items()
        ]
    return rows


def _seconds_apart(shares: list[list[dict[str, str]]]) -> float:
    """Return how long batches by one worker each take side by side, which share nothing.

    Importing is not counted: it is what the machine can do by as many cores.
    """
    with ThreadPoolExecutor(len(shares)) as pool:
        return max(run["seconds"] for run in pool.map(_run, shares, repeat(1)))


def _seconds_to_start(case: dict[str, str]) -> float:
    """Return how long a new process takes until it has scored a case."""
    started = time.perf_counter()
    arguments = [sys.executable, "-c", FIRST_CASE, case["truth"], case["prediction"]]
    subprocess.run(arguments, env=ENVIRONMENT, check=True)
    return time.perf_counter() - started


def _cases(data: Path, count: int, size: int) -> list[dict[str, str]]:
    """Return cases that each have files of their own, copies of one pair."""
    paths = build(Pair("labels", size, min(size, 128)), data)
    folder = data / f"batch-{count}-{size}"
    cases = []
    for number in range(count):
        case = {"name": str(number)}
        for role in ("truth", "prediction"):
            copy = folder / role / f"{number}.zarr"
            if not copy.exists():
                partial = copy.with_suffix(".partial")
                shutil.rmtree(partial, ignore_errors=True)
                shutil.copytree(paths[role], partial)
                partial.rename(copy)
            case[role] = str(copy)
        cases.append(case)
    return cases


def _run(cases: list[dict[str, str]], workers: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as output:
        request = {
            "cases": cases,
            "workers": workers,
            "output": output,
            "max_memory": MAX_MEMORY,
            "metrics": "dice",
            "classes": 4,
        }
        # The request of a thousand cases is too long for an argument.
        done = subprocess.run(
            [sys.executable, "-c", MEASURED_RUN],
            input=json.dumps(request),
            env=ENVIRONMENT,
            check=True,
            stdout=subprocess.PIPE,
            text=True,
        )
    return json.loads(done.stdout)
