"""The depthwise convolution is traced once for all blocks of the same shapes, and the trace binds nothing else."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from meshes import mesh_of
from networks import lively

import unireplknet_jax as urk
from unireplknet_jax.models.shapes import abstract_variables
from unireplknet_jax.models.variants import create_model
from unireplknet_jax.nn.block import BRANCHES
from unireplknet_jax.ops.depthwise import IMPLEMENTATIONS, choose, depthwise_conv2d
from unireplknet_jax.train.sharding import batch_sharding, make_mesh

pytestmark = pytest.mark.usefixtures("quick_compilation")

SHAPE, KERNEL = (8, 14, 14, 16), (13, 13, 1, 16)
PLATFORMS = ("cpu", "gpu", "tpu")
# Of the convolutions of A those of two stages, and two blocks of one kind.
SHALLOW = {"depths": (1, 0, 2, 0), "kernel_sizes": ((3,), (), (13, 13), ())}


@pytest.fixture
def traced(monkeypatch):
    """The calls of all implementations from here on, as names; nothing has been traced before."""
    calls = []

    def counting(name, real):
        return lambda *args: calls.append(name) or real(*args)

    for name, implementation in IMPLEMENTATIONS.items():
        monkeypatch.setattr(implementation, "convolve", counting(name, implementation.convolve))
        monkeypatch.setattr(implementation, "kernel_gradient", counting(name, implementation.kernel_gradient))
    jax.clear_caches()
    yield calls
    jax.clear_caches()  # the counting ones must not be what later tests find


def trace_forward(name, **options):
    model = create_model(name, **options)
    image = jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.float32)
    jax.jit(model.apply).trace(abstract_variables(model), image)


def forms_of(use, merged=False, batch=1, sides=(28, 14, 7)):
    """How many forms the kinds of convolution in A at 224 pixels have: one for all platforms, others for some of them.

    A plain 3x3 in the first stage; in the others, which have maps of those sides, the 13x13 kernel, in training form
    with its five branches.
    """
    large = [(13, 1)] if merged else [(13, 1), *BRANCHES[13]]
    kinds = [(56, 3, 1, 0), *((side, *kind, 13) for side in sides for kind in large)]
    assert len(set(kinds)) == len(kinds)
    return sum(
        1 + sum(choose(platform, use, (k, k), (side, side), batch, beside, r) != "xla" for platform in PLATFORMS)
        for side, k, r, beside in kinds
    )


def test_a_forward_pass_traces_each_kind_of_convolution_once(traced):
    trace_forward("unireplknet_a")
    assert len(traced) == forms_of("convolve") > 2 * (3 * 6 + 1)


def test_more_blocks_are_not_traced_again(traced):
    trace_forward("unireplknet_n")
    shallow = len(traced)
    trace_forward("unireplknet_n", depths=(4, 3, 20, 3), kernel_sizes=((3,) * 4, (13,) * 3, (13,) * 20, (13,) * 3))
    assert len(traced) == shallow > 0


def test_a_merged_pass_traces_four(traced):
    trace_forward("unireplknet_a", deploy=True)
    assert len(traced) == forms_of("convolve", merged=True) > 2 * 4


@pytest.mark.parametrize("platform", PLATFORMS)
def test_where_a_mesh_says_for_what_nothing_else_is_traced(platform, traced):
    x, kernel = jax.ShapeDtypeStruct(SHAPE, jnp.float32), jax.ShapeDtypeStruct(KERNEL, jnp.float32)
    for device in (platform, "cpu", platform):  # nor is what the mesh of other devices has left
        with jax.sharding.use_abstract_mesh(mesh_of(device)):
            jax.jit(lambda x, kernel: depthwise_conv2d(x, kernel)).trace(x, kernel)
    expected = [choose(device, "convolve", KERNEL, SHAPE[1:3], batch=1) for device in (platform, "cpu")]
    assert traced == expected[: len({platform, "cpu"})]


def test_a_second_call_outside_of_jit_traces_nothing(traced):
    model = create_model("unireplknet_a", num_classes=3, dims=(8, 8, 8, 8), **SHALLOW)
    variables, image = lively(abstract_variables(model)), np.zeros((1, 32, 32, 3), np.float32)
    first = model.apply(variables, image)
    once = len(traced)
    assert 0 < once <= 4 * (6 + 1)
    again = model.apply(variables, image)
    assert len(traced) == once
    np.testing.assert_array_equal(first, again)


def test_reading_a_checkpoint_traces_nothing(traced, tmp_path):
    model = create_model("unireplknet_a", dims=(8, 8, 8, 8))
    urk.save_torch_checkpoint(tmp_path / "a.pth", lively(abstract_variables(model)))
    urk.load_checkpoint(tmp_path / "a.pth")
    assert traced == []


def test_gradients_are_traced_once_too(traced):
    model = create_model("unireplknet_a", num_classes=3, **SHALLOW)
    variables, image = abstract_variables(model), jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.float32)

    def loss(params, image):
        return jnp.sum(model.apply({**variables_of_zeros, "params": params}, image))

    variables_of_zeros = jax.tree.map(lambda leaf: np.zeros(leaf.shape, np.float32), variables)
    jax.jit(jax.grad(loss)).trace(variables["params"], image)
    # Forward, which is traced for the value and again for its rule, the gradient of the input, that of the kernel.
    one, other = (forms_of(use, sides=(14,)) for use in ("convolve", "kernel_gradient"))
    assert 2 * one + other <= len(traced) <= 3 * one + other


# ---- what a trace must not bind


def text_for(platform, mesh=None, dtype=jnp.float32):
    x, kernel = jax.ShapeDtypeStruct(SHAPE, dtype), jax.ShapeDtypeStruct(KERNEL, dtype)
    traced = jax.jit(depthwise_conv2d).trace(x, kernel)
    return re.sub(r"loc\(.*?\)", "", traced.lower(lowering_platforms=(platform,)).as_text())


def test_the_platform_is_that_of_the_lowering_not_of_the_first_caller():
    jax.clear_caches()
    alone = {}
    for platform in ("cpu", "cuda", "tpu"):
        jax.clear_caches()
        alone[platform] = text_for(platform)
    assert len({*alone.values()}) == 3
    for platform in ("tpu", "cpu", "cuda", "cpu", "tpu"):  # now they share a trace
        assert text_for(platform) == alone[platform]


def test_the_mesh_is_the_callers():
    jax.clear_caches()
    plain = text_for("cpu")
    with jax.set_mesh(make_mesh()):
        split = text_for("cpu")
        assert "manual" in split
        with jax.set_mesh(make_mesh(4)):
            assert text_for("cpu") != split
    assert text_for("cpu") == plain
    assert "manual" not in plain


def test_arrays_on_a_mesh_after_arrays_of_one_device_and_back():
    rng = np.random.default_rng(0)
    x, kernel = (jnp.asarray(rng.standard_normal(shape).astype(np.float32)) for shape in (SHAPE, KERNEL))
    expected = np.asarray(depthwise_conv2d(x, kernel))
    mesh = make_mesh()
    with jax.set_mesh(mesh):
        split = depthwise_conv2d(jax.device_put(x, batch_sharding(mesh)), kernel)
    assert len(split.sharding.device_set) == 8
    np.testing.assert_allclose(split, expected, rtol=0, atol=1e-6 * np.abs(expected).max())
    np.testing.assert_array_equal(depthwise_conv2d(x, kernel), expected)


def test_the_precision_is_the_callers():
    def text():
        x, kernel = jax.ShapeDtypeStruct(SHAPE, jnp.float32), jax.ShapeDtypeStruct(KERNEL, jnp.float32)
        return jax.jit(lambda x, kernel: depthwise_conv2d(x, kernel, impl="xla")).lower(x, kernel).as_text()

    jax.clear_caches()
    found = {}
    for precision in ("default", "highest", "default"):
        with jax.default_matmul_precision(precision):
            found.setdefault(precision, []).append("HIGHEST" in text())
    assert found == {"default": [False, False], "highest": [True]}


def test_x64_is_the_callers():
    rng = np.random.default_rng(0)
    x, kernel = rng.standard_normal(SHAPE), rng.standard_normal(KERNEL)
    short = x.astype(np.float32), kernel.astype(np.float32)
    narrow = depthwise_conv2d(*short)
    with jax.enable_x64(True):
        wide = depthwise_conv2d(x, kernel)
        again = depthwise_conv2d(*short)
    assert (narrow.dtype, wide.dtype, again.dtype) == (jnp.float32, jnp.float64, jnp.float32)
    np.testing.assert_array_equal(again, narrow)
    wide = np.asarray(wide)
    np.testing.assert_allclose(narrow, wide, rtol=0, atol=2e-6 * np.abs(wide).max())
    back = depthwise_conv2d(*short)
    assert back.dtype == jnp.float32
    np.testing.assert_array_equal(back, narrow)
