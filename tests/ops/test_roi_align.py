"""RoIAlign against the original's numbers, and against plain products with whole maps where it has none."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from unireplknet_jax.ops.roi_align import roi_align, roi_align_pyramid, roi_levels

# A sum of some ten float32 products at places that a compiler may round in another way.
CLOSE = 2e-6
# Places near cell 330 are rounded to 3e-5 of a cell, and neighbours differ by up to 4.
PLACES = 1e-4


def assert_close(found, expected):
    np.testing.assert_allclose(found, expected, rtol=0, atol=CLOSE * np.abs(expected).max())


align = jax.jit(roi_align, static_argnums=(2, 3))
levels_of = jax.jit(roi_levels, static_argnums=1, static_argnames="finest")


@pytest.fixture(scope="module")
def case(goldens):
    return {
        name: np.moveaxis(array, 1, -1) if array.ndim == 4 else array
        for name, array in np.load(goldens / "dense" / "roialign.npz").items()
    }


def of_pictures(features, rois, output, scale):
    """What each region (r, 5) finds in its picture."""
    pooled = jax.vmap(lambda own: roi_align(own, rois[:, 1:], output, scale))(features)
    return pooled[rois[:, 0].astype(int), np.arange(len(rois))]


# Seven bins are quick in the gradient and in the pyramid.
@pytest.mark.parametrize("output", [pytest.param(7, marks=pytest.mark.slow), 14])
def test_bins_are_the_originals(case, output):
    assert case["spatial_scale"] == 0.25
    pool = jax.jit(of_pictures, static_argnums=(2, 3))
    assert_close(pool(case["feat_nchw"], case["rois"], output, 0.25), case[f"out{output}"])


def test_the_gradient_is_the_originals(case):
    def loss(features, rois):
        return jnp.sum(of_pictures(features, rois, 7, 0.25) * case["grad_out7"])

    gradient, of_rois = jax.jit(jax.grad(loss, argnums=(0, 1)))(case["feat_nchw"], case["rois"])
    assert_close(gradient, case["grad_feat7_nchw"])
    np.testing.assert_array_equal(of_rois, 0)


def test_the_pyramid_is_the_originals(case):
    maps, rois = [case[f"pyr_feat{level}_nchw"][0] for level in range(4)], case["pyr_rois"][:, 1:]
    np.testing.assert_array_equal(levels_of(rois, 4), case["pyr_level"])
    assert_close(jax.jit(roi_align_pyramid, static_argnums=2)(maps, rois, 7), case["pyr_out7"])


def test_levels_change_at_powers_of_two_and_are_options():
    # 111.99998 / 56 and a millionth, which the original adds, are 2.
    side = np.array([0, 111.9, 111.99998, 223.9, 224, 447.9, 448, 5000], np.float32)
    rois = np.stack([0 * side, 0 * side, side, side], axis=-1)
    np.testing.assert_array_equal(levels_of(rois, 4), [0, 0, 1, 1, 2, 2, 3, 3])
    np.testing.assert_array_equal(levels_of(rois / 4, 3, finest=14), [0, 0, 1, 1, 2, 2, 2, 2])


# Whole maps.


def whole_axis(low, high, bins, scale, length):
    """The averaging weights (bins, length) of a region's axis, sample by sample."""
    start = low * scale - 0.5
    step = (high * scale - 0.5 - start) / bins
    weights, count = np.zeros((bins, length)), int(np.ceil(step))
    for number, sample in np.ndindex(bins, count):
        place = start + number * step + (sample + 0.5) * step / count
        if -1 <= place <= length:
            place = np.clip(place, 0, length - 1)
            weights[number] += np.maximum(1 - np.abs(np.arange(length) - place), 0) / count
    return weights


def whole_maps(maps, rois, output, strides, levels):
    """(r, output, output, c) and, for a gradient of ones times `toward`, that of the maps."""
    found, weights = [], []
    for (x1, y1, x2, y2), level in zip(rois.astype(np.float64), levels, strict=True):
        height, width = maps[level].shape[:2]
        rows, columns = (
            whole_axis(*ends, output, 1 / strides[level], length)
            for ends, length in (((y1, y2), height), ((x1, x2), width))
        )
        weights.append((rows, columns))
        found.append(np.einsum("iy,yxc,jx->ijc", rows, maps[level], columns))
    return np.array(found), weights


@pytest.fixture(scope="module")
def long_regions():
    rng = np.random.default_rng(0)
    # The row of smaller maps is wider than the first one, and all sizes are odd.
    maps = [rng.standard_normal((*size, 2)).astype(np.float32) for size in ((63, 331), (60, 166), (53, 83), (9, 85))]
    rois = np.array(
        [
            [3.3, 100.2, 1303.3, 106.2],  # 1300 x 6 on the finest map: nine windows
            [0, 0, 1324, 252],  # everything
            [40, 1, 45, 251],  # two windows, one below the other
            [1000, 200, 1324, 252],  # in the lower right corner
            [5, 5, 30, 31],
            [-30, -20, 1400, 20],
            [7, 7, 7, 7],
            [0, 0, 0, 0],
            [1290, 30, 1322, 41],
            [0, 0, 480, 470],
        ],
        np.float32,
    )
    return maps, rois


