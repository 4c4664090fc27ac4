"""Values that can be checked with pencil and paper, and what follows from the definitions."""

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import streamloss as sl
from tests.strategies import LAYOUTS, cases

# Three voxels, a channel per class; the true classes got 0.57, 0.58 and 0.52.
TRUTH = np.array([0, 1, 2], np.uint8)
SOFTMAX = np.array([[0.57, 0.22, 0.22], [0.20, 0.58, 0.26], [0.23, 0.20, 0.52]])
LOSSES = [-math.log(0.57), -math.log(0.58), -math.log(0.52)]


def binary(truth, prediction, **options):
    """Binary cross entropy of one voxel with a soft truth."""
    return sl.cross_entropy(np.array([truth]), np.array([prediction]), **options)


def one_term(truth, prediction):
    """The term -y ln p of one channel: the other channel's part of the truth is left at 0."""
    y = np.array([[truth], [0.0]])
    p = np.array([[prediction], [1.0 - prediction]])
    return sl.cross_entropy(y, p, classes=2)


@pytest.mark.parametrize("voxel", [0, 1, 2])
def test_cross_entropy_of_one_voxel_is_minus_the_log_of_the_true_class_probability(voxel):
    options = {"metrics": "cross_entropy", "classes": 3}
    got = sl.score(TRUTH[[voxel]], SOFTMAX[:, [voxel]], **options)["cross_entropy"]
    assert abs(got.value - LOSSES[voxel]) <= got.error_bound <= 1e-12
    assert got.value == pytest.approx([0.56212, 0.54473, 0.65393][voxel], abs=5e-6)


def test_cross_entropy_of_the_three_voxels_is_the_mean_of_their_losses():
    result = sl.score(TRUTH, SOFTMAX, metrics="cross_entropy")["cross_entropy"]
    assert abs(result.value - math.fsum(LOSSES) / 3) <= result.error_bound
    assert result.unit == "nat"
    for voxel in range(3):
        assert abs(result.per_class[voxel] - LOSSES[voxel]) <= result.error_bound
    total = sl.score(TRUTH, SOFTMAX, metrics="cross_entropy", reduction="sum")["cross_entropy"]
    assert abs(total.value - math.fsum(LOSSES)) <= total.error_bound


def test_logits_whose_softmax_is_the_example_give_the_same_losses():
    logits = np.log(SOFTMAX) + np.array([5.0, -300.0, 0.25])
    result = sl.score(TRUTH, logits, kind="logits", metrics="cross_entropy")["cross_entropy"]
    for voxel in range(3):
        assert result.per_class[voxel] == pytest.approx(LOSSES[voxel], abs=1e-12)


def test_one_term_of_the_soft_cross_entropy_of_02_and_02_is_032189():
    assert one_term(0.2, 0.2) == pytest.approx(-0.2 * math.log(0.2), abs=1e-11)
    assert round(one_term(0.2, 0.2), 5) == 0.32189


def test_one_term_of_the_soft_cross_entropy_of_08_and_08_is_017851():
    assert one_term(0.8, 0.8) == pytest.approx(-0.8 * math.log(0.8), abs=1e-11)
    assert round(one_term(0.8, 0.8), 5) == 0.17851


def test_binary_soft_cross_entropy_is_the_sum_of_both_terms():
    assert round(binary(0.2, 0.2), 5) == round(binary(0.8, 0.8), 5) == 0.50040
    assert binary(0.2, 0.2) == pytest.approx(one_term(0.2, 0.2) + one_term(0.8, 0.8), abs=1e-11)
    both = sl.cross_entropy(np.array([[0.2], [0.8]]), np.array([[0.2], [0.8]]), classes=2)
    assert binary(0.2, 0.2) == pytest.approx(both, abs=1e-11)


def test_soft_cross_entropy_is_not_symmetric_in_truth_and_prediction():
    assert one_term(0.2, 0.8) == pytest.approx(-0.2 * math.log(0.8), abs=1e-11)
    assert one_term(0.8, 0.2) == pytest.approx(-0.8 * math.log(0.2), abs=1e-11)
    assert binary(0.2, 0.5) == pytest.approx(math.log(2), abs=1e-11)
    assert binary(0.5, 0.2) == pytest.approx(-0.5 * math.log(0.2 * 0.8), abs=1e-11)


