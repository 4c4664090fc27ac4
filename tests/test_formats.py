"""Files of other programs: .npy, NIfTI, NRRD, HDF5 and TIFF."""

import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any, ClassVar

import h5py
import nibabel
import nrrd
import numpy as np
import pytest
import tifffile

import streamloss as sl
from streamloss.affine import Affine
from streamloss.cli import main
from streamloss.errors import InvalidInputError, MissingPackageError, ReadError
from streamloss.stores import open_volume
from tests.store_suite import CHUNKS, SHAPE, VolumeTests, read, voxels

# pynrrd tells the time of writing in a way that Python 3.12 and newer warn of.
pytestmark = pytest.mark.filterwarnings("ignore:datetime.datetime.utcnow:DeprecationWarning")

ZYX = ("z", "y", "x")
ROW = (1, 1, SHAPE[2])
PLANE = (1, *SHAPE[1:])
# To the left and to the front, as scanners have it, and not of cubes.
LAS = np.array([[-0.9, 0, 0, 90], [0, 0.8, 0, -126], [0, 0, 3, -72], [0, 0, 0, 1]])


def save_nifti(path: Path, array: np.ndarray, affine: np.ndarray | None = LAS) -> Path:
    """Save an array whose axes are slowest first."""
    image = nibabel.Nifti1Image(array.T, affine)
    image.header.set_xyzt_units("mm")
    image.to_filename(path)
    return path


