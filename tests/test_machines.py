"""A result has the same bytes on every processor, whatever instructions it has."""

import os
import platform
import subprocess
import sys

import llvmlite.binding as llvm
import pytest

PROGRAM = """
import sys
import numpy as np
import streamloss as sl

rng = np.random.default_rng(0)
truth = rng.integers(0, 2, 5000).astype(np.uint8)
scores = rng.standard_normal(5000) * 8
probability = 1 / (1 + np.exp(-scores))
losses = "cross_entropy,focal_loss,soft_dice,mse,auroc"
results = [
    sl.score(truth, probability.astype(np.float32), metrics=losses, gamma=1.5),
    sl.score(truth, scores, kind="logits", metrics="cross_entropy,hinge_loss"),
]
for result in results:
    print({n: (m.value.hex(), m.error_bound.hex()) for n, m in result.metrics.items()})
"""


def scored_on(processor, tmp_path):
    # Neither a cache nor features of this machine: the named processor and no other.
    machine = {"NUMBA_CPU_NAME": processor, "STREAMLOSS_CACHE_DIR": str(tmp_path / processor)}
    command = [sys.executable, "-c", PROGRAM]
    environment = {**os.environ, **machine}
    return subprocess.run(command, env=environment, check=True, capture_output=True).stdout


@pytest.mark.skipif(
    platform.machine() not in ("x86_64", "AMD64"), reason="the processors named are x86"
)
def test_a_processor_without_vectors_or_fused_multiply_add_gives_the_same_bytes(tmp_path):
    plain = scored_on("generic", tmp_path)
    assert plain.count(b"0x") == 14
    assert plain == scored_on(llvm.get_host_cpu_name(), tmp_path)
