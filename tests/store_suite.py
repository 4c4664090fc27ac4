"""The conformance suite that every kind of `Volume` passes by inheriting `VolumeTests`."""

import pickle
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from streamloss.affine import Affine
from streamloss.scoring import score
from streamloss.stores import open_volume
from streamloss.volume import Region, Volume

SHAPE = (13, 20, 17)
CHUNKS = (5, 8, 6)
DAMAGES = {
    "a zero more": lambda data: data + b"\0",
    "zeros more": lambda data: data + bytes(40),
    "a byte more": lambda data: data + b"1",
    "bytes more": lambda data: data + b"and more of it",
    "twice": lambda data: data + data,
    "a byte less": lambda data: data[:-1],
    "four bytes less": lambda data: data[:-4],
}
"""What makes a stored chunk one that is none."""

# Small objects of Python, such as paths and slices, that no volume counts.
_OBJECTS_BYTES = 2**16


def voxels(dtype: str = "uint16") -> NDArray:
    """Values that are all different and nowhere zero."""
    return (np.arange(np.prod(SHAPE)).reshape(SHAPE) + 1).astype(dtype)


def regions(count: int) -> list[Region]:
    """The whole array and `count` boxes within it, the same in each run."""
    rng = np.random.default_rng(7)
    boxes = [tuple(slice(0, size) for size in SHAPE)]
    for _ in range(count):
        ends = [sorted(rng.choice(size + 1, 2, replace=False)) for size in SHAPE]
        boxes.append(tuple(slice(int(start), int(stop)) for start, stop in ends))
    return boxes


def read(volume: Volume, region: Region | None = None) -> NDArray:
    """Read a region, by default everything, into an array of the volume's own type."""
    region = region or tuple(slice(0, size) for size in volume.shape)
    # Zeros would hide voxels that are never written.
    out = np.empty([extent.stop - extent.start for extent in region], volume.dtype)
    out.view(np.uint8)[...] = 255
    volume.read(region, out)
    return out


def counts(volume: Volume) -> tuple[int, int] | None:
    """Chunks in total and stored, or None if unknown."""
    chunks = volume.stored_chunks
    return None if chunks is None else (chunks.total, chunks.stored)


class VolumeTests:
    """Inherit, and provide the fixture `source`: something that holds `voxels()`."""

    chunks = CHUNKS
    axes: tuple[str, ...] | None = None
    spacing: tuple[float, ...] | None = None
    unit: str | None = None
    affine: Affine | None = None
    stored: tuple[int, int] | None = None
    fill_value: int | None = None
    pickles = True

    @pytest.fixture
    def source(self, tmp_path: Path) -> object:
        raise NotImplementedError

    @pytest.fixture
    def volume(self, source: object) -> Volume:
        return open_volume(source, role="truth")

    def test_geometry_is_that_of_the_source(self, volume: Volume) -> None:
        assert volume.shape == SHAPE
        assert volume.chunks == self.chunks
        assert volume.axes == self.axes
        assert volume.spacing == self.spacing
        assert volume.unit == self.unit

    def test_affine_is_that_of_the_source(self, volume: Volume) -> None:
        if self.affine is None:
            assert volume.affine is None
            return
        assert volume.affine is not None
        assert volume.affine.space == self.affine.space
        assert volume.affine.distance(self.affine, SHAPE) < 1e-5

    def test_dtype_is_native(self, volume: Volume) -> None:
        assert volume.dtype == np.dtype("uint16")
        assert volume.dtype.isnative

    def test_any_region_reads_as_numpy_slices(self, volume: Volume) -> None:
        for region in regions(20):
            np.testing.assert_array_equal(read(volume, region), voxels()[region])

    def test_a_view_can_be_read_into(self, volume: Volume) -> None:
        buffer = np.zeros((SHAPE[2], SHAPE[1], 2 * SHAPE[0]), np.uint16)
        view = buffer[:, :, ::2].transpose()
        volume.read(tuple(slice(0, size) for size in SHAPE), view)
        np.testing.assert_array_equal(view, voxels())
        assert not buffer[:, :, 1::2].any()

    def test_threads_read_at_once(self, volume: Volume) -> None:
        boxes = regions(24)
        with ThreadPoolExecutor(8) as pool:
            for region, found in zip(
                boxes, pool.map(lambda box: read(volume, box), boxes), strict=True
            ):
                np.testing.assert_array_equal(found, voxels()[region])

    def test_pickles(self, volume: Volume) -> None:
        if not self.pickles:
            with pytest.raises(TypeError, match="pickled"):
                pickle.dumps(volume)
            return
        copy = pickle.loads(pickle.dumps(volume))
        np.testing.assert_array_equal(read(copy), voxels())
        assert copy.name == volume.name

    def test_stored_chunks_are_counted(self, volume: Volume) -> None:
        assert counts(volume) == self.stored

    def test_fill_value_is_that_of_missing_chunks(self, volume: Volume) -> None:
        assert volume.fill_value == self.fill_value

    def test_decode_bytes_is_a_whole_number_that_grows_with_the_region(
        self, volume: Volume
    ) -> None:
        small = volume.decode_bytes((slice(0, 1),) * 3)
        large = volume.decode_bytes(tuple(slice(0, size) for size in SHAPE))
        assert isinstance(small, int)
        assert 0 <= small <= large

    def test_what_is_held_between_reads_is_a_whole_number(self, volume: Volume) -> None:
        assert isinstance(volume.held_bytes, int)
        assert volume.held_bytes >= 0

    def test_memory_of_reads_is_below_what_is_declared(self, volume: Volume) -> None:
        whole = tuple(slice(0, size) for size in SHAPE)
        out = np.empty(SHAPE, volume.dtype)
        # What is imported and opened once is no part of it.
        volume.read(whole, out)
        tracemalloc.start()
        try:
            volume.read(whole, out)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert peak <= volume.held_bytes + volume.decode_bytes(whole) + _OBJECTS_BYTES

    def test_scores_are_those_of_the_array(self, source: object) -> None:
        options = {"kind": "values", "metrics": "mse,mae", "affine": "ignore"}
        shifted = np.roll(voxels(), 5, axis=1)
        found = score(source, shifted, **options)
        expected = score(voxels(), shifted, **options)
        assert {n: m.value for n, m in found.metrics.items()} == {
            n: m.value for n, m in expected.metrics.items()
        }

    def test_details_name_the_format(self, volume: Volume) -> None:
        assert isinstance(volume.details["format"], str)
