"""The folder of a batch: a result for each case, the failures and the tables.

With each result is saved what it was made from, which tells a later run whether the case is
finished. How cases are scored is not known here.
"""

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from inspect import signature
from pathlib import Path
from secrets import token_hex
from typing import Any, NoReturn

from streamloss import exports, fingerprints, result
from streamloss.cases import Case
from streamloss.errors import InvalidInputError, StreamlossError
from streamloss.files import try_folder
from streamloss.locations import is_url, split_at_file
from streamloss.options import settle
from streamloss.prepare import prepare
from streamloss.stores import open_volume
from streamloss.study import CASES, SavedCase, Study, Summary, result_paths

TABLES = ("failures.json", "scores.csv", "scores.json", "scores.parquet", "summary.json")
"""Files that are written beside the results."""

# The same bits whichever reads, so that a change of it is none.
_NO_DIFFERENCE = ("reader",)
_DEFAULTS = {
    option.name: option.default
    for function in (settle, prepare)
    for option in signature(function).parameters.values()
    if option.default is not option.empty
}


@dataclass(frozen=True)
class Failure:
    """A case that has no result, and why."""

    case: str
    model: str
    reason: str


@dataclass(frozen=True)
class BatchFolder:
    """The output folder of a batch; pickles.

    Attributes
    ----------
    root
        Need not be there yet.
    options
        Those of this run, as `plain_options` returns them.
    """

    root: Path
    options: Mapping[str, Any]

    def path(self, case: Case) -> Path:
        """Return where the result of a case is saved."""
        return self._place(case.model, case.name)

    def _place(self, model: str, name: str) -> Path:
        return self.root / CASES / model / f"{name}.json"

    def finished(self, cases: Iterable[Case]) -> dict[Case, dict[str, Any]]:
        """Return what the folder holds: the field "batch" of the result of each case.

        Parameters
        ----------
        cases
            Those of all shards.

        Raises
        ------
        InvalidInputError
            If there is a result of another case or of other options: it would enter the means.
        """
        place, _ = split_at_file(self.root)
        if place.is_file():
            raise InvalidInputError(f"output {self.root}: {place} is a file, expected a folder")
        asked = {self.path(case): case for case in cases}
        found = {}
        for path in result_paths(self.root):
            if path not in asked:
                raise InvalidInputError(
                    f"{path} is the result of a case that was not asked for, and would be "
                    "counted: remove it or name another output folder"
                )
            try:
                saved = json.loads(path.read_text(encoding="utf-8"))["batch"]
                change = _change_of_options(saved["fingerprint"], self.options)
            except (ValueError, KeyError, TypeError):
                raise InvalidInputError(
                    f"{path} is not the result of a batch, or not all of it: remove it to have "
                    "the case scored again"
                ) from None
            if change is not None:
                self.refuse_to_keep(asked[path], change)
            found[asked[path]] = saved
        return found

    def keep(self, case: Case, saved: Mapping[str, Any], inputs: Mapping[str, Any]) -> None:
        """Let the result of a case stand.

        Parameters
        ----------
        case
            The case.
        saved
            The field "batch" of its result.
        inputs
            What `fingerprints_of` returns now.

        Raises
        ------
        InvalidInputError
            If its inputs have changed.
        """
        if saved["fingerprint"] != self._fingerprint(inputs):
            self.refuse_to_keep(case, _change_of_inputs(saved["fingerprint"], inputs))
        if saved["group"] != case.group:
            # A group decides no number; it is set right without scoring again.
            text = self.path(case).read_text("utf-8")
            self.save(case, result.Result.from_json(text), inputs)

    def refuse_to_keep(self, case: Case, change: str) -> NoReturn:
        """Raise that the result of a case cannot stand, because of a change."""
        raise InvalidInputError(
            f"the result of case {case} cannot be kept, {change}: name another output folder, "
            f"or remove {self.path(case)}"
        )

    def make(self) -> None:
        """Make the folder, before work that could not be saved without.

        Raises
        ------
        InvalidInputError
            If it cannot be made or written, as on a full disk.
        """
        results = self.root / CASES
        try:
            # First where it will be, so that no empty folder is left on a disk that is full.
            root = self.root.absolute()
            try_folder(next(place for place in (root, *root.parents) if place.is_dir()))
            results.mkdir(parents=True, exist_ok=True)
            try_folder(results)
        except OSError as error:
            raise InvalidInputError(
                f"cannot write to the output '{self.root}': {error.strerror}"
            ) from None

    def fingerprints_of(self, case: Case) -> dict[str, Any]:
        """Return what tells whether the truth, prediction or mask of a case has changed."""
        roles = {"truth": case.truth, "prediction": case.prediction, "mask": case.mask}
        level = self.options.get("level", 0)
        return {
            role: None if path is None else _fingerprint(path, level)
            for role, path in roles.items()
        }

    def save(self, case: Case, scored: result.Result, inputs: Mapping[str, Any]) -> SavedCase:
        """Write what `Result.to_json` writes, with facts on the case in the field "batch".

        Processes may save different cases at once.
        """
        path = self.path(case)
        path.parent.mkdir(exist_ok=True)
        facts: dict[str, Any] = {
            "case": case.name,
            "model": case.model,
            "group": case.group,
            "fingerprint": self._fingerprint(inputs),
        }
        plain = {**scored.to_dict(), "batch": facts}
        _write(path, json.dumps(plain, indent=2, ensure_ascii=False, allow_nan=False) + "\n")
        return SavedCase.of(scored, facts, path)

    def _fingerprint(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """Return all that decides the result of a case of these inputs."""
        return {"schema": result.SCHEMA, "options": self.options, **inputs}

    def saved(self, case: Case) -> SavedCase | None:
        """Return a case whose result is there, None if there is none."""
        path = self.path(case)
        return SavedCase.read(path) if path.exists() else None

    def write_failures(self, shard: str | None, failures: Sequence[Failure]) -> None:
        """Write the failures of a batch, or of one shard of it.

        Those of shards are of no interest once all cases were looked at.
        """
        everything = self.root / "failures.json"
        if shard is None:
            self._write_failures(everything, failures)
            for path in self.root.glob("failures-*-of-*.json"):
                path.unlink()
            return
        path = self.root / f"failures-{shard.replace('/', '-of-')}.json"
        self._write_failures(path, failures)
        # What failed in an earlier run of all may be finished now. A record that is cut must not
        # end a run whose work is done.
        with suppress(FileNotFoundError, ValueError, KeyError, TypeError):
            rows = json.loads(everything.read_text("utf-8"))["failures"]
            before = [Failure(**row) for row in rows]
            left = [one for one in before if not self._place(one.model, one.case).exists()]
            self._write_failures(everything, left)

    def _write_failures(self, path: Path, failures: Sequence[Failure]) -> None:
        plain = {"schema": exports.SCHEMA, "failures": [vars(failure) for failure in failures]}
        _write(path, json.dumps(plain, indent=2, ensure_ascii=False) + "\n")

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
    """Return the options that decide results, as JSON gives them back.

    What is written in two ways and means the same is the same here: a default that is given,
    and metrics in another order.
    """
    kept = {
        name: value
        for name, value in options.items()
        if name not in _NO_DIFFERENCE
        and not (name in _DEFAULTS and _is_same(value, _DEFAULTS[name]))
    }
    if "metrics" in kept:
        kept["metrics"] = sorted(kept["metrics"])
    plain: dict[str, Any] = json.loads(json.dumps(kept, sort_keys=True, default=str))
    return plain


def _is_same(value: Any, default: Any) -> bool:
    # To Python, though to no option, 1 and true are the same.
    return type(value) is type(default) and bool(value == default)


def _fingerprint(source: str, level: int) -> dict[str, Any]:
    """Return what tells whether a volume has changed; in a bucket, versions of its objects."""
    if is_url(source):
        # What cannot be opened fails when it is scored, and tells why.
        with suppress(StreamlossError):
            volume = open_volume(source, role="volume", level=level)
            return {**fingerprints.of_volume(volume), "path": source}
    return fingerprints.of_source(source)


def _change_of_options(before: Mapping[str, Any], options: Mapping[str, Any]) -> str | None:
    """Tell the first option that a result was made with otherwise, or None."""
    if before["schema"] != result.SCHEMA:
        return f"its result has the schema {before['schema']}, this version writes {result.SCHEMA}"
    for name in sorted({*before["options"], *options}):
        was, is_now = (
            json.dumps(part[name]) if name in part else "not given"
            for part in (before["options"], options)
        )
        if was != is_now:
            return f"`{name}` was {was} and is {is_now}"
    return None


def _change_of_inputs(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """Tell the first input that differs."""
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
    """Write a file that appears complete or not at all.

    It is not synced as a state is: a crash of the machine may lose it.
    """
    # Not named after the file or the process: a name has a largest length, and processes of
    # two machines that share the folder may have one number.
    temporary = path.with_name(f".{token_hex(8)}.partial")
    try:
        # A name that is no text is escaped as JSON does.
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace", newline="")
        temporary.replace(path)
    except OSError as error:
        # A full disk tells no name, others that of the temporary file.
        raise OSError(error.errno, error.strerror, os.fspath(path)) from error
    finally:
        with suppress(OSError):
            temporary.unlink()
