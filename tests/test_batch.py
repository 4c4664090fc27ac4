"""Batches: which cases, what is saved, resuming, failing, sharing memory, and the exit codes."""

import csv
import dataclasses
import errno
import json
import math
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import threading
from io import StringIO
from pathlib import Path

import h5py
import numpy as np
import pyarrow.parquet
import pytest
import zarr

import streamloss as sl
from streamloss import batching, lanes
from streamloss.batch_folder import BatchFolder
from streamloss.cases import SUFFIXES, choose_shard
from streamloss.cli import main
from streamloss.fingerprints import of_source
from streamloss.prepare import FIXED_BYTES
from streamloss.stores import hdf5, tiff
from streamloss.study import result_paths
from tests.test_formats import save_nifti
from tests.test_stores import multiscales

NAMES = ("a", "b", "c", "d", "e")


def labels(seed, shape=(6, 7, 8)):
    return np.random.default_rng(seed).integers(0, 3, shape, np.uint8)


@pytest.fixture
def folders(tmp_path, monkeypatch):
    """Hold five cases of labels as truth, and predictions of two models."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    for seed, name in enumerate(NAMES):
        truth = labels(seed)
        zarr.save_array(tmp_path / "truth" / f"{name}.zarr", truth)
        for model, kept in (("unet", 0.9), ("vnet", 0.6)):
            keep = np.random.default_rng(seed + 10).random(truth.shape) < kept
            zarr.save_array(
                tmp_path / model / f"{name}.zarr", np.where(keep, truth, 0).astype("u1")
            )
    return tmp_path


@pytest.fixture
def run(folders, capsys):
    """Run the command line; return code, stdout, stderr."""

    def run(*arguments):
        code = main([str(argument) for argument in arguments])
        return code, *capsys.readouterr()

    return run


@pytest.fixture
def side_by_side(monkeypatch):
    """Let no case be large."""
    monkeypatch.setattr(batching, "_LARGE_PART", 0.1)


def find(truth="truth", prediction="unet"):
    return sl.find_cases(truth, prediction)[0]


def break_case(folders, name="c", model="unet"):
    """Make a prediction unreadable."""
    chunk = next(p for p in (folders / model / f"{name}.zarr" / "c").rglob("*") if p.is_file())
    chunk.write_bytes(b"not a chunk")
    return chunk


def scores(output):
    return {path.stem: sl.Result.from_json(path.read_text()) for path in result_paths(Path(output))}


@pytest.mark.parametrize("executor", ["threads", "processes", "serial"])
def test_every_case_gets_the_bytes_that_score_gives(folders, executor, side_by_side):
    cases = find()
    sl.batch(cases, output="out", executor=executor, workers=2, metrics="dice,iou", classes=3)
    found = scores("out")
    assert sorted(found) == list(NAMES)
    for case in cases:
        alone = sl.score(case.truth, case.prediction, metrics="dice,iou", classes=3).to_dict()
        got = found[case.name].to_dict()
        for part in ("inputs", "options", "voxels", "classes", "metrics", "integrity"):
            assert json.dumps(got[part]) == json.dumps(alone[part])


def test_a_single_large_case_is_scored_by_all_workers(folders, monkeypatch):
    big = np.random.default_rng(0).integers(0, 2, (64, 64, 64), np.uint8)
    for folder in ("truth", "unet"):
        zarr.create_array(f"{folder}/big.zarr", data=big, chunks=(16, 64, 64))
    together = []
    run_lanes = batching.run_lanes

    def spy(cases, *rest):
        together.extend(item.case.name for item in cases)
        return run_lanes(cases, *rest)

    monkeypatch.setattr(batching, "run_lanes", spy)
    done = sl.batch(find(), output="out", workers=2, metrics="dice")
    assert sorted(together) == list(NAMES)
    assert len(done.study.cases) == 6
    assert scores("out")["big"].timing["workers"] == 2
    assert scores("out")["a"].timing["workers"] == 1


@pytest.mark.parametrize("workers", [1, 2, 7, 64])
@pytest.mark.parametrize("processes", [True, False])
@pytest.mark.parametrize("limit", [1, FIXED_BYTES, 2**29, 2**30])
def test_shares_of_memory_stay_within_the_limit(workers, processes, limit):
    count, share = batching._shares(workers, limit, processes)
    taken = count * share if processes else FIXED_BYTES + count * (share - FIXED_BYTES)
    assert 1 <= count <= workers
    assert taken <= limit or count == 1
    assert share <= limit


def test_a_case_that_needs_more_than_its_share_gets_all_of_the_memory(folders, side_by_side):
    voxels = np.zeros((48, 1024, 1024), np.uint8)
    for folder in ("truth", "unet"):
        zarr.create_array(f"{folder}/wide.zarr", data=voxels, chunks=voxels.shape)
    limit = FIXED_BYTES + 240 * 2**20
    done = sl.batch(find(), output="out", workers=2, max_memory=limit, metrics="accuracy")
    assert done.failures == ()
    allowed = {name: result.timing["max_memory"] for name, result in scores("out").items()}
    assert allowed == {"wide": limit, **dict.fromkeys(NAMES, FIXED_BYTES + 120 * 2**20)}


def test_too_little_memory_for_any_case_is_the_reason_of_each(folders):
    done = sl.batch(find(), output="out", workers=2, max_memory="1MiB", metrics="dice")
    assert [failure.case for failure in done.failures] == list(NAMES)
    assert "max_memory is too small" in done.failures[0].reason


def test_a_failing_case_is_recorded_and_the_others_go_on(run, folders):
    chunk = break_case(folders)
    whole = chunk.with_name("whole")
    code, out, err = run("batch", "truth", "unet", "-o", "out", "-m", "dice")
    assert code == 3
    assert "Traceback" not in out + err
    assert "1 failed" in out
    recorded = json.loads(Path("out/failures.json").read_text())["failures"]
    assert [(row["case"], row["model"]) for row in recorded] == [("c", "unet")]
    assert "c.zarr" in recorded[0]["reason"]
    assert sorted(scores("out")) == ["a", "b", "d", "e"]
    assert not whole.exists()


def unreadable(kind, monkeypatch):
    """Keep the fingerprint of prediction c from being taken; return the case's name and why."""
    if kind == "link":
        Path("unet/c.zarr/dead").symlink_to("nowhere")
        return "c", "No such file or directory: 'unet/c.zarr/dead'"
    if kind == "loop":
        Path("unet/c.zarr/loop").symlink_to("loop")
        return "c", "unet/c.zarr/loop"
    scandir = os.scandir

    def refuse(path):
        if Path(path) == Path("unet/c.zarr"):
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    # Nothing is forbidden to root.
    monkeypatch.setattr(os, "scandir", refuse)
    return "c", "Permission denied: 'unet/c.zarr'"


