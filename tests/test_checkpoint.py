"""A run that is stopped anywhere, and goes on from its checkpoint, ends with the same bytes."""

import errno
import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

import streamloss as sl
from streamloss import checkpoint, execution, prepare
from streamloss.state import load_sum
from tests.conftest import fill
from tests.strategies import LAYOUTS, cases, runs_of
from tests.test_laws import IDS

TINY = {"direct": 1, "memory": 1}


class Stopped(BaseException):
    """Stands for the end of a process: nothing catches it."""


def payload(result):
    """All that may not depend on how a result was computed."""
    plain = result.to_dict()
    return json.dumps({name: plain[name] for name in plain if name not in ("timing", "versions")})


def stop_after(blocks):
    """A progress callback that stops the run."""
    calls = 0

    def advance(done, total):
        nonlocal calls
        calls += 1
        if calls > blocks:
            raise Stopped

    return advance


@pytest.fixture
def saves_often(monkeypatch):
    """Every block is a run, and every run is saved."""
    monkeypatch.setattr(checkpoint, "SECONDS", 0.0)
    monkeypatch.setattr(checkpoint, "_LARGEST_PART", float("inf"))
    monkeypatch.setattr(execution, "LARGE_RUN", 1)
    monkeypatch.setattr(prepare, "TARGET_BLOCK_VOXELS", TINY)


@pytest.fixture
def volumes(tmp_path):
    rng = np.random.default_rng(3)
    for name in ("truth", "prediction"):
        labels = runs_of(rng, [0, 1, 5], (32, 16, 16)).astype(np.uint8)
        zarr.create_array(tmp_path / f"{name}.zarr", data=labels, chunks=(8, 8, 16))
    return tmp_path / "truth.zarr", tmp_path / "prediction.zarr"


@pytest.fixture
def scores(tmp_path):
    """A truth and probabilities whose areas under curves need another look."""
    rng = np.random.default_rng(4)
    truth = rng.integers(0, 2, (16, 16, 16)).astype(np.uint8)
    probability = (0.5 + 1e-7 * rng.integers(0, 300, truth.shape)).astype(np.float32)
    zarr.create_array(tmp_path / "binary.zarr", data=truth, chunks=(8, 8, 16))
    zarr.create_array(tmp_path / "scores.zarr", data=probability, chunks=(8, 8, 16))
    return tmp_path / "binary.zarr", tmp_path / "scores.zarr"


@pytest.mark.parametrize("layout", LAYOUTS, ids=IDS)
@settings(max_examples=6)
@given(data=st.data())
def test_every_statistic_goes_on_from_where_it_was_stopped(layout, data, tmp_path_factory):
    case = data.draw(cases(layout))
    expected = payload(sl.score(case.truth, case.prediction, **case.options))
    folder = tmp_path_factory.mktemp("checkpoint")
    often = mock.patch.multiple(checkpoint, SECONDS=0.0, _LARGEST_PART=float("inf"))
    fine = mock.patch.multiple(prepare, TARGET_BLOCK_VOXELS={"memory": 4})
    small = mock.patch.object(execution, "LARGE_RUN", 4)
    with often, fine, small, mock.patch("os.fsync"):
        for _ in range(data.draw(st.integers(0, 3))):
            with suppress(Stopped):
                sl.score(
                    case.truth,
                    case.prediction,
                    checkpoint=folder,
                    workers=data.draw(st.integers(1, 3)),
                    executor="serial",
                    progress=stop_after(data.draw(st.integers(0, 9))),
                    **case.options,
                )
        result = sl.score(case.truth, case.prediction, checkpoint=folder, **case.options)
    assert payload(result) == expected


@pytest.mark.usefixtures("saves_often")
@pytest.mark.parametrize(
    "options",
    [
        {"regions": {"both": [1, 5], "one": [5]}},
        {"mask": "truth"},
        {"weights": "prediction"},
        {"ignore_label": 5, "region": "3:30,:,2:16"},
    ],
    ids=["regions", "mask", "weights", "region"],
)
def test_masks_weights_regions_and_boxes_go_on_too(volumes, tmp_path, options):
    options = {
        name: tmp_path / f"{value}.zarr" if name in ("mask", "weights") else value
        for name, value in options.items()
    }
    options |= {"metrics": ["dice", "absolute_volume_difference"], "executor": "serial"}
    expected = payload(sl.score(*volumes, **options))
    for blocks in (1, 4):
        with pytest.raises(Stopped):
            sl.score(
                *volumes, checkpoint=tmp_path / "saved", progress=stop_after(blocks), **options
            )
    assert payload(sl.score(*volumes, checkpoint=tmp_path / "saved", **options)) == expected


