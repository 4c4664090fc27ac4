"""Every storage format reads what was written, and says clearly what it cannot read."""

import itertools
import json
import math
import pickle
import shutil
import subprocess
import sys
import tracemalloc
import warnings
from pathlib import Path
from typing import Any

import dask.array
import h5py
import numcodecs
import numpy as np
import pytest
import xarray
import zarr
from hypothesis import given, settings
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
from zarr.storage import MemoryStore, ZipStore

from streamloss.errors import InvalidInputError, ReadError
from streamloss.ome import read_levels
from streamloss.stores import open_volume
from tests.store_suite import CHUNKS, DAMAGES, SHAPE, VolumeTests, counts, read, voxels

AXES = [
    {"name": "z", "type": "space", "unit": "micrometer"},
    {"name": "y", "type": "space", "unit": "micrometer"},
    {"name": "x", "type": "space", "unit": "micrometer"},
]


def multiscales(version: str = "0.5", axes: Any = AXES, **image: Any) -> dict[str, Any]:
    """Attributes of an image of two levels with a scale around both."""
    content = {
        "axes": axes,
        "datasets": [
            {"path": path, "coordinateTransformations": [{"type": "scale", "scale": scale}]}
            for path, scale in (("0", [2.0, 1.0, 0.5]), ("1", [2.0, 2.0, 1.0]))
        ],
        "coordinateTransformations": [{"type": "scale", "scale": [1.0, 0.5, 0.5]}],
        **image,
    }
    if version == "0.5":
        return {"ome": {"version": "0.5", "multiscales": [content]}}
    return {"multiscales": [{**content, "version": version}]}


def write_image(path: Path, version: str = "0.5", **image: Any) -> zarr.Group:
    group = zarr.create_group(
        path,
        zarr_format=3 if version == "0.5" else 2,
        attributes=multiscales(version, **image),
    )
    group.create_array("0", data=voxels(), chunks=CHUNKS)
    group.create_array("1", data=voxels()[:, ::2, ::2].copy(), chunks=CHUNKS)
    return group


class TestZarrV3(VolumeTests):
    stored = (27, 27)
    fill_value = 0
    axes = ("a", "b", "c")
    spacing = (3.0, 0.9, 0.9)

    @pytest.fixture
    def source(self, tmp_path):
        path = tmp_path / "v3.zarr"
        zarr.create_array(
            path,
            data=voxels(),
            chunks=CHUNKS,
            dimension_names=self.axes,
            attributes={"spacing": [3, 0.9, 0.9]},
        )
        return path


class TestZarrV2(VolumeTests):
    stored = (27, 27)
    fill_value = 0
    axes = ("a", "b", "c")

    @pytest.fixture
    def source(self, tmp_path):
        return zarr.create_array(
            tmp_path / "v2.zarr",
            data=voxels(),
            chunks=CHUNKS,
            zarr_format=2,
            order="F",
            attributes={"_ARRAY_DIMENSIONS": list(self.axes)},
        )


class TestZarrSharded(VolumeTests):
    stored = (8, 8)
    fill_value = 0

    @pytest.fixture
    def source(self, tmp_path):
        path = tmp_path / "sharded.zarr"
        zarr.create_array(path, data=voxels(), chunks=CHUNKS, shards=(10, 16, 12))
        return str(path)


class TestZarrInMemory(VolumeTests):
    stored = (27, 27)
    fill_value = 0

    @pytest.fixture
    def source(self):
        store = MemoryStore()
        zarr.create_array(store, name="deep/inside", data=voxels(), chunks=CHUNKS)
        return zarr.open_array(store, path="deep/inside", mode="r")


class TestZarrByUrl(VolumeTests):
    stored = (27, 27)
    fill_value = 0

    @pytest.fixture
    def source(self, tmp_path):
        url = f"memory://{tmp_path}/v.zarr"
        zarr.create_array(url, data=voxels(), chunks=CHUNKS)
        return url


