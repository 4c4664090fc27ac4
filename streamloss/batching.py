"""Scores many cases under one memory budget, saves a result for each, and resumes.

How a case is found, run, saved, summed up and exported is told by `cases`, `lanes`,
`batch_folder`, `study` and `exports`; here is what ties them together.
"""

import os
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from streamloss import exports
from streamloss.batch_folder import BatchFolder, Failure, plain_options
from streamloss.cases import Case, choose_shard, refuse_duplicates
from streamloss.class_table import parse_classes
from streamloss.errors import InvalidInputError
from streamloss.executors import available_workers
from streamloss.lanes import Helpers, Outcome, Waiting, Work, reason_of, run_case, run_lanes
from streamloss.locations import refuse_to_overwrite
from streamloss.options import KEYWORDS, check_keywords, check_kind, parse_metrics
from streamloss.prepare import FIXED_BYTES, parse_bytes
from streamloss.registry import parameters
from streamloss.study import Study, Summary, saved_cases

EXECUTORS = ("auto", "threads", "processes", "serial")
FORMATS = ("csv", "json", "parquet", "nnunet")
# A case that is more than this part of a lane's work is scored alone, by all workers:
# on one core it would outlast the others.
_LARGE_PART = 4
# Less memory than this beside the fixed part makes blocks too small to be fast.
_LEAST_SHARE = 32 * 2**20
# Opening and planning a small case takes some 10 ms of Python, which threads do not
# share; starting a process takes a second.
_PROCESSES_FROM = 256
# Numbers of results that are kept for the tables, some 10 MB; those of other cases are read again.
_KEPT_NUMBERS = 2**16
# Masks and weights belong to a case, the others to the batch.
_OWN = ("mask", "weights", "max_memory", "workers", "executor", "progress")
_SCORE_OPTIONS = tuple(name for name in KEYWORDS if name not in _OWN)


@dataclass(frozen=True)
class Batch:
    """What `batch` returns.

    Attributes
    ----------
    study
        The saved cases that were asked for, those of earlier runs and of other
        shards too.
    failures
        The cases of this run that could not be scored.
    skipped
        How many cases had been finished before.
    summary
        Statistics of each metric over the cases of each model.
    """

    study: Study
    failures: tuple[Failure, ...]
    skipped: int
    summary: tuple[Summary, ...]


