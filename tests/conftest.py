"""Hypothesis profile and helpers every test module shares."""

import subprocess
from contextlib import suppress

import pytest
from hypothesis import HealthCheck, settings

# Kernels compile on first use, so a deadline per example would say nothing.
settings.register_profile(
    "streamloss",
    deadline=None,
    max_examples=40,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    derandomize=True,
)
settings.load_profile("streamloss")


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 32 KiB."""
    place = tmp_path / "small"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=32k", "tmpfs", place], check=False, capture_output=True
    )
    if mounted.returncode:
        pytest.skip("no file system can be mounted here")
    yield place
    subprocess.run(["umount", place], check=True)


def fill(place):
    """Fill a file system with a file, and return that."""
    with (place / "filler").open("wb", buffering=0) as filler, suppress(OSError):
        while True:
            filler.write(bytes(1024))
    return place / "filler"


@pytest.fixture(params=["full", "read-only"])
def no_disk(small_disk, request):
    """A file system that takes no file, and why."""
    if request.param == "full":
        fill(small_disk)
        return small_disk, "No space left on device"
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    return small_disk, "Read-only file system"
