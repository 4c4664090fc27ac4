"""Any part of a gzip stream is read as of the decoded bytes, in bounded memory."""

import gzip
import pickle
import tracemalloc
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from streamloss import byte_sources
from streamloss.byte_sources import GzipFile, PlainFile

# As compressible as labels: runs of some dozen bytes.
DATA = np.repeat(np.random.default_rng(0).integers(0, 9, 2**20).astype(np.uint8), 24).tobytes()


def read(source: GzipFile | PlainFile, offset: int, size: int) -> bytes:
    out = bytearray(size)
    with source.open() as reader:
        reader.read_into(offset, memoryview(out))
    return bytes(out)


@pytest.fixture(scope="module")
def path(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("gzip") / "v.gz"
    path.write_bytes(gzip.compress(DATA, 1))
    return path


@pytest.fixture
def decoded(monkeypatch) -> list[int]:
    """How many bytes each step decodes."""
    sizes: list[int] = []
    step = byte_sources._GzipReader._step

    def counted(self, state, wanted):
        part = step(self, state, wanted)
        sizes.append(len(part))
        return part

    monkeypatch.setattr(byte_sources._GzipReader, "_step", counted)
    return sizes


def test_parts_in_any_order_are_those_of_the_data(path):
    source = GzipFile(path, len(DATA))
    rng = np.random.default_rng(1)
    for offset in [0, len(DATA) - 10, *rng.integers(0, len(DATA), 40)]:
        size = min(int(rng.integers(1, 100_000)), len(DATA) - int(offset))
        assert read(source, int(offset), size) == DATA[offset : offset + size]


def test_reading_on_decodes_nothing_twice(path, decoded):
    source = GzipFile(path, len(DATA))
    part = len(DATA) // 50
    for offset in range(0, len(DATA), part):
        size = min(part, len(DATA) - offset)
        assert read(source, offset, size) == DATA[offset : offset + size]
    assert sum(decoded) == len(DATA)


def test_going_back_decodes_no_more_than_to_the_state_that_was_kept(path, decoded):
    source = GzipFile(path, len(DATA))
    read(source, len(DATA) - 1, 1)
    decoded.clear()
    read(source, len(DATA) // 2, 1000)
    assert sum(decoded) <= source.distance + byte_sources._STEP_BYTES + 1000


def test_threads_read_at_once(path):
    source = GzipFile(path, len(DATA))
    part = len(DATA) // 16
    with ThreadPoolExecutor(4) as pool:
        parts = pool.map(lambda i: read(source, i * part, part), range(16))
        assert b"".join(parts) == DATA


def test_a_pickled_source_reads_from_the_start(path):
    source = GzipFile(path, len(DATA))
    read(source, len(DATA) // 2, 1)
    copy = pickle.loads(pickle.dumps(source))
    assert read(copy, 1000, 10) == DATA[1000:1010]


def test_memory_stays_below_what_is_declared(tmp_path):
    """Incompressible data, whose input that waits is largest."""
    data = np.random.default_rng(0).integers(0, 256, 2**25, dtype=np.uint8).tobytes()
    (tmp_path / "v.gz").write_bytes(gzip.compress(data, 1))
    source = GzipFile(tmp_path / "v.gz", len(data))
    out = bytearray(2**20)
    tracemalloc.start()
    try:
        for offset in range(0, len(data), len(out)):
            with source.open() as reader:
                reader.read_into(offset, memoryview(out))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak <= source.held_bytes + source.read_bytes


def test_members_are_read_one_after_the_other_and_padding_is_none(tmp_path):
    members = b"".join(gzip.compress(DATA[i : i + 100_000]) for i in range(0, 500_000, 100_000))
    (tmp_path / "v.gz").write_bytes(b"header" + members + bytes(1000))
    source = GzipFile(tmp_path / "v.gz", 500_000, start=6)
    assert read(source, 0, 500_000) == DATA[:500_000]
    assert read(source, 150_000, 200_000) == DATA[150_000:350_000]
    with pytest.raises(EOFError, match="its data end after 500,000 bytes"):
        read(source, 499_999, 2)


def test_the_checksum_is_checked_by_whoever_reads_the_last_byte(tmp_path, path):
    stored = bytearray(path.read_bytes())
    stored[-8] ^= 1
    (tmp_path / "v.gz").write_bytes(stored)
    source = GzipFile(tmp_path / "v.gz", len(DATA))
    assert read(source, 0, len(DATA) - 1) == DATA[:-1]
    with pytest.raises(zlib.error, match="incorrect data check"):
        read(source, len(DATA) - 1, 1)


@pytest.mark.parametrize("lost", [1, 8, 1000])
def test_a_stream_that_is_cut_short_is_an_error(tmp_path, path, lost):
    (tmp_path / "v.gz").write_bytes(path.read_bytes()[:-lost])
    with pytest.raises(EOFError, match="cut short"):
        read(GzipFile(tmp_path / "v.gz", len(DATA)), len(DATA) - 1, 1)


def test_a_plain_file_ends_where_it_ends(tmp_path):
    (tmp_path / "v").write_bytes(b"0123456789")
    assert read(PlainFile(tmp_path / "v"), 3, 4) == b"3456"
    with pytest.raises(EOFError, match="ends at byte 10"):
        read(PlainFile(tmp_path / "v"), 8, 3)
