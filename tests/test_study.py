"""Statistics over saved cases and paired comparison, against SciPy and worked examples."""

import csv
import json
import math
import shutil
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
import scipy.stats
import zarr
from hypothesis import given
from hypothesis import strategies as st

import streamloss as sl
from streamloss import study
from streamloss.cli import main
from streamloss.comparison import _signed_rank, holm
from streamloss.exports import tidy_csv
from streamloss.result import MetricResult
from streamloss.study import SavedCase, Study, bootstrap_intervals

# Heights of cross- less self-fertilised plants of Darwin's, in eighths of an inch; the
# p value is printed in the documentation of scipy.stats.wilcoxon.
DARWIN = [6, 8, 14, 16, 23, 24, 28, 29, 41, -48, 49, 56, 60, -67, 75]
DARWIN_P = 0.041259765625


def saved(values, model="unet", metric="dice", groups=None):
    return Study(
        tuple(
            SavedCase(str(i), model, (groups or {}).get(i, ""), Path(), {metric: value})
            for i, value in enumerate(values)
        )
    )


def test_a_number_of_numpy_is_written_as_any_other():
    value = np.float64(0.1)
    metric = MetricResult(value, {}, "", 0.0, "")
    case = SavedCase("a", "unet", "", Path(), {"dice": value}, {"scored": 8}, {"dice": metric})
    assert tidy_csv(Study((case,))).splitlines()[1] == "a,unet,,dice,0.1,0.0,8"


def test_quartiles_interpolate_linearly_and_undefined_cases_are_counted():
    (row,) = saved([0.1, math.nan, 0.4, 0.2, 0.8]).summary()
    assert (row.n, row.undefined) == (4, 1)
    assert row.mean == math.fsum([0.1, 0.4, 0.2, 0.8]) / 4
    assert [row.minimum, row.first_quartile, row.median, row.third_quartile, row.maximum] == [
        float(q) for q in np.quantile([0.1, 0.2, 0.4, 0.8], [0, 0.25, 0.5, 0.75, 1])
    ]


@pytest.mark.parametrize(("metric", "worst"), [("dice", "0"), ("mse", "2")])
def test_the_worst_case_heeds_the_direction(metric, worst):
    (row,) = saved([0.1, 0.2, 0.4], metric=metric).summary()
    assert row.worst_case == worst


def test_a_count_has_no_worst_case():
    (row,) = saved([1.0, 2.0], metric="true_positives").summary()
    assert row.worst_case == ""
    assert math.isnan(row.worst)


def test_groups_are_summed_up_on_their_own():
    rows = saved([0.1, 0.3, 0.5], groups={0: "old", 1: "young", 2: "old"}).summary(by_group=True)
    assert [(row.group, row.n, row.mean) for row in rows] == [("old", 2, 0.3), ("young", 1, 0.3)]


@pytest.mark.parametrize("at_once", [8, 1000, 2**20])
def test_the_interval_is_that_of_scipy(monkeypatch, at_once):
    monkeypatch.setattr(study, "_RESAMPLED_AT_ONCE", at_once)
    numbers = np.random.default_rng(1).random(13)
    expected = scipy.stats.bootstrap(
        (numbers,),
        np.mean,
        n_resamples=999,
        confidence_level=0.9,
        method="percentile",
        rng=np.random.default_rng(5),
    ).confidence_interval
    others = [np.arange(13.0), np.arange(9.0), np.array([])]
    found = bootstrap_intervals([others[0], numbers, *others[1:]], 0.9, 999, 5)
    assert found[1] == (expected.low, expected.high)


def test_a_seed_gives_the_same_bytes_and_another_others():
    numbers = np.random.default_rng(1).random(9)
    assert bootstrap_intervals([numbers], seed=3) == bootstrap_intervals([numbers], seed=3)
    assert bootstrap_intervals([numbers], seed=3) != bootstrap_intervals([numbers], seed=4)


