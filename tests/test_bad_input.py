"""Bad input is refused with one clear sentence that holds the values, as early as it can be."""

import json
import re

import numpy as np
import pytest
import zarr

import streamloss as sl
from tests.test_laws import payload

LABELS = np.array([[0, 1, 1], [0, 2, 2]], np.uint8)
BINARY = (LABELS > 0).astype(np.uint8)
PROBABILITIES = np.array([[0.0, 0.5, 1.0], [0.25, 0.75, 1.0]])
SHAPE = (6, 8, 10)


def refused(call, *parts, error=sl.InvalidInputError):
    """Assert that a call raises one sentence that holds all parts; return it."""
    with pytest.raises(sl.StreamlossError) as caught:
        call()
    assert isinstance(caught.value, error)
    text = str(caught.value)
    assert text
    assert "\n" not in text
    assert len(text) < 500
    for part in parts:
        assert str(part) in text, (part, text)
    return text


def stored(array, chunks=None):
    array = np.asarray(array)
    result = zarr.create_array({}, shape=array.shape, dtype=array.dtype, chunks=chunks or "auto")
    result[...] = array
    return result


@pytest.fixture
def many_blocks(monkeypatch):
    """Blocks of single chunks, as volumes larger than memory have them."""
    monkeypatch.setattr("streamloss.prepare.TARGET_BLOCK_VOXELS", {})
    monkeypatch.setattr("streamloss.prepare.TARGET_BLOCK_VOXELS_OF_OTHERS", 1)


# Paths and stores


@pytest.mark.parametrize("role", ["truth", "prediction", "mask"])
def test_a_path_that_does_not_exist_is_named(role, tmp_path):
    missing = tmp_path / "nothing here.zarr"
    arrays = {"truth": LABELS, "prediction": LABELS, "mask": LABELS, role: str(missing)}
    refused(lambda: sl.score(**arrays), role, missing)


def test_a_file_that_is_no_zarr_array_is_named(tmp_path):
    path = tmp_path / "volume.txt"
    path.write_text("no voxels here")
    refused(lambda: sl.score(path, LABELS), "truth", path)


def test_a_folder_that_is_no_zarr_array_is_named(tmp_path):
    (tmp_path / "inner").mkdir()
    refused(lambda: sl.score(LABELS, tmp_path), "prediction", tmp_path, "inner")


def test_a_group_of_several_arrays_is_refused_with_their_names(tmp_path):
    group = zarr.create_group(tmp_path / "group.zarr")
    for name in ("left", "right"):
        group.create_array(name, data=LABELS)
    refused(lambda: sl.score(tmp_path / "group.zarr", LABELS), "truth", "left", "right")


def test_a_zarr_array_with_broken_metadata_is_refused(tmp_path):
    zarr.create_array(tmp_path / "a.zarr", data=LABELS)
    (tmp_path / "a.zarr" / "zarr.json").write_text("{")
    refused(lambda: sl.score(tmp_path / "a.zarr", LABELS), "truth", "a.zarr")


@pytest.mark.parametrize("source", [None, 3, [[0, 1]], object(), {}, b"volume.zarr"])
def test_what_is_neither_path_nor_array_is_refused(source):
    refused(lambda: sl.score(source, LABELS), "truth")


# Shapes, spacing, axes and types


@pytest.mark.parametrize(
    ("truth", "prediction"),
    [
        ((4, 5), (5, 4)),
        ((4, 5), (4, 1)),
        ((4, 5), (20,)),
        ((4, 5), (1, 4, 5)),
        ((4, 5), (4, 5, 1)),
        ((1, 4), (3, 4)),
    ],
)
def test_labels_of_different_shapes_are_refused_with_both(truth, prediction):
    arrays = np.zeros(truth, np.uint8), np.zeros(prediction, np.uint8)
    refused(lambda: sl.score(*arrays), truth, prediction)
    refused(lambda: sl.score(stored(arrays[0]), stored(arrays[1])), truth, prediction)
    refused(lambda: sl.Accumulator().update(*arrays), truth, prediction)


@pytest.mark.parametrize("kind", ["probabilities", "logits", "values"])
def test_scores_of_another_shape_are_refused_with_both(kind):
    truth, prediction = np.zeros((4, 5), np.uint8), np.zeros((3, 5, 4))
    refused(lambda: sl.score(truth, prediction, kind=kind), (4, 5), (3, 5, 4))
    refused(lambda: sl.Accumulator(kind=kind).update(truth, prediction), (4, 5), (3, 5, 4))


