"""Layers: the forms of one platform against the plain ones, values and gradients."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from draws import normal

from unireplknet_jax.ops import batch_norm, layers

pytestmark = pytest.mark.usefixtures("quick_compilation")

SHAPE = (4, 3, 5, 6)
DTYPES = {jnp.float32: 3e-6, jnp.bfloat16: 2**-7}


def outputs_and_gradients(function, x, scale, bias):
    """Of a loss that all outputs take part in."""

    def loss(x, scale, bias):
        outputs = jax.tree.leaves(function(x, scale, bias))
        weights = [normal(3 + i, *output.shape) for i, output in enumerate(outputs)]
        return sum(jnp.sum(y.astype(jnp.float32) * w) for y, w in zip(outputs, weights, strict=True)), outputs

    (_, outputs), gradients = jax.jit(jax.value_and_grad(loss, (0, 1, 2), has_aux=True))(x, scale, bias)
    return [*outputs, *gradients]


def assert_alike(found, exact, tolerance):
    for ours, theirs in zip(found, exact, strict=True):
        ours, theirs = (np.asarray(a, np.float64) for a in (ours, theirs))
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=tolerance * np.abs(theirs).max())


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("group", [4, 2])
def test_batch_norm_on_rows(dtype, group):
    x, parameters = (3 + 2 * np.asarray(normal(0, *SHAPE))).astype(dtype), np.asarray(normal(1, 2, SHAPE[-1]))
    plain = functools.partial(batch_norm._on_maps, group=group)
    found = outputs_and_gradients(lambda *arrays: batch_norm.on_rows(*arrays, group), x, *parameters)
    assert found[0].dtype == found[3].dtype == dtype
    assert_alike(found, outputs_and_gradients(plain, x.astype(np.float32), *parameters), DTYPES[dtype])


@pytest.mark.parametrize("dtype", DTYPES)
def test_layer_norm_by_statistics(dtype):
    x, parameters = (3 + 2 * np.asarray(normal(0, *SHAPE))).astype(dtype), np.asarray(normal(1, 2, SHAPE[-1]))
    found = outputs_and_gradients(layers.layer_norm_by_statistics, x, *parameters)
    assert found[0].dtype == jnp.float32
    assert found[1].dtype == dtype
    assert_alike(found, outputs_and_gradients(layers._layer_norm, x.astype(np.float32), *parameters), DTYPES[dtype])


@pytest.mark.parametrize(
    ("function", "kept"),
    [
        (lambda *arrays: batch_norm.batch_norm_by_groups(*arrays, 2), "LayoutConstraint"),
        (lambda *arrays: jax.vjp(layers.layer_norm, *arrays)[1](jnp.ones(SHAPE)), "optimization_barrier"),
    ],
)
def test_only_what_is_compiled_for_cuda_takes_them(function, kept):
    traced = jax.jit(function).trace(normal(0, *SHAPE), *normal(1, 2, SHAPE[-1]))
    texts = {name: traced.lower(lowering_platforms=(name,)).as_text() for name in ("cpu", "cuda", "tpu")}
    assert [name for name, text in texts.items() if kept in text] == ["cuda"]


@pytest.mark.parametrize(("c", "d"), [(3, 8), (3, 64), (4, 8)])
def test_a_strided_convolution_of_few_channels(c, d):
    """XLA's own, and its gradients, whatever is filled up with zeros."""
    arrays = normal(0, 2, 9, 8, c), normal(1, 3, 3, c, d)

    def plain(x, kernel):
        axes = ("NHWC", "HWIO", "NHWC")
        return jax.lax.conv_general_dilated(x, kernel, (2, 2), ((1, 1), (1, 1)), dimension_numbers=axes)

    bias = np.zeros(d, np.float32)
    assert_pullbacks_alike(lambda x, kernel: layers.strided_conv(x, kernel, bias), plain, arrays)


@pytest.mark.parametrize(("c", "d"), [(6, 10), (10, 6)])
@pytest.mark.parametrize("shape", [(5,), (2, 3, 4)])
def test_the_gradients_of_a_linear_layer(c, d, shape):
    assert_pullbacks_alike(layers.linear, jnp.matmul, (normal(0, *shape, c), normal(1, c, d)))


def assert_pullbacks_alike(function, plain, arrays):
    """Results and cotangents of all arguments."""

    @jax.jit
    def both(arrays):
        results = []
        for each in (function, plain):
            y, pullback = jax.vjp(each, *arrays)
            results.append((y, *pullback(normal(9, *y.shape))))
        return results

    assert_alike(*both(arrays), 1e-6)
