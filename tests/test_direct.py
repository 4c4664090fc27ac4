"""The direct reader returns the bytes that zarr-python returns, or refuses."""

import math
import os
import pickle
import resource
import shutil
import tracemalloc
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numcodecs
import numpy as np
import pytest
import zarr
import zarr.codecs.numcodecs
import zstandard
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from zarr.codecs import (
    BloscCodec,
    BytesCodec,
    Crc32cCodec,
    GzipCodec,
    ShardingCodec,
    TransposeCodec,
    ZstdCodec,
)
from zarr.storage import LocalStore, MemoryStore

from streamloss import chunk_files, direct, zarr_codecs
from streamloss.direct import DirectReader, open_direct
from streamloss.errors import ReadError

pytestmark = pytest.mark.filterwarnings("ignore:Numcodecs codecs are not in the Zarr version 3")

DTYPES = ["bool", "i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", "f2", "f4", "f8"]
COMPRESSORS_V2 = [
    None,
    numcodecs.Zstd(level=0),
    numcodecs.Zstd(level=3, checksum=True),
    numcodecs.Blosc("lz4", 5, numcodecs.Blosc.SHUFFLE),
    numcodecs.Blosc("zstd", 5, numcodecs.Blosc.BITSHUFFLE),
    numcodecs.Blosc("blosclz", 0, numcodecs.Blosc.NOSHUFFLE),
    numcodecs.GZip(5),
    numcodecs.Zlib(1),
    numcodecs.LZ4(),
]
CHECKSUMS_V2 = [
    numcodecs.CRC32(),
    numcodecs.CRC32(location="end"),
    numcodecs.CRC32C(),
    numcodecs.CRC32C(location="start"),
    numcodecs.Adler32(),
    numcodecs.Fletcher32(),
    numcodecs.JenkinsLookup3(),
]
COMPRESSORS_V3 = [
    ZstdCodec(level=0),
    ZstdCodec(level=3, checksum=True),
    BloscCodec(cname="lz4"),
    BloscCodec(cname="zstd", shuffle="bitshuffle"),
    GzipCodec(level=1),
    Crc32cCodec(),
]
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    SHUFFLE_V3 = zarr.codecs.numcodecs.Shuffle()
    COMPRESSORS_V3 += [
        zarr.codecs.numcodecs.Zlib(level=1),
        zarr.codecs.numcodecs.LZ4(),
        zarr.codecs.numcodecs.CRC32(),
        zarr.codecs.numcodecs.Adler32(),
    ]


def filters_v2(dtype: np.dtype[Any]) -> list[list[Any]]:
    """Filters of numcodecs that can encode `dtype`, each by itself."""
    found = [[], [numcodecs.Shuffle(dtype.itemsize)]]
    found += [[codec] for codec in CHECKSUMS_V2]
    if dtype.kind == "b":
        return [*found, [numcodecs.PackBits()]]
    found += [
        [numcodecs.Delta(dtype.str)],
        [numcodecs.Delta(dtype.str), numcodecs.Shuffle(dtype.itemsize), numcodecs.CRC32()],
        [numcodecs.FixedScaleOffset(offset=1, scale=2, dtype=dtype.str)],
        [numcodecs.AsType(encode_dtype="f8", decode_dtype=dtype.str)],
    ]
    if dtype.kind == "f":
        found += [[numcodecs.Quantize(digits=2, dtype=dtype.str)]]
        found += [[numcodecs.BitRound(4)]] if dtype.isnative else []
    return found


