"""TensorStore reads N5 and precomputed volumes, and Zarr with the same bits as zarr-python."""

import json
import pickle
import sys
import threading
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import zarr
from zarr.codecs import BloscCodec, GzipCodec

import streamloss as sl
from streamloss.errors import InvalidInputError, ReadError
from streamloss.stores import open_volume
from tests.store_suite import CHUNKS, SHAPE, VolumeTests, read, regions, voxels

ts = pytest.importorskip("tensorstore")


def write_n5(path: Path, values: np.ndarray, **attributes: Any) -> None:
    """Store values given in C order; N5 lists the fastest axis first."""
    metadata = {
        "dimensions": values.shape[::-1],
        "blockSize": CHUNKS[::-1],
        "dataType": str(values.dtype),
        "compression": {"type": "gzip"},
    }
    spec = {"driver": "n5", "kvstore": {"driver": "file", "path": f"{path}/"}, "metadata": metadata}
    ts.open(spec, create=True).result().write(values.T).result()
    if attributes:
        stored = json.loads((path / "attributes.json").read_text())
        (path / "attributes.json").write_text(json.dumps({**stored, **attributes}))


def write_precomputed(path: Path, values: np.ndarray, **scale: Any) -> None:
    """Add a scale that holds values given as (z, y, x) or (channel, z, y, x)."""
    values = values.reshape((-1, *values.shape[-3:]))
    spec = {
        "driver": "neuroglancer_precomputed",
        "kvstore": {"driver": "file", "path": f"{path}/"},
        "multiscale_metadata": {
            "type": "image",
            "data_type": str(values.dtype),
            "num_channels": len(values),
        },
        "scale_metadata": {
            "size": values.shape[:0:-1],
            "chunk_size": CHUNKS[::-1],
            "encoding": "raw",
            "resolution": [4, 4, 40],
            **scale,
        },
    }
    ts.open(spec, create=True).result().write(values.T).result()


class TestN5(VolumeTests):
    axes = ("z", "y", "x")
    spacing = (40.0, 4.0, 4.0)
    unit = "nanometer"
    fill_value = 0

    @pytest.fixture
    def source(self, tmp_path):
        resolution = {"resolution": [4, 4, 40], "units": ["nm"] * 3}
        write_n5(tmp_path / "a.n5", voxels(), axes=["x", "y", "z"], **resolution)
        return tmp_path / "a.n5"


class TestN5WithoutAttributes(VolumeTests):
    fill_value = 0

    @pytest.fixture
    def source(self, tmp_path):
        write_n5(tmp_path / "a.n5", voxels())
        return f"{tmp_path}/a.n5"


class TestN5Group(VolumeTests):
    spacing = (3.0, 0.5, 0.5)
    unit = "micrometer"
    fill_value = 0

    @pytest.fixture
    def source(self, tmp_path):
        pixel = {"pixelResolution": {"dimensions": [0.5, 0.5, 3], "unit": "um"}}
        write_n5(tmp_path / "s0", voxels(), **pixel)
        write_n5(tmp_path / "s1", voxels()[:, ::2, ::2], downsamplingFactors=[2, 2, 1], **pixel)
        return tmp_path


class TestPrecomputed(VolumeTests):
    axes = ("z", "y", "x")
    spacing = (40.0, 4.0, 4.0)
    unit = "nanometer"
    fill_value = 0
    scale: ClassVar[dict[str, Any]] = {}

    @pytest.fixture
    def source(self, tmp_path):
        write_precomputed(tmp_path / "a", voxels(), **self.scale)
        return tmp_path / "a"


class TestPrecomputedWithAnOffset(TestPrecomputed):
    scale: ClassVar[dict[str, Any]] = {"voxel_offset": [100, 51, 7]}


class TestPrecomputedSharded(TestPrecomputed):
    scale: ClassVar[dict[str, Any]] = {
        "sharding": {
            "@type": "neuroglancer_uint64_sharded_v1",
            "preshift_bits": 1,
            "minishard_bits": 1,
            "shard_bits": 1,
            "hash": "identity",
        }
    }


