"""Real brain volumes from Zarr, against plain NumPy; the bytes do not depend on the chunks."""

import math

import numpy as np
import pytest
import zarr

import streamloss as sl
from tests.real_data import MRICRON, SUBJECTS, atlas, subject_labels, tissue_map
from tests.test_laws import payload

# Cubes, slices, columns with shards, and a single chunk: as (chunks, shards).
LAYOUTS = {
    "cubes": ((64, 64, 64), None),
    "slices": ((8, 233, 233), None),
    "shards": ((32, 48, 64), (96, 96, 128)),
    "whole": ((233, 233, 233), None),
}


def write(path, array, layout):
    chunks, shards = LAYOUTS[layout]
    if shards is None:
        chunks = tuple(map(min, chunks, array.shape))
    stored = zarr.create_array(
        path, shape=array.shape, dtype=array.dtype, chunks=chunks, shards=shards
    )
    stored[...] = array
    return path


def score_all_ways(folder, truth, prediction, pairs, **options):
    """Score each pair of layouts; return the result after checking that all have its bytes."""
    results = []
    for number, (one, other) in enumerate(pairs):
        paths = [
            write(folder / f"{name}-{number}.zarr", array, layout)
            for name, array, layout in (("t", truth, one), ("p", prediction, other))
        ]
        results.append(sl.score(*paths, workers=number + 1, **options))
    assert len({payload(result) for result in results}) == 1
    return results[0]


def voxel_counts(truth, prediction, classes):
    """The confusion matrix, by NumPy's bincount."""
    codes = np.full(max(classes) + 1, len(classes))
    codes[list(classes)] = range(len(classes))
    pairs = codes[truth].ravel() * (len(classes) + 1) + codes[prediction].ravel()
    size = len(classes) + 1
    counts = np.bincount(pairs, minlength=size**2).reshape(size, size)
    assert not counts[-1].any()
    assert not counts[:, -1].any()
    return counts[:-1, :-1]


def assert_overlaps_are(result, counts, classes):
    """Counts exactly; ratios as the one division of whole numbers that they are."""
    for code, value in enumerate(classes):
        tp = int(counts[code, code])
        fp, fn = int(counts[:, code].sum()) - tp, int(counts[code].sum()) - tp
        row = next(row for row in result.classes if row["value"] == value)
        assert (row["truth_voxels"], row["prediction_voxels"]) == (tp + fn, tp + fp)
        if value == 0:
            continue
        assert result["true_positives"].per_class[value] == tp
        assert result["false_positives"].per_class[value] == fp
        assert result["false_negatives"].per_class[value] == fn
        assert result["dice"].per_class[value] == 2 * tp / (2 * tp + fp + fn)
        assert result["iou"].per_class[value] == tp / (tp + fp + fn)
    assert result["accuracy"].value == int(np.trace(counts)) / int(counts.sum())


OVERLAPS = "dice,iou,accuracy,true_positives,false_positives,false_negatives"


def moved(labels):
    """The same labels three voxels further along the first axis and one along the last."""
    result = np.zeros_like(labels)
    result[3:, :, 1:] = labels[:-3, :, :-1]
    return result


def test_the_tissue_maps_are_what_they_are_said_to_be():
    for tissue in ("gm", "wm"):
        voxels = tissue_map(tissue)
        assert (voxels.shape, voxels.dtype) == ((197, 233, 189), np.uint8)
        assert (voxels.min(), voxels.max()) == (0, 255)


@pytest.mark.parametrize("subject", SUBJECTS)
def test_the_subjects_have_82_regions(subject):
    voxels = subject_labels(subject)
    assert voxels.dtype == np.int32
    assert np.unique(voxels).tolist() == list(range(83))


