"""Each stored chunk is decoded once, and slow volumes are read while others are scored."""

import itertools
import math
import os
import tempfile
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from hypothesis import given
from hypothesis import strategies as st

import streamloss as sl
from streamloss import direct, prepare
from streamloss.blocks import Plan
from streamloss.partial import Partial
from streamloss.scan import Job, reads_ahead, scan

SHAPE = (128, 96, 100)


@dataclass
class Decodes:
    """How often each chunk was decoded, by array, file and place in it, and by which plan."""

    counts: Counter[tuple[str, int, int]] = field(default_factory=Counter)
    plan: Plan | None = None

    def files(self, path: Path) -> set[int]:
        """Inodes of the files of an array of which anything was decoded."""
        return {inode for name, inode, _ in self.counts if name == str(path)}


@contextmanager
def counted_decodes(largest: tuple[int, ...] | None = None) -> Iterator[Decodes]:
    """Count the decodes of direct readers, in blocks that take at most what `largest` does."""
    decodes = Decodes()
    lock = threading.Lock()
    reading = threading.local()
    plan, reader = prepare.plan, direct.DirectReader
    read_chunk, read_files, read_shard = reader._read_chunk, reader._read_files, reader._read_shard
    read_parts = direct.read_parts

    def count(name: str, file: Any, offset: int = 0) -> None:
        with lock:
            decodes.counts[name, os.stat(file).st_ino, offset] += 1  # noqa: PTH116

    def counted_alone(reader: Any, fetch: Any, *rest: Any) -> None:
        # A path, or an open shard and where in it the chunk begins.
        count(reader.layout.name, *fetch.args[:2])
        read_chunk(reader, fetch, *rest)

    def counted_files(reader: Any, box: Any, skip: int, target: Any) -> int:
        done = read_files(reader, box, skip, target)
        for index in itertools.islice(itertools.product(*box), skip, done):
            count(reader.layout.name, f"{reader.layout.root}/{reader.layout.key(index)}")
        return done

    def counted_shard(reader: Any, *rest: Any) -> None:
        reading.name = reader.layout.name
        read_shard(reader, *rest)

    def counted_parts(codec: str, file: int, parts: Any, skip: int, *rest: Any) -> int:
        done = read_parts(codec, file, parts, skip, *rest)
        for offset in parts[skip:done, 0].tolist():
            count(reading.name, file, offset)
        return done

    def limited(
        box: Any, grids: Any, cost: Callable[..., int], limit: int, *rest: Any, **options: Any
    ) -> Plan:
        limit = limit if largest is None else cost(largest)
        decodes.plan = plan(box, grids, cost, limit, *rest, **options)
        return decodes.plan

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reader, "_read_chunk", counted_alone)
        patch.setattr(reader, "_read_files", counted_files)
        patch.setattr(reader, "_read_shard", counted_shard)
        patch.setattr(direct, "read_parts", counted_parts)
        patch.setattr(prepare, "plan", limited)
        yield decodes


def write(path: Path, shape: tuple[int, ...], **options: Any) -> Path:
    """Store labels none of which is the fill value, so that every chunk is stored."""
    labels = (np.indices(shape).sum(0) % 3 + 1).astype(np.uint8)
    zarr.create_array(path, data=labels, compressors=None, **options)
    return path


