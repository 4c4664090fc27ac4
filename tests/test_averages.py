"""Averages over classes, the rule for empty ones, and what each metric declares of itself."""

import json
import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import streamloss as sl
from streamloss.averages import POLICIES
from streamloss.metrics.class_counts import Confusion, one_against_rest
from streamloss.registry import definitions, metric_names
from tests.strategies import cases, runs_of

# Of the classes 1 to 4 the first is in neither, the second missed, the third spurious.
TRUTH = np.array([0, 2, 2, 4, 4, 4, 0, 0], np.uint8)
PREDICTION = np.array([0, 0, 0, 4, 4, 0, 3, 0], np.uint8)
NAN = math.nan


def definition(name):
    return definitions(name)[0][1]


LABEL_METRICS = [
    name
    for name in metric_names()
    for _, metric in definitions(name)
    if "labels" in metric.kinds and not metric.zero_one_labels
]
CLASS_METRICS = [name for name in LABEL_METRICS if "average" in definition(name).options]


@pytest.mark.parametrize(
    ("policy", "name", "expected"),
    [
        ("nnunet", "dice", [NAN, 0, 0, 0.8]),
        ("nnunet", "dice_loss", [NAN, 1, 1, 0.2]),
        ("nnunet", "precision", [NAN, NAN, 0, 1]),
        ("nnunet", "recall", [NAN, 0, NAN, 2 / 3]),
        ("monai", "dice", [NAN, 0, NAN, 0.8]),
        ("reloaded", "dice", [1, 0, 0, 0.8]),
        ("reloaded", "dice_loss", [0, 1, 1, 0.2]),
        ("reloaded", "iou", [NAN, 0, 0, 2 / 3]),
        ("reloaded", "precision", [NAN, 0, 0, 1]),
        ("reloaded", "f_beta", [1, 0, 0, 0.8]),
        ("torchmetrics", "recall", [NAN, 0, 0, 2 / 3]),
        ("torchmetrics", "specificity", [NAN, 1, 7 / 8, 1]),
        ("omit", "precision", [NAN, NAN, 0, 1]),
        ("zero", "dice", [0, 0, 0, 0.8]),
        ("zero", "dice_loss", [1, 1, 1, 0.2]),
        ("zero", "recall", [0, 0, 0, 2 / 3]),
        ("one", "dice", [1, 0, 0, 0.8]),
        ("one", "dice_loss", [0, 1, 1, 0.2]),
        ("one", "precision", [1, 0, 0, 1]),
    ],
)
def test_a_policy_says_what_an_empty_a_missed_and_a_spurious_class_score(policy, name, expected):
    got = sl.score(TRUTH, PREDICTION, metrics=name, classes=5, empty=policy)[name]
    assert list(got.per_class.values()) == pytest.approx(expected, abs=1e-15, nan_ok=True)
    counts = {"empty_classes": 1, "missed_classes": 1, "spurious_classes": 1}
    assert {key: got.counts[key] for key in counts} == counts
    assert got.counts["undefined_classes"] == sum(map(math.isnan, expected))


@pytest.mark.parametrize(
    "arrays",
    [
        (TRUTH, PREDICTION, {"metrics": "accuracy", "classes": 5}),
        (TRUTH, np.eye(5)[PREDICTION].T, {"metrics": "auroc,cross_entropy"}),
        (TRUTH, PREDICTION, {"metrics": "mcc", "regions": "a=1,b=2,c=3,d=4"}),
    ],
    ids=["labels", "probabilities", "regions"],
)
def test_a_result_always_counts_empty_missed_and_spurious_classes(arrays):
    truth, prediction, options = arrays
    result = sl.score(truth, prediction, **options)
    counts = {"empty_classes": 1, "missed_classes": 1, "spurious_classes": 1}
    assert result.empties == counts
    assert sl.Result.from_json(result.to_json()).empties == counts
    shown = json.loads(result.to_json())
    assert shown["empties"] == counts
    for metric in shown["metrics"].values():
        assert all(metric.get(name, count) == count for name, count in counts.items())


@pytest.mark.parametrize("name", CLASS_METRICS)
@given(data=st.data())
def test_missing_a_structure_never_improves_a_mean(name, data):
    """But where a policy leaves them out: `monai` and `omit`."""
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    truth, prediction = (runs_of(rng, [0, 1, 2, 3], (40,)).astype(np.uint8) for _ in range(2))
    policy = data.draw(st.sampled_from([p for p in POLICIES if p not in ("monai", "omit")]))
    present = [c for c in (1, 2, 3) if (truth == c).any() and (prediction == c).any()]
    metric = definition(name)
    # A rate of errors gets better when less is predicted; so does a difference without a sign.
    if not present or metric.higher_is_better is None or name in ("specificity", *LENIENT):
        return
    missed = data.draw(st.sampled_from(present))
    options = {"metrics": name, "classes": 4, "empty": policy}
    before = sl.score(truth, prediction, **options)[name].value
    after = sl.score(truth, np.where(prediction == missed, 0, prediction), **options)[name].value
    if math.isnan(before) or math.isnan(after):
        return
    worse = after <= before + 1e-12 if metric.higher_is_better else after >= before - 1e-12
    assert worse, (before, after, policy)


