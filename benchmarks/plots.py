"""Draws the plots of a run with matplotlib."""

from pathlib import Path
from statistics import median
from typing import Any

import matplotlib

matplotlib.use("Agg")

from matplotlib import pyplot as plt
from matplotlib.axes import Axes

from benchmarks.figures import KERNELS, LOGARITHM
from benchmarks.report import millions

PEERS = ("NumPy", "dask", "torch", "MONAI", "KonfAI", "scikit")
OURS, FLOOR, PEER, INK = "#1b6ca8", "#5f6b76", "#c3ccd5", "#22282e"
STYLE = {
    "axes.edgecolor": "#9aa4ae",
    "axes.labelcolor": INK,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "figure.constrained_layout.use": True,
    "font.size": 9,
    "savefig.dpi": 150,
}


def draw(results: dict[str, Any], folder: Path) -> list[Path]:
    """Write a PNG for each part that was measured and return the paths."""
    with plt.rc_context(STYLE):
        drawn = {
            "end_to_end": _studies,
            "kernels": _kernels,
            "threads": _threads,
            "scale": _scale,
        }
        return [
            _save(function(results[name]), folder / f"{name}.png")
            for name, function in drawn.items()
            if results.get(name)
        ]


def _save(figure: Any, path: Path) -> Path:
    figure.savefig(path)
    plt.close(figure)
    return path


def _studies(studies: dict[str, Any]) -> Any:
    tables = {
        study["title"]: [
            row
            for row in study["rows"]
            if row.get("seconds") and row["name"] not in (KERNELS, LOGARITHM)
        ]
        for study in studies.values()
    }
    heights = [len(rows) + 2 for rows in tables.values()]
    figure, axes = plt.subplots(
        len(tables), figsize=(8, 0.27 * sum(heights)), height_ratios=heights, squeeze=False
    )
    for axis, (title, rows) in zip(axes[:, 0], tables.items(), strict=True):
        rows = sorted(rows, key=lambda row: row["voxels_per_second"])
        _bars(
            axis,
            [row["name"] for row in rows],
            [row["voxels_per_second"] / 1e6 for row in rows],
            [millions(row["voxels_per_second"]) for row in rows],
        )
        axis.set_title(title)
    axes[-1, 0].set_xlabel("million voxels a second")
    return figure


def _kernels(rows: list[dict[str, Any]]) -> Any:
    figure, axis = plt.subplots(figsize=(8, 0.24 * len(rows) + 1))
    rows = rows[::-1]
    times = [row["ns_per_voxel"] for row in rows]
    _bars(axis, [row["kernel"] for row in rows], times, [f"{time:.2f}" for time in times])
    plain = next(row["ns_per_voxel"] for row in rows if row["kernel"] == "plain float32 sum")
    axis.axvline(plain, color=INK, linewidth=0.8, linestyle=":")
    axis.set_title("Kernels on one core, data in cache")
    axis.set_xlabel("nanoseconds a voxel (dotted: a plain float32 sum)")
    return figure


def _bars(axis: Axes, names: list[str], values: list[float], texts: list[str]) -> None:
    def colour(name: str) -> str:
        if name.startswith(("floor", "plain", "NumPy float32")):
            return FLOOR
        return PEER if name.startswith(PEERS) else OURS

    bars = axis.barh(names, values, color=[colour(name) for name in names], height=0.72)
    axis.bar_label(bars, texts, padding=3, color=INK)
    axis.tick_params(axis="y", length=0)
    axis.margins(x=0.12, y=0.02)


def _threads(tables: dict[str, list[dict[str, Any]]]) -> Any:
    figure, axis = plt.subplots(figsize=(4.5, 3.4))
    most = max(len(rows) for rows in tables.values())
    axis.plot([1, most], [1, most], color=PEER, linestyle="--", label="ideal")
    for (name, rows), colour in zip(tables.items(), (OURS, "#d97b29", "#7a7a7a"), strict=True):
        speed = [row["voxels_per_second"] / rows[0]["voxels_per_second"] for row in rows]
        axis.plot([int(row["name"]) for row in rows], speed, "o-", color=colour, label=name)
    axis.set_xticks(range(1, most + 1))
    axis.set_xlabel("workers")
    axis.set_ylabel("speed ÷ one worker")
    axis.set_title("Arrays in memory")
    axis.legend(frameon=False)
    return figure


def _scale(rows: list[dict[str, Any]]) -> Any:
    figure, (speed, peak) = plt.subplots(1, 2, figsize=(8, 3.2))
    sizes = [f"{row['size']}³" for row in rows]
    for axis, values, title, unit in (
        (
            speed,
            [[row["voxels"] / s / 1e6 for s in row["seconds"]] for row in rows],
            "Speed",
            "million voxels a second",
        ),
        (
            peak,
            [[p / 2**20 for p in row["peak_bytes"]] for row in rows],
            "Peak memory above import",
            "MiB",
        ),
    ):
        middle = [median(one) for one in values]
        low = [m - min(one) for m, one in zip(middle, values, strict=True)]
        high = [max(one) - m for m, one in zip(middle, values, strict=True)]
        axis.errorbar(sizes, middle, (low, high), color=OURS, marker="o", capsize=3)
        axis.set_title(title)
        axis.set_ylabel(unit)
        axis.set_xlabel("labels from Zarr, voxels")
    allowed = rows[0]["max_memory"] / 2**20
    peak.axhline(allowed, color=FLOOR, linewidth=0.8, linestyle=":")
    peak.annotate("allowed", (0, allowed), xytext=(0, -11), textcoords="offset points")
    for axis in (speed, peak):
        axis.set_ylim(bottom=0)
    return figure