class TensorStoreTests(VolumeTests):
    fill_value = 0
    stored = (27, 27)
    options: ClassVar[dict[str, Any]] = {}

    @pytest.fixture
    def source(self, tmp_path):
        zarr.create_array(tmp_path / "a", data=voxels(), chunks=CHUNKS, **self.options)
        return tmp_path / "a"

    @pytest.fixture
    def volume(self, source):
        return open_volume(source, role="truth", reader="tensorstore")

    def test_the_bits_are_those_of_zarr_python(self, source, volume):
        other = open_volume(source, role="truth", reader="zarr")
        assert (volume.reader, other.reader) == ("tensorstore", "zarr")
        for region in regions(10):
            assert read(volume, region).tobytes() == read(other, region).tobytes()


class TestZarrV2(TensorStoreTests):
    axes = ("z", "y", "x")
    options: ClassVar[dict[str, Any]] = {
        "zarr_format": 2,
        "order": "F",
        "attributes": {"_ARRAY_DIMENSIONS": ["z", "y", "x"]},
    }


class TestZarrV3(TensorStoreTests):
    axes = ("z", "y", "x")
    spacing = (3.0, 1.0, 1.0)
    options: ClassVar[dict[str, Any]] = {
        "compressors": BloscCodec(cname="lz4"),
        "dimension_names": ["z", "y", "x"],
        "attributes": {"spacing": [3, 1, 1]},
    }


class TestZarrGzip(TensorStoreTests):
    options: ClassVar[dict[str, Any]] = {"compressors": GzipCodec(level=1)}


class TestZarrSharded(TensorStoreTests):
    stored = (8, 8)
    options: ClassVar[dict[str, Any]] = {"shards": (10, 16, 12)}


@pytest.mark.parametrize("dtype", ["bool", "i1", "u4", "i8", "u8", "f2", "f4", "f8"])
@pytest.mark.parametrize("version", [2, 3])
def test_missing_chunks_read_as_in_zarr_python(tmp_path, dtype, version):
    array = zarr.create_array(
        tmp_path / "a", shape=(9, 7), chunks=(4, 3), dtype=dtype, fill_value=1, zarr_format=version
    )
    array[:4, :3] = 0
    found, expected = (
        open_volume(tmp_path / "a", role="truth", reader=reader)
        for reader in ("tensorstore", "zarr")
    )
    assert found.fill_value == 1
    assert found.dtype == expected.dtype
    np.testing.assert_array_equal(read(found), read(expected))


def test_big_endian_elements_become_native(tmp_path):
    zarr.create_array(tmp_path / "a", data=voxels().astype(">i4"), chunks=CHUNKS, zarr_format=2)
    volume = open_volume(tmp_path / "a", role="truth", reader="tensorstore")
    assert volume.dtype.isnative
    np.testing.assert_array_equal(read(volume), voxels())


def test_channels_of_a_precomputed_volume_come_first(tmp_path):
    values = np.stack([voxels(), voxels() + 1])
    write_precomputed(tmp_path, values)
    volume = open_volume(tmp_path, role="truth")
    assert volume.shape == (2, *SHAPE)
    assert volume.axes == ("channel", "z", "y", "x")
    assert volume.spacing == (1.0, 40.0, 4.0, 4.0)
    np.testing.assert_array_equal(read(volume), values)


def test_a_level_is_chosen(tmp_path):
    write_precomputed(tmp_path / "pre", voxels())
    write_precomputed(tmp_path / "pre", voxels()[:, ::2, ::2], resolution=[8, 8, 40])
    write_n5(tmp_path / "n5" / "s0", voxels())
    write_n5(tmp_path / "n5" / "s1", voxels()[:, ::2, ::2], downsamplingFactors=[2, 2, 1])
    (tmp_path / "n5" / "attributes.json").write_text(
        json.dumps({"resolution": [4, 4, 40], "units": ["nm"] * 3})
    )
    for name in ("pre", "n5"):
        assert open_volume(tmp_path / name, role="truth").spacing == (40.0, 4.0, 4.0)
        volume = open_volume(tmp_path / name, role="truth", level=1)
        assert volume.spacing == (40.0, 8.0, 8.0)
        assert volume.unit == "nanometer"
        np.testing.assert_array_equal(read(volume), voxels()[:, ::2, ::2])
        with pytest.raises(InvalidInputError, match="has no level 2"):
            open_volume(tmp_path / name, role="truth", level=2)
    with pytest.raises(InvalidInputError, match="so it has no level 1"):
        open_volume(tmp_path / "n5" / "s0", role="truth", level=1)


