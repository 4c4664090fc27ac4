"""Regions, multi-label channels and voxel weights: one rule for every metric."""

import math
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import streamloss as sl
from streamloss.registry import definitions
from tests.strategies import LAYOUTS, cases, chunk_grids, metrics_of, runs_of, splits, unit_values
from tests.test_laws import IDS, as_zarr, payload

REGIONS = {"whole": [1, 2, 4], "core": [1, 4], "enhancing": [4]}
KINDS = ["labels", "probabilities", "logits"]


def scores_of(rng, kind, shape):
    if kind == "labels":
        return runs_of(rng, [0, 1], shape).astype(np.uint8)
    if kind == "probabilities":
        return unit_values(rng, shape, np.float32)
    return rng.normal(size=shape).astype(np.float32) * 9


@st.composite
def region_cases(draw):
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    shape = tuple(draw(st.lists(st.integers(1, 7), min_size=1, max_size=3)))
    kind = draw(st.sampled_from(KINDS))
    dtype = draw(st.sampled_from(["u1", "i2", "i4", "u8"]))
    truth = runs_of(rng, [0, 1, 2, 4, 9], shape).astype(dtype)
    if kind == "labels":
        prediction = runs_of(rng, [0, 1, 2, 4, 9], shape).astype("u2")
    else:
        prediction = scores_of(rng, kind, (len(REGIONS), *shape))
    return truth, prediction, {"kind": kind, "metrics": some_metrics(draw, kind, False)}


def some_metrics(draw, kind, soft):
    """A few at a time: each binary problem is scored anew for each."""
    metrics = st.sampled_from(metrics_of(kind, soft))
    return draw(st.lists(metrics, min_size=1, max_size=6, unique=True))


def value_alone(result, name):
    """The number of a structure scored by itself: before it enters a mean, if it does."""
    got = result[name]
    averaged = "average" in definitions(name)[0][1].options
    return got.per_class.get(1, got.value) if averaged else got.value


def alone(truth, prediction, options):
    """Each region scored by itself, as a binary problem."""
    results = {}
    for channel, (name, labels) in enumerate(REGIONS.items()):
        is_labels = options["kind"] == "labels"
        one = np.isin(prediction, labels) if is_labels else prediction[channel]
        results[name] = sl.score(np.isin(truth, labels), one, **options)
    return results


@given(case=region_cases())
def test_a_region_scores_as_its_union_of_labels_does_alone(case):
    truth, prediction, options = case
    together = sl.score(truth, prediction, regions=REGIONS, **options)
    for name, single in alone(truth, prediction, options).items():
        for metric in options["metrics"]:
            expected = value_alone(single, metric)
            assert same(together[metric].per_class[name], expected), (metric, name)


@given(case=region_cases())
def test_the_value_is_the_mean_over_defined_regions_or_their_sum(case):
    truth, prediction, options = case
    together = sl.score(truth, prediction, regions=REGIONS, **options)
    for name, got in together.metrics.items():
        single = alone(truth, prediction, options)
        known = [x for r in single.values() if not math.isnan(x := r[name].value)]
        adds_up = definitions(name)[0][1].combine == "sum"
        total = math.fsum(known) if adds_up else math.fsum(known) / max(len(known), 1)
        assert same(got.value, total if known else math.nan), name


def same(a, b):
    return a == b or (math.isnan(a) and math.isnan(b))


@given(data=st.data())
def test_regions_do_not_depend_on_chunks_splits_or_workers(data):
    truth, prediction, options = data.draw(region_cases())
    expected = payload(sl.score(truth, prediction, regions=REGIONS, **options))
    t = as_zarr(truth, data.draw(chunk_grids(truth.shape)))
    p = as_zarr(prediction, data.draw(chunk_grids(prediction.shape)))
    assert payload(sl.score(t, p, regions=REGIONS, workers=3, **options)) == expected
    accumulator = sl.Accumulator(regions=REGIONS, **options)
    for box in data.draw(splits(truth.shape)):
        accumulator.update(truth[box], prediction[(..., *box)])
    assert payload(accumulator.compute()) == expected
    with TemporaryDirectory() as folder:
        accumulator.save(f"{folder}/part.slstate")
        loaded = sl.Accumulator.load(f"{folder}/part.slstate")
    assert payload(loaded.compute()) == expected
    loaded.merge(accumulator)
    assert loaded.compute().voxels["scored"] == 2 * truth.size