def refusal(source: object, role: str = "truth", **options: object) -> str:
    with pytest.raises(InvalidInputError) as caught:
        open_volume(source, role=role, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


class TestNpy(VolumeTests):
    chunks = ROW

    @pytest.fixture
    def source(self, tmp_path):
        np.save(tmp_path / "v.npy", voxels())
        return tmp_path / "v.npy"


class TestNpyInFortranOrder(VolumeTests):
    chunks = (SHAPE[0], 1, 1)

    @pytest.fixture
    def source(self, tmp_path):
        np.save(tmp_path / "v.npy", np.asfortranarray(voxels().astype(">u2")))
        return tmp_path / "v.npy"


class TestNifti(VolumeTests):
    chunks = ROW
    axes = ZYX
    spacing = (3.0, 0.8, 0.9)
    unit = "millimeter"
    affine = Affine(((0, 0, 3), (0, 0.8, 0), (-0.9, 0, 0)), (90, -126, -72), "RAS")
    suffix = ".nii"

    @pytest.fixture
    def source(self, tmp_path):
        return save_nifti(tmp_path / f"v{self.suffix}", voxels())


class TestGzippedNifti(TestNifti):
    chunks = PLANE
    suffix = ".nii.gz"


class TestBigEndianNifti(TestNifti):
    @pytest.fixture
    def source(self, tmp_path):
        header = nibabel.Nifti2Header(endianness=">")
        header.set_data_dtype(">u2")
        image = nibabel.Nifti2Image(voxels().T, LAS, header)
        image.header.set_xyzt_units("mm")
        image.to_filename(tmp_path / "v.nii")
        return tmp_path / "v.nii"


class TestNrrd(VolumeTests):
    chunks = ROW
    axes = ZYX
    spacing = (3.0, 0.8, 0.9)
    unit = "millimeter"
    # The world axes of the file point left and backwards.
    affine = Affine(((0, 0, 3), (0, 0.8, 0), (-0.9, 0, 0)), (90, -126, -72), "RAS")
    encoding = "raw"
    detached = False

    @pytest.fixture
    def source(self, tmp_path):
        path = tmp_path / ("v.nhdr" if self.detached else "v.nrrd")
        header = {
            "space": "left-posterior-superior",
            "space directions": [[0.9, 0, 0], [0, -0.8, 0], [0, 0, 3]],
            "space origin": [-90, 126, -72],
            "space units": ["mm", "mm", "mm"],
            "encoding": self.encoding,
        }
        nrrd.write(str(path), voxels().T, header, detached_header=self.detached)
        return path


class TestGzippedNrrd(TestNrrd):
    chunks = PLANE
    encoding = "gzip"


class TestDetachedNrrd(TestNrrd):
    detached = True


class TestDetachedGzippedNrrd(TestGzippedNrrd):
    detached = True


class TestHdf5(VolumeTests):
    stored = (27, 27)
    fill_value = 0
    axes = ZYX
    spacing = (3.0, 0.5, 0.5)
    unit = "micrometer"

    @pytest.fixture
    def source(self, tmp_path):
        with h5py.File(tmp_path / "v.h5", "w") as file:
            dataset = file.create_dataset(
                "volumes/raw", data=voxels(), chunks=CHUNKS, compression="gzip", shuffle=True
            )
            dataset.attrs["element_size_um"] = [3, 0.5, 0.5]
            for dimension, name in zip(dataset.dims, ZYX, strict=True):
                dimension.label = name
            file["labels"] = np.zeros(3)
        return tmp_path / "v.h5" / "volumes" / "raw"


class TestContiguousBigEndianHdf5(VolumeTests):
    chunks = ROW

    @pytest.fixture
    def source(self, tmp_path):
        with h5py.File(tmp_path / "v.hdf5", "w") as file:
            file["only"] = voxels().astype(">u2")
        return str(tmp_path / "v.hdf5")


class TestTiff(VolumeTests):
    chunks = PLANE
    options: ClassVar[dict[str, Any]] = {"compression": "zlib"}

    @pytest.fixture
    def source(self, tmp_path):
        tifffile.imwrite(tmp_path / "v.tif", voxels(), **self.options)
        return tmp_path / "v.tif"


class TestUncompressedTiff(TestTiff):
    chunks = ROW
    options: ClassVar[dict[str, Any]] = {"byteorder": ">"}


class TestTiffInStrips(TestTiff):
    chunks = (1, 3, SHAPE[2])
    options: ClassVar[dict[str, Any]] = {
        "compression": "lzw",
        "rowsperstrip": 3,
        "predictor": 2,
        "byteorder": ">",
    }


class TestTiffInTiles(TestTiff):
    chunks = (1, 16, 16)
    options: ClassVar[dict[str, Any]] = {"compression": "zstd", "tile": (16, 16)}


class TestVolumetricTiff(TestTiff):
    chunks = (16, 16, 16)
    axes = ZYX
    options: ClassVar[dict[str, Any]] = {"compression": "zlib", "tile": (16, 16, 16)}


class TestOmeTiff(TestTiff):
    axes = ZYX
    spacing = (3.0, 0.5, 0.5)
    unit = "micrometer"
    options: ClassVar[dict[str, Any]] = {
        "ome": True,
        "compression": "zlib",
        "metadata": {
            "axes": "ZYX",
            "PhysicalSizeZ": 3.0,
            "PhysicalSizeY": 0.5,
            "PhysicalSizeX": 0.5,
        },
    }


class TestImageJ(TestTiff):
    chunks = ROW
    axes = ZYX
    spacing = (3.0, 0.5, 0.5)
    unit = "micrometer"
    options: ClassVar[dict[str, Any]] = {
        "imagej": True,
        "resolution": (2, 2),
        "metadata": {"axes": "ZYX", "spacing": 3.0, "unit": "um"},
    }


def test_a_slope_and_an_intercept_are_applied_as_nibabel_does(tmp_path):
    image = nibabel.Nifti1Image(voxels("int16").T, LAS)
    image.header.set_slope_inter(0.3, -1024.5)
    image.to_filename(tmp_path / "v.nii.gz")
    expected = np.asanyarray(nibabel.load(tmp_path / "v.nii.gz").dataobj).T
    assert expected.dtype == np.float64
    volume = open_volume(tmp_path / "v.nii.gz", role="truth")
    assert (volume.details["slope"], volume.details["intercept"]) != (1.0, 0.0)
    np.testing.assert_array_equal(read(volume), expected)


def test_classes_of_a_nifti_file_are_channels_first(tmp_path):
    stack = np.stack([voxels("float32") + channel for channel in range(4)])
    save_nifti(tmp_path / "p.nii.gz", stack)
    volume = open_volume(tmp_path / "p.nii.gz", role="prediction")
    assert volume.axes == ("c", *ZYX)
    assert volume.spacing == (1.0, 3.0, 0.8, 0.9)
    np.testing.assert_array_equal(read(volume), stack)


def test_components_of_an_nrrd_file_are_channels_first(tmp_path):
    listed = np.stack([voxels(), voxels() + 1], axis=-1)
    header = {
        "space": "left-posterior-superior",
        "kinds": ["list", "domain", "domain", "domain"],
        "space directions": [[np.nan] * 3, [1, 0, 0], [0, 1, 0], [0, 0, 2]],
        "space origin": [0, 0, 0],
    }
    nrrd.write(str(tmp_path / "v.nrrd"), listed.T, header)
    volume = open_volume(tmp_path / "v.nrrd", role="truth")
    assert volume.shape == (2, *SHAPE)
    assert (volume.axes, volume.spacing) == (("c", *ZYX), (1.0, 2.0, 1.0, 1.0))
    np.testing.assert_array_equal(read(volume), np.moveaxis(listed, -1, 0))


def test_channels_of_an_imagej_stack_are_first(tmp_path):
    stack = np.stack([voxels(), voxels() + 1], axis=1)
    tifffile.imwrite(
        tmp_path / "v.tif", stack, imagej=True, metadata={"axes": "ZCYX"}, compression="zlib"
    )
    volume = open_volume(tmp_path / "v.tif", role="truth")
    assert (volume.shape, volume.axes) == ((2, *SHAPE), ("c", *ZYX))
    np.testing.assert_array_equal(read(volume), np.moveaxis(stack, 1, 0))


@pytest.mark.parametrize(
    ("array", "options"),
    [
        (np.arange(1020).reshape(20, 17, 3), {"photometric": "rgb", "tile": (16, 16)}),
        (
            np.arange(1020).reshape(3, 20, 17),
            {"photometric": "rgb", "tile": (16, 16), "planarconfig": "separate"},
        ),
    ],
)
def test_samples_of_a_colour_tiff_are_first(tmp_path, array, options):
    array = array.astype(np.uint8)
    tifffile.imwrite(tmp_path / "v.tif", array, compression="zlib", **options)
    volume = open_volume(tmp_path / "v.tif", role="truth")
    assert volume.shape == (3, 20, 17)
    expected = array if array.shape[0] == 3 else np.moveaxis(array, -1, 0)
    np.testing.assert_array_equal(read(volume), expected)


def test_a_level_of_a_tiff_pyramid_has_its_own_spacing(tmp_path):
    pixels = {"axes": "YX", "PhysicalSizeY": 0.5, "PhysicalSizeX": 0.5}
    with tifffile.TiffWriter(tmp_path / "v.ome.tif", ome=True) as writer:
        options = {"tile": (16, 16), "compression": "zlib"}
        writer.write(np.ones((64, 64), "u1"), subifds=1, metadata=pixels, **options)
        writer.write(np.full((32, 32), 2, "u1"), subfiletype=1, **options)
    volume = open_volume(tmp_path / "v.ome.tif", role="truth", level=1)
    assert (volume.shape, volume.spacing) == ((32, 32), (1.0, 1.0))
    assert (read(volume) == 2).all()
    assert "it has 2 (0: (64, 64), 1: (32, 32))" in refusal(tmp_path / "v.ome.tif", level=2)


def test_chunks_that_hdf5_does_not_store_are_the_fill_value(tmp_path):
    with h5py.File(tmp_path / "v.h5", "w") as file:
        dataset = file.create_dataset(
            "raw", shape=SHAPE, chunks=CHUNKS, dtype="u2", fillvalue=7, maxshape=(None,) * 3
        )
        dataset[:5, :8] = 1
    volume = open_volume(tmp_path / "v.h5", role="truth")
    assert volume.stored_chunks is not None
    assert (volume.stored_chunks.total, volume.stored_chunks.stored) == (27, 3)
    assert volume.fill_value == 7
    assert (read(volume)[:5, :8] == 1).all()
    assert (read(volume)[5:] == 7).all()
    result = sl.score(tmp_path / "v.h5", np.full(SHAPE, 7, "u2"), metrics="accuracy")
    assert result["accuracy"].value == 1 - 5 * 8 * 17 / np.prod(SHAPE)


# Grids.


@pytest.fixture
def pair(tmp_path):
    """A truth, and a function that writes the same labels on another grid."""
    labels = (voxels() % 3).astype(np.uint8)
    truth = save_nifti(tmp_path / "truth.nii.gz", labels)

    def moved(affine):
        return save_nifti(tmp_path / "prediction.nii.gz", labels, affine)

    return truth, moved


def flipped(affine: np.ndarray, axis: int, size: int) -> np.ndarray:
    """The affine of an array that is turned around along an axis, in place in the world."""
    flip = np.eye(4)
    flip[axis, axis], flip[axis, 3] = -1, size - 1
    return affine @ flip


def test_a_flipped_grid_is_refused_with_both_affines(pair):
    truth, moved = pair
    with pytest.raises(InvalidInputError) as caught:
        sl.score(truth, moved(flipped(LAS, 0, SHAPE[2])), metrics="dice")
    message = str(caught.value)
    assert message.startswith(
        "truth and prediction lie on different grids, up to 18 voxels apart: the affine of "
        "truth is [[0, 0, -0.9, 90], [0, 0.8, 0, -126], [3, 0, 0, -72]], "
        "that of prediction [[0, 0, 0.9, 75.6], [0, 0.8, 0, -126], [3, 0, 0, -72]]"
    )
    assert "\n" not in message


def test_a_shifted_grid_is_refused(pair):
    truth, moved = pair
    half_a_voxel = LAS + np.array([[0, 0, 0, 0.45], [0] * 4, [0] * 4, [0] * 4])
    with pytest.raises(InvalidInputError, match=r"up to 0\.5\d* voxels apart.*90\.45"):
        sl.score(truth, moved(half_a_voxel), metrics="dice")


def test_a_turned_grid_is_refused(pair):
    truth, moved = pair
    angle = np.deg2rad(3)
    turn = np.eye(4)
    turn[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    with pytest.raises(InvalidInputError, match="different grids"):
        sl.score(truth, moved(turn @ LAS), metrics="dice")


def test_a_spacing_that_differs_is_refused(pair):
    truth, moved = pair
    with pytest.raises(InvalidInputError, match=r"truth has a spacing of \[3.0, 0.8, 0.9\] and"):
        sl.score(truth, moved(LAS @ np.diag([2, 1, 1, 1])), metrics="dice")


def test_rounding_of_headers_moves_no_grid(pair):
    truth, moved = pair
    rewritten = LAS * (1 + 1e-6)
    rewritten[:3, 3] += 1e-4
    assert sl.score(truth, moved(rewritten), metrics="dice")["dice"].value == 1.0


def test_affines_can_be_ignored(pair):
    truth, moved = pair
    prediction = moved(flipped(LAS, 0, SHAPE[2]))
    assert sl.score(truth, prediction, metrics="dice", affine="ignore")["dice"].value == 1.0
    with pytest.raises(InvalidInputError, match="affine must be check or ignore, got 'no'"):
        sl.score(truth, prediction, metrics="dice", affine="no")


def test_a_file_without_coded_affine_lies_nowhere(pair, tmp_path):
    truth, _ = pair
    image = nibabel.load(truth)
    image.header["sform_code"] = image.header["qform_code"] = 0
    plain = nibabel.Nifti1Image(np.asarray(image.dataobj), None, image.header)
    plain.to_filename(tmp_path / "plain.nii")
    volume = open_volume(tmp_path / "plain.nii", role="truth")
    assert (volume.affine, volume.spacing) == (None, (3.0, 0.8, 0.9))
    assert sl.score(truth, tmp_path / "plain.nii", metrics="dice")["dice"].value == 1.0


def test_an_nrrd_image_lies_where_its_nifti_twin_does(pair, tmp_path):
    truth, _ = pair
    header = {
        "space": "LPS",
        "space directions": [[0.9, 0, 0], [0, -0.8, 0], [0, 0, 3]],
        "space origin": [-90, 126, -72],
    }
    labels = (voxels() % 3).astype(np.uint8)
    nrrd.write(str(tmp_path / "v.nrrd"), labels.T, header)
    assert sl.score(truth, tmp_path / "v.nrrd", metrics="dice")["dice"].value == 1.0
    header["space origin"] = [-90, 126, -69]
    nrrd.write(str(tmp_path / "v.nrrd"), labels.T, header)
    with pytest.raises(InvalidInputError, match="different grids"):
        sl.score(truth, tmp_path / "v.nrrd", metrics="dice")


# Damage.


def test_a_plain_file_that_is_cut_short_is_refused_before_reading(tmp_path):
    path = save_nifti(tmp_path / "v.nii", voxels())
    path.write_bytes(path.read_bytes()[:-100])
    message = refusal(path)
    assert message == (
        f"truth '{path}' is cut short: its header tells of 9,192 bytes, the file has 9,092"
    )


def noise() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 9, (96, 128, 128)).astype(np.uint8)


@pytest.mark.parametrize("damage", ["cut", "checksum", "bytes"])
def test_a_damaged_stream_is_never_read_as_data(tmp_path, damage):
    path = save_nifti(tmp_path / "v.nii.gz", noise())
    stored = bytearray(path.read_bytes())
    if damage == "cut":
        stored = stored[: len(stored) // 2]
    elif damage == "checksum":
        stored[-6] ^= 1
    else:
        stored[len(stored) // 2] ^= 255
    path.write_bytes(stored)
    with pytest.raises(ReadError, match=r"cannot read region \[.*\] of '.*v\.nii\.gz': "):
        sl.score(path, noise(), kind="values", metrics="mse")


def test_a_link_to_a_group_of_another_file_leads_there(tmp_path):
    """Not to what has the same path in the file that holds the link."""
    for name, value in (("one", 1), ("two", 2)):
        with h5py.File(tmp_path / f"{name}.h5", "w") as file:
            file["group/raw"] = np.full((4, 5, 6), value, "u1")
    with h5py.File(tmp_path / "one.h5", "a") as file:
        file["link"] = h5py.ExternalLink("two.h5", "/group")
    linked = tmp_path / "one.h5" / "link"
    assert open_volume(linked, role="truth").name.endswith("one.h5/link/raw")
    twos = np.full((4, 5, 6), 2, "u1")
    assert sl.score(linked, twos, metrics="accuracy")["accuracy"].value == 1.0


def test_a_chunk_that_hdf5_cannot_decode_is_named(tmp_path):
    with h5py.File(tmp_path / "v.h5", "w") as file:
        dataset = file.create_dataset("raw", data=voxels(), chunks=CHUNKS, compression="gzip")
        chunk = dataset.id.get_chunk_info_by_coord((5, 0, 6))
    with (tmp_path / "v.h5").open("r+b") as file:
        file.seek(chunk.byte_offset + 9)
        file.write(b"\xff" * 20)
    volume = open_volume(tmp_path / "v.h5", role="truth")
    with pytest.raises(ReadError, match=r"cannot read chunk \(1, 0, 1\) of '.*v\.h5/raw'"):
        read(volume)


def test_a_segment_that_cannot_be_decoded_is_named(tmp_path):
    path = tmp_path / "v.tif"
    tifffile.imwrite(path, voxels(), compression="zlib", tile=(16, 16))
    with tifffile.TiffFile(path) as file:
        offset = file.pages[3].dataoffsets[2]
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(b"\xff" * 20)
    volume = open_volume(path, role="truth")
    with pytest.raises(ReadError, match=r"cannot read segment \(1, 0\) of page 3 of '.*v\.tif'"):
        read(volume)


@pytest.mark.parametrize("suffix", ["npy", "nii", "nii.gz", "nrrd", "h5", "tif", "zarr.zip"])
@pytest.mark.parametrize("content", [b"", b"not what the name says" * 100])
def test_a_file_that_is_not_what_its_name_says_is_refused(tmp_path, suffix, content):
    path = tmp_path / f"v.{suffix}"
    path.write_bytes(content)
    assert refusal(path).startswith(f"truth '{path}' ")


@pytest.mark.parametrize(
    ("suffix", "package", "sentence"),
    [
        ("nii.gz", "nibabel", 'NIfTI needs the package nibabel: .*"streamloss[nifti]"'),
        ("nrrd", "nrrd", 'NRRD needs the package pynrrd: .*"streamloss[nrrd]"'),
        ("h5", "h5py", 'HDF5 needs the package h5py: .*"streamloss[hdf5]"'),
        ("tif", "tifffile", 'TIFF needs the package tifffile: .*"streamloss[tiff]"'),
    ],
)
def test_a_missing_package_is_named_with_its_extra(
    tmp_path, monkeypatch, suffix, package, sentence
):
    monkeypatch.setitem(sys.modules, package, None)
    (tmp_path / f"v.{suffix}").write_bytes(b"")
    head, tail = sentence.split(".*")
    message = refusal(tmp_path / f"v.{suffix}")
    assert message == f"truth {head}python -m pip install {tail}"
    with pytest.raises(ImportError):
        open_volume(tmp_path / f"v.{suffix}", role="truth")


def test_an_error_on_a_missing_package_survives_a_change_of_process():
    error = pickle.loads(pickle.dumps(MissingPackageError("NRRD needs the package pynrrd")))
    assert isinstance(error, MissingPackageError)
    assert str(error) == "NRRD needs the package pynrrd"


def test_a_codec_of_tiff_that_needs_a_missing_package_names_the_extra(tmp_path):
    tifffile.imwrite(tmp_path / "v.tif", voxels(), compression="lzw")
    code = """
import sys
sys.modules["imagecodecs"] = None
from streamloss.stores import open_volume
try:
    open_volume("v.tif", role="truth")
except ImportError as error:
    print(error)
"""
    run = [sys.executable, "-c", code]
    done = subprocess.run(run, capture_output=True, text=True, cwd=tmp_path, check=True)
    assert done.stdout == (
        "truth 'v.tif' of the codec LZW needs the package imagecodecs: "
        'python -m pip install "streamloss[tiff]"\n'
    )


def test_a_dataset_that_is_not_there_is_named_with_those_that_are(tmp_path):
    path = tmp_path / "v.h5"
    with h5py.File(path, "w") as file:
        file["a/raw"] = file["b"] = voxels()
        file["text"] = "no numbers"
    choice = "; pick one of them by its path, file/path: a/raw, b"
    assert refusal(path / "c") == f"truth '{path}' has no 'c'{choice}"
    assert refusal(path) == f"truth '{path}' holds several datasets{choice}"
    assert open_volume(path / "a", role="truth").name == f"{path}/a/raw"


def test_an_encoding_that_cannot_be_streamed_is_refused(tmp_path):
    nrrd.write(str(tmp_path / "v.nrrd"), voxels(), {"encoding": "bzip2"})
    assert refusal(tmp_path / "v.nrrd").endswith("has the encoding bzip2; expected raw or gzip")


def test_files_without_levels_have_no_level_1(tmp_path):
    np.save(tmp_path / "v.npy", voxels())
    assert refusal(tmp_path / "v.npy", level=1).endswith("has no resolution levels, so no level 1")


def test_no_package_of_an_extra_is_imported_for_arrays():
    packages = ["nibabel", "nrrd", "h5py", "tifffile", "obstore", "zarr"]
    code = (
        "import sys, numpy, streamloss as sl; sl.dice(numpy.ones(3, int), numpy.ones(3, int)); "
        f"print(' '.join(set(sys.modules) & set({packages!r})))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("\n", "")


def test_the_order_of_axes_is_told_where_shapes_are_reversed(pair):
    truth, _ = pair
    listed = np.asarray(nibabel.load(truth).dataobj)
    with pytest.raises(InvalidInputError, match="NIfTI and NRRD files are read slowest axis first"):
        sl.score(truth, listed, metrics="dice")


def test_labels_that_are_floats_are_refused_with_the_way_to_convert_them(pair, tmp_path):
    truth, _ = pair
    floats = save_nifti(tmp_path / "floats.nii.gz", (voxels() % 3).astype(np.float32))
    with pytest.raises(InvalidInputError, match=r"truth is float32: .* convert IN OUT\.zarr --lab"):
        sl.score(floats, truth, metrics="dice")
    converted = sl.convert(floats, tmp_path / "floats.zarr", labels=True)
    assert sl.score(converted, truth, metrics="dice")["dice"].value == 1.0


@pytest.mark.parametrize(
    ("suffix", "facts"),
    [
        ("nii.gz", ["3 × 0.8 × 0.9 millimeter", "-72]] RAS", "NIfTI-1", "gzip"]),
        ("h5/raw", ["HDF5", "27 of 27 chunks", "deflate"]),
        ("tif", ["ImageJ TIFF", "3 × 0.5 × 0.5 micrometer"]),
        ("npy", ["NumPy"]),
        ("nrrd", ["NRRD", "gzip"]),
    ],
)
def test_inspect_tells_what_a_file_is(tmp_path, monkeypatch, capsys, suffix, facts):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    save_nifti(Path("v.nii.gz"), voxels())
    np.save("v.npy", voxels())
    nrrd.write("v.nrrd", voxels().T)
    tifffile.imwrite("v.tif", voxels(), **TestImageJ.options)
    with h5py.File("v.h5", "w") as file:
        file.create_dataset("raw", data=voxels(), chunks=CHUNKS, compression="gzip")
    assert main(["inspect", f"v.{suffix}"]) == 0
    out = capsys.readouterr().out
    for fact in ["13 × 20 × 17", "uint16", *facts]:
        assert fact in out
    assert max(map(len, out.splitlines())) <= 80
