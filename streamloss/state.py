"""State files: what a partial run added up, kept to be merged later.

A file is one line of magic, one line of JSON that describes the task and the
arrays, the arrays as little-endian bytes, and a SHA-256 of all that. No pickle.
"""

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, replace
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from streamloss.errors import InvalidInputError
from streamloss.files import write_whole
from streamloss.origin import Origin, origin_from
from streamloss.partial import Partial
from streamloss.registry import needed
from streamloss.slab import Fault
from streamloss.task import Classes, Structure, Task

MAGIC = b"streamloss.state/1\n"
_DIGEST = hashlib.sha256().digest_size


class Saved(NamedTuple):
    """What a state file holds.

    Attributes
    ----------
    partial
        The sum.
    origin
        Which voxels of which arrays it is of; None if that is not known, as of an `Accumulator`.
    """

    partial: Partial
    origin: Origin | None


def save_sum(path: Path, partial: Partial, origin: Origin | None = None) -> None:
    """Write a state file, which appears complete or not at all."""
    arrays: list[NDArray[Any]] = []
    header = {
        # Questions are asked anew of the sum that they follow from.
        "task": asdict(replace(partial.task, questions={})),
        "origin": None if origin is None else asdict(origin),
        **_described(partial, arrays),
    }
    parts: list[bytes | memoryview] = [MAGIC, json.dumps(header).encode(), b"\n"]
    parts += [array.data for array in arrays]
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    write_whole(path, [*parts, digest.digest()])


def load_sum(path: str | os.PathLike[str], questions: Mapping[str, Any] | None = None) -> Saved:
    """Read a state file.

    Parameters
    ----------
    path
        The file.
    questions
        Of which the sum holds the answers, if it is of another pass over the data.

    Raises
    ------
    InvalidInputError
        If it does not exist, is not a state file, or was truncated or changed.
    """
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise InvalidInputError(f"cannot read the state file '{path}': {error.strerror}") from None
    if not content.startswith(MAGIC):
        raise InvalidInputError(_not_a_state(path, content))
    body, digest = memoryview(content)[:-_DIGEST], content[-_DIGEST:]
    if hashlib.sha256(body).digest() != digest:
        raise InvalidInputError(f"the state file '{path}' is truncated or was changed")
    start = content.find(b"\n", len(MAGIC), len(body))
    if start < 0:
        raise InvalidInputError(f"'{path}' is not a state file of streamloss")
    try:
        header = json.loads(content[len(MAGIC) : start])
        plain = header.get("origin")
        origin = None if plain is None else origin_from(plain)
        if questions is None and origin is not None and origin.look:
            raise InvalidInputError(f"'{path}' holds no sum but answers to questions about one")
        task = replace(_task(header["task"]), questions=questions or {})
        data = BytesIO(body[start + 1 :])
        partial = _filled(task, header, data)
        if data.read(1):
            raise InvalidInputError(f"the state file '{path}' is truncated or was changed")
    except InvalidInputError:
        raise
    except AttributeError as error:
        # A number or a list, where the facts of something should be.
        raise InvalidInputError(f"'{path}' is not a state file of streamloss") from error
    except (LookupError, OverflowError, TypeError, ValueError) as error:
        # What it holds is what was written, so another version wrote it.
        raise InvalidInputError(
            f"the state file '{path}' was written by another version of streamloss, which "
            f"knows other options or statistics ({error})"
        ) from error
    return Saved(partial, origin)


def _not_a_state(path: str | os.PathLike[str], content: bytes) -> str:
    """Tell why a file that does not begin as a state file does is none."""
    if MAGIC.startswith(content):
        return f"the state file '{path}' is truncated: it has {len(content)} bytes"
    name, _, number = MAGIC.partition(b"/")
    if content.startswith(name):
        other = content[len(name) + 1 :].partition(b"\n")[0][:20].decode(errors="replace")
        return (
            f"the state file '{path}' is of version {other}, "
            f"this version of streamloss reads {number.decode().strip()}"
        )
    return f"'{path}' is not a state file of streamloss"


def _described(partial: Partial, arrays: list[NDArray[Any]]) -> dict[str, Any]:
    """Describe a partial and its parts; append their arrays, in the order of the description."""
    own = [
        (statistic.name, name, np.ascontiguousarray(array, array.dtype.newbyteorder("<")))
        for statistic in needed(partial.task)
        if statistic.name in partial.states
        for name, array in partial.states[statistic.name]._asdict().items()
    ]
    arrays += [array for *_, array in own]
    return {
        "scored": partial.scored,
        "ignored": partial.ignored,
        "faults": [list(fault) for fault in partial.faults.values()],
        "arrays": [[s, n, array.dtype.str, list(array.shape)] for s, n, array in own],
        "parts": {name: _described(part, arrays) for name, part in partial.parts.items()},
    }


def _filled(task: Task, header: dict[str, Any], data: BytesIO) -> Partial:
    """Return the partial that a header describes, from the arrays that follow in the data.

    Raises
    ------
    ValueError
        If the arrays are not those that this version has for the task.
    """
    arrays: dict[str, dict[str, Any]] = {}
    for statistic, name, dtype, shape in header["arrays"]:
        count = int(np.prod(shape))
        array = np.frombuffer(data.read(count * np.dtype(dtype).itemsize), dtype).reshape(shape)
        arrays.setdefault(statistic, {})[name] = array.astype(array.dtype.newbyteorder("="))
    parts = {
        name: _filled(task.of_part(name), part, data)
        for name, part in header.get("parts", {}).items()
    }
    known = {} if parts else {statistic.name: statistic for statistic in needed(task)}
    if set(known) != set(arrays):
        raise ValueError(f"it holds {sorted(arrays)}, this version has {sorted(known)}")
    states = {name: known[name].state(**own) for name, own in arrays.items()}
    for name, state in states.items():
        if known[name].custom_empty is not None:
            continue
        shapes, expected = (
            [part.shape for part in some] for some in (state, known[name].empty(task))
        )
        if shapes != expected:
            raise ValueError(f"its {name} has the shapes {shapes}, this version has {expected}")
    faults = {(f[0], f[1]): Fault(*f) for f in header["faults"]}
    return Partial(task, states, header["scored"], header["ignored"], faults, parts=parts)


def _task(plain: dict[str, Any]) -> Task:
    """Rebuild a task from JSON, which knows no tuples."""
    settled = {name: _tuples(value) for name, value in plain.items()}
    settled["classes"] = Classes(**{n: _tuples(v) for n, v in plain["classes"].items()})
    settled["structures"] = tuple(
        Structure(part["name"], _tuples(part["labels"])) for part in plain.get("structures", ())
    )
    settled["parameters"] = {n: _tuples(v) for n, v in plain["parameters"].items()}
    return Task(**settled)


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, list) else value
