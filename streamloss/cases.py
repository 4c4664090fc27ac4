"""Which cases a batch has: matched from folders or read from a manifest.

A case names its volumes by path or URL. Nothing is opened as a volume here.
"""

import csv
import os
import re
import tomllib
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from streamloss.errors import InvalidInputError
from streamloss.locations import ZARR_METADATA, is_url
from streamloss.shards import parse_shard

SUFFIXES = (
    *(".ome.zarr.zip", ".ome.zarr", ".zarr.zip", ".zarr", ".zip", ".ozx", ".n5"),
    *(".nii.gz", ".nii", ".nrrd", ".nhdr"),
    *(".h5", ".hdf5", ".npy", ".ome.tiff", ".ome.tif", ".tiff", ".tif"),
    *(".ome.btf", ".ome.tf8", ".ome.tf2", ".btf", ".tf8", ".tf2"),
)
"""What is left out of a file's name to get the case's; longer ones first."""

_NEEDED = ("case", "truth", "prediction")
_COLUMNS = (*_NEEDED, "mask", "group", "model")
# Control characters, and bytes that are no UTF-8 as Python holds them.
_NO_TEXT = re.compile(r"[\x00-\x1f\ud800-\udfff]")
_METADATA = (*ZARR_METADATA, "attributes.json", "info")


@dataclass(frozen=True)
class Case:
    """One prediction to score.

    Attributes
    ----------
    name
        Name of the case, the same for every model.
    truth, prediction
        Paths or URLs.
    mask
        Path or URL of the voxels to score, None for all.
    model
        What made the prediction.
    group
        Stratum of the case for summaries, "" if there is none.
    """

    name: str
    truth: str
    prediction: str
    mask: str | None = None
    model: str = "model"
    group: str = ""

    def __str__(self) -> str:
        return f"{self.name} of {self.model}"


def find_cases(
    truth: str | os.PathLike[str],
    prediction: str | os.PathLike[str],
    *,
    mask: str | os.PathLike[str] | None = None,
    model: str | None = None,
) -> tuple[list[Case], list[str]]:
    """Match the volumes of two folders by name, whatever their storage formats.

    Parameters
    ----------
    truth, prediction
        Folders.
    mask
        Folder of masks, one for each case.
    model
        What made the predictions; by default the name of their folder.

    Returns
    -------
    list of Case, list of str
        The cases that both folders have, sorted by name, and a sentence on each
        volume without a counterpart.

    Raises
    ------
    InvalidInputError
        If a folder does not exist, has no volumes, or two of one name, or if no
        names match.

    Examples
    --------
    >>> import numpy as np, streamloss as sl, zarr
    >>> for path in ("truth/a.zarr", "truth/b.zarr", "unet/a.zarr"):
    ...     _ = zarr.save_array(path, np.eye(4) > 0)
    >>> cases, unmatched = sl.find_cases("truth", "unet")
    >>> [case.name for case in cases], len(unmatched)
    (['a'], 1)
    """
    truths, predictions = _volumes(truth, "truth"), _volumes(prediction, "prediction")
    masks = None if mask is None else _volumes(mask, "mask")
    unmatched = [f"{name} has no prediction" for name in truths if name not in predictions]
    unmatched += [f"{name} has no truth" for name in predictions if name not in truths]
    common = [name for name in truths if name in predictions]
    if masks is not None:
        unmatched += [f"{name} has no mask" for name in common if name not in masks]
        unmatched += [
            f"{name} has a mask, but neither truth nor prediction"
            for name in masks
            if name not in truths and name not in predictions
        ]
        common = [name for name in common if name in masks]
    if not common:
        raise InvalidInputError(
            f"no names match: {truth} has {_some(truths)} and {prediction} {_some(predictions)}"
        )
    made_by = _plain_name(Path(prediction).resolve().name if model is None else model, "model")
    cases = [
        Case(name, truths[name], predictions[name], None if masks is None else masks[name], made_by)
        for name in common
    ]
    return cases, unmatched


def read_manifest(path: str | os.PathLike[str]) -> list[Case]:
    r"""Read the cases of a CSV file, or of the `[[case]]` tables of a TOML file.

    Columns or keys are case, truth, prediction and, where wanted, mask, group
    and model. Relative paths are relative to the manifest.

    Raises
    ------
    InvalidInputError
        Names the row that cannot be used and why.

    Examples
    --------
    >>> import pathlib, numpy as np, streamloss as sl, zarr
    >>> for name in ("truth", "unet"):
    ...     _ = zarr.save_array(f"{name}.zarr", np.eye(4) > 0)
    >>> rows = "case,truth,prediction,model\na,truth.zarr,unet.zarr,unet\n"
    >>> _ = pathlib.Path("cases.csv").write_text(rows)
    >>> [(case.name, case.model) for case in sl.read_manifest("cases.csv")]
    [('a', 'unet')]
    """
    if is_url(os.fspath(path)):
        raise InvalidInputError(f"manifest must be a local file, got {os.fspath(path)!r}")
    path = Path(path)
    if not path.is_file():
        raise InvalidInputError(f"manifest does not exist: '{path}'")
    expected = f"the columns {', '.join(_NEEDED)} and a row for each case"
    try:
        if path.suffix.lower() == ".toml":
            expected = "a [[case]] table for each"
            tables = tomllib.loads(path.read_text("utf-8-sig"))
            rows = tables.pop("case", None)
            surplus = [f"'{name}' beside its cases" for name in tables]
        else:
            with path.open(encoding="utf-8-sig", newline="") as file:
                reader = csv.DictReader(file, strict=True)
                rows = list(reader)
            names = Counter(reader.fieldnames)
            surplus = [f"several columns '{name}'" for name in names if names[name] > 1]
    except (UnicodeDecodeError, tomllib.TOMLDecodeError, csv.Error) as error:
        raise InvalidInputError(f"manifest {path} cannot be read: {error}") from None
    if not isinstance(rows, list) or not rows:
        raise InvalidInputError(f"manifest {path} has no cases: expected {expected}")
    if surplus:
        # It would be left out in silence.
        raise InvalidInputError(f"manifest {path} has {surplus[0]}: expected {expected}")
    cases = [
        _manifest_case(row, f"case {number} of {path}", path.parent)
        for number, row in enumerate(rows, 1)
    ]
    refuse_duplicates(cases)
    return cases


