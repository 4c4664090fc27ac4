"""A Dask cluster of real processes gives the bytes of one process, whatever becomes of them."""

import os
import pickle
import signal
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import dask
import dask.array
import loky
import numpy as np
import pytest
import zarr
from distributed import Client, LocalCluster

import streamloss as sl
from streamloss import checkpoint, cluster, execution, prepare
from streamloss.stores import open_volume
from tests.strategies import runs_of
from tests.test_checkpoint import Stopped, payload, stop_after


@pytest.fixture(scope="module")
def client():
    with (
        LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=":0") as local,
        Client(local, set_as_default=False) as client,
    ):
        yield client


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("volumes")
    rng = np.random.default_rng(3)
    truth = runs_of(rng, [0, 1, 5], (64, 32, 32)).astype(np.uint8)
    prediction = np.where(rng.random(truth.shape) < 0.8, truth, 0).astype(np.uint8)
    binary = (truth > 0).astype(np.uint8)
    scores = (0.5 + 1e-7 * rng.integers(0, 900, truth.shape)).astype(np.float32)
    codes = rng.integers(0, 256, truth.shape).astype(np.uint8)
    arrays = {"truth": truth, "prediction": prediction, "binary": binary}
    for name, array in {**arrays, "scores": scores, "codes": codes}.items():
        zarr.create_array(folder / f"{name}.zarr", data=array, chunks=(8, 16, 32))
    return folder


@pytest.fixture(autouse=True)
def many_runs(monkeypatch):
    monkeypatch.setattr(prepare, "TARGET_BLOCK_VOXELS", {"direct": 1})
    monkeypatch.setattr(execution, "LARGE_RUN", 1)


RUNS = {
    "discovered labels": ("truth", "prediction", {"metrics": ["dice", "confusion_matrix"]}),
    "tallied codes": ("binary", "codes", {"kind": "probabilities"}),
    "regions": ("truth", "prediction", {"regions": "both=1+5,one=5", "ignore_label": 1}),
    "another look": ("binary", "scores", {"metrics": ["auroc", "cross_entropy"], "exact": True}),
}


@pytest.mark.parametrize("name", RUNS)
def test_a_cluster_gives_the_bytes_of_one_process(client, folder, name):
    truth, prediction, options = RUNS[name]
    volumes = folder / f"{truth}.zarr", folder / f"{prediction}.zarr"
    expected = sl.score(*volumes, executor="serial", **options)
    seen = []
    result = sl.score(*volumes, executor=client, progress=lambda *n: seen.append(n), **options)
    assert payload(result) == payload(expected)
    assert result.timing["executor"] == "Client"
    assert seen[-1] == (64 * 32 * 32, 64 * 32 * 32)
    assert len(seen) > 2


def test_a_worker_killed_in_the_run_costs_no_voxel_and_counts_none_twice(client, folder):
    volumes = folder / "truth.zarr", folder / "prediction.zarr"
    expected = payload(sl.score(*volumes, executor="serial"))
    before = client.run(os.getpid)
    killed = []

    def kill(done, total):
        # Sums of some groups are here, others are on the workers or under way.
        if done and not killed:
            killed.append(next(iter(before.values())))
            os.kill(killed[0], signal.SIGKILL)

    result = sl.score(*volumes, executor=client, progress=kill)
    assert killed
    assert payload(result) == expected
    client.wait_for_workers(2, timeout=120)
    assert killed[0] not in client.run(os.getpid).values()


def test_workers_that_end_again_and_again_end_the_run_with_a_sentence(client, folder):
    scheduler = client.cluster.scheduler
    allowed, scheduler.allowed_failures = scheduler.allowed_failures, 0
    try:
        with pytest.raises(sl.WorkerError, match="ended again and again"):
            sl.score(Deadly(), folder / "prediction.zarr", executor=client)
    finally:
        scheduler.allowed_failures = allowed
    client.wait_for_workers(2, timeout=120)


@pytest.mark.parametrize("closed", ["client", "cluster"])
def test_a_cluster_that_is_closed_in_the_run_ends_it_with_a_sentence(folder, closed):
    volumes = folder / "truth.zarr", folder / "prediction.zarr"
    with (
        LocalCluster(n_workers=1, processes=False, dashboard_address=":0") as local,
        Client(local, set_as_default=False) as client,
    ):
        closing = {"client": client, "cluster": local}[closed]

        def close(done, total):
            if done:
                closing.close()

        with pytest.raises(sl.WorkerError, match="Dask cluster went away before its work was done"):
            sl.score(*volumes, executor=client, progress=close)


INTERRUPTED = """
import os, signal, sys
import streamloss as sl
from streamloss import execution, prepare
prepare.TARGET_BLOCK_VOXELS, execution.LARGE_RUN = {"direct": 1}, 1

def interrupt(done, total):
    if done:
        os.killpg(0, signal.SIGINT)

try:
    sl.score(*sys.argv[1:], executor="dask", workers=2, progress=interrupt)
except KeyboardInterrupt:
    sys.exit(130)
"""


def test_an_interrupt_of_all_processes_of_a_cluster_is_that_of_one(folder):
    volumes = folder / "truth.zarr", folder / "prediction.zarr"
    process = subprocess.run(
        [sys.executable, "-c", INTERRUPTED, *map(str, volumes)],
        capture_output=True,
        check=False,
        start_new_session=True,
        text=True,
    )
    assert (process.returncode, process.stdout, process.stderr) == (130, "", "")


class Deadly:
    """An array that ends the process that reads it."""

    shape = (64, 32, 32)
    dtype = np.dtype(np.uint8)

    def __getitem__(self, region):
        os.kill(os.getpid(), signal.SIGKILL)