# What these measure is not harmed, or is even helped, by predicting less of a class.
LENIENT = (
    "false_positive_rate",
    "positive_likelihood_ratio",
    "negative_likelihood_ratio",
    "absolute_volume_difference",
    "negative_predictive_value",
    "youden_j",
)


def test_averages_are_macro_micro_weighted_or_by_given_weights():
    truth = np.array([1, 1, 1, 2, 0, 0], np.uint8)
    prediction = np.array([1, 1, 0, 2, 2, 0], np.uint8)
    per_class = [2 * 2 / 5, 2 * 1 / 3]
    options = {"classes": 3}
    assert sl.dice(truth, prediction, **options) == pytest.approx(sum(per_class) / 2)
    assert sl.dice(truth, prediction, average="micro", **options) == pytest.approx(2 * 3 / 8)
    weighted = (3 * per_class[0] + per_class[1]) / 4
    assert sl.dice(truth, prediction, average="weighted", **options) == pytest.approx(weighted)
    given_weights = (1 * per_class[0] + 4 * per_class[1]) / 5
    got = sl.dice(truth, prediction, class_weights="0,1,4", **options)
    assert got == pytest.approx(given_weights)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"average": "mean"}, "average: expected macro, micro or weighted, got 'mean'"),
        (
            {"empty": "skip"},
            "empty: expected nnunet, monai, reloaded, torchmetrics, omit, zero or one",
        ),
        ({"class_weights": "1,2"}, "one weight for each of the 5 classes"),
        ({"class_weights": "1,-2"}, "one weight from 0 to 1e+09 per class"),
        ({"class_weights": [1, 1], "classes": None}, "class_weights needs `classes`"),
        ({"convention": "matlab"}, "unknown convention 'matlab'"),
        ({"convention": "monai", "metrics": "mcc"}, "monai has no convention of its own for mcc"),
        ({"metrics": "expected_cost", "cost_matrix": "[[0,1],[1,0]]"}, "5 rows and columns"),
        ({"metrics": "expected_cost", "cost_matrix": "[[0,1],[1]]"}, "rows of costs"),
        ({"metrics": "cohen_kappa", "kappa_weights": "cubic"}, "none, linear or quadratic"),
        ({"metrics": "f_beta", "beta": -1}, "beta: expected a number from 0.001"),
    ],
)
def test_options_that_do_not_fit_are_refused(options, words):
    with pytest.raises(sl.InvalidInputError) as error:
        sl.score(TRUTH, PREDICTION, **{"metrics": "dice", "classes": 5, **options})
    assert words in str(error.value)


def test_a_convention_presets_options_and_given_ones_win():
    options = {"metrics": "dice", "classes": 5}
    monai = sl.score(TRUTH, PREDICTION, convention="monai", **options)
    assert monai.options["convention"] == "monai"
    assert monai.options["parameters"]["empty"] == "monai"
    assert monai["dice"].value == pytest.approx((0 + 0.8) / 2)
    both = sl.score(TRUTH, PREDICTION, convention="monai", empty="zero", **options)
    assert both["dice"].value == pytest.approx(0.8 / 4)


@pytest.mark.parametrize("policy", POLICIES)
def test_a_policy_holds_for_regions_too(policy):
    regions = {"one": [1], "two": [2], "three": [3], "four": [4]}
    options = {"metrics": "dice,precision,recall", "empty": policy}
    whole = sl.score(TRUTH, PREDICTION, classes=5, **options)
    parts = sl.score(TRUTH, PREDICTION, regions=regions, **options)
    for name in ("dice", "precision", "recall"):
        by_class, by_region = whole[name], parts[name]
        assert same(by_class.value, by_region.value)
        assert all(map(same, by_class.per_class.values(), by_region.per_class.values()))
        assert by_class.counts == by_region.counts


@pytest.mark.parametrize("average", ["macro", "micro", "weighted"])
def test_an_average_over_regions_is_that_over_classes(average):
    rng = np.random.default_rng(1)
    truth, prediction = rng.integers(0, 4, (2, 60)).astype(np.uint8)
    options = {"metrics": "dice,recall", "average": average}
    whole = sl.score(truth, prediction, classes=4, **options)
    parts = sl.score(truth, prediction, regions="a=1,b=2,c=3", **options)
    for name in ("dice", "recall"):
        assert whole[name].value == parts[name].value


def test_correlation_of_huge_counts_is_exact():
    big = 2**32
    counts = np.array([[big - 7, 3], [4, big + 5]], np.int64)
    covariance = (big - 7) * (big + 5) - 3 * 4
    spread = (big - 4) * (big + 9) * (big - 3) * (big + 8)
    expected = math.sqrt(Fraction(covariance**2, spread))
    metric = definition("mcc")
    task = sl_task(TRUTH > 0)
    assert metric.score(Confusion(counts), task).value == pytest.approx(expected, rel=2**-51)
    assert one_against_rest(Confusion(counts))[1].true_positives == big + 5


