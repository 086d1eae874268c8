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
    return dict(zip(names, np.concatenate(values).astype(np.float32), strict=True))


def normalize(y, scale, shift, mean, var, eps=1e-5):
    return (y - mean) / jnp.sqrt(var + eps) * scale + shift


def shapes_of(layer, x):
    """Of the parameters of a layer, which are not computed."""
    return jax.eval_shape(layer.init, jax.random.key(1), x)["params"]


@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize("groups", [1, 4])
@pytest.mark.parametrize("use_bias", [False, True])
def test_batch_norm_folds_into_a_convolution_of_any_rank(rank, groups, use_bias):
    conv = nn.Conv(8, (3,) * rank, feature_group_count=groups, use_bias=True)
    x = normal(0, 2, *(5,) * rank, 4)
    kernel = normal(1, *shapes_of(conv, x)["kernel"].shape)
    bias = np.linspace(-1, 1, 8, dtype=np.float32) if use_bias else None

    @jax.jit
    def both(kernel, bias, stats):
        plain = {"kernel": kernel, "bias": jnp.zeros(8) if bias is None else bias}
        folded = dict(zip(("kernel", "bias"), fold_batch_norm(kernel, bias, **stats), strict=True))
        return normalize(conv.apply({"params": plain}, x), **stats), conv.apply({"params": folded}, x)

    expected, folded = map(np.asarray, both(kernel, bias, statistics(8)))
    np.testing.assert_allclose(folded, expected, rtol=0, atol=2e-6 * np.abs(expected).max())


@pytest.mark.parametrize("transpose_kernel", [False, True])
def test_batch_norm_folds_into_a_transposed_convolution(transpose_kernel):
    conv = nn.ConvTranspose(6, (3, 3), strides=(2, 2), transpose_kernel=transpose_kernel)
    x = normal(0, 2, 5, 5, 4)
    params = {name: normal(i, *leaf.shape) for i, (name, leaf) in enumerate(shapes_of(conv, x).items())}
    out_axis = -2 if transpose_kernel else -1

    @jax.jit
    def both(params, stats):
        kernel, bias = fold_batch_norm(params["kernel"], params["bias"], **stats, out_axis=out_axis)
        folded = {"kernel": kernel, "bias": bias}
        return normalize(conv.apply({"params": params}, x), **stats), conv.apply({"params": folded}, x)

    expected, folded = map(np.asarray, both(params, statistics(6)))
    np.testing.assert_allclose(folded, expected, rtol=0, atol=2e-6 * np.abs(expected).max())


def test_batch_norm_folds_into_a_linear_layer():
    @jax.jit
    def both(x, kernel, stats):
        folded, bias = fold_batch_norm(kernel, None, **stats)
        return normalize(x @ kernel, **stats), x @ folded + bias

    expected, folded = map(np.asarray, both(normal(0, 7, 5), normal(1, 5, 6), statistics(6)))
    np.testing.assert_allclose(folded, expected, rtol=0, atol=2e-6 * np.abs(expected).max())


def test_epsilon_matters():
    """With a tiny variance a wrong epsilon is visible; the other tests would not see it."""
    stats, one = statistics(1) | {"var": np.full(1, 1e-5, np.float32)}, np.ones((1, 1), np.float32)
    kernel, _ = fold_batch_norm(one, None, **stats, eps=3e-5)
    np.testing.assert_allclose(kernel, stats["scale"][None] / np.sqrt(4e-5), rtol=1e-6)
    kernel, _ = fold_batch_norm(one, None, **stats)  # by default PyTorch's 1e-5
    np.testing.assert_allclose(kernel, stats["scale"][None] / np.sqrt(2e-5), rtol=1e-6)


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_a_dilated_branch_merges_into_a_large_kernel_of_any_rank(rank):
    large = normal(0, *(9,) * rank, 1, 4)
    branch = normal(1, *(3,) * rank, 1, 4)
    x = normal(2, 2, *(11,) * rank, 4)

    def conv(kernel, size, dilation):
        layer = nn.Conv(4, (size,) * rank, kernel_dilation=dilation, feature_group_count=4, use_bias=False)
        return layer.apply({"params": {"kernel": kernel}}, x)

    @jax.jit
    def both(large, branch):
        return conv(large, 9, 1) + conv(branch, 3, 4), conv(merge_branch(large, branch, 4), 9, 1)

    expected, merged = map(np.asarray, both(large, branch))
    np.testing.assert_allclose(merged, expected, rtol=0, atol=2e-6 * np.abs(expected).max())


def test_dilating_spreads_the_taps():
    found = jax.jit(dilate_kernel, static_argnums=1)(np.arange(1, 4, dtype=np.float32).reshape(3, 1, 1), 3)
    np.testing.assert_array_equal(np.ravel(found), [1, 0, 0, 2, 0, 0, 3])


def test_wrong_shapes_are_named():
    with pytest.raises(ValueError, match=r"scale must have shape \(4,\)"):
        fold_batch_norm(np.ones((3, 3, 1, 4)), None, **statistics(3))
    with pytest.raises(ValueError, match="cannot be centered"):
        pad_kernel(np.ones((3, 3, 1, 4)), 6)
    with pytest.raises(ValueError, match="at least 1"):
        dilate_kernel(np.ones((3, 3, 1, 4)), 0)
