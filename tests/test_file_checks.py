"""What zarr-python and TensorStore overlook in the files of an array is refused all the same."""

import importlib.util
import itertools
import os
import shutil
import socket
import zipfile
from pathlib import Path
from typing import Any

import numcodecs
import numpy as np
import pytest
import zarr
import zstandard
from zarr.codecs import (
    BloscCodec,
    BytesCodec,
    Crc32cCodec,
    GzipCodec,
    ShardingCodec,
    TransposeCodec,
    ZstdCodec,
)
from zarr.core.buffer.cpu import Buffer
from zarr.storage import LocalStore, MemoryStore, StorePath

from streamloss.errors import ReadError
from streamloss.scoring import score
from streamloss.shard_index import ShardIndexes
from streamloss.stores import open_volume
from tests.store_suite import CHUNKS, DAMAGES, counts, read, voxels

needs_tensorstore = pytest.mark.skipif(
    importlib.util.find_spec("tensorstore") is None, reason="tensorstore is not installed"
)
READERS = ["direct", "zarr", pytest.param("tensorstore", marks=needs_tensorstore)]


def sharding(**options: Any) -> dict[str, Any]:
    """Settings of an array of one chunk a shard, whose index has no checksum."""
    codec = ShardingCodec(
        chunk_shape=CHUNKS, codecs=[BytesCodec(), *options.values()], index_codecs=[BytesCodec()]
    )
    return {"serializer": codec, "compressors": None}


CODECS: dict[str, dict[str, Any]] = {
    "none": {"compressors": None},
    "zstd": {"compressors": ZstdCodec()},
    "zstd with a checksum": {"compressors": ZstdCodec(checksum=True)},
    "gzip": {"compressors": GzipCodec(level=1)},
    "blosc": {"compressors": BloscCodec()},
    "crc32c": {"compressors": Crc32cCodec()},
    "zstd, crc32c": {"compressors": [ZstdCodec(), Crc32cCodec()]},
    "crc32c, zstd": {"compressors": [Crc32cCodec(), ZstdCodec()]},
    "gzip, zstd": {"compressors": [GzipCodec(level=1), ZstdCodec()]},
    "zstd, gzip": {"compressors": [ZstdCodec(), GzipCodec(level=1)]},
    "gzip, crc32c": {"compressors": [GzipCodec(level=1), Crc32cCodec()]},
    "zstd, blosc": {"compressors": [ZstdCodec(), BloscCodec(typesize=1)]},
    "shards": sharding(),
    "shards of gzip, zstd": sharding(inner=GzipCodec(level=1), outer=ZstdCodec()),
    "shards of zstd": sharding(codec=ZstdCodec()),
    "shards of gzip": sharding(codec=GzipCodec(level=1)),
    "shards of blosc": sharding(codec=BloscCodec(typesize=2, shuffle="shuffle")),
    "shards of crc32c": sharding(codec=Crc32cCodec()),
}
for version_2 in (
    None,
    numcodecs.Zstd(1),
    numcodecs.GZip(1),
    numcodecs.Zlib(1),
    numcodecs.BZ2(1),
    numcodecs.Blosc("lz4"),
):
    CODECS[f"{version_2} of v2"] = {"compressors": version_2, "zarr_format": 2}


@needs_tensorstore
@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
@pytest.mark.parametrize("codec", CODECS)
def test_chunks_that_tensorstore_reads_end_where_they_should(tmp_path, codec, damage):
    zarr.create_array(tmp_path / "a", data=voxels(), chunks=CHUNKS, **CODECS[codec])
    volume = open_volume(tmp_path / "a", role="truth", reader="tensorstore")
    assert (read(volume) == voxels()).all()
    last = max(path for path in (tmp_path / "a").rglob("*") if path.name[0].isdigit())
    content = last.read_bytes()
    if "shards" in codec:
        chunk = damage(content[:-16])
        last.write_bytes(chunk + np.array([0, len(chunk)], "<u8").tobytes())
    else:
        last.write_bytes(damage(content))
    with pytest.raises(ReadError, match=r"cannot read chunk \(2, 2, 2\) of '.*a'"):
        read(volume)