class TestZarrInZip(VolumeTests):
    stored = (27, 27)
    fill_value = 0

    @pytest.fixture
    def source(self, tmp_path):
        path = tmp_path / "v.zarr.zip"
        with ZipStore(path, mode="w") as store:
            zarr.create_array(store, data=voxels(), chunks=CHUNKS)
        return path


class TestZarrInZipByPath(TestZarrInZip):
    @pytest.fixture
    def source(self, tmp_path):
        path = tmp_path / "v.zarr.zip"
        with ZipStore(path, mode="w") as store:
            zarr.create_group(store).create_array("labels/organs", data=voxels(), chunks=CHUNKS)
        return path / "labels" / "organs"


class TestOmeZarr05(VolumeTests):
    stored = (27, 27)
    fill_value = 0
    axes = ("z", "y", "x")
    spacing = (2.0, 0.5, 0.25)
    unit = "micrometer"

    @pytest.fixture
    def source(self, tmp_path):
        write_image(tmp_path / "image.zarr")
        return tmp_path / "image.zarr"


class TestOmeZarr04(TestOmeZarr05):
    @pytest.fixture
    def source(self, tmp_path):
        return write_image(tmp_path / "image.zarr", "0.4")


class TestOmeZarrLevelByPath(TestOmeZarr05):
    @pytest.fixture
    def source(self, tmp_path):
        write_image(tmp_path / "image.zarr", "0.4")
        return str(tmp_path / "image.zarr" / "0")


class TestNumPy(VolumeTests):
    chunks = (1,) * 3

    @pytest.fixture
    def source(self):
        return voxels()


class TestBigEndianNumPy(TestNumPy):
    @pytest.fixture
    def source(self):
        return voxels().astype(">u2")


class TestMemmap(TestNumPy):
    @pytest.fixture
    def source(self, tmp_path):
        whole = np.memmap(tmp_path / "raw", ">u2", "w+", offset=5002, shape=(14, 20, 17, 2))
        whole[1:, ..., 1] = voxels()
        whole.flush()
        return whole[1:, ..., 1]

    def test_pickle_holds_no_voxels(self, volume):
        assert len(pickle.dumps(volume)) < voxels().nbytes


class TestDask(VolumeTests):
    @pytest.fixture
    def source(self):
        return dask.array.from_array(voxels(), chunks=CHUNKS)


class TestXarray(VolumeTests):
    axes = ("z", "y", "x")

    @pytest.fixture
    def source(self):
        return xarray.DataArray(
            dask.array.from_array(voxels(), chunks=CHUNKS), dims=("z", "y", "x")
        )


class TestH5py(VolumeTests):
    pickles = False

    @pytest.fixture
    def source(self, tmp_path):
        with h5py.File(tmp_path / "v.h5", "w") as file:
            yield file.create_dataset("v", data=voxels(), chunks=CHUNKS, compression="gzip")


V2_COMPRESSORS = [
    None,
    numcodecs.Zstd(),
    numcodecs.Blosc("lz4"),
    numcodecs.GZip(1),
    numcodecs.LZ4(),
]
V3_COMPRESSORS = [
    [],
    [ZstdCodec(level=1)],
    [BloscCodec(cname="lz4")],
    [GzipCodec(level=1)],
    [Crc32cCodec()],
    [ZstdCodec(level=1), Crc32cCodec()],
]


