"""Checkpoints for another number of classes or channels, and as the start of training."""

import dataclasses
import logging
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from official_files import TINY, assert_equal, leaves, make_state, write

from unireplknet_jax.models import torch_names, zoo
from unireplknet_jax.models.shapes import abstract_variables
from unireplknet_jax.tasks import fit
from unireplknet_jax.tasks.base import Spec, Task
from unireplknet_jax.tasks.checkpoint import (
    Checkpoint,
    initial_variables,
    load_checkpoint,
    open_checkpoint,
    save_checkpoint,
    save_torch_checkpoint,
)
from unireplknet_jax.tasks.classification import Classification
from unireplknet_jax.tasks.fit import fit_classes, fit_order, fit_trunk


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


# A network with a class for every pixel: two heads on the maps of a trunk with output norms.


class Head(nn.Module):
    classes: int

    @nn.compact
    def __call__(self, x):
        return nn.Conv(self.classes, (1, 1), name="conv_seg")(nn.Dense(6, name="lateral")(x))


class HeadsOnMaps(nn.Module):
    backbone: nn.Module
    num_classes: int

    def setup(self):
        self.decode_head, self.auxiliary_head = Head(self.num_classes), Head(self.num_classes)

    def __call__(self, x, train=False):
        maps = self.backbone.features(x, train)
        assert [leaf.shape[1:] for leaf in maps] == [(8, 8, 8), (4, 4, 16), (2, 2, 24), (1, 1, 32)]
        if self.is_initializing():
            self.auxiliary_head(maps[2])
        return self.decode_head(maps[0])

    @property
    def in_chans(self):
        return self.backbone.in_chans


@dataclasses.dataclass(frozen=True)
class Pixels(Task):
    model: Mapping[str, Any]
    labels: tuple[str, ...] = ()
    colours: tuple[tuple[int, int, int], ...] = ()
    norms: bool = True

    name = "pixels"

    def module(self, deploy=False):
        trunk = self.trunk(("num_classes",), num_classes=None, output_norms=self.norms, deploy=deploy)
        return HeadsOnMaps(trunk, dict(self.model)["num_classes"])

    def specs(self, train):
        return (Spec({"x": jax.ShapeDtypeStruct((32, 32, 3), jnp.float32)}, {}),)

    def inputs(self, batch):
        return (batch["x"],)

    def name_table(self, deploy=False):
        return torch_names.name_table(self.abstract_variables(deploy))


def pixels(classes, **options):
    return Pixels(TINY | {"num_classes": classes}, **options)


def of_pixels(task):
    """A `Checkpoint` of random numbers, {path: array} of them."""
    rng = np.random.default_rng(0)
    variables = jax.tree.map(lambda leaf: rng.random(leaf.shape, np.float32), task.abstract_variables())
    return Checkpoint(task, variables, merged=False), leaves(variables)


def test_the_shapes_of_heads_on_maps_are_found_without_the_trunk():
    task = pixels(4)
    by_flax = jax.eval_shape(task.module().init, jax.random.key(0), jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32))
    assert abstract_variables(task.module()) == by_flax
    assert by_flax["params"]["auxiliary_head"]["conv_seg"]["kernel"].shape == (1, 1, 6, 4)


@pytest.mark.parametrize(
    "options",
    [{}, {"num_classes": None}, pytest.param({"num_classes": None, "output_norms": True}, marks=pytest.mark.slow)],
)
def test_heads_on_maps_start_from_any_trunk_with_norms_of_one_and_zero(tmp_path, caplog, options):
    state = make_state(**options)
    ours = leaves(initial_variables(pixels(4), write(tmp_path / "a.pth", state)))
    np.testing.assert_array_equal(
        ours["params/backbone/stages_3_0/pwconv1/kernel"], state["stages.3.0.pwconv1.1.weight"].T
    )
    np.testing.assert_array_equal(
        ours["batch_stats/backbone/stages_0_0/norm/mean"], state["stages.0.0.norm.running_mean"]
    )
    for stage in range(4):
        scale, bias = (ours[f"params/backbone/norm{stage}/{leaf}"] for leaf in ("scale", "bias"))
        np.testing.assert_array_equal(scale, state.get(f"norm{stage}.weight", np.ones(TINY["dims"][stage])))
        np.testing.assert_array_equal(bias, state.get(f"norm{stage}.bias", np.zeros(TINY["dims"][stage])))
    norms = "" if "norm0.weight" in state else ", backbone/norm0, backbone/norm1, backbone/norm2, backbone/norm3"
    assert f"made: auxiliary_head{norms}, decode_head." in caplog.text
    assert np.std(ours["params/decode_head/lateral/kernel"]) > 0


