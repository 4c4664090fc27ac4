"""Turns results into a Markdown page."""

from statistics import median
from typing import Any

from benchmarks.figures import Figure, figures

PARTS = ("kernels", "end_to_end", "threads", "scale", "sparse", "batch", "huge")
"""What a benchmark may measure."""


def markdown(results: dict[str, Any]) -> str:
    """Return the tables of a run."""
    machine = results["machine"]
    installed = machine["versions"] | results.get("peers", {})
    versions = ", ".join(f"{name} {number}" for name, number in installed.items())
    # Of a run of some parts, what it did not measure is no news.
    some = 0 < len(results.get("parts", ())) < len(PARTS)
    shown = [row for row in figures(results) if row.ratios or not some]
    parts = [
        "# Benchmark",
        f"""{machine["cpu"]}, {machine["threads"]} of {machine["cores"]} cores, \
load {machine["load_at_start"]} at the start; Python {machine["python"]}, {versions}.""",
        """Medians (min to max) of runs interleaved A B A B …; ratios pair by pair within the run. \
Values were compared before timing.""",
        "## Figures to reach",
        _table(["what", "measured", "target", "", "at best"], [_figure_row(row) for row in shown]),
    ]
    for study in results.get("end_to_end", {}).values():
        parts += [f"## {study['title']}", _study(study["rows"])]
    if rows := results.get("kernels"):
        parts += [
            "## Kernels, one core, in cache",
            _table(
                ["kernel", "ns a voxel", "÷ plain sum"],
                [[r["kernel"], f"{r['ns_per_voxel']:.3f}", f"{r['ratio']:.1f}"] for r in rows],
            ),
        ]
    for name, rows in results.get("threads", {}).items():
        parts += [f"## Workers, arrays in memory: {name}", _study(rows)]
    if rows := results.get("scale"):
        parts += ["## Scale, labels from Zarr, 512 MiB allowed", _scale(rows)]
    if rows := results.get("sparse"):
        parts += ["## Sparse volumes", _study(rows)]
    for name, title in (
        ("checkpoints", "Checkpoints: without, with"),
        ("dask", "Dask: threads, as many processes of a cluster that is up"),
    ):
        if rows := results.get("huge", {}).get(name):
            parts += [f"## {title}", _pairs(rows)]
    if notes := results.get("notes"):
        parts += ["## Notes", "\n".join(f"- {note}" for note in notes)]
    return "\n\n".join(parts) + "\n"


def spread(numbers: list[float], unit: str = "") -> str:
    """Return median (min to max)."""
    if len(numbers) == 1:
        return f"{numbers[0]:.3g}{unit}"
    return f"{median(numbers):.3g}{unit} ({min(numbers):.3g} to {max(numbers):.3g})"


def millions(number: float) -> str:
    """Return a number of millions, with three digits or all before the point."""
    return f"{number / 1e6:,.0f}" if number >= 1e8 else f"{number / 1e6:.3g}"


def _figure_row(figure: Figure) -> list[str]:
    verdict = {None: "not measured", True: "reached", False: "**not reached**"}[figure.reached]
    measured = spread(figure.ratios, figure.unit) if figure.ratios else ""
    sign = "≤" if figure.at_most else "≥"
    limit = f"{sign} {figure.limit:g}{figure.unit}"
    return [figure.what, measured, limit, verdict, figure.bound]


def _study(rows: list[dict[str, Any]]) -> str:
    lines = []
    for row in rows:
        if "error" in row:
            lines.append([row["name"], row["error"], "", ""])
            continue
        ratio = spread(row["ratios"], "×") if row["ratios"] else "1"
        readers = sorted(set(row["values"].get("reader", {}).values()))
        name = f"{row['name']} ({', '.join(readers)})" if readers else row["name"]
        speed = millions(row["voxels_per_second"])
        lines.append([name, spread(row["seconds"]), speed, ratio])
    return _table(["", "seconds", "Mvox/s", "time ÷ ours"], lines)


def _scale(rows: list[dict[str, Any]]) -> str:
    return _table(
        ["size", "seconds", "Mvox/s", "peak above import, MiB", "projected, MiB"],
        [
            [
                f"{row['size']}³",
                spread(row["seconds"]),
                millions(row["voxels_per_second"]),
                spread([peak / 2**20 for peak in row["peak_bytes"]]),
                f"{row['projected_bytes'] / 2**20:.0f}",
            ]
            for row in rows
        ],
    )


def _pairs(rows: list[dict[str, Any]]) -> str:
    return _table(
        ["", "seconds", "seconds", "ratio"],
        [
            [row["name"], *(spread(row[key]) for key in ("seconds", "other_seconds", "ratios"))]
            for row in rows
        ],
    )


def _table(header: list[str], rows: list[list[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