@st.composite
def layouts(draw: st.DrawFn) -> dict[str, Any]:
    """Keyword arguments of `zarr.create_array` for one combination of storage choices."""
    ndim = draw(st.integers(1, 3))
    chunks = draw(st.tuples(*[st.integers(1, 4)] * ndim))
    version = draw(st.sampled_from([2, 3]))
    layout = {
        "shape": draw(st.tuples(*[st.integers(1, 9)] * ndim)),
        "chunks": chunks,
        "zarr_format": version,
        "dtype": draw(st.sampled_from(["u1", "bool", ">i2", "<u4", "i8", ">f4", "f8", "f2"])),
        "fill_value": draw(st.sampled_from([0, 1])),
        "chunk_key_encoding": {
            "name": "v2" if version == 2 else draw(st.sampled_from(["default", "v2"])),
            "separator": draw(st.sampled_from([".", "/"])),
        },
    }
    if version == 2:
        layout["order"] = draw(st.sampled_from(["C", "F"]))
        layout["compressors"] = draw(st.sampled_from(V2_COMPRESSORS))
        return layout
    if np.dtype(layout["dtype"]).byteorder == ">":
        layout["dtype"] = np.dtype(layout["dtype"]).newbyteorder("<")
        layout["serializer"] = BytesCodec(endian="big")
    if draw(st.booleans()):
        layout["filters"] = [TransposeCodec(order=tuple(reversed(range(ndim))))]
    if draw(st.booleans()):
        layout["shards"] = tuple(size * draw(st.integers(1, 3)) for size in chunks)
    layout["compressors"] = draw(st.sampled_from(V3_COMPRESSORS))
    return layout


