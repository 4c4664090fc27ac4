"""Losses against other packages' numbers (golden/losses.py), by hand, and what they refuse."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import streamloss as sl
from streamloss.losses import log, log_cosh, power
from streamloss.registry import definitions, needed
from tests.strategies import Case, cases
from tests.test_laws import as_zarr

GOLDEN = json.loads((Path(__file__).parent / "golden" / "losses.json").read_text(encoding="utf-8"))
# Other packages sum in float64, in an order of their own.
SLACK = 2.0**-46

every_golden = pytest.mark.parametrize(
    "entry",
    GOLDEN["cases"],
    ids=[f"{'-'.join(c['expected'])}-{i}" for i, c in enumerate(GOLDEN["cases"])],
)

TRUTH = np.array([0, 1, 1, 2], np.uint8)
P = np.array([[0.5, 0.25, 0.0, 0.25], [0.25, 0.5, 1.0, 0.25], [0.25, 0.25, 0.0, 0.5]])
BINARY = np.array([0, 1, 1, 0], np.uint8)
Q = np.array([0.5, 1.0, 0.5, 0.0])


def arrays(entry):
    found = (GOLDEN["arrays"][entry[role]] for role in ("truth", "prediction"))
    return (np.array(array["values"], array["dtype"]) for array in found)


@every_golden
def test_a_loss_is_the_number_of_the_other_package(entry):
    truth, prediction = arrays(entry)
    result = sl.score(truth, prediction, metrics=list(entry["expected"]), **entry["options"])
    for name, expected in entry["expected"].items():
        got = result[name]
        assert abs(got.value - expected) <= got.error_bound + SLACK * max(abs(expected), 1.0), name
        # A bound that is far too wide would let anything pass.
        assert got.error_bound <= 1e-8 * max(abs(expected), 1.0), name


def test_the_golden_file_says_where_its_numbers_come_from():
    assert set(GOLDEN["provenance"]) == {"command", "python", "versions", "notes"}
    assert {"torch", "monai", "torchmetrics", "scipy"} <= set(GOLDEN["provenance"]["versions"])
    assert all(entry["source"] for entry in GOLDEN["cases"])


def test_class_weights_divide_a_mean_by_the_weights():
    losses = -np.log([0.5, 0.5, 1.0, 0.5])
    weights = np.array([1.0, 2.0, 2.0, 4.0])
    got = sl.score(TRUTH, P, metrics="cross_entropy", class_weights=[1, 2, 4])["cross_entropy"]
    assert got.value == pytest.approx(weights @ losses / weights.sum(), abs=1e-11)
    assert got.per_class[1] == pytest.approx(losses[1] / 2, abs=1e-11)


def test_pos_weight_divides_a_mean_by_the_voxels():
    got = sl.cross_entropy(BINARY, Q, pos_weight=3.0)
    assert got == pytest.approx((math.log(2) + 3 * math.log(2)) / 4, abs=1e-11)


@given(scale=st.sampled_from([2.0**-20, 0.25, 8.0, 2.0**20]))
def test_a_weighted_mean_does_not_depend_on_the_scale_of_the_weights(scale):
    weights = np.array([1.0, 2.0, 3.0])
    for smoothing in (0.0, 0.25):
        options = {"label_smoothing": smoothing}
        plain = sl.cross_entropy(TRUTH, P, class_weights=weights, **options)
        scaled = sl.cross_entropy(TRUTH, P, class_weights=weights * scale, **options)
        assert scaled == plain


def test_a_class_of_weight_zero_alone_has_no_mean():
    got = sl.score(TRUTH[:1], P[:, :1], metrics="cross_entropy", class_weights="0,1,1")
    assert math.isnan(got["cross_entropy"].value)


def test_positives_divide_the_sum_by_the_voxels_that_are_not_background():
    for name in ("cross_entropy", "focal_loss", "mse", "brier_score"):
        total = sl.score(TRUTH, P, metrics=name, reduction="sum")[name].value
        got = sl.score(TRUTH, P, metrics=name, reduction="positives")[name]
        assert got.value == pytest.approx(total / 3, rel=1e-14)
        assert math.fsum(got.per_class.values()) == pytest.approx(got.value, rel=1e-12)
    total = sl.hinge_loss(BINARY, Q, reduction="sum")
    assert sl.hinge_loss(BINARY, Q, reduction="positives") == total / 2


def test_a_loss_over_positives_is_undefined_without_any():
    got = sl.score(TRUTH[:1], P[:, :1], metrics="cross_entropy", reduction="positives")
    assert math.isnan(got["cross_entropy"].value)
    assert json.loads(got.to_json())["metrics"]["cross_entropy"]["value"] is None


def test_smoothing_empties_gives_them_smooth_nr_over_smooth_dr():
    nothing = np.zeros(2, np.uint8), np.zeros(2)
    assert math.isnan(sl.soft_dice(*nothing))
    assert sl.soft_dice(*nothing, smooth_nr=1e-5, smooth_dr=1e-5) == 1.0
    assert sl.soft_dice(*nothing, smooth_dr=1.0) == 0.0


def test_soft_dice_by_hand():
    # sum p y = 1.5, sum p = 2, sum y = 2, sum p^2 = 1.5.
    assert sl.soft_dice(BINARY, Q) == 0.75
    assert sl.soft_dice(BINARY, Q, denominator="squared") == 3 / 3.5
    assert sl.soft_dice(BINARY, Q, smooth_nr=1, smooth_dr=1) == 0.8
    assert sl.tversky_index(BINARY, Q, tversky_alpha=1, tversky_beta=1) == 0.6
    assert sl.focal_tversky_loss(BINARY, Q, tversky_gamma=2) == 0.0625
    assert sl.log_cosh_dice_loss(BINARY, Q) == pytest.approx(math.log(math.cosh(0.25)), abs=1e-15)


def test_tversky_weighs_false_positives_by_alpha_and_false_negatives_by_beta():
    truth, p = np.array([0, 0, 1], np.uint8), np.array([1.0, 1.0, 1.0])
    assert sl.tversky_index(truth, p, tversky_alpha=0.25, tversky_beta=9) == 1 / 1.5
    missed = np.array([0.0, 0.0, 1.0])
    assert sl.tversky_index(np.ones(3, np.uint8), missed, tversky_beta=0.25, tversky_alpha=9) == (
        1 / 1.5
    )


def test_generalized_dice_gives_a_class_without_truth_the_largest_weight():
    truth = np.array([1, 1, 0], np.uint8)
    p = np.array([[0.0, 0.5, 1.0], [1.0, 0.5, 0.0], [0.0, 0.0, 0.0]])
    assert sl.generalized_soft_dice(truth, p) == 3 / 3.5
    p[2, 2], p[0, 2] = 1.0, 0.0
    assert sl.generalized_soft_dice(truth, p) == 3 / 4.5


def test_dice_ce_is_the_weighted_sum_of_its_parts():
    options = {"label_smoothing": 0.1, "class_weights": [1, 2, 3], "denominator": "squared"}
    names = "soft_dice_loss,cross_entropy,dice_ce_loss"
    got = sl.score(TRUTH, P, metrics=names, lambda_dice=0.25, lambda_ce=4, **options)
    dice, cross = got["soft_dice_loss"].value, got["cross_entropy"].value
    assert got["dice_ce_loss"].value == 0.25 * dice + 4 * cross
    alone = sl.score(TRUTH, P, metrics="dice_ce_loss", lambda_dice=0.25, lambda_ce=4, **options)
    assert alone["dice_ce_loss"] == got["dice_ce_loss"]


def test_the_parts_of_a_loss_do_not_take_options_that_it_does_not_declare():
    got = sl.score(TRUTH, P, metrics="cross_entropy,dice_ce_loss", reduction="sum")
    assert got["dice_ce_loss"].value == sl.dice_ce_loss(TRUTH, P)


def test_a_loss_with_parts_keeps_the_statistics_of_both():
    task = Case(TRUTH, P, {"metrics": "dice_ce_loss"}).task
    assert {"moments", "likelihood"} <= {statistic.name for statistic in needed(task)}


def test_a_loss_with_parts_does_not_depend_on_chunks():
    whole = sl.score(TRUTH, P, metrics="dice_ce_loss", label_smoothing=0.1).to_dict()["metrics"]
    chunked = as_zarr(TRUTH, (3,)), as_zarr(P, (2, 1))
    got = sl.score(*chunked, metrics="dice_ce_loss", label_smoothing=0.1, workers=2)
    assert got.to_dict()["metrics"] == whole


def test_kl_divergence_is_zero_where_distributions_agree_and_cross_entropy_for_labels():
    y = np.array([0.0, 0.25, 0.75, 1.0])
    got = sl.score(y, y, metrics="kl_divergence")["kl_divergence"]
    assert 0.0 <= got.value <= got.error_bound
    assert sl.kl_divergence(TRUTH, P) == sl.cross_entropy(TRUTH, P)


def test_brier_score_by_hand():
    assert sl.brier_score(BINARY, Q) == 0.125
    assert sl.brier_score(BINARY, Q, scale_by_half="false") == 0.25
    two = np.stack([1 - Q, Q])
    assert sl.brier_score(BINARY, two) == 0.125
    assert sl.brier_score(TRUTH, P) == 3 * 0.375 / 4
    assert sl.brier_score(TRUTH, P, scale_by_half=True) == 3 * 0.375 / 8


def test_huber_is_half_the_square_to_delta_and_linear_beyond():
    truth, p = np.zeros(3), np.array([0.5, -2.0, 10.0])
    options = {"kind": "values", "delta": 2.0, "reduction": "sum"}
    assert sl.huber_loss(truth, p, **options) == 0.125 + 2.0 + 2 * (10 - 1)


@pytest.mark.parametrize("size", [1e-100, 1.0, 1e140])
def test_huber_and_psnr_keep_large_and_small_magnitudes(size):
    truth, p = np.zeros(2), np.array([3.0, 4.0]) * size
    assert sl.huber_loss(truth, p, kind="values", delta=10 * size) == pytest.approx(
        6.25 * size**2, rel=1e-15
    )
    got = sl.psnr(truth, p, kind="values", data_range=10 * size)
    assert got == pytest.approx(10 * math.log10(8), rel=1e-13)


def test_psnr_without_any_error_is_undefined_as_it_is_infinite():
    got = sl.score(np.ones(3), np.ones(3), kind="values", metrics="psnr", data_range=1)
    assert math.isnan(got["psnr"].value)
    got.to_json()


def test_poisson_nll_by_hand():
    truth, x = np.array([0.0, 3.0]), np.array([0.0, 1.0])
    assert sl.poisson_nll(truth, x, kind="values", reduction="sum") == pytest.approx(
        1 + math.e - 3, rel=1e-15
    )


@pytest.mark.parametrize(
    ("metric", "truth", "prediction", "options", "sentence"),
    [
        ("psnr", Q, Q, {"kind": "values"}, "psnr needs data_range"),
        ("psnr", Q, Q, {"kind": "values", "data_range": 0}, "data_range: expected a number"),
        ("poisson_nll", Q, Q + 800, {"kind": "values"}, r"at most 700.*: 4 are not"),
        ("poisson_nll", Q, -Q, {"kind": "values", "log_input": False}, r"rates.*: 3 are not"),
        ("poisson_nll", Q, Q, {"kind": "values", "full": "maybe"}, "expected true or false"),
        (
            "cross_entropy",
            TRUTH,
            P,
            {"class_weights": [1, 2]},
            "each of the 3 classes, background included, got 2",
        ),
        ("cross_entropy", TRUTH, P, {"class_weights": "0,0,0"}, "not all 0"),
        ("cross_entropy", TRUTH, P, {"class_weights": "1,-1,1"}, "one weight from 0"),
        ("cross_entropy", TRUTH, P, {"pos_weight": 2}, "pos_weight is for two classes"),
        ("cross_entropy", BINARY, Q, {"pos_weight": 2, "class_weights": [1, 2]}, "not both"),
        ("cross_entropy", BINARY, Q, {"label_smoothing": 1.5}, "from 0 to 1"),
        ("cross_entropy", Q, Q, {"reduction": "positives"}, "the truth is a distribution"),
        ("mse", Q, Q, {"kind": "values", "reduction": "positives"}, "the truth is values"),
        ("mse", BINARY, Q, {"reduction": "median"}, "expected mean, sum or positives"),
        ("soft_dice", BINARY, Q, {"smooth_nr": 1}, "smooth_nr must not be larger than smooth_dr"),
        ("soft_dice", BINARY, Q, {"denominator": "cubed"}, "expected one of linear, squared"),
    ],
)
def test_what_cannot_be_scored_is_refused_in_one_sentence(
    metric, truth, prediction, options, sentence
):
    with pytest.raises(sl.InvalidInputError, match=sentence):
        sl.score(truth, prediction, metrics=metric, **options)


@pytest.mark.parametrize(
    ("metric", "peer"),
    [("soft_dice_loss", "monai"), ("dice_ce_loss", "monai"), ("cross_entropy", "torch")],
)
def test_the_options_of_a_convention_are_options_of_its_metric(metric, peer):
    ((_, definition),) = definitions(metric)
    assert set(definition.conventions[peer]) <= {p.name for p in definition.parameters}
    assert sl.score(BINARY, Q, metrics=metric, **definition.conventions[peer])


@given(data=st.data())
def test_the_options_of_conventions_are_accepted_by_their_metrics(data):
    case = data.draw(cases(("probabilities", 3, False)))
    for name in case.options["metrics"]:
        for _, definition in definitions(name):
            for options in definition.conventions.values():
                sl.score(case.truth, case.prediction, metrics=name, kind="probabilities", **options)


@given(x=st.floats(0.0, 1.0), y=st.floats(0.0, 5.0))
def test_the_functions_of_scores_are_those_of_the_c_library(x, y):
    assert log_cosh(x) == pytest.approx(math.log(math.cosh(x)), abs=2.0**-50)
    assert power(x, y) == pytest.approx(x**y, rel=1e-11, abs=1e-300)
    assert log(x + 1.0) == pytest.approx(math.log(x + 1.0), rel=2.0**-51, abs=1e-300)
