"""Interleaved measurement of ours against others, and the check that all agree.

Ours and another run in turn, A B A B …, each in a process of its environment;
a ratio is formed from each pair of neighbours. What disagrees gets no speed.
"""

import json
import os
import subprocess
import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Any, Self

REPOSITORY = Path(__file__).parent.parent


@dataclass(frozen=True)
class Contestant:
    """A function that is timed.

    Attributes
    ----------
    name
        What tables and plots call it.
    call
        "module:function".
    options
        Its keywords.
    memory
        Whether it gets arrays in memory instead of paths.
    tolerance
        Relative difference allowed between its values and ours; None where it
        computes none.
    peer
        Whether it runs in the environment of the peers.
    """

    name: str
    call: str
    options: dict[str, Any] = field(default_factory=dict)
    memory: bool = False
    tolerance: float | None = 1e-12
    peer: bool = True


class Worker:
    """A process that answers calls; see `benchmarks.worker`."""

    def __init__(self, python: str):
        self._process = subprocess.Popen(
            [python, "-W", "ignore", "-m", "benchmarks.worker"],
            cwd=REPOSITORY,
            # BLAS threads would compete with the threads that call it.
            env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._process.stdin.close()
        self._process.wait()

    def ask(self, contestant: Contestant, paths: dict[str, str]) -> dict[str, Any]:
        """Run a contestant once; an answer with "error" if it failed."""
        request = {"call": contestant.call, "memory": contestant.memory, **paths}
        self._process.stdin.write(json.dumps({**request, "options": contestant.options}) + "\n")
        self._process.stdin.flush()
        reply = self._process.stdout.readline()
        return json.loads(reply) if reply else {"error": "its process ended"}


def compare(
    ours: Contestant,
    others: list[Contestant],
    paths: dict[str, str],
    voxels: int,
    *,
    peers: str | None,
    rounds: int,
    patience: float = 20.0,
    other_paths: dict[str, str] | None = None,
) -> list[dict[str, Any]]:
    """Time ours against each of the others.

    Parameters
    ----------
    ours, others
        What to run.
    paths
        Truth and prediction.
    voxels
        How many they have.
    peers
        Python of the environment of the peers; None leaves them out.
    rounds
        Pairs of runs with each of the others.
    patience
        Seconds after which one of the others is not run again.
    other_paths
        What the others read, if not the same.

    Returns
    -------
    list of dict
        A row for each, ours first: seconds of all runs, and ratios, the time of
        the other over that of ours just before.
    """
    wanted = [other for other in others if peers or not other.peer]
    with Worker(sys.executable) as home, Worker(peers or sys.executable) as abroad:

        def ask(one: Contestant) -> dict[str, Any]:
            worker = abroad if one.peer else home
            return worker.ask(one, paths if one is ours else other_paths or paths)

        def seconds(one: Contestant) -> float:
            answer = ask(one)
            if "error" in answer:
                raise RuntimeError(f"{one.name}: {answer['error']}")
            return float(answer["seconds"])

        rows = {one.name: {**asdict(one), "voxels": voxels} for one in (ours, *wanted)}
        # Not timed: compiles, fills the page cache, and gives the values.
        expected = ask(ours)
        if "error" in expected:
            raise RuntimeError(f"{ours.name}: {expected['error']}")
        rows[ours.name] |= {"seconds": [], "ratios": [], "values": expected["values"]}
        for other in wanted:
            row = rows[other.name]
            first = ask(other)
            problem = first.get("error") or _difference(
                expected["values"], first["values"], other.tolerance
            )
            if problem:
                row["error"] = problem
                continue
            row |= {"seconds": [], "ratios": [], "values": first["values"]}
        for _ in range(rounds):
            for other in wanted:
                row = rows[other.name]
                if "error" in row or sum(row["seconds"]) > patience:
                    continue
                mine, theirs = seconds(ours), seconds(other)
                rows[ours.name]["seconds"].append(mine)
                row["seconds"].append(theirs)
                row["ratios"].append(theirs / mine)
            if not wanted:
                rows[ours.name]["seconds"].append(seconds(ours))
    return [_with_speed(row) for row in rows.values()]


def _with_speed(row: dict[str, Any]) -> dict[str, Any]:
    if row.get("seconds"):
        row["voxels_per_second"] = row["voxels"] / median(row["seconds"])
    return row


def _difference(
    ours: dict[str, Any], theirs: dict[str, Any], tolerance: float | None
) -> str | None:
    """Return what two sets of values disagree on."""
    if tolerance is None:
        return None
    for name, value in theirs.items():
        pairs = zip(*(x if isinstance(x, list) else [x] for x in (ours[name], value)), strict=True)
        for mine, other in pairs:
            if not abs(mine - other) <= tolerance * abs(mine):
                return f"disagrees on {name}: {other!r}, ours is {mine!r}"
    return None
