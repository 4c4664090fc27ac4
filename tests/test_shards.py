"""The parts of one volume, merged in any order, give the bytes of one run over the whole."""

import copy
import dataclasses
import functools
import hashlib
import itertools
import json
import operator
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

import streamloss as sl
from streamloss import prepare
from streamloss.origin import of_shard, origin_of
from streamloss.shards import Shard
from streamloss.state import MAGIC
from tests.strategies import LAYOUTS, cases, runs_of
from tests.test_checkpoint import Stopped, payload, stop_after
from tests.test_laws import IDS

GOLDEN = Path(__file__).parent / "golden" / "states"


@pytest.fixture
def volumes(tmp_path, monkeypatch):
    rng = np.random.default_rng(3)
    for name in ("truth", "prediction"):
        labels = runs_of(rng, [0, 1, 5], (32, 16, 16)).astype(np.uint8)
        zarr.create_array(tmp_path / f"{name}.zarr", data=labels, chunks=(8, 8, 16))
    monkeypatch.chdir(tmp_path)
    return "truth.zarr", "prediction.zarr"


def save_shards(truth, prediction, count, folder=Path(), **options):
    """The files of all shards."""
    paths = [folder / f"part-{number}.slstate" for number in range(count)]
    for number, path in enumerate(paths):
        sl.score(truth, prediction, shard=f"{number}/{count}", save_state=path, **options)
    return paths


@pytest.mark.parametrize("layout", LAYOUTS, ids=IDS)
@settings(max_examples=6)
@given(data=st.data())
def test_every_statistic_merges_to_the_bytes_of_one_run(layout, data, tmp_path_factory):
    case = data.draw(cases(layout))
    folder = tmp_path_factory.mktemp("shards")
    expected = payload(sl.score(case.truth, case.prediction, **case.options))
    count = data.draw(st.integers(1, 4))
    with (
        mock.patch.multiple(prepare, TARGET_BLOCK_VOXELS={"memory": data.draw(st.integers(1, 99))}),
        mock.patch("os.fsync"),
    ):
        paths = save_shards(case.truth, case.prediction, count, folder, **case.options)
    assert payload(sl.merge(data.draw(st.permutations(paths)))) == expected


@pytest.mark.parametrize(
    "options",
    [
        {"metrics": ["dice", "confusion_matrix"]},
        {"regions": {"both": [1, 5], "one": [5]}},
        {"mask": "truth.zarr", "spacing": (3, 1, 1)},
        {"weights": "prediction.zarr"},
        {"ignore_label": 5, "region": "3:30,:,2:16"},
        {"classes": {"liver": 1, "none": 0}, "other_labels": "background"},
    ],
    ids=["discovered", "regions", "mask", "weights", "region", "classes"],
)
@pytest.mark.parametrize("count", [1, 3, 40], ids=["whole", "some", "more than blocks"])
def test_shards_of_stored_volumes_merge_to_the_bytes_of_one_run(volumes, count, options):
    expected = payload(sl.score(*volumes, **options))
    paths = save_shards(*volumes, count, **options)
    assert payload(sl.merge(reversed(paths))) == expected


def test_what_is_not_stored_counts_once(tmp_path):
    volumes = []
    for name in ("truth", "prediction"):
        array = zarr.create_array(
            tmp_path / f"{name}.zarr", shape=(64, 16, 16), chunks=(8, 8, 8), dtype="u1"
        )
        array[40:48, 3:9] = np.ones((8, 6, 16), "u1")
        volumes.append(tmp_path / f"{name}.zarr")
    expected = sl.score(*volumes)
    assert expected.integrity["truth"]["missing"] > 0
    paths = save_shards(*volumes, 3, tmp_path)
    assert payload(sl.merge(paths)) == payload(expected)


def test_shards_do_not_depend_on_the_workers_of_each(volumes):
    expected = payload(sl.score(*volumes))
    for number, workers in enumerate((1, 7, 2)):
        sl.score(
            *volumes, shard=f"{number}/3", workers=workers, save_state=f"part-{number}.slstate"
        )
    assert payload(sl.merge(f"part-{number}.slstate" for number in range(3))) == expected


