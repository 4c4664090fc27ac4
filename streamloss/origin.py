"""Where a sum comes from: what must be the same for two sums to be parts of one run.

A sum alone does not tell which voxels it is of. Here are the facts that do, in a form that
state files hold, and the search for the first one that differs.
"""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from importlib.metadata import version
from typing import Any, NamedTuple

from streamloss import fingerprints
from streamloss.prepare import Run
from streamloss.scan import Job
from streamloss.shards import WHOLE, Shard
from streamloss.task import Task


@dataclass(frozen=True)
class Origin:
    """What a sum is of, as plain data.

    Attributes
    ----------
    inputs, options, integrity
        What a result tells of the arrays, of the options beside the task, and of what is stored.
    sources
        Fingerprint of each array.
    plan
        Extent of the blocks and a digest of the numbers of those to read.
    shard
        Which part of the blocks the sum is of.
    blocks, done
        How many blocks the shard has, and how many of the first of them are in the sum.
    look
        0 for the first pass over the data, then that of answers to questions.
    version
        Version of streamloss that read the voxels.
    """

    inputs: Mapping[str, Any]
    options: Mapping[str, Any]
    integrity: Mapping[str, Any]
    sources: Mapping[str, Mapping[str, Any]]
    plan: Mapping[str, Any]
    shard: Shard
    blocks: int
    done: int
    look: int
    version: str


class Difference(NamedTuple):
    """Something that is not the same in two runs, and what it is in each."""

    what: str
    one: str
    other: str


def origin_of(run: Run, options: Mapping[str, Any], *, recognizable: bool) -> Origin:
    """Return the origin of the sum over a whole run of which no block has been read yet.

    Parameters
    ----------
    run
        What is to be read.
    options
        What a result tells of the run beside its task and its region.
    recognizable
        Whether the arrays must be told from others later, which takes time.
    """
    job = run.job
    arrays = job.arrays if recognizable else {}
    region = ",".join(f"{part.start}:{part.stop}" for part in job.plan.region)
    return Origin(
        inputs=_inputs(job),
        options={"region": region, **options},
        integrity=_integrity(job),
        sources={role: fingerprints.of_volume(v) for role, v in arrays.items()},
        plan=_plan(run),
        shard=WHOLE,
        blocks=len(run.blocks),
        done=0,
        look=0,
        version=_version(),
    )


def origin_from(plain: Mapping[str, Any]) -> Origin:
    """Return the origin that a state file holds as plain data.

    Raises
    ------
    AttributeError
        If a number or a list is where facts should be.
    KeyError, TypeError, ValueError
        If something is missing that two sums are compared by.
    """
    settled = dict(plain.items())
    origin = Origin(**{**settled, "shard": Shard(*settled["shard"])})
    held: list[tuple[Mapping[str, Any], Iterable[str]]] = [
        (origin.inputs, ["truth"]),
        (origin.options, []),
        (origin.integrity, origin.inputs),
        (origin.sources, origin.inputs),
        (origin.plan, _PLAN),
        *((facts, _FACTS) for facts in origin.inputs.values()),
        *((source, ("files", "bytes", "digest")) for source in origin.sources.values()),
    ]
    for facts, names in held:
        lacking = sorted(set(names) - facts.keys())
        if lacking:
            raise ValueError(f"it does not tell {lacking[0]}")
    counts = (origin.done, origin.blocks, origin.look, *origin.shard)
    if not all(isinstance(count, int) for count in counts):
        raise TypeError(f"it has the counts {counts}")
    if not 0 <= origin.shard.number < origin.shard.total:
        raise ValueError(f"it is of the shard {origin.shard}")
    return origin


def of_shard(run: Run, origin: Origin, shard: Shard) -> tuple[Run, Origin]:
    """Return one of the runs of blocks that a whole run is cut into, and its origin."""
    # As numpy.array_split cuts, which would make all parts. Saved states depend on these cuts.
    size, longer = divmod(len(run.blocks), shard.total)
    start = shard.number * size + min(shard.number, longer)
    blocks = run.blocks[start : start + size + (shard.number < longer)]
    voxel, copies = run.unstored
    # What is not stored is summed up without reading, by the first.
    part = replace(run, blocks=blocks, unstored=(voxel, 0 if shard.number else copies))
    return part, replace(origin, shard=shard, blocks=len(blocks))


