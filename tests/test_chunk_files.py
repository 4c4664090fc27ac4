"""Chunks decoded in their place by compiled code: the bytes of zarr-python, and its refusals."""

import subprocess
import sys
import weakref
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numcodecs
import numpy as np
import pytest
import zarr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from zarr.codecs import BloscCodec, ZstdCodec

from streamloss import chunk_files
from streamloss.direct import DirectReader, open_direct
from streamloss.errors import ReadError

CODECS = [
    None,
    ZstdCodec(level=1, checksum=True),
    BloscCodec(cname="lz4"),
    BloscCodec(cname="zstd"),
]


def made(
    path: Path, shape: Any, chunks: Any, *, codec: Any, shards: Any = None, **more: Any
) -> Any:
    array = zarr.create_array(
        path, shape=shape, chunks=chunks, dtype="f4", shards=shards, compressors=codec, **more
    )
    array[...] = np.random.default_rng(0).integers(1, 50, shape).astype("f4")
    return array


def read(reader: DirectReader, region: tuple[slice, ...]) -> np.ndarray:
    out = np.full([part.stop - part.start for part in region], -1, "f4")
    reader.read(region, out)
    return out


@st.composite
def columns(draw: st.DrawFn) -> tuple[Any, ...]:
    """Shape, chunks and a region of which whole chunks follow one another, or nearly do."""
    ndim = draw(st.integers(1, 4))
    long = draw(st.integers(0, ndim - 1))
    chunks = tuple(
        1 if axis < long and draw(st.integers(0, 3)) else draw(st.integers(2, 4))
        for axis in range(ndim)
    )
    grid = tuple(draw(st.integers(1, 12 if axis == long else 3)) for axis in range(ndim))
    shape, region = [], []
    for axis in range(ndim):
        # A chunk at the border may be cut.
        shape.append(grid[axis] * chunks[axis] - draw(st.integers(0, chunks[axis] - 1)))
        first = draw(st.integers(0, grid[axis] - 1))
        last = draw(st.integers(first, grid[axis] - 1)) if axis <= long else first
        stop = min((last + 1) * chunks[axis], shape[axis])
        start = first * chunks[axis] + draw(st.sampled_from([0, 0, 0, 0, 0, 1]))
        region.append(slice(min(start, stop - 1), stop))
    return tuple(shape), chunks, tuple(region)


@settings(deadline=None, max_examples=300, suppress_health_check=list(HealthCheck))
@given(
    layout=columns(),
    codec=st.sampled_from(CODECS),
    sharded=st.booleans(),
    separator=st.sampled_from("./"),
    missing=st.booleans(),
)
def test_columns_of_chunks_have_the_bytes_of_zarr_python(
    layout, codec, sharded, separator, missing, tmp_path_factory
):
    shape, chunks, region = layout
    shards = tuple(2 * size for size in chunks) if sharded else None
    path = tmp_path_factory.mktemp("zarr")
    encoding = {"name": "default", "separator": separator}
    array = made(
        path, shape, chunks, codec=codec, shards=shards, fill_value=7, chunk_key_encoding=encoding
    )
    if missing:
        array[tuple(slice(part.start, part.start + 1) for part in region)] = 7
        array = zarr.open_array(path)
    reader = open_direct(array)
    # The second time the buffer is large enough.
    for _ in range(2):
        assert read(reader, region).tobytes() == array[region].tobytes()


@pytest.mark.parametrize("sharded", [False, True])
@pytest.mark.parametrize("codec", CODECS, ids=repr)
def test_whole_chunks_do_without_python(tmp_path, monkeypatch, codec, sharded):
    array = made(
        tmp_path, (48, 4, 4), (4, 4, 4), codec=codec, shards=(48, 4, 4) if sharded else None
    )
    reader = open_direct(array)
    region = tuple(slice(0, size) for size in array.shape)
    read(reader, region)
    calls: list[int] = []
    monkeypatch.setattr(DirectReader, "_read_chunk", lambda *_: calls.append(1))
    assert (read(reader, region) == array[...]).all()
    assert not calls
    monkeypatch.setattr(chunk_files, "available", lambda: False)
    read(reader, region)
    assert len(calls) == 12


