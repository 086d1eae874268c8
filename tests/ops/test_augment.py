"""Random erasing, mixup and cutmix, against NumPy and the definitions; the drawn numbers are read off the results."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from draws import normal
from jax.sharding import NamedSharding, PartitionSpec

from unireplknet_jax.ops.augment import cutmix_box, mix_batch, random_erasing
from unireplknet_jax.train.sharding import batch_sharding, make_mesh

_erase = jax.jit(random_erasing)
_mix = jax.jit(mix_batch, static_argnames=("mixup", "cutmix", "group"))


pytestmark = pytest.mark.usefixtures("quick_compilation")


@functools.cache
def erased(h=64, w=48):
    """(400, h, w, 3) noise where images of the value 100 were erased with probability 1, and the mask of where."""
    images = np.asarray(_erase(jax.random.key(0), np.full((400, h, w, 3), 100, np.float32), 1.0))
    return images, (images != 100).any(axis=-1)


def rectangles(masks):
    """(top, left, height, width) of each mask; fails if one is not a single rectangle."""
    found = []
    for mask in masks:
        rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        box = rows[0], columns[0], rows[-1] + 1 - rows[0], columns[-1] + 1 - columns[0]
        assert mask.sum() == box[2] * box[3]
        found.append(box)
    return np.array(found)


def test_one_rectangle_of_every_image_is_erased_within_the_bounds():
    _, masks = erased()
    heights, widths = rectangles(masks)[:, 2:].T
    assert len(heights) == 400
    # Sides are rounded to pixels: half a pixel more or less on both.
    assert np.all((heights + 0.5) * (widths + 0.5) >= 0.02 * 64 * 48)
    assert np.all((heights - 0.5) * (widths - 0.5) <= 64 * 48 / 3)
    assert np.all((heights + 0.5) / (widths - 0.5) >= 0.3)
    assert np.all((heights - 0.5) / (widths + 0.5) <= 1 / 0.3)
    share, aspect = heights * widths / (64 * 48), np.log(heights / widths)
    assert share.min() < 0.04
    assert share.max() > 0.3
    assert share.mean() == pytest.approx((0.02 + 1 / 3) / 2, abs=0.02)  # uniform; the mean is known to 0.0045
    assert aspect.min() < -1.1
    assert aspect.max() > 1.1
    assert aspect.std() == pytest.approx(-2 * math.log(0.3) / math.sqrt(12), rel=0.1)  # log-uniform


def test_rectangles_lie_anywhere():
    top, left, height, width = rectangles(erased()[1]).T
    for start, length, size in ((top, height, 64), (left, width, 48)):
        assert start.min() == 0
        assert (start + length).max() == size
        assert np.mean(start / (size - length)) == pytest.approx(0.5, abs=0.06)


def test_rectangles_are_smaller_than_the_image_in_both_directions():
    boxes = rectangles(erased(h=40, w=9)[1])
    assert boxes[:, 2].max() < 40
    assert boxes[:, 3].max() == 8
    assert len(boxes) == 400  # what does not fit is drawn again


def test_the_noise_is_normal_for_every_pixel_and_channel():
    images, masks = erased()
    noise = images[masks]  # (pixels, 3)
    count = len(noise)
    assert np.all(noise != 100)
    assert noise.mean(axis=0) == pytest.approx(np.zeros(3), abs=5 / math.sqrt(count))
    np.testing.assert_allclose(np.cov(noise.T), np.eye(3), rtol=0, atol=7 / math.sqrt(count))
    assert np.mean(np.abs(noise) < 1) == pytest.approx(math.erf(math.sqrt(0.5)), abs=3 / math.sqrt(count))
    assert len(np.unique(noise)) > 0.9 * noise.size


def test_what_is_not_erased_stays_as_it_is():
    images = np.asarray(normal(1, 8, 16, 16, 3))
    same = _erase(jax.random.key(0), images, 0.0)
    np.testing.assert_array_equal(same, images)
    ours = np.asarray(_erase(jax.random.key(0), images, 1.0))
    for image, changed in zip(images, ours, strict=True):
        mask = (image != changed).any(axis=-1)
        assert mask.sum() == np.prod(rectangles(mask[None])[0, 2:])
        np.testing.assert_array_equal(changed[~mask], image[~mask])


def test_erasing_happens_with_its_probability():
    images = _erase(jax.random.key(0), np.full((1000, 16, 16, 1), 100, np.float32), 0.25)
    share = np.mean(np.any(np.asarray(images) != 100, axis=(1, 2, 3)))
    assert share == pytest.approx(0.25, abs=0.05)  # 3.6 standard deviations


def test_an_image_without_a_fitting_rectangle_stays_as_it_is():
    images = np.full((50, 4, 4, 3), 100, np.float32)
    same = _erase(jax.random.key(0), images, 1.0, area=(0.9, 0.95), log_aspect=(-0.01, 0.01))
    np.testing.assert_array_equal(same, images)
    dot = np.full((50, 1, 1, 3), 100, np.float32)
    np.testing.assert_array_equal(_erase(jax.random.key(0), dot, 1.0), dot)


def mixed(n=16, h=12, w=16, seed=0, **options):
    """(images, mixed images, weight (n,) that each keeps of itself); the targets are an identity matrix."""
    images = np.random.default_rng(seed).normal(size=(n, h, w, 3)).astype(np.float32)
    options = {"mixup": 0.0, "cutmix": 0.0, "probability": 1.0, "switch_probability": 0.5} | options
    ours, targets = map(np.asarray, _mix(jax.random.key(seed), images, np.eye(n, dtype=np.float32), **options))
    group = options.get("group") or n
    start = np.arange(n) // group * group
    partner = start + group - 1 - (np.arange(n) - start)
    weight = np.diagonal(targets).copy()
    expected = np.zeros((n, n), np.float32)
    expected[np.arange(n), np.arange(n)] = weight
    expected[np.arange(n), partner] += 1 - weight
    np.testing.assert_allclose(targets, expected, rtol=0, atol=1e-6)
    np.testing.assert_allclose(np.sum(targets, axis=1), np.ones(n), rtol=0, atol=1e-6)
    return images, images[partner], ours, weight


# Mixing in groups is quick with mixup, without them with cutmix.
@pytest.mark.parametrize("group", [pytest.param(None, marks=pytest.mark.slow), 4])
def test_mixup_blends_every_image_with_its_mirror_in_the_group(group):
    images, partners, ours, weight = mixed(mixup=0.8, group=group)
    own = weight[:, None, None, None]
    np.testing.assert_allclose(ours, own * images + (1 - own) * partners, rtol=0, atol=2e-6)
    by_group = weight.reshape(-1, group or 16)
    assert np.all(by_group == by_group[:, :1])
    assert len(np.unique(by_group)) == len(by_group)
    assert np.all((weight > 0) & (weight < 1))


@pytest.mark.parametrize("group", [None, pytest.param(4, marks=pytest.mark.slow)])
@pytest.mark.parametrize("seed", range(4))
def test_cutmix_pastes_a_rectangle_of_the_mirror_in_the_group(group, seed):
    images, partners, ours, weight = mixed(cutmix=1.0, group=group, seed=seed)
    pasted = (ours != images).any(axis=-1)
    np.testing.assert_array_equal(ours, np.where(pasted[..., None], partners, images))
    assert weight == pytest.approx(1 - pasted.mean(axis=(1, 2)), abs=1e-6)
    by_group = pasted.reshape(-1, group or 16, 12, 16)
    assert np.all(by_group == by_group[:, :1])
    boxes = rectangles([mask for mask in by_group[:, 0] if mask.any()])
    assert len(boxes) >= 1
    assert len({tuple(box) for box in boxes}) == len(boxes)


def test_a_cutmix_box_has_its_share_around_a_uniform_centre_and_is_clipped():
    draws = 2000

    @jax.jit
    def draw(key):
        return cutmix_box(jax.random.split(key, 2), jnp.full(draws, 0.75), 16, 12)

    top, left, bottom, right = map(np.asarray, draw(jax.random.key(0)))
    # A share of 0.25: half of each side.
    rows = {(max(c - 4, 0), min(c + 4, 16)) for c in range(16)}
    columns = {(max(c - 3, 0), min(c + 3, 12)) for c in range(12)}
    assert set(zip(top, bottom, strict=True)) == rows
    assert set(zip(left, right, strict=True)) == columns
    assert np.mean(top == 0) == pytest.approx(5 / 16, abs=0.05)
    assert np.mean(left == 0) == pytest.approx(4 / 12, abs=0.05)
    assert abs(np.corrcoef(top, left)[0, 1]) < 0.1


@pytest.mark.parametrize("alpha", [0.3, *(pytest.param(alpha, marks=pytest.mark.slow) for alpha in (1.0, 5.0))])
def test_weights_are_beta_distributed(alpha):
    weight = mixed(n=1600, h=1, w=1, mixup=alpha, group=2)[3][::2]
    assert weight.mean() == pytest.approx(0.5, abs=0.06)
    assert weight.var() == pytest.approx(1 / (4 * (2 * alpha + 1)), rel=0.15)


def is_cutmix(images, partners, ours):
    """Which images are put together of whole pixels."""
    return np.all((ours == images) | (ours == partners), axis=(1, 2, 3))


BOTH = {"n": 400, "h": 4, "w": 4, "mixup": 0.8, "cutmix": 1.0, "group": 2}
ALWAYS = [pytest.param(switch, (switch, switch), marks=pytest.mark.slow) for switch in (0.0, 1.0)]


@pytest.mark.parametrize(("switch", "bounds"), [(0.5, (0.35, 0.65)), *ALWAYS])
def test_one_of_both_is_chosen_with_the_switch_probability(switch, bounds):
    images, partners, ours, _ = mixed(**BOTH, switch_probability=switch)
    assert bounds[0] <= is_cutmix(images, partners, ours).mean() <= bounds[1]


def test_each_kind_draws_from_its_own_distribution():
    options = {"n": 800, "h": 8, "w": 8, "mixup": 500.0, "cutmix": 0.001, "group": 2}
    blended = mixed(**options, switch_probability=0.0)[3]
    assert np.all(np.abs(blended - 0.5) < 0.1)
    pasted = mixed(**options, switch_probability=1.0)[3]
    assert np.mean(pasted == 1) > 0.4
    assert pasted.min() < 0.6


@pytest.mark.parametrize("kind", [{"mixup": 0.8, "group": 4}, {"cutmix": 1.0}, BOTH], ids=["mixup", "cutmix", "both"])
def test_with_probability_0_nothing_is_mixed(kind):
    images, _, ours, weight = mixed(**kind, probability=0.0)
    np.testing.assert_array_equal(ours, images)
    np.testing.assert_array_equal(weight, 1)


def test_groups_are_mixed_with_the_probability():
    weight = mixed(n=1600, h=1, w=1, mixup=0.3, probability=0.25, group=2)[3][::2]
    assert np.mean(weight < 1) == pytest.approx(0.25, abs=0.08)


@pytest.mark.parametrize(("n", "group"), [(6, 3), (8, 6), (5, None), (4, 8)])
def test_groups_that_cannot_be_paired_are_refused(n, group):
    images, targets = np.zeros((n, 2, 2, 3)), np.eye(n)
    with pytest.raises(ValueError, match=f"groups of {group or n}: it must be even and divide the batch of {n}"):
        mix_batch(jax.random.key(0), images, targets, mixup=1.0, cutmix=0.0, group=group)


@pytest.mark.parametrize("group", [4, *(pytest.param(group, marks=pytest.mark.slow) for group in (None, 2))])
def test_a_batch_split_over_devices_is_augmented_as_a_whole_one(group):
    def augment(key, images, targets):
        first, second = jax.random.split(key)
        images = random_erasing(first, images, 0.5)
        return mix_batch(second, images, targets, mixup=0.8, cutmix=1.0, group=group)

    mesh = make_mesh()
    assert mesh.size == 8
    images, targets = normal(3, 16, 12, 8, 3), np.eye(16, dtype=np.float32)
    expected = jax.jit(augment)(jax.random.key(0), images, targets)
    split, whole = batch_sharding(mesh), NamedSharding(mesh, PartitionSpec())
    step = jax.jit(augment, in_shardings=(whole, split, split), out_shardings=(split, split))
    ours = step(jax.device_put(jax.random.key(0), whole), *jax.device_put((images, targets), split))
    assert len(ours[0].sharding.device_set) == 8
    for got, wanted in zip(ours, expected, strict=True):
        np.testing.assert_allclose(got, wanted, rtol=0, atol=1e-6)
