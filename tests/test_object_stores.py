"""Zarr in a bucket, read from a real object server on this machine."""

import subprocess
import sys

import boto3
import numpy as np
import obstore
import pytest
import zarr
from zarr.storage import ObjectStore, StorePath

import streamloss as sl
from streamloss.errors import InvalidInputError, ReadError
from streamloss.stores import open_volume
from tests.store_suite import CHUNKS, VolumeTests, counts, read, voxels
from tests.test_stores import multiscales

# In a process of its own, whose memory is not ours. It ends with its standard input.
SERVER = """
import sys
from moto.server import ThreadedMotoServer
server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
server.start()
print(server.get_host_and_port()[1], flush=True)
sys.stdin.read()
server.stop()
"""


@pytest.fixture(scope="module")
def endpoint():
    with subprocess.Popen(
        [sys.executable, "-c", SERVER],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        # The server notes each request there.
        stderr=subprocess.DEVNULL,
        text=True,
    ) as server:
        yield f"http://127.0.0.1:{server.stdout.readline().strip()}"
        server.stdin.close()


@pytest.fixture
def bucket(endpoint, monkeypatch):
    """A bucket that is empty, and the environment in which `s3://bucket` is it."""
    for name, value in {
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_REGION": "us-east-1",
        "AWS_ALLOW_HTTP": "true",
        "NO_PROXY": "127.0.0.1",
    }.items():
        monkeypatch.setenv(name, value)
    client = boto3.client("s3", endpoint_url=endpoint, region_name="us-east-1")
    client.create_bucket(Bucket="bucket")
    store = obstore.store.from_url("s3://bucket")
    yield store
    names = [entry["path"] for page in obstore.list(store) for entry in page]
    obstore.delete(store, names)
    client.delete_bucket(Bucket="bucket")
    client.close()


def place(bucket, path: str) -> StorePath:
    return StorePath(ObjectStore(bucket), path)


class TestZarrInABucket(VolumeTests):
    stored = (27, 27)
    fill_value = 0

    @pytest.fixture
    def source(self, bucket):
        zarr.create_array(place(bucket, "study/v.zarr"), data=voxels(), chunks=CHUNKS)
        return "s3://bucket/study/v.zarr"


class TestLabelsOfAnImageInABucket(VolumeTests):
    stored = (27, 27)
    fill_value = 0
    axes = ("z", "y", "x")
    spacing = (2.0, 0.5, 0.25)
    unit = "micrometer"

    @pytest.fixture
    def source(self, bucket):
        group = zarr.create_group(place(bucket, "v.zarr/labels/organs"), attributes=multiscales())
        for level in ("0", "1"):
            group.create_array(level, data=voxels(), chunks=CHUNKS)
        # The array is named, and finds the image around it.
        return "s3://bucket/v.zarr/labels/organs/0"


def test_scores_are_those_of_a_local_copy(bucket, tmp_path):
    labels = (voxels() % 5).astype(np.uint8)
    prediction = np.where(voxels() % 7 == 0, 0, labels)
    for name, array in (("truth", labels), ("prediction", prediction)):
        zarr.create_array(place(bucket, f"{name}.zarr"), data=array, chunks=CHUNKS)
        zarr.create_array(tmp_path / f"{name}.zarr", data=array, chunks=CHUNKS)
    remote = sl.score("s3://bucket/truth.zarr", "s3://bucket/prediction.zarr")
    local = sl.score(tmp_path / "truth.zarr", tmp_path / "prediction.zarr")
    assert remote.to_dict()["metrics"] == local.to_dict()["metrics"]
    assert remote.inputs["truth"]["name"] == "s3://bucket/truth.zarr"
    assert remote.timing["reader"] == {"truth": "zarr", "prediction": "zarr"}


def test_processes_open_the_bucket_themselves(bucket):
    zarr.create_array(place(bucket, "v.zarr"), data=voxels(), chunks=CHUNKS)
    options = {"kind": "values", "metrics": "mse", "executor": "processes", "workers": 2}
    assert sl.score("s3://bucket/v.zarr", voxels() + 2, **options)["mse"].value == 4.0


def test_chunks_that_are_not_stored_are_counted(bucket):
    array = zarr.create_array(
        place(bucket, "v.zarr"), shape=voxels().shape, dtype="u2", chunks=CHUNKS, fill_value=3
    )
    array[:5, :8, :6] = 1
    volume = open_volume("s3://bucket/v.zarr", role="truth")
    assert counts(volume) == (27, 1)
    assert read(volume)[12, 19, 16] == 3


