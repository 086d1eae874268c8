"""Merged variables prepared for one input size."""

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest
from draws import normal
from networks import compiled, lively, small_model

import unireplknet_jax as urk
from unireplknet_jax.models.shapes import abstract_variables

pytestmark = pytest.mark.usefixtures("quick_compilation")


@pytest.fixture(scope="module")
def merged():
    return urk.reparameterize(lively(abstract_variables(small_model())))


@pytest.fixture(scope="module")
def model():
    return small_model(deploy=True)


@pytest.mark.parametrize("size", [(96, 160), *(pytest.param(size, marks=pytest.mark.slow) for size in (224, 33))])
def test_prepared_variables_give_the_same_logits(merged, model, size):
    height, width = (size, size) if isinstance(size, int) else size
    images = normal(0, 2, height, width, 3)
    prepared = urk.prepare(merged, size, "cpu")
    expected = np.asarray(compiled(model)(merged, images))
    np.testing.assert_allclose(compiled(model)(prepared, images), expected, rtol=0, atol=1e-6 * np.abs(expected).max())


def test_large_kernels_are_prepared_for_the_platform_and_the_rest_stays(merged):
    before = jax.tree.map(np.array, merged)
    cpu = urk.prepare(merged, 224, "cpu")["prepared"]
    assert list(cpu) == ["stages_1_0", "stages_3_0"]  # the blocks of 13x13 and 7x7
    assert list(cpu["stages_1_0"]["dwconv"]["lk_origin"]) == ["dft"]
    assert list(cpu["stages_3_0"]["dwconv"]["lk_origin"]) == ["dft"]
    tpu = urk.prepare(merged, 224, "tpu", jnp.bfloat16)["prepared"]
    matrix = tpu["stages_1_0"]["dwconv"]["lk_origin"]["toeplitz_tpu"]
    assert matrix.dtype == jnp.bfloat16
    assert urk.prepare(merged, 224, "rocm")["prepared"] == {}
    jax.tree.map(np.testing.assert_array_equal, merged, before)


def _is_bfloat16(tree):
    return {leaf.dtype for leaf in jax.tree.leaves(tree)} == {jnp.dtype(jnp.bfloat16)}


@pytest.mark.parametrize("platform", ["cpu", "gpu", "tpu"])
def test_what_bfloat16_needs_is_cast_and_laid_out(merged, platform):
    model, images = small_model(deploy=True, dtype=jnp.bfloat16), normal(0, 2, 64, 64, 3)
    prepared = urk.prepare(merged, 64, platform, jnp.bfloat16)
    block, stem = prepared["prepared"]["stages_0_0"], prepared["prepared"]["downsample_layers_0"]["conv2"]
    kernels = {name: block[name]["kernel"].shape for name in ("dwconv", "pwconv1", "pwconv2")}
    assert kernels == {"dwconv": (3, 3, 1, 8), "pwconv1": (8, 32), "pwconv2": (32, 8)}
    assert set(block["se"]) == {"down", "up"}
    assert {name: value.shape for name, value in stem.items() if name != "bias"} == (
        {"OHWI": (8, 3, 3, 4)} if platform == "gpu" else {"kernel": (3, 3, 4, 8)}
    )
    spectra = {"stages_1_0"} if platform == "cpu" else set()
    assert {name for name, tree in prepared["prepared"].items() if not _is_bfloat16(tree)} == spectra
    if platform == "gpu":
        matrix = prepared["prepared"]["stages_1_0"]["dwconv"]["lk_origin"]["toeplitz"]
        assert matrix.shape == (16, 64, 64)  # as cuBLAS takes it
    ours, plain = (np.asarray(compiled(model)(tree, images)) for tree in (prepared, merged))
    np.testing.assert_allclose(ours, plain, rtol=0, atol=2**-7 * np.abs(plain).max())