@pytest.mark.parametrize("kind", ["link", "loop", "folder"])
def test_a_case_whose_files_cannot_be_looked_at_fails_alone(run, monkeypatch, kind):
    name, reason = unreadable(kind, monkeypatch)
    code, out, _ = run("batch", "truth", "unet", "-o", "out", "-m", "dice")
    assert code == 3
    assert "4 cases with results" in out
    assert "finished before" not in out
    (row,) = json.loads(Path("out/failures.json").read_text())["failures"]
    assert row["case"] == name
    assert reason in row["reason"]
    assert sorted(scores("out")) == ["a", "b", "d", "e"]
    again = sl.batch(find(), output="out", metrics="dice", resume=True)
    assert again.skipped == 4
    assert [failure.case for failure in again.failures] == ["c"]


def test_a_finished_case_whose_files_cannot_be_looked_at_is_not_resumed(folders, monkeypatch):
    sl.batch(find(), output="out", metrics="dice")
    unreadable("folder", monkeypatch)
    with pytest.raises(sl.InvalidInputError, match=r"case c .* inputs cannot be read \(Permission"):
        sl.batch(find(), output="out", metrics="dice", resume=True)


@pytest.mark.parametrize(
    "wrong",
    [
        {"truth": "x" * 300},
        {"truth": "no\0file"},
        {"truth": "~nobody_of_this_name/x"},
        {"name": "x" * 251},
        {"name": "x" * 300},
        {"model": "x" * 300},
    ],
)
def test_a_case_with_a_name_that_no_file_has_fails_alone(folders, wrong):
    cases = [*find(), dataclasses.replace(find()[0], **{"name": "z", **wrong})]
    done = sl.batch(cases, output="out", metrics="dice")
    assert [failure.case for failure in done.failures] == [cases[-1].name]
    assert sorted(scores("out")) == list(NAMES)
    assert Path("out/scores.csv").exists()
    (row,) = json.loads(Path("out/failures.json").read_text())["failures"]
    assert row["reason"]


def test_a_full_disk_ends_the_run_and_keeps_what_is_finished(run, monkeypatch):
    write_text = Path.write_text
    written = []

    def fill(path, *arguments, **options):
        if len(written) == 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        written.append(path)
        return write_text(path, *arguments, **options)

    monkeypatch.setattr(Path, "write_text", fill)
    code, _, err = run("batch", "truth", "unet", "-o", "out", "-m", "dice")
    assert code == 1
    assert re.fullmatch(r"error: No space left on device: 'out/cases/unet/[a-e]\.json'\n", err)
    assert len(scores("out")) == 2
    monkeypatch.setattr(Path, "write_text", write_text)
    done = sl.batch(find(), output="out", metrics="dice", resume=True)
    assert done.skipped == 2
    assert len(done.study.cases) == 5


def test_resuming_scores_only_what_failed(run):
    array = zarr.open_array("unet/c.zarr", mode="r")[:]
    zarr.save_array("unet/c.zarr", np.full(array.shape, np.nan), mode="w")
    assert run("batch", "truth", "unet", "-o", "out", "-m", "mse", "--kind", "values")[0] == 3
    assert "NaN" in json.loads(Path("out/failures.json").read_text())["failures"][0]["reason"]
    before = {path: path.stat().st_mtime_ns for path in result_paths(Path("out"))}
    zarr.save_array("unet/c.zarr", array, mode="w")
    code, out, _ = run(
        "batch", "truth", "unet", "-o", "out", "-m", "mse", "--kind", "values", "--resume"
    )
    assert code == 0
    assert "5 cases with results, 4 of them finished before" in out
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert json.loads(Path("out/failures.json").read_text())["failures"] == []


def test_resuming_with_other_options_is_refused_and_told(run):
    arguments = ("batch", "truth", "unet", "-o", "out", "--metrics")
    run(*arguments, "dice")
    code, out, err = run(*arguments, "dice,iou", "--resume")
    assert (code, out) == (2, "")
    assert (
        'the result of case a of unet cannot be kept, --metrics was ["dice"] and is ["dice", "iou"]'
        in err
    )


def test_resuming_with_other_memory_workers_or_reader_is_not_another_run(folders):
    sl.batch(find(), output="out", metrics="dice")
    settings = {"max_memory": "512MiB", "workers": 1, "reader": "zarr", "executor": "serial"}
    again = sl.batch(find(), output="out", metrics=["dice"], resume=True, **settings)
    assert again.skipped == 5


def test_resuming_with_changed_inputs_is_refused_and_told(folders):
    sl.batch(find(), output="out", metrics="dice")
    zarr.save_array("unet/b.zarr", labels(99), mode="w")
    with pytest.raises(sl.InvalidInputError, match=r"case b of unet .* files of its prediction"):
        sl.batch(find(), output="out", metrics="dice", resume=True)
    with pytest.raises(sl.InvalidInputError, match=r"its prediction was .*unet/a.zarr and is"):
        sl.batch(
            [sl.Case(c.name, c.truth, c.truth, model="unet") for c in find()],
            output="out", metrics="dice", resume=True,
        )  # fmt: skip


def save_image(path, array, version):
    """Save an OME-Zarr image of one level and labels in it."""
    group = zarr.open_group(path, mode="w", zarr_format=2 if version == "0.4" else 3)
    for name in ("", "labels/x/"):
        group.create_array(f"{name}0", data=array)
        (group[name] if name else group).attrs.update(multiscales(version))


@pytest.mark.parametrize("version", ["0.4", "0.5"])
@pytest.mark.parametrize("image", ["", "labels/x/"])
def test_resuming_with_a_changed_image_around_an_array_is_refused(folders, version, image):
    for name in ("t.zarr", "p.zarr"):
        save_image(name, labels(0), version)
    cases = [sl.Case("a", f"t.zarr/{image}0", "p.zarr/labels/x/0")]
    sl.batch(cases, output="out", metrics="dice")
    # Another array in the image changes nothing of this one.
    group = zarr.open_group("t.zarr")
    group.create_array("other", data=labels(1))
    os.utime(Path("t.zarr") / image / ("zarr.json" if version == "0.5" else ".zattrs"), ns=(1, 1))
    assert sl.batch(cases, output="out", metrics="dice", resume=True).skipped == 1
    zarr.open_group(f"t.zarr/{image}").attrs.update(
        multiscales(version, coordinateTransformations=[])
    )
    with pytest.raises(sl.InvalidInputError, match=r"the files of its truth .* have changed"):
        sl.batch(cases, output="out", metrics="dice", resume=True)