@needs_tensorstore
def test_zstd_frames_that_tell_their_size_or_not_fill_the_chunk_that_tensorstore_reads(tmp_path):
    zarr.create_array(
        tmp_path / "a.zarr", shape=(300,), chunks=(300,), dtype="u1", compressors=ZstdCodec()
    )
    plain = np.random.default_rng(0).integers(0, 256, 300, np.uint8).tobytes()
    told, untold = (
        [
            zstandard.ZstdCompressor(write_content_size=known).compress(part)
            for part in (plain, plain[:100], plain + b"x", b"")
        ]
        for known in (True, False)
    )
    path = tmp_path / "a.zarr/c/0"
    path.parent.mkdir()
    volume = open_volume(tmp_path / "a.zarr", role="truth", reader="tensorstore")
    # Of several frames with voxels, TensorStore reads the first.
    for good in (told[0], untold[0], told[0] + told[3]):
        path.write_bytes(good)
        assert read(volume).tobytes() == plain
    for bad in (2 * told[0], 2 * untold[0], told[1], untold[1], told[2], untold[2]):
        path.write_bytes(bad)
        with pytest.raises(ReadError) as caught:
            read(volume)
        start = f"cannot read chunk (0,) of '{tmp_path}/a.zarr', stored under 'c/0': it decodes to"
        assert str(caught.value).startswith(start)


@needs_tensorstore
def test_a_file_far_too_large_is_not_read(tmp_path):
    zarr.create_array(tmp_path, data=voxels(), chunks=CHUNKS, compressors=ZstdCodec())
    with (tmp_path / "c/1/0/2").open("r+b") as file:
        file.truncate(2**40)
    volume = open_volume(tmp_path, role="truth", reader="tensorstore")
    with pytest.raises(ReadError, match=r"1,099,511,627,776 bytes, expected at most 66,"):
        read(volume)


@needs_tensorstore
@pytest.mark.parametrize("shards", [None, (10, 16, 12)])
def test_what_is_not_stored_is_fill_to_tensorstore(tmp_path, shards):
    array = zarr.create_array(
        tmp_path, shape=voxels().shape, chunks=CHUNKS, shards=shards, dtype="u2", fill_value=7
    )
    array[:5, :8, :6] = 1
    volume = open_volume(tmp_path, role="truth", reader="tensorstore")
    assert (read(volume) == array[...]).all()


def sharded(path: Path, *, start: bool, checksum: bool) -> zarr.Array:
    """Write one shard of 4 chunks, the last of which is not stored."""
    array = zarr.create_array(
        path,
        shape=(8, 6),
        chunks=(8, 6),
        dtype="u1",
        compressors=None,
        serializer=ShardingCodec(
            chunk_shape=(2, 6),
            codecs=[BytesCodec()],
            index_codecs=[BytesCodec(), *[Crc32cCodec()] * checksum],
            index_location="start" if start else "end",
        ),
    )
    array[:6] = np.arange(1, 37).reshape(6, 6)
    return array


def shard(chunks: bytes, places: list[int], *, start: bool, checksum: bool) -> bytes:
    """Join chunks of 12 bytes and an index that says where some are, -1 for one not stored."""
    size = 16 * len(places) + 4 * checksum
    empty = 2**64 - 1
    index = np.array(
        [(empty, empty) if place < 0 else (place + size * start, 12) for place in places], "<u8"
    ).tobytes()
    if checksum:
        index = numcodecs.CRC32C(location="end").encode(index).tobytes()
    return index + chunks if start else chunks + index


