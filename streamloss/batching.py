"""Scores many cases under one memory budget, saves a result for each, and resumes.

How a case is found, run, summed up and exported is told by `cases`, `lanes`, `study` and
`exports`; here is what ties them together.
"""

import json
import os
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from streamloss import exports, fingerprints, result
from streamloss.cases import Case, choose_shard, refuse_duplicates
from streamloss.errors import InvalidInputError, StreamlossError
from streamloss.executors import available_workers
from streamloss.lanes import Helpers, Outcome, run_case, run_lanes
from streamloss.locations import is_url
from streamloss.options import KEYWORDS, check_keywords, parse_metrics
from streamloss.prepare import FIXED_BYTES, parse_bytes
from streamloss.registry import parameters
from streamloss.stores import open_volume
from streamloss.study import CASES, SavedCase, Study, Summary, result_paths, saved_cases

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
# The same bits whichever reads, so that a change of it is none.
_NO_DIFFERENCE = ("reader",)


@dataclass(frozen=True)
class Failure:
    """A case that has no result, and why."""

    case: str
    model: str
    reason: str


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
    output = Path(output)
    _refuse_other_results(output, cases)
    with Helpers() as helpers:
        many = sum(not _path(output, case).exists() for case in mine) >= _PROCESSES_FROM
        processes = executor == "processes" or (executor == "auto" and many)
        if processes and many:
            # They import while the fingerprints are taken.
            helpers.start(_shares(count, limit, processes)[0] - 1)
        plain = _plain(options)
        prints = {case: _fingerprints(case, plain) for case in mine}
        waiting = [case for case in mine if not _finished(output, case, prints[case], resume)]
        _make_folders(output, waiting)

        failures, saved, kept = [], {}, 0
        done = len(mine) - len(waiting)
        tell = progress or (lambda done, total: None)
        tell(done, len(mine))

        def within_case(part: int, whole: int) -> None:
            # It is done when it is saved.
            if part < whole:
                tell(done + part / whole, len(mine))

        sizes = {case: _bytes(prints[case]) for case in waiting}
        lanes = (count, limit, executor, helpers if processes else None)
        # Closed on an interrupt too, so that what is under way stops at once.
        with closing(_score_all(sizes, options, *lanes, within_case)) as scored:
            for outcome in scored:
                if outcome.result is None:
                    failures.append(Failure(outcome.case.name, outcome.case.model, outcome.reason))
                else:
                    path = _path(output, outcome.case)
                    facts = _facts(outcome.case, prints[outcome.case])
                    _write_result(path, outcome.result, facts)
                    case = SavedCase.of(outcome.result, facts, path)
                    kept += sum(1 + len(metric.per_class) for metric in case.metrics.values())
                    # To read all again in the end took a twelfth of the time of 2048 small cases.
                    saved[path] = case if kept <= _KEPT_NUMBERS else case.brief()
                done += 1
                tell(done, len(mine))
    failures.sort(key=lambda failure: (failure.model, failure.case))
    _write_failures(output, shard, failures)
    study = Study(saved_cases(output, saved))
    summary = tuple(study.summary(by_group=by_group, seed=seed))
    _export(output, study, summary, failures, formats)
    return Batch(study, tuple(failures), len(mine) - len(waiting), summary)


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
    settled = dict(options)
    metrics = list(parse_metrics(options.get("metrics")))
    if "nnunet" in formats:
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


def _refuse_other_results(output: Path, cases: Sequence[Case]) -> None:
    """Refuse a folder with results that were not asked for: they would enter the means."""
    if output.exists() and not output.is_dir():
        raise InvalidInputError(f"output {output} is a file, expected a folder")
    asked = {_path(output, case) for case in cases}
    for path in result_paths(output):
        if path not in asked:
            raise InvalidInputError(
                f"{path} is the result of a case that was not asked for, and would be counted: "
                "remove it or name another output folder"
            )


def _path(output: Path, case: Case) -> Path:
    return output / CASES / case.model / f"{case.name}.json"