def batch(
    cases: Iterable[Case],
    *,
    output: str | os.PathLike[str],
    workers: int | None = None,
    max_memory: str | int = "1GiB",
    executor: str = "threads",
    resume: bool = False,
    shard: str | None = None,
    formats: Sequence[str] = ("csv", "json"),
    by_group: bool = False,
    seed: int = 0,
    progress: Callable[[float, int], None] | None = None,
    **options: Any,
) -> Batch:
    """Score many cases, in parallel over cases and within large ones.

    Each result is saved as `output/cases/MODEL/CASE.json` as soon as it is
    there. A case that fails is recorded in `output/failures.json` and the
    others go on.

    Parameters
    ----------
    cases
        What to score: see `find_cases` and `read_manifest`.
    output
        Folder for the results, made if it is not there.
    workers
        Cores to use; by default all.
    max_memory
        Bound on the memory of the whole batch beyond importing, however many
        cases are scored at once: each gets a share, and one that needs more is
        scored alone.
    executor
        What runs cases side by side: "threads"; "processes", which are faster
        for hundreds of small cases but need the caller's script to be
        importable; "auto" for either by their number; or "serial".
    resume
        Skip the cases that were finished before with the same inputs and
        options.
    shard
        "i/N" scores only every N-th case from the i-th, counted from 0.
    formats
        What is written beside the results: "csv" and "parquet" (tidy, a row for
        each case, metric and class), "json", and "nnunet" (nnU-Net's
        summary.json; adds the metrics it needs).
    by_group
        Whether each group of cases is summed up on its own.
    seed
        Of the bootstrap intervals.
    progress
        Called with (cases done, all cases) as the work goes on.
    **options
        As in `score`, the same for every case; a mask belongs to a case.

    Returns
    -------
    Batch
        Saved cases, failures and summary.

    Raises
    ------
    InvalidInputError
        If cases or options cannot be used, or `output` holds other results.

    Examples
    --------
    >>> import numpy as np, streamloss as sl, zarr
    >>> for name in ("a", "b"):
    ...     for folder in ("truth", "unet"):
    ...         _ = zarr.save_array(f"{folder}/{name}.zarr", np.eye(4) > 0)
    >>> cases, unmatched = sl.find_cases("truth", "unet")
    >>> done = sl.batch(cases, output="scores", metrics="dice")
    >>> [(row.model, row.metric, row.n, row.mean) for row in done.summary]
    [('unet', 'dice', 2, 1.0)]
    """
    cases = list(cases)
    refuse_duplicates(cases)
    mine = choose_shard(cases, shard)
    count = _workers(workers)
    limit = parse_bytes(max_memory)
    if executor not in EXECUTORS:
        raise InvalidInputError(f"unknown executor {executor!r}: expected {', '.join(EXECUTORS)}")
    options = _settled(options, formats)
    folder = BatchFolder(Path(output), plain_options(options))
    volumes = (path for case in cases for path in (case.truth, case.prediction, case.mask))
    refuse_to_overwrite("output", output, volumes)
    finished = folder.finished(cases)
    if not resume and (present := [case for case in mine if case in finished]):
        raise InvalidInputError(
            f"{folder.path(present[0])} is there already: pass `resume` to keep finished cases, "
            "or name another output folder"
        )
    with Helpers() as helpers:
        many = sum(case not in finished for case in mine) >= _PROCESSES_FROM
        processes = executor == "processes" or (executor == "auto" and many)
        if processes and many:
            # They import while the fingerprints are taken.
            helpers.start(_shares(count, limit, processes)[0] - 1)
        prints, failures = {}, []
        for case in mine:
            try:
                prints[case] = folder.fingerprints_of(case)
            except Exception as error:
                # The other cases must go on whatever the files of one are.
                reason = reason_of(error)
                if case in finished:
                    folder.refuse_to_keep(case, f"its inputs cannot be read ({reason})")
                failures.append(Failure(case.name, case.model, reason))
        for case in mine:
            if case in finished:
                folder.keep(case, finished[case], prints[case])
        waiting = [Waiting(*item) for item in prints.items() if item[0] not in finished]
        folder.make()

        skipped = len(prints) - len(waiting)
        saved, kept = {}, 0
        done = len(mine) - len(waiting)
        tell = progress or (lambda done, total: None)
        tell(done, len(mine))

        def within_case(part: int, whole: int) -> None:
            # It is done when it is saved.
            if part < whole:
                tell(done + part / whole, len(mine))

        lanes = (count, limit, executor, helpers if processes else None)
        # Closed on an interrupt too, so that what is under way stops at once.
        with closing(_score_all(waiting, Work(folder, options), *lanes, within_case)) as scored:
            for outcome in scored:
                case, row = outcome.case, outcome.saved
                if row is None:
                    failures.append(Failure(case.name, case.model, outcome.reason))
                else:
                    kept += sum(1 + len(metric.per_class) for metric in row.metrics.values())
                    # To read all again in the end took a twelfth of the time of 2048 small cases.
                    saved[row.path] = row if kept <= _KEPT_NUMBERS else row.brief()
                done += 1
                tell(done, len(mine))
    failures.sort(key=lambda failure: (failure.model, failure.case))
    folder.write_failures(shard, failures)
    study = Study(saved_cases(folder.root, saved))
    summary = tuple(study.summary(by_group=by_group, seed=seed))
    folder.write_tables(study, summary, failures, formats)
    return Batch(study, tuple(failures), skipped, summary)


