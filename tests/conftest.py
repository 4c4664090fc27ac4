"""Hypothesis profile and helpers every test module shares."""

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
