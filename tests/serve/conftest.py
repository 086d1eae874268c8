"""A server of a tiny network of pictures, called without a socket."""

from pathlib import Path

import pytest
from small_tasks import make_checkpoint, write_files
from starlette.testclient import TestClient

from unireplknet_jax.serve.app import Server
from unireplknet_jax.serve.settings import Settings
from unireplknet_jax.tasks.predict import predict


@pytest.fixture(scope="module", autouse=True)
def always_quick_compilation(quick_compilation):
    """Compiling takes most of the time here, and the network is too small to gain from optimization."""


@pytest.fixture(scope="session")
def checkpoint():
    """Of pictures of 32 pixels and 6 classes, in merged form."""
    return make_checkpoint("classification").in_merged_form()


@pytest.fixture(scope="session")
def files(tmp_path_factory):
    """Two different pictures, as paths."""
    return [Path(path) for path in write_files(tmp_path_factory.mktemp("files"), "classification")]


@pytest.fixture(scope="session")
def expected(checkpoint, files):
    """The records of both by `predict`."""
    return predict(checkpoint, files)


@pytest.fixture(scope="session")
def server(checkpoint):
    """Warm: batches of 1 and 2."""
    made = Server({"tiny": checkpoint}, Settings(batch=2, body=2**20, pixels=300_000, queue=8, time=20))
    made.warm()
    return made


@pytest.fixture(scope="session")
def client(server):
    with TestClient(server.app) as made:
        yield made