@pytest.mark.slow  # maps of a large picture
@pytest.mark.parametrize("output", [7, 14])
def test_long_regions_lose_nothing(long_regions, output):
    maps, rois = long_regions
    levels = np.asarray(roi_levels(rois, 4))
    assert set(levels) == {0, 1, 2, 3}
    expected, weights = whole_maps(maps, rois, output, (4, 8, 16, 32), levels)
    toward = np.random.default_rng(1).standard_normal(expected.shape).astype(np.float32)

    def pool(maps, rois):
        pooled = roi_align_pyramid(maps, rois, output)
        return jnp.sum(pooled * toward), pooled

    gradient, pooled = jax.jit(jax.grad(pool, has_aux=True))(maps, rois)
    np.testing.assert_allclose(pooled, expected, rtol=0, atol=PLACES)
    of_maps = [np.zeros(each.shape) for each in maps]
    for level, (rows, columns), own in zip(levels, weights, toward, strict=True):
        of_maps[level] += np.einsum("iy,ijc,jx->yxc", rows, own, columns)
    for found, own in zip(gradient, of_maps, strict=True):
        np.testing.assert_allclose(found, own, rtol=0, atol=2 * PLACES)  # several regions add up


@pytest.mark.slow  # maps of a large picture
def test_pictures_with_and_without_long_regions(long_regions):
    maps, rois = long_regions
    pictures = [np.stack([each, each[::-1]]) for each in maps]
    regions = np.stack([rois, np.where(np.arange(len(rois))[:, None] == 4, rois, 0)])
    pool = jax.jit(jax.vmap(lambda maps, rois: roi_align_pyramid(maps, rois, 7)))
    found = pool(pictures, regions)
    for number in range(2):
        own, boxes = [each[number] for each in pictures], regions[number]
        expected, _ = whole_maps(own, boxes, 7, (4, 8, 16, 32), np.asarray(roi_levels(boxes, 4)))
        np.testing.assert_allclose(found[number], expected, rtol=0, atol=PLACES)


def test_samples_up_to_one_cell_outside_count_as_the_border():
    features = np.arange(1, 10, dtype=np.float32).reshape(3, 3, 1)
    rois = np.array([[-1, -1, 0, 0], [-1.25, -1, -0.25, 0], [3, 3, 4, 4], [3, 3.25, 4, 4.25]], np.float32)
    np.testing.assert_array_equal(np.ravel(align(features, rois, 1, 1.0)), [1, 0, 9, 0])


def test_a_region_that_ends_between_the_last_cell_of_a_window_and_the_next():
    features = np.random.default_rng(0).standard_normal((81, 81), np.float32)  # more cells than are read as a whole
    weights = np.ones(41)
    weights[[0, -1]] = 0.5
    expected = weights @ features[:41, :41] @ weights / 40**2
    found = align(features[..., None], np.array([[0.5, 0.5, 40.5, 40.5]], np.float32), 1, 1.0)
    np.testing.assert_allclose(found.item(), expected, rtol=0, atol=CLOSE)


def test_regions_without_area_and_without_number():
    features = np.ones((5, 6, 3), jnp.bfloat16)
    rois = np.array([[0, 0, 0, 0], [3, 2, 3, 9], [9, 9, 2, 2], [500, 500, 600, 600], [4, 4, 12, 12]], np.float32)
    pooled = np.asarray(align(features, rois, 2, 0.25))
    assert pooled.dtype == jnp.bfloat16
    np.testing.assert_array_equal(
        pooled.astype(np.float32), np.array([0, 0, 0, 0, 1])[:, None, None, None] * np.ones((5, 2, 2, 3))
    )
    nothing = jax.eval_shape(lambda *inputs: roi_align(*inputs, 2, 0.25), features, rois[:0])
    assert nothing.shape == (0, 2, 2, 3)


def test_windows_are_not_kept_for_the_gradient():
    rois = np.tile(np.array([[10, 10, 90, 90]], np.float32), (128, 1))
    features = jax.ShapeDtypeStruct((48, 48, 8), jnp.float32)
    loss = lambda features: jnp.sum(jax.lax.square(roi_align(features, rois, 2, 0.25)))  # noqa: E731
    used = jax.jit(jax.grad(loss)).lower(features).compile().memory_analysis().temp_size_in_bytes
    windows = 128 * 40 * 40 * 8 * 4
    assert used < windows / 4