def test_exchanging_the_two_classes_leaves_the_binary_soft_cross_entropy_alone():
    assert binary(0.25, 0.75) == pytest.approx(binary(0.75, 0.25), abs=1e-11)


def test_mse_takes_no_root():
    truth, prediction = np.zeros(2), np.array([3.0, 4.0])
    assert sl.mse(truth, prediction, kind="values") == 12.5
    assert sl.rmse(truth, prediction, kind="values") == math.sqrt(12.5)
    assert sl.mae(truth, prediction, kind="values") == 3.5


def test_nothing_is_rounded_on_the_way_to_json_and_back():
    truth, prediction = np.array([0, 0, 1, 2], np.uint8), np.array([0, 1, 1, 2], np.uint8)
    result = sl.score(truth, prediction, metrics="dice,iou,accuracy,precision", classes=3)
    assert result["dice"].per_class[1] == 2 / 3
    written = json.loads(result.to_json())
    again = sl.Result.from_json(result.to_json())
    for name, metric in result.metrics.items():
        assert repr(written["metrics"][name]["value"]) == repr(metric.value)
        assert again[name] == metric
    assert again.to_json() == result.to_json()


def test_losses_keep_every_bit_in_json():
    result = sl.score(TRUTH, SOFTMAX)
    again = sl.Result.from_json(result.to_json())
    assert [again[name] for name in result.metrics] == list(result.metrics.values())


likelihood_layouts = pytest.mark.parametrize(
    "layout",
    [layout for layout in LAYOUTS if layout[0] in ("probabilities", "logits")],
    ids=lambda layout: f"{layout[0]}-{layout[1]}-{'soft' if layout[2] else 'hard'}",
)


@likelihood_layouts
@given(data=st.data())
def test_focal_loss_without_gamma_and_alpha_is_cross_entropy_bit_for_bit(layout, data):
    case = data.draw(cases(layout))
    plain = {"class_weights": None, "label_smoothing": 0, "gamma": 0, "alpha": None}
    options = {**case.options_of(["cross_entropy", "focal_loss"]), **plain}
    options.pop("pos_weight", None)
    result = sl.score(case.truth, case.prediction, **options)
    plain, focal = result["cross_entropy"], result["focal_loss"]
    assert focal.value.hex() == plain.value.hex()
    assert repr(dict(focal.per_class)) == repr(dict(plain.per_class))
    assert focal.error_bound == plain.error_bound
    assert focal.counts == plain.counts


def test_focal_loss_weighs_a_voxel_by_alpha_and_its_miss():
    loss = -math.log(0.9)
    truth, p = np.array([1], np.uint8), np.array([0.9])
    got = sl.focal_loss(truth, p, alpha=0.25, gamma=2.0)
    assert got == pytest.approx(0.25 * 0.1**2 * loss, abs=1e-11)
    got = sl.focal_loss(1 - truth, 1 - p, alpha=0.25, gamma=2.0)
    assert got == pytest.approx(0.75 * 0.1**2 * loss, abs=1e-11)
    got = sl.focal_loss(TRUTH[:1], SOFTMAX[:, :1], alpha=[0.5, 1, 1], gamma=3)
    assert got == pytest.approx(0.5 * 0.43**3 * LOSSES[0], abs=1e-11)


@given(data=st.data())
def test_dice_follows_from_iou_and_its_loss_from_dice(data):
    case = data.draw(cases(("labels", 0, False)))
    options = case.options_of(["dice", "iou", "dice_loss"])
    result = sl.score(case.truth, case.prediction, **options)
    for value, iou in result["iou"].per_class.items():
        dice, loss = result["dice"].per_class[value], result["dice_loss"].per_class[value]
        if math.isnan(iou):
            assert math.isnan(dice)
            assert math.isnan(loss)
        else:
            assert abs(dice - 2 * iou / (1 + iou)) <= 2.0**-51
            assert abs(loss - (1 - dice)) <= 2.0**-52


