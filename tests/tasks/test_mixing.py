"""Erasing and mixing of pictures, all at once as the recipes have them: what `Classification.loss` trains on."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from unireplknet_jax.ops.augment import mix_batch, random_erasing
from unireplknet_jax.tasks.classification import Classification

pytestmark = pytest.mark.usefixtures("quick_compilation")

CLASSES, SIDE, COUNT = 5, 12, 64
ALL = {"random_erasing": 0.6, "mixup": 0.8, "cutmix": 0.4, "mixup_prob": 0.7, "mixup_switch_prob": 0.3}


def make_task(bn_group, **options):
    model = {"depths": (1, 0, 0, 0), "dims": (8,) * 4, "kernel_sizes": ((3,), (), (), ()), "in_chans": 1}
    model |= {"num_classes": CLASSES, "bn_group": bn_group}
    return Classification(model, image_size=SIDE, mean=(0.5,), std=(0.25,), **options)


def trained_on(task):
    """(batch, key) -> (pictures, soft targets) of the loss, whose gradient for free logits tells the targets."""

    def loss(logits, batch, key):
        seen = []

        def apply(variables, pictures, train, rngs, mutable):
            seen.append(pictures)
            return logits, {}

        value, _ = task.loss(apply, {}, batch, key)
        return value, seen[0]

    @jax.jit
    def inputs(batch, key):
        logits = jnp.zeros((COUNT, CLASSES))
        gradient, pictures = jax.grad(loss, has_aux=True)(logits, batch, key)
        return pictures, jax.nn.softmax(logits) - COUNT * gradient

    return inputs


@pytest.fixture(scope="module")
def batch():
    rng = np.random.default_rng(0)
    pictures, labels = rng.integers(0, 256, (COUNT, SIDE, SIDE, 1), np.uint8), rng.integers(0, CLASSES, COUNT)
    return {"image": jnp.asarray(pictures), "label": jnp.asarray(labels)}


@pytest.mark.parametrize("bn_group", [pytest.param(None, marks=pytest.mark.slow), 4])
def test_pictures_are_erased_then_mixed_by_groups_each_with_a_key_of_its_own(batch, bn_group):
    @jax.jit
    def expected(key):
        pictures = (batch["image"] / 255 - 0.5) / 0.25
        erased = random_erasing(jax.random.fold_in(key, 0), pictures, 0.6)
        targets = optax.smooth_labels(jax.nn.one_hot(batch["label"], CLASSES), 0.1)
        options = {"mixup": 0.8, "cutmix": 0.4, "probability": 0.7, "switch_probability": 0.3, "group": bn_group}
        return pictures, erased, *mix_batch(jax.random.fold_in(key, 1), erased, targets, **options)

    ours, kinds = trained_on(make_task(bn_group, label_smoothing=0.1, **ALL)), set()
    for seed in range(6):
        key = jax.random.key(seed)
        plain, erased, *mixed = expected(key)
        for got, wanted in zip(ours(batch, key), mixed, strict=True):
            # A few float32 roundings of values of up to 4 (noise), and of targets.
            np.testing.assert_allclose(got, wanted, rtol=0, atol=2e-6)
        assert 0.3 < np.mean(np.any(plain != erased, axis=(1, 2, 3))) < 0.9
        for before, after, other in zip(erased, mixed[0], _partners(erased, bn_group), strict=True):
            whole = np.all((after == before) | (after == other))
            kinds.add("none" if np.all(after == before) else "cutmix" if whole else "mixup")
    assert kinds == {"none", "mixup", "cutmix"}  # so the test can tell them apart


def _partners(pictures, group):
    groups = np.asarray(pictures).reshape(-1, group or COUNT, *pictures.shape[1:])
    return groups[:, ::-1].reshape(pictures.shape)


@pytest.mark.slow  # the groups of `test_pictures_are_erased_then_mixed_by_groups_each_with_a_key_of_its_own` stay
@pytest.mark.parametrize("kind", [{"mixup": 0.8}, {"cutmix": 1.0}])
def test_pictures_mix_with_those_that_share_their_batch_statistics_alone(kind):
    """Groups of four of the same: within them nothing changes, across them every picture does."""
    same = np.repeat(np.arange(16), 4)
    pictures = jnp.asarray(np.broadcast_to(10 * same[:, None, None, None], (COUNT, SIDE, SIDE, 1)), jnp.uint8)
    batch = {"image": pictures, "label": jnp.asarray(same % CLASSES)}
    plain, targets = trained_on(make_task(4))(batch, jax.random.key(0))
    for group, changed in ((4, False), (8, True), (None, True)):
        mixed, soft = trained_on(make_task(group, **kind))(batch, jax.random.key(0))
        assert np.allclose(mixed, plain, rtol=0, atol=1e-6) != changed
        assert np.allclose(soft, targets, rtol=0, atol=1e-6) != changed


@pytest.mark.slow  # `test_pictures_are_erased_then_mixed_by_groups_each_with_a_key_of_its_own` stays
def test_a_preview_shows_what_is_trained_on(batch):
    task, key = make_task(4, **ALL), jax.random.key(3)
    pictures, _ = trained_on(task)(batch, key)
    shown = jax.jit(task.preview)(batch, key)
    np.testing.assert_allclose(shown, np.clip(0.25 * np.asarray(pictures) + 0.5, 0, 1), rtol=0, atol=1e-6)
