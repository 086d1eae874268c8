"""Pictures of several sizes in one canvas: each gives what it gives alone, in maps, gradients and statistics."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from draws import normal
from networks import lively

from unireplknet_jax.models.reparameterize import reparameterize
from unireplknet_jax.models.shapes import abstract_variables
from unireplknet_jax.models.unireplknet import UniRepLKNet
from unireplknet_jax.nn.upernet import UPerNet

pytestmark = pytest.mark.usefixtures("quick_compilation")

TRUNK = UniRepLKNet(
    depths=(1, 0, 1, 1),
    dims=(4, 8, 12, 16),
    kernel_sizes=((3,), (), (13,), (0,)),
    num_classes=None,
    output_norms=True,
    layer_scale_init=1.0,
)
MODEL = UPerNet(TRUNK, num_classes=5, channels=8, auxiliary_channels=6, dropout=0.0)
CANVAS = (80, 64)
SIZES = ((64, 32), (33, 50))


@pytest.fixture(scope="module")
def variables():
    return lively(abstract_variables(MODEL))


@pytest.fixture(scope="module")
def pictures():
    """Two in a canvas, and what is beyond their sizes is anything."""
    return 3 * np.asarray(normal(0, len(SIZES), *CANVAS, 3))


def alone(pictures, index):
    rows, columns = SIZES[index]
    return pictures[index : index + 1, :rows, :columns]


def close(found, expected, share=1e-5):
    """found (h, w, c) begins with expected (1, h', w', c)."""
    found, expected = np.asarray(found), np.asarray(expected)
    _, rows, columns, _ = expected.shape
    assert np.abs(found[:rows, :columns] - expected[0]).max() <= share * np.abs(expected).max()


@pytest.mark.parametrize(
    ("form", "index"),
    [
        *(pytest.param("training", index, marks=pytest.mark.slow) for index in range(len(SIZES))),
        pytest.param("merged", 0, marks=pytest.mark.slow),
        ("merged", 1),  # no stride divides its rows
    ],
)
def test_a_picture_in_a_canvas_gives_what_it_gives_alone(form, index, variables, pictures):
    model = MODEL
    if form == "merged":
        variables = reparameterize(variables)
        model = MODEL.clone(backbone=TRUNK.clone(deploy=True, impl="xla"))  # the form that is traced soonest

    @jax.jit
    def outputs(x, sizes=None):
        maps = model.apply(
            variables, x, sizes=sizes, method=lambda self, x, sizes: self.backbone.features(x, sizes=sizes)
        )
        return (*maps, *model.apply(variables, x, sizes=sizes, method="with_auxiliary"))

    together = outputs(pictures, np.array(SIZES))
    for found, expected in zip(together, outputs(alone(pictures, index)), strict=True):
        close(np.asarray(found)[index], expected)


@pytest.mark.slow  # a network in training
def test_the_maps_of_the_trunk_are_zero_beyond_a_picture(variables, pictures):
    trunk = {name: tree["backbone"] for name, tree in variables.items()}
    maps = jax.jit(lambda x, sizes: TRUNK.apply(trunk, x, sizes=sizes, method="features"))(pictures, jnp.array(SIZES))
    for stage, x in enumerate(maps):
        stride = 4 * 2**stage
        assert np.abs(x[0, : 64 // stride, : 32 // stride]).min() > 0
        assert not x[0, 64 // stride :].any()
        assert not x[0, :, 32 // stride :].any()


@pytest.mark.slow  # the quick tests have the forward pass
def test_statistics_and_gradients_are_over_what_is_valid(variables, pictures):
    """Two pictures of one size in a larger canvas, in training, beside the same two as they are."""
    rows, columns = 64, 32
    variables = {name: tree["backbone"] for name, tree in variables.items()}
    two = pictures[:2]

    def loss(params, x, sizes=None):
        maps, updates = TRUNK.apply(
            {**variables, "params": params}, x, True, sizes, method="features", mutable=["batch_stats"]
        )
        return sum(jnp.sum(jnp.sin(x)) for x in maps), updates["batch_stats"]

    run = jax.jit(jax.value_and_grad(loss, has_aux=True))
    (expected, stats), gradients = run(variables["params"], two[:, :rows, :columns])
    (found, own_stats), own_gradients = run(variables["params"], two, jnp.array([(rows, columns)] * 2))
    assert float(found) == pytest.approx(float(expected), rel=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), own_stats, stats)
    largest = max(np.abs(leaf).max() for leaf in jax.tree.leaves(gradients))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5 * largest), own_gradients, gradients)