def test_results_are_never_overwritten_without_resume(folders):
    sl.batch(find(), output="out", metrics="dice")
    with pytest.raises(sl.InvalidInputError, match="is there already: pass `resume`"):
        sl.batch(find(), output="out", metrics="dice")


def test_results_of_other_cases_are_not_counted_but_refused(folders):
    sl.batch(find(), output="out", metrics="dice")
    with pytest.raises(sl.InvalidInputError, match="was not asked for"):
        sl.batch(find()[1:], output="out", metrics="dice", resume=True)


def test_shards_together_are_the_whole(folders):
    sl.batch(find(), output="whole", metrics="dice")
    done = [sl.batch(find(), output="out", metrics="dice", shard=f"{i}/3") for i in range(3)]
    assert [len(batch.study.cases) for batch in done] == [2, 4, 5]
    assert Path("out/scores.csv").read_bytes() == Path("whole/scores.csv").read_bytes()


@pytest.mark.parametrize("resume", [False, True])
def test_shards_of_other_options_are_refused(run, resume):
    arguments = ("batch", "truth", "unet", "-o", "mix", "-m", "dice")
    assert run(*arguments, "--shard", "0/2")[0] == 0
    options = ("--include-background", "--shard", "1/2", *["--resume"] * resume)
    code, out, err = run(*arguments, *options)
    assert (code, out) == (2, "")
    assert "case a of unet" in err
    assert "--include-background was not given and is true" in err
    assert sorted(scores("mix")) == ["a", "c", "e"]


def test_an_unsharded_run_takes_the_place_of_the_failures_of_shards(folders):
    break_case(folders)
    sl.batch(find(), output="out", metrics="dice", shard="0/2")
    assert "c.zarr" in Path("out/failures-0-of-2.json").read_text()
    zarr.save_array("unet/c.zarr", labels(2), mode="w")
    done = sl.batch(find(), output="out", metrics="dice", resume=True)
    assert done.failures == ()
    assert [path.name for path in Path("out").glob("failures*")] == ["failures.json"]


def test_merging_folders_of_shards_tells_how_they_are_joined(run):
    for shard in ("0/2", "1/2"):
        sl.batch(find(), output=f"part-{shard[0]}", metrics="dice", shard=shard)
    code, _, err = run("merge", "part-0", "part-1")
    assert code == 2
    assert err == (
        "error: 'part-0' is a folder, not the state of a shard: shards of a batch are joined by "
        "giving all the same --output and then running `streamloss batch` with it and --resume, "
        "but without --shard\n"
    )


@pytest.mark.parametrize("output", ["m1.csv", "m1.csv/x"])
def test_an_output_folder_within_a_file_is_refused(run, output):
    Path("m1.csv").touch()
    code, _, err = run("batch", "truth", "unet", "-o", output, "-m", "dice")
    assert code == 2
    assert f"output {output}: m1.csv is a file, expected a folder" in err


@pytest.mark.parametrize(
    ("options", "again"),
    [
        ({"metrics": "dice,iou"}, {"metrics": "iou,dice"}),
        ({"metrics": "dice"}, {"metrics": "dice", "threshold": 0.5, "background": 0, "level": 0}),
        ({"metrics": "dice", "affine": "check", "classes": None}, {"metrics": "dice"}),
    ],
)
def test_options_that_are_written_otherwise_are_the_same(folders, options, again):
    sl.batch(find(), output="out", **options)
    assert sl.batch(find(), output="out", **again, resume=True).skipped == 5


@pytest.mark.parametrize("count", [1, 2, 5, 9])
def test_every_case_is_in_one_shard(folders, count):
    cases = find()
    chosen = [case for i in range(count) for case in choose_shard(cases, f"{i}/{count}")]
    assert sorted(chosen, key=lambda case: case.name) == cases


@pytest.mark.parametrize("shard", ["3/3", "1", "-1/2", "a/b", "0/0"])
def test_a_shard_that_cannot_be_is_refused(folders, shard):
    with pytest.raises(sl.InvalidInputError, match="shard must be i/N"):
        sl.batch(find(), output="out", shard=shard)
    assert not Path("out").exists()


def test_unmatched_cases_are_listed_and_refused(run, folders):
    (folders / "unet" / "c.zarr").rename(folders / "unet" / "x.zarr")
    code, out, err = run("batch", "truth", "unet", "-o", "out", "-m", "dice")
    assert (code, out) == (2, "")
    assert "c has no prediction\nx has no truth\n" in err
    assert "4 matched: pass --allow-unmatched" in err
    assert not Path("out").exists()
    code, out, err = run("batch", "truth", "unet", "-o", "out", "-m", "dice", "--allow-unmatched")
    assert code == 0
    assert "c has no prediction" in err
    assert "4 cases with results" in out


def test_names_match_without_the_suffix_of_the_format(tmp_path):
    for folder, names in {
        "truth": ["p_0000.nii.gz", "q.ome.zarr", "r.2.npy", "dataset.json", ".hidden.npy"],
        "prediction": ["p_0000.zarr", "q.n5", "r.2.nii", "notes.txt"],
    }.items():
        for name in names:
            (tmp_path / folder).mkdir(exist_ok=True)
            (tmp_path / folder / name).touch()
    cases, unmatched = sl.find_cases(tmp_path / "truth", tmp_path / "prediction")
    assert [case.name for case in cases] == ["p_0000", "q", "r.2"]
    assert unmatched == []


def test_every_suffix_of_a_readable_file_names_a_volume():
    for store in (hdf5, tiff):
        assert set(store._SUFFIXES) <= set(SUFFIXES)


def test_a_mask_without_a_case_is_listed(folders):
    for name in (*NAMES, "x"):
        zarr.save_array(f"masks/{name}.zarr", np.ones((6, 7, 8), "u1"))
    cases, unmatched = sl.find_cases("truth", "unet", mask="masks")
    assert len(cases) == 5
    assert unmatched == ["x has a mask, but neither truth nor prediction"]


