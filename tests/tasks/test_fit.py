"""Checkpoints for another number of classes or channels, and as the start of training."""

import dataclasses
import logging

import ml_dtypes
import numpy as np
import pytest
from official_files import TINY, assert_equal, leaves, make_state, write

from unireplknet_jax.models import zoo
from unireplknet_jax.tasks.checkpoint import (
    initial_variables,
    load_checkpoint,
    open_checkpoint,
    save_checkpoint,
    save_torch_checkpoint,
)
from unireplknet_jax.tasks.classification import Classification


@pytest.fixture(params=[False, True], ids=["training", "merged"])
def tiny_file(request, tmp_path, state, merged_state):
    return write(tmp_path / "tiny.pth", merged_state if request.param else state)


def test_the_same_numbers_change_nothing(tiny_file, caplog):
    plain, same = open_checkpoint(tiny_file), open_checkpoint(tiny_file, num_classes=10, in_chans=3)
    assert same.task == plain.task
    assert_equal(leaves(same.variables), leaves(plain.variables))
    assert caplog.text == ""


def test_another_number_of_classes_gets_a_fresh_classifier(tiny_file, caplog):
    _, before = load_checkpoint(tiny_file)
    model, variables = load_checkpoint(tiny_file, num_classes=2000)
    assert model.num_classes == 2000
    ours, before = leaves(variables), leaves(before)
    kernel, bias = ours.pop("params/head/kernel"), ours.pop("params/head/bias")
    # 64,000 draws of deviation 0.02: their own deviation is known to 0.3 %, their mean to 0.0001.
    assert kernel.shape == (32, 2000)
    assert np.std(kernel) == pytest.approx(0.02, rel=0.015)
    assert abs(np.mean(kernel)) < 4e-4
    np.testing.assert_array_equal(bias, np.zeros(2000))
    assert_equal(ours, {name: value for name, value in before.items() if "head" not in name})
    assert "num_classes 10 -> 2000: dropped head; made head (random, 2000 classes)" in caplog.text


def test_no_classes_drop_the_classifier(tiny_file, caplog):
    _, before = load_checkpoint(tiny_file)
    model, variables = load_checkpoint(tiny_file, num_classes=None)
    assert (model.num_classes, model.output_norms) == (None, False)
    expected = {name: x for name, x in leaves(before).items() if not name.startswith(("params/norm/", "params/head/"))}
    assert_equal(leaves(variables), expected)
    assert "num_classes 10 -> None: dropped head, norm; made nothing" in caplog.text


def test_a_backbone_gets_a_norm_and_a_classifier(tmp_path, caplog):
    state = make_state(num_classes=None, output_norms=True, deploy=True)
    model, variables = load_checkpoint(write(tmp_path / "a.pth", state), num_classes=4)
    assert (model.num_classes, model.output_norms) == (4, False)
    np.testing.assert_array_equal(variables["params"]["norm"]["scale"], np.ones(32))
    assert "norm0" not in variables["params"]
    assert "dropped norm0, norm1, norm2, norm3; made norm, head (random, 4 classes)" in caplog.text


@pytest.mark.parametrize(
    ("in_chans", "weights"),
    [
        (1, [[1, 1, 1]]),
        (2, [[1.5, 0, 0], [0, 1.5, 0]]),
        (4, [[0.75, 0, 0], [0, 0.75, 0], [0, 0, 0.75], [0.75, 0, 0]]),
    ],
)
def test_the_stem_is_summed_or_repeated(tiny_file, state, merged_state, caplog, in_chans, weights):
    model, variables = load_checkpoint(tiny_file, in_chans=in_chans)
    assert model.in_chans == in_chans
    original = leaves(load_checkpoint(tiny_file)[1])["params/downsample_layers_0/conv1/kernel"].astype(np.float64)
    fitted = variables["params"]["downsample_layers_0"]["conv1"]["kernel"]
    # One float32 rounding of the largest of three terms.
    np.testing.assert_allclose(fitted, np.einsum("oi,hwic->hwoc", weights, original), rtol=0, atol=5e-7)
    assert f"in_chans 3 -> {in_chans}: the stem's input channels were" in caplog.text


def test_a_fitted_checkpoint_is_a_whole_one(tiny_file, tmp_path):
    checkpoint = open_checkpoint(tiny_file, num_classes=4, in_chans=1, dtype="bfloat16")
    assert checkpoint.task.mean == pytest.approx(((0.485 + 0.456 + 0.406) / 3,))
    assert checkpoint.task.std == pytest.approx(((0.229 + 0.224 + 0.225) / 3,))
    save_checkpoint(tmp_path / "ours", checkpoint)
    save_torch_checkpoint(tmp_path / "back.pth", checkpoint.variables)
    for path in (tmp_path / "ours", tmp_path / "back.pth"):
        again = open_checkpoint(path)
        assert (again.module.num_classes, again.module.in_chans) == (4, 1)
        assert_equal(leaves(again.variables), leaves(checkpoint.variables))


@pytest.mark.parametrize(("options", "message"), [({"num_classes": 0}, "num_classes"), ({"in_chans": 0}, "in_chans")])
def test_nothing_fits_zero(tiny_file, options, message):
    with pytest.raises(ValueError, match=f"{message} must be positive"):
        load_checkpoint(tiny_file, **options)