@pytest.mark.parametrize("soft", [False, True], ids=["hard", "soft"])
@pytest.mark.parametrize("kind", KINDS)
@given(data=st.data())
def test_a_channel_of_many_labels_scores_as_it_does_alone(kind, soft, data):
    if soft and kind == "labels":
        return
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    shape = (3, *data.draw(st.lists(st.integers(1, 6), min_size=1, max_size=3)))
    truth = unit_values(rng, shape, np.float32) if soft else runs_of(rng, [0, 1], shape) == 1
    prediction = scores_of(rng, kind, shape)
    options = {"kind": kind, "metrics": some_metrics(data.draw, kind, soft)}
    together = sl.score(truth, prediction, multilabel=True, classes="a,b,c", **options)
    for channel, name in enumerate("abc"):
        single = sl.score(truth[channel], prediction[channel], **options)
        for metric in options["metrics"]:
            expected = value_alone(single, metric)
            assert same(together[metric].per_class[name], expected), (metric, name)
    chunks = data.draw(chunk_grids(shape))
    stored = as_zarr(truth, chunks), as_zarr(prediction, chunks)
    again = sl.score(*stored, multilabel=True, classes="a,b,c", **options)
    assert payload(again) == payload(together)


@pytest.mark.parametrize("layout", LAYOUTS, ids=IDS)
@given(data=st.data())
def test_a_voxel_of_weight_three_counts_as_three(layout, data):
    case = data.draw(cases(layout))
    shape = case.truth.shape[case.truth.ndim - case.ndim :]
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    weights = rng.choice([0, 1, 2, 3, 300], shape).astype(np.uint16)
    weights.flat[0] = 3
    options = dict(case.options)
    if case.task.classes.discovered:
        options["classes"] = [0, 1, 2, 3, 7, 103]
    channels = (-1,) if case.truth.ndim == case.ndim else (case.truth.shape[0], -1)
    truth = case.truth.reshape(channels)
    channels = (-1,) if case.prediction.shape == shape else (case.prediction.shape[0], -1)
    prediction = case.prediction.reshape(channels)
    repeated = sl.score(
        *(np.repeat(array, weights.reshape(-1), axis=-1) for array in (truth, prediction)),
        **options,
    )
    weighted = sl.score(case.truth, case.prediction, weights=weights, **options)
    assert weighted.to_dict()["metrics"] == repeated.to_dict()["metrics"]
    assert weighted.classes == repeated.classes
    assert weighted.voxels["scored"] == np.count_nonzero(weights)
    chunks = data.draw(chunk_grids(shape))
    again = sl.score(case.truth, case.prediction, weights=as_zarr(weights, chunks), **options)
    assert payload(again) == payload(weighted)


def test_weights_mask_and_ignore_label_hold_for_regions_too():
    rng = np.random.default_rng(3)
    truth = rng.choice([0, 1, 2, 4, 255], (6, 7, 8)).astype(np.uint8)
    prediction = rng.choice([0, 1, 2, 4], truth.shape).astype(np.uint8)
    mask = rng.random(truth.shape) < 0.7
    weights = rng.integers(0, 5, truth.shape)
    options = {"regions": REGIONS, "metrics": "dice,accuracy"}
    one = sl.score(truth, prediction, mask=mask, weights=weights, ignore_label=255, **options)
    left = np.where(mask & (truth != 255), weights, 0).reshape(-1)
    other = sl.score(
        np.repeat(truth.reshape(-1), left), np.repeat(prediction.reshape(-1), left), **options
    )
    assert one.to_dict()["metrics"] == other.to_dict()["metrics"]


