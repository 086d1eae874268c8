"""jax's own cache of compiled programs, left out where compiling is what is looked at."""

import contextlib

import jax


@contextlib.contextmanager
def without_program_cache():
    """jax would write what is compiled here to its own cache, and complain that it cannot read it without a TPU."""
    before = jax.config.jax_enable_compilation_cache
    jax.config.update("jax_enable_compilation_cache", False)
    try:
        yield
    finally:
        jax.config.update("jax_enable_compilation_cache", before)