@pytest.mark.parametrize("checksum", [False, True])
@pytest.mark.parametrize("start", [False, True])
@pytest.mark.parametrize("reader", READERS)
def test_a_shard_ends_where_its_last_chunk_or_its_index_does(tmp_path, reader, start, checksum):
    array = sharded(tmp_path, start=start, checksum=checksum)
    path = tmp_path / "c/0/0"
    expected = array[...]
    whole = path.read_bytes()
    kind = {"start": start, "checksum": checksum}
    chunks = expected[:6].tobytes()
    places = [0, 12, 24, -1]
    assert shard(chunks, places, **kind) == whole
    gap = b"of no use"
    turned = chunks[24:] + chunks[:24]
    # Chunks may be in any order, and have been moved elsewhere within the shard.
    for good, its_places in (
        (turned, [12, 24, 0, -1]),
        (gap + chunks, [9, 21, 33, -1]),
        (chunks[:12] + gap + chunks[12:], [0, 21, 33, -1]),
    ):
        path.write_bytes(shard(good, its_places, **kind))
        assert (read(open_volume(tmp_path, role="truth", reader=reader)) == expected).all()
    path.write_bytes(shard(b"", [-1] * 4, **kind))
    assert not read(open_volume(tmp_path, role="truth", reader=reader)).any()
    for bad in (
        b"",
        whole[:-1],
        whole + whole,
        whole + b"1",
        whole + bytes(16),
        shard(chunks + gap, places, **kind),
        shard(chunks + whole, places, **kind),
        shard(gap, [-1] * 4, **kind),
        shard(turned, [12, -1, 0, -1], **kind),
    ):
        path.write_bytes(bad)
        volume = open_volume(tmp_path, role="truth", reader=reader)
        with pytest.raises(ReadError, match=r"chunk \(0, 0\) of .* stored under 'c/0/0': "):
            read(volume)


@pytest.mark.parametrize("checksum", [False, True])
@pytest.mark.parametrize("start", [False, True])
def test_a_shard_in_any_store_ends_where_its_chunks_or_its_index_do(tmp_path, start, checksum):
    expected = sharded(tmp_path, start=start, checksum=checksum)[...]
    whole = (tmp_path / "c/0/0").read_bytes()
    kind = {"start": start, "checksum": checksum}
    store = MemoryStore()
    store._store_dict["zarr.json"] = Buffer.from_bytes((tmp_path / "zarr.json").read_bytes())
    volume = open_volume(zarr.open_array(store), role="truth")
    assert (read(volume) == 0).all()
    for good in (whole, shard(b"", [-1] * 4, **kind)):
        store._store_dict["c/0/0"] = Buffer.from_bytes(good)
        assert (read(volume) == (expected if good == whole else 0)).all()
    for bad in (
        b"",
        whole[:-1],
        whole[:10],
        whole + whole,
        whole + b"1",
        b"\xff" * len(whole),
        shard(b"of no use", [-1] * 4, **kind),
    ):
        store._store_dict["c/0/0"] = Buffer.from_bytes(bad)
        with pytest.raises(ReadError, match=r"chunk \(., 0\) of 'memory:/', stored under 'c/0/0'"):
            read(volume)
    for bad in (b"", whole[:10], b"\xff" * len(whole)):
        store._store_dict["c/0/0"] = Buffer.from_bytes(bad)
        with pytest.raises(ReadError, match=r"chunk \(2, 0\) of .* under 'c/0/0': "):
            read(volume, (slice(5, 7), slice(2, 3)))
    store._store_dict["c/0/0"] = Buffer.from_bytes(shard(b"", [-1] * 4, **kind))
    assert not read(volume, (slice(5, 7), slice(2, 3))).any()


