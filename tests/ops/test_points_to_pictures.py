"""Farthest points, neighbours, pixels and sums against the original's numbers and against plain loops."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from unireplknet_jax.ops.attention import blockwise_attention
from unireplknet_jax.ops.farthest_point import farthest_points
from unireplknet_jax.ops.nearest import nearest_points
from unireplknet_jax.ops.projection import NEIGHBOURHOOD, euler_matrices, flat_pixels, pixels_of, splat, view_points

farthest = jax.jit(farthest_points, static_argnums=(1, 2))
nearest = jax.jit(nearest_points, static_argnums=1)


@pytest.fixture(scope="module")
def misc(goldens):
    return np.load(goldens / "points" / "points_misc.npz")


@pytest.mark.parametrize("case", [0, 1])
def test_farthest_points_are_the_originals(misc, case):
    points, expected = misc[f"fps{case}_points"], misc[f"fps{case}_index"]
    other = np.random.default_rng(0).standard_normal(points.shape, np.float32)
    found = np.asarray(farthest(np.stack([other, points]), len(expected), int(misc[f"fps{case}_start"])))
    np.testing.assert_array_equal(found[1], expected)
    assert len(np.unique(found[0])) == len(expected)


def test_equally_far_points_come_in_their_order():
    corners = np.array([[0, 0, 0], [0, 1, 0], [1, 0, 0], [1, 1, 0]], np.float32)
    found = farthest(np.stack([corners, 0 * corners]), 4)
    np.testing.assert_array_equal(found, [[0, 3, 1, 2], [0, 1, 2, 3]])


def test_repeated_points_are_chosen_alike():
    points = np.random.default_rng(0).standard_normal((1, 20, 3)).astype(np.float32)
    chosen = np.asarray(farthest(np.tile(points, (1, 3, 1)), 45))[0]
    counts = np.bincount(chosen % 20)
    assert sorted(chosen[:20]) == [*range(20)]
    assert (counts.min(), counts.max()) == (2, 3)


@pytest.mark.parametrize(("count", "start"), [(5, 0), (0, 0), (2, 4), (2, -1)])
def test_more_points_than_there_are(count, start):
    with pytest.raises(ValueError, match=f"{count} points from number {start} on cannot be chosen out of 4"):
        farthest_points(np.zeros((1, 4, 3)), count, start)


def test_neighbours_are_the_originals(goldens):
    model = np.load(goldens / "points" / "points_model.npz")
    found = nearest(model["original_points"], 8)
    np.testing.assert_array_equal(np.sort(found, axis=-1), model["knn_index_sorted"])


@pytest.mark.parametrize("total", [5, 256, 600])
def test_neighbours_by_a_plain_sort(total):
    points = np.random.default_rng(total).standard_normal((2, total, 3)).astype(np.float32)
    squares = np.sum((points[:, :, None].astype(np.float64) - points[:, None]) ** 2, axis=-1)
    np.testing.assert_array_equal(nearest(points, 5), np.argsort(squares, axis=-1)[..., :5])
    with pytest.raises(ValueError, match=f"{total + 1} neighbours cannot be found among {total} points"):
        nearest_points(points, total + 1)


# Projection.


@pytest.fixture(params=[("points_proj32", 32, 32), ("points_proj32_obj24", 32, 24)], ids=lambda case: case[0])
def projection(request, goldens):
    name, image_size, object_size = request.param
    arrays = dict(np.load(goldens / "points" / f"{name}.npz"))
    views = np.stack([arrays["euler_angles"], arrays["translation"]], axis=1)
    return arrays, views, image_size, object_size


def test_views_are_the_originals(projection):
    arrays, views, *_ = projection
    matrices, seen = jax.jit(lambda points, views: (euler_matrices(views[:, 0]), view_points(points, views)))(
        arrays["points"], views
    )
    np.testing.assert_allclose(matrices, arrays["rotation"], rtol=0, atol=2e-7)
    np.testing.assert_allclose(seen.reshape(arrays["rotated"].shape), arrays["rotated"], rtol=0, atol=1e-6)


def test_pixels_are_exactly_the_originals(projection):
    arrays, views, _, size = projection

    @jax.jit
    def flat(points):
        return flat_pixels(pixels_of(view_points(points, views), size), size)

    found = np.asarray(flat(arrays["points"]))
    np.testing.assert_array_equal(found.reshape(arrays["flat_index"].shape), arrays["flat_index"])


def test_sums_are_the_originals(projection):
    arrays, _, image_size, size = projection
    draw = jax.jit(lambda features, points: splat(features, pixels_of(points[:, None], size), size)[:, 0])
    margin = (image_size - size) // 2
    pictures = draw(arrays["features_bnc"], arrays["rotated"])
    pictures = np.pad(pictures, ((0, 0), *[(margin, margin)] * 2, (0, 0)))
    largest = np.abs(arrays["image_nhwc"]).max()  # up to some hundred terms in another order
    np.testing.assert_allclose(pictures, arrays["image_nhwc"], rtol=0, atol=1e-6 * largest)


@pytest.mark.parametrize("size", [4, 7, 225, *(pytest.param(size, marks=pytest.mark.slow) for size in (24, 56))])
def test_the_longer_side_spans_the_picture_and_the_shorter_is_in_its_middle(size):
    rng = np.random.default_rng(size)
    flat_of = jax.jit(lambda points: flat_pixels(pixels_of(points, size), size))
    for _ in range(40):
        # Widths of which some make the division of the farthest point round down.
        points = (rng.random((50, 3)) * [rng.uniform(0.1, 9), 0.5 * rng.uniform(0, 0.1), 1]).astype(np.float32)
        flat = np.asarray(flat_of(points))
        rows, columns = flat // size, flat % size
        # Where the farthest point's division rounds down, one pixel stays free, as in the original.
        assert size - 2 <= rows.max() - rows.min() <= size - 1
        assert abs(columns.min() - (size - 1 - columns.max())) <= 1


@pytest.mark.parametrize("size", [4, 25, 56, 224, *(pytest.param(size, marks=pytest.mark.slow) for size in (32, 112))])
def test_pixels_are_those_of_exactly_rounded_divisions(size):
    rng = np.random.default_rng(size)
    find, rounded_down = jax.jit(pixels_of, static_argnums=1), 0
    for trial in range(30):
        points = (rng.standard_normal((1000, 3)) * rng.uniform(0.1, 3, 3)).astype(np.float32)
        if trial % 3 == 0:  # on the edges of cells
            points = np.round(points / np.ptp(points[:, :2], axis=0).max() * (size - 3)).astype(np.float32)
        offset = points[:, :2] - points[:, :2].min(axis=0)
        cell = np.floor(offset / (offset.max() / np.float32(size - 3))).astype(int)
        rounded_down += cell.max() < size - 3
        expected = cell - (cell.max(axis=0) + 2) // 2 + (size - 1) // 2 + 1
        np.testing.assert_array_equal(find(points, size), expected)
        np.testing.assert_array_equal(pixels_of(points, size), expected)  # no fused multiplications and additions
    assert rounded_down or size < 56


def test_neighbours_are_flat_in_order():
    flat = jax.jit(flat_pixels, static_argnums=1)(np.array([[3, 4], [1, 1]]), 10)
    np.testing.assert_array_equal(flat, [r * 10 + c for r, c in itertools.product((2, 3, 4), (3, 4, 5))] + [
        10 * (1 + r) + 1 + c for r, c in NEIGHBOURHOOD
    ])  # fmt: skip


def test_a_cloud_in_one_place_gives_finite_numbers():
    for points in (np.full((1, 5, 3), 0.7), np.zeros((1, 5, 3))):
        with jax.debug_nans(True):
            pixels = pixels_of(points.astype(np.float32), 8)
        pixels = np.asarray(pixels)
        assert np.unique(pixels).size <= 2
        assert 1 <= pixels.min() <= pixels.max() <= 6


@pytest.mark.usefixtures("quick_compilation")
def test_sums_and_their_gradient_by_a_plain_loop():
    rng = np.random.default_rng(1)
    features, pixels = rng.standard_normal((2, 9, 3)).astype(np.float32), rng.integers(1, 5, (2, 2, 9, 2))
    weights = rng.standard_normal((2, 2, 6, 6, 3)).astype(np.float32)
    expected, gradient = np.zeros_like(weights), np.zeros_like(features)
    for n, v, i in itertools.product(range(2), range(2), range(9)):
        for row, column in pixels[n, v, i] + np.array(NEIGHBOURHOOD):
            expected[n, v, row, column] += features[n, i]
            gradient[n, i] += weights[n, v, row, column]

    @jax.jit
    def both(features, weights):
        pictures, back = jax.vjp(lambda x: splat(x, pixels, 6), features)
        return pictures, back(weights)

    pictures, (found,) = both(features, weights)
    np.testing.assert_allclose(pictures, expected, rtol=0, atol=2e-6)
    np.testing.assert_allclose(found, gradient, rtol=0, atol=5e-6)


@pytest.mark.usefixtures("quick_compilation")
def test_a_mesh_changes_no_number_and_gathers_nothing():
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    points = np.random.default_rng(2).standard_normal((8, 40, 3)).astype(np.float32)

    def results(points):
        chosen = jnp.take_along_axis(points, farthest_points(points, 20)[..., None], axis=1)
        return nearest_points(chosen, 3), splat(chosen, pixels_of(chosen[:, None], 8), 8)

    expected = jax.jit(results)(points)
    with jax.set_mesh(mesh):
        split = NamedSharding(mesh, PartitionSpec("data"))
        program = jax.jit(results, in_shardings=split, out_shardings=split)
        program = program.lower(points).compile()
        text, found = program.as_text(), program(jax.device_put(points, split))
    assert "all-gather" not in text
    assert "all-reduce" not in text
    np.testing.assert_array_equal(found[0], expected[0])
    # A device has one cloud of eight, and sums in another order may be rounded otherwise.
    np.testing.assert_allclose(found[1], expected[1], rtol=1e-5, atol=1e-6)


# Attention.


def plain_attention(query, key, value):
    scores = np.einsum("nthd,nshd->nhts", query, key) / math.sqrt(query.shape[-1])
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return np.einsum("nhts,nshe->nthe", weights / weights.sum(axis=-1, keepdims=True), value)


@pytest.mark.usefixtures("quick_compilation")
@pytest.mark.parametrize(("tokens", "block"), [(12, 12), (12, 4), (11, 4), (3, 8)])
def test_attention_in_blocks_is_attention(tokens, block):
    rng = np.random.default_rng(0)
    query, key = (rng.standard_normal((2, t, 3, 4)) for t in (tokens, 10))
    value = rng.standard_normal((2, 10, 3, 5))
    expected = plain_attention(query, key, value)
    attend = jax.jit(blockwise_attention, static_argnums=3)
    found = attend(*(x.astype(np.float32) for x in (query, key, value)), block)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)


@pytest.mark.usefixtures("quick_compilation")
def test_the_gradient_of_attention_in_blocks():
    rng = np.random.default_rng(0)
    arrays = [rng.standard_normal((1, 9, 2, 4)).astype(np.float32) for _ in range(4)]

    def loss(query, key, value, block):
        return jnp.sum(arrays[3] * blockwise_attention(query, key, value, block))

    gradient = jax.jit(jax.grad(loss, argnums=(0, 1, 2)), static_argnums=3)
    expected, found = (gradient(*arrays[:3], block) for block in (9, 4))
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=2e-6)


def test_the_memory_of_a_gradient_does_not_grow_with_the_square_of_the_tokens():
    def temporaries(block):
        x = jax.ShapeDtypeStruct((1, 2048, 1, 8), jnp.float32)
        gradient = jax.grad(lambda x: jnp.sum(blockwise_attention(x, x, x, block) ** 2))
        return jax.jit(gradient).lower(x).compile().memory_analysis().temp_size_in_bytes

    assert temporaries(2048) > 4 * 2048**2
    assert temporaries(128) < temporaries(2048) / 6
