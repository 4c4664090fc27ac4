"""Runs cases at once: lanes of one case each, in threads or in processes of their own.

A lane scores one case at a time, saves its result and reports how it went: who waits for all
lanes has nothing to do beside them. What the results are for is not known here.
"""

import multiprocessing
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from errno import ENAMETOOLONG
from importlib import import_module
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from multiprocessing.reduction import ForkingPickler
from typing import Any, NamedTuple, Self

from streamloss.batch_folder import BatchFolder
from streamloss.cases import Case
from streamloss.errors import (
    InvalidInputError,
    MemoryLimitError,
    StreamlossError,
    WorkerError,
    file_error,
)
from streamloss.study import SavedCase

# Seconds between two looks at what lanes have done. To be woken by each case would take the
# interpreter's lock away from the lane beside, which many small cases feel.
_LOOK = 0.01
# Cases that wait in a process beside the one it scores, and what they may take of the pipe, the
# least that holds (on macOS): to wait for room there, while the process waits until its answer
# is read, would be for ever.
_AHEAD = 8
_PIPE_BYTES = 8192
# How often in a row a process may be killed before it can score anything.
_ATTEMPTS = 3
# Seconds until a process is killed that does not end when it is told to.
_PATIENCE = 5.0
_UNSTARTED = (
    "a process that was to score cases ended with exit code {} before it could: choose threads as "
    "the executor, or, in a script, see that it can be imported, as by "
    '`if __name__ == "__main__":`'
)


class Waiting(NamedTuple):
    """A case to be scored, and what its inputs are known by, as `BatchFolder` tells."""

    case: Case
    inputs: Mapping[str, Any]

    @property
    def nbytes(self) -> int:
        """Bytes of its files; 0 where that is not known, as of what is in a bucket."""
        return sum((facts or {}).get("bytes") or 0 for facts in self.inputs.values())


class Work(NamedTuple):
    """What every lane needs: where results are saved, and keywords of `score`; pickles."""

    folder: BatchFolder
    options: Mapping[str, Any]


class Outcome(NamedTuple):
    """How a case ended: with a saved result, or with the reason why there is none."""

    case: Case
    saved: SavedCase | None
    reason: str = ""
    lacks_memory: bool = False


class _StoppedError(Exception):
    """The batch ends; a case that is under way is given up."""


def run_case(
    work: Work, waiting: Waiting, progress: Callable[[int, int], None] | None = None
) -> Outcome:
    """Score one case and save its result; an exception becomes the reason why it failed.

    Raises
    ------
    OSError
        If the result cannot be saved: a full disk, for one, is no matter of this case alone.
    """
    from streamloss.scoring import score

    case, inputs = waiting
    try:
        result = score(
            case.truth, case.prediction, mask=case.mask, progress=progress, **work.options
        )
    except _StoppedError:
        raise
    except Exception as error:
        # The other cases must go on whatever a codec or a storage library raises.
        lacks_memory = isinstance(error, MemoryLimitError)
        return Outcome(case, None, reason_of(error), lacks_memory)
    try:
        with _undisturbed():
            return Outcome(case, work.folder.save(case, result, inputs))
    except Exception as error:
        if isinstance(error, OSError) and error.errno != ENAMETOOLONG:
            raise
        return Outcome(case, None, reason_of(error))


