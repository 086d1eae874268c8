"""`reparameterize`: merges, checks itself, and writes nothing when the check fails."""

import os
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from draws import normal

from unireplknet_jax.__main__ import main
from unireplknet_jax.models.reparameterize import merge_error, reparameterize
from unireplknet_jax.models.unireplknet import UniRepLKNet
from unireplknet_jax.tasks import convert
from unireplknet_jax.tasks.checkpoint import open_checkpoint


def test_the_merged_file_is_written_and_the_difference_printed(small, tmp_path, capsys):
    destination = str(tmp_path / "merged.pth")
    assert main(["reparameterize", small, destination]) == 0
    out = capsys.readouterr().out
    difference = float(re.search(r"random input: (\S+) of the largest output \(tolerance 0.0001", out)[1])
    assert 0 < difference < 5e-6
    assert "6,026 parameters became 5,402" in out
    assert "merged form" in out
    merged = open_checkpoint(destination)
    assert merged.merged
    assert jax.tree.structure(merged.variables) == jax.tree.structure(reparameterize(open_checkpoint(small).variables))

    assert main(["reparameterize", destination, str(tmp_path / "again")]) == 1
    assert "already merged" in capsys.readouterr().err
    assert os.listdir(tmp_path) == ["merged.pth"]


def test_a_merge_that_changes_the_outputs_is_refused(small, tmp_path, monkeypatch, capsys):
    def wrong(variables):
        merged = reparameterize(variables)
        head = merged["params"]["head"]
        return {**merged, "params": {**merged["params"], "head": {**head, "bias": head["bias"] + 0.01}}}

    monkeypatch.setattr(convert, "reparameterize", wrong)
    assert main(["reparameterize", small, str(tmp_path / "merged")]) == 1
    assert "exceeds the tolerance of 0.0001; nothing was written" in capsys.readouterr().err
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("error", "words", "code"),
    [
        (2e-4, [], 1),
        (5e-5, [], 0),
        (5e-5, ["--tolerance", "1e-6"], 1),
        (0.1, ["--tolerance", "0.2"], 0),
        (float("nan"), ["--tolerance", "9"], 1),
    ],
)
def test_the_tolerance_decides(error, words, code, small, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(convert, "merge_error", lambda *args: error)
    assert main(["reparameterize", small, str(tmp_path / "merged"), *words]) == code
    assert (tmp_path / "merged").exists() == (code == 0)


@pytest.fixture
def backbone(random_variables):
    """A model without classifier, its variables and images."""
    model = UniRepLKNet((1, 1, 1, 1), (8, 8, 8, 8), ((3,), (7,), (0,), (3,)), None, output_norms=True)
    images = normal(0, 2, 32, 32, 3)
    return model, random_variables(model, seed=3), images


def test_the_error_of_a_right_merge_is_rounding(backbone):
    model, variables, images = backbone
    assert merge_error(model, variables, reparameterize(variables), images) < 5e-6


def test_half_precision_models_are_compared_in_float32(backbone):
    model, variables, images = backbone
    model = model.clone(dtype=jnp.bfloat16, deploy=True)
    assert merge_error(model, variables, reparameterize(variables), images) < 5e-6


@pytest.mark.parametrize("stage", range(4))
def test_the_error_sees_every_feature_map(backbone, stage):
    model, variables, images = backbone
    merged = reparameterize(variables)
    norm = merged["params"][f"norm{stage}"]
    shifted = {**norm, "bias": norm["bias"] + 0.1 * (np.arange(8) == 0)}
    wrong = {**merged, "params": {**merged["params"], f"norm{stage}": shifted}}
    assert merge_error(model, variables, wrong, images) > 1e-3


def test_an_error_without_finite_outputs_is_nan_and_refused(backbone):
    model, variables, images = backbone
    assert not merge_error(model, variables, reparameterize(variables), images * jnp.nan) <= 1.0
