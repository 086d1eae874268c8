"""Numbers drawn at once are those that `jax.random.normal` draws one array after the other."""

import jax
import numpy as np
import pytest

from unireplknet_jax.ops.random import can_draw, draw_normals
from unireplknet_jax.train.sharding import make_mesh

pytestmark = pytest.mark.usefixtures("quick_compilation")

# Below and above a piece of 8,192 elements, splittable along every axis or none.
SHAPES = ((3, 5), (13, 13, 1, 80), (8193,), (128, 320), (1000, 777), (7, 4096, 3), (2, 3, 800, 4))
FOLDS = (0, 1, 2, 3, 2**31, 2**32 - 1, 77)


@jax.jit
def one_by_one(key):
    return [jax.random.normal(jax.random.fold_in(key, np.uint32(f)), s) for f, s in zip(FOLDS, SHAPES, strict=True)]


@pytest.mark.parametrize("key", [jax.random.key(7), jax.random.PRNGKey(7)])
def test_the_numbers_are_those_of_jax(key):
    drawn = draw_normals(key, np.array(FOLDS, np.uint32), SHAPES)
    for own, expected in zip(drawn, one_by_one(jax.random.key(7)), strict=True):
        # From jax 0.12 on the last digit of erf's inverse depends on the program around it.
        np.testing.assert_allclose(own, expected, rtol=3e-7, atol=0)


@pytest.mark.parametrize("fsdp", [1, pytest.param(2, marks=pytest.mark.slow), 8])
def test_every_device_draws_its_part_of_the_same_numbers(fsdp):
    folds = np.array(FOLDS, np.uint32)
    with jax.set_mesh(make_mesh(fsdp)):
        drawn = draw_normals(jax.random.key(7), folds, SHAPES)
    for own, expected in zip(drawn, draw_normals(jax.random.key(7), folds, SHAPES), strict=True):
        np.testing.assert_array_equal(own, expected)
    # (128, 320) is split along its longer axis, (13, 13, 1, 80) along the only one that divides.
    shards = [drawn[index].addressable_data(0).shape for index in (3, 1)]
    assert shards == [(128, 320 // fsdp), (13, 13, 1, 80 // fsdp)]


def test_one_program_serves_all_keys():
    folds, before = np.array(FOLDS[:2], np.uint32), draw_normals._cache_size()
    first, second = (draw_normals(jax.random.key(seed), folds, SHAPES[:2]) for seed in (1, 2))
    assert draw_normals._cache_size() == before + 1
    assert not np.array_equal(first[0], second[0])


def test_other_generators_are_left_to_jax():
    assert can_draw(jax.random.key(0))
    assert can_draw(jax.random.PRNGKey(0))
    assert not can_draw(jax.random.key(0, impl="rbg"))
    with jax.threefry_partitionable(False):
        assert not can_draw(jax.random.key(0))