def test_a_cohort_of_nifti_files_is_scored_beside_converted_ones(run, folders):
    grid = np.diag([0.9, 0.9, 3, 1])
    shifted = grid.copy()
    shifted[0, 3] = 9
    for folder in ("images", "guesses"):
        Path(folder).mkdir()
        for name in NAMES:
            affine = shifted if (folder, name) == ("guesses", "b") else grid
            save_nifti(Path(folder) / f"{name}.nii.gz", labels(len(folder)), affine)
    sl.convert("guesses/a.nii.gz", "guesses/a.zarr", labels=True)
    Path("guesses/a.nii.gz").unlink()
    code, out, _ = run("batch", "images", "guesses", "-o", "out", "-m", "dice")
    assert code == 3
    assert "1 failed:\n  b (guesses): truth and prediction lie on different grids" in out
    assert "--affine ignore" in " ".join(out.split())
    found = scores("out")
    assert sorted(found) == ["a", "c", "d", "e"]
    assert found["a"]["dice"] == found["c"]["dice"]
    again = ("batch", "images", "guesses", "-o", "all", "-m", "dice", "--affine", "ignore")
    assert run(*again)[0] == 0
    assert len(scores("all")) == 5


def test_a_volume_inside_a_file_has_changed_with_the_file(folders):
    with h5py.File("both.h5", "w") as file:
        file["truth"] = file["unet"] = labels(0)
    before = of_source("both.h5/truth")
    assert before["files"] == 1
    with h5py.File("both.h5", "a") as file:
        file["unet"][0] = 1
        file["more"] = labels(1)
    assert of_source("both.h5/truth")["digest"] != before["digest"]


def test_options_of_score_reach_every_case(run):
    regions = ("--regions", "any=1+2", "--regions", "two=2")
    code, _, _ = run("batch", "truth", "unet", "-o", "out", "-m", "dice", *regions)
    assert code == 0
    truth, prediction = "truth/a.zarr", "unet/a.zarr"
    expected = sl.score(truth, prediction, metrics="dice", regions={"any": [1, 2], "two": [2]})
    assert scores("out")["a"]["dice"] == expected["dice"]
    options = {"classes": [0, 1], "other_labels": "background", "convention": "monai"}
    sl.batch(find(), output="more", metrics="dice", **options)
    assert (
        scores("more")["a"]["dice"]
        == sl.score(truth, prediction, metrics="dice", **options)["dice"]
    )


def test_two_volumes_of_one_case_are_refused(tmp_path):
    for name in ("truth/a.npy", "truth/a.zarr", "prediction/a.npy"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    with pytest.raises(sl.InvalidInputError, match=r"two volumes of case a: a.npy and a.zarr"):
        sl.find_cases(tmp_path / "truth", tmp_path / "prediction")


MANIFEST_CSV = """\ufeffcase,truth,prediction,mask,group,model
a,../truth/a.zarr,../unet/a.zarr,,young,unet
a,../truth/a.zarr,../vnet/a.zarr,,young,vnet
b,../truth/b.zarr,../unet/b.zarr,../truth/b.zarr,old,unet
"""
MANIFEST_TOML = """
[[case]]
case = "a"
truth = "../truth/a.zarr"
prediction = "../unet/a.zarr"
group = "young"
model = "unet"
[[case]]
case = "a"
truth = "../truth/a.zarr"
prediction = "../vnet/a.zarr"
group = "young"
model = "vnet"
[[case]]
case = "b"
truth = "../truth/b.zarr"
prediction = "../unet/b.zarr"
mask = "../truth/b.zarr"
group = "old"
model = "unet"
"""


@pytest.mark.parametrize(("suffix", "text"), [("csv", MANIFEST_CSV), ("toml", MANIFEST_TOML)])
def test_a_manifest_has_models_groups_masks_and_paths_relative_to_it(run, folders, suffix, text):
    (folders / "lists").mkdir()
    (folders / "lists" / f"cases.{suffix}").write_text(text, encoding="utf-8")
    code, out, _ = run("batch", f"lists/cases.{suffix}", "-o", "out", "-m", "dice", "--by", "group")
    assert code == 0
    for title in ("unet, group old", "unet, group young", "vnet, group young"):
        assert title in out
    with Path("out/scores.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["class"] == ""]
    assert list(rows[0])[-1] == "group"
    assert [(row["model"], row["case"], row["group"]) for row in rows] == [
        ("unet", "a", "young"),
        ("unet", "b", "old"),
        ("vnet", "a", "young"),
    ]
    masked = sl.score("truth/b.zarr", "unet/b.zarr", mask="truth/b.zarr", metrics="dice")
    assert float(rows[1]["value"]) == masked["dice"].value
    assert int(rows[1]["n"]) == masked.voxels["scored"] < masked.voxels["total"]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("case,truth\na,t.zarr\n", "case 1 of .* has no 'prediction', expected case, truth, pred"),
        ("case,truth,prediction\na,t,p\nb,t\n", "case 2 of .* has nothing in 'prediction'"),
        ("case,truth,prediction\na,t,\n", "case 1 of .* has nothing in 'prediction'"),
        ("case,truth,prediction,modle\na,t,p,m\n", "has 'modle', expected some of case"),
        ("case,truth,prediction\na,t,p\na,t,q\n", "case a of model is there twice"),
        ("case,truth,prediction\n../a,t,p\n", "must have a name that a file can have"),
        ("case,truth,prediction\na,t,p,q\n", "more cells than there are columns"),
        ("case,truth,prediction,prediction\na,t,p,q\n", "has several columns 'prediction': exp"),
        (
            "case,truth,prediction\n",
            "has no cases: expected the columns case, truth, prediction and",
        ),
    ],
)
def test_a_manifest_that_cannot_be_used_is_refused(tmp_path, text, sentence):
    path = tmp_path / "cases.csv"
    path.write_text(text)
    with pytest.raises(sl.InvalidInputError, match=sentence):
        sl.read_manifest(path)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("[[cases]]\ncase = 'a'\n", r"has no cases: expected a \[\[case\]\] table for each"),
        ("[case]\ncase = 'a'\n", r"has no cases: expected a \[\[case\]\] table for each"),
        ("case = ['a']\n", "case 1 of .* is 'a', expected a table"),
        (
            "[[case]]\ncase='a'\ntruth='t'\nprediction='p'\n[[cases]]\ncase='b'\n",
            r"has 'cases' beside its cases: expected a \[\[case\]\] table for each",
        ),
    ],
)
def test_tables_that_are_no_cases_are_refused(tmp_path, text, sentence):
    path = tmp_path / "cases.toml"
    path.write_text(text)
    with pytest.raises(sl.InvalidInputError, match=sentence):
        sl.read_manifest(path)


