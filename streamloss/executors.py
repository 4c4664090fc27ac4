"""Ways to run one function over many runs of blocks and sum the results up, in order.

Each executor is a context manager that yields a pool. Nothing here knows what the
function does.
"""

import os
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import BrokenExecutor, Executor, Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from itertools import islice
from typing import Any, NamedTuple

from streamloss import cluster
from streamloss.errors import InvalidInputError, WorkerError
from streamloss.partial import Partial

EXECUTORS = ("threads", "processes", "serial", "dask")


class Pool(NamedTuple):
    """Workers that are ready.

    Attributes
    ----------
    add_up
        Takes a function that sums something up for an item, and the items. Yields how many
        items follow, in order, and the sum of their results.
    width
        How many items are worked on at once.
    """

    add_up: Callable[[Callable[[Any], Partial], Sequence[Any]], Iterator[tuple[int, Partial]]]
    width: int


def check_executor(executor: Any) -> None:
    """Refuse what is no executor.

    Raises
    ------
    InvalidInputError
        Names those that there are, or tells how to make a pool that does not fork.
    """
    if not (isinstance(executor, Executor) or cluster.is_client(executor) or executor in EXECUTORS):
        raise InvalidInputError(
            f"unknown executor '{executor}': expected {', '.join(EXECUTORS)}, "
            "a concurrent.futures.Executor or a distributed.Client"
        )
    start_method = getattr(getattr(executor, "_mp_context", None), "get_start_method", None)
    if start_method is not None and start_method() == "fork":
        raise InvalidInputError(
            f"the {type(executor).__name__} forks, which can deadlock a process that runs threads: "
            'make it with mp_context=multiprocessing.get_context("spawn")'
        )


@contextmanager
def open_executor(executor: Any, workers: int) -> Iterator[Pool]:
    """Open an executor by name, or use one of `concurrent.futures` or a Dask client as it is."""
    if isinstance(executor, Executor):
        yield _ordered(executor, workers)
    elif executor == "serial":
        yield Pool(lambda function, items: ((1, function(item)) for item in items), 1)
    elif executor == "threads":
        with ThreadPoolExecutor(workers, "streamloss") as pool:
            yield _ordered(pool, workers)
    elif executor == "processes":
        import multiprocessing
        from concurrent.futures import ProcessPoolExecutor

        # Forking a process that runs threads can deadlock, so they are spawned.
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(workers, mp_context=context, initializer=_end_with_parent) as pool:
            yield _ordered(pool, workers)
    else:
        with cluster.open_client(executor, workers) as client:
            width = sum(cluster.threads(client))
            yield Pool(partial(cluster.add_up, client, width), width)


def _end_with_parent() -> None:
    """Let this process end with the one that started it, which may be killed.

    A worker waits for work on a pipe that the others hold open as well, so it would wait forever.
    """
    from multiprocessing import parent_process

    def watch() -> None:
        if parent := parent_process():
            parent.join()
            os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _ordered(pool: Executor, workers: int) -> Pool:
    def add_up(
        function: Callable[[Any], Partial], items: Sequence[Any]
    ) -> Iterator[tuple[int, Partial]]:
        # Few are under way at a time: results that wait for an earlier one take memory.
        waiting: deque[Future[Partial]] = deque()
        remaining = iter(items)
        try:
            while True:
                for item in islice(remaining, 2 * workers - len(waiting)):
                    waiting.append(pool.submit(function, item))
                if not waiting:
                    return
                yield 1, waiting.popleft().result()
        except BrokenExecutor as error:
            raise WorkerError(f"a worker ended before its work was done: {error}") from error
        finally:
            for future in waiting:
                future.cancel()

    return Pool(add_up, workers)


def available_workers() -> int:
    """Return the number of cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