def test_channels_last_are_not_taken_for_channels_first():
    truth, prediction = np.zeros((4, 5), np.uint8), np.zeros((4, 5, 3))
    refused(lambda: sl.score(truth, prediction), (4, 5), (4, 5, 3), "(C, 4, 5)")


def test_a_mask_of_another_shape_is_refused():
    refused(lambda: sl.score(LABELS, LABELS, mask=np.ones((3, 2))), "mask", (3, 2), (2, 3))
    accumulator = sl.Accumulator()
    refused(lambda: accumulator.update(LABELS, LABELS, np.ones((3, 2))), "mask", (3, 2), (2, 3))


def test_different_spacings_are_refused_with_both():
    truth, prediction = stored(LABELS), stored(LABELS)
    truth.attrs["spacing"], prediction.attrs["spacing"] = [3.0, 0.9], [0.9, 3.0]
    refused(lambda: sl.score(truth, prediction), "[3.0, 0.9]", "[0.9, 3.0]", "spacing")
    assert sl.score(truth, prediction, spacing=[3.0, 0.9])["dice"].value == 1.0


def test_different_axes_are_refused_with_both():
    axes = [["z", "y"], ["y", "x"]]
    arrays = [
        zarr.create_array({}, shape=(2, 3), dtype="u1", chunks=(2, 3), dimension_names=names)
        for names in axes
    ]
    refused(lambda: sl.score(*arrays), *axes)


@pytest.mark.parametrize(
    "dtype", ["O", [("a", "u1"), ("b", "f4")], "c8", "M8[s]", "m8[s]", "S4", "U4", "g"]
)
@pytest.mark.parametrize("role", ["truth", "prediction", "mask"])
def test_elements_that_are_no_plain_numbers_are_refused(role, dtype):
    strange = np.zeros((2, 3), dtype)
    arrays = {"truth": LABELS, "prediction": LABELS, "mask": None, role: strange}
    refused(lambda: sl.score(**arrays), role, strange.dtype)
    refused(lambda: sl.Accumulator().update(**arrays), role, strange.dtype)


@pytest.mark.parametrize("shape", [(0,), (0, 3), (2, 0, 4)])
def test_an_array_without_voxels_is_refused(shape):
    nothing = np.zeros(shape, np.uint8)
    refused(lambda: sl.score(nothing, nothing), "no voxels", shape)
    refused(lambda: sl.Accumulator().update(nothing, nothing), "no voxels", shape)


def test_an_array_without_axes_is_refused():
    one = np.uint8(1).reshape(())
    refused(lambda: sl.score(one, one), "truth", "()")
    refused(lambda: sl.Accumulator().update(one, one), "truth", "()")


def test_signed_integers_are_no_probabilities():
    refused(lambda: sl.score(BINARY, BINARY.astype(np.int16), kind="probabilities"), "int16")


def test_floats_are_no_labels():
    refused(lambda: sl.score(BINARY, PROBABILITIES, kind="labels"), "prediction", "float64")
    refused(lambda: sl.score(PROBABILITIES, BINARY, kind="labels"), "truth", "float64")


# Classes and channels


@pytest.mark.parametrize("classes", [2, 4, [0, 1, 2, 9], ["spleen", "liver"]])
def test_channels_that_do_not_match_the_classes_are_refused(classes):
    prediction = np.full((3, 2, 3), 1 / 3)
    refused(lambda: sl.score(LABELS, prediction, classes=classes), "3 channels", "classes")
    update = sl.Accumulator(classes=classes).update
    refused(lambda: update(LABELS, prediction), "3 channels", "classes")


def test_one_channel_cannot_hold_three_classes():
    refused(lambda: sl.score(BINARY, PROBABILITIES, classes=3), "channel", "[0, 1, 2]")


def test_more_labels_than_channels_are_refused():
    prediction = np.full((2, 2, 3), 0.5)
    refused(lambda: sl.score(LABELS, prediction), "truth", "2 labels", "is 2 at (1, 1)", [0, 1])


def test_labels_above_one_are_refused_for_a_binary_prediction():
    refused(lambda: sl.score(LABELS, PROBABILITIES), "truth", "2 labels", "is 2 at (1, 1)")


# Voxels: count and first coordinate of the whole volume, however it is read