def test_an_object_that_is_cut_short_is_named(bucket):
    zarr.create_array(place(bucket, "v.zarr"), data=voxels(), chunks=CHUNKS)
    key = "v.zarr/c/0/0/1"
    obstore.put(bucket, key, bytes(obstore.get(bucket, key).bytes())[:9])
    with pytest.raises(ReadError, match=r"chunk \(0, 0, 1\) of 's3://bucket/v.zarr'.*'c/0/0/1'"):
        sl.score("s3://bucket/v.zarr", voxels(), kind="values", metrics="mse")


@pytest.mark.parametrize("stop", [8, 16])
def test_an_empty_shard_is_named(bucket, stop):
    zarr.create_array(
        place(bucket, "v.zarr"), data=voxels(), chunks=CHUNKS, shards=(10, 16, 12), fill_value=3
    )
    obstore.put(bucket, "v.zarr/c/0/0/0", b"")
    volume = open_volume("s3://bucket/v.zarr", role="truth")
    # A part of the shard, and all of it.
    with pytest.raises(ReadError, match=r"chunk \(0, 0, 0\) of 's3://bucket/v.zarr'.*'c/0/0/0'"):
        read(volume, (slice(0, 10), slice(0, stop), slice(0, 12)))


def test_a_url_without_data_is_named(bucket):
    with pytest.raises(
        InvalidInputError, match=r"'s3://bucket/void\.zarr' does not exist or holds"
    ):
        open_volume("s3://bucket/void.zarr", role="truth")


def test_a_bucket_that_cannot_be_reached_is_named(bucket, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(InvalidInputError, match=r"truth 's3://bucket/v\.zarr' cannot be opened"):
        open_volume("s3://bucket/v.zarr", role="truth")


def test_a_checkpoint_sees_a_changed_object(bucket, tmp_path):
    array = zarr.create_array(place(bucket, "v.zarr"), data=voxels(), chunks=CHUNKS)
    options = {"kind": "values", "checkpoint": tmp_path}
    first = sl.score("s3://bucket/v.zarr", "s3://bucket/v.zarr", **options)
    again = sl.score("s3://bucket/v.zarr", "s3://bucket/v.zarr", **options)
    assert again.metrics == first.metrics
    array[0, 0, 0] = array[0, 0, 0] + 1
    with pytest.raises(InvalidInputError, match=r"the stored truth s3:.* was .* files"):
        sl.score("s3://bucket/v.zarr", "s3://bucket/v.zarr", **options)


def test_a_batch_of_a_bucket_is_resumed_unless_an_object_has_changed(bucket, tmp_path):
    labels = (voxels() % 5).astype(np.uint8)
    for name in ("truth", "prediction"):
        zarr.create_array(place(bucket, f"{name}.zarr"), data=labels, chunks=CHUNKS)
    (tmp_path / "cases.csv").write_text(
        "case,truth,prediction\na,s3://bucket/truth.zarr,s3://bucket/prediction.zarr\n"
    )
    cases = sl.read_manifest(tmp_path / "cases.csv")
    run = {"output": tmp_path / "out", "metrics": "dice"}
    assert sl.batch(cases, **run).summary[0].mean == 1.0
    assert sl.batch(cases, resume=True, **run).skipped == 1
    zarr.open_array(place(bucket, "prediction.zarr"))[0, 0, 0] = 4
    with pytest.raises(InvalidInputError, match=r"files of its prediction s3:.* have changed"):
        sl.batch(cases, resume=True, **run)


def test_a_batch_of_a_bucket_is_not_resumed_if_the_image_around_an_array_has_changed(
    bucket, tmp_path
):
    group = zarr.create_group(place(bucket, "v.zarr"), attributes=multiscales())
    group.create_array("0", data=(voxels() % 5).astype(np.uint8), chunks=CHUNKS)
    cases = [sl.Case("a", "s3://bucket/v.zarr/0", "s3://bucket/v.zarr/0")]
    run = {"output": tmp_path / "out", "metrics": "dice"}
    sl.batch(cases, **run)
    assert sl.batch(cases, resume=True, **run).skipped == 1
    group.attrs.update(multiscales(coordinateTransformations=[]))
    with pytest.raises(InvalidInputError, match=r"files of its truth s3:.* have changed"):
        sl.batch(cases, resume=True, **run)