def test_folders_and_manifests_in_buckets_are_refused(run):
    code, _, err = run("batch", "s3://b/t", "s3://b/p", "-o", "out")
    assert code == 2
    assert "truth folder must be a local one, got 's3://b/t': name volumes in a bucket in a" in err
    code, _, err = run("batch", "s3://b/cases.csv", "-o", "out")
    assert code == 2
    assert "manifest must be a local file, got 's3://b/cases.csv'" in err


def test_tidy_csv_has_the_columns_in_order_and_every_digit(run):
    code, out, err = run("batch", "truth", "unet", "-o", "out", "-m", "dice", "--csv", "-")
    assert (code, err) == (0, "")
    rows = list(csv.DictReader(StringIO(out)))
    assert list(rows[0]) == ["case", "model", "class", "metric", "value", "error_bound", "n"]
    assert [row["class"] for row in rows[:3]] == ["", "1", "2"]
    found = scores("out")
    for row in rows:
        metric = found[row["case"]]["dice"]
        number = metric.per_class[int(row["class"])] if row["class"] else metric.value
        assert row["value"] == repr(number)
        assert row["n"] == "336"
    assert out == Path("out/scores.csv").read_text()


def test_an_undefined_value_is_empty_in_csv_and_null_elsewhere(run):
    arguments = ("batch", "truth", "unet", "-o", "out", "-m", "dice", "--classes", "4")
    run(*arguments, "--format", "csv,json,parquet")
    with Path("out/scores.csv").open(newline="") as file:
        assert {row["value"] for row in csv.DictReader(file) if row["class"] == "3"} == {""}
    plain = json.loads(Path("out/scores.json").read_text())
    assert plain["schema"] == "streamloss.batch/1"
    assert plain["cases"][0]["metrics"]["dice"]["per_class"]["3"] is None
    table = pyarrow.parquet.read_table("out/scores.parquet")
    assert table.column_names == ["case", "model", "class", "metric", "value", "error_bound", "n"]
    rows = table.to_pylist()
    assert {row["value"] for row in rows if row["class"] == "3"} == {None}
    assert rows[0]["value"] == plain["cases"][0]["metrics"]["dice"]["value"]


@pytest.mark.parametrize(
    ("options", "formats"),
    [
        ({"classes": 4}, ("csv", "json", "parquet", "nnunet")),
        ({"regions": {"both": [1, 2], "7": [1]}}, ("csv", "json", "parquet", "nnunet")),
    ],
)
@pytest.mark.parametrize("kept", [0, 60, 2**16])
def test_tables_of_a_run_are_those_of_its_saved_results(
    folders, monkeypatch, options, formats, kept
):
    """A run knows its results, or as many as memory allows; one that resumes it reads them all."""
    monkeypatch.setattr(batching, "_KEPT_NUMBERS", kept)
    metrics = "dice,mcc,volume_similarity,expected_cost,confusion_matrix,true_positives"
    options = {**options, "metrics": metrics, "output": "out", "formats": formats}
    first = sl.batch(find(), **options)
    at_hand = sum(bool(case.metrics) for case in first.study.cases)
    assert at_hand == {0: 0, 2**16: 5}.get(kept, at_hand)
    assert kept != 60 or 0 < at_hand < 5
    tables = {path: path.read_bytes() for path in Path("out").glob("s*.*")}
    assert len(tables) == len(formats)
    again = sl.batch(find(), **options, resume=True)
    assert again.skipped == 5
    assert {path: path.read_bytes() for path in tables} == tables


def test_the_json_on_stdout_is_alone(run):
    code, out, _ = run("batch", "truth", "unet", "-o", "out", "-m", "dice", "--json", "-")
    assert code == 0
    assert json.loads(out) == json.loads(Path("out/scores.json").read_text())