GRIDS = [SHAPE, (6, 8, 1), (1, 8, 10), (4, 3, 7), (2, 2, 2)]
every_grid = pytest.mark.parametrize("grid", GRIDS, ids=str)
every_number_of_workers = pytest.mark.parametrize("workers", [1, 3])


def spoil(array, value):
    """Set three voxels, far from each other and not in the first chunk of any grid."""
    for place in ((5, 0, 0), (2, 7, 9), (2, 5, 3)):
        array[(..., *place)] = value
    return array


def all_ways(truth, prediction, grid, workers, options, *parts):
    """Refused alike from chunks of either array, from memory and from an accumulator."""

    def chunks(array):
        return (*(1 for _ in array.shape[: array.ndim - 3]), *grid)

    chunked = [stored(array, chunks(array)) for array in (truth, prediction)]
    ways = (chunked, (truth, chunked[1]), (chunked[0], prediction), (truth, prediction))
    texts = {
        refused(lambda way=way: sl.score(*way, workers=workers, **options), *parts) for way in ways
    }
    # Only the name of the array differs.
    assert len({re.sub(r"memory:\S*|NumPy array \([0-9, ]*\) \w+", "", t) for t in texts}) == 1
    refused(lambda: sl.Accumulator(**options).update(truth, prediction), *parts)


@every_grid
@every_number_of_workers
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_counted_and_located(many_blocks, grid, workers, value):
    truth = np.zeros(SHAPE, np.uint8)
    for shape in (SHAPE, (3, *SHAPE)):
        prediction = spoil(np.full(shape, 0.25, np.float32), value)
        parts = ("prediction", "3 values", "not finite", f"{value} at (2, 5, 3)")
        all_ways(truth, prediction, grid, workers, {}, *parts)


@every_grid
@every_number_of_workers
@pytest.mark.parametrize("value", [1.5, -0.25])
def test_values_outside_0_and_1_are_counted_and_located(many_blocks, grid, workers, value):
    truth = np.zeros(SHAPE, np.uint8)
    prediction = spoil(np.full(SHAPE, 0.25, np.float32), value)
    parts = ("prediction", "3 values", "[0, 1]", f"{value} at (2, 5, 3)", 'kind="logits"')
    all_ways(truth, prediction, grid, workers, {}, *parts)


@every_grid
@every_number_of_workers
def test_a_soft_truth_outside_0_and_1_is_counted_and_located(many_blocks, grid, workers):
    truth = spoil(np.full(SHAPE, 0.5), 1.25)
    prediction = np.full(SHAPE, 0.25)
    parts = ("truth", "3 values", "[0, 1]", "1.25 at (2, 5, 3)")
    all_ways(truth, prediction, grid, workers, {}, *parts)
    rows = np.stack([truth, truth, truth])
    all_ways(rows, np.full((3, *SHAPE), 0.25), grid, workers, {"classes": 3}, *parts)


@pytest.mark.parametrize("role", ["truth", "prediction"])
@every_grid
@every_number_of_workers
def test_labels_of_no_class_are_counted_and_located(many_blocks, grid, workers, role):
    arrays = {name: np.zeros(SHAPE, np.uint16) for name in ("truth", "prediction")}
    spoil(arrays[role], 1003)
    parts = (role, "3 labels", "is 1003 at (2, 5, 3)", "[0, 7]")
    all_ways(*arrays.values(), grid, workers, {"classes": [0, 7]}, *parts)


@pytest.mark.parametrize("options", [{}, {"classes": [0, 7]}], ids=["discovered", "given"])
@pytest.mark.parametrize("role", ["truth", "prediction"])
@every_grid
@every_number_of_workers
def test_negative_labels_are_counted_and_located(many_blocks, grid, workers, role, options):
    arrays = {name: np.zeros(SHAPE, np.int32) for name in ("truth", "prediction")}
    arrays["truth"][4] = 7
    spoil(arrays[role], -3)
    parts = (role, "3 labels", "negative", "is -3 at (2, 5, 3)")
    all_ways(*arrays.values(), grid, workers, options, *parts)


@pytest.mark.parametrize("dtype", ["i1", "i2", "i4", "i8"])
def test_negative_labels_of_every_type_keep_their_value(dtype):
    truth = np.array([0, 1, -1, 1], dtype)
    text = refused(lambda: sl.score(truth, truth, classes=2), "negative", "-1 at (2,)")
    assert "truth" in text or "prediction" in text