@pytest.mark.parametrize(
    ("name", "options", "expected"),
    [
        ("mse", {}, 0.125),
        ("rmse", {}, math.sqrt(0.125)),
        ("mae", {}, 0.25),
        ("cross_entropy", {}, math.log(2) / 2),
        ("focal_loss", {"alpha": 0.25, "gamma": 2.0}, math.log(2) / 16),
        ("dice", {}, 0.8),
        ("dice_loss", {}, 0.2),
        ("iou", {}, 2 / 3),
        ("soft_dice", {}, 0.75),
        ("soft_dice_loss", {}, 0.25),
        ("soft_iou", {}, 0.6),
        ("accuracy", {}, 0.75),
        ("precision", {}, 2 / 3),
        ("recall", {}, 1.0),
    ],
)
def test_a_one_liner_returns_the_value_as_a_float(name, options, expected):
    truth, p = np.array([0, 1, 1, 0], np.uint8), np.array([0.5, 1.0, 0.5, 0.0])
    got = getattr(sl, name)(truth, p, **options)
    assert type(got) is float
    assert got == pytest.approx(expected, abs=1e-11)


def test_the_hinge_one_liners_take_raw_scores_without_being_told():
    truth, scores = np.array([0, 1, 1, 0], np.uint8), np.array([-3.0, 2.0, 0.5, 1.0])
    assert sl.hinge_loss(truth, scores) == (0.5 + 2.0) / 4
    assert sl.squared_hinge_loss(truth, scores) == (0.25 + 4.0) / 4


def test_a_one_liner_takes_labels_too():
    truth, prediction = np.array([0, 1, 1, 0], np.uint8), np.array([1, 1, 0, 0], np.uint8)
    assert sl.dice(truth, prediction) == 0.5
    assert sl.iou(truth, prediction) == 1 / 3
    assert sl.dice_loss(truth, prediction) == 0.5


def test_errors_of_labels_take_them_as_the_numbers_0_and_1():
    truth, prediction = np.array([0, 1, 1, 0], np.uint8), np.array([1, 1, 0, 0], np.uint8)
    assert sl.mse(truth, prediction) == sl.mae(truth, prediction) == 0.5


def test_a_class_that_both_sides_lack_is_undefined_and_counted():
    labels = np.array([0, 0, 1, 1], np.uint8)
    result = sl.score(labels, labels, metrics="dice,iou,dice_loss", classes=[0, 1, 5])
    written = json.loads(result.to_json())["metrics"]
    for name, full in (("dice", 1.0), ("iou", 1.0), ("dice_loss", 0.0)):
        got = result[name]
        assert math.isnan(got.per_class[5])
        assert written[name]["per_class"] == {"1": full, "5": None}
        assert got.value == full
        assert got.counts["undefined_classes"] == written[name]["undefined_classes"] == 1


def test_without_any_foreground_the_value_itself_is_undefined_and_null():
    nothing = np.zeros((3, 4), np.uint8)
    result = sl.score(nothing, nothing, metrics="dice,iou,precision,recall", classes=2)
    written = json.loads(result.to_json())["metrics"]
    for name, got in result.metrics.items():
        assert math.isnan(got.value)
        assert written[name]["value"] is None
        assert got.counts["undefined_classes"] == 1
    assert math.isnan(sl.dice(nothing, nothing))


@pytest.mark.parametrize(
    ("truth", "prediction"), [([0, 0], [0, 1]), ([0, 1], [0, 0])], ids=["truth", "prediction"]
)
def test_a_class_that_one_side_lacks_scores_zero(truth, prediction):
    arrays = np.array(truth, np.uint8), np.array(prediction, np.uint8)
    result = sl.score(*arrays, metrics="dice,iou,dice_loss", classes=2)
    assert [result[name].value for name in ("dice", "iou", "dice_loss")] == [0.0, 0.0, 1.0]
    assert result["dice"].counts["undefined_classes"] == 0


