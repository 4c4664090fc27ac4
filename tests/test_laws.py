"""The law suite: every statistic gives the same bytes however it is computed."""

import json
import math
import pickle

import numpy as np
import pytest
import zarr
from hypothesis import given
from hypothesis import strategies as st

import streamloss as sl
from streamloss.partial import Partial
from streamloss.raw_block import Block
from streamloss.registry import definitions, needed
from streamloss.statistic import discover
from tests.strategies import LAYOUTS, cases, chunk_grids, splits

IDS = [f"{kind}-{channels}-{'soft' if soft else 'hard'}" for kind, channels, soft in LAYOUTS]
every_layout = pytest.mark.parametrize("layout", LAYOUTS, ids=IDS)


def payload(result):
    """The bytes that must not depend on how a result was computed."""
    plain = result.to_dict()
    return json.dumps({key: plain[key] for key in ("metrics", "voxels", "classes")})


def state_bytes(partial):
    return {
        name: [np.asarray(array).tobytes() for array in state]
        for name, state in partial.states.items()
    }


def partial_of(case, task=None):
    shape = case.truth.shape[case.truth.ndim - case.ndim :]
    partial = Partial(task or case.task)
    partial.absorb(
        Block(
            np.ascontiguousarray(case.truth),
            np.ascontiguousarray(case.prediction),
            None,
            tuple(slice(0, size) for size in shape),
            (0,) * len(shape),
            shape,
        )
    )
    assert not partial.faults
    return partial


def as_zarr(array, chunks):
    stored = zarr.create_array({}, shape=array.shape, dtype=array.dtype, chunks=chunks)
    stored[...] = array
    return stored


def test_every_statistic_is_reached_by_the_law_suite():
    reached = {
        statistic.name
        for kind, _, soft in LAYOUTS
        for statistic in discover().values()
        if any(kind in m.kinds and (m.soft_truth or not soft) for m in statistic.metrics)
    }
    assert reached == set(discover())


@every_layout
@given(data=st.data())
def test_merging_is_associative_and_commutative_with_an_identity(layout, data):
    case = data.draw(cases(layout))
    shape = case.truth.shape[case.truth.ndim - case.ndim :]
    parts = [partial_of(case.part(box)) for box in data.draw(splits(shape))]
    a, b, c = (parts * 3)[:3]
    before = [state_bytes(p) for p in (a, b, c)]
    left, right = a.merge(b).merge(c), a.merge(b.merge(c))
    assert state_bytes(left) == state_bytes(right)
    assert state_bytes(a.merge(b)) == state_bytes(b.merge(a))
    assert state_bytes(a.merge(Partial(a.task))) == state_bytes(a)
    assert [state_bytes(p) for p in (a, b, c)] == before


@every_layout
@given(data=st.data())
def test_states_pickle(layout, data):
    partial = partial_of(data.draw(cases(layout)))
    assert state_bytes(pickle.loads(pickle.dumps(partial))) == state_bytes(partial)


@every_layout
@given(data=st.data())
def test_a_result_does_not_depend_on_chunk_shapes_or_workers(layout, data):
    case = data.draw(cases(layout, max_dims=3))
    expected = payload(sl.score(case.truth, case.prediction, executor="serial", **case.options))
    truth = as_zarr(case.truth, data.draw(chunk_grids(case.truth.shape)))
    prediction = as_zarr(case.prediction, data.draw(chunk_grids(case.prediction.shape)))
    workers = data.draw(st.integers(1, 5))
    assert payload(sl.score(truth, prediction, workers=workers, **case.options)) == expected


@every_layout
@given(data=st.data())
def test_an_accumulator_does_not_depend_on_order_splits_merges_or_files(
    layout, data, tmp_path_factory
):
    case = data.draw(cases(layout))
    expected = payload(sl.score(case.truth, case.prediction, **case.options))
    shape = case.truth.shape[case.truth.ndim - case.ndim :]
    folder = tmp_path_factory.mktemp("states")
    heap = []
    for box in data.draw(splits(shape)):
        part = case.part(box)
        if heap and data.draw(st.booleans()):
            heap[-1].update(part.truth, part.prediction)
        else:
            heap.append(sl.Accumulator(**case.options))
            heap[-1].update(part.truth, part.prediction)
    while len(heap) > 1:
        other = heap.pop(data.draw(st.integers(0, len(heap) - 1)))
        if data.draw(st.booleans()):
            other.save(folder / "part.slstate")
            other = sl.Accumulator.load(folder / "part.slstate")
        heap[data.draw(st.integers(0, len(heap) - 1))].merge(other)
    assert payload(heap[0].compute()) == expected