def test_the_largest_label_of_the_widest_type_is_shown_in_full():
    truth = np.array([0, 2**64 - 1], np.uint64)
    prediction = np.zeros(2, np.uint64)
    refused(lambda: sl.score(truth, prediction, classes=2), str(2**64 - 1), "(1,)")


def test_one_bad_voxel_is_told_in_the_singular():
    prediction = PROBABILITIES.copy()
    prediction[1, 2] = 2.0
    refused(lambda: sl.score(BINARY, prediction), "1 value ", "2.0 at (1, 2)")


def test_integers_that_a_metric_takes_for_0_and_1_may_be_meant_as_plain_numbers():
    advice = 'pass kind="values" if mse is to compare plain numbers'
    refused(lambda: sl.score(LABELS, LABELS, metrics="mse"), advice, "the first is 2 at (1, 1)")
    text = refused(lambda: sl.score(LABELS, LABELS, metrics="dice", classes=[0, 1]))
    assert "values" not in text
    assert sl.mse(LABELS, LABELS, kind="values") == 0.0


def test_the_coordinate_counts_in_the_volume_where_a_region_is_scored(many_blocks):
    truth = np.zeros(SHAPE, np.uint8)
    prediction = spoil(np.zeros(SHAPE), np.nan)
    chunked = stored(prediction, (2, 3, 4))
    region = "1:6,6:8,2:10"
    for array in (prediction, chunked):
        refused(lambda a=array: sl.score(truth, a, region=region), "1 value ", "(2, 7, 9)")
    assert sl.score(truth, chunked, region="3:5,:,:")["dice"].counts["undefined_classes"] == 1


@pytest.mark.parametrize("grid", [(6, 8, 10), (2, 3, 4)], ids=str)
def test_bad_voxels_that_are_not_scored_do_no_harm(many_blocks, grid):
    truth = np.zeros(SHAPE, np.uint8)
    truth[:3] = 1
    clean = np.where(truth == 1, 0.75, 0.25)
    mask = spoil(np.ones(SHAPE, np.uint8), 0)
    expected = payload(sl.score(truth, clean, mask=mask))
    for value in (np.nan, np.inf, -7.0):
        spoiled = spoil(clean.copy(), value)
        assert payload(sl.score(truth, stored(spoiled, grid), mask=mask)) == expected
    for value in (np.nan, 9.0):
        soft, clean_soft = spoil(clean.copy(), value), spoil(clean.copy(), 0.5)
        got = sl.score(stored(soft, grid), clean, mask=mask)
        assert payload(got) == payload(sl.score(clean_soft, clean, mask=mask))


def test_voxels_with_the_ignored_label_may_hold_anything():
    truth = np.array([0, 1, 255, 255, 255], np.uint8)
    prediction = np.array([0.25, 0.75, np.nan, np.inf, -3.0])
    result = sl.score(truth, prediction, ignore_label=255)
    kept = sl.score(truth[:2], prediction[:2])
    assert result.to_dict()["metrics"] == kept.to_dict()["metrics"]
    assert result.voxels == {"total": 5, "scored": 2, "ignored": 3}


def test_a_label_of_no_class_is_fine_where_it_is_ignored():
    truth = np.array([0, 1, -1, 1], np.int16)
    prediction = np.array([0, 1, 77, 1], np.int16)
    result = sl.score(truth, prediction, classes=2, ignore_label=-1)
    assert result["dice"].value == 1.0
    assert result.voxels["ignored"] == 1


def test_the_volumes_of_these_tests_are_read_in_many_blocks(many_blocks):
    chunked = stored(np.zeros(SHAPE, np.uint8), (2, 2, 2))
    assert sl.score(chunked, chunked).timing["block"] == [2, 2, 2]


# Options


