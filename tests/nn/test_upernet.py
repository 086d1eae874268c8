"""UPerNet: the original's maps, logits, losses and gradients, and pictures of any size in one canvas."""

import dataclasses

import flax
import jax
import numpy as np
import pytest

from unireplknet_jax.models.torch_names import to_torch
from unireplknet_jax.ops.segmentation import pixel_losses
from unireplknet_jax.tasks.checkpoint import open_checkpoint
from unireplknet_jax.tasks.segmentation_names import NAMES

pytestmark = pytest.mark.usefixtures("quick_compilation")


@pytest.fixture(scope="module")
def golden(goldens):
    return np.load(goldens / "dense" / "seg_tiny.npz")


@pytest.fixture(scope="module")
def original(goldens):
    return open_checkpoint(goldens / "dense" / "seg_tiny.pth")


def nhwc(array):
    return array.transpose(0, 2, 3, 1)


def distance(found, expected):
    """The largest difference as a share of the largest value; expected: (n, c, h, w)."""
    return np.abs(np.asarray(found).transpose(0, 3, 1, 2) - expected).max() / np.abs(expected).max()


def test_maps_and_logits_are_the_originals(golden, original):
    x = nhwc(golden["input_nchw"])

    def everything(model, x):
        return model.backbone.features(x), model.with_auxiliary(x)

    # The depthwise form that is traced soonest.
    model = original.module.clone(backbone=original.module.backbone.clone(impl="xla"))
    apply = jax.jit(lambda variables, x: model.apply(variables, x, method=everything))
    maps, (logits, auxiliary) = apply(original.variables, x)
    for i, found in enumerate(maps):
        assert distance(found, golden[f"feature{i}_nchw"]) < 2e-5
    assert distance(logits, golden["decode_logits_nchw"]) < 2e-5
    assert distance(auxiliary, golden["aux_logits_nchw"]) < 2e-5


@pytest.mark.slow  # gradients of a whole network
def test_losses_gradients_and_statistics_are_the_originals(golden, original):
    """Gradients to 5e-5 of their largest value; where batch norm sees two values alone, rounding is multiplied."""
    task = dataclasses.replace(original.task, model=dict(original.task.model) | {"head_dropout": 0.0})
    batch = {"image": nhwc(golden["train_input_nchw"]), "label_map": signed(golden["train_labels"])}
    params, stats = original.variables["params"], original.variables["batch_stats"]
    module = task.module()

    def loss(params):
        (logits, auxiliary), updates = module.apply(
            {"params": params, "batch_stats": stats},
            batch["image"],
            train=True,
            method="with_auxiliary",
            mutable=["batch_stats"],
            rngs={"dropout": jax.random.key(0)},
        )
        sums = [pixel_losses(each, batch["label_map"]) for each in (logits, auxiliary)]
        size = batch["label_map"].size
        decode, side = (each[0] / size for each in sums)
        accuracies = [100 * hits / known for _, hits, known in sums]
        return decode + 0.4 * side, (decode, 0.4 * side, *accuracies, logits, updates["batch_stats"])

    (total, found), gradients = jax.jit(jax.value_and_grad(loss, has_aux=True))(params)
    *scalars, logits, after = found
    names = ("decode.loss_ce", "aux.loss_ce", "decode.acc_seg", "aux.acc_seg")
    np.testing.assert_allclose(scalars, [float(golden[f"train/{name}"]) for name in names], rtol=1e-5)
    assert float(total) == pytest.approx(float(golden["train_total_loss"]), rel=1e-5)
    assert distance(logits, golden["train_decode_logits_nchw"]) < 2e-5
    table = NAMES.table({"params": gradients, "batch_stats": after})
    flat = flax.traverse_util.flatten_dict({"params": gradients, "batch_stats": after})
    found = {name: to_torch(entry, np.asarray(flat[entry.path])) for name, entry in table.items()}
    largest = max(float(golden[name]) for name in golden.files if name.startswith("gradnorm/"))
    checked = 0
    for name in golden.files:
        kind, _, tensor = name.partition("/")
        if kind == "after" and tensor in found:
            np.testing.assert_allclose(found[tensor], golden[name], rtol=1e-5, atol=1e-5 * np.abs(golden[name]).max())
        elif kind == "grad":
            near = 1e-3 if tensor.startswith("decode_head.psp_modules.0.1.conv") else 5e-5
            assert np.abs(found[tensor] - golden[name]).max() < near * np.abs(golden[name]).max(), tensor
        elif kind == "gradnorm" and golden[name] > 1e-4 * largest:
            assert np.linalg.norm(found[tensor]) == pytest.approx(float(golden[name]), rel=5e-4), tensor
        checked += kind in ("after", "grad", "gradnorm")
    assert checked > 100


def signed(labels):
    """A mask of the original, whose ignored pixels are 255, as ours."""
    return np.where(labels == 255, -1, labels.astype(np.int16))