@settings(deadline=None, max_examples=150)
@given(layout=layouts(), data=st.data())
def test_every_layout_reads_back(layout: dict[str, Any], data: st.DataObject) -> None:
    array = zarr.create_array(MemoryStore(), **layout)
    expected = np.full(array.shape, layout["fill_value"], array.dtype)
    boxes = st.tuples(
        *[
            st.tuples(st.integers(0, size - 1), st.integers(1, size)).map(
                lambda ends: slice(min(ends), max(ends) + (ends[0] == ends[1]))
            )
            for size in array.shape
        ]
    ).map(lambda box: tuple(slice(e.start, max(e.stop, e.start + 1)) for e in box))
    clip = lambda box: tuple(  # noqa: E731
        slice(extent.start, min(extent.stop, size))
        for extent, size in zip(box, array.shape, strict=True)
    )
    written = clip(data.draw(boxes))
    values = np.random.default_rng(0).integers(2, 90, array.shape).astype(array.dtype)[written]
    array[written] = values
    expected[written] = values

    volume = open_volume(array, role="truth")
    region = clip(data.draw(boxes))
    np.testing.assert_array_equal(read(volume, region), expected[region])
    np.testing.assert_array_equal(read(volume), expected)
    outer = array.shards or array.chunks
    touched = [
        -(-extent.stop // size) - extent.start // size
        for extent, size in zip(written, outer, strict=True)
    ]
    total = [-(-size // chunk) for size, chunk in zip(array.shape, outer, strict=True)]
    stored = volume.stored_chunks
    assert stored is not None
    assert stored.total == np.prod(total)
    # A write that equals the fill value, as True does, stores nothing.
    if array.dtype != bool:
        assert stored.stored == np.prod(touched)
        assert stored.missing == np.prod(total) - np.prod(touched)


def test_missing_chunks_of_a_v2_array_without_fill_value_read_as_zero(tmp_path):
    zarr.create_array(
        tmp_path / "a", shape=(4,), chunks=(2,), dtype="i4", fill_value=None, zarr_format=2
    )
    volume = open_volume(tmp_path / "a", role="truth")
    assert volume.fill_value == 0
    assert counts(volume) == (2, 0)
    assert read(volume).tolist() == [0] * 4


def test_an_array_without_axes_reads_as_one_voxel(tmp_path):
    zarr.create_array(tmp_path / "a", shape=(), chunks=(), dtype="f4")[...] = 3
    volume = open_volume(tmp_path / "a", role="truth")
    out = np.zeros((), "f4")
    volume.read((), out)
    assert out == 3
    assert counts(volume) == (1, 1)


def test_foreign_keys_are_no_chunks(tmp_path):
    zarr.create_array(tmp_path / "a", data=np.ones((4, 4)), chunks=(2, 2), zarr_format=2)
    for name in ("0.00", "9.9", ".0.0.partial", "0.1.2", "notes.txt"):
        (tmp_path / "a" / name).write_text("")
    assert counts(open_volume(tmp_path / "a", role="truth")) == (4, 4)


def test_a_store_that_cannot_list_counts_nothing():
    class Unlisted(MemoryStore):
        supports_listing = False

    array = zarr.create_array(Unlisted(), data=np.ones(4), chunks=(2,))
    assert open_volume(array, role="truth").stored_chunks is None


@pytest.mark.parametrize(
    ("layout", "key"),
    [
        ({}, "c/1/2/0"),
        ({"compressors": None}, "c/1/2/0"),
        ({"compressors": BloscCodec()}, "c/1/2/0"),
        ({"shards": (10, 16, 12)}, "c/0/1/0"),
        ({"zarr_format": 2}, "1.2.0"),
    ],
)
def test_a_truncated_chunk_is_named(tmp_path, layout, key):
    zarr.create_array(tmp_path / "a", data=voxels(), chunks=CHUNKS, **layout)
    content = (tmp_path / "a" / key).read_bytes()
    (tmp_path / "a" / key).write_bytes(content[: len(content) // 2])
    volume = open_volume(tmp_path / "a", role="truth", reader="zarr")
    index = (0, 2, 0) if "shards" in layout else (1, 2, 0)
    message = rf"cannot read chunk \({', '.join(map(str, index))}\) of '.*a', stored under '{key}'"
    with pytest.raises(ReadError, match=message) as caught:
        read(volume)
    assert caught.value.__cause__ is not None


@pytest.mark.parametrize("source", ["folder", "zip"])
@pytest.mark.parametrize("cut", [1, 7, None])
@pytest.mark.parametrize(
    "layout",
    [
        {"compressors": BloscCodec(cname="lz4")},
        {"compressors": BloscCodec(cname="zstd", shuffle="noshuffle")},
        {"compressors": BloscCodec(cname="zstd"), "shards": (10, 16, 12)},
        {"compressors": numcodecs.Blosc("lz4"), "zarr_format": 2},
        {},
    ],
    ids=str,
)
@pytest.mark.filterwarnings("ignore:Numcodecs codecs are not in the Zarr version 3")
def test_blosc_of_zarr_python_never_reads_beyond_a_cut_chunk(tmp_path, layout, cut, source):
    # Whatever lies behind the buffer would be decoded, so that a cut might go unnoticed.
    if "shards" in layout:
        codecs = [BytesCodec(), layout["compressors"]]
        start = ShardingCodec(chunk_shape=CHUNKS, codecs=codecs, index_location="start")
        layout = {"serializer": start, "compressors": None, "chunks": layout["shards"]}
    # To make one warns that it is no part of Zarr v3.
    layout = layout or {"compressors": zarr.codecs.numcodecs.Blosc(cname="lz4")}
    options = {"chunks": CHUNKS, **layout}
    array = zarr.create_array(tmp_path / "a", data=voxels(), **options)
    last = max(path for path in (tmp_path / "a").rglob("*") if path.name[0].isdigit())
    content = last.read_bytes()
    last.write_bytes(content[:-cut] if cut else content + b"1")
    place = tmp_path / "a"
    if source == "zip":
        place = Path(shutil.make_archive(str(tmp_path / "a.zarr"), "zip", tmp_path / "a"))
    volume = open_volume(place, role="truth", reader="zarr")
    told = r"expected .* by its blosc header"
    if "serializer" in layout and source == "folder":
        # Its index is looked at first.
        told = "points outside" if cut else "chunks of the shard end at"
    elif "serializer" in layout and cut is None:
        assert (read(volume) == array[...]).all()
        return
    with pytest.raises(ReadError, match=told):
        read(volume)
    # Neither what tells of the codecs nor a copy in another process forgets it.
    assert "blosc" in str(volume.details["codecs"])
    with pytest.raises(ReadError, match=told):
        read(pickle.loads(pickle.dumps(volume)))


STREAMS = {
    "gzip v2": {"compressors": numcodecs.GZip(1), "zarr_format": 2},
    "zlib v2": {"compressors": numcodecs.Zlib(1), "zarr_format": 2},
    "bz2 v2": {"compressors": numcodecs.BZ2(1), "zarr_format": 2},
    "lzma v2": {"compressors": numcodecs.LZMA(preset=1), "zarr_format": 2},
    "lzma of its own container": {"compressors": numcodecs.LZMA(format=2), "zarr_format": 2},
    "zstd v2": {"compressors": numcodecs.Zstd(1), "zarr_format": 2},
    "lz4 v2": {"compressors": numcodecs.LZ4(), "zarr_format": 2},
    "gzip": {"compressors": GzipCodec(level=1)},
    "zstd": {"compressors": ZstdCodec()},
    "gzip in shards": {
        "compressors": None,
        "serializer": ShardingCodec(
            chunk_shape=CHUNKS,
            codecs=[BytesCodec(), GzipCodec(level=1)],
            index_codecs=[BytesCodec()],
        ),
    },
}
with warnings.catch_warnings():
    # To make one warns that it is no part of Zarr v3.
    warnings.simplefilter("ignore")
    for name in ("GZip", "Zlib", "BZ2", "LZMA"):
        STREAMS[f"numcodecs.{name}"] = {"compressors": getattr(zarr.codecs.numcodecs, name)()}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
@pytest.mark.parametrize("codec", STREAMS)
@pytest.mark.filterwarnings("ignore:Numcodecs codecs are not in the Zarr version 3")
def test_streams_of_zarr_python_end_where_their_chunk_does(tmp_path, codec, damage):
    zarr.create_array(tmp_path / "a", data=voxels(), chunks=CHUNKS, **STREAMS[codec])
    last = max(path for path in (tmp_path / "a").rglob("*") if path.name[0].isdigit())
    content = last.read_bytes()
    if "shards" in codec:
        # One chunk and where it is.
        chunk = damage(content[:-16])
        last.write_bytes(chunk + np.array([0, len(chunk)], "<u8").tobytes())
    else:
        last.write_bytes(damage(content))
    volume = open_volume(tmp_path / "a", role="truth", reader="zarr")
    with pytest.raises(ReadError, match=r"cannot read chunk \(2, 2, 2\) of"):
        read(volume)
    with pytest.raises(ReadError, match=r"cannot read chunk \(2, 2, 2\) of"):
        read(pickle.loads(pickle.dumps(volume)))


@pytest.mark.parametrize("codec", [numcodecs.GZip(1), numcodecs.BZ2(1), numcodecs.LZMA(preset=1)])
def test_streams_of_several_members_are_read_by_zarr_python(tmp_path, codec):
    array = zarr.create_array(
        tmp_path, shape=(300_000,), chunks=(300_000,), dtype="u1", zarr_format=2, compressors=codec
    )
    plain = np.random.default_rng(0).integers(0, 256, 300_000, np.uint8)
    # Some begin where a piece that is decoded at once ends.
    sizes = [0, 1, 2**16 - 40, 2**16 - 10, 2**16, 200_000, 300_000]
    parts = [codec.encode(plain[a:b]) for a, b in itertools.pairwise(sizes)]
    (tmp_path / "0").write_bytes(b"".join(parts))
    assert (read(open_volume(array, role="truth", reader="zarr")) == plain).all()


def test_a_link_to_nowhere_is_no_fill_to_zarr_python_either(tmp_path):
    zarr.create_array(tmp_path / "a", data=voxels(), chunks=CHUNKS)
    (tmp_path / "a" / "c/1/2/0").unlink()
    (tmp_path / "a" / "c/1/2/0").symlink_to(tmp_path / "annex")
    volume = open_volume(tmp_path / "a", role="truth", reader="zarr")
    with pytest.raises(ReadError, match="'0' is a link to nowhere"):
        _ = volume.stored_chunks


def test_linked_folders_of_chunks_are_stored(tmp_path):
    array = zarr.create_array(tmp_path / "a", data=voxels(), chunks=CHUNKS)
    (tmp_path / "a" / "c/1").rename(tmp_path / "elsewhere")
    (tmp_path / "a" / "c/1").symlink_to(tmp_path / "elsewhere")
    for reader in ("direct", "zarr"):
        stored = open_volume(tmp_path / "a", role="truth", reader=reader).stored_chunks
        assert stored.missing == 0
        assert stored.total == math.prod(array.cdata_shape)


def test_a_failing_task_of_a_dask_array_keeps_its_cause():
    def fail(block):
        raise OSError("the disk is gone")

    lazy = dask.array.zeros(4, dtype="u1").map_blocks(fail, dtype="u1")
    with pytest.raises(ReadError, match=r"region \[0:4\].*the disk is gone") as caught:
        read(open_volume(lazy, role="truth"))
    assert isinstance(caught.value.__cause__, OSError)


@pytest.mark.parametrize(
    "layout",
    [
        {"chunks": (64, 64, 64)},
        {"chunks": (64, 64, 64), "compressors": None},
        {"chunks": (64, 64, 64), "compressors": GzipCodec(level=1)},
        {"chunks": (16, 16, 16)},
        {"chunks": (32, 32, 32), "shards": (64, 128, 128)},
        {"chunks": (64, 64, 64), "zarr_format": 2, "compressors": numcodecs.BZ2(1)},
    ],
)
@pytest.mark.parametrize("stop", [16, 70, 128])
def test_measured_memory_of_a_read_is_below_decode_bytes(layout, stop):
    noise = np.random.default_rng(0).integers(0, 256, (128, 128, 128), np.uint8)
    volume = open_volume(zarr.create_array(MemoryStore(), data=noise, **layout), role="truth")
    region = (slice(0, stop),) * 3
    out = np.empty((stop,) * 3, np.uint8)
    volume.read(region, out)
    tracemalloc.start()
    try:
        volume.read(region, out)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak <= volume.decode_bytes(region)


def test_a_level_is_chosen(tmp_path):
    write_image(tmp_path / "image.zarr")
    volume = open_volume(tmp_path / "image.zarr", role="truth", level=1)
    assert volume.name.endswith("image.zarr/1")
    assert volume.shape == (13, 10, 9)
    assert volume.spacing == (2.0, 1.0, 0.5)
    assert volume.details["level"] == 1
    assert [level["shape"] for level in volume.details["levels"]] == [SHAPE, (13, 10, 9)]


def test_details_list_codecs_in_order(tmp_path):
    array = zarr.create_array(tmp_path / "a", data=voxels(), chunks=CHUNKS)
    assert open_volume(array, role="truth").details == {
        "format": "Zarr v3",
        "codecs": ["bytes(endian=little)", "zstd(level=0, checksum=false)"],
        "shards": None,
        "order": "C",
        "fill_value": 0,
    }


def test_a_group_with_one_label_image_opens_it(tmp_path):
    zarr.create_group(tmp_path / "a.zarr").create_group("labels")
    write_image(tmp_path / "a.zarr" / "labels" / "organs")
    volume = open_volume(tmp_path / "a.zarr", role="truth")
    assert volume.name.endswith("a.zarr/labels/organs/0")
    assert volume.spacing == TestOmeZarr05.spacing


def test_an_image_with_labels_opens_the_image(tmp_path):
    write_image(tmp_path / "a.zarr").create_group("labels")
    write_image(tmp_path / "a.zarr" / "labels" / "organs")
    assert open_volume(tmp_path / "a.zarr", role="truth").name.endswith("a.zarr/0")
    labels = open_volume(tmp_path / "a.zarr" / "labels" / "organs", role="truth")
    assert labels.name.endswith("organs/0")


def test_the_home_folder_and_file_urls_are_understood(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    zarr.create_array(tmp_path / "a b.zarr", data=voxels())
    assert open_volume("~/a b.zarr", role="truth").shape == SHAPE
    assert open_volume((tmp_path / "a b.zarr").as_uri(), role="truth").shape == SHAPE


def test_axes_of_files_in_the_wild_are_understood():
    names = read_levels(multiscales("0.3", axes=["c", "z", "y"]))[0]
    assert names.axes == ("c", "z", "y")
    untyped = read_levels(multiscales("0.4", axes=[{"name": name} for name in "zyx"]))[0]
    assert (untyped.axes, untyped.spacing) == (("z", "y", "x"), (2.0, 0.5, 0.25))
    (without,) = read_levels({"multiscales": [{"datasets": [{"path": "s0"}]}]})
    assert (without.path, without.axes, without.spacing, without.unit) == ("s0", None, None, None)


@pytest.mark.parametrize(
    "image",
    [
        {"axes": [*AXES[:2], {"name": "x", "type": "space", "unit": "millimeter"}]},
        {"coordinateTransformations": [{"type": "scale", "scale": [1, 0, 1]}]},
        {"coordinateTransformations": [{"type": "scale", "scale": [1, 1]}]},
        {"coordinateTransformations": [{"type": "scale", "scale": [1, "a", 1]}]},
    ],
)
def test_a_spacing_that_makes_no_sense_is_unknown(image):
    level = read_levels(multiscales("0.4", **image))[0]
    assert level.spacing is None
    assert level.unit is None


def test_time_and_channels_need_no_size():
    axes = [{"name": "t", "type": "time"}, *AXES[1:]]
    scale = [{"type": "scale", "scale": [0, 1, 1]}]
    level = read_levels(multiscales("0.4", axes=axes, coordinateTransformations=scale))[0]
    assert level.spacing == (1.0, 1.0, 0.5)
    assert level.unit == "micrometer"


@pytest.mark.parametrize("attributes", [{}, {"multiscales": []}, {"ome": 3}, {"multiscales": [1]}])
def test_other_groups_are_no_images(attributes):
    assert read_levels(attributes) == ()


def refusal(source: Any, **options: Any) -> str:
    with pytest.raises(InvalidInputError) as caught:
        open_volume(source, role="truth", **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_path_that_does_not_exist_is_named():
    assert refusal("foo.zarr") == "truth does not exist: 'foo.zarr'"
    assert refusal("") == "truth does not exist: ''"


def test_a_url_without_data_is_named():
    assert refusal("memory://void/a.zarr") == (
        "truth 'memory://void/a.zarr' does not exist or holds no Zarr array or group"
    )


def test_what_is_not_zarr_is_described(tmp_path):
    (tmp_path / "scan.v2.fif.gz").write_text("")
    readable = (
        "not a format this version reads; "
        "readable: object_store, nifti, npy, nrrd, tiff, zarr, zip, array, hdf5, tensorstore"
    )
    assert refusal(tmp_path / "scan.v2.fif.gz") == (
        f"truth '{tmp_path}/scan.v2.fif.gz' is a file of kind .fif.gz, {readable}"
    )
    assert refusal(tmp_path) == (
        f"truth '{tmp_path}' is a plain folder holding scan.v2.fif.gz, {readable}"
    )
    assert refusal([1, 2]) == f"truth is of type builtins.list, {readable}"


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "obstore.store", None)
    assert refusal("s3://bucket/a.zarr") == (
        "truth 's3://bucket/a.zarr' needs the package obstore: "
        'python -m pip install "streamloss[cloud]"'
    )
    with pytest.raises(ImportError):
        open_volume("s3://bucket/a.zarr", role="truth")


def test_unreadable_metadata_are_named(tmp_path):
    array = tmp_path / "a.zarr"
    zarr.create_array(array, data=voxels())
    metadata = json.loads((array / "zarr.json").read_text())
    metadata["codecs"][0]["name"] = "martian"
    (array / "zarr.json").write_text(json.dumps(metadata))
    message = refusal(array)
    assert message.startswith(f"truth '{array}' cannot be opened as Zarr: ")
    assert "martian" in message


def test_a_group_lists_the_arrays_within_it(tmp_path):
    group = zarr.create_group(tmp_path / "a.zarr")
    for number in range(12):
        group.create_array(f"sub/{number:02}", shape=(1,), dtype="u1")
    assert refusal(tmp_path / "a.zarr") == (
        f"truth '{tmp_path}/a.zarr' is a Zarr group, not an array or image; pick one within it: "
        + ", ".join(f"sub/{number:02}" for number in range(10))
        + " …"
    )


def test_an_empty_group_is_refused(tmp_path):
    zarr.create_group(tmp_path / "a.zarr")
    assert "no array can be found" in refusal(tmp_path / "a.zarr")


def test_a_level_out_of_range_lists_those_there_are(tmp_path):
    write_image(tmp_path / "a.zarr")
    message = f"truth '{tmp_path}/a.zarr' has no level %d; it has 2 (0: {SHAPE}, 1: (13, 10, 9))"
    assert refusal(tmp_path / "a.zarr", level=2) == message % 2
    assert refusal(tmp_path / "a.zarr", level=-1) == message % -1


def test_a_single_array_has_no_other_level(tmp_path):
    zarr.create_array(tmp_path / "a.zarr", data=voxels())
    assert "so it has no level 1" in refusal(tmp_path / "a.zarr", level=1)
    assert "no level 1" in refusal(voxels(), level=1)


def test_a_declared_level_without_array_is_named(tmp_path):
    group = write_image(tmp_path / "a.zarr")
    del group["1"]
    assert "declares level 1 at '1', where there is no array" in refusal(
        tmp_path / "a.zarr", level=1
    )


@pytest.mark.parametrize(
    "array",
    [
        np.zeros(2, "c8"),
        np.zeros(2, "M8[s]"),
        np.zeros(2, "m8[s]"),
        np.zeros(2, "S3"),
        np.zeros(2, "U3"),
        np.zeros(2, object),
        np.zeros(2, [("a", "u1")]),
    ],
    ids=lambda array: str(array.dtype),
)
def test_elements_that_are_no_plain_numbers_are_refused(array, tmp_path):
    assert str(array.dtype) in refusal(array)
    if array.dtype != object:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for version in (2, 3):
                zarr.create_array(tmp_path / f"{version}", data=array, zarr_format=version)
        for version in (2, 3):
            assert "expected booleans, integers or floats" in refusal(tmp_path / f"{version}")


def test_an_array_without_voxels_is_refused():
    assert refusal(np.zeros((3, 0))) == (
        "truth 'NumPy array (3, 0) float64' has no voxels: its shape is (3, 0)"
    )


def test_a_masked_array_is_refused():
    assert "mask would be ignored" in refusal(np.ma.masked_array(voxels(), voxels() > 5))


def test_an_array_of_unknown_extent_is_refused():
    lazy = dask.array.ones(4)
    assert "expected a known shape" in refusal(lazy[lazy > 0])


def test_advice_to_writers_of_zarr_files_is_not_repeated(tmp_path):
    array = zarr.create_array(tmp_path / "a", data=voxels(), chunks=CHUNKS, zarr_format=2)
    metadata = json.loads((tmp_path / "a" / ".zarray").read_text())
    (tmp_path / "a" / ".zarray").write_text(json.dumps({**metadata, "filters": []}))
    np.testing.assert_array_equal(read(open_volume(tmp_path / "a", role="truth")), array[:])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        zarr.create(
            store=str(tmp_path / "b"),
            shape=(8, 8),
            chunks=(8, 8),
            dtype="u2",
            codecs=[ShardingCodec(chunk_shape=(4, 4)), Crc32cCodec()],
        )[:] = 5
    volume = open_volume(tmp_path / "b", role="truth")
    assert volume.chunks == (8, 8)
    assert (read(volume) == 5).all()


def test_arrays_in_memory_do_not_import_zarr():
    code = (
        "import sys, numpy; from streamloss.stores import open_volume;"
        "open_volume(numpy.ones(3), role='truth'); sys.exit('zarr' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