@pytest.mark.parametrize(
    ("given", "parts"),
    [
        ({"thresold": 0.3}, ("unknown option 'thresold'", "'threshold'")),
        ({"metric": "dice"}, ("unknown option 'metric'", "'metrics'")),
        ({"class": 3}, ("unknown option 'class'", "'classes'")),
        ({"ignore_labels": 3}, ("unknown option 'ignore_labels'", "'ignore_label'")),
        ({"gama": 2}, ("unknown option 'gama'", "'gamma'")),
        ({"metrics": "dise"}, ("unknown metric 'dise'", "'dice'")),
        ({"metrics": ["iou", "cross_entrpy"]}, ("'cross_entrpy'", "'cross_entropy'")),
        ({"metrics": "Dice"}, ("unknown metric 'Dice'", "'dice'")),
        ({"kind": "label"}, ("'label'", "labels")),
        ({"executor": "thread"}, ("'thread'", "threads")),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_a_misspelt_name_is_refused_with_the_nearest_known_one(given, parts):
    refused(lambda: sl.score(LABELS, LABELS, **given), *parts)


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ({"thresold": 0.3}, "thresold"),
        ({"metric": "dice"}, "metric"),
        ({"metrics": "dise"}, "dise"),
    ],
)
def test_an_accumulator_refuses_misspelt_names(given, name):
    refused(lambda: sl.Accumulator(**given).update(LABELS, LABELS), "unknown", f"'{name}'")


@pytest.mark.parametrize(
    ("metric", "kind", "needs"),
    [
        ("cross_entropy", "labels", "probabilities"),
        ("focal_loss", "labels", "logits"),
        ("hinge_loss", "probabilities", "logits"),
        ("soft_dice", "labels", "probabilities"),
        ("dice", "values", "labels"),
        ("mse", "logits", "values"),
    ],
)
def test_a_metric_that_the_kind_cannot_give_is_refused_with_what_it_needs(metric, kind, needs):
    prediction = LABELS if kind == "labels" else PROBABILITIES
    options = {"metrics": metric, "kind": kind}
    refused(lambda: sl.score(BINARY, prediction, **options), metric, kind, needs)
    refused(lambda: sl.Accumulator(**options).update(BINARY, prediction), metric, kind, needs)


def test_a_metric_of_hard_truths_is_refused_for_a_soft_truth():
    refused(lambda: sl.score(PROBABILITIES, PROBABILITIES, metrics="dice"), "dice", "truth")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("threshold", "high"),
        ("threshold", None),
        ("threshold", [0.5]),
        ("threshold", 0.0),
        ("threshold", 1.5),
        ("threshold", np.nan),
        ("workers", "two"),
        ("workers", 1.5),
        ("workers", 0),
        ("spacing", ["a", "b"]),
        ("spacing", 3.0),
        ("spacing", [1.0]),
        ("spacing", [0.0, 1.0]),
        ("spacing", [np.inf, 1.0]),
        ("spacing", [np.nan, 1.0]),
        ("metrics", 5),
        ("metrics", [3]),
        ("metrics", [["dice"]]),
        ("metrics", ""),
        ("background", "x"),
        ("background", 1.5),
        ("max_memory", None),
        ("max_memory", "lots"),
        ("max_memory", -3),
        ("max_memory", "10"),
        ("region", 3),
        ("region", "a:b,:"),
        ("region", "0:9,0:1"),
        ("region", "1:1,:"),
        ("region", [(0, 1)]),
        ("level", "finest"),
        ("level", 2),
        ("missing", "skip"),
        ("executor", 3),
        ("classes", 0),
        ("classes", 2.5),
        ("classes", True),
        ("classes", []),
        ("classes", [0, 0, 1]),
        ("classes", [0, "liver"]),
        ("classes", {"liver": "x"}),
        ("classes", 10**6),
        ("classes", 10**30),
        ("ignore_label", "void"),
        ("ignore_label", 1.5),
        ("kind", 3),
    ],
    ids=str,
)
def test_an_option_without_meaning_is_refused_by_name(name, value):
    word = {"metrics": "metric"}.get(name, name)
    refused(lambda: sl.score(LABELS, LABELS, **{name: value}), word)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("eps", "tiny"),
        ("eps", 0.0),
        ("eps", 1.0),
        ("gamma", -1),
        ("gamma", np.inf),
        ("alpha", 2),
        ("alpha", np.nan),
        ("alpha", [0.1, 0.2, 0.3]),
        ("reduction", "max"),
    ],
)
def test_a_metric_parameter_out_of_range_is_refused_by_name(name, value):
    refused(lambda: sl.score(BINARY, PROBABILITIES, **{name: value}), name)
    refused(lambda: sl.Accumulator(**{name: value}).update(BINARY, PROBABILITIES), name)


def test_an_option_of_metrics_that_are_not_scored_is_refused():
    refused(lambda: sl.score(LABELS, LABELS, metrics="dice", gamma=2.0), "gamma", "focal_loss")


def test_a_block_that_cannot_fit_names_what_is_needed_and_allowed():
    refused(lambda: sl.score(LABELS, LABELS, max_memory="1MiB"), "max_memory", "1 MiB", "at least")


