"""Peak memory of scoring against what was projected and allowed.

    python -m benchmarks.memory [SIZE ...]

Each run is a new process; its peak resident memory is read from the kernel and
counted above what importing everything took. Set NUMBA_CACHE_DIR to an empty
folder to include compilation.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import zarr

MEASURED_RUN = """
import json, sys, time
import streamloss.cli, streamloss.accumulator, streamloss.stores.zarr, zarr
from streamloss.statistic import discover
discover()

def peak():
    lines = open("/proc/self/status").read().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))

import streamloss
options = json.loads(sys.argv[1])
baseline = peak()
started = time.perf_counter()
result = streamloss.score(**options)
print(json.dumps({
    "peak": peak() - baseline,
    "baseline": baseline,
    "seconds": time.perf_counter() - started,
    **result.timing,
}))
"""


def measure(**options: object) -> dict[str, object]:
    """Score in a new process and return its timing with peak and baseline memory."""
    done = subprocess.run(
        [sys.executable, "-c", MEASURED_RUN, json.dumps(options)],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    return json.loads(done.stdout)


def write(path: Path, size: int, kind: str, chunk: int) -> str:
    """Write a volume of spheres, slab by slab."""
    if path.exists():
        return str(path)
    channels = (4,) if kind == "multiclass" else ()
    dtype = {"labels": "u1", "binary": "?"}.get(kind, "f4")
    array = zarr.create_array(
        path,
        shape=(*channels, size, size, size),
        chunks=(*(1 for _ in channels), *(chunk,) * 3),
        dtype=dtype,
    )
    rng = np.random.default_rng(0)
    axis = (np.arange(size) % 64 - 32) ** 2
    plane = axis[:, np.newaxis] + axis
    for start in range(0, size, chunk):
        z = axis[start : start + chunk, np.newaxis, np.newaxis]
        distance = plane + z
        if kind == "binary":
            array[start : start + chunk] = distance < 400
        elif kind == "labels":
            array[start : start + chunk] = np.digitize(-distance, [-900, -400, -100])
        else:
            noise = rng.random(plane.shape, np.float32)
            for index in np.ndindex(*channels):
                score = np.exp(-((distance / 400 - sum(index)) ** 2)) * 0.9 + 0.05 * noise
                array[(*index, slice(start, start + chunk))] = score
    return str(path)


def main() -> None:
    """Print a row per kind, size and limit."""
    sizes = [int(size) for size in sys.argv[1:]] or [128, 256, 512]
    print(f"{'kind':14} {'size':>5} {'allowed':>8} {'projected':>9} {'peak':>6}  MiB   seconds")
    with tempfile.TemporaryDirectory() as folder:
        for size in sizes:
            for kind in ("labels", "probabilities", "multiclass"):
                labels = "binary" if kind == "probabilities" else "labels"
                truth = write(Path(folder) / f"{labels}-{size}.zarr", size, labels, 64)
                prediction = write(Path(folder) / f"{kind}-{size}.zarr", size, kind, 64)
                for allowed in ("256MiB", "512MiB", "1GiB"):
                    row = measure(truth=truth, prediction=prediction, max_memory=allowed)
                    megabytes = [int(row[key]) >> 20 for key in ("projected_bytes", "peak")]
                    print(
                        f"{kind:14} {size:5} {allowed:>8} {megabytes[0]:9} {megabytes[1]:6}"
                        f"{row['seconds']:14.2f} {row['workers']} {row['block']}",
                        flush=True,
                    )


if __name__ == "__main__":
    main()
