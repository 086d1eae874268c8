"""What a network looks at: supports that are counted by hand, and the gradient of the layers behind the last map."""

import flax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from draws import normal
from networks import lively, small_model

from unireplknet_jax.models.attribution import (
    attributions,
    effective_receptive_field,
    middle_pixel,
    square_sides,
    upsampled,
)
from unireplknet_jax.models.reparameterize import reparameterize
from unireplknet_jax.models.shapes import abstract_variables
from unireplknet_jax.nn.pooled_head import PooledClassifier

# Two blocks behind five strided convolutions: compiling is what these tests cost.
TINY = {"depths": (1, 0, 0, 1), "dims": (4, 4, 8, 8), "kernel_sizes": ((3,), (), (), (7,)), "impl": "xla"}

pytestmark = pytest.mark.usefixtures("quick_compilation")


def seen_by_itself(variables):
    """The variables without what looks at whole maps: squeeze-and-excitation and GRN."""
    flat = flax.traverse_util.flatten_dict(variables)
    for path in flat:
        if path[-2:] in (("up", "kernel"), ("grn", "gamma")):
            flat[path] = np.zeros_like(flat[path])
    return flax.traverse_util.unflatten_dict(flat)


@pytest.mark.parametrize(("kernel_size", "side"), [pytest.param(0, 63, marks=pytest.mark.slow), (13, 111)])
def test_the_receptive_field_has_the_support_that_one_counts_by_hand(kernel_size, side):
    """Five 3x3 convolutions of stride 2 see 63 pixels; 13 taps more on the map of stride 4 add 12 * 4."""
    model = small_model(
        depths=(1, 0, 0, 0), dims=(4,) * 4, kernel_sizes=((kernel_size,), (), (), ()), num_classes=None, impl="xla"
    )
    variables = seen_by_itself(lively(abstract_variables(model)))
    images = normal(0, 2, 160, 192, 3)
    field = np.asarray(jax.jit(effective_receptive_field, static_argnums=0)(model, variables, images))
    assert field.shape == (160, 192)
    middle = middle_pixel((160, 192))
    assert middle == (64, 96)  # maps of 5 x 6: the positions 2 and 3
    for axis, centre in enumerate(middle):
        seen = np.flatnonzero(field.sum(axis=1 - axis))
        assert (seen[0], seen[-1]) == (centre - side // 2, centre + side // 2)
    assert square_sides(field, (1.0,)) == [side]


def test_contributions_are_positive_parts_of_the_gradient_of_the_middle():
    model = small_model(**TINY, num_classes=None)
    variables, images = lively(abstract_variables(model)), normal(1, 2, 64, 64, 3)

    def middle(images):
        last = model.apply(variables, images, method="features")[-1]
        return jnp.sum(jnp.maximum(last[:, 1, 1], 0))

    expected = np.sum(np.maximum(jax.jit(jax.grad(middle))(images), 0), axis=-1)
    found = jax.jit(lambda images: attributions(model, variables, images))(images)
    assert set(found) == {"contribution"}
    np.testing.assert_allclose(found["contribution"], expected, rtol=1e-4, atol=1e-6 * float(expected.max()))


def by_hand(last, scale, kernel, label, eps):
    """Grad-CAM of a mean, a LayerNorm and a linear layer, of a map (h, w, c), in float64."""
    last = np.asarray(last, np.float64)
    mean = last.mean(axis=(0, 1))
    sigma = np.sqrt(mean.var() + eps)
    normed, weights = (mean - mean.mean()) / sigma, scale * kernel[:, label]
    gradient = (weights - weights.mean() - normed * np.mean(weights * normed)) / sigma
    return last @ gradient / (last.shape[0] * last.shape[1])


@pytest.mark.parametrize("around", [pytest.param(False, marks=pytest.mark.slow), True])
def test_the_class_activation_is_the_gradient_of_norm_and_classifier(around):
    if around:
        trunk = small_model(**TINY, num_classes=None, remat=True)
        model, eps, norm = PooledClassifier(trunk, 5), 1e-5, "head_norm"
    else:
        trunk, eps, norm = small_model(**TINY), 1e-6, "norm"
        model = trunk
    variables, images = lively(abstract_variables(model)), normal(2, 2, 96, 64, 3)
    found = jax.jit(lambda images: attributions(model, variables, images))(images)
    inner = {name: tree["backbone"] for name, tree in variables.items()} if around else variables

    @jax.jit
    def plain(images):
        return model.apply(variables, images), trunk.apply(inner, images, method="features")[-1]

    expected, lasts = map(np.asarray, plain(images))
    np.testing.assert_allclose(found["logits"], expected, rtol=1e-4, atol=1e-4)
    labels = np.argmax(expected, axis=-1)
    np.testing.assert_array_equal(found["label"], labels)
    scale, kernel = variables["params"][norm]["scale"], variables["params"]["head"]["kernel"]
    for last, label, activation in zip(lasts, labels, np.asarray(found["activation"]), strict=True):
        hand = by_hand(last, scale, kernel, label, eps)
        assert np.abs(hand).max() > 1e-2
        np.testing.assert_allclose(activation, hand, rtol=0, atol=1e-4 * np.abs(hand).max())
        assert abs(hand.sum()) < 1e-3 * np.abs(hand).sum()  # of all positions: a LayerNorm does not see the scale


@pytest.mark.slow
def test_the_merged_form_says_the_same_of_another_class():
    model = small_model(**TINY)
    variables, images = lively(abstract_variables(model)), normal(3, 1, 64, 64, 3)
    found = jax.jit(lambda images: attributions(model, variables, images, 1))(images)
    assert found["label"].tolist() == [1]
    merged = jax.jit(lambda images: attributions(model.clone(deploy=True), reparameterize(variables), images, 1))(
        images
    )
    for name, value in found.items():
        np.testing.assert_allclose(merged[name], value, rtol=0, atol=1e-4 * float(np.abs(value).max()), err_msg=name)


def test_squares_hold_their_shares():
    field = np.zeros((64, 96))  # of maps of 2 x 3 positions: the middle ones are 1 and 1
    field[32, 32], field[32, 34], field[20, 32], field[32, 95] = 5, 2, 2, 1
    assert middle_pixel(field.shape) == (32, 32)
    assert square_sides(field, (0.2, 0.5, 0.7, 0.9, 0.91)) == [1, 1, 5, 25, 127]
    assert square_sides(np.zeros((32, 32))) == [None] * 4


def test_maps_are_spread_over_the_pixels_that_they_are_centred_on():
    values = np.array([[1.0, 3.0], [5.0, 9.0]])
    spread = upsampled(values, (64, 50))
    assert spread.shape == (64, 50)
    np.testing.assert_allclose(spread[[0, 0, 32, 16, 63], [0, 32, 0, 16, 40]], [1, 3, 5, 4.5, 9])
