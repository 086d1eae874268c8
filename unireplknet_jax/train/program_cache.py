"""jax's own cache of compiled programs, left out where compiling is what is looked at."""

import contextlib

import jax
from jax.experimental.compilation_cache import compilation_cache


@contextlib.contextmanager
def without_program_cache():
    """jax would write what is compiled here to its own cache, and complain that it cannot read it without a TPU."""
    before = jax.config.jax_enable_compilation_cache
    _enable(False)
    try:
        yield
    finally:
        _enable(before)


def _enable(enabled):
    """jax looks at the setting once, when it first compiles, unless it is told to look again."""
    jax.config.update("jax_enable_compilation_cache", enabled)
    compilation_cache.reset_cache()
