"""Five optimizer steps with layer decay against those of the original code (tests/goldens/train_tiny_t*)."""

import json

import flax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from linear import adamw

from unireplknet_jax.models import torch_names
from unireplknet_jax.tasks.checkpoint import open_checkpoint
from unireplknet_jax.tasks.classification import Classification
from unireplknet_jax.train.optimizer import cosine_schedule, make_optimizer, parameter_groups
from unireplknet_jax.train.sharding import make_mesh, micro_batch_sharding, to_devices
from unireplknet_jax.train.step import abstract_state, make_state, make_train_step

STEPS = 5
OPTIM = adamw(layer_decay=0.8)


def noise_driven(name):
    """Whether a tensor's gradient is analytically zero, so that AdamW follows rounding noise: a norm comes after it."""
    return name.endswith((".act.1.beta", ".origin_bn.bias")) or (".dil_bn_" in name and name.endswith(".bias"))


@pytest.fixture(scope="module")
def golden(goldens):
    return np.load(goldens / "train_tiny_t.npz")


@pytest.fixture(scope="module")
def schedule():
    return cosine_schedule(4e-3, 1e-6, 10, 4, 1)


class Trained:
    """The five steps with our engine, on one device."""

    def __init__(self, goldens, golden, schedule):
        self.checkpoint = open_checkpoint(goldens / "train_tiny_t.pth")
        # The implementation that compiles fastest; that all give the same numbers is tested with the operator.
        model = {**dict(self.checkpoint.task.model), "impl": "xla"}
        task = Classification(model, image_size=64, label_smoothing=0.1)
        mesh = make_mesh(devices=jax.devices()[:1])
        optimizer = make_optimizer(OPTIM, schedule)
        state = make_state(task, optimizer, mesh, 0, variables=self.checkpoint.variables)
        step = make_train_step(Normalized(task), optimizer, mesh, abstract_state(task, optimizer, mesh), 0)
        self.scalars = []
        with jax.set_mesh(mesh):
            for images, labels in zip(golden["inputs_nchw"], golden["labels"], strict=True):
                batch = {"image": images.transpose(0, 2, 3, 1)[None], "label": labels.astype(np.int32)[None]}
                state, scalars = step(state, to_devices(micro_batch_sharding(mesh), batch))
                self.scalars.append({name: float(value) for name, value in scalars.items()})
        self.variables = {"params": state["params"], "batch_stats": state["batch_stats"]}
        self.module = task.module()


class Normalized:
    """The classification task on images that are normalized already."""

    def __init__(self, task):
        self.task, self.module = task, task.module

    def loss(self, apply, variables, batch, rng):
        mean, std = (jnp.asarray(values) for values in (self.task.mean, self.task.std))
        image = (batch["image"] * std + mean) * 255
        return self.task.loss(apply, variables, {**batch, "image": image}, rng)


@pytest.fixture(scope="module")
def trained(goldens, golden, schedule):
    return Trained(goldens, golden, schedule)


def test_learning_rates_are_the_originals(golden, schedule):
    np.testing.assert_allclose(schedule, golden["full_schedule"], rtol=1e-12, atol=1e-18)
    np.testing.assert_allclose(schedule[:STEPS], golden["learning_rates"], rtol=1e-12, atol=1e-18)


def test_every_parameter_has_the_originals_scale_and_decay(goldens):
    expected = json.loads((goldens / "train_tiny_t_param_groups.json").read_text())
    params = open_checkpoint(goldens / "train_tiny_t.pth").variables["params"]
    groups = parameter_groups(params, 0.8, 0.05)
    flat = flax.traverse_util.flatten_dict(groups, is_leaf=lambda _, node: hasattr(node, "lr_scale"))
    table = torch_names.name_table({"params": params})
    ours = {name: flat[entry.path[1:]] for name, entry in table.items()}
    assert ours.keys() == expected.keys()
    for name, group in ours.items():
        assert group.lr_scale == pytest.approx(expected[name]["lr_scale"], rel=1e-12), name
        assert group.weight_decay == expected[name]["weight_decay"], name


@pytest.mark.slow
def test_losses_and_gradient_norms_are_the_originals(golden, trained):
    np.testing.assert_allclose([s["loss"] for s in trained.scalars], golden["losses"], rtol=1e-4)
    np.testing.assert_allclose([s["grad_norm"] for s in trained.scalars], golden["grad_norms"], rtol=1e-4)


@pytest.mark.slow
def test_tensors_after_five_steps_are_the_originals(goldens, trained):
    after = open_checkpoint(goldens / "train_tiny_t_after.pth").variables
    table = torch_names.name_table(after)
    ours, theirs = (flax.traverse_util.flatten_dict(tree) for tree in (trained.variables, after))
    moved = 0
    for name, entry in table.items():
        difference = np.max(np.abs(np.asarray(ours[entry.path]) - np.asarray(theirs[entry.path])))
        if entry.path[0] == "batch_stats":
            assert difference < 1e-2, name
        elif not noise_driven(name):
            assert difference < 1e-3, name
        before = flax.traverse_util.flatten_dict(trained.checkpoint.variables)[entry.path]
        moved += np.max(np.abs(np.asarray(before) - np.asarray(theirs[entry.path]))) > 2e-3
    assert moved > len(table) / 2  # or the bars above would pass a run that stood still


@pytest.mark.slow
def test_final_logits_are_the_originals(goldens, golden, trained):
    images = jnp.asarray(golden["inputs_nchw"][0].transpose(0, 2, 3, 1))
    logits = trained.module.apply(trained.variables, images)
    assert np.max(np.abs(logits - golden["final_eval_logits"])) < 2e-2

    after = open_checkpoint(goldens / "train_tiny_t_after.pth").variables
    ours, theirs = (flax.traverse_util.flatten_dict(tree) for tree in (trained.variables, after))
    for name, entry in torch_names.name_table(after).items():
        if noise_driven(name) or name.endswith("running_mean"):
            ours[entry.path] = theirs[entry.path]
    logits = trained.module.apply(flax.traverse_util.unflatten_dict(ours), images)
    assert np.max(np.abs(logits - golden["final_eval_logits"])) < 1e-4