@every_layout
@given(data=st.data())
def test_scores_agree_with_the_naive_reference_within_their_error_bound(layout, data):
    case = data.draw(cases(layout))
    result = sl.score(case.truth, case.prediction, **case.options)
    partial = partial_of(case)
    task = partial.task
    truth, prediction = whole_arrays(case, task)
    for statistic in needed(task):
        expected = statistic.reference(truth, prediction, task)
        for metric in statistic.metrics:
            if not task.asks(metric.name) or task.kind not in metric.kinds:
                continue
            value, per_class = expected[metric.name]
            got = result[metric.name]
            # The reference itself is a float sum of rounded terms.
            slack = got.error_bound + 1e-11 * abs(value)
            assert same(got.value, value, slack), metric.name
            assert set(got.per_class) == {task.classes.values[code] for code in per_class}
            for code, number in per_class.items():
                # A class may hold few of the voxels that the bound is a mean over.
                assert same(
                    got.per_class[task.classes.values[code]],
                    number,
                    1e-5 + 1e-9 * abs(number) + got.error_bound,
                )


def same(got, expected, slack):
    if math.isnan(expected):
        return math.isnan(got)
    return abs(got - expected) <= slack


def whole_arrays(case, task):
    """Class codes, or (channels, n) scores, as a `reference` takes them."""
    n = math.prod(case.truth.shape[case.truth.ndim - case.ndim :])
    codes = {value: code for code, value in enumerate(task.classes.values)}

    def encode(labels):
        return np.array([codes[int(value)] for value in labels.ravel()])

    truth = encode(case.truth) if task.hard_truth else case.truth.reshape(-1, n)
    if task.kind == "labels":
        return truth, encode(case.prediction)
    prediction = case.prediction.reshape(-1, n)
    if prediction.dtype.kind == "u":
        prediction = prediction / np.iinfo(prediction.dtype).max
    return truth, prediction


@every_layout
@given(data=st.data())
def test_scoring_with_a_mask_equals_scoring_the_voxels_it_keeps(layout, data):
    case = data.draw(cases(layout))
    shape = case.truth.shape[case.truth.ndim - case.ndim :]
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    mask = rng.random(shape) < 0.6
    mask.flat[0] = True
    options = dict(case.options)
    if case.task.classes.discovered:
        options["classes"] = [0, 1, 2, 3, 7, 103]
    kept = sl.score(case.truth[..., mask], case.prediction[..., mask], **options)
    masked = sl.score(case.truth, case.prediction, mask=mask, **options)
    assert masked.to_dict()["metrics"] == kept.to_dict()["metrics"]
    assert masked.classes == kept.classes
    assert masked.voxels == {
        "total": mask.size,
        "scored": int(mask.sum()),
        "ignored": int((~mask).sum()),
    }


@given(data=st.data())
def test_swapping_labels_leaves_symmetric_metrics_alone(data):
    case = data.draw(cases(("labels", 0, False)))
    one = sl.score(case.truth, case.prediction, **case.options)
    other = sl.score(case.prediction, case.truth, **case.options)
    for name in case.options["metrics"]:
        _, metric = next((s, m) for s, m in definitions(name) if "labels" in m.kinds)
        if metric.symmetric:
            a, b = (result.to_dict()["metrics"][name] for result in (one, other))
            assert (a["value"], a["per_class"]) == (b["value"], b["per_class"]), name


@every_layout
@given(data=st.data())
def test_values_stay_within_their_declared_range(layout, data):
    case = data.draw(cases(layout))
    result = sl.score(case.truth, case.prediction, **case.options)
    for name, got in result.metrics.items():
        _, metric = next((s, m) for s, m in definitions(name) if case.options["kind"] in m.kinds)
        low, high = metric.range
        for number in (got.value, *got.per_class.values()):
            assert math.isnan(number) or low <= number <= high, name


@every_layout
@given(data=st.data())
def test_chunks_that_are_not_stored_score_as_their_fill_value(layout, data):
    case = data.draw(cases(layout, max_dims=3))
    arrays = []
    for array in (case.truth, case.prediction):
        chunks = data.draw(chunk_grids(array.shape))
        fill = array.reshape(-1)[0]
        stored = zarr.create_array(
            {}, shape=array.shape, dtype=array.dtype, chunks=chunks, fill_value=fill.item()
        )
        # Half the volume, and with it some chunks, holds nothing but the fill value.
        array[..., array.shape[-1] // 2 :] = fill
        stored[...] = array
        arrays.append(stored)
    expected = payload(sl.score(case.truth, case.prediction, **case.options))
    assert payload(sl.score(*arrays, **case.options)) == expected