@pytest.mark.filterwarnings("ignore:Combining a `sharding_indexed` codec")
@pytest.mark.parametrize("checksum", [False, True])
@pytest.mark.parametrize("reader", READERS[1:])
def test_a_shard_under_a_transpose_ends_where_its_index_does(tmp_path, reader, checksum):
    index_codecs = [BytesCodec(), *[Crc32cCodec()] * checksum]
    codec = ShardingCodec(chunk_shape=(2, 2), codecs=[BytesCodec()], index_codecs=index_codecs)
    zarr.create_array(
        tmp_path,
        data=np.arange(48, dtype="u1").reshape(8, 6),
        chunks=(8, 6),
        filters=[TransposeCodec(order=(1, 0))],
        serializer=codec,
        compressors=None,
    )
    volume = open_volume(tmp_path, role="truth", reader=reader)
    assert (read(volume).ravel() == np.arange(48)).all()
    path = tmp_path / "c/0/0"
    whole = path.read_bytes()
    for bad in (b"", whole[:-1], whole + whole, b"\xff" * len(whole)):
        path.write_bytes(bad)
        with pytest.raises(ReadError, match=r"chunk \(0, 0\) of .* stored under 'c/0/0': "):
            read(volume)


def test_an_empty_shard_in_a_zip_file_is_an_error_not_fill(tmp_path):
    truth = np.ones((16, 8), "u1")
    zarr.create_array(tmp_path / "a", data=truth, chunks=(4, 4), shards=(8, 8))
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as file:
        file.write(tmp_path / "a/zarr.json", "zarr.json")
        file.write(tmp_path / "a/c/0/0", "c/0/0")
        file.writestr("c/1/0", b"")
    with pytest.raises(ReadError, match=r"chunk \(2, 0\) of .* under 'c/1/0': it is empty"):
        score(truth, tmp_path / "a.zip", metrics="accuracy", classes=[0, 1], missing="error")


def test_codecs_of_an_array_that_is_given_stay_as_they_are():
    for version, codec in ((2, numcodecs.GZip(1)), (3, GzipCodec(level=1))):
        array = zarr.create_array(
            MemoryStore(), data=voxels(), chunks=CHUNKS, compressors=codec, zarr_format=version
        )
        assert (read(open_volume(array, role="truth")) == voxels()).all()
        (kept,) = array.compressors
        assert type(getattr(kept, "_gzip_codec", kept)) is numcodecs.GZip


PLACES: dict[str, dict[str, Any]] = {
    "bz2 of v2": {"compressors": numcodecs.BZ2(1), "zarr_format": 2},
    "plain": {"compressors": None},
    "blosc": {"compressors": BloscCodec()},
    "zstd": {"compressors": ZstdCodec()},
    "shards": {"shards": (5, 8, 6)},
}


@pytest.mark.parametrize("what", ["folder", "pipe", "socket", "link to nowhere", "empty file"])
@pytest.mark.parametrize("codec", PLACES)
@pytest.mark.parametrize("reader", ["auto", *READERS[1:]])
def test_what_is_no_chunk_in_the_place_of_one_is_an_error_not_fill(
    tmp_path, monkeypatch, reader, codec, what
):
    zarr.create_array(tmp_path / "a", data=voxels(), chunks=CHUNKS, **PLACES[codec])
    volume = open_volume(tmp_path / "a", role="truth", reader=reader)
    path = tmp_path / "a" / ("2.2.2" if "v2" in codec else "c/2/2/2")
    path.unlink()
    if what == "folder":
        path.mkdir()
        assert counts(volume) == (27, 27)
    elif what == "pipe":
        os.mkfifo(path)
    elif what == "socket":
        # A longer path than this takes cannot be bound.
        monkeypatch.chdir(path.parent)
        with socket.socket(socket.AF_UNIX) as bound:
            bound.bind(path.name)
    elif what == "link to nowhere":
        path.symlink_to("annex")
    else:
        path.write_bytes(b"")
    with pytest.raises(ReadError, match=r"chunk \(2, 2, 2\) of"):
        read(volume)