def test_what_travels_are_addresses_and_no_voxels(client, folder):
    run = prepare.prepare(folder / "truth.zarr", folder / "prediction.zarr")
    assert len(pickle.dumps(run.job)) < 20_000
    array = np.zeros((64, 32, 32), np.uint8)
    stored = zarr.create_array({}, data=np.ones((400, 300, 300), np.uint8), compressors=None)
    for held in (array, stored):
        with pytest.raises(sl.InvalidInputError, match="is in the memory of this process"):
            sl.score(held, held, executor=client)
    np.save(folder / "mapped.npy", array)
    mapped = np.load(folder / "mapped.npy", mmap_mode="r")
    assert payload(sl.score(mapped, mapped, executor=client)) == payload(sl.score(mapped, mapped))


def test_a_graph_of_tasks_travels_if_it_reads_files(folder, tmp_path):
    zarr.create_array(tmp_path / "fine.zarr", shape=(128,) * 3, chunks=(1,) * 3, dtype="u1")
    truth = folder / "truth.zarr"
    small = np.ones((64, 32, 32), np.uint8)
    large = np.ones((160, 100, 100), np.uint8)
    np.save(tmp_path / "large.npy", large)
    for graph in (
        dask.array.from_zarr(truth),
        # Thousands of tasks, larger than the voxels that may travel.
        dask.array.concatenate([dask.array.from_zarr(truth)[1:] + 1] * 900).rechunk((9, 32, 32)),
        dask.array.from_array(small, chunks=16),
        # Which of its chunks are stored takes 2 MiB.
        tmp_path / "fine.zarr",
    ):
        cluster.refuse_voxels([open_volume(graph, role="truth")])
    for graph in (
        dask.array.from_array(large),
        dask.array.from_array(large, chunks=50),
        dask.array.from_array(large)[::2].T + 1,
        # What was written to it is in no file.
        np.load(tmp_path / "large.npy", mmap_mode="c"),
    ):
        with pytest.raises(sl.InvalidInputError, match="may hold 1 MiB of arrays"):
            cluster.refuse_voxels([open_volume(graph, role="truth")])


def test_a_volume_that_the_workers_do_not_see_is_no_empty_one(client, folder, monkeypatch):
    monkeypatch.chdir(folder)
    with pytest.raises(sl.WorkerError, match=r"does not see .*truth.zarr: give absolute paths"):
        sl.score("truth.zarr", folder / "prediction.zarr", executor=client)


def test_a_chunk_that_a_worker_cannot_read_is_named(client, folder, tmp_path):
    zarr.create_array(
        tmp_path / "bad.zarr", data=np.ones((64, 32, 32), np.uint8), chunks=(8, 16, 32)
    )
    (tmp_path / "bad.zarr" / "c" / "1" / "1" / "0").write_bytes(b"short")
    with pytest.raises(sl.ReadError, match=r"cannot read chunk \(1, 1, 0\) of .*bad.zarr"):
        sl.score(folder / "truth.zarr", tmp_path / "bad.zarr", executor=client)


def test_a_cluster_goes_on_from_a_checkpoint(client, folder, tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint, "SECONDS", 0.0)
    volumes = folder / "truth.zarr", folder / "prediction.zarr"
    expected = payload(sl.score(*volumes))
    with pytest.raises(Stopped):
        sl.score(*volumes, executor=client, checkpoint=tmp_path, progress=stop_after(3))
    assert payload(sl.score(*volumes, checkpoint=tmp_path)) == expected


def test_dask_is_the_client_in_use_or_processes_of_this_machine(client, folder):
    volumes = folder / "truth.zarr", folder / "prediction.zarr"
    expected = payload(sl.score(*volumes))
    with client.as_current():
        result = sl.score(*volumes, executor="dask")
    assert result.timing["executor"] == "Client"
    assert payload(result) == expected
    result = sl.score(*volumes, executor="dask", workers=1)
    assert result.timing["executor"] == "dask"
    assert payload(result) == expected


def test_executors_of_other_packages_will_do(client, folder):
    volumes = folder / "truth.zarr", folder / "prediction.zarr"
    expected = payload(sl.score(*volumes))
    pools = [
        loky.ProcessPoolExecutor(2),
        ProcessPoolExecutor(2, mp_context=get_context("spawn")),
        client.get_executor(),
    ]
    for pool in pools:
        with pool:
            assert payload(sl.score(*volumes, executor=pool, workers=2)) == expected


def test_an_executor_whose_worker_ends_is_an_error_of_one_sentence(folder):
    with (
        ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool,
        pytest.raises(sl.WorkerError, match="a worker ended before its work was done"),
    ):
        sl.score(Deadly(), folder / "prediction.zarr", executor=pool)


def test_no_process_is_forked(folder, monkeypatch):
    def fork():
        raise AssertionError("forked")

    monkeypatch.setattr(os, "fork", fork)
    volumes = folder / "truth.zarr", folder / "prediction.zarr"
    expected = payload(sl.score(*volumes))
    assert payload(sl.score(*volumes, executor="processes", workers=2)) == expected
    with dask.config.set({"distributed.worker.multiprocessing-method": "fork"}):
        assert payload(sl.score(*volumes, executor="dask", workers=1)) == expected


def test_without_dask_the_extra_is_named(folder, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "dask", None)
    with pytest.raises(ImportError, match=r"pip install \"streamloss\[dask\]\""):
        sl.score(folder / "truth.zarr", folder / "prediction.zarr", executor="dask")


def test_a_cluster_without_workers_is_refused(folder):
    with (
        LocalCluster(n_workers=0, dashboard_address=":0") as local,
        Client(local, set_as_default=False) as client,
        pytest.raises(sl.InvalidInputError, match="has no workers"),
    ):
        cluster.threads(client)
