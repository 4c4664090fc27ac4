"""Runs cases at once: lanes of one case each, in threads or in processes of their own.

A lane scores one case at a time and reports how it went. What becomes of the results is not
known here.
"""

import multiprocessing
import queue
import signal
import threading
from collections import deque
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

from streamloss.cases import Case
from streamloss.errors import MemoryLimitError, StreamlossError
from streamloss.result import Result


class Outcome(NamedTuple):
    """How the scoring of a case ended: with a result, or with the reason why there is none."""

    case: Case
    result: Result | None
    reason: str = ""
    lacks_memory: bool = False


class _StoppedError(Exception):
    """The batch ends; a case that is under way is given up."""


def run_case(
    case: Case,
    options: Mapping[str, Any],
    progress: Callable[[int, int], None] | None = None,
) -> Outcome:
    """Score one case; an exception becomes the reason why it failed."""
    from streamloss.scoring import score

    try:
        result = score(case.truth, case.prediction, mask=case.mask, progress=progress, **options)
        return Outcome(case, result)
    except _StoppedError:
        raise
    except MemoryLimitError as error:
        return Outcome(case, None, str(error), lacks_memory=True)
    except (StreamlossError, OSError) as error:
        return Outcome(case, None, str(error))
    except MemoryError as error:
        return Outcome(case, None, f"out of memory: {error}".removesuffix(": "))
    except Exception as error:
        # The other cases must go on whatever a codec or a storage library raises.
        return Outcome(case, None, f"unexpected {type(error).__name__}: {error}")


def run_lanes(
    cases: Sequence[Case], options: Mapping[str, Any], lanes: int, processes: bool
) -> Generator[Outcome, None, None]:
    """Score cases, so many at once, and yield each outcome as it comes.

    Parameters
    ----------
    cases
        The cases, those that take longest first.
    options
        Keywords of `score`, with the share of workers and memory of one lane.
    lanes
        How many cases are scored at once.
    processes
        Whether all lanes but the first run in processes of their own. The first does
        not: it works while the others start, which takes a second.
    """
    waiting = deque(cases)
    outcomes: queue.SimpleQueue[Outcome | BaseException] = queue.SimpleQueue()
    stop = threading.Event()

    def heed_stop(done: int, total: int) -> None:
        if stop.is_set():
            raise _StoppedError

    def work(child: "_Child | None") -> None:
        try:
            while not stop.is_set():
                try:
                    case = waiting.popleft()
                except IndexError:
                    return
                if child is None:
                    outcomes.put(run_case(case, options, heed_stop))
                else:
                    outcomes.put(child.run(case, options))
        except _StoppedError:
            pass
        except BaseException as error:
            outcomes.put(error)

    children = [_Child() for _ in range(lanes - 1)] if processes else [None] * (lanes - 1)
    threads = [
        threading.Thread(target=work, args=(child,), name="streamloss-lane")
        for child in (None, *children)
    ]
    try:
        for thread in threads:
            thread.start()
        for _ in cases:
            outcome = outcomes.get()
            if isinstance(outcome, BaseException):
                raise outcome
            yield outcome
    finally:
        stop.set()
        for child in children:
            if child is not None:
                child.stop()
        for thread in threads:
            if thread.ident is not None:
                thread.join()


class _Child:
    """A process that scores the cases it is sent; started anew if it dies."""

    def __init__(self) -> None:
        self._stopped = False
        self._start()

    def _start(self) -> None:
        # Forking a process that runs threads can deadlock, so they are spawned.
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs,), daemon=True)
        self._process.start()
        # The end of the child must be the end of the pipe.
        theirs.close()

    def run(self, case: Case, options: Mapping[str, Any]) -> Outcome:
        try:
            self._connection.send((case, dict(options)))
            outcome: Outcome = self._connection.recv()
        except (EOFError, OSError):
            if self._stopped:
                raise _StoppedError from None
            self._process.join()
            code = self._process.exitcode
            self._start()
            return Outcome(case, None, f"the process that scored it ended with exit code {code}")
        return outcome

    def stop(self) -> None:
        self._stopped = True
        self._process.terminate()
        self._process.join()
        # Its lane may still wait for an answer; it gets the end of the pipe.


def _serve(connection: Connection) -> None:
    """Score what comes through the pipe until it ends."""
    # Ctrl-C reaches every process of a terminal; the parent decides what it means.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with suppress(EOFError):
        while True:
            case, options = connection.recv()
            connection.send(run_case(case, options))
