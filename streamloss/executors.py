"""Ways to run one function over many runs of blocks, results in order.

Each executor is a context manager that yields a `map`. Nothing here knows what
the function does.
"""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import contextmanager
from itertools import islice
from typing import Any, Protocol, TypeVar

from streamloss.errors import InvalidInputError

T = TypeVar("T")
R = TypeVar("R")


class Map(Protocol):
    """An ordered `map`."""

    def __call__(self, function: Callable[[T], R], items: Iterable[T], /) -> Iterator[R]:
        """Return the results in the order of the items."""


EXECUTORS = ("threads", "processes", "serial")


@contextmanager
def open_executor(executor: str | Executor, workers: int) -> Iterator[Map]:
    """Open an executor by name, or use a `concurrent.futures.Executor` as it is.

    Raises
    ------
    InvalidInputError
        If there is no executor of that name.
    """
    if isinstance(executor, Executor):
        yield _ordered(executor, available_workers())
    elif executor == "serial":
        yield map
    elif executor == "threads":
        with ThreadPoolExecutor(workers, "streamloss") as pool:
            yield _ordered(pool, workers)
    elif executor == "processes":
        import multiprocessing
        from concurrent.futures import ProcessPoolExecutor

        # Forking a process that runs threads can deadlock, so they are spawned.
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(workers, mp_context=context) as pool:
            yield _ordered(pool, workers)
    else:
        raise InvalidInputError(
            f"unknown executor '{executor}': expected {', '.join(EXECUTORS)} "
            "or a concurrent.futures.Executor"
        )


def _ordered(pool: Executor, workers: int) -> Map:
    def ordered(function: Callable[[Any], Any], items: Iterable[Any], /) -> Iterator[Any]:
        # Few are under way at a time: results that wait for an earlier one take memory.
        waiting: deque[Future[Any]] = deque()
        remaining = iter(items)
        try:
            while True:
                for item in islice(remaining, 2 * workers - len(waiting)):
                    waiting.append(pool.submit(function, item))
                if not waiting:
                    return
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()

    return ordered


def available_workers() -> int:
    """Return the number of cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
