"""The merge: exact, pure, driven by the tree alone."""

import flax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from draws import normal
from networks import lively, small_model

import unireplknet_jax as urk
from unireplknet_jax.models.reparameterize import is_merged, merge_error, reparameterize
from unireplknet_jax.models.shapes import abstract_variables
from unireplknet_jax.nn.block import KERNEL_SIZES, UniRepLKNetBlock
from unireplknet_jax.tasks.checkpoint import load_checkpoint

CASES = ("tiny_afp", "tiny_t", "tiny_kernels", "tiny_backbone")


pytestmark = pytest.mark.usefixtures("quick_compilation")


@pytest.fixture(scope="module")
def variables():
    return lively(abstract_variables(small_model()))


QUICK = ("tiny_afp", "tiny_kernels")


@pytest.mark.parametrize(
    "case", [pytest.param(case, marks=() if case in QUICK else pytest.mark.slow) for case in CASES]
)
def test_merged_tensors_equal_the_originals(goldens, case):
    _, trained = load_checkpoint(goldens / f"{case}.pth")
    _, expected = load_checkpoint(goldens / f"{case}_deploy.pth")
    before = jax.tree.map(np.array, trained)
    merged = reparameterize(trained)
    assert jax.tree.structure(merged) == jax.tree.structure(expected)
    for path, leaf in flax.traverse_util.flatten_dict(merged, sep="/").items():
        wanted = np.asarray(flax.traverse_util.flatten_dict(expected, sep="/")[path])
        # Sums of up to six branches in another order of operations.
        np.testing.assert_allclose(leaf, wanted, rtol=0, atol=2e-6 * np.abs(wanted).max(), err_msg=path)
    jax.tree.map(np.testing.assert_array_equal, trained, before)


# What becomes of a layer scale does not depend on the kernel.
BLOCKS = [
    pytest.param(size, init, marks=() if init or size == 13 else pytest.mark.slow)
    for size in KERNEL_SIZES
    for init in (1.0, None)
]


@pytest.mark.parametrize(("kernel_size", "layer_scale_init"), BLOCKS)
def test_a_block_of_every_kernel_size_keeps_its_output(kernel_size, layer_scale_init):
    x = normal(0, 2, 10, 9, 8)
    block = UniRepLKNetBlock(kernel_size, layer_scale_init=layer_scale_init, impl="xla")
    variables = lively(jax.eval_shape(block.init, jax.random.key(0), x))

    @jax.jit
    def both(variables, merged):
        return block.apply(variables, x), block.clone(deploy=True).apply(merged, x)

    before, after = map(np.asarray, both(variables, reparameterize(variables)))
    np.testing.assert_allclose(after, before, rtol=0, atol=5e-6 * np.abs(before).max())


@pytest.mark.parametrize("kernel_size", [3, 13])
def test_the_merge_has_the_epsilon_of_batch_norm(kernel_size):
    """At variances of 1e-5 the epsilon is half of what a kernel is divided by the root of."""
    x, block = jnp.zeros((1, 8, 8, 8)), UniRepLKNetBlock(kernel_size, impl="xla")
    variables = lively(jax.eval_shape(block.init, jax.random.key(0), x))
    flat = flax.traverse_util.flatten_dict(variables)

    def merged(variance):
        alike = {path: np.full_like(leaf, variance) if path[-1] == "var" else leaf for path, leaf in flat.items()}
        return reparameterize(flax.traverse_util.unflatten_dict(alike))["params"]

    tiny, unit = merged(1e-5), merged(1 - 1e-5)
    norms = 1 if kernel_size == 3 else 2  # one behind the other
    depthwise = ("dwconv",) if kernel_size == 3 else ("dwconv", "lk_origin")
    for path, factor in ((("pwconv2",), 2e-5**-0.5), (depthwise, 2e-5 ** (-0.5 * norms))):
        kernels = [flax.traverse_util.flatten_dict(params)[*path, "kernel"] for params in (tiny, unit)]
        np.testing.assert_allclose(kernels[0], factor * kernels[1], rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name", urk.list_models()[:9])
def test_every_published_size_keeps_its_output(name):
    model = urk.create_model(name, num_classes=10)
    variables = lively(abstract_variables(model))
    error = merge_error(model, variables, reparameterize(variables), normal(0, 1, 64, 64, 3))
    assert error < 1e-5


def test_it_is_jittable_and_gives_the_tree_of_the_merged_module(variables):
    shapes = jax.eval_shape(reparameterize, abstract_variables(small_model()))
    assert shapes == abstract_variables(small_model(deploy=True))
    jitted, plain = jax.jit(reparameterize)(variables), reparameterize(variables)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), jitted, plain)


ONE_BLOCK = {"depths": (0, 1, 0, 0), "kernel_sizes": ((), (13,), (), ()), "impl": "xla"}


def test_bfloat16_storage_is_folded_in_float32():
    model, x = small_model(**ONE_BLOCK), normal(0, 1, 32, 32, 3)
    variables = lively(abstract_variables(model))
    stored = jax.tree.map(lambda x: x.astype(jnp.bfloat16), variables)
    merged = reparameterize(stored)
    assert merged["params"]["stages_1_0"]["dwconv"]["lk_origin"]["kernel"].dtype == jnp.float32
    assert merged["params"]["head"]["kernel"].dtype == jnp.bfloat16
    assert merge_error(model, stored, merged, x) < 1e-5


def test_blocks_are_found_at_any_depth_and_foreign_statistics_stay(variables):
    nested = {
        "params": {"backbone": variables["params"], "decoder": {"bn": {"scale": jnp.ones(2)}}},
        "batch_stats": {"backbone": variables["batch_stats"], "decoder": {"bn": {"mean": jnp.zeros(2)}}},
    }
    merged = reparameterize(nested)
    assert set(merged["batch_stats"]) == {"decoder"}
    assert is_merged({"params": merged["params"]["backbone"]})
    assert merged["params"]["decoder"] == nested["params"]["decoder"]


def test_merged_variables_and_foreign_trees_are_refused(variables):
    with pytest.raises(ValueError, match="already merged"):
        reparameterize(reparameterize(variables))
    with pytest.raises(ValueError, match="no UniRepLKNet block"):
        reparameterize({"params": {"dense": {"kernel": jnp.ones((2, 2))}}, "batch_stats": {}})
    with pytest.raises(ValueError, match="running statistics"):
        reparameterize({"params": variables["params"]})
    with pytest.raises(ValueError, match='"params"'):
        reparameterize(variables["params"])


def test_the_error_measure_sees_an_error():
    model, x = small_model(**ONE_BLOCK), normal(0, 1, 32, 32, 3)
    variables = lively(abstract_variables(model))
    merged = reparameterize(variables)
    merged["params"]["stages_1_0"]["pwconv2"]["bias"] += 1.0
    assert merge_error(model, variables, merged, x) > 1e-3