@pytest.mark.parametrize("platform", ["cpu", "gpu"])  # which keep spectra in float32, and matrices in bfloat16
def test_what_was_prepared_in_another_precision_than_the_models_is_left_alone(merged, model, platform):
    images, tree = normal(0, 1, 64, 64, 3), urk.prepare(merged, 64, platform, jnp.bfloat16)
    np.testing.assert_array_equal(compiled(model)(tree, images), compiled(model)(merged, images))


def test_one_export_serves_all_platforms(merged, model):
    """jax.export refuses what has no stable form, as constraints of layouts."""
    images = normal(0, 1, 64, 64, 3)
    exported = jax.export.export(compiled(model), platforms=("cpu", "cuda", "tpu"))(merged, images)
    ours = jax.jit(exported.call)(merged, images)
    expected = np.asarray(compiled(model)(merged, images))
    np.testing.assert_allclose(ours, expected, rtol=0, atol=1e-6 * np.abs(expected).max())


def test_it_reaches_backbones_inside_of_other_networks(merged):
    nested = {"params": {"backbone": merged["params"], "decode": {"kernel": jnp.ones((1, 1))}}}
    alone = urk.prepare(merged, 64, "cpu")["prepared"]
    jax.tree.map(np.testing.assert_array_equal, urk.prepare(nested, 64, "cpu")["prepared"], {"backbone": alone})


def test_it_is_jittable(merged):
    jitted = jax.jit(lambda tree: urk.prepare(tree, 64, "cpu"))(merged)
    expected = urk.prepare(merged, 64, "cpu")
    assert jax.tree.structure(jitted) == jax.tree.structure(expected)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=1e-5), jitted, expected)


def test_inputs_of_another_size_are_refused(merged, model):
    prepared = urk.prepare(merged, 224, "cpu")
    with pytest.raises(ValueError, match=r"another size .* call unireplknet_jax.prepare"):
        jax.eval_shape(model.apply, prepared, jax.ShapeDtypeStruct((1, 192, 192, 3), np.float32))


def test_a_forced_form_wins_over_a_prepared_one(merged, model):
    prepared = urk.prepare(merged, 32, "cpu")
    images = normal(0, 1, 32, 32, 3)
    forced = jax.jit(model.clone(impl="fft").apply).lower(prepared, images).as_text()
    assert "stablehlo.fft" in forced
    assert "stablehlo.fft" not in compiled(model).lower(prepared, images).as_text()


def test_sizes_may_be_numpy_integers(merged):
    ours, expected = (urk.prepare(merged, size, "cpu")["prepared"] for size in (np.int32(64), 64))
    jax.tree.map(np.testing.assert_array_equal, ours, expected)


def test_an_unknown_platform_is_refused(merged):
    with pytest.raises(ValueError, match=r"platform must be one of cpu, .* but is 'TPU v5e'"):
        urk.prepare(merged, 64, "TPU v5e")


@pytest.mark.parametrize("dtype", ["int8", "nothing", bool])
def test_numbers_that_are_not_floating_are_refused(merged, dtype):
    with pytest.raises(ValueError, match=r"dtype must be one of floating-point numbers, such as bfloat16, but is "):
        urk.prepare(merged, 64, "cpu", dtype)


@pytest.mark.parametrize("size", [0, -3, True, (224,), (224, 0), (224, True), 2.5, "224"])
def test_sizes_that_cannot_be_are_refused(merged, size):
    with pytest.raises(ValueError, match="image_size must be a positive integer or two of them"):
        urk.prepare(merged, size, "cpu")


def test_variables_that_are_not_merged_are_refused():
    variables = lively(abstract_variables(small_model()))
    with pytest.raises(ValueError, match="only merged variables can be prepared"):
        urk.prepare(variables, 224)
    with pytest.raises(ValueError, match="only merged variables can be prepared"):
        urk.prepare({}, 224)
    with pytest.raises(ValueError, match="only merged variables can be prepared"):
        urk.prepare({"params": None}, 224)