def test_one_case_has_no_interval():
    (interval,) = bootstrap_intervals([np.array([0.5])])
    assert all(map(math.isnan, interval))


@pytest.mark.parametrize(
    "wrong",
    [
        {"confidence": 1.0},
        {"confidence": "x"},
        {"resamples": 0},
        {"resamples": 2.5},
        {"seed": -1},
        {"seed": None},
    ],
)
def test_a_bootstrap_that_cannot_be_is_refused(wrong):
    with pytest.raises(sl.InvalidInputError, match="must be"):
        bootstrap_intervals([np.arange(4.0)], **wrong)


def test_wilcoxon_gives_the_p_value_that_scipy_prints_for_darwins_plants():
    pairs = np.array([np.zeros(15), DARWIN], np.float64)
    assert _signed_rank(pairs) == DARWIN_P


def test_wilcoxon_leaves_out_zeros():
    pairs = np.array([np.zeros(18), [*DARWIN, 0, 0, 0]], np.float64)
    assert _signed_rank(pairs) == DARWIN_P


def test_no_difference_at_all_has_p_1():
    assert _signed_rank(np.ones((2, 6))) == 1.0


def test_holm_gives_the_numbers_of_a_worked_example():
    # By hand: 4 * 0.005, 3 * 0.01, 2 * 0.03, and 1 * 0.04 raised to the one before.
    got = holm({"a": 0.01, "b": 0.04, "c": 0.03, "d": 0.005})
    assert got == {"a": 0.03, "b": 0.06, "c": 0.06, "d": 0.02}


@given(st.lists(st.floats(0.0, 1.0), min_size=1, max_size=9))
def test_holm_is_between_no_correction_and_bonferronis_and_keeps_the_order(numbers):
    got = holm({str(i): p for i, p in enumerate(numbers)})
    for i, p in enumerate(numbers):
        assert p <= got[str(i)] <= min(1.0, len(numbers) * p)
    order = sorted(range(len(numbers)), key=lambda i: numbers[i])
    corrected = [got[str(i)] for i in order]
    assert corrected == sorted(corrected)


def test_holm_leaves_out_what_was_not_tested():
    got = holm({"a": 0.01, "b": math.nan})
    assert got["a"] == 0.01
    assert math.isnan(got["b"])


@pytest.fixture(scope="module")
def scored(tmp_path_factory):
    """Hold the saved results of two models over seven cases, the second worse."""
    folder = tmp_path_factory.mktemp("study")
    cases = []
    for seed in range(7):
        truth = np.random.default_rng(seed).integers(0, 3, (6, 7, 8), np.uint8)
        zarr.save_array(folder / f"truth{seed}.zarr", truth)
        for model, kept in (("unet", 0.9), ("vnet", 0.6)):
            keep = np.random.default_rng(seed + 10).random(truth.shape) < kept
            prediction = folder / model / f"{seed}.zarr"
            zarr.save_array(prediction, np.where(keep, truth, 0).astype("u1"))
            name = str(folder / f"truth{seed}.zarr")
            cases.append(sl.Case(f"case{seed}", name, str(prediction), model=model))
    sl.batch(cases, output=folder / "out", metrics="dice,iou")
    vnet = [case for case in cases if case.model == "vnet"]
    sl.batch(vnet[1:], output=folder / "fewer", metrics="dice,iou")
    sl.batch(vnet, output=folder / "other", metrics="dice,iou", include_background=True)
    return folder


@pytest.fixture
def run(scored, capsys, monkeypatch):
    monkeypatch.chdir(scored)
    monkeypatch.setenv("COLUMNS", "80")

    def run(*arguments):
        code = main([str(argument) for argument in arguments])
        return code, *capsys.readouterr()

    return run