@contextmanager
def _undisturbed() -> Generator[None]:
    """Let the signal that ends a process of a batch wait: no file is left half written.

    To block it would not do, as any other thread would take it. Only in a main thread, which
    is where such a process scores.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came = threading.Event()
    before = signal.signal(signal.SIGTERM, lambda *_: came.set())
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL if before is None else before)
        if came.is_set():
            signal.raise_signal(signal.SIGTERM)


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
    cases: Sequence[Waiting], work: Work, lanes: int, helpers: Helpers | None
) -> Generator[Outcome, None, None]:
    """Score cases, so many at once, and yield each outcome as it comes.

    Parameters
    ----------
    cases
        The cases, those that take longest first.
    work
        What a lane needs, with its share of workers and memory.
    lanes
        How many cases are scored at once.
    helpers
        The processes in which all lanes but the first run, stopped in the end; without
        them these run in threads. The first lane is a thread either way: it works while the
        others start.
    """
    waiting = deque(cases)
    outcomes: deque[Outcome | BaseException] = deque()
    stop = threading.Event()

    def heed_stop(done: int, total: int) -> None:
        if stop.is_set():
            raise _StoppedError

    def score_here() -> None:
        try:
            while waiting and not stop.is_set():
                # Another lane may have taken the last.
                with suppress(IndexError):
                    outcomes.append(run_case(work, waiting.popleft(), heed_stop))
        except _StoppedError:
            pass
        except BaseException as error:
            outcomes.append(error)

    children = [] if helpers is None else helpers.start(lanes - 1)
    threads = [
        threading.Thread(target=score_here, name="streamloss-lane")
        for _ in range(lanes - len(children))
    ]
    try:
        for thread in threads:
            thread.start()
        for child in children:
            child.begin(work)
        left = len(cases)
        while left:
            for child in children:
                outcomes.extend(child.received())
                # Some wait there, so that it need not wait for the next look, but ever fewer
                # towards the end: lanes are to end together.
                ahead = min(_AHEAD, len(waiting) // (2 * lanes))
                with suppress(IndexError):
                    while len(child.sent) <= ahead:
                        case = waiting.popleft()
                        if not child.send(case):
                            waiting.appendleft(case)
                            break
            while outcomes:
                outcome = outcomes.popleft()
                if isinstance(outcome, BaseException):
                    raise outcome
                left -= 1
                yield outcome
            if left:
                time.sleep(_LOOK)
    finally:
        stop.set()
        if helpers is not None:
            helpers.stop()
        for thread in threads:
            if thread.ident is not None:
                thread.join()


class _Child:
    """A process that scores the cases it is sent, in turn; started anew if one kills it."""

    def __init__(self) -> None:
        # Cases and how they travel, the one first that is scored now.
        self.sent: deque[tuple[Case, bytes]] = deque()
        self._work: Work | None = None
        self._starts = 0
        self._start()

    def _start(self) -> None:
        # Forking a process that runs threads can deadlock, so they are spawned.
        context = multiprocessing.get_context("spawn")
        # Started by the first process, it would let that hear of interrupts.
        resource_tracker.ensure_running()
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs,), daemon=True)
        with _no_interrupts():
            self._process.start()
        self._starts += 1
        # The end of the child must be the end of the pipe.
        theirs.close()

    def begin(self, work: Work) -> None:
        """Tell what is the same for all cases, once: of many classes it would fill the pipe.

        Raises
        ------
        InvalidInputError
            If an option cannot be sent.
        """
        self._work = work
        try:
            self._connection.send(work)
        except OSError:
            # If the process has died, `received` tells.
            pass
        except Exception as error:
            raise InvalidInputError(f"options cannot be sent to processes: {error}") from None

    def send(self, waiting: Waiting) -> bool:
        """Let a case be scored after those that were sent before; return False if it must wait."""
        message = bytes(ForkingPickler.dumps(waiting))
        if self.sent and sum(len(other) for _, other in self.sent) + len(message) > _PIPE_BYTES:
            return False
        self.sent.append((waiting.case, message))
        self._send(message)
        return True

    def _send(self, message: bytes) -> None:
        # If the process has died, `received` tells.
        with suppress(OSError):
            self._connection.send_bytes(message)

    def received(self) -> Iterator[Outcome]:
        """Yield how those of the sent cases went that are done by now.

        Raises
        ------
        OSError
            If a result could not be saved.
        WorkerError
            If the process could not be started.
        """
        while self.sent and self._connection.poll():
            try:
                message: Outcome | OSError | None = self._connection.recv()
            except (EOFError, OSError):
                yield from self._replace()
                continue
            if message is None:
                # It can score.
                self._starts = 0
            elif isinstance(message, OSError):
                raise message
            else:
                self.sent.popleft()
                yield message

    def _replace(self) -> Iterator[Outcome]:
        """Start a new process in place of one that died; yield how the case went that it had."""
        self._process.join()
        code = self._process.exitcode or 0
        assert self._work is not None, "cases are sent to a process that knows its work"
        if self._starts == 0:
            case, _ = self.sent.popleft()
            reason = f"the process that scored it ended with exit code {code}"
            saved = self._work.folder.saved(case)
            yield Outcome(case, saved, "" if saved else reason)
        elif code >= 0 or self._starts == _ATTEMPTS:
            # What it said itself went to stderr; to start it again would end alike.
            raise WorkerError(_UNSTARTED.format(code))
        self._start()
        self.begin(self._work)
        for _, message in self.sent:
            self._send(message)

    def stop(self) -> None:
        """End the process, whatever it does."""
        self._process.terminate()
        self._process.join(_PATIENCE)
        # One that was stopped does not hear the gentle signal.
        self._process.kill()
        self._process.join()


@contextmanager
def _no_interrupts() -> Generator[None]:
    """Let processes that start here never hear of Ctrl-C, which reaches all of a terminal.

    The parent decides what it means. A process that first has to import would print where it was.
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _serve(connection: Connection) -> None:
    """Score what comes through the pipe until it ends."""
    # Where it could not be kept away.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # What takes longest, and the format of most batches, while the parent looks at the cases.
    for name in ("streamloss.scoring", "streamloss.stores.zarr", "zarr"):
        import_module(name)
    # Where the parent was killed, nobody waits for the answer.
    with suppress(EOFError, ConnectionError):
        connection.send(None)
        work = connection.recv()
        while True:
            waiting = connection.recv()
            try:
                outcome: Outcome | OSError = run_case(work, waiting)
            except OSError as error:
                outcome = error
            connection.send(outcome)
