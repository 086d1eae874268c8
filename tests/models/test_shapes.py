"""The shapes that follow from the sizes of a model are those that Flax gives its variables."""

import jax
import jax.numpy as jnp
import pytest
from networks import small_model

from unireplknet_jax.models import initialize
from unireplknet_jax.models.shapes import abstract_variables, map_size
from unireplknet_jax.models.variants import create_model
from unireplknet_jax.nn.pooled_head import PooledClassifier
from unireplknet_jax.ops import depthwise

EVERY_KERNEL = {"depths": (3, 2, 3, 2), "kernel_sizes": ((0, 3, 5), (7, 9), (11, 13, 15), (17, 3))}
OPTIONS = [
    {},
    {"deploy": True},
    EVERY_KERNEL,
    EVERY_KERNEL | {"deploy": True},
    {"num_classes": None},
    {"num_classes": None, "output_norms": True, "deploy": True},
    {"layer_scale_init": None, "in_chans": 1},
    {"layer_scale_init": 0.0, "in_chans": 5, "remat": True, "dtype": "bfloat16"},
]


@pytest.fixture(autouse=True)
def drawn_by_flax(monkeypatch):
    """Or the initialization would take over the shapes that are to be compared with its own."""
    monkeypatch.setattr(initialize, "can_draw", lambda key: False)


def by_flax(model, channels):
    image = jax.ShapeDtypeStruct((1, 32, 32, channels), jnp.float32)
    return jax.eval_shape(model.init, jax.random.key(0), image)


@pytest.mark.parametrize("options", OPTIONS)
def test_they_are_those_that_flax_gives(options):
    model = small_model(**options, impl="xla")
    assert abstract_variables(model) == by_flax(model, model.in_chans)


def test_of_a_network_around_a_trunk_too():
    for deploy in (False, True):
        model = PooledClassifier(small_model(num_classes=None, in_chans=1, deploy=deploy, impl="xla"), 4)
        assert abstract_variables(model) == by_flax(model, 1)


def test_no_convolution_is_traced_for_them(monkeypatch):
    monkeypatch.setattr(depthwise, "depthwise_conv2d", None)
    assert len(jax.tree.leaves(abstract_variables(create_model("unireplknet_xl")))) > 1000
    abstract_variables(PooledClassifier(create_model("unireplknet_s", num_classes=None), 4))


def test_maps_are_halved_and_rounded_up():
    assert [map_size((225, 32), stage) for stage in range(4)] == [(57, 8), (29, 4), (15, 2), (8, 1)]
