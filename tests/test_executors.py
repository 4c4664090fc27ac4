"""Every executor gives the bytes of the serial one, and failures come through."""

import signal
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_all_start_methods, get_context

import numpy as np
import pytest
import zarr

import streamloss as sl
from streamloss.executors import check_executor
from tests.strategies import runs_of
from tests.test_laws import payload


@pytest.fixture
def volumes(tmp_path):
    rng = np.random.default_rng(3)
    for name in ("truth", "prediction"):
        labels = runs_of(rng, [0, 1, 5], (48, 48, 48)).astype(np.uint8)
        zarr.create_array(tmp_path / f"{name}.zarr", data=labels, chunks=(16, 16, 16))
    return tmp_path / "truth.zarr", tmp_path / "prediction.zarr"


@pytest.fixture(autouse=True)
def many_blocks(monkeypatch):
    monkeypatch.setattr("streamloss.prepare.TARGET_BLOCK_VOXELS", {"direct": 1})


@pytest.mark.parametrize("executor", ["threads", "processes", "serial"])
def test_results_do_not_depend_on_the_executor(volumes, executor):
    expected = payload(sl.score(*volumes, executor="serial", workers=1))
    seen = []
    result = sl.score(*volumes, executor=executor, workers=2, progress=lambda *n: seen.append(n))
    assert payload(result) == expected
    assert seen[-1] == (48**3, 48**3)
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)


def test_any_executor_of_the_standard_library_will_do(volumes):
    expected = payload(sl.score(*volumes, executor="serial"))
    with ThreadPoolExecutor(3) as pool:
        assert payload(sl.score(*volumes, executor=pool)) == expected


@pytest.mark.parametrize("executor", ["threads", "processes"])
def test_an_unreadable_chunk_is_named_by_every_executor(volumes, executor):
    chunk = volumes[1] / "c" / "1" / "2" / "0"
    chunk.write_bytes(chunk.read_bytes()[:7])
    with pytest.raises(sl.ReadError, match=r"cannot read chunk \(1, 2, 0\) of .*prediction.zarr"):
        sl.score(*volumes, executor=executor, workers=2)


KILLED = """
import os, signal, sys
import streamloss as sl
from streamloss import prepare
prepare.TARGET_BLOCK_VOXELS = {"direct": 1}

def kill(done, total):
    if done:
        os.kill(os.getpid(), signal.SIGKILL)

sl.score(*sys.argv[1:], executor="processes", workers=2, progress=kill)
"""


def test_workers_end_with_a_process_that_is_killed(volumes):
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED, *map(str, volumes)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    # The pipes end when the last of the processes that inherited them does.
    process.communicate(timeout=120)
    assert process.returncode == -signal.SIGKILL


def test_a_pool_that_forks_is_refused(volumes):
    for method in get_all_start_methods():
        with ProcessPoolExecutor(1, mp_context=get_context(method)) as pool:
            if method != "fork":
                check_executor(pool)
                continue
            with pytest.raises(sl.InvalidInputError, match=r'get_context\("spawn"\)'):
                sl.score(*volumes, executor=pool)