def test_nnunet_summary_has_the_counts_and_means_of_nnunet(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    arrays = {
        "truth/a": [0, 1, 1, 1, 0, 0],
        "pred/a": [0, 1, 1, 0, 1, 0],
        "truth/b": [0, 0, 0, 2, 2, 0],
        "pred/b": [0, 0, 0, 2, 0, 2],
    }
    for name, values in arrays.items():
        zarr.save_array(f"{name}.zarr", np.array(values, np.uint8))
    sl.batch(find("truth", "pred"), output="out", formats=["nnunet"])
    text = Path("out/summary.json").read_text()
    assert text.startswith('{\n    "foreground_mean": {\n        "Dice": ')
    plain = json.loads(text)
    assert list(plain) == ["foreground_mean", "mean", "metric_per_case"]
    a, b = plain["metric_per_case"]
    assert a["reference_file"] == "truth/a.zarr"
    assert a["prediction_file"] == "pred/a.zarr"
    # By hand: of three true voxels two are found, and one is wrong.
    assert a["metrics"]["1"] == {
        "Dice": 4 / 6, "FN": 1, "FP": 1, "IoU": 2 / 4, "TN": 2, "TP": 2, "n_pred": 3, "n_ref": 3,
    }  # fmt: skip
    nowhere = a["metrics"]["2"]
    assert np.isnan(nowhere.pop("Dice"))
    assert np.isnan(nowhere.pop("IoU"))
    assert nowhere == {"FN": 0, "FP": 0, "TN": 6, "TP": 0, "n_pred": 0, "n_ref": 0}
    assert b["metrics"]["2"]["Dice"] == 2 / 4
    assert plain["mean"]["1"]["Dice"] == 4 / 6
    assert plain["mean"]["1"]["FN"] == 0.5
    assert plain["mean"]["2"]["TN"] == 4.5
    assert plain["foreground_mean"]["Dice"] == np.mean([4 / 6, 2 / 4])
    assert plain["foreground_mean"]["n_ref"] == 1.25
    assert '"Dice": NaN' in text


def nnunet_key(text):
    """A label or region as nnU-Net's `load_summary_json` reads its key."""
    try:
        return int(text)
    except ValueError:
        parts = text.replace("(", "").replace(")", "").split(",")
        return tuple(int(part) for part in parts if part)


def test_nnunet_summary_names_regions_by_their_labels(folders):
    regions = {"whole": [2, 1], "7": [1]}
    sl.batch(find(), output="out", metrics="dice", regions=regions, formats=["nnunet"])
    plain = json.loads(Path("out/summary.json").read_text())
    assert list(plain["mean"]) == ["(1,)", "(2, 1)"]
    for case, result in zip(plain["metric_per_case"], scores("out").values(), strict=True):
        dice = {nnunet_key(key): numbers["Dice"] for key, numbers in case["metrics"].items()}
        assert dice == {
            (2, 1): result["dice"].per_class["whole"],
            (1,): result["dice"].per_class[7],
        }
    means = [plain["mean"][key]["Dice"] for key in ("(2, 1)", "(1,)")]
    assert plain["foreground_mean"]["Dice"] == np.mean(means)


@pytest.fixture
def channels(tmp_path, monkeypatch):
    """Hold a case of two channels that may overlap."""
    monkeypatch.chdir(tmp_path)
    for folder in ("truth", "unet"):
        zarr.save_array(f"{folder}/a.zarr", (labels(0, (2, 6, 7)) > 0).astype("u1"))
    return tmp_path


@pytest.mark.parametrize("classes", [None, "wt,tc", {"wt": 1, "tc": 2}])
def test_nnunet_summary_of_channels_without_label_values_is_refused(channels, classes):
    options = {"metrics": "dice", "multilabel": True, "classes": classes, "formats": ["nnunet"]}
    with pytest.raises(sl.InvalidInputError, match="names classes by label values: give `classes`"):
        sl.batch(find(), output="out", **options)
    assert not Path("out").exists()
    sl.batch(find(), output="out", **options | {"classes": "1,4"})
    assert list(json.loads(Path("out/summary.json").read_text())["mean"]) == ["1", "4"]


@pytest.mark.parametrize(
    ("options", "classes"),
    [
        ({"regions": "whole=1+2,1=1"}, ["whole", "1"]),
        ({"classes": "3"}, ["1", "2"]),
    ],
)
def test_parquet_has_the_classes_of_the_tidy_csv(folders, options, classes):
    sl.batch(find(), output="out", metrics="dice", formats=["csv", "parquet"], **options)
    column = pyarrow.parquet.read_table("out/scores.parquet")["class"]
    assert column.type == pyarrow.string()
    assert column.to_pylist() == [None, *classes] * len(NAMES)
    with Path("out/scores.csv").open(newline="") as file:
        assert [row["class"] or None for row in csv.DictReader(file)] == column.to_pylist()


def test_a_missing_pyarrow_is_named_before_work(folders, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(ImportError, match=r'pip install "streamloss\[parquet\]"'):
        sl.batch(find(), output="out", formats=["parquet"])
    assert not Path("out").exists()


def test_a_gate_passes_or_exits_with_4(run):
    arguments = ("batch", "truth", "unet", "-m", "dice,iou", "-o", "out", "--resume")
    assert run(*arguments, "--fail-under", "dice=0.5,iou=0.5")[0] == 0
    code, _, err = run(*arguments, "--fail-under", "dice=0.5", "--fail-under", "iou=0.99")
    assert code == 4
    assert err.startswith("gate failed: the mean iou of unet is 0.")
    assert err.endswith(", below 0.99\n")


def test_a_gate_holds_where_the_mean_is_the_limit(run):
    mean = sl.batch(find(), output="out", metrics="dice").summary[0].mean
    arguments = ("batch", "truth", "unet", "-m", "dice", "-o", "out", "--resume", "--fail-under")
    assert run(*arguments, f"dice={mean!r}")[0] == 0
    assert run(*arguments, f"dice={math.nextafter(mean, 1)!r}")[0] == 4


def test_an_undefined_mean_fails_the_gate(run, folders):
    for folder in ("blank", "blank2"):
        zarr.save_array(f"{folder}/a.zarr", np.zeros((4, 4), "u1"))
    arguments = ("batch", "blank", "blank2", "-o", "out", "-m", "dice", "--classes", "2")
    code, _, err = run(*arguments, "--fail-under", "dice=0")
    assert code == 4
    assert "the mean dice of blank2 is undefined" in err


@pytest.mark.parametrize(
    ("gate", "sentence"),
    [
        (("--fail-under", "mse=0.1"), "lower is better: use --fail-over"),
        (("--fail-over", "dice=0.1"), "higher is better: use --fail-under"),
        (("--fail-under", "true_positives=3"), "has no direction"),
        (("--fail-under", "dise=0.1"), "did you mean 'dice'"),
        (("--fail-under", "dice"), "expected METRIC=NUMBER"),
        (("--fail-under", "=0.5"), "expected METRIC=NUMBER such as dice=0.85, got '=0.5'"),
        (("--fail-under", "dice=nan"), "expected METRIC=NUMBER such as dice=0.85, got 'dice=nan'"),
        (("--fail-under", "accuracy=0.1"), "names accuracy, which --metrics does not"),
    ],
)
def test_a_gate_that_tells_nothing_is_refused_before_work(run, gate, sentence):
    code, _, err = run("batch", "truth", "unet", "-o", "out", "-m", "dice,mse", *gate)
    assert code == 2
    assert sentence in err
    assert not Path("out").exists()


def test_failed_cases_win_over_a_failed_gate(run, folders):
    break_case(folders)
    arguments = ("batch", "truth", "unet", "-o", "out", "-m", "dice")
    code, _, err = run(*arguments, "--fail-under", "dice=1")
    assert code == 3
    assert "gate failed" in err


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"metrics": "dise"}, "did you mean 'dice'"),
        ({"gama": 2}, "did you mean 'gamma'"),
        ({"gamma": "much"}, "gamma: expected a number"),
        ({"workers": 0}, "workers must be"),
        ({"kind": "nonsense"}, "unknown kind 'nonsense': expected one of labels"),
        ({"executor": "fibres"}, "unknown executor"),
        ({"formats": ["xml"]}, "unknown format"),
        ({"max_memory": "lots"}, "max_memory must be a size"),
        ({"mask": "m.zarr"}, "name it in the manifest"),
        ({"weights": "w.zarr"}, "weights belong to one case"),
    ],
)
def test_wrong_options_are_refused_before_work(folders, options, sentence):
    with pytest.raises(sl.InvalidInputError, match=sentence):
        sl.batch(find(), output="out", **options)
    assert not Path("out").exists()


def test_the_tables_fit_80_columns_and_come_last(run, folders):
    for folder in ("truth", "unet"):
        for name in NAMES:
            (folders / folder / f"{name}.zarr").rename(folders / folder / f"liver_{name}.zarr")
    break_case(folders, "liver_c")
    metrics = "dice,absolute_volume_difference,true_negatives"
    _, out, _ = run("batch", "truth", "unet", "-o", "out", "-m", metrics)
    lines = out.splitlines()
    assert max(map(len, lines)) <= 80
    assert lines[0] == "1 failed:"
    assert lines[-1].split()[:3] == ["true_negatives", "4", "0"]
    # No name of a case is broken.
    assert sum("liver_" in line for line in lines[-3:]) == 2