@pytest.mark.parametrize("at", ["c", "c/1", "c/1/2"])
@pytest.mark.parametrize("reader", READERS)
def test_a_file_in_the_place_of_a_folder_of_chunks_is_an_error_not_fill(tmp_path, reader, at):
    array = zarr.create_array(tmp_path / "a", data=voxels(), chunks=CHUNKS)
    # Neither a chunk nor a folder of them.
    for name in ("c/3", "c/1/01", "c/1/2.partial", "d"):
        (tmp_path / "a" / name).write_bytes(b"no chunk")
    volume = open_volume(tmp_path / "a", role="truth", reader=reader)
    assert (read(volume) == array[...]).all()
    assert counts(volume) == (27, 27)
    shutil.rmtree(tmp_path / "a" / at)
    (tmp_path / "a" / at).write_bytes(b"no folder")
    volume = open_volume(tmp_path / "a", role="truth", reader=reader)
    if reader != "direct":
        assert counts(volume) == (27, 27)
    with pytest.raises(ReadError, match=r"chunks? .*a'.*: NotADirectoryError"):
        read(volume)


SOURCES = ["path", "array", "store", "place in a store"]


@pytest.mark.parametrize(
    ("reader", "source"),
    [
        *itertools.product(["auto", "zarr"], SOURCES),
        pytest.param("tensorstore", "path", marks=needs_tensorstore),
    ],
)
@pytest.mark.parametrize("damage", [False, True])
def test_files_are_those_of_the_folder_the_array_was_opened_in(
    tmp_path, monkeypatch, reader, source, damage
):
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    zarr.create_array(
        "g/a", data=voxels(), chunks=CHUNKS, zarr_format=2, compressors=numcodecs.BZ2(1)
    )
    sources = {
        "path": "g/a",
        "array": zarr.open_array("g/a", mode="r"),
        "store": LocalStore("g/a", read_only=True),
        "place in a store": StorePath(LocalStore("g", read_only=True), "a"),
    }
    volume = open_volume(sources[source], role="truth", reader=reader)
    monkeypatch.chdir("elsewhere")
    assert counts(volume) == (27, 27)
    if damage:
        (tmp_path / "g/a/2.2.2").write_bytes(b"")
        with pytest.raises(ReadError, match=r"chunk \(2, 2, 2\)"):
            read(volume)
    else:
        assert (read(volume) == voxels()).all()


# One shard; more than a thread keeps the indexes of, for which `direct` reads them again.
@pytest.mark.parametrize("extent", [(15, 24, 18), (5, 16, 6)])
@pytest.mark.parametrize("reader", READERS)
def test_an_index_is_read_once_however_many_chunks_are(tmp_path, reader, extent, monkeypatch):
    zarr.create_array(tmp_path, data=voxels(), chunks=CHUNKS, shards=extent)
    shards = 1 if extent == (15, 24, 18) else 18
    volume = open_volume(tmp_path, role="truth", reader=reader)
    indexes: list[int] = []
    read_index = ShardIndexes._read

    def counted(self: ShardIndexes, file: int, size: int) -> Any:
        indexes.append(size)
        return read_index(self, file, size)

    monkeypatch.setattr(ShardIndexes, "_read", counted)
    read(volume)
    assert len(indexes) == shards
    if reader == "zarr" or shards == 1:
        for _ in range(3):
            read(volume)
        assert len(indexes) == shards


@pytest.mark.parametrize("reader", ["zarr", pytest.param("tensorstore", marks=needs_tensorstore)])
def test_the_chunk_named_is_the_first_of_a_shard_that_is_read(tmp_path, reader):
    zarr.create_array(tmp_path, data=voxels(), chunks=CHUNKS, shards=(10, 16, 12))
    path = tmp_path / "c/0/1/1"
    path.write_bytes(2 * path.read_bytes())
    volume = open_volume(tmp_path, role="truth", reader=reader)
    region = (slice(6, 9), slice(10, 20), slice(2, 17))
    with pytest.raises(ReadError, match=r"chunk \(1, 2, 2\) of .* stored under 'c/0/1/1': the ch"):
        read(volume, region)
