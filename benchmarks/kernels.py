"""Nanoseconds a voxel of every hot kernel, on one core with its data in cache.

`python -m benchmarks.kernels` prints the median of interleaved repeats, beside a
plain vectorised float32 sum over as many voxels. Nothing is read and nothing decoded here.
"""

import time
from collections.abc import Callable
from statistics import median
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from benchmarks import logarithms
from streamloss.encoding import encode
from streamloss.partial import Partial
from streamloss.raw_block import Block
from streamloss.slab import Slab
from streamloss.statistic import discover
from streamloss.task import Classes, Task

# A float32 and a byte for each of these voxels fit the second-level cache of any machine.
VOXELS = 2**17
REPEATS = 41
CALLS = 8
PARAMETERS = {"eps": 2.0**-52, "gamma": 2.0, "alpha": "default"}
LOSSES = ("cross_entropy", "focal_loss", "mse", "soft_dice")


# fastmath allows the sum to be reordered, which is what vectorises it.
@njit(fastmath=True, nogil=True)
def _plain_sum(numbers):
    total = np.float32(0)
    for i in range(numbers.size):
        total += numbers[i]
    return total


def blocky_labels(classes: int, voxels: int = VOXELS, mean_run: int = 24) -> NDArray[np.uint8]:
    """Return labels in runs, as along the rows of a segmentation."""
    rng = np.random.default_rng(classes)
    runs = rng.geometric(1 / mean_run, voxels)
    labels = rng.integers(0, classes, voxels).astype(np.uint8)
    return np.repeat(labels, runs)[:voxels].copy()


def _classes(values: tuple[int, ...]) -> Classes:
    return Classes(values, tuple(map(str, values)))


def _binary(*metrics: str, kind: Any = "probabilities") -> Task:
    return Task(kind, metrics, _classes((0, 1)), 1, parameters=PARAMETERS)


def _updates(task: Task, *arrays: NDArray[Any], names: tuple[str, ...]) -> Callable[[], object]:
    """Return a call that feeds the arrays to the statistics of these names.

    "check" looks for faults as well, as a run does. What a slab has computed it keeps, so each
    call makes one.
    """
    statistics = [discover()[name] for name in names if name != "check"]
    states = {statistic.name: statistic.empty(task) for statistic in statistics}
    if "check" in names:
        voxels = arrays[0].shape[-1]
        block = Block(*arrays, None, (slice(0, voxels),), (0,), (voxels,))
        partial = Partial(task, states)
        # Only these, not all that the metrics of the task need.
        partial.__dict__["_statistics"] = statistics

        def call_checked() -> None:
            partial.absorb(block)
            assert not partial.faults

        return call_checked

    def call() -> None:
        slab = Slab(*arrays, task)
        for statistic in statistics:
            statistic.update(states[statistic.name], slab, task)

    return call