@pytest.mark.parametrize("length", [13, 40, 230])
def test_the_table_is_readable_at_80_columns_whatever_the_names(run, folders, length):
    for folder in ("truth", "unet"):
        for name in NAMES:
            long = f"{name}_{'x' * (length - 4)}_{name}.zarr"
            (folders / folder / f"{name}.zarr").rename(folders / folder / long)
    metrics = "dice,absolute_volume_difference,relative_volume_difference,false_negatives"
    _, out, _ = run("batch", "truth", "unet", "-o", "out", "-m", metrics)
    title, rule, *rows = out.splitlines()[2:]
    assert len(rule) <= 80
    assert len(rows) <= 9
    cases = [row[title.index("Worst case") :].strip() for row in rows]
    shown = next(filter(None, cases))
    assert len(shown) == min(length, len(rule) - title.index("Worst case")) >= 12
    # Both ends tell cases apart.
    assert shown[0] == shown[-1]
    names = "".join(row.split(" ")[0] for row in rows)
    assert names == metrics.replace(",", "")


def test_nothing_temporary_is_left(folders):
    sl.batch(find(), output="out", metrics="dice", formats=["csv", "json", "parquet", "nnunet"])
    assert [path for path in Path("out").rglob("*") if path.name.startswith(".")] == []


def test_a_fingerprint_sees_content_added_and_time(folders):
    before = of_source("unet/a.zarr")
    assert of_source("unet/a.zarr") == before
    os.utime("unet/a.zarr/zarr.json", ns=(1, 1))
    touched = of_source("unet/a.zarr")
    assert touched["digest"] != before["digest"]
    Path("unet/a.zarr/more").touch()
    assert of_source("unet/a.zarr")["digest"] != touched["digest"]


@pytest.mark.parametrize("executor", ["threads", "processes", "serial"])
def test_an_interrupt_keeps_what_is_finished_and_nothing_half_written(
    folders, executor, side_by_side
):
    def interrupt(done, total):
        if done >= 2:
            raise KeyboardInterrupt

    options = {"output": "out", "metrics": "dice", "executor": executor, "workers": 2}
    with pytest.raises(KeyboardInterrupt):
        sl.batch(find(), **options, progress=interrupt)
    # Lanes save what they have scored, whoever hears of it.
    finished = len(scores("out"))
    assert finished >= 2
    assert "streamloss-lane" not in {thread.name for thread in threading.enumerate()}
    assert multiprocessing.active_children() == []
    assert [path for path in Path("out").rglob("*") if path.name.startswith(".")] == []
    again = sl.batch(find(), **options, resume=True)
    assert again.skipped == finished
    assert len(again.study.cases) == 5


WORK = lanes.Work(BatchFolder(Path("out"), {}), {"metrics": "dice"})


class Dying:
    """Ends the process that is sent it."""

    def __reduce__(self):
        return os._exit, (7,)


def outcomes_of(child, count):
    """Wait for how the first cases went that a process was sent."""
    outcomes = []
    while len(outcomes) < count:
        outcomes += child.received()
    return outcomes


def test_a_process_that_dies_fails_its_case_alone():
    cases = [sl.Case(name, "no.zarr", "no.zarr") for name in "abc"]
    cases[1] = dataclasses.replace(cases[1], truth=Dying())
    with lanes.Helpers() as helpers:
        (child,) = helpers.start(1)
        child.begin(WORK)
        for case in cases:
            child.send(lanes.Waiting(case, {}))
        outcomes = outcomes_of(child, len(cases))
    reason = "truth does not exist: 'no.zarr'"
    died = "the process that scored it ended with exit code 7"
    assert [outcome.reason for outcome in outcomes] == [reason, died, reason]
    assert [outcome.case for outcome in outcomes] == cases


def test_no_pipe_fills_from_both_ends():
    """The process would wait for its answer to be read, and who reads it for room for a case."""
    cases = [sl.Case(name, "no.zarr", "no.zarr", group=300_000 * "g") for name in "abc"]
    with lanes.Helpers() as helpers:
        (child,) = helpers.start(1)
        child.begin(WORK)
        for case in cases:
            # The first always travels: nothing is to be answered before it.
            assert child.send(lanes.Waiting(case, {}))
            assert not child.send(lanes.Waiting(case, {}))
            assert [outcome.case for outcome in outcomes_of(child, 1)] == [case]


def test_a_process_ends_in_silence_where_nobody_waits_for_its_answer():
    """A parent that is killed closes the pipe."""
    child = lanes._Child()
    child.begin(WORK)
    child.send(lanes.Waiting(sl.Case("a", "no.zarr", "no.zarr"), {}))
    child._connection.close()
    child._process.join()
    assert child._process.exitcode == 0


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="masks of signals in /proc")
def test_no_process_of_a_batch_hears_of_interrupts(tmp_path):
    """Not even the first, which would print where it was if Ctrl-C came as it starts."""
    script = (
        "from pathlib import Path\n"
        "from streamloss import lanes\n"
        "if __name__ == '__main__':\n"
        "    with lanes.Helpers() as helpers:\n"
        "        for child in helpers.start(2):\n"
        "            lines = Path(f'/proc/{child._process.pid}/status').read_text().splitlines()\n"
        "            masks = dict(line.split(':\\t') for line in lines)\n"
        "            print(int(masks['SigBlk'], 16) >> 1 & 1)\n"
    )
    path = tmp_path / "script.py"
    path.write_text(script)
    done = subprocess.run([sys.executable, path], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "1\n1\n"), done.stderr


def test_a_process_tells_of_a_result_that_cannot_be_saved(folders):
    """It ends the run, as a full disk does: the cases after it would have the same end."""
    Path("out").write_text("a file where the folder of results should be")
    with lanes.Helpers() as helpers:
        (child,) = helpers.start(1)
        child.begin(WORK)
        child.send(lanes.Waiting(find()[0], {}))
        with pytest.raises(NotADirectoryError, match="out/cases/unet"):
            outcomes_of(child, 1)


def test_a_script_that_cannot_be_imported_is_told_so(folders):
    """Each new process would run it anew, and a batch would lose a case to each."""
    Path("script.py").write_text(
        "import streamloss as sl\n"
        "cases = [*sl.find_cases('truth', 'unet')[0], *sl.find_cases('truth', 'vnet')[0]]\n"
        "sl.batch(cases, output='out', metrics='dice', executor='processes', workers=2)\n"
    )
    done = subprocess.run([sys.executable, "script.py"], capture_output=True, text=True)
    assert done.returncode == 1
    assert 'by `if __name__ == "__main__":`' in done.stderr.splitlines()[-1]
    assert list(Path("out").glob("failures*")) == []


