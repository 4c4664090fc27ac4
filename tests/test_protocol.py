"""What a statistic may be: with a halo, with a sparse state, with a histogram, without edits."""

from typing import NamedTuple

import numpy as np
import pytest
import zarr
from hypothesis import given
from hypothesis import strategies as st

import streamloss as sl
from streamloss import registry
from streamloss.statistic import Field, Metric, Score, Statistic, discover
from tests.strategies import chunk_grids, runs_of, shapes
from tests.test_laws import as_zarr, payload


def metric(name, score):
    return Metric(
        name=name,
        title=name,
        score=score,
        formula="see the test",
        source="this test",
        range=(0.0, np.inf),
        higher_is_better=None,
        kinds=("labels",),
        empties="0",
    )


class Faces(NamedTuple):
    counts: np.ndarray


def count_faces(state, window, task):
    """Count pairs of neighbours with different true labels, each at its first voxel."""
    for axis in range(window.truth.ndim):
        ahead = np.roll(window.truth, -1, axis)
        differs = window.truth != ahead
        differs[(slice(None),) * axis + (-1,)] = False
        state.counts[0] += int(differs[window.core].sum())


FACES = Statistic(
    name="faces",
    state=Faces,
    fields={"counts": Field((1,))},
    update=count_faces,
    metrics=(metric("faces", lambda state, task: Score(float(state.counts[0]))),),
    halo=1,
)


class Contingency(NamedTuple):
    pairs: np.ndarray
    counts: np.ndarray


def join(a, b):
    pairs, places = np.unique(np.concatenate([a.pairs, b.pairs]), axis=0, return_inverse=True)
    counts = np.zeros(len(pairs), np.int64)
    np.add.at(counts, places.reshape(-1), np.concatenate([a.counts, b.counts]))
    return Contingency(pairs, counts)


def no_pairs(task):
    return Contingency(np.zeros((0, 2), np.int64), np.zeros(0, np.int64))


def count_pairs(state, slab, task):
    values = np.array(task.classes.values)
    found = np.stack([values[slab.truth], values[slab.decision]], axis=1)
    return join(state, Contingency(found, np.ones(len(found), np.int64)))


CONTINGENCY = Statistic(
    name="contingency",
    state=Contingency,
    custom_empty=no_pairs,
    custom_merge=join,
    update=count_pairs,
    metrics=(
        metric("pairs", lambda state, task: Score(float(len(state.counts)))),
        metric("largest_pair", lambda state, task: Score(float(max(state.counts)))),
    ),
)


class Histogram(NamedTuple):
    bins: np.ndarray


def fill_bins(state, slab, task):
    for code in range(len(task.classes)):
        state.bins[code] += np.bincount(slab.truth[slab.truth == code] % 8, minlength=8)


HISTOGRAM = Statistic(
    name="histogram",
    state=Histogram,
    fields={"bins": Field(("class", 8))},
    update=fill_bins,
    metrics=(metric("bins", lambda state, task: Score(float(state.bins.sum()))),),
)


@pytest.fixture(autouse=True)
def with_test_statistics(monkeypatch):
    def forget():
        registry._definitions.cache_clear()
        registry._needed.cache_clear()

    with monkeypatch.context() as patch:
        for statistic in (FACES, CONTINGENCY, HISTOGRAM):
            patch.setitem(discover(), statistic.name, statistic)
        forget()
        yield
    forget()


def labels(data):
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    shape = data.draw(shapes(max_dims=3))
    return [runs_of(rng, [0, 1, 5], shape).astype(np.uint16) for _ in range(2)]


@given(data=st.data())
def test_a_statistic_with_a_halo_does_not_see_chunk_borders(data):
    truth, prediction = labels(data)
    faces = sum(int((np.diff(truth.astype(int), axis=a) != 0).sum()) for a in range(truth.ndim))
    chunked = as_zarr(truth, data.draw(chunk_grids(truth.shape)))
    other = as_zarr(prediction, data.draw(chunk_grids(truth.shape)))
    whole = sl.score(truth, prediction, metrics="faces,dice")
    assert whole["faces"].value == faces
    assert payload(sl.score(chunked, other, metrics="faces,dice")) == payload(whole)


def test_blocks_smaller_than_the_volume_read_their_halo():
    rng = np.random.default_rng(5)
    truth = rng.integers(0, 3, (96, 64, 512), np.uint8)
    stored = zarr.create_array({}, shape=truth.shape, dtype="u1", chunks=(48, 64, 64))
    stored[...] = truth
    result = sl.score(stored, stored, metrics="faces", max_memory="208MiB", workers=2)
    assert np.prod(result.timing["block"]) < truth.size
    faces = sum(int((np.diff(truth.astype(int), axis=a) != 0).sum()) for a in range(3))
    assert result["faces"].value == faces


@given(data=st.data())
def test_a_sparse_state_merges_like_any_other(data):
    truth, prediction = labels(data)
    pairs, counts = np.unique(
        np.stack([truth.ravel(), prediction.ravel()]), axis=1, return_counts=True
    )
    chunked = as_zarr(truth, data.draw(chunk_grids(truth.shape)))
    result = sl.score(chunked, prediction, metrics="pairs,largest_pair")
    assert result["pairs"].value == pairs.shape[1]
    assert result["largest_pair"].value == counts.max()


@given(data=st.data())
def test_a_histogram_per_class_follows_labels_as_they_are_discovered(data):
    truth, prediction = labels(data)
    chunked = as_zarr(truth, data.draw(chunk_grids(truth.shape)))
    assert sl.score(chunked, prediction, metrics="bins")["bins"].value == truth.size
