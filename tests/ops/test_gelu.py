"""GELU as TPUs compute it in bfloat16: its error in float64 and over every bfloat16 number, and who computes it so."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special

from unireplknet_jax.ops.layers import gelu, gelu_by_tanh


def exact(y):
    """GELU and its derivative in float64."""
    y = np.asarray(y, np.float64)
    with np.errstate(over="ignore"):
        density = np.exp(-0.5 * y * y) / np.sqrt(2 * np.pi)
    return y * scipy.special.ndtr(y), scipy.special.ndtr(y) + y * density


@functools.partial(jax.jit, static_argnums=0)
def both(function, x):
    y, pullback = jax.vjp(function, x)
    return y, pullback(jnp.ones_like(y))[0]


def finite_bfloat16():
    values = np.arange(2**16, dtype=np.uint16).view(jnp.bfloat16)
    return values[np.isfinite(values.astype(np.float32))]


def test_error_in_float64():
    y = np.linspace(-40, 40, 800_001)
    with jax.enable_x64(True):
        value, slope = both(gelu_by_tanh, jnp.asarray(y))
    for found, expected, error in zip((value, slope), exact(y), (3.1e-6, 7e-6), strict=True):
        largest = np.abs(np.asarray(found) - expected).max()
        assert 0.9 * error < largest < error  # the numbers of the docstring


def test_every_bfloat16_number_rounds_as_by_erf_or_next_to_it():
    x = finite_bfloat16()
    results = [np.asarray(found, np.float64) for form in (gelu_by_tanh, gelu) for found in both(form, x)]
    for found, by_erf, expected in zip(results[:2], results[2:], exact(x), strict=True):
        np.testing.assert_allclose(found, expected, rtol=2**-8, atol=7e-6)
        np.testing.assert_allclose(found, by_erf, rtol=2**-7, atol=7e-6)
        assert np.mean(found == by_erf) > 0.98


def test_numbers_that_are_none_stay_so():
    for x in (np.inf, -np.inf, np.nan):
        found, by_erf = (float(form(jnp.bfloat16(x))) for form in (gelu_by_tanh, gelu))
        np.testing.assert_equal(found, by_erf)


@pytest.mark.parametrize(
    ("platform", "dtype", "by_tanh"),
    [("tpu", "bfloat16", True), ("tpu", "float32", False), ("cpu", "bfloat16", False), ("cuda", "bfloat16", False)],
)
def test_only_a_tpu_takes_it_and_only_in_bfloat16(platform, dtype, by_tanh):
    traced = jax.jit(lambda x: both(gelu, x)).trace(jax.ShapeDtypeStruct((2, 3), dtype))
    text = traced.lower(lowering_platforms=(platform,)).as_text()
    assert ("tanh" in text, "erf" in text) == (by_tanh, not by_tanh)