def test_options_are_refused_before_any_voxel_is_read():
    class Untouchable:
        shape, dtype = (2, 3), np.dtype(np.uint8)

        def __getitem__(self, key):
            raise AssertionError("was read")

    array = Untouchable()
    refused(lambda: sl.score(array, array, metrics="dise"), "dise")
    refused(lambda: sl.score(array, np.zeros((3, 2), np.uint8)), (2, 3), (3, 2))
    refused(lambda: sl.score(array, array, thresold=1), "thresold")


# Chunks that cannot be read


@pytest.mark.parametrize("zarr_format", [2, 3])
@pytest.mark.parametrize("role", ["truth", "prediction"])
def test_a_corrupt_chunk_is_named_with_its_array(many_blocks, tmp_path, role, zarr_format):
    paths = {name: tmp_path / f"{name}.zarr" for name in ("truth", "prediction")}
    data = np.arange(480, dtype=np.uint16).reshape(SHAPE) % 3
    for path in paths.values():
        array = zarr.create_array(
            path, shape=SHAPE, dtype="u2", chunks=(3, 4, 5), zarr_format=zarr_format
        )
        array[...] = data
    key = "1.0.1" if zarr_format == 2 else "c/1/0/1"
    chunk = paths[role] / key
    chunk.write_bytes(chunk.read_bytes()[:7])
    for workers in (1, 3):
        refused(
            lambda w=workers: sl.score(**{n: str(p) for n, p in paths.items()}, workers=w),
            paths[role],
            "(1, 0, 1)",
            key,
            error=sl.ReadError,
        )


def test_an_array_object_that_fails_to_read_is_named():
    class Failing:
        shape, dtype = (2, 3), np.dtype(np.uint8)

        def __getitem__(self, key):
            raise OSError("disk\non fire")

    refused(lambda: sl.score(Failing(), LABELS), "(2, 3)", "fire", error=sl.ReadError)


def test_missing_chunks_are_refused_on_request(tmp_path):
    path = tmp_path / "sparse.zarr"
    array = zarr.create_array(path, shape=(4, 4), dtype="u1", chunks=(2, 2))
    array[:2] = 1
    truth = np.zeros((4, 4), np.uint8)
    refused(lambda: sl.score(truth, path, missing="error"), path, "2 of 4 chunks")
    assert sl.score(truth, path).voxels["scored"] == 16


# The accumulator after a refusal

GOOD = (BINARY, PROBABILITIES)
REFUSED_CHUNKS = {
    "shape": (BINARY, PROBABILITIES[:, :2]),
    "nan": (BINARY, np.where(BINARY, np.nan, 0.5)),
    "range": (BINARY, PROBABILITIES + 0.25),
    "label": (BINARY + 1, PROBABILITIES),
    "channels": (BINARY, np.full((3, 2, 3), 1 / 3)),
    "soft truth": (PROBABILITIES, PROBABILITIES),
    "dtype": (BINARY, PROBABILITIES.astype(complex)),
    "empty": (BINARY[:0], PROBABILITIES[:0]),
    "masked away shape": (BINARY, PROBABILITIES, np.ones(3)),
}


@pytest.mark.parametrize("chunk", REFUSED_CHUNKS.values(), ids=REFUSED_CHUNKS)
def test_an_accumulator_is_unchanged_by_a_refused_chunk(chunk):
    accumulator = sl.Accumulator(metrics="dice,cross_entropy,mse")
    accumulator.update(*GOOD)
    before = payload(accumulator.compute())
    refused(lambda: accumulator.update(*chunk))
    assert payload(accumulator.compute()) == before
    accumulator.update(*GOOD)
    twice = sl.score(*(np.concatenate([a, a]) for a in GOOD), metrics="dice,cross_entropy,mse")
    assert payload(accumulator.compute()) == payload(twice)


@pytest.mark.parametrize("chunk", REFUSED_CHUNKS.values(), ids=REFUSED_CHUNKS)
def test_an_accumulator_is_usable_after_its_first_chunk_was_refused(chunk):
    accumulator = sl.Accumulator(metrics="dice,cross_entropy,mse", kind="probabilities", classes=2)
    if chunk is not REFUSED_CHUNKS["soft truth"]:
        refused(lambda: accumulator.update(*chunk))
    accumulator.update(*GOOD)
    once = sl.score(*GOOD, metrics="dice,cross_entropy,mse", classes=2)
    assert payload(accumulator.compute()) == payload(once)


