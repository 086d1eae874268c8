"""The rendering encoder and its classifier against the original's numbers, and what their parts compute."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from networks import compiled, lively, small_model

from unireplknet_jax.nn.projection import (
    DISTINCT,
    ORIGINAL,
    ProjectionClassifier,
    RenderingEncoder,
    ViewFusion,
    view_table,
)
from unireplknet_jax.ops.projection import pixels_of, view_points

SIZES = {"trans_dim": 4, "graph_dim": 8, "neighbours": 4, "object_size": 14, "image_size": 14}


pytestmark = pytest.mark.usefixtures("quick_compilation")


def initial(module, *inputs, **options):
    """Lively variables; nothing is computed to get them."""
    return lively(jax.eval_shape(functools.partial(module.init, **options), jax.random.key(0), *inputs))


@pytest.fixture(scope="module")
def cloud():
    return np.random.default_rng(0).standard_normal((2, 24, 3)).astype(np.float32)


@pytest.fixture(scope="module")
def seen(cloud):
    return np.asarray(jax.jit(view_points)(cloud, view_table()))[:, :3]


@pytest.fixture(scope="module")
def variables(cloud, seen):
    return initial(RenderingEncoder(**SIZES), cloud, seen)


def rendered(variables, coordinates, seen, **options):
    return np.asarray(compiled(RenderingEncoder(**{**SIZES, **options}))(variables, coordinates, seen))


def test_the_table_of_views_is_the_originals(goldens):
    arrays = np.load(goldens / "points" / "points_proj32.npz")
    expected = np.stack([arrays["euler_angles"], arrays["translation"]], axis=1)
    np.testing.assert_array_equal(view_table(ORIGINAL), expected)
    np.testing.assert_array_equal(view_table(), expected[[0, 1, 8, 2, 3, 4, 5, 6, 7, 9]])


def test_the_originals_four_views_are_two_and_ours_three(cloud):
    @jax.jit
    def pixels_seen(cloud, table):
        return pixels_of(view_points(cloud, table), 32)

    def pictures(rows):
        pixels = np.asarray(pixels_seen(cloud, view_table(rows)))[0, : len(rows)]
        return [{tuple(pixel) for pixel in view} for view in pixels]

    def mirrored(view):
        return {(31 - row, column) for row, column in view}, {(row, 31 - column) for row, column in view}

    def alike(one, other):
        """Of mirror images a cell is one off, because cells are counted from the other end."""
        return max(
            sum(any((r + i, c + j) in m for i in (-1, 0, 1) for j in (-1, 0, 1)) for r, c in one)
            for m in mirrored(other)
        ) / len(one)

    original, distinct = pictures(ORIGINAL), pictures(DISTINCT)
    assert alike(original[0], original[2]) == alike(original[1], original[3]) == 1
    assert max(alike(distinct[0], distinct[1]), alike(distinct[0], distinct[2]), alike(distinct[1], distinct[2])) < 0.6


def test_positions_and_features_come_from_different_points(variables, cloud, seen):
    plain = rendered(variables, cloud, seen)
    np.testing.assert_allclose(rendered(variables, cloud, 3 * seen + 1), plain, rtol=0, atol=1e-5)
    assert np.abs(rendered(variables, cloud, seen[:, :, ::-1]) - plain).max() > 0.01
    assert np.abs(rendered(variables, 3 * cloud, seen) - plain).max() > 0.01


def test_a_margin_surrounds_a_smaller_shape(variables, cloud, seen):
    """Outside of the receptive field of the two convolutions nothing depends on the points."""
    options = {"object_size": 7, "fusion": False}
    pictures = [rendered(variables, points, seen, **options) for points in (cloud, 2 * cloud)]
    changed = np.abs(pictures[0] - pictures[1]).max(axis=(0, 1, 4)) > 0
    assert changed[1:12, 1:12].any()
    assert not changed[0].any()
    assert not changed[12:].any()  # 3 rows before, 4 after


def test_fusion_enlarges_patches_before_its_convolution():
    """Three by three outputs of a patch stand for all seven by seven."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((1, 2, 14, 21, 3)).astype(np.float32)
    fusion = ViewFusion()
    variables = initial(fusion, x)
    params = variables["params"]
    first = {"params": {**params, "conv3": {"kernel": np.zeros((1, 1, 6, 3), np.float32), "bias": np.zeros(3)}}}
    first["params"]["conv3"]["kernel"][0, 0, :3] = np.eye(3)
    alone = np.asarray(jax.jit(fusion.apply)(first, x))[0]  # gelu of the enlarged maps after conv2, gelu again
    for row, column in ((0, 0), (7, 7), (0, 14), (7, 14)):
        patch = alone[:, row : row + 7, column : column + 7]
        inner, middle = patch[:, 1:6, 1:6], patch[:, 3:4, 3:4]
        # Products of matrices add up in an order that depends on the row: equal pixels agree to rounding.
        np.testing.assert_allclose(inner, np.broadcast_to(middle, inner.shape), rtol=1e-5, atol=1e-6)
        assert np.ptp(patch, axis=(1, 2)).max() > 1e-3