def test_precision_without_predictions_and_recall_without_truth_are_undefined():
    empty, full = np.zeros(2, np.uint8), np.ones(2, np.uint8)
    missed = sl.score(full, empty, metrics="precision", classes=2)["precision"]
    assert math.isnan(missed.per_class[1])
    assert missed.value == 0.0
    assert sl.recall(full, empty, classes=2) == 0.0
    assert sl.precision(empty, full, classes=2) == 0.0
    assert math.isnan(sl.recall(empty, full, classes=2))


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8"])
@pytest.mark.parametrize("size", [1000.0, 60000.0])
def test_binary_losses_of_huge_logits_neither_overflow_nor_vanish(size, dtype):
    truth = np.array([1, 1, 0, 0], np.uint8)
    x = np.array([size, -size, size, -size], dtype)
    # float16 rounds 60000 to itself: every loss is exactly 0 or |x|.
    losses = np.array([0.0, size, size, 0.0])
    options = {"kind": "logits", "alpha": 0.25, "gamma": 2.0}
    result = sl.score(truth, x, metrics="cross_entropy,focal_loss", **options)
    assert result["cross_entropy"].value == losses.mean()
    assert result["cross_entropy"].per_class == {0: size / 2, 1: size / 2}
    assert result["focal_loss"].value == (0.25 * size + 0.75 * size) / 4


@pytest.mark.parametrize("size", [1000.0, 60000.0])
def test_losses_of_classes_with_huge_logits_neither_overflow_nor_vanish(size):
    truth = np.array([0, 1, 2], np.uint8)
    x = np.array([[size, size, size], [-size, 0.0, size], [0.0, 0.0, -size]])
    result = sl.score(truth, x, kind="logits", metrics="cross_entropy,focal_loss")
    expected = {0: 0.0, 1: size, 2: 2 * size + math.log(2)}
    for name in ("cross_entropy", "focal_loss"):
        for value, loss in expected.items():
            assert result[name].per_class[value] == pytest.approx(loss, rel=1e-15, abs=1e-11)


def test_soft_truths_of_huge_logits_stay_finite():
    x = np.array([1000.0, -60000.0])
    assert sl.cross_entropy(np.array([0.75, 0.5]), x, kind="logits") == (250.0 + 30000.0) / 2


def test_clipped_voxels_are_counted_and_reported():
    truth = np.array([0, 1, 1, 0, 1], np.uint8)
    p = np.array([0.0, 1.0, 0.0, 0.5, 0.25])
    result = sl.score(truth, p, metrics="cross_entropy,focal_loss")
    assert result["cross_entropy"].counts == {"clipped_voxels": 3}
    assert result["focal_loss"].counts == {"clipped_voxels": 3}
    assert json.loads(result.to_json())["metrics"]["cross_entropy"]["clipped_voxels"] == 3
    assert "clipped" in str(result)
    wide = sl.score(truth, p, metrics="cross_entropy", eps=0.3)["cross_entropy"]
    assert wide.counts == {"clipped_voxels": 4}


def test_a_sure_miss_costs_minus_the_log_of_eps():
    truth, p = np.array([1], np.uint8), np.array([0.0])
    assert sl.cross_entropy(truth, p) == pytest.approx(52 * math.log(2), abs=1e-11)
    assert sl.cross_entropy(truth, p, eps=1e-7) == pytest.approx(7 * math.log(10), abs=1e-11)


def test_voxels_of_several_classes_count_as_clipped_where_the_true_class_was():
    truth = np.array([0, 0, 1], np.uint8)
    p = np.array([[1.0, 0.0, 0.5], [0.0, 0.5, 0.5], [0.0, 0.5, 0.0]])
    result = sl.score(truth, p, metrics="cross_entropy")["cross_entropy"]
    assert result.counts == {"clipped_voxels": 2}


def test_logits_are_never_clipped():
    result = sl.score(np.array([1], np.uint8), np.array([99.0]), kind="logits")
    assert "clipped_voxels" not in result["cross_entropy"].counts
