"""Compilers of chips that not every machine has: what needs one is skipped where it is missing, and says so."""

import pytest

from unireplknet_jax.benchmark import gpu_cost


def need_cuda():
    """Skip the test where jax's plugin for CUDA is not installed."""
    try:
        gpu_cost.plugin_version()
    except ImportError as reason:
        pytest.skip(str(reason))