def test_a_result_is_saved_whole_before_the_signal_that_ends_a_process(folders, monkeypatch):
    save = BatchFolder.save

    def disturbed(*arguments):
        os.kill(os.getpid(), signal.SIGTERM)
        return save(*arguments)

    def end(*_):
        raise SystemExit

    monkeypatch.setattr(BatchFolder, "save", disturbed)
    WORK.folder.make()
    before = signal.signal(signal.SIGTERM, end)
    try:
        with pytest.raises(SystemExit):
            lanes.run_case(WORK, lanes.Waiting(find()[0], {}))
    finally:
        signal.signal(signal.SIGTERM, before)
    assert list(scores("out")) == ["a"]


def test_a_process_that_is_killed_before_it_can_score_is_started_again():
    with lanes.Helpers() as helpers:
        (child,) = helpers.start(1)
        child.begin(WORK)
        child.send(lanes.Waiting(sl.Case("a", "no.zarr", "no.zarr"), {}))
        child._process.kill()
        (outcome,) = outcomes_of(child, 1)
    assert outcome.reason == "truth does not exist: 'no.zarr'"


def test_a_process_that_is_always_killed_before_it_can_score_ends_the_batch():
    with lanes.Helpers() as helpers:
        (child,) = helpers.start(1)
        child.begin(WORK)
        child.send(lanes.Waiting(find_nothing(), {}))

        def kill_on():
            while True:
                child._process.kill()
                list(child.received())

        with pytest.raises(sl.WorkerError, match="ended with exit code -9 before it could"):
            kill_on()


def test_a_result_that_was_saved_counts_though_its_process_died(folders, monkeypatch):
    case = find()[0]
    with lanes.Helpers() as helpers:
        (child,) = helpers.start(1)
        child.begin(WORK)
        child.send(lanes.Waiting(find_nothing(), {}))
        outcomes_of(child, 1)
        WORK.folder.make()
        lanes.run_case(WORK, lanes.Waiting(case, {}))
        child.send(lanes.Waiting(dataclasses.replace(case, truth=Dying()), {}))
        (outcome,) = outcomes_of(child, 1)
    assert outcome.saved is not None
    assert outcome.reason == ""


@pytest.mark.skipif(not hasattr(signal, "SIGSTOP"), reason="no such signals here")
def test_a_process_that_does_not_answer_is_ended_all_the_same(monkeypatch):
    monkeypatch.setattr(lanes, "_PATIENCE", 0.1)
    child = lanes._Child()
    os.kill(child._process.pid, signal.SIGSTOP)
    child.stop()
    assert child._process.exitcode < 0


def find_nothing():
    return sl.Case("nothing", "no.zarr", "no.zarr")


def test_a_case_that_cannot_be_saved_fails_alone(folders, monkeypatch):
    save = BatchFolder.save

    def fussy(folder, case, *rest):
        if case.name == "c":
            raise ValueError("not this one")
        return save(folder, case, *rest)

    monkeypatch.setattr(BatchFolder, "save", fussy)
    done = sl.batch(find(), output="out", metrics="dice")
    assert [(failure.case, failure.reason) for failure in done.failures] == [
        ("c", "unexpected ValueError: not this one")
    ]
    assert len(scores("out")) == 4


@pytest.mark.parametrize("name", [b"caf\xe9.npy", b"two\nlines.npy"])
def test_a_volume_whose_name_is_no_text_is_refused(folders, name):
    try:
        Path(os.fsdecode(b"truth/" + name)).touch()
    except OSError:
        pytest.skip("no such names on this file system")
    with pytest.raises(sl.InvalidInputError, match="whose name is no text"):
        find()


def test_options_that_can_be_gone_through_once_serve_every_case(folders):
    done = sl.batch(find(), output="out", metrics=iter(["dice"]), classes=iter([0, 1, 2]))
    assert done.failures == ()
    assert len(done.study.cases) == 5


def test_options_that_no_process_can_get_are_refused(folders, side_by_side):
    with pytest.raises(sl.InvalidInputError, match="options cannot be sent to processes"):
        sl.batch(find(), output="out", metrics="dice", background=lambda: 0, executor="processes")


def test_more_classes_than_can_be_scored_are_refused_before_any_case(run):
    code, _, err = run("batch", "truth", "unet", "-o", "out", "-m", "dice", "--classes", "5000")
    assert (code, err) == (2, "error: at most 1,024 classes can be scored, got 5,000\n")
    assert not Path("out").exists()


def test_a_result_that_is_cut_is_told_of(folders):
    sl.batch(find(), output="out", metrics="dice")
    Path("out/cases/unet/c.json").write_text("")
    with pytest.raises(sl.InvalidInputError, match="remove it to have the case scored again"):
        sl.batch(find(), output="out", metrics="dice", resume=True)


def test_shards_take_what_they_finished_from_the_failures_of_all(folders):
    good = zarr.open_array("unet/c.zarr", mode="r")[:]
    break_case(folders)
    break_case(folders, "d")
    sl.batch(find(), output="out", metrics="dice")
    zarr.save_array("unet/c.zarr", good, mode="w")
    for part in range(2):
        sl.batch(find(), output="out", metrics="dice", resume=True, shard=f"{part}/2")
    failures = json.loads(Path("out/failures.json").read_text())["failures"]
    assert [failure["case"] for failure in failures] == ["d"]


def test_a_record_of_failures_that_is_cut_does_not_end_a_shard(folders):
    Path("out/cases").mkdir(parents=True)
    Path("out/failures.json").write_text('{"schema"')
    sl.batch(find(), output="out", metrics="dice", shard="0/2")
    assert Path("out/scores.csv").exists()
    assert json.loads(Path("out/failures-0-of-2.json").read_text())["failures"] == []


def test_processes_start_before_fingerprints_are_taken(folders, monkeypatch):
    """They import for as long as a hundred cases take."""
    at_work = []

    def spy(folder, case):
        at_work.append(len(multiprocessing.active_children()))
        raise KeyboardInterrupt

    monkeypatch.setattr(batching, "_PROCESSES_FROM", 5)
    monkeypatch.setattr(BatchFolder, "fingerprints_of", spy)
    with pytest.raises(KeyboardInterrupt):
        sl.batch(find(), output="out", workers=3, executor="auto", metrics="dice")
    assert at_work == [2]
    assert multiprocessing.active_children() == []
