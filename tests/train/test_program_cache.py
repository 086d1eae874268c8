"""Compiling without jax's cache of compiled programs."""

import jax

from unireplknet_jax.train.program_cache import without_program_cache


def test_nothing_reaches_the_cache_of_compiled_programs():
    with without_program_cache():
        assert not jax.config.jax_enable_compilation_cache
    assert jax.config.jax_enable_compilation_cache