def of_look(run: Run, origin: Origin, look: int) -> Origin:
    """Return the origin of the answers that another pass over the data of an origin gives."""
    return replace(origin, plan=_plan(run), blocks=len(run.blocks), look=look, done=0)


def difference(one: Origin, task: Task, other: Origin, its_task: Task) -> Difference | None:
    """Return the first thing that keeps two sums from being of one run, or None."""
    for role in (*one.inputs, *(role for role in other.inputs if role not in one.inputs)):
        if role not in one.inputs or role not in other.inputs:
            names = (origin.inputs.get(role, {}).get("name", "none") for origin in (one, other))
            return Difference(role, *names)
        mine, its = dict(one.inputs[role]), dict(other.inputs[role])
        if one.sources[role]["digest"] is not None and other.sources[role]["digest"] is not None:
            # One volume may have another path on another machine.
            mine.pop("name")
            its.pop("name")
        for fact, value in mine.items():
            if value != its.get(fact):
                return Difference(f"the {fact} of the {role}", str(value), str(its.get(fact)))
        if one.integrity[role] != other.integrity[role]:
            counts = (str(origin.integrity[role]) for origin in (one, other))
            return Difference(f"what is stored of the {role}", *counts)
        states = (_file_state(origin.sources[role]) for origin in (one, other))
        found = Difference(f"the stored {role} {one.inputs[role]['name']}", *states)
        if found.one != found.other:
            return found
    settings, its_settings = _settings(task, one), _settings(its_task, other)
    for name in (*settings, *(name for name in its_settings if name not in settings)):
        values = [_shown(plain.get(name)) for plain in (settings, its_settings)]
        if values[0] != values[1]:
            return Difference(f"`{name}`", *values)
    for name, told in _PLAN.items():
        if one.plan[name] != other.plan[name]:
            return Difference(told, str(one.plan[name]), str(other.plan[name]))
    if one.shard.total != other.shard.total:
        return Difference("the number of shards", str(one.shard.total), str(other.shard.total))
    if one.version != other.version:
        return Difference("the version of streamloss", one.version, other.version)
    return None


_FACTS = ("name", "shape", "dtype", "chunks", "spacing", "unit", "axes")
_PLAN = {
    "block": "the extent of a block, which `max_memory` and `reader` may change,",
    "blocks": "the choice of blocks to read",
}


def _settings(task: Task, origin: Origin) -> dict[str, Any]:
    """Return the options that decide a result, by the names a user knows."""
    table = task.classes
    return {
        "kind": task.kind,
        "metrics": task.metrics,
        # Labels that are found as the scan goes on are no option.
        "classes": None if table.discovered else dict(zip(table.names, table.values, strict=True)),
        "background": table.background,
        "include_background": table.include_background,
        "other_labels": table.others,
        "regions": {structure.name: structure.labels for structure in task.structures},
        "ignore_label": task.ignore_label,
        "threshold": task.threshold,
        "spacing": task.spacing,
        "convention": task.convention,
        **task.parameters,
        **origin.options,
    }


def _shown(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _file_state(source: Mapping[str, Any]) -> str:
    if source["digest"] is None:
        return "unknown"
    return f"{source['files']} files of {source['bytes']:,} bytes ({source['digest'][:8]})"


def _plan(run: Run) -> dict[str, Any]:
    return {
        "block": list(run.job.plan.block_shape),
        "blocks": hashlib.sha256(run.blocks.astype("<i8").tobytes()).hexdigest()[:16],
    }


def _inputs(job: Job) -> dict[str, Any]:
    return {
        role: {
            "name": volume.name,
            "shape": list(volume.shape),
            "dtype": volume.dtype.name,
            "chunks": list(volume.chunks),
            "spacing": None if volume.spacing is None else list(volume.spacing),
            "unit": volume.unit,
            "axes": None if volume.axes is None else list(volume.axes),
        }
        for role, volume in job.arrays.items()
    }


def _integrity(job: Job) -> dict[str, Any]:
    return {
        role: None
        if chunks is None
        else {"chunks": chunks.total, "stored": chunks.stored, "missing": chunks.missing}
        for role, chunks in ((r, v.stored_chunks) for r, v in job.arrays.items())
    }


@cache
def _version() -> str:
    return version("streamloss")