def test_differences_are_second_minus_first_case_by_case(scored):
    found = sl.compare(scored / "out/cases/unet", scored / "out/cases/vnet")
    assert (found.model_a, found.model_b, found.unmatched) == ("unet", "vnet", ())
    both = Study.load(scored / "out")
    a, b = (
        np.array([case.values["dice"] for case in both.of(model).cases])
        for model in ("unet", "vnet")
    )
    dice = found.differences[0]
    assert (dice.metric, dice.n, dice.better) == ("dice", 7, "a")
    assert dice.difference == math.fsum(b - a) / 7
    assert [(dice.low, dice.high)] == bootstrap_intervals([b - a])
    assert dice.low < dice.difference < dice.high < 0.0
    # All seven signs agree: two of 2^7 sign patterns.
    assert dice.p == 2 / 2**7
    assert dice.p_holm == 2 * dice.p


def test_comparing_reads_no_volume(scored, monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("a volume was opened")

    monkeypatch.setattr(zarr, "open", refuse)
    monkeypatch.setattr("streamloss.stores.open_volume", refuse)
    monkeypatch.setattr("streamloss.prepare.open_volume", refuse)
    sl.compare(scored / "out/cases/unet", scored / "out/cases/vnet")
    Study.load(scored / "out").summary()


def test_several_models_are_refused(scored):
    with pytest.raises(sl.InvalidInputError, match="holds the models unet, vnet, expected one"):
        sl.compare(scored / "out", scored / "out")


def test_unmatched_cases_are_refused_or_left_out(run):
    code, out, err = run("compare", "out/cases/unet", "fewer")
    assert (code, out) == (2, "")
    assert "1 cases are in one of the two only, the first is case0" in err
    assert "--allow-unmatched" in err
    code, out, _ = run("compare", "out/cases/unet", "fewer", "--allow-unmatched")
    assert code == 0
    assert "left out: case0" in out


def test_results_of_different_options_are_refused(scored):
    with pytest.raises(sl.InvalidInputError, match=r"include_background False by .* and True by"):
        sl.compare(scored / "out/cases/unet", scored / "other")


def test_cases_of_another_truth_are_refused(scored, tmp_path):
    """A model must not seem better for having been scored against something else."""
    cases = [
        sl.Case(f"case{seed}", str(scored / f"truth{(seed + 1) % 7}.zarr"), str(scored / path))
        for seed, path in ((seed, f"unet/{seed}.zarr") for seed in range(7))
    ]
    other = tmp_path / "other"
    sl.batch(cases, output=other, metrics="dice,iou")
    one = scored / "out/cases/unet"
    with pytest.raises(sl.InvalidInputError, match=r"truth .*truth0.zarr by .*truth1.zarr by "):
        sl.compare(one, other)
    assert sl.compare(one, other, allow_copies=True).differences[0].difference < 0.0


def test_cases_of_another_mask_are_refused(tmp_path):
    zarr.save_array(tmp_path / "truth.zarr", np.arange(8) % 2)
    for name in "ab":
        zarr.save_array(tmp_path / f"{name}.zarr", (np.arange(8) < 4) == (name == "a"))
        truth, mask = str(tmp_path / "truth.zarr"), str(tmp_path / f"{name}.zarr")
        sl.batch([sl.Case("1", truth, truth, mask)], output=tmp_path / f"by-{name}", metrics="dice")
    with pytest.raises(sl.InvalidInputError, match=r"mask .*a\.zarr by .*b\.zarr by "):
        sl.compare(tmp_path / "by-a", tmp_path / "by-b")


def test_files_that_were_moved_are_the_same(scored, tmp_path):
    shutil.copytree(scored, tmp_path / "moved")
    vnet = [
        sl.Case(f"case{seed}", *(str(tmp_path / "moved" / path) for path in paths), model="vnet")
        for seed, paths in ((s, (f"truth{s}.zarr", f"vnet/{s}.zarr")) for s in range(7))
    ]
    sl.batch(vnet, output=tmp_path / "out", metrics="dice,iou")
    found = sl.compare(scored / "out/cases/unet", tmp_path / "out")
    assert found == sl.compare(scored / "out/cases/unet", scored / "out/cases/vnet")


def test_a_case_that_is_there_twice_is_refused(scored, tmp_path):
    folder = tmp_path / "vnet"
    shutil.copytree(scored / "out/cases/vnet", folder)
    shutil.copy(folder / "case3.json", folder / "case3-copy.json")
    with pytest.raises(sl.InvalidInputError, match="are both the result of case case3 of model"):
        sl.compare(scored / "out/cases/unet", folder)


def test_models_without_a_common_metric_are_refused(scored, tmp_path):
    cases = [
        sl.Case(f"case{s}", str(scored / f"truth{s}.zarr"), str(scored / f"unet/{s}.zarr"))
        for s in range(7)
    ]
    sl.batch(cases, output=tmp_path, metrics="recall")
    with pytest.raises(sl.InvalidInputError, match="no metric in common: unet has dice, iou"):
        sl.compare(scored / "out/cases/unet", tmp_path)


def test_metrics_are_named_as_for_a_score(scored):
    folders = [scored / "out/cases" / model for model in ("unet", "vnet")]
    by_text = sl.compare(*folders, metrics="iou, dice,iou")
    assert by_text == sl.compare(*folders, metrics=["iou", "dice"])
    with pytest.raises(sl.InvalidInputError, match="recall is not in both"):
        sl.compare(*folders, metrics="recall")


def test_rounding_parts_no_ties():
    a = np.array([1, 2, 3, 4, 5, 6, 7, 8, 1.5, 2.5])
    b = a + np.array([1, 1, -1, 1, 1, 1, 2, 1, -1, 2])
    expected = scipy.stats.wilcoxon(b - a).pvalue
    # Tenths have no exact binary form, and their differences are no ties to the last bit.
    assert len(set(b / 10 - a / 10)) > 3
    for scale in (0.1, 1e-301, 1e301):
        assert _signed_rank(scale * np.array([a, b])) == expected


def test_the_table_fits_80_columns(run):
    code, out, err = run("compare", "out/cases/unet", "out/cases/vnet")
    assert (code, err) == (0, "")
    table = [line for line in out.splitlines() if not line.startswith(("a:", "b:"))]
    assert max(map(len, table)) <= 80
    assert "dice" in out


def test_json_and_csv_have_every_digit(run, scored):
    found = sl.compare(scored / "out/cases/unet", scored / "out/cases/vnet", metrics=["iou"])
    arguments = ("compare", "out/cases/unet", "out/cases/vnet", "--metrics", "iou")
    _, out, _ = run(*arguments, "--json", "-")
    plain = json.loads(out)
    assert plain["schema"] == "streamloss.comparison/1"
    assert plain["differences"] == [vars(found.differences[0])]
    _, out, _ = run(*arguments, "--csv", "-")
    (row,) = csv.DictReader(StringIO(out))
    assert float(row["difference"]) == found.differences[0].difference


def test_without_scipy_the_extra_is_named(scored, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "scipy.stats", None)
    with pytest.raises(ImportError, match=r'pip install "streamloss\[stats\]"'):
        sl.compare(scored / "out/cases/unet", scored / "out/cases/vnet")


@pytest.mark.parametrize("text", ["{", "[]", '{"schema": "streamloss.result/1"}'])
def test_a_damaged_result_is_named(tmp_path, text):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(sl.InvalidInputError, match=r"a\.json is not a"):
        Study.load(tmp_path)


def test_a_result_that_no_batch_saved_is_refused(tmp_path):
    (tmp_path / "a.json").write_text(
        sl.score(np.eye(3, dtype="u1"), np.eye(3, dtype="u1")).to_json()
    )
    with pytest.raises(sl.InvalidInputError, match="was not saved by a batch"):
        Study.load(tmp_path)


def test_an_empty_folder_is_refused(tmp_path):
    with pytest.raises(sl.InvalidInputError, match="holds no results"):
        Study.load(tmp_path)
