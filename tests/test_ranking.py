"""Areas, thresholds and calibration: golden numbers, exact codes, certain intervals."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import streamloss as sl
from streamloss.metrics import another_look, score_bins
from streamloss.metrics.score_bins import Bins
from streamloss.statistic import discover
from tests.strategies import chunk_grids, unit_values
from tests.test_laws import as_zarr, payload

OF_COUNTS = [m.name for m in discover()["confusion"].metrics if m.of_counts is not None]
GOLDEN = json.loads((Path(__file__).parent / "golden" / "ranking.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("entry", GOLDEN["cases"], ids=lambda entry: entry["name"])
def test_the_numbers_are_those_of_scikit_learn_and_torchmetrics(entry):
    truth = np.array(entry["truth"], np.uint8)
    prediction = np.array(entry["prediction"], entry["dtype"])
    result = sl.score(truth, prediction, metrics=list(entry["expected"]), **entry["options"])
    for name, expected in entry["expected"].items():
        # torchmetrics sums in single precision.
        slack = 1e-6 if "torchmetrics" in entry["source"] else 1e-12
        assert abs(result[name].value - expected) <= result[name].error_bound + slack, name


def naive_auroc(truth, scores):
    positives, negatives = scores[truth == 1][:, np.newaxis], scores[truth == 0]
    pairs = (positives > negatives).sum() + (positives == negatives).sum() / 2
    return pairs / (positives.size * negatives.size)


@st.composite
def scored_volumes(draw, dtypes=("f2", "f4", "f8")):
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    truth = (rng.random(60) < 0.4).astype(np.uint8)
    truth[:2] = 0, 1
    scores = unit_values(rng, 60, draw(st.sampled_from(dtypes)))
    if draw(st.booleans()):
        # Neighbours in one bin, of which a single look cannot tell the order.
        scores = (0.5 + rng.integers(-20, 20, 60) * 2.0**-22).astype(scores.dtype)
    return truth, scores


@given(volume=scored_volumes())
def test_the_area_lies_within_its_error_bound(volume):
    truth, scores = volume
    got = sl.score(truth, scores, metrics="auroc")["auroc"]
    assert abs(got.value - naive_auroc(truth, scores.astype(float))) <= got.error_bound + 1e-15


@given(volume=scored_volumes(), data=st.data())
def test_another_look_makes_the_area_exact(volume, data):
    truth, scores = volume
    metrics = "auroc,average_precision"
    chunks = data.draw(chunk_grids(truth.shape))
    result = sl.score(
        as_zarr(truth, chunks), as_zarr(scores, chunks), metrics=metrics, exact=True, workers=2
    )
    assert result["auroc"].error_bound == 0.0
    assert result["auroc"].value == pytest.approx(
        naive_auroc(truth, scores.astype(float)), abs=1e-15
    )
    assert result["average_precision"].error_bound < 1e-14
    assert payload(result) == payload(sl.score(truth, scores, metrics=metrics, exact=True))


@given(volume=scored_volumes(["f4", "f8"]))
def test_looking_again_and_again_ends_with_the_same_bits(volume):
    truth, scores = volume
    options = {"metrics": "auroc,average_precision", "exact": True}
    expected = payload(sl.score(truth, scores, **options))
    with pytest.MonkeyPatch.context() as patch:
        places = np.searchsorted(score_bins.least(LAYOUTS["f4"]), scores.astype(float), "right")
        largest = np.unique(places, return_counts=True)[1].max()
        patch.setattr(another_look, "MAX_SCORES", int(largest))
        assert payload(sl.score(truth, scores, **options)) == expected


@given(volume=scored_volumes(["f2"]))
def test_sixteen_bits_are_exact_at_once(volume):
    truth, scores = volume
    got = sl.score(truth, scores, metrics="auroc,average_precision")
    assert got["auroc"].error_bound == 0.0
    assert got["auroc"].value == pytest.approx(naive_auroc(truth, scores.astype(float)), abs=1e-15)


LAYOUTS = {
    "u1": Bins("codes", 255, "double"),
    "u2": Bins("codes", 65535, "double"),
    "f2": Bins("halves", 0, "single"),
    "f4": Bins("floats", 11, "single"),
    "f8": Bins("floats", 11, "double"),
    "f4 of many channels": Bins("floats", 3, "single"),
}


def values_to_bin(name, bins):
    """All codes, or floats at, just below and just above the edge of every bin."""
    if bins.layout != "floats":
        codes = np.arange(bins.count, dtype=np.uint16)
        return codes.view("f2").astype("f4") if name == "f2" else codes / float(bins.detail)
    edges = score_bins.least(bins)
    tiny = [0.0, -0.0, 5e-324, 1e-310, 1e-45, 1e-39, 2.0**-31, 1 - 2.0**-25, 1.0]
    near = [edges, np.nextafter(edges, 0.0), np.minimum(np.nextafter(edges, 2.0), 1.0), tiny]
    return np.concatenate(near).astype(name[:2])


@pytest.mark.parametrize(("name", "bins"), LAYOUTS.items(), ids=list(LAYOUTS))
def test_a_probability_is_counted_in_the_bin_that_can_hold_it(name, bins):
    values = values_to_bin(name, bins)
    truth = np.arange(values.size) % 3
    counts = np.zeros((2, bins.count), np.int64)
    score_bins.count(truth.astype(np.uint8), values, 1, bins, counts)
    places = np.searchsorted(score_bins.least(bins), values.astype(float), "right") - 1
    for row, chosen in ((0, truth != 1), (1, truth == 1)):
        assert np.array_equal(counts[row], np.bincount(places[chosen], minlength=bins.count))
    if bins.layout != "floats":
        assert np.array_equal(np.sort(places), np.arange(bins.count))


@pytest.mark.parametrize(("name", "bins"), LAYOUTS.items(), ids=list(LAYOUTS))
def test_a_bin_said_to_hold_one_score_holds_but_one(name, bins):
    values = np.unique(values_to_bin(name, bins).astype(float) + 0.0)
    places = np.searchsorted(score_bins.least(bins), values, "right") - 1
    found = np.bincount(places, minlength=bins.count)
    assert np.all(found[score_bins.tied(bins)] <= 1)


@pytest.mark.parametrize("name", ["f2", "f4", "f8"])
@given(seed=st.integers(0, 2**32))
def test_thresholds_of_the_background_give_the_score_they_promise(name, seed):
    rng = np.random.default_rng(seed)
    truth = (rng.random(40) < 0.4).astype(np.uint8)
    truth[:2] = 0, 1
    scores = unit_values(rng, 40, name)
    # Many lie on the edges of bins of the middle.
    scores = np.where(rng.random(40) < 0.5, np.round(scores * 64) / 64, scores).astype(name)
    best = sl.score(truth, scores, metrics="best_threshold_dice", include_background=True)
    for label, p in ((0, 1 - scores.astype(float)), (1, scores.astype(float))):
        got = best["best_threshold_dice"]
        cut = (p >= got.per_class[label]).astype(np.uint8)
        promised = got.details[str(label)]["score"]
        assert sl.dice((truth == label).astype(np.uint8), cut, classes=2) == pytest.approx(promised)


def test_areas_of_realistic_sigmoid_outputs_are_certain_to_a_millionth():
    """As those of 512³ voxels in `benchmarks/results/battery`: the width hardly depends on size."""
    rng = np.random.default_rng(4)
    truth = (rng.random(2**20) < 0.3).astype(np.uint8)
    logits = rng.normal(9.0 * truth - 5.0, 2.0).astype(np.float32)
    probability = (1 / (1 + np.exp(-logits))).astype(np.float32)
    metrics = "auroc,average_precision,expected_calibration_error"
    once = sl.score(truth, probability, metrics=metrics)
    exact = sl.score(truth, probability, metrics=metrics, exact=True)
    for name in metrics.split(","):
        assert 2 * once[name].error_bound <= 1e-6, name
        assert abs(once[name].value - exact[name].value) <= once[name].error_bound, name
    assert exact["auroc"].error_bound == 0.0


@given(volume=scored_volumes())
def test_the_area_of_complements_is_the_complement_within_both_bounds(volume):
    truth, scores = volume
    kind = {"kind": "probabilities", "metrics": "auroc"}
    area = sl.score(truth, scores, **kind)["auroc"]
    other = sl.score(1 - truth, scores, **kind)["auroc"]
    slack = area.error_bound + other.error_bound + 1e-12
    assert abs(area.value + other.value - 1) <= slack


def test_a_micro_average_pools_the_scores_of_all_classes():
    rng = np.random.default_rng(5)
    truth = rng.choice(3, 200, p=[0.6, 0.3, 0.1]).astype(np.uint8)
    p = 0.7 * rng.dirichlet(np.ones(3), 200).T
    p[truth, np.arange(200)] += 0.3
    codes = np.round(p * 255).astype(np.uint8)
    options = {"kind": "probabilities", "include_background": True, "average": "micro"}
    pooled = (truth == np.arange(3)[:, np.newaxis]).astype(np.uint8).ravel(), codes.ravel()
    for name in ("auroc", "average_precision", "best_threshold_dice", "sensitivity_at_specificity"):
        alone = sl.score(*pooled, metrics=name, kind="probabilities")[name].value
        got = sl.score(truth, codes, metrics=name, **options)[name].value
        assert got == pytest.approx(alone, abs=1e-14), name
        assert (
            got
            != sl.score(truth, codes, **options | {"average": "macro", "metrics": name})[name].value
        )


def test_both_classes_of_one_channel_are_not_pooled():
    truth, p = np.array([0, 1, 1, 0]), np.array([0.1, 0.9, 0.3, 0.4])
    with pytest.raises(sl.InvalidInputError, match="cannot pool the two classes of one channel"):
        sl.score(truth, p, metrics="auroc", average="micro", include_background=True)


def test_logits_are_ranked_where_their_probabilities_are_all_one():
    truth = np.array([0, 1, 0, 1, 0], np.uint8)
    logits = np.array([40.0, 50.0, -800.0, -760.0, 900.0])
    options = {"kind": "logits", "metrics": "auroc,average_precision"}
    once, again = (sl.score(truth, logits, exact=exact, **options) for exact in (False, True))
    assert again["auroc"].value == naive_auroc(truth, logits)
    assert abs(once["auroc"].value - naive_auroc(truth, logits)) <= once["auroc"].error_bound


@given(volume=scored_volumes(["f2"]), data=st.data())
def test_increasing_maps_of_codes_leave_the_area_alone(volume, data):
    truth, _ = volume
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    codes = rng.integers(0, 40, truth.shape).astype(np.uint8)
    mapping = np.sort(rng.choice(256, 40, replace=False)).astype(np.uint8)
    options = {"kind": "probabilities", "metrics": "auroc,average_precision"}
    before = sl.score(truth, codes, **options).to_dict()["metrics"]
    assert sl.score(truth, mapping[codes], **options).to_dict()["metrics"] == before


@given(volume=scored_volumes(["f2"]))
def test_the_area_of_the_complement_is_the_complement(volume):
    truth, scores = volume
    codes = np.round(scores.astype(float) * 255).astype(np.uint8)
    options = {"kind": "probabilities"}
    area = sl.auroc(truth, codes, **options)
    assert sl.auroc(truth, 255 - codes, **options) == pytest.approx(1 - area, abs=1e-15)
    assert sl.auroc(1 - truth, codes, **options) == pytest.approx(1 - area, abs=1e-15)


@given(volume=scored_volumes())
def test_the_best_threshold_gives_the_score_it_promises(volume):
    truth, scores = volume
    result = sl.score(truth, scores, metrics="best_threshold_dice,threshold_curve")
    best = result["best_threshold_dice"]
    promised = best.details["1"]["score"]
    cut = (scores.astype(float) >= best.value).astype(np.uint8)
    assert sl.dice(truth, cut, classes=2) == pytest.approx(promised, abs=1e-12)
    assert result["threshold_curve"].value <= promised + 1e-12


def test_a_curve_over_thresholds_is_every_metric_of_the_decisions():
    rng = np.random.default_rng(2)
    truth = (rng.random(400) < 0.3).astype(np.uint8)
    scores = np.clip(0.3 * truth + 0.7 * rng.random(400), 0, 1).astype(np.float32)
    curve = sl.score(truth, scores, metrics="threshold_curve")["threshold_curve"].details["1"]
    for place in (0, 17, 50, 93):
        cut = (scores.astype(float) >= curve["threshold"][place]).astype(np.uint8)
        assert set(curve) == {"threshold", *OF_COUNTS}
        result = sl.score(truth, cut, metrics=OF_COUNTS, classes=2)
        for name in OF_COUNTS:
            expected = result[name].value
            got = curve[name][place]
            assert got == expected or (got is None and math.isnan(expected)), (name, place)


def test_every_metric_of_labels_is_on_a_curve_over_thresholds():
    """But the matrix itself, of which the four counts are on it."""
    of_labels = {m.name for m in discover()["confusion"].metrics}
    assert of_labels - set(OF_COUNTS) == {"confusion_matrix"}


def test_a_volume_of_one_class_has_no_ranking():
    for truth in (np.zeros(5, np.uint8), np.ones(5, np.uint8)):
        result = sl.score(truth, np.linspace(0, 1, 5), metrics="auroc,partial_auroc,roc_curve")
        assert all(math.isnan(metric.value) for metric in result.metrics.values())


def test_a_perfectly_calibrated_forecast_has_no_error_and_its_parts_add_up():
    truth = np.repeat([0, 1, 0, 1], [90, 10, 30, 70]).astype(np.uint8)
    forecast = np.repeat([0.1, 0.7], 100)
    result = sl.score(
        truth,
        forecast,
        metrics="expected_calibration_error,brier_reliability,brier_resolution,"
        "brier_uncertainty,brier_score",
        bins=10,
    )
    assert result["expected_calibration_error"].value == pytest.approx(0, abs=1e-11)
    parts = [result[f"brier_{part}"].value for part in ("reliability", "resolution", "uncertainty")]
    assert parts[0] - parts[1] + parts[2] == pytest.approx(result["brier_score"].value, abs=1e-11)


def test_exact_needs_the_data_again():
    accumulator = sl.Accumulator("auroc", exact=True)
    accumulator.update(np.array([0, 1, 1, 0]), np.array([0.5, 0.5 + 2**-30, 0.2, 0.1]))
    with pytest.raises(sl.InvalidInputError, match="exact=True needs to see the scores again"):
        accumulator.compute()
    with pytest.raises(sl.InvalidInputError, match="cannot be combined with weights"):
        sl.score(
            np.array([0, 1]),
            np.array([0.1, 0.2]),
            weights=np.array([1, 2]),
            metrics="auroc",
            exact=True,
        )
