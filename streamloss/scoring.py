"""The main job: prepare, map, merge, score."""

import functools
import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from streamloss.averages import Presence
from streamloss.checkpoint import open_checkpoint
from streamloss.cluster import client_in_use, is_client, refuse_voxels, threads
from streamloss.errors import InvalidInputError
from streamloss.execution import execute
from streamloss.executors import check_executor
from streamloss.faults import raise_faults
from streamloss.files import why_not_written
from streamloss.locations import refuse_to_overwrite
from streamloss.origin import of_shard, origin_of
from streamloss.partial import Partial
from streamloss.prepare import prepare
from streamloss.registry import definitions, needed, read
from streamloss.result import MetricResult, Result, class_key
from streamloss.shards import WHOLE, parse_shard
from streamloss.state import save_sum
from streamloss.statistic import Metric, Score
from streamloss.structures import join_scores
from streamloss.task import Task


def score(
    truth: Any,
    prediction: Any,
    *,
    metrics: str | Iterable[str] | None = None,
    kind: str | None = None,
    classes: Any = None,
    other_labels: str = "error",
    background: int | None = 0,
    include_background: bool = False,
    ignore_label: int | None = None,
    mask: Any = None,
    weights: Any = None,
    regions: Any = None,
    multilabel: bool = False,
    threshold: float = 0.5,
    spacing: Sequence[float] | None = None,
    convention: str | None = None,
    region: Any = None,
    level: int = 0,
    reader: str = "auto",
    missing: str = "fill",
    affine: str = "check",
    max_memory: str | int = "1GiB",
    workers: int | None = None,
    executor: Any = "threads",
    progress: Callable[[int, int], None] | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    shard: str | None = None,
    save_state: str | os.PathLike[str] | None = None,
    **parameters: Any,
) -> Result:
    r"""Score a prediction against a truth, in one pass and bounded memory.

    Parameters
    ----------
    truth, prediction
        Path or URL of a Zarr array or OME-Zarr image, `zarr.Array`, NumPy array
        or memmap, dask or xarray array, or anything with shape, dtype and
        slicing. Multi-class probabilities and logits have a channel per class
        first, (C, \*shape of the truth).
    metrics
        Names, as a list or separated by commas; by default a choice that suits
        the kind.
    kind
        What the prediction holds: "labels", "probabilities", "logits" or
        "values". By default labels if it is integer, probabilities if it is
        floating point. Unsigned integers with kind="probabilities" are divided
        by the maximum of their type.
    classes
        Number of classes, list of label values, list of names (of the values
        0, 1, 2 …) or mapping of names to values. By default the labels found,
        or one class per channel.
    other_labels
        What labels that `classes` does not name are: "error" refuses them,
        "background" counts them as background, to score some of many labels.
    background
        Label value of the background, None if there is none.
    include_background
        Whether means over classes include the background.
    ignore_label
        Voxels with this true label are not scored.
    mask
        Array like the truth; only voxels where it is not zero are scored.
    weights
        Array like the truth of whole numbers from 0 to 65,535: a voxel of
        weight 3 counts as three voxels, for every metric.
    regions
        Names and label values of regions to score instead of classes, which may
        overlap, such as {"whole": [1, 2, 4], "core": [1, 4]} or
        "whole=1+2+4,core=1+4". Scores have a channel for each region then.
    multilabel
        Whether truth and prediction hold, channel-first, a channel for each of
        several labels that may overlap; `classes` may name them.
    threshold
        A binary probability at or above it is a positive.
    spacing
        Voxel size along each axis, overriding what the inputs say.
    convention
        Package whose definitions to follow where they differ, such as "monai",
        "sklearn", "keras" or "torchmetrics"; `streamloss metrics NAME` tells
        what that changes.
    region
        Sub-box to score: one slice or (start, stop) per axis, or "0:64,:,8:24".
    level
        Resolution level of an OME-Zarr image.
    reader
        "auto", or what reads the chunks: "direct" (files of Zarr without
        zarr-python, the fastest), "zarr" (zarr-python), or "tensorstore".
    missing
        What a chunk that is not stored means: "fill" reads it as the fill
        value, "error" refuses the array.
    affine
        What it means if the files' affines place truth and prediction on
        different grids, flipped, shifted or turned: "check" refuses them,
        "ignore" does not look.
    max_memory
        Bound on the memory taken beyond importing, in bytes or as "512MiB".
    workers
        Blocks scored at once; by default one per core.
    executor
        "threads", "processes" or "serial"; any `concurrent.futures.Executor`
        that does not fork, of which `workers` tells how many blocks it takes at
        once; a
        `distributed.Client`, or "dask" for the one in use or else a cluster of
        processes on this machine. With a client `max_memory` bounds each worker
        process.
    progress
        Called with (voxels done, voxels in total) as blocks finish.
    checkpoint
        Folder in which what has been added up is saved every few seconds. A run
        that is killed goes on from there when it is started again, with the
        same inputs and options.
    shard
        "i/N" scores only the i-th of N runs of blocks, counted from 0, for jobs
        that each do a part of one volume; the result is of that part. Save its
        state, and `merge` them.
    save_state
        File for the state, of which `merge` makes the result, together with
        those of other shards.
    **parameters
        Options of the metrics, such as `eps`, `alpha`, `gamma`, `reduction`.

    Returns
    -------
    Result
        Values, per-class values, error bounds and definitions.

    Raises
    ------
    InvalidInputError
        If inputs or options cannot be scored.
    ReadError
        If a chunk cannot be read.

    Examples
    --------
    >>> import numpy as np, streamloss as sl
    >>> truth = np.array([[0, 1, 1], [0, 2, 2]], np.uint8)
    >>> prediction = np.array([[0, 1, 0], [0, 2, 2]], np.uint8)
    >>> sl.score(truth, prediction, metrics="dice")["dice"].per_class
    {1: 0.6666666666666666, 2: 1.0}
    """
    started = time.perf_counter()
    part = WHOLE if shard is None else parse_shard(shard)
    check_executor(executor)
    if executor == "dask":
        executor = client_in_use()
    if is_client(executor) and workers is None:
        workers = max(threads(executor))
    inputs = (truth, prediction, mask, weights)
    target = None if save_state is None else _writable(Path(save_state), inputs)
    if checkpoint is not None:
        refuse_to_overwrite("checkpoint", checkpoint, inputs)
    run = prepare(
        truth,
        prediction,
        metrics=metrics,
        kind=kind,
        classes=classes,
        other_labels=other_labels,
        background=background,
        include_background=include_background,
        ignore_label=ignore_label,
        mask=mask,
        weights=weights,
        regions=regions,
        multilabel=multilabel,
        threshold=threshold,
        spacing=spacing,
        convention=convention,
        region=region,
        level=level,
        reader=reader,
        missing=missing,
        affine=affine,
        max_memory=max_memory,
        workers=workers,
        parts=part.total,
        saved=checkpoint is not None,
        **parameters,
    )
    if executor == "dask" or is_client(executor):
        refuse_voxels(run.job.arrays.values())
    kept = part != WHOLE or target is not None
    if kept:
        _refuse_further_passes(run.job.task)
    with nullcontext() if checkpoint is None else open_checkpoint(checkpoint) as saves:
        if saves is not None:
            run = saves.fitted(run)
        options = {"level": level, "missing": missing}
        origin = origin_of(run, options, recognizable=kept or saves is not None)
        run, origin = of_shard(run, origin, part)
        total = execute(run, origin, executor, progress, saves)
    job = run.job
    shape = job.truth.shape[-len(job.plan.region) :]
    raise_faults(total, shape, {role: volume.name for role, volume in job.arrays.items()})
    if target is not None:
        save_sum(target, total, replace(origin, done=origin.blocks))
    seconds = time.perf_counter() - started
    voxels = total.scored + total.ignored - (0 if saves is None else saves.voxels)
    return build_result(
        total,
        inputs=origin.inputs,
        options=origin.options if part == WHOLE else {**origin.options, "shard": str(part)},
        integrity=origin.integrity,
        timing={
            "seconds": seconds,
            "voxels_per_second": voxels / seconds,
            "workers": run.workers,
            "executor": executor if isinstance(executor, str) else type(executor).__name__,
            "reader": {role: volume.reader for role, volume in job.arrays.items()},
            "block": list(job.plan.block_shape),
            "projected_bytes": run.projected_bytes,
            "max_memory": run.max_memory,
        },
    )


