"""Checkpoints by the address of a bucket, for which a folder stands in."""

import importlib.util
import re
from pathlib import Path

import numpy as np
import pytest
from official_files import TINY, assert_equal, leaves, make_state, write

from unireplknet_jax.__main__ import main
from unireplknet_jax.models import bucket
from unireplknet_jax.tasks.checkpoint import initial_variables, open_checkpoint, save_checkpoint
from unireplknet_jax.tasks.classification import Classification


@pytest.fixture
def remote(tmp_path, monkeypatch):
    """The folder that gs:// stands for."""
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name == "gcsfs" or find(name))
    monkeypatch.setattr(bucket, "_remote", lambda address: tmp_path / address.removeprefix("gs://"))
    return tmp_path


def test_files_and_directories_are_read_by_their_address(remote):
    (remote / "b" / "run").mkdir(parents=True)
    checkpoint = open_checkpoint(write(remote / "b" / "a.pth", make_state(deploy=True)))
    save_checkpoint(remote / "b" / "run" / "best", checkpoint)
    for address in ("gs://b/a.pth", "gs://b/run/best", Path("gs://b/a.pth")):
        found = open_checkpoint(address)
        assert_equal(leaves(found.variables), leaves(checkpoint.variables))
        assert np.isfinite(leaves(found.variables)["params/head/bias"]).all()
    assert main(["convert", "gs://b/a.pth", str(remote / "b.safetensors")]) == 0


def test_what_cannot_be_read_is_one_sentence(remote, monkeypatch):
    with pytest.raises(FileNotFoundError, match=r"^gs://b/gone does not exist\.$"):
        open_checkpoint("gs://b/gone")
    with pytest.raises(ValueError, match=r"^s3://b/a\.pth is neither a path nor a gs:// address; copy it to this"):
        open_checkpoint("s3://b/a.pth")

    def refuse(address):
        class Refusing:
            name = "a"

            def exists(self):
                raise RuntimeError("401 Anonymous caller\nand a page of text")

        return Refusing()

    monkeypatch.setattr(bucket, "_remote", refuse)
    with pytest.raises(
        OSError, match=r"^gs://b/a cannot be read: log in with `gcloud auth application-default login`\.$"
    ):
        open_checkpoint("gs://b/a")


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (RuntimeError("_request out of retries: 403 Forbidden"), "this account may not; ask its owner"),
        (TimeoutError(), "the server cannot be reached from here$"),
        (KeyError("generation"), "copy it to this machine by other means, for example with `gcloud storage cp -r`$"),
    ],
)
def test_no_text_of_a_library_is_the_explanation(error, message):
    assert re.match(message, bucket._why(error))


def test_without_its_package_the_extra_is_named(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"^gs://b/a needs the extra gcs: pip install 'unireplknet_jax\[gcs\]'"):
        open_checkpoint("gs://b/a")


@pytest.mark.parametrize(
    "words",
    [
        ["predict", "gs://b/gone", "a.png"],
        ["evaluate", "gs://b/gone"],
        ["embed", "gs://b/gone", "a.png", "--out", "a.npz"],
        ["convert", "gs://b/gone", "a.pth"],
        ["reparameterize", "gs://b/gone", "a.pth"],
    ],
)
def test_every_command_takes_an_address(remote, words, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert main(words) == 1
    assert capsys.readouterr().err == f"unireplknet {words[0]}: error: gs://b/gone does not exist.\n"


def test_training_starts_from_an_address(remote):
    (remote / "b").mkdir()
    write(remote / "b" / "a.pth", make_state())
    found = initial_variables(Classification(TINY), "gs://b/a.pth")
    assert_equal(leaves(found), leaves(open_checkpoint(remote / "b" / "a.pth").variables))
