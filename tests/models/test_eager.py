"""The network outside of `jax.jit`: block by block, the same numbers, and open to whoever looks inside."""

import flax
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from networks import lively, small_model

import unireplknet_jax as urk
from unireplknet_jax.models.shapes import abstract_variables
from unireplknet_jax.nn.block import DepthwiseConv, UniRepLKNetBlock
from unireplknet_jax.train.sharding import batch_sharding, make_mesh

pytestmark = pytest.mark.usefixtures("quick_compilation")
IMAGES = np.random.default_rng(0).standard_normal((8, 48, 40, 3)).astype(np.float32)


@pytest.fixture(scope="module")
def model():
    return small_model(depths=(0, 2, 1, 0), kernel_sizes=((), (13, 13), (0,), ()), drop_path_rate=0.3, impl="xla")


@pytest.fixture(scope="module")
def variables(model):
    return lively(abstract_variables(model))


@pytest.fixture(scope="module")
def jitted(model, variables):
    """What the network as one program gives."""
    return np.asarray(jax.jit(model.apply)(variables, IMAGES))


@pytest.fixture(scope="module")
def plain(model, variables):
    """What it gives block by block."""
    return np.asarray(model.apply(variables, IMAGES))


def close(found, expected, rtol=2e-6):
    np.testing.assert_allclose(found, expected, rtol=0, atol=rtol * np.abs(expected).max())


def test_it_gives_what_the_jitted_one_gives(model, variables, jitted, plain):
    close(plain, jitted)
    maps = model.apply(variables, IMAGES, method="features")
    assert [m.shape for m in maps] == [(8, 12, 10, 8), (8, 6, 5, 16), (8, 3, 3, 24), (8, 2, 2, 32)]
    assert np.isfinite(jitted).all()


def test_merged_and_prepared_variables_too(model, variables, jitted):
    merged, deployed = urk.reparameterize(variables), model.clone(deploy=True, impl="auto")
    close(deployed.apply(merged, IMAGES), jitted, 1e-5)
    close(deployed.apply(urk.prepare(merged, (48, 40)), IMAGES), jitted, 1e-5)


def test_blocks_of_one_kind_share_a_program(plain):
    from unireplknet_jax.models.unireplknet import _block_program

    before = _block_program._cache_size()
    kernels = ((), (13,) * 5, (0,), ())
    deeper = small_model(depths=(0, 5, 1, 0), kernel_sizes=kernels, drop_path_rate=0.1, impl="xla")
    deeper.apply(lively(abstract_variables(deeper)), IMAGES)
    assert _block_program._cache_size() == before  # whatever the depth and the rate of stochastic depth


def test_who_looks_inside_sees_every_layer(model, variables, plain):
    _, seen = model.apply(variables, IMAGES, capture_intermediates=True)
    assert seen["intermediates"]["stages_1_1"]["dwconv"]["lk_origin"]["__call__"][0].shape == (8, 6, 5, 16)


def test_intercepted_calls_reach_into_blocks(model, variables, plain):
    met = []

    def skip(next_function, args, kwargs, context):
        if isinstance(context.module, DepthwiseConv):
            met.append(context.module.name)
            return args[0]
        return next_function(*args, **kwargs)

    with nn.intercept_methods(skip):
        other = model.apply(variables, IMAGES)
    assert met.count("lk_origin") == 2
    assert not np.allclose(other, plain)
    np.testing.assert_array_equal(model.apply(variables, IMAGES), plain)


@pytest.mark.slow  # every operation of a network and its gradient is compiled by itself
def test_gradients_outside_of_jit():
    model = small_model(depths=(0, 1, 0, 0), kernel_sizes=((), (7,), (), ()))
    variables = lively(abstract_variables(model))

    def loss(params):
        return jnp.sum(jnp.square(model.apply({**variables, "params": params}, IMAGES[:1])))

    found, expected = jax.grad(loss)(variables["params"]), jax.jit(jax.grad(loss))(variables["params"])
    largest = max(np.abs(leaf).max() for leaf in jax.tree.leaves(expected))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=2e-6 * largest), found, expected)


def test_statistics_are_updated_outside_of_jit(model, variables):
    _, updates = model.apply(
        variables, IMAGES, train=True, mutable=["batch_stats"], rngs={"dropout": jax.random.key(0)}
    )
    moved = jax.tree.map(lambda a, b: bool(np.any(a != b)), updates["batch_stats"], variables["batch_stats"])
    assert all(jax.tree.leaves(moved))


def test_on_a_mesh_the_batch_stays_split(model, variables, plain):
    mesh = make_mesh()
    with jax.set_mesh(mesh):
        logits = model.apply(variables, jax.device_put(IMAGES, batch_sharding(mesh)))
    close(logits, plain)
    assert len(logits.sharding.device_set) == 8


def test_other_precision_other_program(model, variables):
    """A block program must not keep the matmul precision of the first caller."""
    from unireplknet_jax.models.unireplknet import _block_program

    def text():
        block = UniRepLKNetBlock(13, parent=None)
        own = {name: tree["stages_1_0"] for name, tree in variables.items()}
        return _block_program.lower(block, own, np.zeros((1, 6, 5, 16), np.float32), None).as_text()

    with jax.default_matmul_precision("default"):
        low = text()
    with jax.default_matmul_precision("highest"):
        assert text().count("HIGHEST") > low.count("HIGHEST")


@pytest.mark.parametrize("lost", ["all of a block", "grn", "shape"])
def test_what_does_not_fit_is_named_by_its_whole_path(model, variables, lost):
    block = {**variables["params"]["stages_1_0"]}
    params = {**variables["params"], "stages_1_0": block}
    if lost == "all of a block":
        del params["stages_1_0"]
    elif lost == "grn":
        del block["grn"]
    else:
        block["gamma"] = np.zeros(7, np.float32)
    with pytest.raises(flax.errors.FlaxError, match="stages_1_0"):
        model.apply({**variables, "params": params}, IMAGES)


def test_recomputed_blocks_stay_recomputed(model, variables):
    def loss(params):
        return jnp.sum(model.clone(remat=True).apply({**variables, "params": params}, IMAGES[:1]))

    assert str(jax.make_jaxpr(jax.grad(loss))(variables["params"])).count("remat") >= 3


def test_annotated_parameters_are_unboxed(model, variables, jitted):
    kernel = variables["params"]["head"]["kernel"]
    boxed = {
        **variables["params"],
        "head": {**variables["params"]["head"], "kernel": nn.Partitioned(kernel, (None, "m"))},
    }
    found = jax.jit(model.apply)({**variables, "params": boxed}, IMAGES)
    np.testing.assert_array_equal(found, jitted)
