import jax
import pytest


@pytest.fixture(autouse=True, scope="module")
def quick_compilation():
    """Compile without most of XLA's optimizations: a third of the time, and these tests are not about XLA."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)
