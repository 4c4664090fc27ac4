"""The decoded bytes of a file by their offset: plain files, and gzip without decoding it whole.

A gzip stream can only be read from its start, or from where the state of a decompressor was
kept. So copies of it are kept on the way, some MiB apart: memory stays bounded, several
workers read at once, and whoever reads on where another has stopped decodes nothing twice.
What the bytes mean is not known here.
"""

import io
import threading
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

# A kept state is the window of 32 KiB, tables of 10 KiB and input that waits.
_INPUT_BYTES = 2**15
_KEPT_BYTES = _INPUT_BYTES + 48 * 2**10
_STEP_BYTES = 2**20
# Closer together they take more memory than they save time; not more than this many.
_LEAST_DISTANCE = 2**21
_MOST_KEPT = 256
_MOST_RESTING = 32
_ANY_CONTAINER = 32 + zlib.MAX_WBITS


class Reader(Protocol):
    """An open source of bytes, for one thread."""

    def read_into(self, offset: int, out: memoryview) -> None:
        """Fill `out` with the bytes from `offset` on; raise if there are not so many."""


@dataclass(frozen=True)
class PlainFile:
    """The bytes of a file as they are."""

    path: Path
    held_bytes: int = 0
    """Memory that is held between reads."""
    read_bytes: int = 0
    """Memory that a read holds beside what it fills."""

    @contextmanager
    def open(self) -> Iterator[Reader]:
        """Open the file for one read; the others have descriptors of their own."""
        with self.path.open("rb", buffering=0) as file:
            yield _PlainReader(file)


class _PlainReader:
    def __init__(self, file: io.FileIO) -> None:
        self._file = file

    def read_into(self, offset: int, out: memoryview) -> None:
        self._file.seek(offset)
        while out:
            count = self._file.readinto(out)
            if not count:
                raise EOFError(f"the file ends at byte {self._file.tell():,}")
            out = out[count:]


@dataclass(frozen=True, eq=False)
class GzipFile:
    """The decoded bytes of a gzip or zlib stream, of one or more members, within a file.

    Attributes
    ----------
    path
        The file.
    size
        How many decoded bytes will be asked for. Whoever reads the last one checks the
        checksum of all.
    start
        Where in the file the stream starts.
    """

    path: Path
    size: int
    start: int = 0
    _states: "_States" = field(default_factory=lambda: _States())

    def __getstate__(self) -> dict[str, Any]:
        """Pickle the place, not the states of decompressors."""
        return {"path": self.path, "size": self.size, "start": self.start}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _states=_States())

    @property
    def distance(self) -> int:
        """Decoded bytes between two states that are kept."""
        return max(_LEAST_DISTANCE, self.size // _MOST_KEPT)

    @property
    def held_bytes(self) -> int:
        """Memory that is held between reads."""
        return (self.size // self.distance + _MOST_RESTING) * _KEPT_BYTES

    @property
    def read_bytes(self) -> int:
        """Memory that a read holds beside what it fills."""
        # The decoded step, which zlib joins from pieces.
        return 2 * _STEP_BYTES + _KEPT_BYTES

    @contextmanager
    def open(self) -> Iterator[Reader]:
        """Open the file for one read."""
        with self.path.open("rb", buffering=0) as file:
            reader = _GzipReader(file, self)
            yield reader
            if reader.state is not None:
                self._states.rest(reader.state)


@dataclass
class _State:
    """A decompressor, and where it stands in the stream."""

    decoded: int
    """Decoded bytes that it has given."""
    stored: int
    """Where in the file it goes on reading."""
    inflate: Any

    def copy(self) -> "_State":
        return _State(self.decoded, self.stored, self.inflate.copy())


class _States:
    """States that were kept on the way, and those at which a reader has stopped."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kept: list[_State] = []
        self._resting: list[_State] = []

    def nearest(self, offset: int) -> _State | None:
        """Return the last state before an offset, for the caller alone."""
        with self._lock:
            kept = [state for state in self._kept if state.decoded <= offset]
            resting = [state for state in self._resting if state.decoded <= offset]
            found = max(kept + resting, key=lambda state: state.decoded, default=None)
            if found is None:
                return None
            if found in resting:
                self._resting = [state for state in self._resting if state is not found]
                return found
            return found.copy()

    def keep(self, state: _State, distance: int) -> None:
        """Keep a copy of a state unless there is one not far before it."""
        with self._lock:
            last = self._kept[-1].decoded if self._kept else 0
            if state.decoded >= last + distance:
                self._kept.append(state.copy())

    def rest(self, state: _State) -> None:
        """Keep the state at which a reader stops, the latest ones."""
        with self._lock:
            self._resting = [*self._resting[1 - _MOST_RESTING :], state]


class _GzipReader:
    def __init__(self, file: io.FileIO, source: GzipFile) -> None:
        self._file = file
        self._source = source
        self.state: _State | None = None

    def read_into(self, offset: int, out: memoryview) -> None:
        state = self.state = self._go_to(offset)
        while state.decoded < offset:
            self._step(state, offset - state.decoded)
        while out:
            part = self._step(state, len(out))
            out[: len(part)] = part
            out = out[len(part) :]
        if state.decoded >= self._source.size:
            self._check_end(state)

    def _go_to(self, offset: int) -> _State:
        """Return a state before an offset, this one or a nearer one that was kept."""
        source, state = self._source, self.state
        if state is not None and state.decoded <= offset < state.decoded + source.distance:
            return state
        found = source._states.nearest(offset)
        if state is not None and state.decoded <= offset:
            return state if found is None or found.decoded <= state.decoded else found
        return found or _State(0, source.start, zlib.decompressobj(_ANY_CONTAINER))

    def _step(self, state: _State, wanted: int) -> bytes:
        """Decode at most so many bytes, and keep the state now and then."""
        stored = state.inflate.unconsumed_tail
        if state.inflate.eof:
            stored = state.inflate.unused_data or self._more(state)
            # What pads the last member, such as zeros to a full block, is no other.
            if not stored.lstrip(b"\0"):
                raise EOFError(f"its data end after {state.decoded:,} bytes")
            state.inflate = zlib.decompressobj(_ANY_CONTAINER)
        stored = stored or self._more(state)
        decoded: bytes = state.inflate.decompress(stored, min(wanted, _STEP_BYTES))
        if not (stored or decoded or state.inflate.eof):
            raise EOFError(f"the file is cut short: its data end after {state.decoded:,} bytes")
        state.decoded += len(decoded)
        self._source._states.keep(state, self._source.distance)
        return decoded

    def _more(self, state: _State) -> bytes:
        self._file.seek(state.stored)
        stored = self._file.read(_INPUT_BYTES)
        state.stored += len(stored)
        return stored

    def _check_end(self, state: _State) -> None:
        """Read on to the checksum of the last member, unless more data follow."""
        while not state.inflate.eof:
            # One byte, since what follows belongs to nobody.
            if self._step(state, 1):
                return
