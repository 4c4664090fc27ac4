"""The hot loops are compiled to vector instructions where the processor has them."""

import re

import llvmlite.binding as llvm
import numpy as np
import pytest
from numba import njit

from streamloss import exact, pairs, slab, words
from streamloss._jit import _FLAGS
from streamloss.metrics import class_counts, likelihood, probability_sums

pytestmark = pytest.mark.skipif(
    not llvm.get_host_cpu_features().get("avx2"), reason="the processor has no AVX2"
)

N = 4096
BYTES = np.zeros(N, np.uint8)
SINGLES = np.full((1, N), 0.5, np.float32)
DOUBLES = np.full(N, 0.5)
CHANNELS = np.full((4, N), 0.25, np.float32)


def sums(*shape):
    return np.zeros(shape, np.int64)


def likelihood_arguments(scores, groups):
    state = sums(groups), sums(groups, 2), sums(groups, 2), sums(1)
    return BYTES, scores, False, 2.0**-52, np.ones(groups), 2.0, True, *state


# AVX-512 has names of its own, one instruction for any logic of three operands, and masks.
AND = r"vpand[dq]?|vandp[sd]|vpternlog[dq]"
FUSED = r"vf(n?)m(add|sub)\w+pd"
OR = r"vpor[dq]?|vpternlog[dq]"

# Kernel, arguments, and the packed instructions without which it cannot be fast.
CASES = {
    "binary counts": (pairs.count_pairs, (BYTES, BYTES, sums(2, 2)), [AND, "vpaddq"]),
    "four-class counts": (
        pairs.count_pairs,
        (BYTES, BYTES, sums(4, 4)),
        ["vpsllq", "vpopcntq|vpshufb"],
    ),
    "label range": (words.any_from, (BYTES, 4), ["vpaddq", OR]),
    "score range": (
        words._any_beyond,
        (SINGLES[0], *words._lanes(SINGLES.dtype, 1.0, False)),
        ["vpaddq", OR],
    ),
    "decision": (slab._at_least, (SINGLES[0], np.float32(0.5), BYTES.copy()), ["vcmp(le|ge)ps"]),
    "argmax": (slab._argmax, (CHANNELS, BYTES.copy()), ["vcmpeqps", "vpaddd|vpsubd"]),
    "decisions and counts": (
        class_counts.count_decisions,
        (BYTES, SINGLES[0], np.float32(0.5), sums(2, 2)),
        ["vcmp(le|ge|lt|nlt)ps", "vpadd[dq]|vpsub[dq]"],
    ),
    "fixed-point sum": (exact.add_fixed_terms, (sums(2), DOUBLES), [FUSED, "vpaddq"]),
    "fixed-point sum of two classes": (
        exact.add_fixed_by_class,
        (sums(2, 2), BYTES, DOUBLES, 2),
        ["vpmovzxbq", FUSED, AND, "vpaddq"],
    ),
    "log-loss and focal loss": (
        likelihood._add_hard_binary,
        likelihood_arguments(SINGLES, 2),
        ["vcvtps2pd", "vdivpd", "vmulpd", FUSED, "vpaddq"],
    ),
    "log-loss of four channels": (
        likelihood._add_hard,
        likelihood_arguments(CHANNELS, 4),
        ["vdivpd", "vmulpd", FUSED, "vpaddq"],
    ),
    "soft sums and squared error": (
        probability_sums.add_binary,
        (BYTES, SINGLES, True, True, sums(2), *(sums(1, 2),) * 3, *(sums(2, 2),) * 2),
        ["vcvtps2pd", "vmulpd", FUSED, "vpaddq"],
    ),
}


def assembly(function, arguments):
    # Compiled anew: what comes from the cache cannot be inspected.
    fresh = njit(**_FLAGS)(function.py_func)
    fresh(*arguments)
    (text,) = fresh.inspect_asm().values()
    return text


@pytest.mark.parametrize("name", CASES)
def test_a_hot_loop_uses_packed_instructions_on_whole_registers(name):
    function, arguments, instructions = CASES[name]
    text = assembly(function, arguments)
    for instruction in instructions:
        assert re.search(rf"\t({instruction})\t.*%[yz]mm", text), instruction


@pytest.mark.parametrize("name", CASES)
def test_a_hot_loop_has_no_masked_store(name):
    function, arguments, _ = CASES[name]
    # They cost tens of instructions each on Zen processors.
    assert not re.search(
        r"\tvp?maskmov\w+\t%[xyz]mm\d+, %[xyz]mm\d+, ", assembly(function, arguments)
    )
