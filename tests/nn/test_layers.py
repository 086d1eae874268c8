"""The small layers by numbers."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from draws import normal
from networks import lively

from unireplknet_jax.nn.layers import (
    BatchNorm,
    DropPath,
    GlobalResponseNorm,
    LayerNorm,
    SqueezeExcite,
    StridedConv,
)
from unireplknet_jax.ops.layers import gelu
from unireplknet_jax.ops.response_norm import global_response_norm


def batch_norm_variables(channels):
    rng = np.random.default_rng(0)
    return {
        "params": {"scale": rng.normal(size=channels), "bias": rng.normal(size=channels)},
        "batch_stats": {"mean": rng.normal(size=channels), "var": rng.uniform(0.5, 2, channels)},
    }


@pytest.mark.parametrize("group", [None, 2, 4, 1])
def test_batch_norm_shares_statistics_within_groups_and_stores_the_unbiased_variance(group):
    x = np.random.default_rng(1).normal(3, 2, (4, 2, 3, 5))
    variables = batch_norm_variables(5)
    y, updates = BatchNorm(group).apply(
        jax.tree.map(jnp.float32, variables), jnp.float32(x), train=True, mutable=["batch_stats"]
    )
    grouped = x.reshape(-1, group or 4, 2, 3, 5)
    mean, var = grouped.mean((1, 2, 3), keepdims=True), grouped.var((1, 2, 3), keepdims=True)
    scale, bias = variables["params"]["scale"], variables["params"]["bias"]
    expected = ((grouped - mean) / np.sqrt(var + 1e-5) * scale + bias).reshape(x.shape)
    np.testing.assert_allclose(y, expected, rtol=0, atol=2e-6 * np.abs(expected).max())
    running, unbiased = variables["batch_stats"], grouped.var((1, 2, 3), ddof=1).mean(0)
    np.testing.assert_allclose(
        updates["batch_stats"]["mean"], 0.9 * running["mean"] + 0.1 * mean.mean(0).ravel(), rtol=1e-6
    )
    np.testing.assert_allclose(updates["batch_stats"]["var"], 0.9 * running["var"] + 0.1 * unbiased, rtol=1e-6)


@pytest.mark.parametrize("train", [True, False])
def test_batch_norm_by_its_definition_with_its_epsilon(train):
    """At variances near 1e-5 the epsilon decides."""
    x = np.random.default_rng(0).normal(0, np.sqrt(1e-5), (4, 3, 3, 5))
    variables = batch_norm_variables(5)
    variables["batch_stats"] = {"mean": 1e-3 * np.arange(5), "var": 1e-5 * np.arange(1, 6) / 3}
    y, _ = BatchNorm().apply(jax.tree.map(jnp.float32, variables), jnp.float32(x), train=train, mutable=["batch_stats"])
    mean, var = x.mean((0, 1, 2)), x.var((0, 1, 2))
    if not train:
        mean, var = variables["batch_stats"].values()
    expected = (x - mean) / np.sqrt(var + 1e-5) * variables["params"]["scale"] + variables["params"]["bias"]
    np.testing.assert_allclose(y, expected, rtol=0, atol=3e-6 * np.abs(expected).max())


def test_batch_norm_of_one_value_per_channel_stays_finite():
    variables = jax.tree.map(jnp.float32, batch_norm_variables(3))
    y, updates = BatchNorm().apply(variables, jnp.ones((1, 1, 1, 3)), train=True, mutable=["batch_stats"])
    np.testing.assert_allclose(y[0, 0, 0], variables["params"]["bias"], rtol=1e-6)
    np.testing.assert_allclose(updates["batch_stats"]["var"], 0.9 * variables["batch_stats"]["var"], rtol=1e-6)


def test_batch_norm_survives_a_mean_far_above_the_deviation():
    """E[x^2] - E[x]^2 would lose every digit here."""
    x = 1000 + np.asarray(normal(0, 8, 8, 8, 2))
    y, _ = jax.jit(lambda x: BatchNorm().init_with_output(jax.random.key(0), x, train=True))(x)
    np.testing.assert_allclose(np.var(y, axis=(0, 1, 2)), 1, rtol=1e-3)


@pytest.mark.parametrize("train", [False, True])
def test_frozen_batch_norm_uses_and_keeps_the_running_statistics(train):
    variables = jax.tree.map(jnp.float32, batch_norm_variables(5))
    x = normal(0, 2, 3, 3, 5)
    y, updates = BatchNorm(frozen=True).apply(variables, x, train=train, mutable=["batch_stats"])
    np.testing.assert_array_equal(y, BatchNorm().apply(variables, x))
    np.testing.assert_array_equal(updates["batch_stats"]["mean"], variables["batch_stats"]["mean"])


def test_a_batch_that_does_not_split_into_groups_is_refused():
    with pytest.raises(ValueError, match="bn_group=4"):
        BatchNorm(4).init(jax.random.key(0), jnp.zeros((6, 1, 1, 2)), train=True)


def test_grn_by_its_definition_with_its_epsilon():
    """At energies near 1e-6 the epsilon decides."""
    x = 1e-7 * np.random.default_rng(0).normal(size=(2, 3, 3, 4))
    gamma, beta = np.linspace(1, 2, 4), np.linspace(-1, 1, 4) * 1e-7
    norm = np.sqrt((x**2).sum((1, 2), keepdims=True))
    expected = (gamma * norm / (norm.mean(-1, keepdims=True) + 1e-6) + 1) * x + beta
    y = global_response_norm(jnp.float32(x), *(jnp.float32(a).reshape(1, 1, 1, 4) for a in (gamma, beta)))
    np.testing.assert_allclose(y, expected, rtol=0, atol=1e-6 * np.abs(expected).max())


def test_grn_has_a_zero_gradient_at_zero_input():
    nothing, pixel = np.zeros((2, 1, 2, 2, 4), np.float32)
    pixel[0, 0, 0, 0] = 1
    gradient = jax.jit(jax.grad(lambda x: jnp.sum(global_response_norm(x, np.float32(1), np.float32(0)))))
    assert np.isfinite(gradient(pixel)).all()
    np.testing.assert_array_equal(gradient(nothing), 1.0)  # the identity's, GRN's own being 0


def test_grn_starts_as_the_identity_behind_its_gelu_and_loses_beta_when_merged():
    x = normal(0, 1, 2, 2, 4)
    y, variables = GlobalResponseNorm().init_with_output(jax.random.key(0), x)
    np.testing.assert_array_equal(y, gelu(x))
    assert variables["params"]["gamma"].shape == (1, 1, 1, 4)
    scaled, variables = GlobalResponseNorm(use_bias=False).init_with_output(jax.random.key(0), x)
    assert set(variables["params"]) == {"gamma"}
    np.testing.assert_array_equal(scaled.map, y)
    np.testing.assert_array_equal(scaled.factor, 1)


def test_squeeze_excite_by_its_definition():
    x = np.random.default_rng(0).normal(size=(2, 3, 3, 8)).astype(np.float32)
    params = lively(jax.eval_shape(SqueezeExcite().init, jax.random.key(0), x))["params"]
    down, up = params["down"], params["up"]
    hidden = np.maximum(x.mean((1, 2)) @ down["kernel"][0, 0] + down["bias"], 0)
    gate = 1 / (1 + np.exp(-(hidden @ up["kernel"][0, 0] + up["bias"])))
    assert down["kernel"].shape == (1, 1, 8, 2)
    np.testing.assert_allclose(
        jax.jit(SqueezeExcite().apply)({"params": params}, x), x * gate[:, None, None], rtol=2e-6, atol=1e-6
    )


def test_drop_path_drops_whole_examples_and_scales_the_survivors():
    x = np.ones((10000, 1, 2, 3), np.float32)
    y = jax.jit(lambda x, key: DropPath(0.3).apply({}, x, train=True, rngs={"dropout": key}))(x, jax.random.key(0))
    per_example = np.asarray(y).reshape(10000, -1)
    assert (per_example == per_example[:, :1]).all()
    np.testing.assert_allclose(np.unique(per_example), [0, 1 / 0.7], rtol=1e-6)
    assert abs((per_example[:, 0] == 0).mean() - 0.3) < 5 * np.sqrt(0.3 * 0.7 / 10000)  # five standard deviations


def test_drop_path_needs_no_randomness_when_it_drops_nothing():
    x = jnp.ones((2, 1, 1, 1))
    np.testing.assert_array_equal(DropPath(0.5).apply({}, x), x)
    np.testing.assert_array_equal(DropPath(0.0).apply({}, x, train=True), x)


def test_layer_norm_has_the_originals_epsilon():
    x = jnp.asarray([[1e-3, -1e-3]])  # variance 1e-6: the output is 1 / sqrt(2)
    y, _ = LayerNorm().init_with_output(jax.random.key(0), x)
    np.testing.assert_allclose(y, [[0.5**0.5, -(0.5**0.5)]], rtol=1e-5)


def test_gelu_is_exact():
    np.testing.assert_allclose(gelu(jnp.float32(-2.0)), -0.04550026, rtol=1e-5)  # tanh form: -0.0454023
    x = jnp.linspace(-6, 6, 1001, dtype=jnp.bfloat16)
    expected = [0.5 * v * math.erfc(-v * math.sqrt(0.5)) for v in x.astype(float).tolist()]
    np.testing.assert_allclose(gelu(x).astype(float), expected, rtol=2**-8, atol=1e-6)


def test_gelu_is_one_operation_of_every_compiler():
    text = jax.jit(gelu).lower(jnp.zeros((2, 3), jnp.bfloat16)).as_text()
    assert "chlo.erf " in text or "mhlo.erf" in text
    assert "erfc" not in text  # a hundred instructions; on a GPU some 25 kernels


@pytest.mark.parametrize("size", [(8, 8), (7, 5), (1, 2)])
def test_strided_convolution_pads_one_on_every_side(size):
    x = np.ones((1, *size, 1), np.float32)
    conv = StridedConv(1)
    params = {"kernel": np.ones((3, 3, 1, 1), np.float32), "bias": np.zeros(1, np.float32)}
    y = np.asarray(conv.apply({"params": params}, x))
    assert y.shape == (1, -(-size[0] // 2), -(-size[1] // 2), 1)
    assert y[0, 0, 0, 0] == min(2, size[0]) * min(2, size[1])  # the corner sees the pixels at (0..1, 0..1)
