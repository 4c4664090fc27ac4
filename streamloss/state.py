"""State files: what a partial run added up, kept to be merged later.

A file is one line of magic, one line of JSON that describes the task and the
arrays, the arrays as little-endian bytes, and a SHA-256 of all that. No pickle.
"""

import hashlib
import json
import os
from dataclasses import asdict
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamloss.errors import InvalidInputError
from streamloss.partial import Partial
from streamloss.slab import Fault
from streamloss.statistic import needed
from streamloss.task import Classes, Structure, Task

MAGIC = b"streamloss.state/1\n"
_DIGEST = hashlib.sha256().digest_size


def save_partial(partial: Partial, path: str | os.PathLike[str]) -> None:
    """Write a state file under a temporary name, then rename it."""
    arrays: list[NDArray[Any]] = []
    header = {"task": asdict(partial.task), **_described(partial, arrays)}
    body = MAGIC + json.dumps(header).encode() + b"\n" + b"".join(a.tobytes() for a in arrays)
    target = Path(path)
    temporary = target.with_name(f"{target.name}.{os.getpid()}.tmp")
    try:
        temporary.write_bytes(body + hashlib.sha256(body).digest())
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)


def load_partial(path: str | os.PathLike[str]) -> Partial:
    """Read a state file.

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
        raise InvalidInputError(f"'{path}' is not a state file of this version of streamloss")
    body, digest = content[:-_DIGEST], content[-_DIGEST:]
    if hashlib.sha256(body).digest() != digest:
        raise InvalidInputError(f"the state file '{path}' is truncated or was changed")
    line, _, data = body[len(MAGIC) :].partition(b"\n")
    header = json.loads(line)
    return _filled(_task(header["task"]), header, BytesIO(data), path)


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


def _filled(
    task: Task, header: dict[str, Any], data: BytesIO, path: str | os.PathLike[str]
) -> Partial:
    """Return the partial that a header describes, from the arrays that follow in the data."""
    arrays: dict[str, dict[str, Any]] = {}
    for statistic, name, dtype, shape in header["arrays"]:
        count = int(np.prod(shape))
        array = np.frombuffer(data.read(count * np.dtype(dtype).itemsize), dtype).reshape(shape)
        arrays.setdefault(statistic, {})[name] = array.astype(array.dtype.newbyteorder("="))
    parts = {
        name: _filled(task.of_part(name), part, data, path)
        for name, part in header.get("parts", {}).items()
    }
    known = {} if parts else {statistic.name: statistic for statistic in needed(task)}
    if set(known) != set(arrays):
        raise InvalidInputError(
            f"the state file '{path}' holds {sorted(arrays)}, "
            f"this version of streamloss needs {sorted(known)}"
        )
    states = {name: known[name].state(**own) for name, own in arrays.items()}
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
