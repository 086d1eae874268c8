"""A detector's losses and their gradients against the original's, against float64, and on rows of padding."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from unireplknet_jax.ops.box_losses import binary_cross_entropy, cross_entropy, giou_loss, masked_sum, smooth_l1


@pytest.fixture(scope="module")
def case(goldens):
    return np.load(goldens / "dense" / "boxes.npz")


@pytest.mark.parametrize("padding", [0, 7])
def test_losses_of_boxes_are_the_originals(case, padding):
    # What is required is 1e-5; sums of 50 terms leave some units of the last of 7 digits.
    pad = lambda rows: np.pad(rows, ((0, padding), (0, 0)))  # noqa: E731
    mask = np.arange(50 + padding) < 50

    def giou(boxes):
        return masked_sum(giou_loss(boxes, pad(case["proposals"])), mask) * 10 / 80

    def l1(deltas):
        return masked_sum(smooth_l1(deltas, pad(case["deltas_3class"][:, :4])), mask) / 64

    for loss, given, name, gradient_name in (
        (giou, "gt", "giou_loss_w10_avg80", "giou_loss_grad"),
        (l1, "deltas", "smooth_l1_beta1_9_avg64", "smooth_l1_grad"),
    ):
        value, gradient = jax.jit(jax.value_and_grad(loss))(pad(case[given]))
        np.testing.assert_allclose(value, case[name], rtol=5e-7)
        expected = pad(case[gradient_name])
        np.testing.assert_allclose(gradient, expected, rtol=0, atol=5e-7 * np.abs(expected).max())


def test_the_two_parts_of_smooth_l1_meet_at_beta():
    deltas = np.array([[0.25, 0, 0, 0], [0.5, -0.5, 0, 0], [2, 0, 0, -3]], np.float32)

    def loss(deltas):
        losses = smooth_l1(deltas, jnp.zeros(4), beta=0.5)
        return jnp.sum(losses), losses

    gradient, losses = jax.jit(jax.grad(loss, has_aux=True))(deltas)
    np.testing.assert_allclose(losses, [0.0625, 0.5, 4.5])
    np.testing.assert_allclose(np.asarray(gradient)[:2, 0], [0.5, 1])


def test_giou_of_equal_far_and_empty_boxes():
    boxes = np.array([[0, 0, 2, 2], [0, 0, 1, 1], [0, 0, 0, 0], [3, 3, 3, 3], [5, 5, 4, 4]], np.float32)
    targets = np.array([[0, 0, 2, 2], [999, 999, 1000, 1000], [0, 0, 0, 0], [1, 1, 2, 2], [0, 0, 1, 1]], np.float32)

    @jax.jit
    def run(boxes, targets):
        losses, pull = jax.vjp(giou_loss, boxes, targets)
        return losses, pull(jnp.ones(5))

    losses, gradients = run(boxes, targets)
    np.testing.assert_allclose(np.asarray(losses)[:3], [0, 2, 1], atol=3e-6)
    for gradient in gradients:
        assert np.isfinite(gradient).all()


def test_cross_entropies_in_float64():
    rng = np.random.default_rng(0)
    logits, labels = 20 * rng.standard_normal((6, 5)).astype(np.float32), rng.integers(0, 5, 6)
    wide = logits.astype(np.float64)
    expected = np.log(np.exp(wide - wide.max(-1, keepdims=True)).sum(-1)) + wide.max(-1) - wide[np.arange(6), labels]
    np.testing.assert_allclose(jax.jit(cross_entropy)(logits, labels), expected, rtol=0, atol=4e-6)
    targets = rng.integers(0, 2, (6, 5)).astype(bool)
    expected = np.logaddexp(0, np.where(targets, -wide, wide))
    np.testing.assert_allclose(jax.jit(binary_cross_entropy)(logits, targets), expected, rtol=0, atol=4e-6)
    gradient = jax.jit(jax.grad(lambda x, targets: jnp.sum(binary_cross_entropy(x, targets))))
    logits, targets = np.array([[0, 900, -900], [1, 0, 1]], np.float32)
    np.testing.assert_array_equal(gradient(logits, targets), [-0.5, 1, -1])


def test_rows_that_do_not_count():
    losses, mask = np.array([[1, 2], [np.nan, np.inf], [4, 8]], np.float32), np.array([True, False, True])
    total, gradient = jax.jit(jax.value_and_grad(masked_sum))(losses, mask)
    assert float(total) == 15
    np.testing.assert_array_equal(gradient, [[1, 1], [0, 0], [1, 1]])
    assert float(jax.jit(masked_sum)(losses, losses > 3.5)) == np.inf
