"""Augmentation of whole batches inside the jitted step: random erasing, mixup and cutmix; images are (n, h, w, c).

Definitions: timm 0.6.11 (`RandomErasing` in mode "pixel", `Mixup` in mode "batch"), which the original trains with.
"""

import math

import jax
import jax.numpy as jnp

_TRIES = 10
_LOG_ASPECT = (math.log(0.3), -math.log(0.3))


def random_erasing(
    rng: jax.Array,
    images: jax.Array,
    probability: float,
    area: tuple[float, float] = (0.02, 1 / 3),
    log_aspect: tuple[float, float] = _LOG_ASPECT,
) -> jax.Array:
    """Fill, with `probability`, one rectangle of each normalized image with standard normal noise.

    area: bounds of its share of the image, uniform; log_aspect: bounds of log(height / width), uniform. Of ten drawn
    rectangles the first that is smaller than the image in both directions is taken; without one nothing is erased.
    images: (n, h, w, c) float -> the same.
    """
    n, h, w, _ = images.shape
    keys = jax.random.split(rng, 6)
    tries = (n, _TRIES)
    target = h * w * jax.random.uniform(keys[0], tries, minval=area[0], maxval=area[1])
    aspect = jnp.exp(jax.random.uniform(keys[1], tries, minval=log_aspect[0], maxval=log_aspect[1]))
    heights, widths = jnp.round(jnp.sqrt(target * aspect)), jnp.round(jnp.sqrt(target / aspect))
    fits = (heights < h) & (widths < w)
    chosen = jnp.argmax(fits, axis=1)[:, None]
    height, width = (jnp.take_along_axis(sizes, chosen, axis=1)[:, 0] for sizes in (heights, widths))
    top = jnp.floor(jax.random.uniform(keys[2], (n,)) * (h - height + 1))
    left = jnp.floor(jax.random.uniform(keys[3], (n,)) * (w - width + 1))
    erased = jax.random.bernoulli(keys[4], probability, (n,)) & jnp.any(fits, axis=1)
    inside = box_mask(top, left, top + height, left + width, h, w) & erased[:, None, None]
    noise = jax.random.normal(keys[5], images.shape, images.dtype)
    return jnp.where(inside[..., None], noise, images)


def mix_batch(
    rng: jax.Array,
    images: jax.Array,
    targets: jax.Array,
    *,
    mixup: float,
    cutmix: float,
    probability: float = 1.0,
    switch_probability: float = 0.5,
    group: int | None = None,
) -> tuple[jax.Array, jax.Array]:
    """Mixup or cutmix of every image with its mirror partner: example i of a group of m with example m - 1 - i.

    mixup, cutmix: the parameters of the symmetric Beta distributions, 0: never; with both, cutmix is taken with
    `switch_probability`. probability: of mixing at all. group: consecutive examples that share one draw (the original's
    batch on one GPU); None: all.
    images: (n, h, w, c), targets: (n, classes) -> the same. ValueError for an odd group or one that n does not divide.
    """
    n, h, w, c = images.shape
    group = group or n
    if n % group or group % 2:
        raise ValueError(f"mixup pairs examples in groups of {group}: it must be even and divide the batch of {n}.")
    keys = jax.random.split(rng, 5)
    draws = (n // group,)
    use_cutmix = jnp.full(draws, cutmix > 0)
    if mixup > 0 and cutmix > 0:
        use_cutmix = jax.random.bernoulli(keys[0], switch_probability, draws)
    alpha = jnp.where(use_cutmix, cutmix or 1.0, mixup or 1.0)
    weight = jax.random.beta(keys[1], alpha, alpha, draws)
    weight = jnp.where(jax.random.bernoulli(keys[2], probability, draws), weight, 1.0)

    top, left, bottom, right = cutmix_box(keys[3:], weight, h, w)
    share = 1 - (bottom - top) * (right - left) / (h * w)
    own = jnp.where(use_cutmix, share, weight)[:, None]
    pasted = box_mask(top, left, bottom, right, h, w)[:, None, :, :, None]
    images = images.reshape(-1, group, h, w, c)
    partners = images[:, ::-1]
    blend = own[..., None, None, None]
    mixed = jnp.where(
        use_cutmix[:, None, None, None, None],
        jnp.where(pasted, partners, images),
        images * blend + partners * (1 - blend),
    )
    targets = targets.reshape(-1, group, targets.shape[-1])
    targets = targets * own[..., None] + targets[:, ::-1] * (1 - own[..., None])
    return mixed.reshape(n, h, w, c), targets.reshape(n, -1)


def cutmix_box(keys: jax.Array, weight: jax.Array, h: int, w: int) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """Rectangles of relative side sqrt(1 - weight) around a uniform centre, clipped at the border.

    keys: two; weight: (g,) -> (top, left, bottom, right), each (g,).
    """
    ratio = jnp.sqrt(1 - weight)
    edges = []
    for key, length in zip(keys, (h, w), strict=True):
        centre = jax.random.randint(key, weight.shape, 0, length)
        half = jnp.floor(length * ratio) // 2
        edges.append((jnp.clip(centre - half, 0, length), jnp.clip(centre + half, 0, length)))
    (top, bottom), (left, right) = edges
    return top, left, bottom, right


def box_mask(top: jax.Array, left: jax.Array, bottom: jax.Array, right: jax.Array, h: int, w: int) -> jax.Array:
    """(g, h, w) bool: inside the rectangles given by their edges (g,), bottom and right not included."""
    rows, columns = jnp.arange(h), jnp.arange(w)
    vertical = (rows >= top[:, None]) & (rows < bottom[:, None])
    horizontal = (columns >= left[:, None]) & (columns < right[:, None])
    return vertical[:, :, None] & horizontal[:, None, :]
