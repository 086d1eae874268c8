"""Compiling without jax's cache of compiled programs."""

import jax
import jax.numpy as jnp
import pytest
from jax.experimental.compilation_cache import compilation_cache

from unireplknet_jax.train.program_cache import without_program_cache

NAMES = ("jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs", "jax_enable_compilation_cache")


@pytest.fixture
def cached(tmp_path):
    """How many programs the cache holds, of which there are none before."""
    before = {name: getattr(jax.config, name) for name in NAMES}
    for name, value in zip(NAMES, (str(tmp_path), 0.0, True), strict=True):
        jax.config.update(name, value)
    compilation_cache.reset_cache()
    yield lambda: len([*tmp_path.glob("*-cache")])
    for name, value in before.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()


def test_nothing_reaches_the_cache_of_compiled_programs(cached):
    jax.jit(lambda x: jnp.sin(x) + 1).lower(1.0).compile()
    assert cached() == 1
    with without_program_cache():
        jax.jit(lambda x: jnp.sin(x) + 2).lower(1.0).compile()
    assert cached() == 1
    jax.jit(lambda x: jnp.sin(x) + 3).lower(1.0).compile()
    assert cached() == 2
