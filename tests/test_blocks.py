"""Blocks cover a region once, keep to chunk borders and to the memory limit."""

import itertools
import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamloss.blocks import _decodes, format_bytes, plan, widen
from streamloss.errors import InvalidInputError


def bytes_of(shape):
    return math.prod(shape)


@st.composite
def problems(draw):
    shape = draw(st.lists(st.integers(1, 20), min_size=1, max_size=4))
    region = []
    for size in shape:
        start = draw(st.integers(0, size - 1))
        region.append(slice(start, draw(st.integers(start + 1, size))))
    grids = [tuple(draw(st.integers(1, size)) for size in shape) for _ in range(2)]
    return tuple(shape), tuple(region), grids


@given(problems(), st.integers(1, 500), st.integers(1, 2000))
def test_blocks_cover_the_region_exactly_once_within_the_limit(problem, limit, target):
    shape, region, grids = problem
    made = plan(region, grids, bytes_of, limit, target)
    seen = np.zeros(shape, int)
    for number in range(len(made)):
        box = made.block(number)
        seen[box] += 1
        assert math.prod(part.stop - part.start for part in box) <= limit
    inside = np.zeros(shape, int)
    inside[region] = 1
    assert np.array_equal(seen, inside)
    assert made.block_bytes <= limit


@given(problems())
def test_no_chunk_is_read_twice_where_memory_allows(problem):
    _, region, grids = problem
    made = plan(region, grids, bytes_of, 10**9, 1)
    assert not made.rereads
    boxes = [made.block(number) for number in range(len(made))]
    for chunks in grids:
        read = Counter(
            index
            for box in boxes
            for index in itertools.product(
                *(
                    range(part.start // chunk, -(-part.stop // chunk))
                    for part, chunk in zip(box, chunks, strict=True)
                )
            )
        )
        assert set(read.values()) == {1}


@given(problems(), st.data())
def test_voxels_decoded_are_those_of_the_chunks_that_each_block_touches(problem, data):
    shape, region, grids = problem
    blocks = tuple(data.draw(st.integers(1, size)) for size in shape)
    expected = 0
    for chunks in grids:
        touched = [
            sum(
                -(-min(start + size, part.stop) // chunk) - max(start, part.start) // chunk
                for start in range(part.start // size * size, part.stop, size)
            )
            for part, size, chunk in zip(region, blocks, chunks, strict=True)
        ]
        expected += math.prod(touched) * math.prod(chunks)
    assert _decodes(region, blocks, grids) == expected


@given(problems(), st.integers(0, 2**32))
def test_stored_blocks_are_those_that_touch_a_stored_chunk(problem, seed):
    shape, region, grids = problem
    made = plan(region, grids, bytes_of, 10**9, 50)
    rng = np.random.default_rng(seed)
    chunks = grids[0]
    grid = rng.random([-(-size // chunk) for size, chunk in zip(shape, chunks, strict=True)]) < 0.3
    stored = made.stored_blocks(grid, chunks)
    voxels = grid
    for axis, chunk in enumerate(chunks):
        voxels = np.repeat(voxels, chunk, axis)
    voxels = voxels[tuple(slice(0, size) for size in shape)]
    boxes = [made.block(number) for number in range(len(made))]
    # A chunk that a block touches may be stored where the block does not look.
    objects = [
        grid[
            tuple(
                slice(part.start // chunk, -(-part.stop // chunk))
                for part, chunk in zip(box, chunks, strict=True)
            )
        ].any()
        for box in boxes
    ]
    assert stored.ravel().tolist() == objects
    for flags in (stored, ~stored):
        inside = [box for box, flag in zip(boxes, flags.ravel(), strict=True) if flag]
        assert made.voxels(flags) == sum(voxels[box].size for box in inside)


def test_a_limit_below_one_voxel_is_refused_with_both_numbers():
    with pytest.raises(InvalidInputError, match=r"needs 8 B a worker, 4 B is left"):
        plan((slice(0, 4),), [(2,)], lambda shape: 8 * shape[0], 4, 100)


def test_the_plan_says_when_chunks_are_read_twice():
    made = plan((slice(0, 64), slice(0, 64)), [(64, 1), (1, 64)], bytes_of, 256, 256)
    assert made.rereads


def test_a_halo_ends_at_the_limits():
    limits = (slice(0, 10), slice(5, 20))
    wide, core = widen((slice(0, 4), slice(8, 12)), 2, limits)
    assert wide == (slice(0, 6), slice(6, 14))
    assert core == (slice(0, 4), slice(2, 6))


def test_bytes_read_well():
    assert [format_bytes(n) for n in (5, 1536, 2**20, 3 * 2**30, 2**41)] == [
        "5 B",
        "1.5 KiB",
        "1 MiB",
        "3 GiB",
        "2 TiB",
    ]


def test_blocks_of_whole_chunks_hold_each_of_them_in_one_run():
    region = tuple(slice(0, 64) for _ in range(3))
    made = plan(region, [(8, 8, 8)], bytes_of, 10**9, 4 * 8**3, chunkwise=True)
    assert made.block_shape == (32, 8, 8)
    # Another column beside it would cut the first one into pieces.
    made = plan(region, [(8, 8, 8)], bytes_of, 10**9, 64 * 8**3, chunkwise=True)
    assert made.block_shape == (64, 8, 8)
    made = plan(region, [(1, 8, 8)], bytes_of, 10**9, 2**20, chunkwise=True)
    assert made.block_shape == (64, 64, 8)
    flat = (slice(0, 1), slice(0, 64), slice(0, 64))
    made = plan(flat, [(4, 8, 8)], bytes_of, 10**9, 2**20, chunkwise=True)
    assert made.block_shape == (1, 64, 8)