def _plain(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options that decide results, as JSON gives them back."""
    kept = {name: value for name, value in options.items() if name not in _NO_DIFFERENCE}
    plain: dict[str, Any] = json.loads(json.dumps(kept, sort_keys=True, default=str))
    return plain


def _fingerprints(case: Case, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return all that decides a case's result; the options are plain."""
    roles = {"truth": case.truth, "prediction": case.prediction, "mask": case.mask}
    return {
        "schema": result.SCHEMA,
        "options": options,
        **{
            role: None if path is None else _fingerprint(path, options.get("level", 0))
            for role, path in roles.items()
        },
    }


def _fingerprint(source: str, level: int) -> dict[str, Any]:
    """Return what tells whether a volume has changed; in a bucket, versions of its objects."""
    if is_url(source):
        # What cannot be opened fails when it is scored, and tells why.
        with suppress(StreamlossError):
            volume = open_volume(source, role="volume", level=level)
            return {**fingerprints.of_volume(volume), "path": source}
    return fingerprints.of_source(source)


def _finished(output: Path, case: Case, now: Mapping[str, Any], resume: bool) -> bool:
    path = _path(output, case)
    if not path.exists():
        return False
    if not resume:
        raise InvalidInputError(
            f"{path} is there already: pass `resume` to keep finished cases, "
            "or name another output folder"
        )
    try:
        saved = json.loads(path.read_text(encoding="utf-8"))["batch"]
        before = saved["fingerprint"]
        change = None if before == now else _change(before, now)
    except (ValueError, KeyError, TypeError):
        raise InvalidInputError(f"{path} is not the result of a batch") from None
    if change is not None:
        raise InvalidInputError(
            f"case {case} cannot be resumed, {change}: name another output folder, or remove {path}"
        )
    if saved["group"] != case.group:
        # A group decides no number; it is set right without scoring again.
        _write_result(path, result.Result.from_json(path.read_text("utf-8")), _facts(case, now))
    return True


def _change(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """Tell the first thing that differs."""
    if before["schema"] != now["schema"]:
        return f"its result has the schema {before['schema']}, this version writes {now['schema']}"
    for name in sorted({*before["options"], *now["options"]}):
        was, is_now = (
            json.dumps(part["options"][name]) if name in part["options"] else "not given"
            for part in (before, now)
        )
        if was != is_now:
            return f"`{name}` was {was} and is {is_now}"
    for role in ("truth", "prediction", "mask"):
        was, is_now = before[role], now[role]
        if was == is_now:
            continue
        if was is None or is_now is None or was["path"] != is_now["path"]:
            paths = ("none" if part is None else part["path"] for part in (was, is_now))
            return "its {} was {} and is {}".format(role, *paths)
        return f"the files of its {role} {is_now['path']} have changed"
    return "its fingerprint has changed"


def _bytes(prints: Mapping[str, Any]) -> int:
    return sum((prints[role] or {}).get("bytes") or 0 for role in ("truth", "prediction", "mask"))


def _make_folders(output: Path, cases: Iterable[Case]) -> None:
    for folder in {_path(output, case).parent for case in cases} | {output / CASES}:
        folder.mkdir(parents=True, exist_ok=True)


def _score_all(
    sizes: Mapping[Case, int],
    options: Mapping[str, Any],
    workers: int,
    limit: int,
    executor: str,
    helpers: Helpers | None,
    within_case: Callable[[int, int], None],
) -> Generator[Outcome, None, None]:
    """Score small cases side by side, then large ones, each by all workers."""
    largest = sum(sizes.values()) / (_LARGE_PART * workers)
    by_size = sorted(sizes, key=lambda case: -sizes[case])
    # Sizes of what is not on a file system are unknown; such cases go side by side.
    alone = [case for case in by_size if sizes[case] > largest]
    together = [case for case in by_size if sizes[case] <= largest]
    if workers == 1 or executor == "serial":
        alone, together = by_size, []
    if together:
        lanes, share = _shares(min(workers, len(together)), limit, helpers is not None)
        settings = _settings(max(workers // lanes, 1), share, executor)
        with closing(run_lanes(together, {**options, **settings}, lanes, helpers)) as outcomes:
            for outcome in outcomes:
                if outcome.lacks_memory and share < limit:
                    alone.append(outcome.case)
                else:
                    yield outcome
    settings = _settings(workers, limit, executor)
    for case in alone:
        yield run_case(case, {**options, **settings}, within_case)


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


def _facts(case: Case, prints: Mapping[str, Any]) -> dict[str, Any]:
    """Return what resuming and summing up need to know of a case."""
    return {"case": case.name, "model": case.model, "group": case.group, "fingerprint": prints}


def _write_result(path: Path, scored: result.Result, facts: Mapping[str, Any]) -> None:
    """Write what `Result.to_json` writes, with facts on the case in the field "batch"."""
    plain = {**scored.to_dict(), "batch": facts}
    write_text(path, json.dumps(plain, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write a file that appears complete or not at all."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        temporary.write_text(text, encoding="utf-8", newline="")
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _write_failures(output: Path, shard: str | None, failures: Sequence[Failure]) -> None:
    name = "failures" if shard is None else f"failures-{shard.replace('/', '-of-')}"
    plain = {"schema": exports.SCHEMA, "failures": [vars(failure) for failure in failures]}
    write_text(output / f"{name}.json", json.dumps(plain, indent=2, ensure_ascii=False) + "\n")


def _export(
    output: Path,
    study: Study,
    summary: Sequence[Summary],
    failures: Sequence[Failure],
    formats: Sequence[str],
) -> None:
    if "csv" in formats:
        write_text(output / "scores.csv", exports.tidy_csv(study))
    if "json" in formats:
        text = exports.study_json(study, summary, [vars(failure) for failure in failures])
        write_text(output / "scores.json", text)
    if "parquet" in formats:
        exports.write_parquet(study, output / "scores.parquet")
    if "nnunet" in formats:
        models = study.models
        for model in models:
            folder = output if len(models) == 1 else output / model
            folder.mkdir(exist_ok=True)
            write_text(folder / "summary.json", exports.nnunet_summary(study.of(model)))
