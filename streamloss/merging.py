"""Merges the saved states of shards into the result that one run would have given."""

import os
import time
from collections.abc import Iterable, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from streamloss.errors import InvalidInputError
from streamloss.faults import raise_faults
from streamloss.origin import Origin, difference
from streamloss.partial import Partial
from streamloss.result import Result
from streamloss.scoring import build_result
from streamloss.state import load_sum


def merge(states: Iterable[str | os.PathLike[str]]) -> Result:
    """Merge the states of all shards of a volume, which `score` saved.

    Parameters
    ----------
    states
        The files, in any order.

    Returns
    -------
    Result
        The same bytes as of one run over the volume, but for timing and
        versions.

    Raises
    ------
    InvalidInputError
        If it is no list of files; if one is missing, damaged or no such state;
        if a shard is missing or there twice; or if two are not of the same
        inputs and options. The message names file and reason.

    Examples
    --------
    >>> import numpy as np, streamloss as sl
    >>> truth = np.array([0, 1, 1, 0, 1, 1])
    >>> prediction = np.array([0, 1, 0, 0, 1, 1])
    >>> for shard in ("0/2", "1/2"):
    ...     file = f"part-{shard[0]}.slstate"
    ...     part = sl.score(
    ...         truth, prediction, metrics="dice", shard=shard, save_state=file
    ...     )
    >>> sl.merge(["part-0.slstate", "part-1.slstate"])["dice"].value
    0.8571428571428571
    """
    started = time.perf_counter()
    total: Partial | None = None
    parts: dict[int, tuple[str, Origin]] = {}
    for name in _names(states):
        partial, origin = _of_shard(name)
        if total is not None:
            first, first_origin = next(iter(parts.values()))
            found = difference(first_origin, total.task, origin, partial.task)
            if found is not None:
                raise InvalidInputError(
                    f"{name} is not of the same run as {first}: {found.what} is {found.other} "
                    f"there and {found.one} here"
                )
        if origin.shard.number in parts:
            raise InvalidInputError(
                f"{parts[origin.shard.number][0]} and {name} are both the shard {origin.shard}, "
                "which would count twice"
            )
        parts[origin.shard.number] = name, origin
        total = partial if total is None else total.merge(partial)
    if total is None:
        raise InvalidInputError("there are no states to merge")
    _refuse_missing(parts)
    return _result(total, parts[0][1], started)


def _names(states: Any) -> list[str]:
    """Return the name of each file; a name alone would pass for the list of its letters."""
    listed = isinstance(states, Iterable) and not isinstance(states, str | bytes | os.PathLike)
    files = list(states) if listed else [states]
    for file in files:
        if not listed or not isinstance(file, str | os.PathLike):
            raise InvalidInputError(f"states must be a list of state files, got {file!r}")
    return [os.fspath(file) for file in files]


def _of_shard(path: str) -> tuple[Partial, Origin]:
    """Load the whole state of a shard."""
    if Path(path).is_dir():
        raise InvalidInputError(
            f"'{path}' is a folder, not the state of a shard: shards of a batch are joined by "
            "giving all the same `output` and then running `streamloss batch` with it and "
            "`resume`, but without `shard`"
        )
    partial, origin = load_sum(path)
    if origin is None:
        raise InvalidInputError(
            f"{path} is the state of an Accumulator, which does not tell what volume it is of: "
            "load it with Accumulator.load and merge it there"
        )
    if origin.done < origin.blocks:
        raise InvalidInputError(
            f"{path} is of a run that was not finished: {origin.done:,} of {origin.blocks:,} "
            "blocks are in it"
        )
    return partial, origin


def _refuse_missing(parts: Mapping[int, tuple[str, Origin]]) -> None:
    count = next(iter(parts.values()))[1].shard.total
    missing = count - len(parts)
    if missing:
        # There may be more than fit in memory.
        first = islice((number for number in range(count) if number not in parts), 10)
        listed = ", ".join(f"{number}/{count}" for number in first) + " …" * (missing > 10)
        raise InvalidInputError(
            f"{missing:,} of {count:,} shards missing: {listed}; every one is merged once"
        )


def _result(total: Partial, origin: Origin, started: float) -> Result:
    if total.asking() is not None:
        raise InvalidInputError(
            "exact=True needs to see the scores again, which states do not hold: leave it out of "
            "the runs that saved them and take the error bound"
        )
    truth = origin.inputs["truth"]
    shape = tuple(truth["shape"][total.task.truth_has_channels :])
    raise_faults(total, shape, {role: facts["name"] for role, facts in origin.inputs.items()})
    return build_result(
        total,
        inputs=origin.inputs,
        options=origin.options,
        integrity=origin.integrity,
        timing={"seconds": time.perf_counter() - started, "shards": origin.shard.total},
    )
