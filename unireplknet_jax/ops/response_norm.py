"""GRN of ConvNeXt V2 behind a GELU: each channel scaled by its share of the map's energy.

On a GPU both are written for matrices (n * h * w, c), forward and backward: where the sums are over two axes of a map,
XLA turns every map round for them and back for the products around, which is most of what a block then moves.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from unireplknet_jax.ops.batch import by_platform, row_major, rows
from unireplknet_jax.ops.layers import gelu, linear

GRN_EPS = 1e-6


@jax.jit
def global_response_norm(x: jax.Array, gamma: jax.Array, beta: jax.Array | None = None) -> jax.Array:
    """GRN: x (n, h, w, c), each channel scaled by its share of the map's energy; x's dtype is kept.

    gamma, beta: (1, 1, 1, c); without beta in merged form. Norms in float32.
    """
    y = x.astype(jnp.float32)
    y = _factor(_energy(y), gamma) * y
    return (y if beta is None else y + beta.astype(jnp.float32)).astype(x.dtype)


@jax.jit
def gelu_response_norm(x: jax.Array, gamma: jax.Array, beta: jax.Array | None = None) -> jax.Array:
    """`global_response_norm` of the GELU of x; on a GPU differentiable in reverse mode alone."""
    parameters = (gamma,) if beta is None else (gamma, beta)
    return by_platform(
        x,
        *parameters,
        default=lambda x, *parameters: global_response_norm(gelu(x), *parameters),
        cuda=lambda x, gamma, beta=None: on_rows(x, gamma, beta),
    )


class Scaled(NamedTuple):
    """A map (n, h, w, c) and what each channel of each example is yet to be multiplied with, (n, 1, 1, c), float32."""

    map: jax.Array
    factor: jax.Array


@jax.jit
def gelu_response_factor(x: jax.Array, gamma: jax.Array) -> Scaled:
    """`gelu_response_norm` in merged form, the product left to `linear_of_scaled`."""
    n, h, w, c = x.shape
    y = gelu(x)

    def energy_by_rows(y: jax.Array) -> jax.Array:
        return jnp.sum(jnp.square(y.reshape(n, h * w, c).astype(jnp.float32)), axis=1).reshape(n, 1, 1, c)

    return Scaled(y, _factor(by_platform(y, default=_energy, cuda=energy_by_rows), gamma))


@jax.jit
def linear_of_scaled(x: Scaled, kernel: jax.Array, bias: jax.Array | None = None) -> jax.Array:
    """`linear` of a scaled map, rounded to its own dtype before; differentiable in reverse mode alone, too."""
    return by_platform(
        *x,
        kernel,
        *([] if bias is None else [bias]),
        default=lambda y, factor, *parameters: linear((factor * y.astype(jnp.float32)).astype(y.dtype), *parameters),
        cpu=_linear_of_rows,
        cuda=_linear_of_rows,
    )


def _linear_of_rows(y: jax.Array, factor: jax.Array, kernel: jax.Array, bias: jax.Array | None = None) -> jax.Array:
    """The smaller of both operands is multiplied: the map, or the kernel, once for every example."""
    n, h, w, c = y.shape
    factor = factor.reshape(n, c)
    if c > h * w:
        y = (rows(y).astype(jnp.float32) * _on_each_row(factor, h * w)).astype(y.dtype).reshape(y.shape)
        return linear(y, kernel, bias)
    kernels = (factor[:, :, None] * kernel.astype(jnp.float32)).astype(y.dtype)
    y = jax.lax.dot_general(y.reshape(n, h * w, c), kernels, (((2,), (1,)), ((0,), (0,))))
    y = y.reshape(n, h, w, -1)
    return y if bias is None else y + bias


@jax.custom_vjp
def on_rows(x: jax.Array, gamma: jax.Array, beta: jax.Array | None) -> jax.Array:
    """`gelu_response_norm` in its form for a GPU. From the forward pass the backward one takes x alone."""
    return _on_rows(x, gamma, beta)[0]


_Residuals = tuple[jax.Array, jax.Array, jax.Array | None, jax.Array]


def _on_rows(x: jax.Array, gamma: jax.Array, beta: jax.Array | None) -> tuple[jax.Array, jax.Array]:
    """-> (the result, energy (n, c))."""
    n, h, w, c = x.shape
    energy = jnp.sum(jnp.square(gelu(x.reshape(n, h * w, c)).astype(jnp.float32)), axis=1)
    y = gelu(rows(x)).astype(jnp.float32) * _on_each_row(_factor(energy, gamma.reshape(c)), h * w)
    y = y if beta is None else y + beta.reshape(c).astype(jnp.float32)
    return y.astype(x.dtype).reshape(x.shape), energy


def _rows_forward(x: jax.Array, gamma: jax.Array, beta: jax.Array | None) -> tuple[jax.Array, _Residuals]:
    z, energy = _on_rows(x, gamma, beta)
    return row_major(z), (x, gamma, beta, energy)  # in training alone: jax.export refuses constraints of layouts


def _rows_backward(residuals: _Residuals, g: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array | None]:
    x, gamma, beta, energy = residuals
    n, h, w, c = x.shape
    maps = (n, h * w, c)
    g_sums = jnp.sum(g.reshape(maps).astype(jnp.float32), axis=1)
    products = g.reshape(maps).astype(jnp.float32) * gelu(x.reshape(maps)).astype(jnp.float32)
    factor, pullback = jax.vjp(_factor, energy, gamma.reshape(c))
    d_energy, d_gamma = pullback(jnp.sum(products, axis=1))
    y = rows(x).astype(jnp.float32)
    cdf = 0.5 * (1 + jax.lax.erf(y * math.sqrt(0.5)))
    slope = cdf + y * jnp.exp(-0.5 * jnp.square(y)) / math.sqrt(2 * math.pi)
    dx = rows(g).astype(jnp.float32) * _on_each_row(factor, h * w) + y * cdf * _on_each_row(2 * d_energy, h * w)
    dx = row_major((dx * slope).astype(x.dtype).reshape(x.shape))
    d_beta = None if beta is None else jnp.sum(g_sums, axis=0).reshape(beta.shape).astype(beta.dtype)
    return dx, d_gamma.reshape(gamma.shape).astype(gamma.dtype), d_beta


on_rows.defvjp(_rows_forward, _rows_backward)


def _energy(y: jax.Array) -> jax.Array:
    """(n, h, w, c) -> (n, 1, 1, c), in float32."""
    return jnp.sum(jnp.square(y.astype(jnp.float32)), axis=(1, 2), keepdims=True)


def _factor(energy: jax.Array, gamma: jax.Array) -> jax.Array:
    """What GRN multiplies a map with, (n, ..., c) as its energy, in float32."""
    positive = energy > 0  # PyTorch's norm has gradient 0 at 0, where sqrt's is infinite
    norm = jnp.where(positive, jnp.sqrt(jnp.where(positive, energy, 1.0)), 0.0)
    return gamma.astype(jnp.float32) * norm / (jnp.mean(norm, axis=-1, keepdims=True) + GRN_EPS) + 1


def _on_each_row(values: jax.Array, length: int) -> jax.Array:
    """values: (n, c) -> (n * length, c), each row `length` times."""
    n, c = values.shape
    return jnp.broadcast_to(values[:, None], (n, length, c)).reshape(n * length, c)
