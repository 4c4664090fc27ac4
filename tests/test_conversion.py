"""A converted volume has the scores of its source, and is there whole or not at all."""

import json
import subprocess
import sys
from pathlib import Path

import dask.array
import h5py
import numpy as np
import pytest
import tifffile
import zarr

import streamloss as sl
from streamloss.cli import main
from streamloss.errors import InvalidInputError, ReadError
from streamloss.stores import open_volume
from tests.store_suite import CHUNKS, SHAPE, read, voxels
from tests.test_formats import LAS, flipped, noise, save_nifti

LABELS = (voxels() % 4).astype(np.uint8)
PREDICTION = np.where(voxels() % 7 == 0, 0, LABELS)


def save_npy(path, array):
    np.save(path / "v.npy", array)
    return path / "v.npy"


def save_hdf5(path, array):
    with h5py.File(path / "v.h5", "w") as file:
        file.create_dataset("raw", data=array, chunks=CHUNKS, compression="gzip")
    return path / "v.h5" / "raw"


def save_tiff(path, array):
    tifffile.imwrite(path / "v.tif", array, compression="zlib", tile=(16, 16))
    return path / "v.tif"


def save_zarr(path, array):
    attributes = {"spacing": [3, 0.9, 0.9]}
    zarr.create_array(path / "v.zarr", data=array, chunks=CHUNKS, attributes=attributes)
    return path / "v.zarr"


SOURCES = {
    "npy": save_npy,
    "nifti": lambda path, array: save_nifti(path / "v.nii.gz", array),
    "hdf5": save_hdf5,
    "tiff": save_tiff,
    "zarr": save_zarr,
    "dask": lambda path, array: dask.array.from_array(array, CHUNKS),
}


def scores(truth, prediction, **options):
    """All of a result that is the same bytes whatever holds the voxels."""
    metrics = "dice,iou,absolute_volume_difference,confusion_matrix"
    result = sl.score(truth, prediction, metrics=metrics, **options).to_dict()
    result["options"].pop("region")
    return json.dumps({key: result[key] for key in ("options", "voxels", "classes", "metrics")})


@pytest.mark.parametrize("version", ["0.5", "0.4"])
@pytest.mark.parametrize("save", SOURCES.values(), ids=SOURCES)
def test_scores_are_those_of_the_source(tmp_path, save, version):
    source = save(tmp_path, LABELS)
    sl.convert(source, tmp_path / "out.zarr", version=version, chunks=(4, 8, 16))
    assert scores(tmp_path / "out.zarr", PREDICTION) == scores(source, PREDICTION)
    before, after = (open_volume(place, role="truth") for place in (source, tmp_path / "out.zarr"))
    np.testing.assert_array_equal(read(after), read(before))
    assert (after.dtype, after.spacing, after.unit) == (before.dtype, before.spacing, before.unit)
    assert after.affine == before.affine
    assert (after.chunks, after.reader) == ((4, 8, 16), "direct")
    assert [path.name for path in tmp_path.glob("*out.zarr*")] == ["out.zarr"]


def test_the_image_is_ome_zarr_of_version_05(tmp_path):
    sl.convert(save_nifti(tmp_path / "v.nii.gz", LABELS), tmp_path / "v.ome.zarr", labels=True)
    ome = zarr.open_group(tmp_path / "v.ome.zarr", mode="r").attrs["ome"]
    scale = {"type": "scale", "scale": [3.0, 0.8, 0.9]}
    assert ome == {
        "version": "0.5",
        "multiscales": [
            {
                "name": "v",
                "axes": [{"name": n, "type": "space", "unit": "millimeter"} for n in "zyx"],
                "datasets": [{"path": "0", "coordinateTransformations": [scale]}],
            }
        ],
        "image-label": {},
    }
    array = zarr.open_array(tmp_path / "v.ome.zarr" / "0", mode="r")
    assert array.metadata.dimension_names == ("z", "y", "x")
    assert [codec.to_dict()["name"] for codec in array.metadata.codecs] == [
        *("bytes", "zstd", "crc32c")
    ]


