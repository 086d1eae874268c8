"""Batch norm in training, by the statistics of the batch or of groups of its examples."""

import functools
from typing import Any

import jax
import jax.numpy as jnp

from unireplknet_jax.ops.batch import by_platform, row_major, rows
from unireplknet_jax.ops.layers import BATCH_NORM_EPS, batch_norm

_Outputs = tuple[jax.Array, jax.Array, jax.Array]


@functools.partial(jax.jit, static_argnames="group")
def batch_norm_by_groups(x: jax.Array, scale: jax.Array, bias: jax.Array, group: int) -> _Outputs:
    """Batch norm of x (n, h, w, c) where every `group` consecutive examples share their statistics.

    -> (y of x's shape and dtype, mean (c,), unbiased variance (c,)), both averaged over the groups, in float32. On a
    GPU differentiable in reverse mode alone.
    """
    return by_platform(
        x,
        scale,
        bias,
        default=functools.partial(_on_maps, group=group),
        cuda=lambda x, scale, bias: on_rows(x, scale, bias, group),
    )


def _on_maps(x: jax.Array, scale: jax.Array, bias: jax.Array, group: int) -> _Outputs:
    n, h, w, c = x.shape
    y = x.astype(jnp.float32).reshape(n // group, group, h, w, c)
    mean = jnp.mean(y, axis=(1, 2, 3), keepdims=True)
    var = jnp.mean(jnp.square(y - mean), axis=(1, 2, 3), keepdims=True)
    count = group * h * w
    unbiased = jnp.mean(var, axis=(0, 1, 2, 3)) * (count / max(count - 1, 1))
    y = batch_norm(y, mean, var, scale, bias).reshape(x.shape).astype(x.dtype)
    return y, jnp.mean(mean, axis=(0, 1, 2, 3)), unbiased


@functools.partial(jax.jit, static_argnames="group")
def batch_norm_of_valid(x: jax.Array, scale: jax.Array, bias: jax.Array, valid: jax.Array, group: int) -> _Outputs:
    """`batch_norm_by_groups` with statistics over the positions where `valid` (n, h, w, 1) is True alone."""
    n, h, w, c = x.shape
    y = x.astype(jnp.float32).reshape(n // group, group, h, w, c)
    inside = valid.reshape(n // group, group, h, w, 1)
    axes = (1, 2, 3)
    count = jnp.maximum(jnp.sum(inside, axis=axes, keepdims=True, dtype=jnp.float32), 1)
    mean = jnp.sum(jnp.where(inside, y, 0), axis=axes, keepdims=True) / count
    var = jnp.sum(jnp.where(inside, jnp.square(y - mean), 0), axis=axes, keepdims=True) / count
    unbiased = jnp.mean(var * (count / jnp.maximum(count - 1, 1)), axis=(0, *axes))
    y = batch_norm(y, mean, var, scale, bias).reshape(x.shape).astype(x.dtype)
    return y, jnp.mean(mean, axis=(0, *axes)), unbiased


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def on_rows(x: jax.Array, scale: jax.Array, bias: jax.Array, group: int) -> _Outputs:
    """`batch_norm_by_groups` in its form for a GPU: on rows, two passes over the map backward where XLA makes three.

    What turns the map round for the convolution in front then does it once, in x's dtype, not in every sum.
    """
    return _rows_forward(x, scale, bias, group)[0]


def _rows_forward(x: jax.Array, scale: jax.Array, bias: jax.Array, group: int) -> tuple[_Outputs, Any]:
    x = row_major(x)
    y = _groups(x, group)
    mean = jnp.mean(y, axis=1, keepdims=True)
    var = jnp.mean(jnp.square(y - mean), axis=1, keepdims=True)
    inverse = jax.lax.rsqrt(var + BATCH_NORM_EPS)
    gain, shift = (a.astype(jnp.float32) for a in (scale, bias))
    normed = ((y - mean) * (inverse * gain) + shift).reshape(x.shape).astype(x.dtype)
    count = y.shape[1]
    unbiased = jnp.mean(var, axis=(0, 1)) * (count / max(count - 1, 1))
    return (normed, jnp.mean(mean, axis=(0, 1)), unbiased), (x, scale, bias, mean, inverse)


def _rows_backward(group: int, residuals: Any, cotangents: _Outputs) -> tuple[jax.Array, jax.Array, jax.Array]:
    (x, scale, bias, mean, inverse), (g, d_mean, d_unbiased) = residuals, cotangents
    y, dy = _groups(x, group), _groups(row_major(g), group)
    groups, count, _ = y.shape
    d_bias = jnp.sum(dy, axis=1, keepdims=True)
    d_scale = jnp.sum(dy * (y - mean), axis=1, keepdims=True) * inverse
    # The statistics are results, too: the mean over the groups of their means and of their unbiased variances.
    slope = scale.astype(jnp.float32) * inverse
    per_value = (d_mean / groups - slope * d_bias) / count
    per_deviation = 2 / max(count - 1, 1) * d_unbiased / groups - slope * inverse * d_scale / count
    dx = slope * dy + per_deviation * (y - mean) + per_value
    dx = row_major(dx.reshape(x.shape).astype(x.dtype))
    return dx, jnp.sum(d_scale, axis=(0, 1)).astype(scale.dtype), jnp.sum(d_bias, axis=(0, 1)).astype(bias.dtype)


on_rows.defvjp(_rows_forward, _rows_backward)


def _groups(x: jax.Array, group: int) -> jax.Array:
    """x: (n, h, w, c) -> (groups, rows of each, c), in float32."""
    return rows(x).reshape(x.shape[0] // group, -1, x.shape[-1]).astype(jnp.float32)