def speed_in_voxels(result):
    """How many voxels the speed of a run counts."""
    return round(result.timing["voxels_per_second"] * result.timing["seconds"])


@pytest.mark.usefixtures("saves_often")
def test_blocks_that_were_saved_are_not_read_again(volumes, tmp_path, monkeypatch):
    read = []
    scan = execution.scan
    monkeypatch.setattr(
        execution, "scan", lambda job, blocks, **kw: read.extend(blocks) or scan(job, blocks, **kw)
    )
    options = {"checkpoint": tmp_path / "saved", "executor": "serial"}
    with pytest.raises(Stopped):
        sl.score(*volumes, progress=stop_after(4), **options)
    saved = load_sum(tmp_path / "saved" / "pass-0.slstate").origin
    assert 0 < saved.done < saved.blocks
    read.clear()
    seen = []
    result = sl.score(*volumes, progress=lambda *n: seen.append(n), workers=5, **options)
    assert read == list(range(saved.done, saved.blocks))
    # A speed is that of the voxels of this run.
    left = (saved.blocks - saved.done) * 8 * 8 * 16
    assert speed_in_voxels(result) == left
    assert seen[0][0] > 0
    assert seen[-1] == (32 * 16 * 16, 32 * 16 * 16)
    read.clear()
    assert speed_in_voxels(sl.score(*volumes, **options)) == 0
    assert read == []