def cases() -> dict[str, Callable[[], object]]:
    """Return what is timed, by name; each call takes `VOXELS` voxels."""
    rng = np.random.default_rng(0)
    p32 = rng.random(VOXELS, np.float32)
    channels = rng.random((4, VOXELS), np.float32)
    channels /= channels.sum(axis=0)
    channels.clip(0, 1, out=channels)
    two, four, many = (blocky_labels(n) for n in (2, 4, 12))
    near_two, near_four, near_many = (np.roll(x, 2) for x in (two, four, many))
    noise = rng.integers(0, 4, VOXELS).astype(np.uint8)
    blank = np.zeros(VOXELS, np.uint8)
    labels2 = Task("labels", ("dice",), _classes((0, 1)))
    labels4 = Task("labels", ("dice",), _classes((0, 1, 2, 3)))
    labels12 = Task("labels", ("dice",), _classes(tuple(range(12))))
    sparse = Task("labels", ("dice",), _classes((0, 7, 300, 70_000)))
    table = np.array([0, 7, 300, 70_000], np.int32)
    sparse32 = table[four]
    sparse8 = Task("labels", ("dice",), _classes((0, 7, 30, 70)))
    sparse_bytes = np.array([0, 7, 30, 70], np.uint8)[four]
    multi = Task(
        "probabilities", ("cross_entropy",), _classes((0, 1, 2, 3)), 4, parameters=PARAMETERS
    )
    multi_all = Task("probabilities", LOSSES, multi.classes, 4, parameters=PARAMETERS)
    logits32 = (p32 - np.float32(0.5)) * np.float32(12)
    count, both = ("confusion",), ("check", "confusion")
    return {
        "plain float32 sum": lambda: _plain_sum(p32),
        "NumPy float32 sum": p32.sum,
        "range check of probabilities": _updates(_binary(), blank, p32, names=("check",)),
        "logarithm alone": _logarithm(p32),
        "log-loss": _updates(_binary("cross_entropy"), two, p32, names=("check", "likelihood")),
        "log-loss, one class": _updates(
            _binary("cross_entropy"), blank, p32, names=("check", "likelihood")
        ),
        "log-loss and focal": _updates(_binary(*LOSSES), two, p32, names=("likelihood",)),
        "soft sums": _updates(_binary("soft_dice"), two, p32, names=("moments",)),
        "squared error": _updates(_binary("mse"), two, p32, names=("moments",)),
        "soft sums and squared error": _updates(_binary(*LOSSES), two, p32, names=("moments",)),
        "decision": lambda: Slab(two, p32, _binary()).decision,
        "four losses and counts": _updates(
            _binary(*LOSSES), two, p32, names=("check", "likelihood", "moments", "confusion")
        ),
        "log-loss of logits": _updates(
            _binary("cross_entropy", kind="logits"), two, logits32, names=("check", "likelihood")
        ),
        "binary counts": _updates(labels2, two, near_two, names=count),
        "four-class counts, blocky": _updates(labels4, four, near_four, names=count),
        "four-class counts, noise": _updates(labels4, noise, four, names=count),
        "four-class counts, blocky, checked": _updates(labels4, four, near_four, names=both),
        "four-class counts, constant, checked": _updates(labels4, blank, blank, names=both),
        "twelve-class counts, blocky, checked": _updates(labels12, many, near_many, names=both),
        "twelve-class counts, noise": _updates(labels12, noise, many, names=count),
        "range check of labels": _updates(labels4, four, four, names=("check",)),
        "encode int32 labels": lambda: encode(sparse32, sparse.classes),
        "encode uint8 labels": lambda: encode(sparse_bytes, sparse8.classes),
        "four channels, argmax": lambda: Slab(four, channels, multi).decision,
        "four channels, range check": _updates(multi, four, channels, names=("check",)),
        "four channels, cross entropy": _updates(multi, four, channels, names=("likelihood",)),
        "four channels, soft sums and squared error": _updates(
            multi_all, four, channels, names=("moments",)
        ),
        "four channels, four losses and counts": _updates(
            multi_all, four, channels, names=("check", "likelihood", "moments", "confusion")
        ),
    }


def _logarithm(chances: NDArray[np.float32]) -> Callable[[], object]:
    """Return a call that takes the logarithm of each chance in use, and adds them up."""
    chances = chances.astype(np.float64)[: logarithms.TILE] + 2.0**-52
    logs = np.empty(logarithms.TILE)
    loop = logarithms.loop_over(logarithms.in_use)
    return lambda: loop(chances, logs, VOXELS // logarithms.TILE)


def measure(repeats: int = REPEATS) -> list[dict[str, Any]]:
    """Return name, nanoseconds a voxel and ratio to the plain sum of each case.

    Time is the processor time of this thread, so other work on the machine enters only by way of
    its caches and clock.
    """
    calls = cases()
    times: dict[str, list[float]] = {name: [] for name in calls}
    for call in calls.values():
        call()
    for _ in range(repeats):
        for name, call in calls.items():
            start = time.thread_time_ns()
            for _ in range(CALLS):
                call()
            times[name].append((time.thread_time_ns() - start) / (CALLS * VOXELS))
    nanoseconds = {name: median(all_times) for name, all_times in times.items()}
    yardstick = nanoseconds["plain float32 sum"]
    return [
        {"kernel": name, "ns_per_voxel": ns, "ratio": ns / yardstick}
        for name, ns in nanoseconds.items()
    ]


def main() -> list[dict[str, Any]]:
    """Print the table."""
    rows = measure()
    print(f"{'kernel':<42}{'ns/voxel':>10}{'ratio':>8}")
    for row in rows:
        print(f"{row['kernel']:<42}{row['ns_per_voxel']:>10.3f}{row['ratio']:>8.1f}")
    return rows


if __name__ == "__main__":
    main()
