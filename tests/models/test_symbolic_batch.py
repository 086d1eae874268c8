"""`jax.export` with a symbolic batch, for all platforms at once: one program for any number of images."""

import jax
import numpy as np
import pytest
from jax import export
from networks import lively, small_model

from unireplknet_jax.models.prepare import prepare
from unireplknet_jax.models.reparameterize import reparameterize
from unireplknet_jax.models.shapes import abstract_variables

# A small kernel and a large one, on maps of 8 and 4 pixels.
FEW = dict(depths=(1, 1, 0, 0), kernel_sizes=((3,), (13,), (), ()))
PLATFORMS = ("cpu", "cuda", "tpu")


@pytest.fixture(scope="module")
def merged():
    return reparameterize(lively(abstract_variables(small_model(**FEW))))


def exported(variables, shape, platforms=PLATFORMS):
    images = jax.ShapeDtypeStruct(export.symbolic_shape(shape), np.float32)
    program = export.export(jax.jit(small_model(**FEW, deploy=True).apply), platforms=platforms)(variables, images)
    return export.deserialize(program.serialize())


@pytest.mark.usefixtures("quick_compilation")
@pytest.mark.parametrize("prepared", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["auto", "prepared"])
def test_one_program_serves_every_batch_on_every_platform(merged, prepared):
    variables = prepare(merged, 32, platform="cpu") if prepared else merged
    program = exported(variables, "b, 32, 32, 3")
    assert program.platforms == PLATFORMS
    assert [str(side) for side in program.out_avals[0].shape] == ["b", "5"]
    images = np.random.default_rng(0).standard_normal((5, 32, 32, 3), np.float32)
    expected = jax.jit(small_model(**FEW, deploy=True).apply)(merged, images)
    for some in (images, images[:2]) if prepared else (images[:2],):
        found = jax.jit(program.call)(variables, some)
        np.testing.assert_allclose(found, expected[: len(some)], rtol=0, atol=1e-5 * np.std(expected))


def test_a_symbolic_size_of_images_is_refused_in_a_sentence(merged):
    for variables in (merged, prepare(merged, 32, platform="cpu")):
        with pytest.raises(ValueError, match=r"symbolic size .* only the batch may be symbolic\."):
            exported(variables, "1, 32*s, 32*s, 3", ("cpu",))