def test_every_block_is_in_one_shard_and_shards_are_even(volumes, monkeypatch):
    monkeypatch.setattr(prepare, "TARGET_BLOCK_VOXELS", {"direct": 1})
    parts = [sl.score(*volumes, shard=f"{number}/4") for number in range(4)]
    assert [part.voxels["total"] for part in parts] == [32 * 16 * 16 // 4] * 4
    assert [part.options["shard"] for part in parts] == ["0/4", "1/4", "2/4", "3/4"]


def test_shards_are_cut_as_numpy_splits_arrays(volumes):
    run = prepare.prepare(*volumes)
    origin = origin_of(run, {}, recognizable=False)
    for count, total in itertools.product(range(9), range(1, 12)):
        whole = dataclasses.replace(run, blocks=np.arange(count))
        expected = np.array_split(whole.blocks, total)
        parts = [of_shard(whole, origin, Shard(number, total)) for number in range(total)]
        assert [part.blocks.tolist() for part, _ in parts] == [part.tolist() for part in expected]
        assert [its.blocks for _, its in parts] == [len(part) for part in expected]


@pytest.mark.parametrize("total", [10**11, 10**26 - 1])
def test_any_number_of_shards_takes_no_memory_and_those_beyond_the_blocks_are_empty(volumes, total):
    last = total - 1
    first = sl.score(*volumes, shard=f"0/{total}", save_state="first.slstate")
    empty = sl.score(*volumes, shard=f"{last}/{total}", save_state="last.slstate")
    assert first.voxels["total"] == 8 * 8 * 16
    assert empty.voxels["total"] == 0
    refused(
        ["last.slstate", "first.slstate"],
        f"{total - 2:,} of {total:,} shards missing: 1/{total}, 2/{total}, ",
        f", 10/{total} …; every one",
    )


def test_a_shard_goes_on_from_a_checkpoint_of_its_own(volumes, monkeypatch):
    monkeypatch.setattr(prepare, "TARGET_BLOCK_VOXELS", {"direct": 1})
    monkeypatch.setattr("streamloss.execution.LARGE_RUN", 1)
    monkeypatch.setattr("streamloss.checkpoint.SECONDS", 0.0)
    expected = payload(sl.score(*volumes))
    for number in range(2):
        options = {"shard": f"{number}/2", "save_state": f"part-{number}.slstate"}
        options |= {"checkpoint": f"saved-{number}", "executor": "serial"}
        with pytest.raises(Stopped):
            sl.score(*volumes, progress=stop_after(2), **options)
        assert not Path(f"part-{number}.slstate").exists()
        sl.score(*volumes, **options)
    with pytest.raises(sl.InvalidInputError, match="the shard was 0/2 and is 1/2"):
        sl.score(*volumes, shard="1/2", checkpoint="saved-0")
    assert payload(sl.merge(["part-0.slstate", "part-1.slstate"])) == expected
    # The file of a checkpoint is a state as well.
    assert payload(sl.merge([f"saved-{n}/pass-0.slstate" for n in (0, 1)])) == expected


def refused(states, *words):
    with pytest.raises(sl.InvalidInputError) as error:
        sl.merge(states)
    sentence = str(error.value)
    assert all(word in sentence for word in words), sentence
    assert "\n" not in sentence


def test_missing_duplicate_and_foreign_parts_are_refused_by_name(volumes):
    options = {"metrics": ["dice"]}
    paths = save_shards(*volumes, 4, **options)
    refused([paths[0], paths[3]], "2 of 4 shards missing: 1/4, 2/4; every one")
    refused([*paths, paths[2]], "part-2.slstate and part-2.slstate are both the shard 2/4")
    again = Path("copy.slstate")
    again.write_bytes(paths[1].read_bytes())
    refused([*paths, again], "part-1.slstate and copy.slstate are both the shard 1/4")
    refused([], "no states")
    for change, told in (
        ({"metrics": ["iou"]}, "`metrics` is iou there and dice here"),
        ({"include_background": True}, "`include_background` is True there and False here"),
        ({"shard": "1/3"}, "the number of shards is 3 there and 4 here"),
    ):
        sl.score(*volumes, **{"shard": "1/4", **options, **change}, save_state="other.slstate")
        refused([paths[0], "other.slstate"], "other.slstate is not of the same run", told)
    sl.score(volumes[0], volumes[0], shard="1/4", save_state="other.slstate", **options)
    refused([paths[0], "other.slstate"], "the stored prediction prediction.zarr is")
    accumulator = sl.Accumulator(**options)
    accumulator.update(np.ones(3, "u1"), np.ones(3, "u1"))
    accumulator.save("accumulator.slstate")
    refused(["accumulator.slstate"], "is the state of an Accumulator")


@pytest.mark.parametrize(
    "states", ["h0.slstate", Path("h0.slstate"), b"h0", None, 3, [None], [b"h"]]
)
def test_what_is_no_list_of_files_is_refused(states):
    got = states[0] if isinstance(states, list) else states
    refused(states, f"states must be a list of state files, got {got!r}")


def test_a_run_that_was_not_finished_is_refused(volumes, monkeypatch):
    monkeypatch.setattr(prepare, "TARGET_BLOCK_VOXELS", {"direct": 1})
    monkeypatch.setattr("streamloss.execution.LARGE_RUN", 1)
    monkeypatch.setattr("streamloss.checkpoint.SECONDS", 0.0)
    with pytest.raises(Stopped):
        sl.score(*volumes, checkpoint="saved", executor="serial", progress=stop_after(3))
    refused(["saved/pass-0.slstate"], "was not finished: ", "of 8 blocks are in it")


def damaged(content):
    """What may become of a file, by what is told of it."""
    flipped = bytearray(content)
    flipped[len(content) // 2] ^= 4
    yield b"", "is truncated: it has 0 bytes"
    for size in (7, 17, 18):
        yield content[:size], f"is truncated: it has {size} bytes"
    for size in (20, 200, len(content) - 1):
        yield content[:size], "is truncated or was changed"
    yield bytes(flipped), "is truncated or was changed"
    yield content + b"\n", "is truncated or was changed"
    yield b"PK\x03\x04" + content, "is not a state file of streamloss"
    yield content.replace(b"state/1", b"state/7", 1), "is of version 7, this version"
    for old, new in ((b'"counts"', b'"numbers"'), (b'"metrics"', b'"measures"')):
        body = content[:-32].replace(old, new, 1)
        assert body != content[:-32]
        yield body + hashlib.sha256(body).digest(), "was written by another version of streamloss"


def test_a_damaged_or_foreign_file_is_refused_with_the_reason(volumes):
    sl.score(*volumes, save_state="whole.slstate")
    content = Path("whole.slstate").read_bytes()
    for bad, told in damaged(content):
        Path("bad.slstate").write_bytes(bad)
        refused(["bad.slstate"], "bad.slstate", told)
    refused(["nowhere.slstate"], "cannot read the state file 'nowhere.slstate'", "No such file")
    refused(["."], "'.' is a folder, not the state of a shard", "`resume`")


def signed(header, arrays=b"", newline=b"\n"):
    """The bytes of a state file with a header of any kind and the digest that belongs to it."""
    body = MAGIC + json.dumps(header).encode() + newline + arrays
    return body + hashlib.sha256(body).digest()


def without(header, *keys):
    """A header that lacks one thing."""
    changed = copy.deepcopy(header)
    *outer, last = keys
    del functools.reduce(operator.getitem, outer, changed)[last]
    return changed


def test_a_file_with_the_right_digest_that_holds_no_state_is_refused(volumes):
    sl.score(*volumes, save_state="whole.slstate")
    head, _, arrays = Path("whole.slstate").read_bytes()[len(MAGIC) : -32].partition(b"\n")
    header = json.loads(head)
    origin = header["origin"]
    none, other = "'bad.slstate' is not a state file of streamloss", "written by another version"
    for bad, told in (
        (signed([1, 2]), none),
        (signed(3), none),
        (signed(header, newline=b""), none),
        (signed({**header, "origin": [origin]}, arrays), none),
        (signed({**header, "origin": []}, arrays), none),
        (signed({**header, "origin": {**origin, "inputs": []}}, arrays), none),
        (signed({**header, "origin": {**origin, "shard": [4, 2]}}, arrays), other),
        (signed(without(header, "origin", "inputs", "truth", "unit"), arrays), other),
        (signed(without(header, "origin", "inputs", "truth"), arrays), other),
        (signed(without(header, "origin", "sources", "truth"), arrays), other),
        (signed(without(header, "origin", "sources", "truth", "digest"), arrays), other),
        (signed(without(header, "origin", "integrity", "truth"), arrays), other),
        (signed(without(header, "origin", "plan", "blocks"), arrays), other),
        (signed(without(header, "scored"), arrays), other),
        (signed(header, arrays + bytes(8)), "'bad.slstate' is truncated or was changed"),
        (signed(header, arrays[:-8]), other),
        (signed({**header, "faults": [[]]}, arrays), other),
    ):
        Path("bad.slstate").write_bytes(bad)
        refused(["whole.slstate", "bad.slstate"], told)
        refused(["bad.slstate"], told)
    Path("good.slstate").write_bytes(signed(header, arrays))
    assert payload(sl.merge(["good.slstate"])) == payload(sl.score(*volumes))


def test_every_cut_of_a_state_file_is_refused(volumes):
    sl.score(*volumes, save_state="whole.slstate", metrics="dice")
    content = Path("whole.slstate").read_bytes()
    for size in range(0, len(content), 7):
        Path("bad.slstate").write_bytes(content[:size])
        refused(["bad.slstate"], "truncated")


def test_what_cannot_be_merged_is_refused_before_work(volumes):
    for options, told in (
        ({"shard": "2/2"}, "shard must be i/N with i from 0 to N - 1, got '2/2'"),
        ({"shard": "1"}, "shard must be i/N"),
        ({"shard": "-1/2"}, "shard must be i/N"),
        ({"shard": (0, 2)}, "shard must be i/N"),
        ({"shard": f"0/1{'0' * 5000}"}, "shard must be i/N"),
        ({"save_state": "nowhere/part.slstate"}, "there is no folder nowhere"),
        ({"save_state": "."}, "it is a folder"),
    ):
        with pytest.raises(sl.InvalidInputError) as error:
            sl.score(*volumes, **options)
        assert told in str(error.value)
    truth, scores = np.array([0, 1, 1, 0]), np.array([0.1, 0.9, 0.4, 0.4], np.float32)
    for options in ({"shard": "0/2"}, {"save_state": "part.slstate"}):
        with pytest.raises(sl.InvalidInputError, match="exact=True needs to see the scores again"):
            sl.score(truth, scores, metrics="auroc", exact=True, **options)
    sl.score(truth, scores, metrics="auroc", exact=True, checkpoint="saved")
    refused(["saved/pass-0.slstate"], "exact=True needs to see the scores again")
    assert not Path("part.slstate").exists()


def test_a_part_with_voxels_that_cannot_be_scored_saves_nothing(tmp_path):
    scores = np.full((4, 5), 0.5, np.float32)
    scores[3, 2] = np.nan
    truth = np.ones((4, 5), np.uint8)
    sl.score(truth, scores, shard="0/2", save_state=tmp_path / "part-0.slstate")
    with pytest.raises(sl.InvalidInputError, match=r"1 value not finite .* at \(3, 2\)"):
        sl.score(truth, scores, shard="1/2", save_state=tmp_path / "part-1.slstate")
    assert [path.name for path in tmp_path.iterdir()] == ["part-0.slstate"]


@pytest.mark.parametrize("name", ["labels", "probabilities", "regions"])
def test_state_files_of_earlier_versions_still_give_their_results(name):
    """The files were written once by `tests/golden/make_states.py`; they must never change."""
    result = sl.merge(GOLDEN / f"{name}-{number}.slstate" for number in range(2))
    expected = json.loads((GOLDEN / f"{name}.json").read_text())
    got = json.loads(result.to_json())
    for part in ("inputs", "voxels", "classes", "integrity"):
        assert got[part] == expected[part]
    # Later versions may tell more of an option or a metric, and nothing else.
    assert got["options"].items() >= expected["options"].items()
    for metric, facts in expected["metrics"].items():
        for fact in ("value", "per_class", "error_bound", "unit"):
            assert got["metrics"][metric][fact] == facts[fact], metric