def touched(region: list[tuple[int, int]], chunks: tuple[int, ...]) -> int:
    """Chunks of a dense array that a region touches."""
    return math.prod(
        -(-stop // chunk) - start // chunk
        for (start, stop), chunk in zip(region, chunks, strict=True)
    )


@pytest.mark.parametrize(
    "region", [None, [(0, 128), (0, 96), (0, 100)], [(5, 77), (32, 90), (64, 65)]]
)
@pytest.mark.parametrize(
    ("chunks", "others"),
    [
        ((32,) * 3, (32,) * 3),
        ((64,) * 3, (48,) * 3),
        ((32,) * 3, (100,) * 3),
        ((64, 32, 16), (16, 32, 64)),
        ((1, 96, 100), (64, 64, 64)),
        ((33, 17, 50), (20, 96, 25)),
    ],
)
@pytest.mark.parametrize("workers", [1, 3])
def test_every_chunk_is_decoded_once(tmp_path, chunks, others, region, workers):
    truth = write(tmp_path / "truth", SHAPE, chunks=chunks)
    prediction = write(tmp_path / "prediction", SHAPE, chunks=others)
    with counted_decodes() as decodes:
        sl.score(truth, prediction, classes=4, region=region, workers=workers)
    box = region or [(0, size) for size in SHAPE]
    assert set(decodes.counts.values()) == {1}
    assert len(decodes.files(truth)) == touched(box, chunks)
    assert len(decodes.files(prediction)) == touched(box, others)
    assert not decodes.plan.rereads


def test_workers_share_no_chunk_if_there_are_blocks_for_all(tmp_path):
    truth = write(tmp_path / "truth", SHAPE, chunks=(16, 16, 16))
    prediction = write(tmp_path / "prediction", SHAPE, chunks=(24, 24, 24))
    with counted_decodes() as decodes:
        sl.score(truth, prediction, classes=4, workers=2)
    assert set(decodes.counts.values()) == {1}
    assert len(decodes.files(truth)) == touched([(0, size) for size in SHAPE], (16,) * 3)
    assert not decodes.plan.rereads


def test_every_chunk_of_a_shard_is_decoded_once(tmp_path):
    truth = write(tmp_path / "truth", SHAPE, chunks=(16, 16, 20), shards=(64, 48, 60))
    prediction = write(tmp_path / "prediction", SHAPE, chunks=(32, 32, 32))
    with counted_decodes() as decodes:
        sl.score(truth, prediction, classes=4)
    assert set(decodes.counts.values()) == {1}
    assert sum(name == str(truth) for name, _, _ in decodes.counts) == 8 * 6 * 5
    assert len(decodes.files(prediction)) == 4 * 3 * 4
    assert not decodes.plan.rereads


@pytest.mark.parametrize("others", [(32, 32, 32), (48, 64, 20)])
def test_what_is_not_stored_is_never_decoded(tmp_path, others):
    truth = zarr.create_array(tmp_path / "truth", shape=SHAPE, chunks=(32,) * 3, dtype="u1")
    truth[32:64, 0:32, 32:64] = 1
    truth[96:, 64:, 96:] = 2
    prediction = zarr.create_array(tmp_path / "prediction", shape=SHAPE, chunks=others, dtype="u1")
    prediction[40, 50, 60] = 1
    with counted_decodes() as decodes:
        sl.score(tmp_path / "truth", tmp_path / "prediction", classes=3)
    stored = {
        path.stat().st_ino
        for name in ("truth", "prediction")
        for path in (tmp_path / name / "c").rglob("*")
        if path.is_file()
    }
    assert len(stored) == 3
    assert {inode for _, inode, _ in decodes.counts} == stored
    assert set(decodes.counts.values()) == {1}


extents = st.tuples(*[st.integers(2, 16)] * 3)


@given(shape=extents, chunks=extents, others=extents, largest=extents, data=st.data())
def test_the_plan_says_exactly_when_chunks_are_decoded_again(shape, chunks, others, largest, data):
    workers = data.draw(st.integers(1, 3))
    region = [
        sorted(data.draw(st.sets(st.integers(0, size), min_size=2, max_size=2))) for size in shape
    ]
    with tempfile.TemporaryDirectory() as folder:
        truth = write(Path(folder) / "truth", shape, chunks=chunks)
        prediction = write(Path(folder) / "prediction", shape, chunks=others)
        with counted_decodes(largest) as decodes:
            sl.score(truth, prediction, classes=4, region=region, workers=workers)
    assert decodes.plan.rereads == (max(decodes.counts.values()) > 1)
    assert len(decodes.counts) == touched(region, chunks) + touched(region, others)


class SlowVolume:
    """A volume that tells when a read starts, and waits there until it may go on."""

    def __init__(self, volume: Any) -> None:
        self.volume = volume
        self.reader = "slow"
        self.started = [threading.Event() for _ in range(10)]
        self.go_on = threading.Event()
        self.go_on.set()
        self.reads = 0
        self.fails_at: int | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self.volume, name)

    def view(self, region: Any) -> None:
        return None

    def read(self, region: Any, out: Any) -> None:
        number = self.reads
        self.reads += 1
        self.started[number].set()
        assert self.go_on.wait(60)
        if number == self.fails_at:
            raise sl.ReadError("the disk is gone")
        self.volume.read(region, out)


@pytest.fixture
def slow_job() -> tuple[Job, SlowVolume]:
    """Return a job of eight blocks, and the volume in it that is slow."""
    labels = (np.indices((8, 4, 4)).sum(0) % 3).astype(np.uint8)
    job = prepare.prepare(labels, labels, classes=3, workers=1).job
    slow = SlowVolume(job.prediction)
    return replace(job, plan=replace(job.plan, block_shape=(1, 4, 4)), prediction=slow), slow


def test_the_next_block_is_read_while_one_is_scored(slow_job, monkeypatch):
    job, slow = slow_job
    absorb = Partial.absorb
    absorbed: list[int] = []

    def checked(partial: Partial, block: Any) -> None:
        number = len(absorbed)
        assert number == 7 or slow.started[number + 1].wait(60)
        # One block ahead and no further: the next two use this block's buffers.
        assert not slow.started[number + 2].is_set()
        absorb(partial, block)
        absorbed.append(number)

    monkeypatch.setattr(Partial, "absorb", checked)
    scan(job, range(8))
    assert absorbed == list(range(8))


def test_reading_ahead_changes_no_bit(tmp_path):
    truth = write(tmp_path / "truth", (24, 20, 16), chunks=(8, 8, 8))
    prediction = write(tmp_path / "prediction", (24, 20, 16), chunks=(6, 20, 8))
    with counted_decodes((4, 8, 8)) as decodes:
        at_once, ahead = (
            sl.score(truth, prediction, classes=4, reader=reader) for reader in ("direct", "zarr")
        )
    assert decodes.plan is not None
    assert len(decodes.plan) > 16
    assert ahead.metrics == at_once.metrics


@pytest.mark.parametrize("number", [0, 1, 5, 7])
def test_a_read_that_fails_loses_nothing(slow_job, number):
    job, slow = slow_job
    slow.fails_at = number
    scored: list[int] = []
    threads = threading.active_count()
    with pytest.raises(sl.ReadError, match="the disk is gone"):
        scan(job, range(8), scored.append)
    assert scored == [16] * number
    assert threading.active_count() == threads


def test_no_thread_is_left_when_scoring_stops(slow_job):
    job, slow = slow_job
    threads = threading.active_count()

    def stop(voxels: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        scan(job, range(8), stop)
    assert threading.active_count() == threads
    assert slow.reads <= 2


def test_only_volumes_that_are_waited_for_are_read_ahead(tmp_path, slow_job):
    job, slow = slow_job
    array = write(tmp_path / "a", (4, 4), chunks=(2, 2))
    stored = prepare.prepare(array, array, classes=4).job.truth
    remote = prepare.prepare(array, array, classes=4, reader="zarr").job.truth
    assert not reads_ahead([job.truth, stored])
    assert reads_ahead([job.truth, slow])
    assert reads_ahead([stored, remote])
