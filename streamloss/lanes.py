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
from importlib import import_module
from multiprocessing.connection import Connection
from typing import Any, NamedTuple, Self

from streamloss.cases import Case
from streamloss.errors import MemoryLimitError, StreamlossError, file_error
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
    except Exception as error:
        # The other cases must go on whatever a codec or a storage library raises.
        lacks_memory = isinstance(error, MemoryLimitError)
        return Outcome(case, None, reason_of(error), lacks_memory)


def reason_of(error: Exception) -> str:
    """Tell why a case failed."""
    if isinstance(error, OSError):
        return file_error(error)
    if isinstance(error, MemoryError):
        return f"out of memory: {error}".removesuffix(": ")
    if isinstance(error, StreamlossError):
        return str(error)
    return f"unexpected {type(error).__name__}: {error}"


class Helpers:
    """The processes in which further lanes run: they may start before it is known what to score.

    Until it scores a case a process takes most of a second.
    """

    def __init__(self) -> None:
        self._children: list[_Child] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.stop()

    def start(self, count: int) -> Sequence["_Child"]:
        """Start so many, less those that were started before, and return them."""
        while len(self._children) < count:
            self._children.append(_Child())
        return self._children[:count]

    def stop(self) -> None:
        """End all of them, whatever they do."""
        for child in self._children:
            child.stop()


def run_lanes(
    cases: Sequence[Case], options: Mapping[str, Any], lanes: int, helpers: Helpers | None
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
    helpers
        The processes in which all lanes but the first run, stopped in the end; without
        them these run in threads. The first lane is a thread either way: it works while the
        others start.
    """
    waiting = deque(cases)
    outcomes: queue.SimpleQueue[Outcome | BaseException] = queue.SimpleQueue()
    stop = threading.Event()

    def heed_stop(done: int, total: int) -> None:
        if stop.is_set():
            raise _StoppedError

    def work() -> None:
        while waiting and not stop.is_set():
            # Another lane may have taken the last.
            with suppress(IndexError):
                outcomes.put(run_case(waiting.popleft(), options, heed_stop))

    def feed(child: _Child) -> None:
        child.begin(options)
        while not stop.is_set():
            # One more waits in the child, which idled for a twelfth of the time until this
            # thread had its turn. Not the last ones: lanes are to end together.
            ahead = 1 if len(waiting) > 2 * lanes else 0
            with suppress(IndexError):
                while len(child.sent) <= ahead:
                    child.send(waiting.popleft())
            if not child.sent:
                return
            outcomes.put(child.receive())

    def run(child: "_Child | None") -> None:
        try:
            if child is None:
                work()
            else:
                feed(child)
        except _StoppedError:
            pass
        except BaseException as error:
            outcomes.put(error)

    others = [None] * (lanes - 1) if helpers is None else helpers.start(lanes - 1)
    threads = [
        threading.Thread(target=run, args=(child,), name="streamloss-lane")
        for child in (None, *others)
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
        if helpers is not None:
            helpers.stop()
        for thread in threads:
            if thread.ident is not None:
                thread.join()


class _Child:
    """A process that scores the cases it is sent, in turn; started anew if it dies."""

    def __init__(self) -> None:
        self.sent: deque[Case] = deque()
        self._options: Mapping[str, Any] = {}
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

    def begin(self, options: Mapping[str, Any]) -> None:
        """Tell the keywords of `score`, once: of many classes they would fill the pipe."""
        self._options = options
        with suppress(OSError):
            self._connection.send(dict(options))

    def send(self, case: Case) -> None:
        """Let a case be scored after those that were sent before."""
        self.sent.append(case)
        # If the process has died, `receive` tells.
        with suppress(OSError):
            self._connection.send(case)

    def receive(self) -> Outcome:
        """Wait for how the first of the sent cases went."""
        try:
            outcome: Outcome = self._connection.recv()
        except (EOFError, OSError):
            if self._stopped:
                raise _StoppedError from None
            return self._replace()
        self.sent.popleft()
        return outcome

    def _replace(self) -> Outcome:
        """Start a new process in place of one that died, for the cases after the one it had."""
        self._process.join()
        code = self._process.exitcode
        case, *others = self.sent
        self.sent.clear()
        self._start()
        self.begin(self._options)
        for other in others:
            self.send(other)
        return Outcome(case, None, f"the process that scored it ended with exit code {code}")

    def stop(self) -> None:
        self._stopped = True
        self._process.terminate()
        self._process.join()
        # Its lane may still wait for an answer; it gets the end of the pipe.


def _serve(connection: Connection) -> None:
    """Score what comes through the pipe until it ends."""
    # Ctrl-C reaches every process of a terminal; the parent decides what it means.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # What takes longest, while the parent looks at the cases.
    import_module("streamloss.scoring")
    # Where the parent was killed, nobody waits for the answer.
    with suppress(EOFError, ConnectionError):
        options = connection.recv()
        while True:
            connection.send(run_case(connection.recv(), options))