def test_channels_have_chunks_of_their_own(tmp_path):
    stack = np.stack([LABELS, LABELS]).astype(np.float32)
    sl.convert(save_nifti(tmp_path / "v.nii.gz", stack), tmp_path / "out.zarr")
    volume = open_volume(tmp_path / "out.zarr", role="truth")
    assert (volume.axes, volume.chunks) == (("c", "z", "y", "x"), (1, *SHAPE))
    axes = zarr.open_group(tmp_path / "out.zarr", mode="r").attrs["ome"]["multiscales"][0]["axes"]
    assert axes[0] == {"name": "c", "type": "channel"}


def test_a_flipped_grid_is_refused_after_conversion_too(tmp_path):
    truth = save_nifti(tmp_path / "truth.nii.gz", LABELS)
    moved = save_nifti(tmp_path / "moved.nii.gz", LABELS, flipped(LAS, 0, SHAPE[2]))
    sl.convert(moved, tmp_path / "moved.zarr")
    with pytest.raises(InvalidInputError, match="truth and prediction lie on different grids"):
        sl.score(truth, tmp_path / "moved.zarr")


@pytest.mark.parametrize("version", ["0.5", "0.4"])
def test_a_chunk_that_is_damaged_later_is_noticed(tmp_path, version):
    sl.convert(save_npy(tmp_path, voxels()), tmp_path / "out.zarr", version=version)
    chunk = max((tmp_path / "out.zarr").rglob("0/0/0"), key=lambda path: path.stat().st_size)
    stored = bytearray(chunk.read_bytes())
    stored[len(stored) // 2] ^= 1
    chunk.write_bytes(stored)
    with pytest.raises(ReadError, match=r"chunk \(0, 0, 0\)"):
        sl.score(tmp_path / "out.zarr", voxels(), kind="values", metrics="mse")


def test_labels_that_are_stored_as_floats_become_integers(tmp_path):
    source = save_npy(tmp_path, LABELS.astype(np.float64))
    sl.convert(source, tmp_path / "out.zarr", labels=True)
    volume = open_volume(tmp_path / "out.zarr", role="truth")
    assert volume.dtype == np.int32
    np.testing.assert_array_equal(read(volume), LABELS)


@pytest.mark.parametrize("value", [0.5, np.nan, 2.0**40])
def test_what_is_no_label_is_refused_with_its_place(tmp_path, value):
    array = LABELS.astype(np.float64)
    array[9, 13, 2] = value
    with pytest.raises(InvalidInputError, match=r"holds no labels: the value at \(9, 13, 2\) is"):
        sl.convert(save_npy(tmp_path, array), tmp_path / "out.zarr", labels=True, chunks=(4, 8, 8))
    assert [path.name for path in tmp_path.iterdir()] == ["v.npy"]


def test_nothing_is_left_of_a_source_that_cannot_be_read(tmp_path):
    path = save_nifti(tmp_path / "v.nii.gz", noise())
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(ReadError, match="cannot read region"):
        sl.convert(path, tmp_path / "out.zarr", chunks=(16, 128, 128))
    assert [path.name for path in tmp_path.iterdir()] == ["v.nii.gz"]


def test_an_interrupt_leaves_what_was_there(tmp_path):
    source = save_npy(tmp_path, LABELS)
    sl.convert(source, tmp_path / "out.zarr")

    def interrupt(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sl.convert(source, tmp_path / "out.zarr", overwrite=True, progress=interrupt)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.zarr", "v.npy"]
    np.testing.assert_array_equal(read(open_volume(tmp_path / "out.zarr", role="a")), LABELS)


def test_an_interrupt_between_the_old_image_and_the_new_leaves_the_old(tmp_path, monkeypatch):
    source = save_npy(tmp_path, LABELS)
    sl.convert(source, tmp_path / "out.zarr")
    rename = Path.rename

    def interrupt(path, target):
        if path.suffix == ".partial":
            raise KeyboardInterrupt
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", interrupt)
    with pytest.raises(KeyboardInterrupt):
        sl.convert(source, tmp_path / "out.zarr", overwrite=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.zarr", "v.npy"]
    np.testing.assert_array_equal(read(open_volume(tmp_path / "out.zarr", role="a")), LABELS)


INTERRUPTED_RUN = """
import os, signal, sys
from zarr.storage import LocalStore
from streamloss.cli import main

store, calls = LocalStore.set, []

async def interrupted(self, *arguments, **options):
    calls.append(None)
    if len(calls) == 50:
        os.kill(os.getpid(), signal.SIGINT)
    await store(self, *arguments, **options)

LocalStore.set = interrupted
sys.exit(main(["convert", "v.npy", "out.zarr", "--chunks", "2,2,2"]))
"""


def test_an_interrupt_amid_a_write_is_told_in_one_line_and_leaves_nothing(tmp_path):
    save_npy(tmp_path, np.ones((32, 32, 32), np.uint8))
    run = [sys.executable, "-c", INTERRUPTED_RUN]
    done = subprocess.run(run, cwd=tmp_path, capture_output=True, text=True)
    # The line that is empty ends the one in which a terminal shows ^C.
    assert (done.returncode, done.stderr) == (130, "\nerror: interrupted\n")
    assert [path.name for path in tmp_path.iterdir()] == ["v.npy"]


def test_an_image_is_replaced_only_if_asked_for(tmp_path):
    source = save_npy(tmp_path, LABELS)
    sl.convert(source, tmp_path / "out.zarr", chunks=(4, 4, 4))
    with pytest.raises(InvalidInputError, match="is there already: pass `overwrite`"):
        sl.convert(source, tmp_path / "out.zarr")
    sl.convert(source, tmp_path / "out.zarr", overwrite=True)
    assert open_volume(tmp_path / "out.zarr", role="a").chunks == SHAPE
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.zarr", "v.npy"]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"target": "out"}, "target must have a name that ends in .zarr, got 'out'"),
        ({"target": "s3://b/out.zarr"}, "target 's3://b/out.zarr' is a URL; expected a local"),
        ({"target": "no/out.zarr"}, "target 'no/out.zarr' is in a folder that does not exist"),
        ({"version": "0.3"}, "version must be 0.5 or 0.4, got '0.3'"),
        ({"chunks": "4,4"}, "chunks must be 3 numbers of at least 1, one per axis, got '4,4'"),
        ({"max_memory": "64MiB"}, "max_memory is too small: converting needs at least"),
        ({"source": np.arange(3)}, r"source 'NumPy array \(3,\) int64' has 1 axes; OME-Zarr has"),
        ({"source": "no.nii"}, "source does not exist: 'no.nii'"),
    ],
)
def test_what_cannot_be_done_is_refused_first(tmp_path, monkeypatch, options, sentence):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InvalidInputError, match=sentence):
        sl.convert(**{"source": LABELS, "target": "out.zarr", **options})
    assert list(tmp_path.iterdir()) == []