def _writable(path: Path, inputs: Iterable[Any]) -> Path:
    """Refuse a state file that could not or must not be written, before the work."""
    refuse_to_overwrite("save_state", path, inputs)
    # A device or a pipe would be replaced by the file.
    is_other = path.exists() and not path.is_file() and not path.is_dir()
    problem = "it is no file" if is_other else why_not_written(path)
    if problem is None:
        return path
    raise InvalidInputError(f"save_state cannot write {path}: {problem}")


def _refuse_further_passes(task: Task) -> None:
    """Refuse statistics that look at the voxels again, once the whole sum is known."""
    if task.parameters.get("exact"):
        raise InvalidInputError(
            "exact=True needs to see the scores again when the sum of all parts is known, which "
            "no saved state can: leave it out and take the error bound"
        )


def build_result(
    total: Partial,
    *,
    inputs: Mapping[str, Any],
    options: Mapping[str, Any],
    integrity: Mapping[str, Any],
    timing: Mapping[str, Any],
) -> Result:
    """Read every metric a task asks for from its states."""
    task = total.task
    keys = class_keys(task)
    metrics = {}
    for name in task.metrics:
        metric = next(m for _, m in definitions(name) if task.kind in m.kinds)
        got = _score(total, metric)
        metrics[name] = MetricResult(
            value=got.value,
            per_class={keys[code]: number for code, number in got.per_class.items()},
            unit=metric.unit if got.unit is None else got.unit,
            error_bound=got.error_bound,
            definition=metric.formula,
            counts=got.counts,
            details=got.details,
        )
    settings = asdict(task)
    table = settings.pop("classes")
    classes = _class_rows(total)
    return Result(
        inputs=inputs,
        options={
            **{
                n: settings[n]
                for n in ("kind", "threshold", "ignore_label", "parameters", "convention")
            },
            "spacing": None if task.spacing is None else list(task.spacing),
            "background": table["background"],
            "other_labels": table["others"],
            "include_background": table["include_background"],
            "regions": {s.name: list(s.labels) for s in task.structures if s.labels},
            "multilabel": bool(task.structures) and not task.structures[0].labels,
            **options,
        },
        voxels={
            "total": total.scored + total.ignored,
            "scored": total.scored,
            "ignored": total.ignored,
        },
        classes=classes,
        metrics=metrics,
        integrity=integrity,
        empties=_empties(classes, task),
        timing=timing,
        versions=_versions(),
    )