def _workers(workers: int | None) -> int:
    if workers is None:
        return available_workers()
    if isinstance(workers, bool) or not isinstance(workers, int) or workers < 1:
        raise InvalidInputError(f"workers must be a number of at least 1, got {workers!r}")
    return workers


def _settled(options: Mapping[str, Any], formats: Sequence[str]) -> dict[str, Any]:
    """Refuse options that no case can have, and add the metrics that formats need."""
    for name in formats:
        if name not in FORMATS:
            raise InvalidInputError(f"unknown format {name!r}: expected {', '.join(FORMATS)}")
    if "parquet" in formats:
        exports.require_pyarrow()
    if "mask" in options:
        raise InvalidInputError("a mask belongs to one case: name it in the manifest")
    if "weights" in options:
        raise InvalidInputError("weights belong to one case: score it with `score`")
    check_keywords(name for name in options if name not in _SCORE_OPTIONS)
    # What can be gone through once is needed for every case.
    settled = {
        name: list(value) if isinstance(value, Iterator) else value
        for name, value in options.items()
    }
    if settled.get("classes") is not None:
        parse_classes(settled["classes"])
    if options.get("kind") is not None:
        check_kind(options["kind"])
    metrics = list(parse_metrics(settled.get("metrics")))
    if "nnunet" in formats:
        exports.require_labels(options)
        wanted = metrics or ["dice", "iou"]
        metrics = list(dict.fromkeys([*wanted, *exports.NNUNET_COUNTS.values()]))
    if metrics:
        settled["metrics"] = metrics
    for name, parameter in parameters().items():
        if name in options:
            try:
                parameter.convert(options[name])
            except ValueError as error:
                raise InvalidInputError(f"{name}: {error}, got {options[name]!r}") from None
    return settled


def _score_all(
    waiting: Sequence[Waiting],
    work: Work,
    workers: int,
    limit: int,
    executor: str,
    helpers: Helpers | None,
    within_case: Callable[[int, int], None],
) -> Generator[Outcome, None, None]:
    """Score small cases side by side, then large ones, each by all workers."""
    largest = sum(item.nbytes for item in waiting) / (_LARGE_PART * workers)
    by_size = sorted(waiting, key=lambda item: -item.nbytes)
    alone = [item for item in by_size if item.nbytes > largest]
    together = [item for item in by_size if item.nbytes <= largest]
    if workers == 1 or executor == "serial":
        alone, together = by_size, []
    if together:
        lanes, share = _shares(min(workers, len(together)), limit, helpers is not None)
        settings = _settings(max(workers // lanes, 1), share, executor)
        small = work._replace(options={**work.options, **settings})
        inputs = dict(together)
        with closing(run_lanes(together, small, lanes, helpers)) as outcomes:
            for outcome in outcomes:
                if outcome.lacks_memory and share < limit:
                    alone.append(Waiting(outcome.case, inputs[outcome.case]))
                else:
                    yield outcome
    settings = _settings(workers, limit, executor)
    large = work._replace(options={**work.options, **settings})
    for item in alone:
        yield run_case(large, item, within_case)


def _settings(workers: int, limit: int, executor: str) -> dict[str, Any]:
    """Return how a case is scored by so many workers.

    One alone needs no other thread to hand its work to: 128 cases of 256³ in two lanes took
    2.60 s instead of 2.85 s.
    """
    inner = "serial" if executor == "serial" or workers == 1 else "threads"
    return {"workers": workers, "max_memory": limit, "executor": inner}


def _shares(lanes: int, limit: int, processes: bool) -> tuple[int, int]:
    """Return how many cases may run at once and the memory of each, together within the limit.

    What kernels take whatever the volume is taken once by threads, and by each process.
    """
    shared = 0 if processes else FIXED_BYTES
    each = FIXED_BYTES - shared + _LEAST_SHARE
    lanes = max(min(lanes, (limit - shared) // each), 1)
    return lanes, limit if lanes == 1 else shared + (limit - shared) // lanes
