import pytest


@pytest.fixture(scope="module", autouse=True)
def always_quick_compilation(quick_compilation):
    """Compiling takes most of the time here, and these tests are not about XLA."""