def _manifest_case(row: Any, where: str, folder: Path) -> Case:
    if not isinstance(row, dict):
        raise InvalidInputError(f"{where} is {row!r}, expected a table")
    if None in row:
        raise InvalidInputError(f"{where} has more cells than there are columns")
    for key in row:
        if key not in _COLUMNS:
            raise InvalidInputError(f"{where} has '{key}', expected some of {', '.join(_COLUMNS)}")
    cells = {key: str(value).strip() for key, value in row.items() if value is not None}
    for key in _NEEDED:
        if key not in row:
            raise InvalidInputError(f"{where} has no '{key}', expected {', '.join(_NEEDED)}")
        if not cells.get(key):
            raise InvalidInputError(f"{where} has nothing in '{key}'")
    places = {
        role: cells[role] if is_url(cells[role]) else os.fspath(folder / cells[role])
        for role in ("truth", "prediction", "mask")
        if cells.get(role)
    }
    return Case(
        _plain_name(cells["case"], "case"),
        places["truth"],
        places["prediction"],
        places.get("mask"),
        _plain_name(cells.get("model") or "model", "model"),
        cells.get("group", ""),
    )


def refuse_duplicates(cases: Iterable[Case]) -> None:
    """Refuse two cases of one name and model, whose results would be one file.

    Raises
    ------
    InvalidInputError
        Names the first.
    """
    seen = set()
    for case in cases:
        # File systems that ignore case would make one file of these.
        key = (case.model.casefold(), case.name.casefold())
        if key in seen:
            raise InvalidInputError(f"case {case} is there twice")
        seen.add(key)


def choose_shard(cases: Sequence[Case], shard: str | None) -> list[Case]:
    """Return every N-th case from the i-th for "i/N", counted from 0; all for None.

    Raises
    ------
    InvalidInputError
        If it is not of that form, or i is not below N.
    """
    if shard is None:
        return list(cases)
    part = parse_shard(shard)
    return list(cases[part.number :: part.total])


def _volumes(folder: str | os.PathLike[str], role: str) -> dict[str, str]:
    """Return the path of each volume in a folder by the name of its case, sorted."""
    if is_url(os.fspath(folder)):
        raise InvalidInputError(
            f"{role} folder must be a local one, got {os.fspath(folder)!r}: name volumes in a "
            "bucket in a manifest"
        )
    folder = Path(folder).expanduser()
    if not folder.is_dir():
        raise InvalidInputError(f"{role} folder does not exist: '{folder}'")
    found: dict[str, str] = {}
    for entry in sorted(folder.iterdir()):
        suffix = next((s for s in SUFFIXES if entry.name.lower().endswith(s)), "")
        is_volume = bool(suffix) or (
            entry.is_dir() and any((entry / name).is_file() for name in _METADATA)
        )
        if entry.name.startswith(".") or not is_volume:
            continue
        name = entry.name[: len(entry.name) - len(suffix)]
        if _NO_TEXT.search(name):
            raise InvalidInputError(
                f"{role} folder {folder} has a volume whose name is no text: {entry.name!r}"
            )
        if name in found:
            raise InvalidInputError(
                f"{role} folder {folder} has two volumes of case {name}: "
                f"{Path(found[name]).name} and {entry.name}"
            )
        found[name] = os.fspath(entry)
    if not found:
        raise InvalidInputError(
            f"{role} folder {folder} has no volumes: expected names that end in "
            f"{', '.join(SUFFIXES[1:4])}, .nii.gz and the like"
        )
    return dict(sorted(found.items()))


def _plain_name(name: str, what: str) -> str:
    """Refuse a name that cannot be that of a file on every system."""
    if not name or name.startswith(".") or re.search(r'[/\\:*?"<>|\x00-\x1f]', name):
        raise InvalidInputError(f"a {what} must have a name that a file can have, got {name!r}")
    return name


def _some(names: Iterable[str]) -> str:
    names = list(names)
    return ", ".join(names[:3]) + ("…" if len(names) > 3 else "")
