import pytest
from official_files import make_state


@pytest.fixture(scope="session")
def state():
    """A random official state dict in training form."""
    return make_state()


@pytest.fixture(scope="session")
def merged_state():
    """The same network's in merged form, with other numbers."""
    return make_state(deploy=True)
