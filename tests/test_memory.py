"""Peak memory stays below what the plan projects, which stays below what is allowed."""

import json
import subprocess
import sys

import h5py
import nibabel
import nrrd
import numpy as np
import pytest
import tifffile
import zarr

import streamloss as sl
from streamloss.prepare import parse_bytes

# pynrrd tells the time of writing in a way that Python 3.12 and newer warn of.
pytestmark = pytest.mark.filterwarnings("ignore:datetime.datetime.utcnow:DeprecationWarning")

PAIRS = [("labels", "labels"), ("labels", "planes"), ("few", "scores")]
# A new process, because the peak of this one is the peak of every test before.
MEASURED_RUN = """
import json, sys
import h5py, nibabel, nrrd, tifffile
import streamloss.accumulator, streamloss.stores.zarr, zarr
from streamloss.statistic import discover
discover()

def peak():
    lines = open("/proc/self/status").read().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))

baseline = peak()
result = streamloss.score(**json.loads(sys.argv[1]))
print(json.dumps({"peak": peak() - baseline, **result.timing}))
"""


def measure(**options):
    done = subprocess.run(
        [sys.executable, "-c", MEASURED_RUN, json.dumps(options)],
        check=True,
        capture_output=True,
        text=True,
    )
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def volumes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("volumes")
    labels = (np.indices((256, 256, 256), np.uint8, sparse=True)[0] // 64).astype(np.uint8)
    labels = np.broadcast_to(labels, (256, 256, 256))
    scores = np.random.default_rng(0).random((4, 64, 256, 256), np.float32)
    for name, array, chunks in (
        ("labels", labels, (64, 64, 64)),
        ("few", labels[:64], (64, 64, 64)),
        ("planes", labels, (1, 256, 256)),
        ("scores", scores, (1, 64, 64, 64)),
    ):
        stored = zarr.create_array(
            folder / f"{name}.zarr", shape=array.shape, dtype=array.dtype, chunks=chunks
        )
        stored[...] = array
    paths = {name: f"{name}.zarr" for name in ("labels", "few", "planes", "scores")}
    nibabel.Nifti1Image(labels.T, np.eye(4)).to_filename(folder / "labels.nii.gz")
    nrrd.write(str(folder / "labels.nrrd"), labels.T, {"encoding": "raw"})
    with h5py.File(folder / "labels.h5", "w") as file:
        file.create_dataset("labels", data=labels, chunks=(64, 64, 64), compression="gzip")
    tifffile.imwrite(folder / "labels.tif", labels, compression="zlib")
    paths |= {name: f"labels.{name}" for name in ("nii.gz", "nrrd", "h5", "tif")}
    return {name: str(folder / path) for name, path in paths.items()}


@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak from /proc")
@pytest.mark.parametrize(
    ("truth", "prediction", "allowed"),
    [
        *((*pair, allowed) for pair in PAIRS for allowed in ("256MiB", "1GiB")),
        *((name, "nii.gz", "256MiB") for name in ("labels", "nii.gz", "nrrd", "h5", "tif")),
    ],
)
def test_the_measured_peak_is_below_the_projected_one(volumes, truth, prediction, allowed):
    row = measure(
        truth=volumes[truth],
        prediction=volumes[prediction],
        classes=4,
        max_memory=allowed,
    )
    assert row["peak"] <= row["projected_bytes"] <= row["max_memory"]


@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak from /proc")
def test_the_copies_of_a_sum_that_is_saved_are_projected_too(volumes, tmp_path):
    run = {"truth": volumes["few"], "prediction": volumes["scores"], "metrics": ["auroc"]}
    plain = measure(**run, max_memory="1GiB")
    saved = measure(**run, max_memory="1GiB", checkpoint=str(tmp_path))
    # Three more of 3.6 MB for each of four channels.
    assert saved["projected_bytes"] - plain["projected_bytes"] > 3 * 4 * 3_500_000
    assert saved["peak"] <= saved["projected_bytes"]


MEASURED_BATCH = """
import json, resource, sys
import nibabel
import streamloss.batching, streamloss.stores.zarr, zarr
from streamloss.statistic import discover
discover()

def peak():
    lines = open("/proc/self/status").read().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))

if __name__ == "__main__":
    request = json.loads(sys.argv[1])
    pairs, workers = request.pop("pairs"), request["workers"]
    cases = [streamloss.Case(str(i), *pair) for i, pair in enumerate(pairs)]
    baseline = peak()
    done = streamloss.batch(cases, **request)
    assert not done.failures, done.failures
    # Of the processes it started the largest is known, as if each had been as large.
    child = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
    print(peak() - baseline + max(child - baseline, 0) * (workers - 1))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak from /proc")
@pytest.mark.parametrize(
    ("count", "workers", "executor", "allowed"),
    [
        (2, 1, "threads", "256MiB"),
        (12, 2, "threads", "256MiB"),
        (12, 6, "threads", "256MiB"),
        (12, 2, "processes", "512MiB"),
        (12, 3, "processes", "768MiB"),
    ],
)
def test_a_batch_stays_within_one_limit_whatever_its_cases_and_workers(
    volumes, tmp_path, count, workers, executor, allowed
):
    pairs = [(volumes["labels"], volumes["nii.gz" if i % 2 else "planes"]) for i in range(count)]
    request = {
        "pairs": pairs,
        "workers": workers,
        "executor": executor,
        "max_memory": allowed,
        "metrics": "dice",
        "affine": "ignore",
        "output": str(tmp_path / "out"),
    }
    script = tmp_path / "measured.py"
    script.write_text(MEASURED_BATCH)
    done = subprocess.run(
        [sys.executable, script, json.dumps(request)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) <= parse_bytes(allowed)


def test_an_impossible_limit_is_refused_with_both_numbers(volumes):
    with pytest.raises(sl.InvalidInputError, match=r"needs at least .* MiB, 32 MiB is allowed"):
        sl.score(volumes["labels"], volumes["labels"], max_memory="32MiB")


@pytest.mark.parametrize("size", ["lots", "-1", "0", "12QiB"])
def test_a_size_that_is_none_is_refused(size):
    with pytest.raises(sl.InvalidInputError, match="max_memory must be a size"):
        sl.score(np.ones(3, np.uint8), np.ones(3, np.uint8), max_memory=size)
