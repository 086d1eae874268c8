"""What a linear layer makes of a map whose bias and scale are left to it: the form for a GPU against the plain one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from draws import normal

from unireplknet_jax.ops import layers, squeeze_excite
from unireplknet_jax.ops.squeeze_excite import Biased, excited, linear_of_excited

pytestmark = pytest.mark.usefixtures("quick_compilation")

C, FEATURES = 8, 6
# bfloat16: sum, factor, scaled map and result are rounded one after the other, 2^-9 of each.
DTYPES = {jnp.float32: 2e-6, jnp.bfloat16: 3 * 2**-8}


def arguments(side, dtype=jnp.float32):
    """A map (2, side, side, C) with its bias, the kernels of squeeze and excitation, and kernel and bias behind it."""
    draws = ((2, side, side, C), (C,), (1, 1, C, 2), (2,), (1, 1, 2, C), (C,), (C, FEATURES), (FEATURES,))
    x, shift, *rest = (np.asarray(normal(i, *shape)).astype(dtype) for i, shape in enumerate(draws))
    return Biased(x, shift), rest[:2], rest[2:4], rest[4:]


def plain(x, down, up, behind):
    return layers.linear(layers.squeeze_excite(x.map + x.bias, down, up), *behind)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("side", [2, 5])
def test_both_forms_give_the_numbers_of_one_layer_after_the_other(side, dtype):
    x, down, up, behind = arguments(side, dtype)
    exact = np.asarray(jax.jit(plain)(*jax.tree.map(lambda a: a.astype(np.float32), (x, down, up, behind))))

    @jax.jit
    def forms(x, down, up, behind):
        left = excited(x, down, up)
        return linear_of_excited(left, *behind), squeeze_excite.of_kernels(*left, *behind)

    for found in forms(x, down, up, behind):
        assert found.dtype == dtype
        atol = DTYPES[dtype] * np.abs(exact).max()
        np.testing.assert_allclose(np.asarray(found, np.float32), exact, rtol=0, atol=atol)


@pytest.mark.parametrize(("side", "platforms"), [(3, []), (4, ["cuda"])])
def test_on_a_gpu_a_large_map_leaves_its_factor_to_the_kernel(side, platforms):
    """Large: more than twice as many positions as the linear layer has features."""
    x, down, up, behind = arguments(side)
    traced = jax.jit(linear_of_excited).trace(jax.eval_shape(excited, x, down, up), *behind)
    texts = {name: traced.lower(lowering_platforms=(name,)).as_text() for name in ("cpu", "cuda", "tpu")}
    assert [name for name, text in texts.items() if "batching_dims = [0] x [0]" in text] == platforms