def test_weighted_chunks_add_up_with_others():
    rng = np.random.default_rng(4)
    truth, prediction = rng.integers(0, 3, (2, 50)).astype(np.uint8)
    weights = rng.integers(0, 4, 50)
    accumulator = sl.Accumulator("dice")
    accumulator.update(truth, prediction)
    accumulator.update(truth, prediction, weights=weights)
    repeats = weights + 1
    expected = sl.score(np.repeat(truth, repeats), np.repeat(prediction, repeats), metrics="dice")
    assert accumulator.compute().to_dict()["metrics"] == expected.to_dict()["metrics"]


def test_a_result_of_regions_survives_json():
    truth = np.array([0, 1, 2, 4])
    result = sl.score(truth, truth[::-1].copy(), regions="whole=1+2+4,2=2", metrics="dice")
    assert list(result["dice"].per_class) == ["whole", 2]
    assert sl.Result.from_json(result.to_json()) == result


labels = np.array([[0, 1], [2, 4]])


@pytest.mark.parametrize(
    ("arrays", "options", "words"),
    [
        ((labels, labels), {"regions": "whole"}, "regions must be names with their label values"),
        ((labels, labels), {"regions": {"whole": []}}, "regions must be names"),
        ((labels, labels), {"regions": {}}, "regions must be names"),
        ((labels, labels), {"regions": {"a": "x"}}, "regions must be names"),
        ((labels, labels), {"regions": "a=1", "classes": 3}, "regions and classes cannot both"),
        ((labels, labels), {"regions": "a=1", "multilabel": True}, "cannot both be given"),
        ((labels, labels[0]), {"regions": "a=1"}, "expected (2, 2)"),
        ((labels, labels * 0.1), {"regions": "a=1,b=2"}, "expected (2, 2, 2)"),
        ((labels, labels), {"regions": "a=1", "kind": "values"}, "has no meaning"),
        ((labels[0], labels[0]), {"multilabel": True}, "a channel for each label"),
        ((labels > 0, labels > 0), {"multilabel": True, "classes": "a,b,c"}, "names 3"),
        ((labels, labels), {"multilabel": "yes"}, "true or false"),
        ((labels, labels), {"multilabel": True}, "0,"),
        ((labels, labels), {"weights": labels - 1}, "1 value outside 0 to 65,535"),
        ((labels, labels), {"weights": labels * 40000}, "the first is 80000"),
        ((labels, labels), {"weights": labels * 0.5}, "integer or boolean type"),
        ((labels, labels), {"weights": labels[0]}, "weights has shape (2,)"),
    ],
)
def test_what_does_not_fit_is_refused_in_a_sentence(arrays, options, words):
    with pytest.raises(sl.InvalidInputError) as error:
        sl.score(*arrays, **options)
    assert words in str(error.value)


@given(data=st.data())
def test_labels_beside_the_chosen_classes_can_count_as_background(data):
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    dtype = data.draw(st.sampled_from(["u1", "i2", "u4", "i8"]))
    truth, prediction = (runs_of(rng, [0, 1, 5, 9], (7, 8)).astype(dtype) for _ in range(2))
    chosen = data.draw(st.sampled_from([[1], [5, 9], [0, 1, 5], [9, 1]]))
    only = [np.where(np.isin(array, chosen), array, 0) for array in (truth, prediction)]
    options = {"classes": chosen, "metrics": "dice,recall"}
    got = sl.score(truth, prediction, other_labels="background", **options)
    assert payload(got) == payload(sl.score(*only, **options))


def test_other_labels_need_classes_to_be_other_than():
    with pytest.raises(sl.InvalidInputError, match="needs `classes`"):
        sl.score(labels, labels, other_labels="background")
    with pytest.raises(sl.InvalidInputError, match="error or background"):
        sl.score(labels, labels, classes=5, other_labels="drop")
