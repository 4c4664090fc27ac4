"""The folder of a batch: a result for each case, the failures and the tables.

With each result is saved what it was made from, which tells a later run whether the case is
finished. How cases are scored is not known here.
"""

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from streamloss import exports, fingerprints, result
from streamloss.cases import Case
from streamloss.errors import InvalidInputError, StreamlossError
from streamloss.locations import is_url
from streamloss.stores import open_volume
from streamloss.study import CASES, SavedCase, Study, Summary, result_paths

# The same bits whichever reads, so that a change of it is none.
_NO_DIFFERENCE = ("reader",)


@dataclass(frozen=True)
class Failure:
    """A case that has no result, and why."""

    case: str
    model: str
    reason: str


class BatchFolder:
    """The output folder of a batch.

    Parameters
    ----------
    root
        Need not be there yet.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    def path(self, case: Case) -> Path:
        """Return where the result of a case is saved."""
        return self.root / CASES / case.model / f"{case.name}.json"

    def refuse_other_results(self, cases: Sequence[Case]) -> None:
        """Refuse a folder with results that were not asked for: they would enter the means."""
        if self.root.exists() and not self.root.is_dir():
            raise InvalidInputError(f"output {self.root} is a file, expected a folder")
        asked = {self.path(case) for case in cases}
        for path in result_paths(self.root):
            if path not in asked:
                raise InvalidInputError(
                    f"{path} is the result of a case that was not asked for, and would be "
                    "counted: remove it or name another output folder"
                )

    def holds(self, case: Case, now: Mapping[str, Any], resume: bool) -> bool:
        """Tell whether a case is finished.

        Parameters
        ----------
        case
            The case.
        now
            Its fingerprints.
        resume
            Whether it may be.

        Raises
        ------
        InvalidInputError
            If it may not, or its result was made from something else.
        """
        path = self.path(case)
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
                f"case {case} cannot be resumed, {change}: name another output folder, "
                f"or remove {path}"
            )
        if saved["group"] != case.group:
            # A group decides no number; it is set right without scoring again.
            self.save(case, result.Result.from_json(path.read_text("utf-8")), now)
        return True

    def make(self, cases: Iterable[Case]) -> None:
        """Make the folders in which results of these cases are saved."""
        for folder in {self.path(case).parent for case in cases} | {self.root / CASES}:
            folder.mkdir(parents=True, exist_ok=True)

    def save(self, case: Case, scored: result.Result, prints: Mapping[str, Any]) -> SavedCase:
        """Write what `Result.to_json` writes, with facts on the case in the field "batch"."""
        path = self.path(case)
        facts = {
            "case": case.name,
            "model": case.model,
            "group": case.group,
            "fingerprint": prints,
        }
        plain = {**scored.to_dict(), "batch": facts}
        _write(path, json.dumps(plain, indent=2, ensure_ascii=False, allow_nan=False) + "\n")
        return SavedCase.of(scored, facts, path)

    def write_failures(self, shard: str | None, failures: Sequence[Failure]) -> None:
        """Write the failures of a batch, or of one shard of it."""
        name = "failures" if shard is None else f"failures-{shard.replace('/', '-of-')}"
        plain = {"schema": exports.SCHEMA, "failures": [vars(failure) for failure in failures]}
        _write(self.root / f"{name}.json", json.dumps(plain, indent=2, ensure_ascii=False) + "\n")

    def write_tables(
        self,
        study: Study,
        summary: Sequence[Summary],
        failures: Sequence[Failure],
        formats: Sequence[str],
    ) -> None:
        """Write what is asked for beside the results."""
        if "csv" in formats:
            _write(self.root / "scores.csv", exports.tidy_csv(study))
        if "json" in formats:
            text = exports.study_json(study, summary, [vars(failure) for failure in failures])
            _write(self.root / "scores.json", text)
        if "parquet" in formats:
            exports.write_parquet(study, self.root / "scores.parquet")
        if "nnunet" in formats:
            models = study.models
            for model in models:
                folder = self.root if len(models) == 1 else self.root / model
                folder.mkdir(exist_ok=True)
                _write(folder / "summary.json", exports.nnunet_summary(study.of(model)))


def plain_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options that decide results, as JSON gives them back."""
    kept = {name: value for name, value in options.items() if name not in _NO_DIFFERENCE}
    plain: dict[str, Any] = json.loads(json.dumps(kept, sort_keys=True, default=str))
    return plain


def case_fingerprints(case: Case, options: Mapping[str, Any]) -> dict[str, Any]:
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


def _write(path: Path, text: str) -> None:
    """Write a file that appears complete or not at all."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        temporary.write_text(text, encoding="utf-8", newline="")
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
