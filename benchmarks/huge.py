"""One huge volume: merging states, checkpoints, and a Dask cluster of this machine.

What is compared runs in turn, A B A B …, in this process; a ratio is formed from each pair.
"""

import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import streamloss
from benchmarks import ours
from benchmarks.data import Pair, build
from streamloss import scoring
from streamloss.checkpoint import Savepoint

STATES = 1000
_OPTIONS: dict[str, dict[str, Any]] = {
    "labels": {"metrics": "dice", "classes": 4},
    "probabilities": {"metrics": ours.LOSSES, "kind": "probabilities"},
}


def merging(data: Path, rounds: int) -> list[dict[str, Any]]:
    """Return how long it takes to merge the states of all shards, for counts and for losses."""
    rows = []
    for kind, options in _OPTIONS.items():
        paths = build(Pair(kind, 256, 128), data)
        with tempfile.TemporaryDirectory(dir=data) as folder:
            states = [Path(folder) / f"{number}.slstate" for number in range(STATES)]
            for number, state in enumerate(states):
                part = {"shard": f"{number}/{STATES}", "save_state": state}
                streamloss.score(**paths, **part, **options)
            whole = streamloss.score(**paths, **options).to_dict()["metrics"]
            seconds = []
            for _ in range(rounds):
                started = time.perf_counter()
                merged = streamloss.merge(states)
                seconds.append(time.perf_counter() - started)
            assert merged.to_dict()["metrics"] == whole, "merged shards are not the whole"
            size = states[0].stat().st_size
        rows.append({"name": kind, "states": STATES, "bytes": size, "seconds": seconds})
    return rows


def checkpoints(data: Path, size: int, rounds: int) -> list[dict[str, Any]]:
    """Return what a checkpoint takes of runs of one worker, and their times without and with it.

    Its part of a run is measured within the run, where machines that are now faster, now slower
    do not show: the time of saving and of looking at the files that the sum is of.
    """
    rows = []
    for kind, options in _OPTIONS.items():
        # Probabilities take five times as long.
        pair = Pair(kind, size if kind == "labels" else size // 2, 128)
        run = partial(streamloss.score, **build(pair, data), workers=1, **options)
        saves: list[int] = []
        parts: list[float] = []
        with tempfile.TemporaryDirectory(dir=data) as folder:
            saved = partial(_run_with_checkpoint, run, Path(folder), saves, parts)
            row = _in_turn(run, saved, rounds)
        rows.append({"name": pair.name, **row, "saves": saves, "parts": parts})
    return rows


def _run_with_checkpoint(
    run: Callable[..., Any], folder: Path, saves: list[int], parts: list[float]
) -> Any:
    """Run with a checkpoint that is not there yet; note how often it was saved, and its part."""
    spent = 0.0

    def timed(function: Callable[..., Any]) -> Callable[..., Any]:
        def called(*arguments: Any, **options: Any) -> Any:
            nonlocal spent
            started = time.perf_counter()
            try:
                return function(*arguments, **options)
            finally:
                spent += time.perf_counter() - started

        return called

    started = time.perf_counter()
    with (
        patch.object(Savepoint, "save", autospec=True, side_effect=timed(Savepoint.save)) as save,
        patch.object(scoring, "origin_of", timed(scoring.origin_of)),
    ):
        result = run(checkpoint=folder / str(len(saves)))
    saves.append(save.call_count)
    parts.append(spent / (time.perf_counter() - started - spent))
    return result


def dask(data: Path, size: int, threads: int, rounds: int) -> list[dict[str, Any]]:
    """Return times of threads and of a cluster of as many processes, once it is up."""
    from distributed import Client, LocalCluster

    rows = []
    with (
        LocalCluster(n_workers=threads, threads_per_worker=1, dashboard_address=":0") as cluster,
        Client(cluster) as client,
    ):
        for kind, options in _OPTIONS.items():
            pair = Pair(kind, size, 128)
            run = partial(streamloss.score, **build(pair, data), **options)
            of_threads = partial(run, workers=threads)
            rows.append(
                {"name": pair.name, **_in_turn(of_threads, partial(run, executor=client), rounds)}
            )
    return rows


def _in_turn(one: Callable[[], Any], other: Callable[[], Any], rounds: int) -> dict[str, Any]:
    """Return the seconds of both, after a run of each that does not count, and their ratios."""
    values = [run().to_dict()["metrics"] for run in (one, other)]
    assert values[0] == values[1], "the two do not agree"
    seconds: tuple[list[float], list[float]] = ([], [])
    for _ in range(rounds):
        for run, times in zip((one, other), seconds, strict=True):
            started = time.perf_counter()
            run()
            times.append(time.perf_counter() - started)
    ratios = [after / before for before, after in zip(*seconds, strict=True)]
    return {"seconds": seconds[0], "other_seconds": seconds[1], "ratios": ratios}
