"""Speed and memory of streamloss beside the floor and its peers.

python -m benchmarks                          a few minutes, without peers
python -m benchmarks --peers DIR              installs the peers in DIR once
python -m benchmarks --full --peers DIR       512³ volumes, scale up to 2048³
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import venv
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks import parts
from benchmarks.report import PARTS, markdown

HERE = Path(__file__).parent


def main() -> None:
    """Measure what was asked for and write JSON, Markdown and plots."""
    options = _options()
    size, rounds = (512, 7) if options.full else (256, 5)
    sizes = [256, 512, 1024, 2048] if options.full else [256, 512]
    data, output = options.data, options.output
    for folder in (data, output):
        folder.mkdir(parents=True, exist_ok=True)
    peers = _environment(options.peers) if options.peers else None
    notes = []
    if peers is None and "end_to_end" in (options.part or PARTS):
        notes.append("Peers were not installed and are left out: pass --peers DIR.")
        parts.log(notes[0])
    threads = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    threads = threads or 1

    results: dict[str, Any] = {
        "schema": "streamloss.benchmark/1",
        "when": datetime.now(UTC).isoformat(timespec="seconds"),
        "full": options.full,
        "parts": options.part or list(PARTS),
        "machine": parts.machine(threads),
        "notes": notes,
    }
    if peers:
        results["peers"] = _versions(peers)
    measure = {
        "kernels": parts.kernels_in_cache,
        "end_to_end": lambda: parts.end_to_end(
            data, size, threads, rounds, peers, lambda name: name in (options.study or [name])
        ),
        "threads": lambda: parts.thread_scaling(data, 512, threads, rounds),
        "scale": lambda: parts.scale_sweep(data, sizes, 3),
        "sparse": lambda: parts.sparse_volumes(data, sizes[-1], threads, 3),
        "batch": lambda: parts.batches(data, threads, rounds),
        "huge": lambda: parts.huge_volumes(data, 4 * size, threads, rounds),
    }
    for name in options.part or PARTS:
        results[name] = measure[name]()
        _write(results, output)
    print(markdown(results))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--full", action="store_true", help="512³ volumes, scale up to 2048³")
    parser.add_argument("--part", action="append", choices=PARTS, help="only this; repeatable")
    parser.add_argument("--study", action="append", help="only this study of end_to_end")
    parser.add_argument("--peers", type=Path, metavar="DIR", help="environment of the peers")
    parser.add_argument("--output", type=Path, metavar="DIR", default=HERE / "results")
    parser.add_argument(
        "--data",
        type=Path,
        metavar="DIR",
        default=Path(tempfile.gettempdir()) / "streamloss-benchmarks",
        help="where volumes are kept between runs",
    )
    return parser.parse_args()


def _environment(folder: Path) -> str:
    """Return the Python of the peers' environment, installing what its requirements name once."""
    python = folder.absolute() / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    requirements = HERE / "peers" / "requirements.txt"
    installed = folder / "installed.txt"
    if not installed.exists() or installed.read_text() != requirements.read_text():
        parts.log(f"installing the peers in {folder}")
        if not python.exists():
            venv.create(folder, with_pip=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", "-r", requirements], check=True)
        installed.write_text(requirements.read_text())
    return str(python)


def _versions(python: str) -> dict[str, str]:
    """Return the versions of what the peers' requirements name."""
    lines = (HERE / "peers" / "requirements.txt").read_text().splitlines()
    names = [line.split("==")[0].split("[")[0] for line in lines if "==" in line]
    code = """
import json, sys
from importlib.metadata import version
print(json.dumps({name: version(name) for name in sys.argv[1:]}))
"""
    command = [python, "-c", code, *names]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def _write(results: dict[str, Any], folder: Path) -> None:
    """Write what is known so far, so that a long run can be looked at."""
    (folder / "benchmark.json").write_text(json.dumps(results, indent=1) + "\n")
    (folder / "benchmark.md").write_text(markdown(results))
    try:
        from benchmarks.plots import draw
    except ImportError:
        note = 'No plots: matplotlib is missing, pip install "streamloss[bench]".'
        if note not in results["notes"]:
            results["notes"].append(note)
            print(note, file=sys.stderr)
        return
    draw(results, folder)


if __name__ == "__main__":
    main()
