"""The whole battery of metrics beside one loss, areas under curves beside their peers.

`python -m benchmarks.battery --peers DIR` prints the table and keeps it with the results. What
is compared of ours runs in turn, A B A B …; a ratio is formed from each pair. scikit-learn and
torchmetrics need minutes for a volume of 512³ and a memory of several times it, so they score a
smaller one, and voxels a second are compared.
"""

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

import streamloss
from benchmarks import memory
from benchmarks.__main__ import HERE, _environment
from benchmarks.compare import Contestant, Worker
from benchmarks.data import Pair, build
from benchmarks.profile import SLAB, _part, _time
from streamloss.prepare import prepare
from streamloss.registry import definitions, metric_names, needed
from streamloss.slab import Slab

AREAS = ("auroc", "average_precision", "expected_calibration_error")
BATTERY = tuple(
    name for name in metric_names() if any("probabilities" in m.kinds for _, m in definitions(name))
)
ONE = ("cross_entropy",)
MAX_MEMORY = "512MiB"
PEERS = {
    "scikit-learn roc_auc_score": ("sklearn_peers:auroc_in_memory", 50.0),
    "torchmetrics binary_auroc, exact": ("torch_peers:auroc_in_memory", 25.0),
}


def in_turn(paths: dict[str, str], choices: dict[str, Any], rounds: int) -> dict[str, list[float]]:
    """Return the seconds of each choice of metrics."""
    seconds: dict[str, list[float]] = {name: [] for name in choices}
    for turn in range(rounds + 1):
        for name, metrics in choices.items():
            started = time.perf_counter()
            streamloss.score(**paths, metrics=metrics, kind="probabilities")
            if turn:
                seconds[name].append(time.perf_counter() - started)
    return seconds


def peers(python: str, pair: Pair, data: Path, rounds: int) -> dict[str, dict[str, Any]]:
    """Return voxels a second of the peers, once their values were found to be ours."""
    paths = build(pair, data)
    own = streamloss.score(**paths, metrics="auroc", exact=True)["auroc"].value
    found = {}
    with Worker(python) as worker:
        for name, (call, _) in PEERS.items():
            one = Contestant(name, f"benchmarks.peers.{call}", memory=True)
            answers = [worker.ask(one, paths) for _ in range(rounds)]
            for answer in answers:
                difference = abs(answer["values"]["auroc"] - own)
                # torchmetrics sums in single precision.
                assert difference < 1e-5, (name, answer, own)
            seconds = [answer["seconds"] for answer in answers]
            found[name] = {"seconds": seconds, "voxels_per_second": pair.voxels / median(seconds)}
    return found


def profile(pair: Pair, data: Path, repeats: int = 20) -> dict[str, float]:
    """Return nanoseconds a voxel of the kernel of each statistic, alone and in cache."""
    paths = build(pair, data)
    truth, prediction = (_part(path) for path in paths.values())
    found = {}
    for name, metrics in (("", BATTERY), ("areas: ", AREAS), ("cross entropy alone: ", ONE)):
        task = prepare(**paths, metrics=metrics, kind="probabilities").job.task
        for statistic in needed(task):
            state = statistic.empty(task)

            def update(statistic: Any = statistic, state: Any = state, task: Any = task) -> None:
                statistic.update(state, Slab(truth, prediction, task), task)

            found[name + statistic.name] = _time(update, SLAB, repeats)
    return found


def measure(data: Path, size: int, small: int, rounds: int, python: str | None) -> dict[str, Any]:
    """Return all figures."""
    pair = Pair("probabilities", size, 128)
    paths = build(pair, data)
    areas = streamloss.score(**paths, metrics=AREAS)
    results: dict[str, Any] = {
        "size": size,
        "metrics": len(BATTERY),
        "widths": {name: 2 * areas[name].error_bound for name in AREAS},
        "floats": in_turn(paths, {"one": ONE, "areas": AREAS, "battery": BATTERY}, rounds),
        "codes": in_turn(
            build(Pair("codes", size, 128), data), {"one": ONE, "battery": BATTERY}, rounds
        ),
    }
    run = memory.measure(**paths, metrics=list(AREAS), max_memory=MAX_MEMORY)
    results["peak"] = run["peak"] / run["max_memory"]
    if python:
        results["peers"] = peers(python, Pair("probabilities", small, 128), data, 3)
        results["small"] = small
    results["profile"] = profile(pair, data)
    return results


def markdown(results: dict[str, Any]) -> str:
    """Return the figures and the profile as tables."""
    size, floats, codes = results["size"], results["floats"], results["codes"]
    speed = size**3 / median(floats["areas"])

    def ratio(seconds: dict[str, list[float]]) -> float:
        return median(b / a for a, b in zip(seconds["one"], seconds["battery"], strict=True))

    rows = [
        (f"{results['metrics']} metrics ÷ cross entropy alone, float32", ratio(floats), "≤ 2"),
        (f"{results['metrics']} metrics ÷ cross entropy alone, uint8", ratio(codes), "≤ 1.2"),
    ]
    rows += [
        (f"AUROC, AP and ECE against {name}", speed / row["voxels_per_second"], f"≥ {limit:g}")
        for name, row in results.get("peers", {}).items()
        for limit in (PEERS[name][1],)
    ]
    rows.append((f"peak memory ÷ max_memory of {MAX_MEMORY}", results["peak"], "≤ 1"))
    lines = [
        f"Probabilities of {size}³ voxels from Zarr (zstd, 128³ chunks); AUROC, average precision",
        f"and ECE of float32: {speed / 1e6:.0f} million voxels a second.",
        *(
            f"Of a volume of {results['small']}³ in memory, {name}: "
            f"{row['voxels_per_second'] / 1e6:.1f} million voxels a second."
            for name, row in results.get("peers", {}).items()
        ),
        "",
        "| figure | measured | target |",
        "|---|---|---|",
        *(f"| {text} | {number:.2f} | {limit} |" for text, number, limit in rows),
        *(
            f"| width of the interval of {name} | {width:.1e} | ≤ 1e-06 |"
            for name, width in results["widths"].items()
        ),
        "",
        "| kernel, in cache, one core | ns a voxel |",
        "|---|---|",
        *(f"| {name} | {number:.2f} |" for name, number in results["profile"].items()),
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure, print the tables and keep them."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.battery")
    parser.add_argument("--size", type=int, default=512, help="voxels along an axis")
    parser.add_argument("--small", type=int, default=128, help="the same of what peers score")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--peers", type=Path, metavar="DIR", help="environment of the peers")
    parser.add_argument("--output", type=Path, default=HERE / "results" / "battery")
    parser.add_argument(
        "--data", type=Path, default=Path(tempfile.gettempdir()) / "streamloss-benchmarks"
    )
    given = parser.parse_args()
    for folder in (given.data, given.output):
        folder.mkdir(parents=True, exist_ok=True)
    python = _environment(given.peers) if given.peers else None
    results = measure(given.data, given.size, given.small, given.rounds, python)
    results["versions"] = {"numpy": np.__version__, "python": sys.version.split()[0]}
    (given.output / "battery.json").write_text(json.dumps(results, indent=1) + "\n")
    (given.output / "battery.md").write_text(markdown(results))
    print(markdown(results))


if __name__ == "__main__":
    main()