@st.composite
def arrays(draw: st.DrawFn, path: Path) -> zarr.Array:
    """Write an array that the direct reader covers, some of its chunks missing."""
    ndim = draw(st.integers(1, 3))
    shape = tuple(draw(st.integers(1, 9)) for _ in range(ndim))
    chunks = tuple(draw(st.integers(1, 5)) for _ in range(ndim))
    order = draw(st.sampled_from("<>"))
    dtype = np.dtype(draw(st.sampled_from(DTYPES))).newbyteorder(order)
    fill_value = draw(st.sampled_from([0, 1, 1, 1]))
    rng = np.random.default_rng(draw(st.integers(0, 99)))
    settings: dict[str, Any] = {
        "store": LocalStore(path),
        "name": draw(st.sampled_from(["", "group/array"])) or None,
        "shape": shape,
        "chunks": chunks,
        "fill_value": fill_value,
        "overwrite": True,
        "config": {"write_empty_chunks": draw(st.booleans())},
    }
    if draw(st.booleans()):
        array = zarr.create_array(
            **{**settings, "fill_value": draw(st.sampled_from([None, fill_value]))},
            dtype=dtype,
            zarr_format=2,
            order=draw(st.sampled_from("CF")),
            filters=draw(st.sampled_from(filters_v2(dtype))) or None,
            compressors=draw(st.sampled_from(COMPRESSORS_V2)),
            chunk_key_encoding={"name": "v2", "separator": draw(st.sampled_from("./"))},
        )
    else:
        settings["dtype"] = dtype.newbyteorder("=")
        serializer: Any = BytesCodec(endian="little" if order == "<" else "big")
        compressors: Any = draw(st.lists(st.sampled_from(COMPRESSORS_V3), max_size=3))
        # It cannot encode what is no multiple of an element.
        compressors = [SHUFFLE_V3, *compressors] if draw(st.booleans()) else compressors
        filters = [
            TransposeCodec(order=draw(st.permutations(range(ndim))))
            for _ in range(draw(st.integers(0, 2)))
        ]
        if draw(st.booleans()):
            serializer = ShardingCodec(
                chunk_shape=chunks,
                codecs=[*filters, serializer, *compressors],
                index_codecs=[
                    BytesCodec(endian=draw(st.sampled_from(["little", "big"]))),
                    *draw(st.sampled_from([[Crc32cCodec()], []])),
                ],
                index_location=draw(st.sampled_from(["start", "end"])),
            )
            settings["chunks"] = tuple(size * draw(st.integers(1, 3)) for size in chunks)
            filters, compressors = [], None
        elif not filters and order == "<" and dtype.kind != "b" and draw(st.booleans()):
            native = dtype.newbyteorder("=").str
            filters = [
                draw(
                    st.sampled_from(
                        [
                            zarr.codecs.numcodecs.Delta(dtype=native),
                            zarr.codecs.numcodecs.FixedScaleOffset(offset=1, scale=2, dtype=native),
                        ]
                    )
                )
            ]
        array = zarr.create_array(
            **settings,
            zarr_format=3,
            filters=filters or None,
            serializer=serializer,
            compressors=compressors or None,
            chunk_key_encoding={
                "name": draw(st.sampled_from(["default", "v2"])),
                "separator": draw(st.sampled_from("./")),
            },
        )
    values = rng.integers(0, 2 if dtype.kind == "b" else 100, shape).astype(dtype)
    for _ in range(draw(st.integers(0, 3))):
        box = tuple(slice(*sorted(rng.integers(0, size + 1, 2))) for size in shape)
        array[box] = values[box]
    if draw(st.booleans()):
        array[...] = values
    return zarr.open_array(array.store, path=array.path, mode="r")


def regions(shape: tuple[int, ...]) -> st.SearchStrategy[tuple[slice, ...]]:
    return st.tuples(
        *(
            st.integers(0, size - 1).flatmap(
                lambda start, size=size: st.integers(start + 1, size).map(
                    lambda stop: slice(start, stop)
                )
            )
            for size in shape
        )
    )


def read(reader: DirectReader, region: tuple[slice, ...], dtype: Any) -> np.ndarray:
    shape = tuple(part.stop - part.start for part in region)
    out = np.full(math.prod(shape) * np.dtype(dtype).itemsize, 0xA5, np.uint8)
    out = out.view(np.dtype(dtype).newbyteorder("=")).reshape(shape)
    reader.read(region, out)
    return out


def everything(array: zarr.Array) -> tuple[slice, ...]:
    return tuple(slice(0, size) for size in array.shape)


def native(array: Any) -> np.ndarray:
    array = np.asarray(array)
    return array.astype(array.dtype.newbyteorder("="))