# Fine-tuning.


def test_training_starts_from_a_checkpoint_with_a_head_of_its_own(tmp_path, state):
    stored = {name: value.astype(ml_dtypes.bfloat16) for name, value in state.items()}
    path = write(tmp_path / "a.pth", stored)
    task = Classification({**TINY, "num_classes": 4, "in_chans": 1, "drop_path_rate": 0.1}, mean=(0.5,), std=(0.5,))
    ours = leaves(initial_variables(task, path))
    assert {leaf.dtype.name for leaf in ours.values()} == {"float32"}
    assert ours["params/head/kernel"].shape == (32, 4)
    assert ours["params/downsample_layers_0/conv1/kernel"].shape == (3, 3, 1, 4)
    np.testing.assert_array_equal(ours["params/norm/scale"], stored["norm.weight"].astype(np.float32))


@pytest.mark.parametrize("scale", [0.001, 3.0])
def test_a_fresh_classifier_is_scaled_by_the_task_and_a_kept_one_is_not(tmp_path, state, scale):
    path = write(tmp_path / "a.pth", state)

    def start(num_classes, head_init_scale):
        task = Classification({**TINY, "num_classes": num_classes, "head_init_scale": head_init_scale})
        return leaves(initial_variables(task, path))

    fresh, scaled = start(2000, 1.0), start(2000, scale)
    assert np.std(scaled["params/head/kernel"]) == pytest.approx(0.02 * scale, rel=0.015)
    np.testing.assert_array_equal(scaled["params/norm/scale"], fresh["params/norm/scale"])
    kept = start(10, scale)
    np.testing.assert_array_equal(kept["params/head/kernel"], state["head.weight"].T)
    np.testing.assert_array_equal(kept["params/head/bias"], state["head.bias"])


def test_training_fetches_a_published_file_that_is_not_there(tmp_path, monkeypatch, state):
    weights = zoo.find_weights("unireplknet_s", "in22k_224")
    cached, asked = write(tmp_path / "cached.pth", state), []
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(zoo, "download", lambda wanted: asked.append(wanted) or cached)
    ours = leaves(initial_variables(Classification(TINY), weights.file))
    assert asked == [weights]
    np.testing.assert_array_equal(ours["params/head/kernel"], state["head.weight"].T)
    other = write(tmp_path / weights.file, {name: value + 1 for name, value in state.items()})
    for path in (weights.file, str(other)):
        ours = leaves(initial_variables(Classification(TINY), path))
        np.testing.assert_array_equal(ours["params/head/kernel"], state["head.weight"].T + 1)
    assert asked == [weights]
    with pytest.raises(ValueError, match=r"unpublished\.pth does not exist"):
        initial_variables(Classification(TINY), "unpublished.pth")
    assert asked == [weights]


def test_training_does_not_start_from_another_network_or_form(tmp_path, state, merged_state):
    path = write(tmp_path / "a.pth", state)
    task = Classification({**TINY, "kernel_sizes": ((3,), (9,), (7, 3), (7,))})
    with pytest.raises(ValueError, match="another network than the recipe asks for: missing") as caught:
        initial_variables(task, path)
    assert "stages.1.0.dwconv.lk_origin.weight (16, 1, 7, 7) instead of (16, 1, 9, 9)" in str(caught.value)
    with pytest.raises(ValueError, match="is in merged form, which cannot be trained"):
        initial_variables(Classification(TINY), write(path, merged_state))


def test_the_logs_are_of_this_package(tmp_path, merged_state, caplog):
    load_checkpoint(write(tmp_path / "a.pth", merged_state), num_classes=3)
    assert [(record.name, record.levelno) for record in caplog.records] == [
        ("unireplknet_jax.tasks.fit", logging.WARNING)
    ]


def test_a_kept_classifier_has_the_classes_of_the_data_in_their_order(tmp_path, state, caplog):
    names = tuple(["zebra", "yak", "wolf", "vole", "tiger", "seal", "rat", "quail", "pig", "owl"])
    checkpoint = dataclasses.replace(open_checkpoint(write(tmp_path / "a.pth", state)), path=None)
    task = dataclasses.replace(checkpoint.task, labels=names)
    save_checkpoint(tmp_path / "own", dataclasses.replace(checkpoint, task=task))
    before = leaves(checkpoint.variables)

    def started(labels):
        caplog.clear()
        return leaves(initial_variables(dataclasses.replace(task, labels=labels), tmp_path / "own"))

    found = started(tuple(name.upper() for name in sorted(names)))
    for leaf in ("params/head/kernel", "params/head/bias"):
        np.testing.assert_array_equal(found[leaf], before[leaf][..., ::-1])
    np.testing.assert_array_equal(found["params/norm/scale"], before["params/norm/scale"])
    assert "put into the order of the data's classes: OWL, PIG" in caplog.text
    for labels, said in ((names, ""), ((), ""), (("x", *names[1:]), "is kept, though its classes were zebra, yak,")):
        assert_equal(started(labels), before)
        assert said in caplog.text
        assert said or not caplog.text