class Disk:
    """Fails at the n-th step of writing files, as a full disk does or as the end of a process."""

    def __init__(self, monkeypatch, failing, error):
        self.steps = 0
        self._failing = failing
        self._error = error
        replace, opened, fsync = Path.replace, Path.open, os.fsync

        def open_file(path, *args, **kwargs):
            file = opened(path, *args, **kwargs)
            if path.suffix != ".tmp":
                return file
            whole = file.writelines

            def half(parts):
                content = b"".join(parts)
                file.write(content[: len(content) // 2])
                self.step()
                file.write(content[len(content) // 2 :])

            assert whole
            return mock.MagicMock(
                __enter__=lambda _: mock.MagicMock(
                    writelines=half, flush=file.flush, fileno=file.fileno
                ),
                __exit__=lambda _, *error: file.close(),
            )

        monkeypatch.setattr(Path, "open", open_file)
        monkeypatch.setattr(Path, "replace", lambda a, b: (self.step(), replace(a, b))[1])
        monkeypatch.setattr(os, "fsync", lambda handle: (self.step(), fsync(handle))[1])

    def step(self):
        self.steps += 1
        if self.steps == self._failing:
            raise self._error


def steps_of(volumes, options, folder, monkeypatch):
    """How many steps of writing a whole run takes."""
    with monkeypatch.context() as patch:
        disk = Disk(patch, 0, None)
        sl.score(*volumes, checkpoint=folder, **options)
    return disk.steps


@pytest.mark.usefixtures("saves_often")
@pytest.mark.parametrize("exact", [False, True], ids=["one pass", "another look"])
def test_a_run_stopped_at_any_step_of_saving_goes_on(volumes, scores, tmp_path, monkeypatch, exact):
    arrays = scores if exact else volumes
    options = {"executor": "serial"}
    options |= {"metrics": ["auroc", "dice"], "exact": True} if exact else {"metrics": ["dice"]}
    result = sl.score(*arrays, **options)
    if exact:
        assert result["auroc"].error_bound == 0
    steps = steps_of(arrays, options, tmp_path / "whole", monkeypatch)
    # Of each save: half of the content, its flush, the name, and the flush of the folder.
    assert steps == 4 * (4 * 2 if exact else 8)
    for step in range(1, steps + 1):
        folder = tmp_path / f"stopped-{step}"
        with monkeypatch.context() as patch:
            Disk(patch, step, Stopped())
            with pytest.raises(Stopped):
                sl.score(*arrays, checkpoint=folder, **options)
        assert payload(sl.score(*arrays, checkpoint=folder, **options)) == payload(result)


@pytest.mark.usefixtures("saves_often")
def test_a_run_outlives_any_save_that_fails_and_keeps_the_one_before(
    volumes, tmp_path, monkeypatch
):
    options = {"metrics": ["dice"], "executor": "serial"}
    expected = payload(sl.score(*volumes, **options))
    steps = steps_of(volumes, options, tmp_path / "whole", monkeypatch)
    for step in range(1, steps + 1):
        folder = tmp_path / f"full-{step}"
        full = OSError(errno.ENOSPC, "No space left on device")
        with monkeypatch.context() as patch:
            Disk(patch, step, full)
            with pytest.warns(RuntimeWarning, match="not be saved, the run goes on: No space"):
                result = sl.score(*volumes, checkpoint=folder, **options)
        assert payload(result) == expected
        assert not [path for path in folder.iterdir() if path.suffix == ".tmp"]
        assert payload(sl.score(*volumes, checkpoint=folder, **options)) == expected


RUN = """
import json, sys
import streamloss as sl
from streamloss import checkpoint, execution, prepare
checkpoint.SECONDS, checkpoint._LARGEST_PART, execution.LARGE_RUN = 0.0, 1e9, 1
prepare.TARGET_BLOCK_VOXELS = {"direct": 1}
truth, prediction, folder, output = sys.argv[1:]
result = sl.score(truth, prediction, metrics=["dice", "iou"], checkpoint=folder, workers=2)
open(output, "w").write(result.to_json())
"""


def run_process(volumes, folder, output):
    return subprocess.Popen(
        [sys.executable, "-c", RUN, *map(str, (*volumes, folder, output))],
        stderr=subprocess.PIPE,
        text=True,
    )


def blocks_done(folder):
    """How many blocks are saved, read while a run may be writing."""
    path = folder / "pass-0.slstate"
    return load_sum(path).origin.done if path.exists() else 0


@pytest.fixture
def large(tmp_path):
    """A pair of 729 blocks, which take a second or more to save one by one."""
    rng = np.random.default_rng(8)
    for name in ("truth", "prediction"):
        labels = runs_of(rng, [0, 1, 2], (72, 72, 72)).astype(np.uint8)
        zarr.create_array(tmp_path / f"{name}.zarr", data=labels, chunks=(8, 8, 8))
    return tmp_path / "truth.zarr", tmp_path / "prediction.zarr"


def test_a_process_killed_again_and_again_ends_with_the_same_bytes(large, tmp_path):
    expected = payload(sl.score(*large, metrics=["dice", "iou"]))
    folder, output = tmp_path / "saved", tmp_path / "result.json"
    chance = random.Random(0)
    goals = sorted(chance.sample(range(1, 600), 3))
    for number, goal in enumerate(goals):
        process = run_process(large, folder, output)
        while process.poll() is None and blocks_done(folder) < goal:
            time.sleep(0.001)
        assert process.poll() is None, process.stderr.read()
        if number == 0:
            owner = f"in use by process {process.pid} on {socket.gethostname()} since"
            with pytest.raises(sl.InvalidInputError, match=owner):
                sl.score(*large, metrics=["dice", "iou"], checkpoint=folder)
        process.send_signal(signal.SIGKILL)
        process.communicate()
    assert not output.exists()
    assert goals[-1] <= blocks_done(folder) < 729
    process = run_process(large, folder, output)
    assert process.communicate()[1] == ""
    assert payload(sl.Result.from_json(output.read_text())) == expected


@pytest.mark.usefixtures("saves_often")
def test_a_full_file_system_neither_ends_a_run_nor_its_checkpoint(volumes, small_disk):
    folder = small_disk / "saved"
    expected = payload(sl.score(*volumes, executor="serial"))
    with pytest.raises(Stopped):
        sl.score(*volumes, checkpoint=folder, executor="serial", progress=stop_after(4))
    before = blocks_done(folder)
    assert before
    filler = fill(small_disk)
    with pytest.warns(RuntimeWarning, match="No space left on device"):
        result = sl.score(*volumes, checkpoint=folder, executor="serial")
    assert payload(result) == expected
    assert blocks_done(folder) == before
    filler.unlink()
    assert payload(sl.score(*volumes, checkpoint=folder, executor="serial")) == expected


def test_a_checkpoint_on_a_disk_that_is_full_is_refused_before_work(volumes, small_disk):
    fill(small_disk)
    started = []
    with pytest.raises(
        sl.InvalidInputError, match=r"cannot write to the checkpoint .*No space left"
    ):
        sl.score(*volumes, checkpoint=small_disk, progress=lambda *n: started.append(n))
    assert not started


@pytest.mark.usefixtures("saves_often")
@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"metrics": ["iou"]}, "`metrics` was dice and is iou"),
        ({"ignore_label": 5}, "`ignore_label` was None and is 5"),
        ({"average": "micro"}, "`average` was macro and is micro"),
        ({"region": "0:8,:,:"}, "`region` was 0:32,0:16,0:16 and is 0:8,0:16,0:16"),
        ({"classes": [0, 1, 5]}, "`classes` was None and is"),
        ({"include_background": True}, "`include_background` was False and is True"),
        ({"mask": "truth.zarr"}, "mask was none and is truth.zarr"),
        ({"shard": "0/2"}, "the number of shards was 1 and is 2"),
    ],
    ids=lambda part: next(iter(part)) if isinstance(part, dict) else "",
)
def test_a_changed_option_is_refused_and_named(volumes, tmp_path, monkeypatch, change, told):
    monkeypatch.chdir(tmp_path)
    sl.score(*volumes, metrics=["dice"], checkpoint="saved")
    with pytest.raises(sl.InvalidInputError) as refused:
        sl.score(*volumes, **{"metrics": ["dice"], **change}, checkpoint="saved")
    assert told in str(refused.value)