@pytest.mark.parametrize("codec", CODECS, ids=repr)
@pytest.mark.parametrize("number", [0, 5, 11])
@pytest.mark.parametrize(
    "damage", ["cut", "longer", "empty", "gone", "folder", "other bytes", "smaller"]
)
def test_a_damaged_chunk_within_a_column_is_refused(tmp_path, codec, number, damage):
    array = made(tmp_path, (48, 4, 4), (4, 4, 4), codec=codec)
    reader = open_direct(array)
    region = tuple(slice(0, size) for size in array.shape)
    read(reader, region)
    chunk = tmp_path / "c" / str(number) / "0" / "0"
    stored = chunk.read_bytes()
    small = made(tmp_path / "small", (3, 4, 4), (3, 4, 4), codec=codec)
    contents = {
        "cut": stored[:-3],
        "longer": stored + b"1",
        "empty": b"",
        "other bytes": b"\xff" * 9,
        "smaller": (small.store.root / "c" / "0" / "0" / "0").read_bytes(),
    }
    if damage in ("gone", "folder"):
        chunk.unlink()
        if damage == "folder":
            chunk.mkdir()
    else:
        chunk.write_bytes(contents[damage])
    with pytest.raises(ReadError, match=rf"chunk \({number}, 0, 0\).*'c/{number}/0/0'"):
        read(reader, region)


@pytest.mark.parametrize("number", [0, 5, 11])
def test_a_damaged_chunk_of_a_shard_is_named(tmp_path, number):
    codec = ZstdCodec(checksum=True)
    array = made(tmp_path, (96, 4, 4), (4, 4, 4), codec=codec, shards=(48, 4, 4))
    reader = open_direct(array)
    region = (slice(48, 96), slice(0, 4), slice(0, 4))
    read(reader, region)
    shard = tmp_path / "c" / "1" / "0" / "0"
    stored = bytearray(shard.read_bytes())
    index = np.frombuffer(bytes(stored[-4 - 16 * 12 : -4]), "<u8").reshape(12, 2)
    stored[int(index[number].sum()) - 6] ^= 1
    shard.write_bytes(stored)
    with pytest.raises(ReadError, match=rf"chunk \({12 + number}, 0, 0\)"):
        read(reader, region)


def test_paths_have_numbers_of_any_length(tmp_path):
    array = made(tmp_path / "größe", (1234,), (1,), codec=None)
    assert (read(open_direct(array), (slice(5, 1234),)) == array[5:]).all()


def test_each_thread_has_a_decompressor_that_goes_with_it():
    mine = chunk_files._zstd_context()
    assert chunk_files._zstd_context() is mine
    with ThreadPoolExecutor(1) as pool:
        other = weakref.ref(pool.submit(chunk_files._zstd_context).result())
        assert other() is not mine
        assert other() is not None
    assert other() is None


THREADS = """
import sys, threading
import numpy as np, zarr
from streamloss.direct import open_direct

array = zarr.open_array(sys.argv[1], mode="r")
region = tuple(slice(0, size) for size in array.shape)
start = threading.Barrier(16)

def read():
    reader = open_direct(array)
    out = np.empty(array.shape, array.dtype)
    start.wait()
    for _ in range(3):
        reader.read(region, out)
    assert (out == array[...]).all()

threads = [threading.Thread(target=read) for _ in range(16)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print("done")
"""


def test_threads_that_decode_first_at_once_keep_their_decompressors(tmp_path):
    made(tmp_path, (480, 16, 16), (4, 16, 16), codec=ZstdCodec())
    done = subprocess.run([sys.executable, "-c", THREADS, tmp_path], capture_output=True, text=True)
    assert done.stdout == "done\n", done.stderr


def test_frames_that_do_not_tell_their_size_are_read(tmp_path):
    import zstandard

    array = made(tmp_path, (8, 4), (4, 4), codec=ZstdCodec())
    voxels = array[...]
    for number in range(2):
        part = voxels[4 * number : 4 * number + 4].tobytes()
        chunk = tmp_path / "c" / str(number) / "0"
        unsized = zstandard.ZstdCompressor(write_content_size=False).compress(part)
        two = numcodecs.Zstd().encode(part[:20]) + numcodecs.Zstd().encode(part[20:])
        chunk.write_bytes([unsized, bytes(two)][number])
    reader = open_direct(array)
    for _ in range(2):
        assert (read(reader, (slice(0, 8), slice(0, 4))) == voxels).all()