@settings(deadline=None, max_examples=300, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_reads_the_bytes_that_zarr_python_reads(data, tmp_path_factory):
    array = data.draw(arrays(tmp_path_factory.mktemp("zarr")))
    reader = open_direct(array)
    assert reader is not None
    expected = native(array[...])
    for region in [everything(array), data.draw(regions(array.shape))]:
        got = read(reader, region, array.dtype)
        assert got.tobytes() == expected[region].tobytes()
    # Strided and transposed destinations, and the chunks one by one.
    out = np.zeros(array.shape[::-1], expected.dtype).T
    reader.read(everything(array), out)
    assert out.tobytes() == expected.tobytes()
    wide = np.zeros((*array.shape, 2), expected.dtype)[..., 1]
    reader.read(everything(array), wide)
    assert wide.tobytes() == expected.tobytes()
    grid = tuple(-(-s // c) for s, c in zip(array.shape, array.chunks, strict=True))
    for index in np.ndindex(grid):
        box = tuple(
            slice(i * c, min((i + 1) * c, s))
            for i, c, s in zip(index, array.chunks, array.shape, strict=True)
        )
        assert read(reader, box, array.dtype).tobytes() == expected[box].tobytes()


@settings(deadline=None, max_examples=100, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_knows_what_is_stored(data, tmp_path_factory):
    array = data.draw(arrays(tmp_path_factory.mktemp("zarr")))
    reader = open_direct(array)
    assert reader.object_shape == (array.shards or array.chunks)
    root = array.store.root / array.path
    for index in np.ndindex(reader.stored().shape):
        key = array.metadata.encode_chunk_key(index)
        assert reader.stored()[index] == (root / key).is_file()


def objects(array: zarr.Array) -> list[tuple[tuple[int, ...], Path]]:
    root = array.store.root / array.path
    found = []
    for index in np.ndindex(open_direct(array).stored().shape):
        path = root / array.metadata.encode_chunk_key(index)
        if path.is_file():
            found.append((index, path))
    return found


@settings(deadline=None, max_examples=300, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_never_reads_a_damaged_file_as_data(data, tmp_path_factory):
    array = data.draw(arrays(tmp_path_factory.mktemp("zarr")))
    found = objects(array)
    assume(found)
    _, path = data.draw(st.sampled_from(found))
    whole = path.read_bytes()
    damage = data.draw(st.sampled_from(["empty", "truncated", "oversized"]))
    if damage == "empty":
        path.write_bytes(b"")
    elif damage == "truncated":
        path.write_bytes(whole[: data.draw(st.integers(0, len(whole) - 1))])
    else:
        more = data.draw(st.integers(1, 40))
        path.write_bytes(whole + data.draw(st.sampled_from([b"\0", b"\xff", b"a"])) * more)
    with pytest.raises(ReadError, match=f"'{array.store.root / array.path}'"):
        read(open_direct(array), everything(array), array.dtype)


def checked(path: Path, *, sharded: bool) -> zarr.Array:
    """Write 4 chunks of 6 x 6 voxels, one of them missing, under crc32c."""
    serializer: Any = BytesCodec()
    compressors: Any = [ZstdCodec(), Crc32cCodec()]
    if sharded:
        serializer = ShardingCodec(chunk_shape=(2, 6), codecs=[serializer, *compressors])
        compressors = None
    array = zarr.create_array(
        path,
        shape=(10, 10),
        chunks=(6, 6),
        dtype="i2",
        fill_value=7,
        serializer=serializer,
        compressors=compressors,
    )
    array[:, :6] = np.arange(60).reshape(10, 6)
    array[:6, 6:] = 1
    return array


@pytest.mark.parametrize("sharded", [False, True])
def test_a_flipped_byte_under_crc32c_is_an_error_wherever_it_is(tmp_path, sharded):
    array = checked(tmp_path / "a.zarr", sharded=sharded)
    path = array.store.root / "c/0/0"
    whole = path.read_bytes()
    for position in range(len(whole)):
        flipped = bytearray(whole)
        flipped[position] ^= 1 << position % 8
        path.write_bytes(flipped)
        with pytest.raises(ReadError, match=r"cannot read chunk \(\d, 0\) of .*a\.zarr.*'c/0/0': "):
            read(open_direct(array), everything(array), "i2")


@pytest.mark.parametrize("sharded", [False, True])
def test_an_error_names_array_chunk_key_and_cause(tmp_path, sharded):
    array = checked(tmp_path, sharded=sharded)
    reader = open_direct(array, "my.zarr")
    path = tmp_path / "c/1/0"
    whole = path.read_bytes()
    path.write_bytes(whole[:10] + bytes([whole[10] ^ 1]) + whole[11:])
    chunk = (3, 0) if sharded else (1, 0)
    with pytest.raises(ReadError) as raised:
        read(reader, (slice(7, 8), slice(1, 2)), "i2")
    start = f"cannot read chunk {chunk} of 'my.zarr', stored under 'c/1/0': its crc32c is "
    assert str(raised.value).startswith(start)
    assert "\n" not in str(raised.value)
    # The other chunks are as good as ever, those of the same shard included.
    assert read(reader, (slice(0, 6), slice(0, 8)), "i2")[5, 0] == 30
    if sharded:
        assert read(reader, (slice(9, 10), slice(1, 2)), "i2") == 55


@pytest.mark.parametrize("sharded", [False, True])
def test_a_chunk_that_vanishes_after_listing_is_an_error(tmp_path, sharded):
    array = checked(tmp_path, sharded=sharded)
    reader = open_direct(array)
    assert reader.stored().tolist() == [[True, True], [True, False]]
    (tmp_path / "c/0/1").unlink()
    with pytest.raises(ReadError, match="FileNotFoundError"):
        read(reader, everything(array), "i2")


def test_a_link_to_nowhere_is_an_error_not_fill(tmp_path):
    array = checked(tmp_path, sharded=False)
    (tmp_path / "c/1/1").symlink_to(tmp_path / "annex")
    with pytest.raises(ReadError, match=r"chunk \(1, 1\)"):
        read(open_direct(array), everything(array), "i2")


def test_a_folder_that_is_gone_is_an_error_not_fill(tmp_path):
    array = checked(tmp_path / "a.zarr", sharded=False)
    reader = open_direct(array)
    (tmp_path / "a.zarr").rename(tmp_path / "b.zarr")
    with pytest.raises(ReadError, match=r"cannot list the chunks of .*a\.zarr"):
        reader.stored()


@pytest.mark.parametrize("separator", [".", "/"])
def test_other_files_are_no_chunks(tmp_path, separator):
    array = zarr.create_array(
        tmp_path,
        shape=(4, 4),
        chunks=(2, 2),
        dtype="u1",
        zarr_format=2,
        fill_value=7,
        chunk_key_encoding={"name": "v2", "separator": separator},
    )
    for name in ("0/01", "2/0", "0/1.partial", "1/x", "0.1.partial", "00.0", "0.0.0", "9.9", "٣.0"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"no chunk")
    assert not open_direct(array).stored().any()
    assert (read(open_direct(array), everything(array), "u1") == array.fill_value).all()


@pytest.mark.parametrize("sharded", [False, True])
@pytest.mark.parametrize("kind", ["a folder", "no file"])
def test_what_is_no_file_in_the_place_of_a_chunk_is_an_error_not_fill(tmp_path, sharded, kind):
    array = checked(tmp_path, sharded=sharded)
    path = tmp_path / "c/0/0"
    path.unlink(missing_ok=True)
    path.mkdir() if kind == "a folder" else os.mkfifo(path)
    with pytest.raises(ReadError, match=rf"'c/0/0': what is stored there is {kind}"):
        read(open_direct(array), everything(array), "i2")


@pytest.mark.parametrize("at", ["c", "c/1"])
def test_a_folder_that_links_to_nowhere_is_an_error_not_fill(tmp_path, at):
    array = checked(tmp_path, sharded=False)
    shutil.rmtree(tmp_path / at, ignore_errors=True)
    (tmp_path / at).symlink_to(tmp_path / "unmounted")
    with pytest.raises(ReadError, match="cannot list the chunks"):
        open_direct(array).stored()


def test_a_reader_takes_its_list_of_chunks_along(tmp_path, monkeypatch):
    array = checked(tmp_path, sharded=False)
    reader = open_direct(array)
    stored = reader.stored()
    monkeypatch.setattr(os, "listdir", None)
    assert (pickle.loads(pickle.dumps(reader)).stored() == stored).all()
    monkeypatch.setattr(direct, "_LARGEST_LIST", 0)
    with pytest.raises(TypeError):
        pickle.loads(pickle.dumps(reader)).stored()


def test_files_are_those_of_the_folder_the_array_was_opened_in(tmp_path, monkeypatch):
    checked(tmp_path / "here", sharded=False)
    (tmp_path / "elsewhere" / "here").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    array = zarr.open_array("here", mode="r")
    reader = open_direct(array)
    expected = array[...]
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert (read(reader, everything(array), "i2") == expected).all()


def test_unstored_chunks_are_not_opened(tmp_path, monkeypatch):
    array = checked(tmp_path, sharded=False)
    reader = open_direct(array)
    reader.stored()
    monkeypatch.setattr(os, "open", None)
    assert (read(reader, (slice(6, 10), slice(6, 10)), "i2") == 7).all()


@pytest.mark.parametrize("sharded", [False, True])
def test_pickles_and_serves_threads(tmp_path, sharded):
    array = zarr.create_array(
        tmp_path,
        data=np.random.default_rng(0).integers(0, 4, (64, 64, 64)).astype("u2"),
        chunks=(8, 8, 8),
        shards=(16, 16, 16) if sharded else None,
    )
    expected = array[...]
    reader = pickle.loads(pickle.dumps(open_direct(array)))

    def check(seed: int) -> None:
        rng = np.random.default_rng(seed)
        for _ in range(20):
            region = tuple(slice(*np.sort(rng.choice(65, 2, replace=False))) for _ in range(3))
            assert (read(reader, region, "u2") == expected[region]).all()

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(check, range(16)))


def test_a_rewritten_shard_is_read_by_its_new_index(tmp_path):
    array = checked(tmp_path, sharded=True)
    reader = open_direct(array)
    assert read(reader, (slice(0, 2), slice(0, 2)), "i2")[0, 1] == 1
    array[:6, :6] = np.random.default_rng(0).integers(0, 999, (6, 6))
    assert (read(reader, everything(array), "i2") == array[...]).all()


def zstd_frames(*parts: bytes) -> bytes:
    return b"".join(numcodecs.Zstd().encode(part) for part in parts)


def test_zstd_frames_of_any_kind_are_read_only_if_they_fill_the_chunk(tmp_path):
    array = zarr.create_array(
        tmp_path, shape=(300,), chunks=(300,), dtype="u1", compressors=ZstdCodec()
    )
    voxels = np.random.default_rng(0).integers(0, 256, 300, np.uint8)
    plain = voxels.tobytes()
    # One raw block in a frame that does not tell its size: window of 1 MiB, last block.
    unsized = b"\x28\xb5\x2f\xfd\x00\x50" + (300 << 3 | 1).to_bytes(3, "little") + plain
    skippable = b"\x50\x2a\x4d\x18\x03\x00\x00\x00abc"
    checked = numcodecs.Zstd(checksum=True).encode(plain)
    path = tmp_path / "c/0"
    path.parent.mkdir()
    for good in (
        zstd_frames(plain),
        checked,
        zstd_frames(plain[:100], plain[100:]),
        zstd_frames(plain, b""),
        unsized,
        skippable + zstd_frames(plain),
    ):
        path.write_bytes(good)
        assert read(open_direct(array), (slice(0, 300),), "u1").tobytes() == plain
    for bad in (
        zstd_frames(plain[:299]),
        zstd_frames(plain + b"x"),
        zstd_frames(plain, b"x"),
        zstd_frames(plain[:100], plain[:100]),
        unsized[:-1],
        b"\x28\xb5\x2f\xfd\x00\x50" + (299 << 3 | 1).to_bytes(3, "little") + plain[:299],
        skippable,
        b"\x28\xb5\x2f\xfd",
        # Decoding alone would be done before these ends.
        zstd_frames(plain) + b"\0",
        zstd_frames(plain) + zstd_frames(plain)[:9],
        checked[:-1],
        checked[:-4],
        checked[:-1] + bytes([checked[-1] ^ 1]),
    ):
        path.write_bytes(bad)
        with pytest.raises(ReadError):
            read(open_direct(array), (slice(0, 300),), "u1")


@pytest.mark.parametrize("codec", COMPRESSORS_V2[1:], ids=repr)
@pytest.mark.parametrize("size", [99, 101])
def test_a_chunk_of_another_size_is_refused(tmp_path, codec, size):
    array = zarr.create_array(
        tmp_path, shape=(100,), chunks=(100,), dtype="u1", zarr_format=2, compressors=codec
    )
    (tmp_path / "0").write_bytes(codec.encode(np.arange(size, dtype="u1")))
    with pytest.raises(ReadError, match=r"100|too small"):
        read(open_direct(array), (slice(0, 100),), "u1")


def test_streams_in_several_members_are_read(tmp_path):
    array = zarr.create_array(
        tmp_path,
        shape=(100,),
        chunks=(100,),
        dtype="u1",
        zarr_format=2,
        compressors=numcodecs.GZip(),
    )
    voxels = np.arange(100, dtype="u1")
    codec = numcodecs.GZip()
    (tmp_path / "0").write_bytes(codec.encode(voxels[:30]) + codec.encode(voxels[30:]))
    assert (read(open_direct(array), (slice(0, 100),), "u1") == voxels).all()


@settings(deadline=None, max_examples=60, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_reads_without_preadv_and_without_the_c_library(data, tmp_path_factory):
    array = data.draw(arrays(tmp_path_factory.mktemp("zarr")))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(chunk_files, "_read_at", chunk_files._seek_and_read)
        patch.setattr(chunk_files, "available", lambda: False)
        got = read(open_direct(array), everything(array), array.dtype)
    assert got.tobytes() == native(array[...]).tobytes()


@pytest.mark.filterwarnings("ignore:Combining a `sharding_indexed` codec")
def test_leaves_to_zarr_python_what_it_does_not_cover(tmp_path):
    def created(**arguments: Any) -> DirectReader | None:
        defaults = {"store": tmp_path, "shape": (4, 4), "chunks": (2, 2), "dtype": "f4"}
        return open_direct(zarr.create_array(**{**defaults, **arguments}, overwrite=True))

    assert created() is not None
    assert created(store=MemoryStore()) is None
    assert created(shape=(), chunks=()) is None
    assert created(dtype="complex64") is None
    assert created(dtype="M8[s]", fill_value=0) is None
    assert created(dtype="U3", zarr_format=2) is None
    assert created(compressors=numcodecs.LZMA(), zarr_format=2) is None
    assert created(compressors=numcodecs.BZ2(), zarr_format=2) is None
    assert created(filters=[numcodecs.Base64()], zarr_format=2) is None
    nested = ShardingCodec(
        chunk_shape=(2, 2), codecs=[ShardingCodec(chunk_shape=(1, 2), codecs=[BytesCodec()])]
    )
    assert created(serializer=nested, compressors=None) is None
    around = {"serializer": ShardingCodec(chunk_shape=(2, 2)), "compressors": ZstdCodec()}
    assert created(**around) is None
    indexed = ShardingCodec(chunk_shape=(2, 2), index_codecs=[BytesCodec(), *2 * [Crc32cCodec()]])
    assert created(serializer=indexed, compressors=None) is None
    assert created(shape=(2**20, 2**20)) is None


@pytest.mark.parametrize("sharded", [False, True])
@pytest.mark.parametrize("codec", COMPRESSORS_V2, ids=repr)
@pytest.mark.parametrize("kind", ["noise", "flat"])
def test_holds_no_more_than_it_says(tmp_path, codec, sharded, kind):
    noise = np.random.default_rng(0).integers(0, 256, (16 if sharded else 32,) * 3).astype("u1")
    filters = [[], [numcodecs.Delta("u1", "i4")], [numcodecs.CRC32()]]
    filters += [[numcodecs.FixedScaleOffset(offset=1, scale=2, dtype="u1", astype="f8")]]
    for number, chosen in enumerate(filters[:1] if sharded else filters):
        arguments: dict[str, Any] = {"zarr_format": 2, "filters": chosen, "compressors": codec}
        if sharded:
            arguments = {"shards": (16, 16, 16)}
        array = zarr.create_array(
            tmp_path / f"{number}",
            data=noise if kind == "noise" else noise // 128,
            chunks=(2, 2, 2) if sharded else (16, 32, 32),
            fill_value=9,
            **arguments,
        )
        reader = open_direct(array)
        reader.stored()
        region = (slice(1, 5),) * 3 if sharded else (slice(1, 32),) * 3
        out = np.empty([part.stop - part.start for part in region], "u1")

        def measure(reader=reader, region=region, out=out) -> int:
            tracemalloc.start()
            try:
                reader.read(region, out)
                return tracemalloc.get_traced_memory()[1]
            finally:
                tracemalloc.stop()

        # A thread of its own starts without buffers.
        with ThreadPoolExecutor(1) as pool:
            assert pool.submit(measure).result() <= reader.decode_bytes(region)


def test_blosc_starts_no_threads_and_keeps_the_choice_of_the_process(tmp_path, monkeypatch):
    array = zarr.create_array(
        tmp_path, data=np.arange(100, dtype="f4"), chunks=(50,), compressors=BloscCodec()
    )
    seen = []
    decode = numcodecs.blosc.Blosc.decode

    def record(self: Any, *arguments: Any) -> Any:
        seen.append(numcodecs.blosc.use_threads)
        return decode(self, *arguments)

    monkeypatch.setattr(chunk_files, "available", lambda: False)
    monkeypatch.setattr(numcodecs.blosc.Blosc, "decode", record)
    monkeypatch.setattr(numcodecs.blosc, "use_threads", None)
    read(open_direct(array), everything(array), "f4")
    assert seen == [False, False]
    assert numcodecs.blosc.use_threads is None


@pytest.mark.parametrize("size", [1, 255, 256, 65_791, 65_792, 300_000])
def test_frames_are_known_to_be_whole(size):
    voxels = np.random.default_rng(size).integers(0, 9, size).astype("u1")
    codec = numcodecs.Zstd(checksum=size % 2 == 0)
    frame = np.frombuffer(codec.encode(voxels), np.uint8)
    compressor = zstandard.ZstdCompressor(write_content_size=False)
    untold = np.frombuffer(compressor.compress(voxels.tobytes()), np.uint8)
    assert zarr_codecs.zstd_size(frame) == size
    assert zarr_codecs.zstd_size(np.concatenate([frame, frame])) == 2 * size
    assert zarr_codecs.zstd_size(np.concatenate([frame, untold])) is None
    lengths = {*range(min(frame.size, 40)), *range(0, frame.size, 997), frame.size - 1}
    broken = [frame[:length] for length in lengths]
    for bad in (*broken, np.append(frame, np.uint8(0)), np.zeros(40, np.uint8)):
        with pytest.raises(ValueError, match="no run of whole zstd frames"):
            zarr_codecs.zstd_size(bad)


def test_a_frame_that_decodes_to_far_more_is_refused_before_it_takes_memory(tmp_path):
    array = zarr.create_array(
        tmp_path, shape=(300,), chunks=(300,), dtype="u1", compressors=ZstdCodec()
    )
    # Blocks of one byte that is repeated 128 Ki times, in a frame that does not tell its size.
    block = (2**17 << 3 | 2).to_bytes(3, "little") + b"x"
    last = (2**17 << 3 | 3).to_bytes(3, "little") + b"x"
    path = tmp_path / "c/0"
    path.parent.mkdir()
    path.write_bytes(b"\x28\xb5\x2f\xfd\x00\x50" + 4000 * block + last)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ReadError, match="more than the 300 bytes expected"):
        read(open_direct(array), (slice(0, 300),), "u1")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000