@pytest.mark.usefixtures("saves_often")
def test_a_changed_volume_is_refused_and_named(volumes, tmp_path):
    sl.score(*volumes, checkpoint=tmp_path / "saved")
    chunk = volumes[1] / "c" / "1" / "1" / "0"
    os.utime(chunk, ns=(1, 1))
    with pytest.raises(sl.InvalidInputError, match=r"the stored prediction .*prediction.zarr was"):
        sl.score(*volumes, checkpoint=tmp_path / "saved")


def test_a_changed_array_in_memory_is_refused(tmp_path):
    truth, prediction = np.arange(60).reshape(3, 4, 5) % 3, np.ones((3, 4, 5), np.uint8)
    expected = payload(sl.score(truth, prediction, checkpoint=tmp_path))
    assert payload(sl.score(truth.copy(), prediction, checkpoint=tmp_path)) == expected
    with pytest.raises(sl.InvalidInputError, match="the stored truth NumPy array"):
        sl.score(truth[::-1], prediction, checkpoint=tmp_path)


@pytest.mark.usefixtures("saves_often")
def test_workers_memory_and_executor_may_change(volumes, tmp_path):
    expected = payload(sl.score(*volumes))
    with pytest.raises(Stopped):
        sl.score(
            *volumes, workers=1, executor="serial", checkpoint=tmp_path / "saved",
            progress=stop_after(3),
        )  # fmt: skip
    result = sl.score(
        *volumes, workers=4, executor="threads", max_memory="400MiB", checkpoint=tmp_path / "saved"
    )
    assert payload(result) == expected


@pytest.mark.usefixtures("saves_often")
def test_voxels_that_cannot_be_scored_are_counted_over_all_runs(tmp_path):
    scores = np.full((32, 4, 4), 0.5, np.float32)
    scores[[3, 20, 29], 1, 2] = np.nan
    zarr.create_array(tmp_path / "truth.zarr", data=np.ones((32, 4, 4), "u1"), chunks=(4, 4, 4))
    zarr.create_array(tmp_path / "scores.zarr", data=scores, chunks=(4, 4, 4))
    volumes = tmp_path / "truth.zarr", tmp_path / "scores.zarr"
    with pytest.raises(Stopped):
        sl.score(*volumes, checkpoint=tmp_path / "saved", executor="serial", progress=stop_after(4))
    assert 0 < blocks_done(tmp_path / "saved") < 8
    for _ in range(2):
        with pytest.raises(sl.InvalidInputError, match=r"has 3 values .* at \(3, 1, 2\)"):
            sl.score(*volumes, checkpoint=tmp_path / "saved")


def test_a_damaged_checkpoint_is_refused(volumes, tmp_path):
    sl.score(*volumes, checkpoint=tmp_path / "saved")
    path = tmp_path / "saved" / "pass-0.slstate"
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(sl.InvalidInputError, match=r"pass-0.slstate' is truncated or was changed"):
        sl.score(*volumes, checkpoint=tmp_path / "saved")


def test_a_checkpoint_that_cannot_be_made_is_refused_before_work(volumes, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(sl.InvalidInputError, match="cannot use the checkpoint"):
        sl.score(*volumes, checkpoint=tmp_path / "file")
    with pytest.raises(sl.InvalidInputError, match=r"checkpoint cannot write .* the input"):
        sl.score(*volumes, checkpoint=volumes[0] / "saved")
    with pytest.raises(sl.InvalidInputError, match="unknown metric"):
        sl.score(*volumes, metrics="dicee", checkpoint=tmp_path / "saved")
    assert not (tmp_path / "saved").exists()