def test_every_view_is_seen_by_every_other(cloud):
    x = np.random.default_rng(0).standard_normal((1, 3, 7, 7, 4)).astype(np.float32)
    fusion = ViewFusion()
    variables, fuse = initial(fusion, x), jax.jit(fusion.apply)
    changed = x.copy()
    changed[:, 2] += 1
    difference = np.abs(np.subtract(fuse(variables, changed), fuse(variables, x))).max(axis=(0, 2, 3, 4))
    assert difference.min() > 1e-6


@pytest.mark.slow  # three gradients of a network
def test_remat_changes_nothing_and_bfloat16_little(variables, cloud, seen):
    def gradient(**options):
        def loss(params):
            encoder = RenderingEncoder(**SIZES, **options)
            pictures, _ = encoder.apply(
                {**variables, "params": params}, cloud, seen, train=True, mutable=["batch_stats"]
            )
            return jnp.sum(pictures**2)

        return jax.jit(jax.grad(loss))(variables["params"])

    expected, found = gradient(), gradient(remat=True)
    for ours, theirs in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-4 * max(np.abs(theirs).max(), 1e-3))
    plain, coarse = rendered(variables, cloud, seen), rendered(variables, cloud, seen, dtype=jnp.bfloat16)
    assert 0 < np.abs(coarse - plain).max() < 0.05 * np.abs(plain).max()


def test_statistics_are_shared_by_groups_of_pictures(variables, cloud, seen):
    def moved(group):
        encoder = RenderingEncoder(**SIZES, bn_group=group)

        @jax.jit
        def mean(variables, cloud, seen):
            _, updates = encoder.apply(variables, cloud, seen, train=True, mutable=["batch_stats"])
            return updates["batch_stats"]["img_block"]["bn2"]["mean"]

        return np.asarray(mean(variables, cloud, seen))

    whole = moved(None)
    assert np.abs(whole - variables["batch_stats"]["img_block"]["bn2"]["mean"]).max() > 1e-3
    # bn1 differs between the groups, and with it what bn2 sees.
    assert np.abs(moved(3) - whole).max() > 1e-5


def test_training_leaves_the_views_alone(cloud):
    trunk = small_model(num_classes=None, depths=(0,) * 4, kernel_sizes=((),) * 4)
    model = ProjectionClassifier(trunk, RenderingEncoder(**SIZES), num_classes=5)
    variables = initial(model, cloud, cloud)
    train = jax.jit(functools.partial(model.apply, train=True, mutable=["batch_stats"]))
    logits, updates = train(variables, cloud, cloud)
    assert logits.shape == (2, 5)
    np.testing.assert_array_equal(updates["batch_stats"]["views"], variables["batch_stats"]["views"])


def test_parameters_are_as_many_as_the_originals():
    cloud = jax.ShapeDtypeStruct((1, 40, 3), jnp.float32)
    seen = jax.ShapeDtypeStruct((1, 4, 40, 3), jnp.float32)
    encoder = RenderingEncoder(object_size=28, image_size=28)
    shapes = jax.eval_shape(encoder.init, jax.random.key(0), cloud, seen)
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes["params"])) == 1_157_987
