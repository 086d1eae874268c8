"""Folding, checked by running the folded and the unfolded layers on random input with random statistics."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from draws import normal

from unireplknet_jax.ops.fold import dilate_kernel, fold_batch_norm, merge_branch, pad_kernel

pytestmark = pytest.mark.usefixtures("quick_compilation")


def statistics(channels, seed=0):
    rng = np.random.default_rng(seed)
    names = ("scale", "shift", "mean", "var")
    values = rng.normal(size=(3, channels)), rng.uniform(0.2, 3, (1, channels))
    return dict(zip(names, jnp.asarray(np.concatenate(values), jnp.float32), strict=True))


@jax.jit
def normalize(y, scale, shift, mean, var, eps=1e-5):
    return (y - mean) / jnp.sqrt(var + eps) * scale + shift


@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize("groups", [1, 4])
@pytest.mark.parametrize("use_bias", [False, True])
def test_batch_norm_folds_into_a_convolution_of_any_rank(rank, groups, use_bias):
    conv = nn.Conv(8, (3,) * rank, feature_group_count=groups, use_bias=True)
    x = normal(0, 2, *(5,) * rank, 4)
    params = jax.jit(conv.init)(jax.random.key(1), x)["params"]
    bias = jnp.linspace(-1, 1, 8) if use_bias else None
    stats = statistics(8)
    apply = jax.jit(conv.apply)
    expected = normalize(apply({"params": {**params, "bias": jnp.zeros(8) if bias is None else bias}}, x), **stats)
    kernel, folded_bias = fold_batch_norm(params["kernel"], bias, **stats)
    folded = apply({"params": {"kernel": kernel, "bias": folded_bias}}, x)
    np.testing.assert_allclose(folded, expected, rtol=0, atol=2e-6 * np.abs(expected).max())


@pytest.mark.parametrize("transpose_kernel", [False, True])
def test_batch_norm_folds_into_a_transposed_convolution(transpose_kernel):
    conv = nn.ConvTranspose(6, (3, 3), strides=(2, 2), transpose_kernel=transpose_kernel)
    x = normal(0, 2, 5, 5, 4)
    params = jax.jit(conv.init)(jax.random.key(1), x)["params"]
    stats = statistics(6)
    apply = jax.jit(conv.apply)
    expected = normalize(apply({"params": params}, x), **stats)
    out_axis = -2 if transpose_kernel else -1
    kernel, bias = fold_batch_norm(params["kernel"], params["bias"], **stats, out_axis=out_axis)
    folded = apply({"params": {"kernel": kernel, "bias": bias}}, x)
    np.testing.assert_allclose(folded, expected, rtol=0, atol=2e-6 * np.abs(expected).max())


def test_batch_norm_folds_into_a_linear_layer():
    x, kernel = normal(0, 7, 5), normal(1, 5, 6)
    stats = statistics(6)
    folded, bias = fold_batch_norm(kernel, None, **stats)
    expected = normalize(x @ kernel, **stats)
    np.testing.assert_allclose(x @ folded + bias, expected, rtol=0, atol=2e-6 * np.abs(expected).max())


def test_epsilon_matters():
    """With a tiny variance a wrong epsilon is visible; the other tests would not see it."""
    stats = statistics(1) | {"var": jnp.full(1, 1e-5)}
    kernel, _ = fold_batch_norm(jnp.ones((1, 1)), None, **stats, eps=3e-5)
    np.testing.assert_allclose(kernel, stats["scale"][None] / np.sqrt(4e-5), rtol=1e-6)
    kernel, _ = fold_batch_norm(jnp.ones((1, 1)), None, **stats)  # by default PyTorch's 1e-5
    np.testing.assert_allclose(kernel, stats["scale"][None] / np.sqrt(2e-5), rtol=1e-6)


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_a_dilated_branch_merges_into_a_large_kernel_of_any_rank(rank):
    large = normal(0, *(9,) * rank, 1, 4)
    branch = normal(1, *(3,) * rank, 1, 4)
    x = normal(2, 2, *(11,) * rank, 4)

    def conv(kernel, size, dilation):
        layer = nn.Conv(4, (size,) * rank, kernel_dilation=dilation, feature_group_count=4, use_bias=False)
        return jax.jit(layer.apply)({"params": {"kernel": kernel}}, x)

    expected = conv(large, 9, 1) + conv(branch, 3, 4)
    merged = conv(merge_branch(large, branch, 4), 9, 1)
    np.testing.assert_allclose(merged, expected, rtol=0, atol=2e-6 * np.abs(expected).max())


def test_dilating_spreads_the_taps():
    np.testing.assert_array_equal(dilate_kernel(jnp.arange(1.0, 4).reshape(3, 1, 1), 3).ravel(), [1, 0, 0, 2, 0, 0, 3])


def test_wrong_shapes_are_named():
    with pytest.raises(ValueError, match=r"scale must have shape \(4,\)"):
        fold_batch_norm(jnp.ones((3, 3, 1, 4)), None, **statistics(3))
    with pytest.raises(ValueError, match="cannot be centered"):
        pad_kernel(jnp.ones((3, 3, 1, 4)), 6)
    with pytest.raises(ValueError, match="at least 1"):
        dilate_kernel(jnp.ones((3, 3, 1, 4)), 0)
