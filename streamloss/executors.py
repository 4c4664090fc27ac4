"""Ways to run one function over many runs of blocks, results in order.

Each executor is a context manager that yields what adds up. Nothing here knows what
the function does.
"""

import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import contextmanager
from itertools import islice
from typing import Any, Protocol, Self, TypeVar

from streamloss.errors import InvalidInputError

T = TypeVar("T")


class Sum(Protocol):
    """A result that can be added to others."""

    def merge(self, other: Self, /) -> Self:
        """Return the sum of both."""


S = TypeVar("S", bound=Sum)


class AddUp(Protocol):
    """A `map` that may add up the results of neighbours."""

    def __call__(
        self, function: Callable[[T], S], items: Sequence[T], /
    ) -> Iterator[tuple[int, S]]:
        """Yield how many items follow in order, and the sum of their results."""


EXECUTORS = ("threads", "processes", "serial")


@contextmanager
def open_executor(executor: str | Executor, workers: int) -> Iterator[AddUp]:
    """Open an executor by name, or use a `concurrent.futures.Executor` as it is.

    Raises
    ------
    InvalidInputError
        If there is no executor of that name.
    """
    if isinstance(executor, Executor):
        yield _ordered(executor, workers)
    elif executor == "serial":
        yield lambda function, items: ((1, function(item)) for item in items)
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


def _ordered(pool: Executor, workers: int) -> AddUp:
    def ordered(
        function: Callable[[Any], Any], items: Sequence[Any], /
    ) -> Iterator[tuple[int, Any]]:
        # Few are under way at a time: results that wait for an earlier one take memory.
        waiting: deque[Future[Any]] = deque()
        remaining = iter(items)
        try:
            while True:
                for item in islice(remaining, 2 * workers - len(waiting)):
                    waiting.append(pool.submit(function, item))
                if not waiting:
                    return
                yield 1, waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()

    return ordered


def available_workers() -> int:
    """Return the number of cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