MEASURED_RUN = """
import json, sys
import streamloss.conversion, streamloss.stores.zarr, nibabel, zarr

def peak():
    lines = open("/proc/self/status").read().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))

baseline = peak()
streamloss.convert(sys.argv[1], sys.argv[2], max_memory=sys.argv[3], workers=2)
print(peak() - baseline)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak from /proc")
def test_memory_stays_below_what_is_allowed(tmp_path):
    """A stream of 64 MiB, of which no slab of the usual chunks fits in memory."""
    plane = np.random.default_rng(0).integers(0, 9, (512, 512)).astype(np.float32)
    source = save_nifti(tmp_path / "v.nii.gz", np.broadcast_to(plane, (64, 512, 512)))
    run = [sys.executable, "-c", MEASURED_RUN, source, tmp_path / "out.zarr", "160MiB"]
    done = subprocess.run(run, check=True, capture_output=True, text=True)
    assert int(done.stdout) <= 160 * 2**20
    volume = open_volume(tmp_path / "out.zarr", role="truth")
    assert volume.chunks == (16, 128, 128)
    last = (slice(63, 64), slice(0, 512), slice(0, 512))
    np.testing.assert_array_equal(read(volume, last)[0], plane)


def test_the_command_converts_and_tells_what_it_wrote(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    save_npy(tmp_path, LABELS)
    assert (
        main(["convert", "v.npy", "v.zarr", "--labels", "--chunks", "8,8", "--chunks", "17"]) == 0
    )
    out, err = capsys.readouterr()
    assert out == "v.zarr: 13 × 20 × 17 uint8, chunks of 8 × 8 × 17, 6 of 6 stored\n"
    assert err == ""
    assert main(["convert", "v.npy", "v.zarr", "--progress"]) == 2
    assert capsys.readouterr().err == (
        "error: target 'v.zarr' is there already: pass --overwrite to replace it\n"
    )
    assert main(["convert", "v.npy", "v.zarr", "--progress", "--overwrite"]) == 0
    assert "converting: 100 %" in capsys.readouterr().err
