"""The figures to reach: what is measured, the limit, and whether it was met."""

from dataclasses import dataclass
from statistics import median
from typing import Any

READING = "reading alone"
KERNELS = "kernels alone, in cache"
LOGARITHM = "a logarithm a voxel alone, in cache"


@dataclass(frozen=True)
class Figure:
    """A ratio with a limit.

    Attributes
    ----------
    what
        What is compared.
    ratios
        One for each pair of runs; empty if it was not measured.
    limit
        The target.
    at_most
        Whether the ratio must not exceed the limit, or must not fall below it.
    unit
        What the numbers are, if not ratios.
    bound
        The best that could be measured, and by what; empty if that is not known.
    """

    what: str
    ratios: list[float]
    limit: float
    at_most: bool
    unit: str = "×"
    bound: str = ""

    @property
    def reached(self) -> bool | None:
        """Whether the median meets the limit; None if it was not measured."""
        if not self.ratios:
            return None
        middle = median(self.ratios)
        return middle <= self.limit if self.at_most else middle >= self.limit


def figures(results: dict[str, Any]) -> list[Figure]:
    """Return the figures of a run, in the order of the table."""
    tables = results.get("end_to_end", {})

    def against(study: str, *names: str) -> list[float]:
        """Return the ratios to the fastest of some others."""
        rows = tables.get(study, {}).get("rows", [])
        found = [r["ratios"] for r in rows if r["name"].startswith(names) and r.get("ratios")]
        return min(found, key=median, default=[])

    def floor(study: str) -> list[float]:
        return [1 / ratio for ratio in against(study, "floor")]

    def bound(study: str, *names: str) -> str:
        """Return how many times as fast as the others the floor is."""
        others, least = against(study, *names), against(study, "floor")
        return f"{median(others) / median(least):.3g}×, the floor" if others and least else ""

    def one_by_one(study: str) -> str:
        """Return the ratio if floor and kernels, or a logarithm, took their time and no more."""
        times = [against(study, name) for name in ("floor", KERNELS, LOGARITHM)]
        if not all(times):
            return ""
        reading, kernels, logarithm = map(median, times)
        return (
            f"{1 + kernels / reading:.3g}×, floor and kernels; "
            f"{1 + logarithm / reading:.3g}×, floor and a logarithm"
        )

    rows = [
        Figure(f"({text}) end to end ÷ floor", floor(study), limit, True, bound=one_by_one(study))
        for text, study, limit in (
            ("a, 64³ chunks", "a-64", 1.25),
            ("a, 128³ chunks", "a-128", 1.25),
            ("b, zstd", "b-zstd", 1.4),
            ("b, blosc-lz4", "b-lz4", 1.7),
            ("c", "c", 1.5),
        )
    ]
    for study, chunks in (("a-64", "64³"), ("a-128", "128³")):
        usual, every = ("NumPy bincount", "dask bincount"), ("NumPy", "dask")
        rows += [
            Figure(
                f"(a, {chunks} chunks) against {text}, from Zarr",
                against(study, *names),
                5.5,
                False,
                bound=bound(study, *names),
            )
            for text, names in (
                ("bincount in NumPy and dask", usual),
                ("the fastest idiom in NumPy and dask", every),
            )
        ]
    rows += [
        Figure(
            f"(a) from Zarr against {name}",
            against("a-128", name),
            limit,
            False,
            bound=bound("a-128", name),
        )
        for name, limit in (
            ("KonfAI Dice", 20.0),
            ("torchmetrics DiceScore", 60.0),
            ("MONAI DiceMetric", 80.0),
        )
    ]
    rows += [
        Figure(
            f"(a) in memory against {text}",
            against("a-memory", name),
            6.0,
            False,
            bound=_read_alone(results, against("a-memory", name)),
        )
        for text, name in (
            ("NumPy bincount", "NumPy bincount"),
            ("the fastest NumPy idiom", "NumPy"),
        )
    ]
    rows += [
        Figure(
            f"(b, {codec}) against the fastest dask idiom for three of the losses",
            against(f"b-{codec}", "dask"),
            4.0,
            False,
            bound=bound(f"b-{codec}", "dask"),
        )
        for codec in ("zstd", "lz4")
    ]
    rows += [
        Figure(
            f"(b, {codec}) from Zarr against {text}",
            against(f"b-{codec}", name),
            12.0,
            False,
            bound=bound(f"b-{codec}", name),
        )
        for codec in ("zstd", "lz4")
        for text, name in (
            ("torch in memory, whole arrays", "torch whole"),
            ("torch in memory, tiled", "torch tiled"),
        )
    ]
    kernels = {row["kernel"]: row["ratio"] for row in results.get("kernels", [])}
    rows += [
        Figure(
            f"kernel ÷ plain sum: {name}",
            [kernels[name]] if name in kernels else [],
            limit,
            True,
            bound=f"{kernels[part]:.3g}×, {part}" if part in kernels else "",
        )
        for name, limit, part in (
            ("log-loss", 8.0, "logarithm alone"),
            ("soft sums", 3.0, ""),
            ("four-class counts, blocky", 3.5, ""),
            ("binary counts", 1.2, ""),
        )
    ]
    scaling = {name: _speedup(table, 2) for name, table in results.get("threads", {}).items()}
    reading = scaling.pop(READING, [])
    rows += [
        Figure(
            f"two workers ÷ one, in memory: {name}",
            ratios,
            1.8,
            False,
            bound=f"{median(reading):.3g}×, {READING}" if reading and name == "dice" else "",
        )
        for name, ratios in scaling.items()
    ]
    rows += _memory_figures(results.get("scale", [])) + _sparse_figures(results)
    return rows + _batch_figures(results.get("batch", [])) + _huge_figures(results.get("huge", {}))


