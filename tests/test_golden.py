"""Numbers that scikit-learn, SciPy, PyTorch and MONAI gave; see golden/make_golden.py."""

import json
import math
from pathlib import Path

import numpy as np
import pytest

import streamloss as sl
from streamloss.registry import definitions, metric_names, needed
from tests.strategies import Case
from tests.test_laws import as_zarr, partial_of, whole_arrays

GOLDEN = json.loads((Path(__file__).parent / "golden" / "golden.json").read_text(encoding="utf-8"))
# The other packages sum in float64, in an order of their own: a few ulp for each of their steps.
SLACK = 2.0**-48
# MONAI's weights are of single precision.
SLACKS = {"generalized_dice": 2.0**-22}

every_case = pytest.mark.parametrize("entry", GOLDEN["cases"], ids=lambda entry: entry["name"])


def arrays(entry):
    return (
        np.array(entry[role]["values"], np.dtype(entry[role]["dtype"]))
        for role in ("truth", "prediction")
    )


def close(got, expected, slack):
    if expected is None:
        return math.isnan(got)
    return abs(got - expected) <= slack + SLACK * max(abs(expected), 1.0)


@every_case
def test_the_package_gives_the_numbers_of_other_packages(entry):
    truth, prediction = arrays(entry)
    result = sl.score(truth, prediction, metrics=list(entry["expected"]), **entry["options"])
    for name, expected in entry["expected"].items():
        got = result[name]
        if isinstance(expected, dict):
            assert {str(value) for value in got.per_class} == set(expected), name
            for value, number in expected.items():
                assert close(got.per_class[int(value)], number, got.error_bound), (name, value)
        else:
            slack = max(got.error_bound, SLACKS.get(name, 0.0))
            assert close(got.value, expected, slack), name


# References are of the default averages and policies.
DEFAULTS = [e for e in GOLDEN["cases"] if not {"average", "convention"} & set(e["options"])]


@pytest.mark.parametrize("entry", DEFAULTS, ids=lambda entry: entry["name"])
def test_the_references_give_the_numbers_of_other_packages(entry):
    truth, prediction = arrays(entry)
    options = {"metrics": list(entry["expected"]), **entry["options"]}
    case = Case(truth, prediction, options)
    task = partial_of(case).task
    whole = whole_arrays(case, task)
    checked = set()
    for statistic in needed(task):
        references = statistic.reference(*whole, task)
        for name, expected in entry["expected"].items():
            if name not in {m.name for m in statistic.metrics if task.kind in m.kinds}:
                continue
            checked.add(name)
            value, per_class = references[name]
            if isinstance(expected, dict):
                numbers = {str(task.classes.values[code]): x for code, x in per_class.items()}
                assert set(numbers) == set(expected), name
                assert all(close(numbers[c], expected[c], 0.0) for c in expected), name
            else:
                assert close(value, expected, SLACKS.get(name, 0.0)), name
    assert checked == set(entry["expected"])


def test_the_counts_of_all_pairs_are_the_confusion_matrix_of_scikit_learn():
    entry = next(entry for entry in GOLDEN["cases"] if "confusion_matrix" in entry)
    truth, prediction = arrays(entry)
    case = Case(truth, prediction, entry["options"])
    counts = partial_of(case).states["confusion"].counts
    assert counts.tolist() == entry["confusion_matrix"]


@every_case
def test_golden_inputs_score_the_same_from_chunks(entry):
    truth, prediction = arrays(entry)
    options = {"metrics": list(entry["expected"]), **entry["options"]}
    whole = sl.score(truth, prediction, **options).to_dict()["metrics"]
    chunked = [as_zarr(array, (1,) * (array.ndim - 1) + (7,)) for array in (truth, prediction)]
    assert sl.score(*chunked, workers=2, **options).to_dict()["metrics"] == whole


def test_the_golden_file_says_where_its_numbers_come_from():
    assert set(GOLDEN["provenance"]) == {"command", "python", "versions", "notes"}
    assert {"scikit-learn", "scipy", "torch", "monai"} <= set(GOLDEN["provenance"]["versions"])
    assert all(entry["source"] for entry in GOLDEN["cases"])


CONVENTIONS = json.loads(
    (Path(__file__).parent / "golden" / "conventions.json").read_text(encoding="utf-8")
)
# KonfAI adds 1e-6 to both sides of a Dice, the others round to single precision somewhere.
SINGLE = {"konfai", "keras", "monai", "torchmetrics"}


@pytest.mark.parametrize(
    "entry", CONVENTIONS["cases"], ids=lambda entry: f"{entry['peer']}-{entry['metric']}"
)
def test_a_convention_gives_the_number_of_its_package(entry):
    truth, prediction = np.array(entry["truth"]), np.array(entry["prediction"])
    options = {**entry["options"], "metrics": entry["metric"], "convention": entry["peer"]}
    got = sl.score(truth, prediction, **options)[entry["metric"]]
    slack = 3e-7 if entry["peer"] in SINGLE else 1e-12
    assert got.value == pytest.approx(entry["expected"], abs=slack + got.error_bound)


def test_every_convention_has_a_number_of_its_package():
    declared = {
        (peer, name)
        for name in metric_names()
        for _, metric in definitions(name)
        for peer in metric.conventions
    }
    assert declared == {(entry["peer"], entry["metric"]) for entry in CONVENTIONS["cases"]}
