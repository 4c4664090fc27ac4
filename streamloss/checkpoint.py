"""Saves what a run has added up, every few seconds, and lets the next run go on from there.

A folder holds a state file for each pass over the data and belongs to one run at a time.
The blocks of a run are added in their order, so that a number tells which are done.
"""

import json
import os
import socket
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from streamloss.errors import InvalidInputError
from streamloss.origin import Difference, Origin, difference
from streamloss.partial import Partial
from streamloss.prepare import Run, with_blocks
from streamloss.state import load_sum, save_sum
from streamloss.task import Task

SECONDS = 3.0
"""Time between two saves, or longer where saving would take more than a part of it."""
_LARGEST_PART = 1 / 50


class Checkpoint:
    """The folder of a checkpoint while a run owns it.

    Attributes
    ----------
    voxels
        Voxels of the saved sum, of which a run's own speed tells nothing.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.voxels = 0

    def fitted(self, run: Run) -> Run:
        """Return the run with the blocks of the one that was saved, whose sum goes on."""
        path = self._path(0)
        if not path.exists():
            return run
        partial, saved = load_sum(path)
        self.voxels = partial.scored + partial.ignored
        block = [] if saved is None else saved.plan["block"]
        if block == list(run.job.plan.block_shape) or len(block) != len(run.job.plan.region):
            return run
        return with_blocks(run, tuple(block))

    def of_pass(self, origin: Origin, task: Task) -> "Savepoint":
        """Return where the sum of one pass over the data is saved."""
        return Savepoint(self._path(origin.look), origin, task)

    def _path(self, look: int) -> Path:
        return self.folder / f"pass-{look}.slstate"


class Savepoint:
    """A state file that is written again and again while a run goes on.

    Parameters
    ----------
    path
        The file.
    origin, task
        What the sum will be of, and the settings; the file may be of nothing else.
    """

    def __init__(self, path: Path, origin: Origin, task: Task) -> None:
        self._path = path
        self._origin = origin
        self._task = task
        self._next = time.monotonic() + SECONDS

    def load(self) -> tuple[Partial, int] | None:
        """Return the sum that was saved and how many blocks it is of, or None if there is none.

        Raises
        ------
        InvalidInputError
            If the file is damaged, or of other inputs or options.
        """
        if not self._path.exists():
            return None
        partial, saved = load_sum(self._path, self._task.questions)
        if saved is None:
            raise InvalidInputError(f"'{self._path}' is not a checkpoint but some other state")
        found = difference(saved, partial.task, self._origin, self._task)
        if found is None and saved.shard != self._origin.shard:
            found = Difference("the shard", str(saved.shard), str(self._origin.shard))
        if found is not None:
            raise InvalidInputError(
                f"the checkpoint '{self._path.parent}' cannot be continued, {found.what} was "
                f"{found.one} and is {found.other}: name another folder, or remove this one"
            )
        return partial, saved.done

    @property
    def due(self) -> bool:
        """Whether it is time to save again."""
        return time.monotonic() >= self._next

    def save(self, partial: Partial, done: int) -> None:
        """Save a sum of so many blocks, in place of the one before.

        A run is worth more than its checkpoint: if saving fails, a warning tells so, and what
        was saved before stays.
        """
        started = time.monotonic()
        try:
            save_sum(self._path, partial, replace(self._origin, done=done))
        except OSError as error:
            warnings.warn(
                f"the checkpoint '{self._path.parent}' could not be saved, the run goes on: "
                f"{error.strerror or error}",
                RuntimeWarning,
                stacklevel=2,
            )
        now = time.monotonic()
        self._next = now + max(SECONDS, (now - started) / _LARGEST_PART)


@contextmanager
def open_checkpoint(folder: str | os.PathLike[str]) -> Iterator[Checkpoint]:
    """Own the folder of a checkpoint, made if it is not there.

    Raises
    ------
    InvalidInputError
        If another run owns it, which is named, or if it cannot be made or locked.
    """
    place = Path(folder)
    try:
        place.mkdir(parents=True, exist_ok=True)
        file = (place / "owner.json").open("ab", buffering=0)
    except OSError as error:
        raise InvalidInputError(f"cannot use the checkpoint '{place}': {error.strerror}") from None
    with file:
        _lock(file, place)
        # Whoever was killed while writing has left a file that nobody else will need.
        for leftover in place.glob(".*.tmp"):
            leftover.unlink(missing_ok=True)
        owner = {"pid": os.getpid(), "host": socket.gethostname(), "since": time.ctime()}
        try:
            file.truncate(0)
            file.write(json.dumps(owner).encode())
        except OSError as error:
            raise InvalidInputError(
                f"cannot write to the checkpoint '{place}': {error.strerror}"
            ) from None
        yield Checkpoint(place)


def _lock(file: Any, place: Path) -> None:
    """Lock an open file until it is closed, which the end of its process does too."""
    try:
        if sys.platform == "win32":
            import msvcrt

            # Beyond the end, so that others can read who the owner is.
            file.seek(2**20)
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        raise InvalidInputError(
            f"the checkpoint '{place}' is in use by {_owner(place)}: wait for its end, or name "
            "another folder"
        ) from None
    except OSError as error:
        raise InvalidInputError(
            f"the checkpoint '{place}' cannot be locked ({error.strerror}): name a folder on a "
            "file system with locks"
        ) from None


def _owner(place: Path) -> str:
    try:
        owner = json.loads((place / "owner.json").read_text(encoding="utf-8"))
        return f"process {owner['pid']} on {owner['host']} since {owner['since']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"