def test_a_quantised_tissue_map_scores_as_probabilities(tmp_path):
    grey, white = tissue_map("gm"), tissue_map("wm")
    # 127.5 of 255 is a half, so no voxel is at the threshold itself.
    truth = ((grey > white) & (grey >= 100)).astype(np.uint8)
    metrics = "cross_entropy,focal_loss,mse,mae,soft_dice,soft_iou," + OVERLAPS
    pairs = [("cubes", "cubes"), ("slices", "shards"), ("shards", "whole")]
    result = score_all_ways(tmp_path, truth, grey, pairs, kind="probabilities", metrics=metrics)

    assert_overlaps_are(result, voxel_counts(truth, (grey >= 128).astype(np.uint8), (0, 1)), (0, 1))
    # Every number follows from how many voxels of each class have each of the 256 codes.
    histogram = np.array([np.bincount(grey[truth == k], minlength=256) for k in (0, 1)])
    p = np.arange(256) / 255
    y = np.array([[0.0], [1.0]])
    inside = np.clip(p, 2.0**-52, 1 - 2.0**-52)
    losses = -np.log(np.array([1 - inside, inside]))
    focal = np.array([[0.75], [0.25]]) * np.array([inside, 1 - inside]) ** 2 * losses
    probability, overlap = math.fsum(p * histogram.sum(axis=0)), math.fsum(p * histogram[1])
    true = int(histogram[1].sum())

    def mean(terms):
        return math.fsum((terms * histogram).ravel()) / truth.size

    for name, expected in {
        "cross_entropy": mean(losses),
        "focal_loss": mean(focal),
        "mse": mean((p - y) ** 2),
        "mae": mean(abs(p - y)),
        "soft_dice": 2 * overlap / (probability + true),
        "soft_iou": overlap / (probability + true - overlap),
    }.items():
        assert abs(result[name].value - expected) <= result[name].error_bound + 1e-14, name
        assert result[name].error_bound < 1e-6, name
    clipped = int(histogram[:, [0, 255]].sum())
    assert result["cross_entropy"].counts == {"clipped_voxels": clipped}


def test_tissue_channels_score_as_three_classes(tmp_path):
    box = (slice(60, 124), slice(80, 144), slice(50, 114))
    grey, white = (tissue_map(tissue)[box].astype(np.int64) for tissue in ("gm", "wm"))
    rest = np.clip(255 - grey - white, 0, None)
    total = grey + white + rest
    p = (np.stack([rest, grey, white]) / total).astype(np.float32)
    truth = np.where(white > 120, 2, np.where(grey > 100, 1, 0)).astype(np.uint8)
    stored = zarr.create_array(
        tmp_path / "p.zarr", shape=p.shape, dtype="f4", chunks=(1, 40, 64, 9)
    )
    stored[...] = p
    options = {"metrics": f"cross_entropy,soft_dice,mse,{OVERLAPS}"}
    result = sl.score(truth, stored, workers=2, **options)
    assert payload(result) == payload(sl.score(truth, p, executor="serial", **options))

    assert_overlaps_are(result, voxel_counts(truth, p.argmax(axis=0), (0, 1, 2)), (0, 1, 2))
    wide = p.astype(np.float64)
    own = np.take_along_axis(wide, truth[np.newaxis].astype(int), axis=0)[0]
    loss = -np.log(np.clip(own, 2.0**-52, 1 - 2.0**-52))
    got = result["cross_entropy"]
    assert abs(got.value - math.fsum(loss.ravel()) / truth.size) <= got.error_bound
    square = (wide - (truth == np.arange(3)[:, None, None, None])) ** 2
    got = result["mse"]
    assert abs(got.value - math.fsum(square.ravel()) / square.size) <= got.error_bound
    for k in (1, 2):
        both, mass = wide[k][truth == k].sum(), wide[k].sum() + (truth == k).sum()
        got = result["soft_dice"]
        assert abs(got.per_class[k] - 2 * both / mass) <= got.error_bound + 1e-12


