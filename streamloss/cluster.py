"""Runs of blocks as tasks of a Dask cluster, which sums their results up as a tree.

What travels are the settings, the numbers of blocks and the addresses of volumes, never
voxels. Dask is imported when it is used.
"""

import logging
import pickle
import signal
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import reduce
from io import BytesIO
from itertools import islice
from typing import TYPE_CHECKING, Any, TypeGuard

import numpy as np

from streamloss.errors import InvalidInputError, WorkerError, cause_of
from streamloss.extras import require
from streamloss.partial import Partial
from streamloss.volume import Volume

if TYPE_CHECKING:
    from distributed import Client, Future

# Sums that are merged at once: fewer make more tasks, each a millisecond of the scheduler.
_FAN_IN = 8
# Runs for each thread that are asked for together; the next are asked for before these are done.
_RUNS_AT_ONCE = 2
# What a volume is without its voxels: metadata, which of its chunks are stored, or a graph of
# tasks that read files, of half a kilobyte each.
_LARGEST_VOLUME = 32 * 2**20
# Bytes of the arrays in it, such as the constants of a graph, that do not list its chunks.
_LARGEST_ARRAYS = 2**20


def is_client(executor: Any) -> TypeGuard["Client"]:
    """Tell whether an executor is a `distributed.Client`."""
    distributed = sys.modules.get("distributed")
    return distributed is not None and isinstance(executor, distributed.Client)


def threads(client: "Client") -> list[int]:
    """Return how many blocks each worker process scores at once.

    Raises
    ------
    InvalidInputError
        If there is no worker.
    """
    found = list(client.nthreads().values())
    if not found:
        raise InvalidInputError("the Dask cluster has no workers")
    return found


@contextmanager
def open_client(executor: Any, workers: int) -> Iterator["Client"]:
    """Use a client as it is; for "dask" open one of a cluster of processes on this machine."""
    if executor != "dask":
        yield executor
        return
    dask, distributed = _dask()
    # Forking a process that runs threads can deadlock, so they are spawned.
    with (
        dask.config.set({"distributed.worker.multiprocessing-method": "spawn"}),
        distributed.LocalCluster(
            n_workers=workers,
            threads_per_worker=1,
            processes=True,
            dashboard_address=":0",
            # What ends a run is raised; the log would tell of workers that go when it does.
            silence_logs=logging.CRITICAL,
        ) as local,
        distributed.Client(local) as client,
    ):
        # Ctrl-C reaches every process of a terminal; this one decides what it means.
        client.run(_ignore_interrupts)
        yield client


def _ignore_interrupts() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def client_in_use() -> Any:
    """Return the client that Dask itself would use, or "dask" if there is none.

    Raises
    ------
    MissingPackageError
        If Dask is not installed; names the extra.
    """
    _, distributed = _dask()
    try:
        return distributed.default_client()
    except ValueError:
        return "dask"


def _dask() -> tuple[Any, Any]:
    names = ("dask", "distributed")
    dask, distributed = (require(name, extra="dask", what='executor="dask"') for name in names)
    return dask, distributed


def refuse_voxels(volumes: Iterable[Volume]) -> None:
    """Refuse volumes that could reach the workers only with their voxels.

    Raises
    ------
    InvalidInputError
        If one is in memory, or a graph of tasks that holds voxels; names it.
    """
    for volume in volumes:
        seen = volume.view((slice(0, 1),) * len(volume.shape))
        whole = BytesIO()
        pickler = _Pickler(whole)
        try:
            pickler.dump(volume)
            size = whole.tell()
        except (pickle.PicklingError, TypeError, AttributeError):
            size = _LARGEST_VOLUME + 1
        stored = volume.stored_chunks
        listed = 0 if stored is None else stored.grid.nbytes
        if (
            (seen is not None and not isinstance(seen, np.memmap))
            or size > _LARGEST_VOLUME
            or pickler.array_bytes > _LARGEST_ARRAYS + listed
        ):
            raise InvalidInputError(
                f"Dask workers cannot open {volume.name}, which is in the memory of this process "
                f"(a graph of tasks may hold {_LARGEST_ARRAYS // 2**20} MiB of arrays): "
                "store it, and pass its path or URL"
            )


class _Pickler(pickle.Pickler):
    """Counts the bytes of the arrays that it pickles."""

    array_bytes = 0

    def reducer_override(self, found: Any) -> Any:
        if isinstance(found, np.ndarray):
            self.array_bytes += found.nbytes
        return NotImplemented


def add_up(
    client: "Client", width: int, function: Callable[[Any], Partial], items: Sequence[Any]
) -> Iterator[tuple[int, Partial]]:
    """Yield the sums of groups of results, in order, that the workers have added up.

    A result that is lost with its worker is computed anew, and enters the sum once, as the
    value of its key.

    Raises
    ------
    WorkerError
        If the workers that got some item ended again and again, or the cluster went away.
    """
    from distributed import CancelledError, KilledWorker

    size = _RUNS_AT_ONCE * width
    waiting: deque[tuple[int, Future[Any]]] = deque()
    remaining = iter([items[start : start + size] for start in range(0, len(items), size)])
    try:
        while True:
            for group in islice(remaining, 2 - len(waiting)):
                leaves = client.map(function, group, pure=False)
                waiting.append((len(group), _tree(client, leaves)))
            if not waiting:
                return
            count, future = waiting[0]
            yield count, future.result()
            waiting.popleft()
    except KilledWorker as error:
        raise WorkerError(
            f"the Dask workers that scored some blocks ended again and again: {error}"
        ) from error
    except Exception as error:
        # What a closed client raises depends on the version.
        if isinstance(error, CancelledError) or client.status == "closed":
            raise WorkerError(
                f"the Dask cluster went away before its work was done: {cause_of(error)}"
            ) from error
        raise
    finally:
        if client.status != "closed":
            client.cancel([future for _, future in waiting])


def _tree(client: "Client", futures: list["Future[Any]"]) -> "Future[Any]":
    """Sum up results on the workers, some at a time, until one is left."""
    while len(futures) > 1:
        groups = [futures[start : start + _FAN_IN] for start in range(0, len(futures), _FAN_IN)]
        futures = client.map(_merged, groups, pure=False)
    return futures[0]


def _merged(parts: Sequence[Partial]) -> Partial:
    return reduce(Partial.merge, parts)
