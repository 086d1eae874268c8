import importlib.util
import os
import re
from types import SimpleNamespace

import jax
import pytest
from jax.experimental import topologies

from unireplknet_jax.train import slices
from unireplknet_jax.train.slices import open_slice


@pytest.fixture
def environment(monkeypatch):
    """Takes back what the function sets."""
    for name in slices._ENVIRONMENT:
        monkeypatch.setenv(name, os.environ.get(name, slices._ENVIRONMENT[name]))


@pytest.mark.parametrize(
    ("topology", "message"),
    [
        ("v7:2x2", "'v7:2x2' is no topology; expected a chip of v4, v5e, v5p, v6e and a shape: v5e:4x4."),
        ("v5e", "is no topology"),
        ("v5e:16", "is no topology"),
        ("v5e:0x4", "is no topology"),
        ("v5e:2x2x2", "a v5e slice has two sides, as in v5e:4x4"),
        ("v5p:4x4", "a v5p slice has three sides, as in v5p:2x2x1"),
        ("v5e:3x5", "there is no slice v5e:3x5; a v5e slice has sides of 1, 2, 4, 8 or 16 chips, as in 4x8."),
        ("v6e:2x12", "there is no slice v6e:2x12; a v6e slice has sides of"),
        ("v6e:16x32", "v6e:16x32 has 512 chips; a v6e slice has at most 256, 16x16."),
    ],
)
def test_what_is_no_slice_is_refused_in_a_sentence(topology, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        open_slice(topology)


def test_without_libtpu_the_error_says_what_to_install(monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "libtpu" else find(name))
    with pytest.raises(ImportError, match=rf'pip install "jax\[tpu\]=={jax.__version__}"'):
        open_slice("v5e:4x4")


@pytest.mark.parametrize(
    ("topology", "devices", "kind"),
    [
        *[(f"v5e:{shape}", count, "TPU v5 lite") for shape, count in (("1x1", 1), ("2x1", 2), ("2x2", 4), ("2x4", 8))],
        *[(f"v6e:{shape}", count, "TPU v6 lite") for shape, count in (("1x1", 1), ("4x8", 32), ("16x16", 256))],
        ("v5p:2x2x1", 4, "TPU v5"),
        ("v4:2x2x1", 8, "TPU v4"),
    ],
)
def test_libtpu_describes_the_slices(topology, devices, kind, environment):
    pytest.importorskip("libtpu")
    chip, found = open_slice(topology)
    assert (len(found), {device.device_kind for device in found}) == (devices, {kind})
    assert chip.memory == (15.25 if kind == "TPU v4" else slices.TPUS[topology.split(":")[0]].memory / 2**30) * 2**30
    assert jax.devices()[0].platform == "cpu"


def test_libtpu_is_kept_from_looking_for_a_tpu_unless_the_user_says_otherwise(environment, monkeypatch):
    seen = {}

    def describe(**_):
        seen.update(os.environ)
        return SimpleNamespace(devices=jax.devices()[:4])

    monkeypatch.setattr(slices, "libtpu_version", lambda: "0")
    monkeypatch.setattr(topologies, "get_topology_desc", describe)
    monkeypatch.delenv("TPU_SKIP_MDS_QUERY")
    monkeypatch.setenv("TPU_WORKER_HOSTNAMES", "mine")
    open_slice("v5e:2x2")
    assert (seen["TPU_SKIP_MDS_QUERY"], seen["TPU_WORKER_HOSTNAMES"]) == ("1", "mine")


def test_what_libtpu_refuses_is_a_value_error(environment, monkeypatch):
    def refuse(**_):
        raise RuntimeError("INVALID_ARGUMENT: not divisible\nand more")

    monkeypatch.setattr(slices, "libtpu_version", lambda: "0")
    monkeypatch.setattr(topologies, "get_topology_desc", refuse)
    with pytest.raises(ValueError, match=r"libtpu knows no topology v5p:2x3x1 \(INVALID_ARGUMENT: not divisible\)\."):
        open_slice("v5p:2x3x1")