def sl_task(truth):
    from streamloss.options import ArrayFacts, settle

    facts = ArrayFacts(truth.shape, truth.dtype)
    return settle(facts, facts, metrics="mcc", classes=2)


def same(a, b):
    return a == b or (math.isnan(a) and math.isnan(b))


def test_volumes_are_in_cubic_millimetres_where_the_spacing_is_known():
    truth, prediction = np.ones((2, 3, 4), np.uint8), np.ones((2, 3, 4), np.uint8)
    prediction[0] = 0
    name = "absolute_volume_difference"
    got = sl.score(truth, prediction, metrics=name, spacing=(3, 0.5, 0.5))[name]
    assert (got.value, got.unit) == (12 * 0.75, "mm³")
    plain = sl.score(truth, prediction, metrics=name)[name]
    assert (plain.value, plain.unit) == (12.0, "voxels")


@pytest.mark.parametrize("name", LABEL_METRICS)
@given(data=st.data())
def test_a_metric_of_labels_has_the_invariances_it_declares(name, data):
    case = data.draw(cases(("labels", 0, False)))
    options = {"metrics": name, "classes": [0, 1, 2, 3, 7, 103]}
    before = sl.score(case.truth, case.prediction, **options)[name].value
    invariances = definition(name).invariances

    def after(truth, prediction, **more):
        return sl.score(truth, prediction, **{**options, **more})[name].value

    changed = {
        "duplication": lambda: after(*(np.stack([a, a]) for a in (case.truth, case.prediction))),
        "true_negatives": lambda: after(
            *(np.append(a.ravel(), np.zeros(50, a.dtype)) for a in (case.truth, case.prediction))
        ),
        # The same classes in another order, their codes permuted.
        "class_permutation": lambda: after(
            case.truth, case.prediction, classes=[0, 103, 7, 3, 2, 1]
        ),
    }
    for key in invariances - {"monotone_scores"}:
        again = changed[key]()
        assert same(before, again) or before == pytest.approx(again, rel=1e-12), key


SCORE_METRICS = [
    name
    for name in metric_names()
    for _, metric in definitions(name)
    if {"probabilities", "logits"} & set(metric.kinds)
]


def kind_of(name):
    kinds = [kind for _, metric in definitions(name) for kind in metric.kinds]
    return "probabilities" if "probabilities" in kinds else "logits"


@pytest.mark.parametrize("name", SCORE_METRICS)
@given(seed=st.integers(0, 2**32))
def test_a_metric_of_scores_has_the_invariances_it_declares(name, seed):
    rng = np.random.default_rng(seed)
    truth = runs_of(rng, [0, 1, 2], (30,)).astype(np.uint8)
    scores = rng.random((3, 30)) * (1 if kind_of(name) == "logits" else 0.5)
    options = {"metrics": name, "kind": kind_of(name)}
    before = sl.score(truth, scores, **options)[name]

    def after(truth, scores):
        return sl.score(truth, scores, **options)[name]

    changed = {
        "duplication": lambda: after(np.tile(truth, 2), np.tile(scores, 2)),
        # Classes 1 and 2 change their names; the background keeps its own.
        "class_permutation": lambda: after(np.array([0, 2, 1])[truth], scores[[0, 2, 1]]),
        "true_negatives": lambda: after(
            np.append(truth, np.zeros(9, np.uint8)),
            np.concatenate([scores, np.tile([[1.0], [0.0], [0.0]], 9)], axis=1),
        ),
    }
    for key in definition(name).invariances & set(changed):
        again = changed[key]()
        slack = 0.0 if math.isnan(before.value) else before.error_bound + again.error_bound
        close = pytest.approx(again.value, rel=1e-9, abs=slack + 1e-12)
        assert same(before.value, again.value) or before.value == close, key


LOSSES = [
    name
    for name in SCORE_METRICS
    if definition(name).higher_is_better is False
    and ("reduction" in definition(name).options or name.endswith("_loss"))
]


@pytest.mark.parametrize("name", LOSSES)
@given(seed=st.integers(0, 2**32))
def test_a_loss_falls_when_a_score_moves_towards_the_truth(name, seed):
    rng = np.random.default_rng(seed)
    truth = (rng.random(20) < 0.5).astype(np.uint8)
    truth[:2] = 0, 1
    scores = rng.uniform(0.05, 0.95, 20)
    if kind_of(name) == "logits":
        scores = 6 * scores - 3
    place = int(rng.integers(20))
    nearer = scores.copy()
    nearer[place] += 0.04 if truth[place] == 1 else -0.04
    options = {"metrics": name, "kind": kind_of(name)}
    before = sl.score(truth, scores, **options)[name]
    after = sl.score(truth, nearer, **options)[name]
    assert after.value <= before.value + after.error_bound + before.error_bound
