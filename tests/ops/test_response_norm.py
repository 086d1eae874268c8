"""GELU and GRN: the form for a GPU against the plain one, values and gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from draws import normal
from jax.sharding import NamedSharding, PartitionSpec

from unireplknet_jax.ops import response_norm
from unireplknet_jax.ops.layers import gelu
from unireplknet_jax.train.sharding import batch_sharding, make_mesh

pytestmark = pytest.mark.usefixtures("quick_compilation")

SHAPE = (2, 3, 5, 6)


def arguments(dtype=jnp.float32, beta=True):
    x, parameters = np.asarray(normal(0, *SHAPE)).astype(dtype), np.asarray(normal(1, 2, 1, 1, 1, SHAPE[-1]))
    return (x, *parameters[: 1 + beta])


def plain(x, gamma, beta=None):
    return response_norm.global_response_norm(gelu(x), gamma, beta)


def value_and_gradients(function, x, *parameters):
    def loss(x, *parameters):
        z = function(x, *parameters).astype(jnp.float32)
        return jnp.sum(z * normal(2, *SHAPE)), z

    (_, z), gradients = jax.jit(jax.value_and_grad(loss, tuple(range(1 + len(parameters))), has_aux=True))(
        x, *parameters
    )
    return z, *gradients


@pytest.mark.parametrize("beta", [True, False])
def test_the_form_for_a_gpu_gives_the_numbers_of_the_plain_one(beta):
    x, *parameters = arguments(beta=beta)
    x = x.copy()
    x[0, :, :, 2] = 0  # a channel without energy
    found = value_and_gradients(lambda x, gamma, beta=None: response_norm.on_rows(x, gamma, beta), x, *parameters)
    expected = value_and_gradients(plain, x, *parameters)
    assert len(found) == 3 + beta
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.shape == theirs.shape
        assert ours.dtype == theirs.dtype
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=2e-6 * np.abs(theirs).max())


def test_in_bfloat16_it_is_off_by_its_rounding_alone():
    x, *parameters = arguments(jnp.bfloat16)
    found = value_and_gradients(response_norm.on_rows, x, *parameters)
    exact = value_and_gradients(plain, x.astype(np.float32), *parameters)
    for ours, theirs in zip(found, exact, strict=True):
        ours, theirs = (np.asarray(a, np.float64) for a in (ours, theirs))
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=2**-7 * np.abs(theirs).max())


@pytest.mark.parametrize("features", [3, 40])
@pytest.mark.parametrize("shape", [(2, 3, 5, 6), (2, 1, 2, 6)])
def test_the_product_behind_it_multiplies_the_smaller_of_map_and_kernel(shape, features):
    x, kernel, bias = normal(0, *shape), normal(1, 6, features), normal(2, features)

    @jax.jit
    def forms(x, gamma, kernel, bias):
        scaled = response_norm.gelu_response_factor(x, gamma)
        on_rows = response_norm._linear_of_rows(*scaled, kernel, bias)
        return scaled, (response_norm.linear_of_scaled(scaled, kernel, bias), on_rows)

    scaled, results = jax.tree.map(np.asarray, forms(x, normal(3, 1, 1, 1, 6), kernel, bias))
    expected = (scaled.map * scaled.factor) @ np.asarray(kernel) + np.asarray(bias)
    for found in results:
        np.testing.assert_allclose(found, expected, rtol=0, atol=2e-6 * np.abs(expected).max())
    products = jax.make_jaxpr(response_norm._linear_of_rows)(*scaled, kernel, bias)
    batched = "([2], [1]), ([0], [0])" in str(products).replace("dimension_numbers=", "")
    assert batched == (shape[1] * shape[2] >= shape[3])


def test_only_what_is_compiled_for_cuda_takes_it():
    def backward(*arrays):
        return jax.vjp(response_norm.gelu_response_norm, *arrays)[1](arrays[0])

    traced = jax.jit(backward).trace(*arguments())
    texts = {name: traced.lower(lowering_platforms=(name,)).as_text() for name in ("cpu", "cuda", "tpu")}
    assert [name for name, text in texts.items() if "LayoutConstraint" in text] == ["cuda"]


def test_on_a_mesh_no_map_is_gathered():
    mesh = make_mesh()
    rows, whole = batch_sharding(mesh), NamedSharding(mesh, PartitionSpec())
    x, gamma, beta = (
        jax.ShapeDtypeStruct(shape, jnp.float32, sharding=sharding)
        for shape, sharding in (((8, 2, 2, 4), rows), ((1, 1, 1, 4), whole), ((1, 1, 1, 4), whole))
    )

    def both_passes(x, gamma, beta, g):
        z, pullback = jax.vjp(response_norm.on_rows, x, gamma, beta)
        return z, pullback(g)

    with jax.set_mesh(mesh):
        text = jax.jit(both_passes).lower(x, gamma, beta, x).compile().as_text()
    assert "all-reduce" in text  # the parameters' gradients
    assert "all-gather" not in text