def test_labels_found_in_a_refused_chunk_leave_no_class_behind():
    accumulator = sl.Accumulator()
    accumulator.update(LABELS, LABELS)
    before = payload(accumulator.compute())
    chunk = np.array([[0, 9, -1]], np.int16)
    refused(lambda: accumulator.update(chunk, chunk), "negative", "-1 at (0, 2)")
    assert payload(accumulator.compute()) == before


def test_an_accumulator_refuses_to_compute_or_save_nothing(tmp_path):
    refused(lambda: sl.Accumulator().compute(), "update")
    refused(lambda: sl.Accumulator().save(tmp_path / "part.slstate"), "update")
    assert list(tmp_path.iterdir()) == []


def test_accumulators_of_other_options_do_not_merge():
    one, other = sl.Accumulator(metrics="dice"), sl.Accumulator(metrics="iou")
    for accumulator in (one, other):
        accumulator.update(LABELS, LABELS)
    before = payload(one.compute())
    refused(lambda: one.merge(other), "metrics", "dice", "iou")
    assert payload(one.compute()) == before


@pytest.mark.parametrize("damage", [lambda b: b[:-1], lambda b: b[:40], lambda b: b"", bytes.upper])
def test_a_damaged_state_file_is_refused(tmp_path, damage):
    accumulator = sl.Accumulator()
    accumulator.update(LABELS, LABELS)
    path = tmp_path / "part.slstate"
    accumulator.save(path)
    path.write_bytes(damage(path.read_bytes()))
    refused(lambda: sl.Accumulator.load(path), path)


def test_a_state_file_that_does_not_exist_is_named(tmp_path):
    refused(lambda: sl.Accumulator.load(tmp_path / "no.slstate"), tmp_path / "no.slstate")


@pytest.mark.parametrize("text", ["", "{", "[]", "3", '{"schema": "other/1"}', "not json"])
def test_what_is_no_result_is_refused(text):
    refused(lambda: sl.Result.from_json(text), "result")


@pytest.mark.parametrize("part", ["metrics", "voxels", "classes"])
def test_a_result_without_one_of_its_parts_is_refused(part):
    plain = sl.score(LABELS, LABELS).to_dict()
    del plain[part]
    refused(lambda: sl.Result.from_json(json.dumps(plain)), "result")


@pytest.mark.parametrize("metric", ["hinge_loss", "squared_hinge_loss", "dice", "cross_entropy"])
@pytest.mark.parametrize("dtype", ["f2", "f4", "f8"])
@pytest.mark.parametrize("bad", [np.inf, -np.inf, np.nan])
def test_logits_that_are_not_finite_are_refused_by_every_metric_and_type(metric, dtype, bad):
    logits = np.array([1, bad, -2, bad], dtype)
    truth = np.array([0, 1, 1, 0], np.uint8)
    refused(
        lambda: sl.score(truth, logits, kind="logits", metrics=metric),
        "2 values not finite",
        "(1,)",
    )


@pytest.mark.parametrize("dtype", ["f2", "f4"])
def test_the_largest_finite_logits_are_taken_by_hinge_loss(dtype):
    largest = float(np.finfo(dtype).max)
    assert sl.hinge_loss(np.array([0], np.uint8), np.array([largest], dtype)) == 1 + largest


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8"])
@pytest.mark.parametrize("shape", [(4,), (1, 4)])
@pytest.mark.parametrize("last", [0.5, 0.0, 1.0, 1.5, -0.25, np.nan])
def test_scores_are_checked_alike_with_and_without_a_loss_that_clips(dtype, shape, last):
    truth = np.array([0, 1, 1, 0], np.uint8)
    scores = np.array([0.25, 0.75, 0.125, last], dtype).reshape(shape)

    def outcome(*metrics):
        try:
            result = sl.score(truth, scores, kind="probabilities", metrics=["mse", *metrics])
            return result.metrics["mse"].value, result.voxels
        except sl.InvalidInputError as error:
            # The hint in brackets depends on the metrics.
            return re.sub(r" \((pass|raw) [^)]*\)", "", str(error))

    alone = outcome()
    assert outcome("cross_entropy") == outcome("focal_loss", "soft_dice") == alone
    assert isinstance(alone, str) == (not 0 <= last <= 1)