@functools.cache
def _versions() -> dict[str, str]:
    return {name: version(name) for name in ("streamloss", "numba", "numpy", "zarr")}


def _score(total: Partial, metric: Metric) -> Score:
    """Read a metric from the states of a sum, or of its structures."""
    task = total.task
    if not task.structures:
        return read(metric.name, total.states, task)[1]
    names = [structure.name for structure in task.structures]
    parts = [total.parts[name] for name in names]
    scores = [_score(part, metric) for part in parts]
    if "reduction" in metric.options and task.parameters["reduction"] == "sum":
        metric = replace(metric, combine="sum")
    weights = [1.0] * len(parts)
    if task.parameters.get("class_weights") is not None:
        weights = list(task.parameters["class_weights"])
    average = task.parameters.get("average") if "average" in metric.options else None
    if average == "weighted":
        sizes = [_class_voxels(part)[1][0] for part in parts]
        weights = [w * (size or 0) for w, size in zip(weights, sizes, strict=True)]
    joined = join_scores(scores, names, weights, metric)
    if average != "micro":
        return joined
    pooled = _score(functools.reduce(Partial.merge, parts), metric)
    return replace(joined, value=pooled.value, error_bound=pooled.error_bound)


def class_keys(task: Task) -> tuple[int | str, ...]:
    """Return what results call each class or structure: its label value or its name."""
    if task.structures:
        return tuple(class_key(structure.name) for structure in task.structures)
    return task.classes.values


def _class_rows(total: Partial) -> tuple[dict[str, Any], ...]:
    task = total.task
    if not task.structures:
        names = task.classes.names
        counts = _class_voxels(total)
    else:
        names = tuple(structure.name for structure in task.structures)
        counts = [_class_voxels(total.parts[name])[1] for name in names]
    return tuple(
        {"value": key, "name": name, "truth_voxels": truth, "prediction_voxels": prediction}
        for key, name, (truth, prediction) in zip(class_keys(task), names, counts, strict=True)
    )


def _empties(rows: Sequence[Mapping[str, Any]], task: Task) -> dict[str, int]:
    """Return how many scored classes are in neither, or in only one of truth and prediction."""
    scored = range(len(rows)) if task.structures else task.classes.scored
    there = [
        Presence(rows[code]["truth_voxels"], rows[code]["prediction_voxels"]) for code in scored
    ]
    if any(each.truth is None for each in there) or task.kind == "values":
        return {}
    return {
        "empty_classes": sum(each.empty for each in there),
        "missed_classes": sum(each.missed for each in there),
        "spurious_classes": sum(each.spurious for each in there),
    }


def _class_voxels(total: Partial) -> list[tuple[int, int] | tuple[None, None]]:
    """Return the voxels of each class in truth and prediction, None where they are not counted."""
    counted = next((s for s in needed(total.task) if s.class_voxels is not None), None)
    if counted is None or counted.class_voxels is None or not total.task.hard_truth:
        return [(None, None)] * len(total.task.classes)
    truth, prediction = counted.class_voxels(total.states[counted.name])
    return list(zip(truth.tolist(), prediction.tolist(), strict=True))
