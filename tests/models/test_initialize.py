"""Initial variables: drawn at once, the numbers that Flax draws layer by layer."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from networks import small_model as model_of

from unireplknet_jax.models import initialize
from unireplknet_jax.models.variants import create_model
from unireplknet_jax.nn.pooled_head import PooledClassifier
from unireplknet_jax.ops import depthwise_dft

IMAGE = np.zeros((1, 32, 32, 3), np.float32)
ONE_BLOCK = {"depths": (0, 1, 0, 0), "kernel_sizes": ((), (7,), (), ())}


def small_model(**options):
    """With two blocks, which have every kind of variable: Flax's generators compile for seconds."""
    return model_of(**({"depths": (1, 1, 0, 0), "kernel_sizes": ((0,), (7,), (), ())} | options))


OPTIONS = {
    "classifier": {},
    "scaled head": {"head_init_scale": 0.001},
    "backbone": {"num_classes": None, "output_norms": True},
    "merged": {"deploy": True} | ONE_BLOCK,
    "no layer scale": {"layer_scale_init": None},
    "large layer scale": {"layer_scale_init": 0.5},
    "rematerialized": {"remat": True},
}


def by_flax(monkeypatch, model, key=None):
    with monkeypatch.context() as patch:
        patch.setattr(initialize, "can_draw", lambda key: False)
        return jax.jit(model.init)(jax.random.key(3) if key is None else key, IMAGE)


# As "classifier", drawn alike; a backbone is inside of the network of the next test.
RARE = ("scaled head", "backbone", "no layer scale", "large layer scale", "rematerialized")


@pytest.mark.parametrize(
    "options",
    [
        pytest.param(options, id=name, marks=[pytest.mark.slow] if name in RARE else [])
        for name, options in OPTIONS.items()
    ],
)
def test_the_numbers_are_those_that_the_layers_draw(monkeypatch, quick_compilation, options):
    model = small_model(**options)
    expected, found = by_flax(monkeypatch, model), jax.jit(model.init)(jax.random.key(3), IMAGE)
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    # One rounding: XLA multiplies by sqrt(2) * 0.02 where all is one program.
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2.4e-7, atol=0), found, expected)


def test_a_trunk_inside_of_another_network_draws_by_its_place(monkeypatch, quick_compilation):
    trunk = small_model(num_classes=None, **ONE_BLOCK)
    model = PooledClassifier(trunk, 4)
    expected, found = by_flax(monkeypatch, model), jax.jit(model.init)(jax.random.key(3), IMAGE)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2.4e-7, atol=0), found, expected)
    alone = jax.jit(trunk.init)(jax.random.key(3), IMAGE)["params"]
    kernels = [tree["stages_1_0"]["pwconv1"]["kernel"] for tree in (found["params"]["backbone"], alone)]
    assert not np.array_equal(*kernels)


def test_with_and_without_jit_the_numbers_are_the_same(quick_compilation):
    model = small_model(**ONE_BLOCK)
    jax.tree.map(
        np.testing.assert_array_equal,
        model.init(jax.random.key(5), IMAGE),
        jax.jit(model.init)(jax.random.PRNGKey(5), IMAGE),
    )


def test_another_generator_is_used_as_it_is(monkeypatch, quick_compilation):
    key, model = jax.random.key(3, impl="rbg"), small_model(**ONE_BLOCK)
    expected = by_flax(monkeypatch, model, key)
    jax.tree.map(np.testing.assert_array_equal, jax.jit(model.init)(key, IMAGE), expected)


def test_initialization_compiles_one_generator_and_computes_no_network():
    """The issue's reason: 116 generators took 39 s to compile. Their loops are counted, not the seconds."""
    model = create_model("unireplknet_a")
    text = jax.jit(model.init).lower(jax.random.key(0), jnp.zeros((1, 64, 64, 3))).as_text()
    assert text.count("stablehlo.while") <= 4
    assert "stablehlo.convolution" not in text
    assert text.count("stablehlo.dot_general") == 0


def test_an_abstract_initialization_traces_each_kind_of_convolution_once(monkeypatch):
    traced, real = [], depthwise_dft.convolve
    monkeypatch.setattr(depthwise_dft, "convolve", lambda *args: traced.append(1) or real(*args))
    jax.clear_caches()
    for _ in range(2):
        jax.eval_shape(small_model(kernel_sizes=((), (13,), (13,) * 2, ()), depths=(0, 1, 2, 0)).init,
                       jax.random.key(0), jnp.zeros((1, 160, 160, 3)))  # fmt: skip
    # Maps of 20 and 10 pixels; one kind of branch in each is small enough for another form.
    assert 0 < len(traced) <= 2 * 6