def test_urls_name_the_format(tmp_path):
    write_precomputed(tmp_path / "pre", voxels())
    write_n5(tmp_path / "n5", voxels())
    for url in (f"precomputed://file://{tmp_path}/pre", f"n5://{tmp_path}/n5"):
        volume = open_volume(url, role="truth", reader="tensorstore")
        assert volume.name == url
        np.testing.assert_array_equal(read(volume), voxels())


@pytest.mark.parametrize("scheme", ["", "n5://", "precomputed://"])
def test_a_folder_without_a_dataset_is_refused(tmp_path, scheme):
    (tmp_path / "attributes.json").write_text('{"n5": "2.0.0"}')
    with pytest.raises(InvalidInputError, match="holds neither an N5 dataset"):
        open_volume(f"{scheme}{tmp_path}", role="truth", reader="tensorstore")


def test_units_that_differ_leave_the_spacing_unknown(tmp_path):
    write_n5(tmp_path, voxels(), resolution=[4, 4, 40], units=["nm", "nm", "um"])
    volume = open_volume(tmp_path, role="truth")
    assert (volume.spacing, volume.unit) == (None, None)


@pytest.mark.parametrize("damage", [lambda data: data[:-9], lambda data: b"", lambda d: d + b"x"])
def test_a_damaged_chunk_is_named(tmp_path, damage):
    write_n5(tmp_path / "n5", voxels())
    write_precomputed(tmp_path / "pre", voxels())
    for name, key in (("n5", "1/2/0"), ("pre", "4_4_40/6-12_16-20_0-5")):
        chunk = tmp_path / name / key
        chunk.write_bytes(damage(chunk.read_bytes()))
        with pytest.raises(ReadError, match=rf"cannot read chunk \(0, 2, 1\) of '.*{name}'"):
            read(open_volume(tmp_path / name, role="truth"))


def test_what_tensorstore_does_not_know_is_refused_before_reading(tmp_path):
    write_n5(tmp_path, voxels(), compression={"type": "martian"})
    with pytest.raises(InvalidInputError, match=r"truth '.*' cannot be opened by TensorStore: "):
        open_volume(tmp_path, role="truth")


def test_a_missing_package_is_named(tmp_path, monkeypatch):
    write_n5(tmp_path, voxels())
    monkeypatch.setitem(sys.modules, "tensorstore", None)
    with pytest.raises(ImportError, match=r'pip install "streamloss\[tensorstore\]"'):
        open_volume(tmp_path, role="truth")


def test_a_pickle_holds_no_open_store(tmp_path):
    write_n5(tmp_path, voxels())
    volume = open_volume(tmp_path, role="truth")
    fresh = pickle.dumps(volume)
    read(volume)
    assert pickle.dumps(volume) == fresh


def test_scores_are_those_of_the_same_arrays_in_memory(tmp_path):
    truth, prediction = voxels() % 3, voxels() % 4
    write_n5(tmp_path / "n5", truth)
    write_precomputed(tmp_path / "pre", prediction)
    threads = threading.active_count()
    expected = sl.score(truth, prediction, classes=4)
    found = sl.score(tmp_path / "n5", tmp_path / "pre", classes=4, spacing=[1, 1, 1])
    assert found["dice"] == expected["dice"]
    assert threading.active_count() == threads


@pytest.mark.parametrize("kind", ["array", "group", "store", "place in a store"])
def test_open_objects_of_zarr_python_are_refused(tmp_path, kind):
    group = zarr.create_group(tmp_path)
    array = group.create_array("a", data=voxels(), chunks=CHUNKS)
    source = {
        "array": array,
        "group": group,
        "store": group.store,
        "place in a store": array.store_path,
    }[kind]
    with pytest.raises(InvalidInputError, match=r"truth '.*' is an open .* pass its path or URL"):
        open_volume(source, role="truth", reader="tensorstore")


def test_an_array_without_axes_is_refused_as_by_other_readers(tmp_path):
    zarr.create_array(tmp_path, shape=(), dtype="u1")
    for reader in ("zarr", "tensorstore"):
        with pytest.raises(InvalidInputError, match=r"truth has shape \(\): expected an array of"):
            sl.score(tmp_path, tmp_path, reader=reader)
