"""`predict` and `evaluate` merge first: the same numbers sooner; `--form training` computes what was trained."""

import dataclasses
import json

import jax
import numpy as np
import pytest
from PIL import Image

import unireplknet_jax as urk
from unireplknet_jax.__main__ import main
from unireplknet_jax.models.reparameterize import has_blocks
from unireplknet_jax.tasks.checkpoint import Checkpoint, open_checkpoint, save_checkpoint
from unireplknet_jax.tasks.classification import Classification
from unireplknet_jax.tasks.predict import predict_files


@pytest.fixture
def built(monkeypatch):
    """The forms in which networks are built to be applied, one after the other."""
    forms, module = [], Classification.module
    monkeypatch.setattr(
        Classification, "module", lambda self, deploy=False: forms.append(deploy) or module(self, deploy)
    )
    return forms


def scores(capsys):
    results = json.loads(capsys.readouterr().out)["results"]
    return [[entry["score"] for entry in result["records"][0]["predictions"]] for result in results]


def test_predict_applies_the_merged_form(small, pictures, built, capsys):
    assert main(["predict", small, pictures[0], "--json"]) == 0
    assert built[-1] is True
    assert main(["predict", small, pictures[0], "--json", "--form", "training"]) == 0
    assert built[-1] is False


@pytest.mark.slow  # `test_evaluate_applies_the_merged_form_and_says_so` compares the forms of a directory of ours
@pytest.mark.parametrize("name", ["tiny_afp", "tiny_t", "tiny_kernels"])
def test_both_forms_of_official_files_agree(name, goldens, pictures, capsys):
    found = {}
    for form in ("merged", "training"):
        assert main(["predict", str(goldens / f"{name}.pth"), *pictures[:3], "--json", "--form", form]) == 0
        found[form] = scores(capsys)
    np.testing.assert_allclose(found["merged"], found["training"], rtol=1e-5)
    assert found["merged"] != found["training"]  # they are two computations


def test_evaluate_applies_the_merged_form_and_says_so(small, capsys):
    printed = {}
    for form in ("merged", "training"):
        assert main(["evaluate", small, "--data", "digits", "--form", form, "--json"]) == 0
        printed[form] = json.loads(capsys.readouterr().out)
        assert printed[form]["form"] == form
    merged, training = (printed[form]["metrics"] for form in ("merged", "training"))
    assert merged["count"] == training["count"] == 360
    assert merged["loss"] == pytest.approx(training["loss"], rel=1e-5)
    assert main(["evaluate", small, "--data", "digits"]) == 0
    assert "merged form, on digits" in capsys.readouterr().out


def test_a_merged_checkpoint_has_no_training_form(small, pictures, tmp_path, capsys):
    merged = str(tmp_path / "merged")
    assert main(["reparameterize", small, merged]) == 0
    capsys.readouterr()
    assert main(["predict", merged, pictures[0], "--form", "training"]) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "is merged" in error
    assert main(["predict", merged, pictures[0]]) == 0


def test_a_network_without_blocks_still_predicts(small, pictures, tmp_path, capsys):
    """There is nothing to merge in it, which is no error where nobody asked for a merge."""
    checkpoint = open_checkpoint(small)
    model = dict(checkpoint.task.model) | {"depths": (0, 0, 0, 0), "kernel_sizes": ((), (), (), ())}
    params = {name: tree for name, tree in checkpoint.variables["params"].items() if not name.startswith("stages")}
    bare = Checkpoint(dataclasses.replace(checkpoint.task, model=model), {"params": params}, merged=False)
    assert not has_blocks(bare.variables)
    save_checkpoint(tmp_path / "bare", bare)
    assert bare.in_merged_form() is bare
    assert main(["predict", str(tmp_path / "bare"), pictures[0], "--json"]) == 0
    assert len(scores(capsys)[0]) == 5


def test_the_merge_of_a_checkpoint_mutates_nothing(small):
    checkpoint = open_checkpoint(small)
    before = jax.tree.map(np.array, checkpoint.variables)
    merged = checkpoint.in_merged_form()
    assert merged.merged
    assert merged.in_merged_form() is merged
    jax.tree.map(np.testing.assert_array_equal, checkpoint.variables, before)


def test_few_files_are_predicted_by_a_program_that_compiles_quickly(small, tmp_path, monkeypatch):
    from unireplknet_jax.tasks import network

    asked = []

    def program(step, what, quick=None):
        asked.extend([] if quick is None else [quick])  # None: the program of windows, which nothing here has
        return jax.jit(step)

    monkeypatch.setattr(network, "AheadOfTime", program)
    picture = tmp_path / "a.png"
    Image.new("RGB", (32, 32)).save(picture)
    pixels = 32 * 32 * 3
    monkeypatch.setattr(network, "_FEW_VALUES", 20 * pixels)
    for count in (1, 20, 21):
        list(predict_files(open_checkpoint(small), [picture] * count))
    assert asked == [True, True, False]


def test_numpy_and_jax_arrays_are_merged_alike(small):
    variables = open_checkpoint(small).variables
    on_host = jax.tree.map(np.asarray, variables)
    from_host, from_device = urk.reparameterize(on_host), urk.reparameterize(variables)
    assert {type(leaf) for leaf in jax.tree.leaves(from_host)} == {np.ndarray}
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(from_device))
    assert not any(leaf.committed for leaf in jax.tree.leaves(from_device))  # free to meet a batch on a mesh
    jax.tree.map(np.testing.assert_array_equal, from_host, from_device)
    traced = jax.jit(urk.reparameterize)(variables)
    for own, expected in zip(jax.tree.leaves(from_device), jax.tree.leaves(traced), strict=True):
        np.testing.assert_allclose(own, expected, rtol=0, atol=1e-6 * np.abs(expected).max())


def test_a_committed_array_stays_where_it_is(small):
    device = jax.devices()[3]
    merged = urk.reparameterize(jax.device_put(open_checkpoint(small).variables, device))
    assert {leaf.device for leaf in jax.tree.leaves(merged)} == {device}


def test_what_is_not_folded_is_the_same_array(small):
    variables = open_checkpoint(small).variables
    merged = urk.reparameterize(variables)
    for name in ("se", "pwconv1"):
        before, after = (tree["params"]["stages_0_0"][name] for tree in (variables, merged))
        assert all(map(lambda a, b: a is b, jax.tree.leaves(before), jax.tree.leaves(after)))


def test_numpy_kernels_with_statistics_that_are_traced(small):
    variables = open_checkpoint(small).variables
    params, stats = jax.tree.map(np.asarray, variables["params"]), variables["batch_stats"]
    expected = urk.reparameterize(variables)
    found = jax.jit(lambda stats: urk.reparameterize({"params": params, "batch_stats": stats}))(stats)
    for own, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(own, other, rtol=0, atol=1e-6 * np.abs(other).max())
    mixed = urk.reparameterize({"params": params, "batch_stats": stats})
    assert isinstance(mixed["params"]["stages_0_0"]["pwconv2"]["kernel"], jax.Array)