def _read_alone(results: dict[str, Any], ratios: list[float]) -> str:
    """Return the same ratios if ours took as long as to read the arrays, by all workers."""
    ours = results.get("end_to_end", {}).get("a-memory", {}).get("rows", [])[:1]
    reading = results.get("threads", {}).get(READING, [])[-1:]
    if not (ours and reading and ratios):
        return ""
    times = [median(row["seconds"]) for row in (*ours, *reading)]
    return f"{median(ratios) * times[0] / times[1]:.3g}×, {READING}"


def _speedup(table: list[dict[str, Any]], workers: int) -> list[float]:
    """Return the times of one worker over those of `workers`, pair by pair."""
    by_name = {row["name"]: row for row in table}
    if str(workers) not in by_name:
        return []
    one, many = by_name["1"]["ratios"], by_name[str(workers)]["ratios"]
    return [a / b for a, b in zip(one, many, strict=True)] if many else one


def _memory_figures(scale: list[dict[str, Any]]) -> list[Figure]:
    if not scale:
        return []
    small, large = scale[0], scale[-1]
    peaks = zip(large["peak_bytes"], small["peak_bytes"], strict=True)
    growth = [after / before for after, before in peaks]
    text = f"peak memory at {large['size']}³ ÷ at {small['size']}³"
    peaks = [peak / 2**20 for peak in large["peak_bytes"]]
    return [
        Figure(text, growth, 1.1, True),
        Figure(f"peak memory above import at {large['size']}³", peaks, 512.0, True, " MiB"),
    ]


def _batch_figures(batches: list[dict[str, Any]]) -> list[Figure]:
    """Return the speed-up of two workers, and the highest peak as a part of `max_memory`."""
    rows = []
    for name in dict.fromkeys(row["name"] for row in batches):
        runs = {row["workers"]: row for row in batches if row["name"] == name}
        ratios: list[float] = []
        if 1 in runs and 2 in runs:
            pairs = zip(runs[1]["seconds"], runs[2]["seconds"], strict=True)
            ratios = [one / two for one, two in pairs]
        bound = ""
        if apart := runs[1].get("seconds_apart"):
            bound = _bound_of_batches(runs[1]["seconds"], apart, runs[1]["seconds_to_start"])
        text = f"batch of {name}, two workers ÷ one"
        rows.append(Figure(text, ratios, 1.8, False, bound=bound))
        parts = [
            100 * peak / row["max_memory"] for row in runs.values() for peak in row["peak_bytes"]
        ]
        text = f"highest peak memory of a batch of {name}, of max_memory"
        rows.append(Figure(text, [max(parts)], 100.0, True, " %"))
    return rows


def _bound_of_batches(alone: list[float], apart: list[float], start: list[float]) -> str:
    """Return how much faster two processes are that share nothing, and if one has to start first.

    While it starts the other scores alone: each loses half of that time.
    """
    rows = list(zip(alone, apart, start, strict=True))
    best = median(one / both for one, both, _ in rows)
    started = median(one / (both + first / 2) for one, both, first in rows)
    return f"{best:.3g}×, processes apart; {started:.3g}×, if one starts then"


def _huge_figures(huge: dict[str, Any]) -> list[Figure]:
    """Return the seconds of merging, what checkpoints add, and Dask against threads."""
    rows = [
        Figure(f"merging {row['states']:,} states, {row['name']}", row["seconds"], 5.0, True, " s")
        for row in huge.get("merging", [])
    ]
    for row in huge.get("checkpoints", []):
        text = f"what a checkpoint adds to {row['name']}, saved {median(row['saves']):g} times"
        # A run that ends before the first save tells nothing.
        added = [100 * part for part in row["parts"]] if min(row["saves"]) else []
        rows.append(Figure(text, added, 3.0, True, " %"))
    return rows + [
        Figure(f"Dask processes ÷ threads, {row['name']}", row["ratios"], 1.25, True)
        for row in huge.get("dask", [])
    ]


def _sparse_figures(results: dict[str, Any]) -> list[Figure]:
    rows = results.get("sparse", [])
    ratios = rows[1]["ratios"] if len(rows) > 1 else []
    return [Figure("1 % of chunks stored ÷ dense", [100 * r for r in ratios], 3.0, True, " %")]
