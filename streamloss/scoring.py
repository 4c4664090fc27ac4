"""The main job: prepare, map, merge, score."""

import functools
import math
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import asdict, replace
from importlib.metadata import version
from typing import Any

import numpy as np

from streamloss.errors import InvalidInputError
from streamloss.executors import open_executor
from streamloss.partial import Partial
from streamloss.prepare import Run, another_pass, prepare
from streamloss.result import MetricResult, Result, class_key
from streamloss.scan import Job, scan
from streamloss.slab import NEGATIVE, NO_CLASS, OUTSIDE_UNIT, Fault
from streamloss.statistic import Metric, Score, definitions, needed, read
from streamloss.structures import join_scores
from streamloss.task import Task
from streamloss.volume import Region

# Runs of blocks per worker: enough that the last ones end together.
RUNS_PER_WORKER = 8


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
    max_memory: str | int = "1GiB",
    workers: int | None = None,
    executor: str | Executor = "threads",
    progress: Callable[[int, int], None] | None = None,
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
        What labels that `classes` does not name are: "error" refuses them, "background"
        counts them as background, to score some of many labels.
    background
        Label value of the background, None if there is none.
    include_background
        Whether means over classes include the background.
    ignore_label
        Voxels with this true label are not scored.
    mask
        Array like the truth; only voxels where it is not zero are scored.
    weights
        Array like the truth of whole numbers from 0 to 65,535: a voxel of weight 3 counts
        as three voxels, for every metric.
    regions
        Names and label values of regions to score instead of classes, which may overlap,
        such as {"whole": [1, 2, 4], "core": [1, 4]} or "whole=1+2+4,core=1+4". Scores have
        a channel for each region then.
    multilabel
        Whether truth and prediction hold, channel-first, a channel for each of several
        labels that may overlap; `classes` may name them.
    threshold
        A binary probability at or above it is a positive.
    spacing
        Voxel size along each axis, overriding what the inputs say.
    convention
        Package whose definitions to follow where they differ, such as "monai", "sklearn",
        "keras" or "torchmetrics"; `streamloss metrics NAME` tells what that changes.
    region
        Sub-box to score: one slice or (start, stop) per axis, or "0:64,:,8:24".
    level
        Resolution level of an OME-Zarr image.
    reader
        "auto", or what reads the chunks: "direct" (files of Zarr without zarr-python,
        the fastest), "zarr" (zarr-python).
    missing
        What a chunk that is not stored means: "fill" reads it as the fill
        value, "error" refuses the array.
    max_memory
        Bound on the memory taken beyond importing, in bytes or as "512MiB".
    workers
        Blocks scored at once; by default one per core.
    executor
        "threads", "processes", "serial" or a `concurrent.futures.Executor`.
    progress
        Called with (voxels done, voxels in total) as blocks finish.
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
        max_memory=max_memory,
        workers=workers,
        **parameters,
    )
    total = execute(run, executor, progress)
    if total.faulty() is None:
        while (task := total.asking()) is not None:
            total = total.learned(execute(another_pass(run, task), executor, progress))
    job = run.job
    shape = job.truth.shape[-len(job.plan.region) :]
    raise_faults(total, shape, {role: volume.name for role, volume in job.arrays.items()})
    seconds = time.perf_counter() - started
    voxels = total.scored + total.ignored
    return build_result(
        total,
        inputs=_inputs(job),
        options={"region": _region_text(job.plan.region), "level": level, "missing": missing},
        integrity=_integrity(job),
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


def execute(
    run: Run, executor: str | Executor, progress: Callable[[int, int], None] | None
) -> Partial:
    """Scan all blocks of a run and return the sum."""
    total = math.prod(part.stop - part.start for part in run.job.plan.region)
    done = 0
    one_at_a_time = threading.Lock()

    def advance(voxels: int) -> None:
        nonlocal done
        with one_at_a_time:
            done += voxels
            if progress is not None:
                progress(done, total)

    shares_memory = executor in ("threads", "serial")
    function = (
        functools.partial(scan, run.job, progress=advance)
        if shares_memory
        else functools.partial(scan, run.job)
    )
    count = min(max(len(run.blocks), 1), RUNS_PER_WORKER * run.workers)
    runs = np.array_split(run.blocks, count)
    voxel, copies = run.unstored
    result = voxel.times(copies)
    advance(copies)
    with open_executor(executor, run.workers) as ordered_map:
        for part in ordered_map(function, runs):
            result = result.merge(part)
            if not shares_memory:
                advance(part.scored + part.ignored)
    return result.settled(run.job.prediction.dtype)


def raise_faults(total: Partial, shape: tuple[int, ...], names: Mapping[str, str]) -> None:
    """Raise for the first kind of fault in a sum, if there is one.

    Parameters
    ----------
    total
        The sum.
    shape
        Shape of the volume, without channels.
    names
        What to call truth, prediction and weights.

    Raises
    ------
    InvalidInputError
        Tells what is wrong, how often, and where first.
    """
    found = total.faulty()
    if found is None:
        return
    structure, part = found
    fault = part.faults[min(part.faults)]
    where = tuple(int(i) for i in np.unravel_index(fault.first, shape))
    name = names.get(fault.role, "") + (f", {structure}," if structure else "")
    raise InvalidInputError(_fault_text(fault, name, where, part.task))


def _fault_text(fault: Fault, name: str, where: tuple[int, ...], task: Task) -> str:
    """Return the sentence that tells of a fault."""
    labels = fault.reason in (NEGATIVE, NO_CLASS)
    advice = f" {_short_list(task.classes.values)}" if fault.reason == NO_CLASS else ""
    if fault.reason == OUTSIDE_UNIT:
        advice = _other_kinds(task)
    value = int(fault.value) if labels else fault.value
    what = "label" if labels else "value"
    return (
        f"{fault.role} {name} has {fault.voxels:,} {what}{'s' * (fault.voxels != 1)} "
        f"{fault.reason}{advice}: the first is {value} at {where}"
    )


def _other_kinds(task: Task) -> str:
    """Tell which kinds the numbers may be of instead, that give all the metrics asked for."""
    kinds = [
        {kind for _, metric in definitions(name) for kind in metric.kinds} for name in task.metrics
    ]
    hints = [
        f'kind="{kind}" if these are {what}'
        for kind, what in (("logits", "raw scores"), ("values", "plain numbers"))
        if all(kind in possible for possible in kinds)
    ]
    return f" (pass {' or '.join(hints)})" if hints else ' (raw scores are kind="logits")'


def _short_list(values: Sequence[int]) -> str:
    if len(values) <= 12:
        return str(list(values))
    return f"[{', '.join(map(str, values[:10]))}, … {values[-1]}]"


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
        classes=_class_rows(total),
        metrics=metrics,
        integrity=integrity,
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
        sizes = [_class_voxels(part, 1)[0] for part in parts]
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
        counts = [_class_voxels(total, code) for code in range(len(task.classes))]
    else:
        names = tuple(structure.name for structure in task.structures)
        counts = [_class_voxels(total.parts[name], 1) for name in names]
    return tuple(
        {"value": key, "name": name, "truth_voxels": truth, "prediction_voxels": prediction}
        for key, name, (truth, prediction) in zip(class_keys(task), names, counts, strict=True)
    )


def _class_voxels(total: Partial, code: int) -> tuple[int | None, int | None]:
    """Return the voxels of a class in truth and prediction, if they are counted."""
    counted = next((s for s in needed(total.task) if s.class_voxels is not None), None)
    if counted is None or counted.class_voxels is None or not total.task.hard_truth:
        return None, None
    truth, prediction = counted.class_voxels(total.states[counted.name])
    return int(truth[code]), int(prediction[code])


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


def _region_text(region: Region) -> str:
    return ",".join(f"{part.start}:{part.stop}" for part in region)
