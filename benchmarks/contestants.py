"""Who is compared with what: the one list of contestants and studies."""

from dataclasses import dataclass
from typing import Any

from benchmarks.compare import Contestant
from benchmarks.figures import KERNELS, LOGARITHM

COUNTS = ("bincount", "packed", "nonzero")
# Sums of float32 terms round; counts do not.
ROUNDED = 2e-5


@dataclass(frozen=True)
class Study:
    """One volume, ours, and the others.

    Attributes
    ----------
    name, title
        Key in the results, and heading.
    kind, chunk, codec
        Of the volume; see `benchmarks.data.Pair`.
    ours, others
        Who runs.
    size_divisor
        How many times smaller the volume is than those of other studies.
    """

    name: str
    title: str
    kind: str
    chunk: int
    codec: str
    ours: Contestant
    others: list[Contestant]
    size_divisor: int = 1


def mine(function: str, workers: int, memory: bool = False) -> Contestant:
    """Return ours, from Zarr or from memory."""
    place = ", in memory" if memory else ""
    options = {"workers": workers}
    return Contestant(
        f"streamloss{place}", f"benchmarks.ours:{function}", options, memory, None, peer=False
    )


def _peer(name: str, call: str, tolerance: float = 1e-12, **options: Any) -> Contestant:
    memory = "in memory" in name
    return Contestant(name, f"benchmarks.peers.{call}", options, memory, tolerance)


def studies(threads: int) -> list[Study]:
    """Return all studies for a number of cores."""
    floor = Contestant(
        "floor: read and decode",
        "benchmarks.floor:read",
        {"threads": threads},
        tolerance=None,
        peer=False,
    )
    least = [
        Contestant(name, f"benchmarks.limits:{call}", {"threads": threads}, False, None, False)
        for name, call in ((KERNELS, "kernels"), (LOGARITHM, "logarithm"))
    ]
    counting = [
        _peer(f"{library} {idiom}", f"{library.lower()}_peers:dice_from_zarr", idiom=idiom)
        for library in ("NumPy", "dask")
        for idiom in COUNTS
    ]
    in_memory = [
        _peer(
            f"NumPy {idiom}, in memory",
            "numpy_peers:dice_in_memory",
            idiom=idiom,
            threads=threads,
        )
        for idiom in COUNTS
    ]
    whole = [
        _peer("KonfAI Dice", "torch_peers:konfai_from_zarr", 1e-6),
        _peer("torchmetrics DiceScore", "torch_peers:torchmetrics_from_zarr", 1e-6),
        _peer("MONAI DiceMetric", "torch_peers:monai_from_zarr", 1e-6, threads=threads),
    ]
    losses = [
        _peer("NumPy, tiled", "numpy_peers:losses_from_zarr", ROUNDED),
        _peer("dask, tiled (3 losses)", "dask_peers:losses_from_zarr", ROUNDED),
        _peer("dask expressions (3 losses)", "dask_peers:loss_expressions_from_zarr", ROUNDED),
    ]
    torch = [
        _peer("torch whole, in memory", "torch_peers:losses_whole", 1e-4, threads=threads),
        _peer("torch tiled, in memory", "torch_peers:losses_in_parts", ROUNDED, threads=threads),
        _peer("NumPy tiled, in memory", "numpy_peers:losses_in_memory", ROUNDED, threads=threads),
    ]
    sklearn = "scikit-learn, in memory"
    dice, four = mine("dice", threads), mine("losses", threads)
    return [
        Study("a-64", "Labels, zstd, 64³ chunks", "labels", 64, "zstd", dice, [floor, *counting]),
        Study(
            "a-128",
            "Labels, zstd, 128³ chunks",
            "labels",
            128,
            "zstd",
            dice,
            [floor, *counting, *whole],
        ),
        Study(
            "a-memory",
            "Labels in memory",
            "labels",
            128,
            "zstd",
            mine("dice", threads, memory=True),
            in_memory,
        ),
        Study(
            "b-zstd",
            "float32 probabilities, zstd",
            "probabilities",
            128,
            "zstd",
            four,
            [floor, *least, *losses, *torch],
        ),
        Study(
            "b-lz4",
            "float32 probabilities, blosc-lz4",
            "probabilities",
            128,
            "lz4",
            four,
            [floor, *least, *losses, *torch],
        ),
        Study("c", "uint8 probabilities, zstd", "codes", 128, "zstd", four, [floor, losses[0]]),
        Study(
            "sklearn-labels",
            "scikit-learn's confusion_matrix",
            "labels",
            64,
            "zstd",
            mine("dice", threads, memory=True),
            [_peer(sklearn, "sklearn_peers:dice_in_memory")],
            size_divisor=2,
        ),
        Study(
            "sklearn-losses",
            "scikit-learn's log_loss (1 loss against our 4)",
            "probabilities",
            64,
            "zstd",
            mine("losses", threads, memory=True),
            [_peer(sklearn, "sklearn_peers:log_loss_in_memory", 1e-9)],
            size_divisor=2,
        ),
    ]
