"""Joint counts of codes are exact for every size, and codes of no class never pass."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamloss.pairs import _SEGMENT, count_pairs

# Voxels that are counted at once, and the most whose counts are added up at once.
PACK = 64
GROUP = PACK * _SEGMENT


def counted(truth, prediction, classes):
    counts = np.zeros((classes, classes), np.int64)
    return count_pairs(truth, prediction, counts), counts


@st.composite
def sizes(draw):
    """Numbers of voxels of which those next to a multiple of a pack or a group are likely."""
    whole = draw(st.sampled_from([0, PACK, 8 * PACK, GROUP, 2 * GROUP]))
    return max(0, whole + draw(st.integers(-2 * PACK - 1, 2 * PACK + 1)))


@given(sizes(), st.integers(1, 6), st.integers(0, 2**32))
def test_every_pair_of_codes_is_counted_once(size, classes, seed):
    truth, prediction = np.random.default_rng(seed).integers(0, classes, (2, size), np.uint8)
    good, counts = counted(truth, prediction, classes)
    expected = np.zeros_like(counts)
    np.add.at(expected, (truth, prediction), 1)
    assert good
    assert (counts == expected).all()


@given(sizes().filter(bool), st.integers(1, 6), st.booleans(), st.data())
def test_one_code_of_no_class_is_noticed(size, classes, in_truth, data):
    codes = np.random.default_rng(size).integers(0, classes, (2, size), np.uint8)
    position = data.draw(st.integers(0, size - 1))
    codes[0 if in_truth else 1, position] = data.draw(st.integers(classes, 255))
    assert not counted(*codes, classes)[0]


@pytest.mark.parametrize("classes", [1, 2, 3, 4])
@pytest.mark.parametrize("role", [0, 1])
def test_a_code_of_no_class_is_noticed_at_every_position(role, classes):
    # Of nine packs and a few voxels: a vector of packs, one by itself, and no pack.
    codes = np.full((2, 9 * PACK + 11), classes - 1, np.uint8)
    for position in range(codes.shape[1]):
        for code in {classes, *(2**bit for bit in range(8) if 2**bit >= classes)}:
            codes[role, position] = code
            assert not counted(*codes, classes)[0], (position, code)
        codes[role, position] = classes - 1
    assert counted(*codes, classes)[0]