def test_grey_and_white_matter_differ_as_values_by_an_exact_amount(tmp_path):
    grey, white = tissue_map("gm"), tissue_map("wm")
    pairs = [("cubes", "shards"), ("whole", "slices")]
    result = score_all_ways(tmp_path, grey, white, pairs, kind="values")
    difference = white.astype(np.int64) - grey
    squares, magnitudes = int((difference**2).sum()), int(np.abs(difference).sum())
    # Whole numbers below 2**53 are exact, so only one division rounds.
    assert result["mse"].value == squares / grey.size
    assert result["mae"].value == magnitudes / grey.size
    assert result["rmse"].value == pytest.approx(math.sqrt(squares / grey.size), rel=2.0**-52)


@pytest.mark.parametrize(
    ("one", "other"), [("12876", "14380"), ("15496", "15496")], ids=["two-subjects", "moved"]
)
def test_82_regions_score_as_labels(tmp_path, one, other):
    truth, prediction = subject_labels(one), subject_labels(other)
    if one == other:
        prediction = moved(truth)
    pairs = [("cubes", "slices"), ("shards", "cubes")]
    result = score_all_ways(tmp_path, truth, prediction, pairs, metrics=OVERLAPS)
    classes = tuple(range(83))
    assert [row["value"] for row in result.classes] == list(classes)
    counts = voxel_counts(truth, prediction, classes)
    assert_overlaps_are(result, counts, classes)
    dice = [result["dice"].per_class[value] for value in classes[1:]]
    assert result["dice"].value == pytest.approx(math.fsum(dice) / 82, rel=2.0**-50)


def test_sparse_label_values_of_another_type_score_as_the_plain_ones(tmp_path):
    truth = subject_labels("10021")
    prediction = moved(truth)
    # As segmentations number their regions: thousands apart, the background 0.
    values = np.where(np.arange(83) == 0, 0, 1000 + 37 * np.arange(83)).astype(np.uint16)
    plain = sl.score(truth, prediction, metrics=OVERLAPS)
    pairs = [("slices", "cubes"), ("shards", "whole")]
    sparse = score_all_ways(
        tmp_path, values[truth], values[prediction].astype(np.int64), pairs, metrics=OVERLAPS
    )
    assert [row["value"] for row in sparse.classes] == sorted(values.tolist())
    for name, metric in plain.metrics.items():
        assert sparse[name].value == metric.value
        assert sparse[name].per_class == {int(values[c]): x for c, x in metric.per_class.items()}


def test_an_accumulator_of_slices_gives_the_result_of_the_volume():
    truth = subject_labels("9861")
    prediction = moved(truth)
    accumulator = sl.Accumulator(metrics=OVERLAPS)
    for start in reversed(range(0, len(truth), 40)):
        accumulator.update(truth[start : start + 40], prediction[start : start + 40])
    assert payload(accumulator.compute()) == payload(sl.score(truth, prediction, metrics=OVERLAPS))


def test_ignoring_a_region_leaves_out_its_voxels():
    truth = subject_labels("15697")
    prediction = moved(truth)
    result = sl.score(truth, prediction, ignore_label=41, metrics=OVERLAPS)
    kept = truth != 41
    assert result.voxels["ignored"] == int((~kept).sum())
    both = int(((truth == 7) & (prediction == 7)).sum())
    either = int(((truth == 7) | (prediction == 7))[kept].sum())
    assert result["iou"].per_class[7] == both / either


@pytest.mark.skipif(not MRICRON.is_dir(), reason="Debian's mricron-data is not installed")
def test_two_atlases_on_one_grid_score_as_labels(tmp_path):
    truth, prediction = atlas("aal"), atlas("brodmann")
    pairs = [("cubes", "cubes"), ("slices", "shards")]
    result = score_all_ways(tmp_path, truth, prediction, pairs, metrics=OVERLAPS)
    classes = tuple(sorted({*np.unique(truth).tolist(), *np.unique(prediction).tolist()}))
    assert [row["value"] for row in result.classes] == list(classes)
    assert_overlaps_are(result, voxel_counts(truth, prediction, classes), classes)
