"""The tables of a result: readable at 80 columns, and honest."""

import math
from dataclasses import replace
from io import StringIO

import numpy as np
import pytest
from rich.console import Console

import streamloss as sl
from streamloss.result import MetricResult, Result
from streamloss.tables import MAX_CLASSES, format_number, format_rate, result_tables


def printed(result, width=80):
    text = StringIO()
    console = Console(file=text, width=width, color_system=None)
    for table in result_tables(result, width):
        console.print(table)
    return text.getvalue()


def made_up(per_class, metrics=("dice",), **parts):
    """Return a result with these values for each of the metrics."""
    return Result(
        **{
            "inputs": {"truth": {"unit": "millimeter"}},
            "options": {"spacing": [3.0, 0.5, 0.5]},
            "voxels": {"total": 100, "scored": 90, "ignored": 10},
            "classes": tuple(
                {"value": v, "name": str(v), "truth_voxels": 5, "prediction_voxels": 6}
                for v in per_class
            ),
            "metrics": {
                name: MetricResult(0.5, per_class, "", 0.0, "", {"undefined_classes": 0})
                for name in metrics
            },
            **parts,
        }
    )


def test_every_metric_of_labels_fits_80_columns():
    truth = np.arange(60, dtype=np.uint8).reshape(3, 4, 5) % 4
    names = ["dice", "dice_loss", "iou", "accuracy", "precision", "recall", "false_positives"]
    text = printed(sl.score(truth, truth[::-1], metrics=names))
    assert max(map(len, text.splitlines())) <= 80
    assert "\u2026" not in text
    for name in names:
        # In the list of metrics and above a column of classes.
        assert sum(name in line.split() for line in text.splitlines()) == 2


def test_printing_a_result_prints_its_tables():
    truth = np.array([0, 1, 1, 2], np.uint8)
    result = sl.score(truth, truth)
    assert str(result) == printed(result)


def test_an_undefined_value_says_so_and_is_counted():
    truth = np.array([0, 1], np.uint8)
    text = printed(sl.score(truth, truth, metrics="dice", classes=[1, 2]))
    assert "undefined" in text
    assert "1 undefined class" in text


def test_zero_and_one_are_shown_bare_only_if_exact():
    assert format_number(1.0) == "1"
    assert format_number(0.0) == "0"
    assert format_number(1.0 - 2**-53) == "1.00000"
    assert format_number(1e-9) == "1.00000e-09"
    assert format_number(0.1234567) == "0.123457"
    assert format_number(1234567.0, "voxels") == "1,234,567"
    assert format_number(math.nan) == "undefined"


def test_the_error_bound_is_shown_if_there_is_one():
    metric = MetricResult(0.25, {}, "nat", 4.6e-13, "", {"clipped_voxels": 1234})
    text = printed(replace(made_up({1: 0.5}), metrics={"loss": metric}))
    assert "\u00b1" not in printed(made_up({1: 0.5}))
    assert "\u00b14.6e-13" in text
    assert "1,234 clipped voxels" in text


@pytest.mark.parametrize(("metric", "worst"), [("dice", 7), ("mse", 93)])
def test_of_many_classes_the_worst_are_shown_and_the_rest_counted(metric, worst):
    per_class = {value: value / 100 for value in range(7, 94)}
    text = printed(made_up(per_class, metrics=(metric,)))
    rows = [line.split()[0] for line in text.splitlines() if line.split()[1:3] == ["5", "6"]]
    assert len(rows) == MAX_CLASSES
    assert rows[0] == str(worst)
    assert f"{MAX_CLASSES} of 87 classes" in text
    assert "--json" in text


def test_a_metric_nobody_knows_shows_the_first_classes():
    text = printed(made_up(dict.fromkeys(range(99), 0.5), metrics=("of_the_future",)))
    assert f"The first {MAX_CLASSES} of 99 classes" in text


def test_long_class_names_leave_room_for_numbers():
    classes = ({"value": 1, "name": "x" * 90, "truth_voxels": 5, "prediction_voxels": 6},)
    text = printed(made_up({1: 0.123456}, classes=classes))
    assert "0.123456" in text
    assert max(map(len, text.splitlines())) <= 80


def test_markup_in_names_is_printed_as_it_is():
    classes = ({"value": 1, "name": "[red]a", "truth_voxels": 5, "prediction_voxels": 6},)
    assert "[red]a" in printed(made_up({1: 0.5}, classes=classes))


def test_voxels_spacing_and_missing_chunks_are_told():
    integrity = {
        "truth": {"chunks": 8, "stored": 8, "missing": 0},
        "prediction": {"chunks": 8, "stored": 5, "missing": 3},
        "mask": None,
    }
    text = printed(made_up({1: 0.5}, integrity=integrity))
    assert "100 voxels, 90 scored, 10 ignored" in text
    assert "spacing 3 \u00d7 0.5 \u00d7 0.5 mm" in text
    assert "prediction: 3 of 8 chunks are not stored" in text
    assert "truth:" not in text


def test_values_have_no_table_of_classes():
    values = np.linspace(0, 1, 8)
    text = printed(sl.score(values, values[::-1].copy(), kind="values"))
    assert "mse" in text
    assert "Class" not in text


def test_a_rate_is_told_in_words():
    assert format_rate(2.5e9) == "2.5 billion voxels/s"
    assert format_rate(12_345_678) == "12.3 million voxels/s"
    assert format_rate(3.0) == "3 voxels/s"