def test_heads_for_other_classes_are_kept_but_for_their_last_layer(caplog):
    checkpoint, before = of_pixels(pixels(5))
    ours = leaves(fit_trunk(checkpoint, pixels(4)))
    assert "made: auxiliary_head/conv_seg, decode_head/conv_seg." in caplog.text
    fresh = {name for name in before if "conv_seg" in name}
    assert {name: ours[name].shape[-1] for name in fresh} == dict.fromkeys(fresh, 4)
    assert_equal(
        {name: ours[name] for name in ours if name not in fresh},
        {name: before[name] for name in before if name not in fresh},
    )


def test_output_norms_stay_behind_where_a_trunk_has_none(monkeypatch):
    monkeypatch.setattr(fit, "_fresh_layers", lambda task: {})  # which take seconds to trace
    checkpoint, before = of_pixels(pixels(5))
    trunk = {name: value for name, value in before.items() if "/backbone/" in name and "/backbone/norm" not in name}
    assert len(trunk) < len([name for name in before if "/backbone/" in name])
    assert_equal(leaves(fit_trunk(checkpoint, pixels(5, norms=False))), trunk)


def test_a_checkpoint_of_heads_on_maps_gets_other_classes(caplog):
    task = pixels(3, labels=("sky", "sea", "land"), colours=((0, 0, 255), (0, 255, 255), (0, 255, 0)))
    checkpoint, before = of_pixels(task)
    fitted = fit_classes(checkpoint, 7000)
    assert (fitted.task.labels, fitted.task.colours, fitted.module.num_classes) == ((), (), 7000)
    ours = leaves(fitted.variables)
    for head in ("decode_head", "auxiliary_head"):
        kernel, bias = (ours[f"params/{head}/conv_seg/{leaf}"] for leaf in ("kernel", "bias"))
        # 42,000 draws of deviation 0.01: their own deviation is known to 0.35 %.
        assert kernel.shape == (1, 1, 6, 7000)
        assert np.std(kernel) == pytest.approx(0.01, rel=0.015)
        np.testing.assert_array_equal(bias, np.zeros(7000))
    same = {name for name in before if "conv_seg" not in name}
    assert_equal({name: ours[name] for name in same}, {name: before[name] for name in same})
    gone = "auxiliary_head/conv_seg, decode_head/conv_seg"
    assert f"num_classes 3 -> 7000: dropped {gone}; made auxiliary_head/conv_seg (random, 7000 cl" in caplog.text
    with pytest.raises(ValueError, match="a network of the task pixels cannot be without its classifier"):
        fit_classes(checkpoint, None)


def test_regions_keep_their_background_and_the_four_sides_of_each_box():
    @dataclasses.dataclass
    class Found:
        labels: tuple[str, ...]
        variables: dict

    heads = {"fc_cls": np.arange(4), "fc_reg": np.arange(12)}
    params = {"bbox_head_0": {name: {"bias": bias} for name, bias in heads.items()}}
    found = fit_order(Found(("sky", "sea", "land"), {"params": params}), ("land", "sky", "sea"))
    ordered = {name: leaf["bias"].tolist() for name, leaf in found.variables["params"]["bbox_head_0"].items()}
    assert ordered == {"fc_cls": [2, 0, 1, 3], "fc_reg": [8, 9, 10, 11, 0, 1, 2, 3, 4, 5, 6, 7]}


def test_kept_heads_have_the_classes_of_the_data_in_their_order():
    checkpoint, before = of_pixels(pixels(3, labels=("sky", "sea", "land")))
    ours = leaves(fit_order(checkpoint, ("land", "sky", "sea")).variables)
    for name, value in before.items():
        np.testing.assert_array_equal(ours[name], value[..., [2, 0, 1]] if "conv_seg" in name else value, err_msg=name)
