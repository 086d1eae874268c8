"""The layers of UniRepLKNet as functions of arrays, with the constants of the original (`unireplknet.py`).

Each is jitted by itself: blocks of the same shapes share one trace, and a call outside of `jax.jit` compiles a few
programs instead of one for every operation. Within a larger program XLA sees through them.
"""

import functools
import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from unireplknet_jax.ops.batch import by_platform

BATCH_NORM_EPS = 1e-5
LAYER_NORM_EPS = 1e-6
_MANY = 40  # results of a strided convolution for which any number of input channels is as good


@jax.jit
def gelu(x: jax.Array) -> jax.Array:
    """GELU in its exact form, in float32: `jax.nn.gelu` is the tanh approximation, or one by erfc.

    erfc is no operation of XLA's: its hundred instructions become some 25 kernels on a GPU, erf a part of one. Where a
    TPU computes in bfloat16, `gelu_by_tanh` takes its place, whose error is far below bfloat16's.
    """
    if x.dtype != jnp.bfloat16:
        return _gelu_by_erf(x)
    return by_platform(x, default=_gelu_by_erf, tpu=gelu_by_tanh)


def _gelu_by_erf(x: jax.Array) -> jax.Array:
    y = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    return (0.5 * y * (1 + jax.lax.erf(y * math.sqrt(0.5)))).astype(x.dtype)


# P(u) in y P(u), the argument of tanh, with u = y^2 / 2, from the highest power down: the least largest error of GELU.
# P grows with u, so nothing has to be cut off. (The usual tanh form stops at the first power, and is off by 4.7e-4.)
_GELU_TANH = (1.7905358e-05, -2.446479e-04, -4.9944674e-04, 0.0729375826, 0.7978281557)


@jax.custom_jvp
def gelu_by_tanh(x: jax.Array) -> jax.Array:
    """GELU within 3.1e-6 of its exact form, its derivative within 7e-6, computed in float32 at least.

    For TPUs: their vector unit computes tanh in one instruction, and some forty for erf. A GELU below -3.5 is so
    small that this error is more than bfloat16's rounding of it.
    """
    y = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    return (0.5 * y + 0.5 * y * _tanh_of_gelu(y)).astype(x.dtype)


@gelu_by_tanh.defjvp
def _gelu_by_tanh_jvp(primals: tuple[jax.Array], tangents: tuple[jax.Array]) -> tuple[jax.Array, jax.Array]:
    (x,), (t,) = primals, tangents
    y = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    slope = 0.5 + 0.5 * _tanh_of_gelu(y) + y * (jnp.exp(-0.5 * y * y) / math.sqrt(2 * math.pi))
    return gelu_by_tanh(x), (t.astype(y.dtype) * slope).astype(x.dtype)


def _tanh_of_gelu(y: jax.Array) -> jax.Array:
    """erf(y / sqrt(2)), nearly."""
    u, total = 0.5 * y * y, jnp.asarray(_GELU_TANH[0], y.dtype)
    for factor in _GELU_TANH[1:]:
        total = total * u + factor
    return jnp.tanh(y * total)


@jax.jit
def linear(x: jax.Array, kernel: jax.Array, bias: jax.Array | None = None) -> jax.Array:
    """x: (..., c), kernel: (c, d), bias: (d,) -> (..., d), all of one dtype. Differentiable in reverse mode alone."""
    y = _product(x, kernel)
    return y if bias is None else y + bias


@jax.custom_vjp
def _product(x: jax.Array, kernel: jax.Array) -> jax.Array:
    return jax.lax.dot_general(x, kernel, (((x.ndim - 1,), (0,)), ((), ())))


def _product_forward(x: jax.Array, kernel: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return _product(x, kernel), (x, kernel)


def _product_backward(residuals: tuple[jax.Array, jax.Array], g: jax.Array) -> tuple[jax.Array, jax.Array]:
    x, kernel = residuals
    dx = jax.lax.dot_general(g, kernel, (((g.ndim - 1,), (1,)), ((), ())))
    return dx, by_platform(x, g, default=_kernel_gradient, cpu=_kernel_gradient_by_rows)


def _kernel_gradient(x: jax.Array, g: jax.Array) -> jax.Array:
    axes = tuple(range(x.ndim - 1))
    return jax.lax.dot_general(x, g, ((axes, axes), ((), ())))


def _kernel_gradient_by_rows(x: jax.Array, g: jax.Array) -> jax.Array:
    """`_kernel_gradient` of the rows, the narrower operand first: XLA's product on a CPU is then twice as fast."""
    x, g = (a.reshape(-1, a.shape[-1]) for a in (x, g))
    if x.shape[1] <= g.shape[1]:
        return _kernel_gradient(x, g)
    return jax.lax.optimization_barrier(_kernel_gradient(g, x)).T


_product.defvjp(_product_forward, _product_backward)


@functools.partial(jax.jit, static_argnames="axes")
def strided_conv(x: jax.Array, kernel: jax.Array, bias: jax.Array, axes: str = "HWIO") -> jax.Array:
    """3x3 convolution of stride 2: x (n, h, w, c), kernel (3, 3, c, d), bias (d,), all of one dtype ->
    (n, h/2, w/2, d), sizes rounded up. "SAME" would pad (0, 1) on even sizes; PyTorch pads 1 on every side.
    axes: of the kernel; cuDNN takes them as "OHWI". With few channels differentiable in reverse mode alone.
    """
    c, d = x.shape[-1], bias.shape[0]
    if axes == "HWIO" and c % 4 and d < _MANY:
        return _conv_of_fours(x, kernel) + bias
    return _strided_conv(x, kernel, axes) + bias


def _strided_conv(x: jax.Array, kernel: jax.Array, axes: str = "HWIO") -> jax.Array:
    return jax.lax.conv_general_dilated(x, kernel, (2, 2), ((1, 1), (1, 1)), dimension_numbers=("NHWC", axes, "NHWC"))


@jax.custom_vjp
def _conv_of_fours(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """`_strided_conv` of few channels, a multiple of four with zeros: on a CPU that takes a sixth of the time for
    pictures. For the gradients it would take longer.
    """
    more = (0, -x.shape[-1] % 4)
    return _strided_conv(jnp.pad(x, ((0, 0), (0, 0), (0, 0), more)), jnp.pad(kernel, ((0, 0), (0, 0), more, (0, 0))))


def _fours_forward(x: jax.Array, kernel: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return _conv_of_fours(x, kernel), (x, kernel)


def _fours_backward(residuals: tuple[jax.Array, jax.Array], g: jax.Array) -> tuple[jax.Array, jax.Array]:
    return jax.vjp(_strided_conv, *residuals)[1](g)


_conv_of_fours.defvjp(_fours_forward, _fours_backward)


@jax.jit
def layer_norm(x: jax.Array, scale: jax.Array, bias: jax.Array) -> jax.Array:
    """LayerNorm over the channels of x (..., c), computed and returned in float32 as every norm here. On a GPU
    differentiable in reverse mode alone.
    """
    return by_platform(x, scale, bias, default=_layer_norm, cuda=layer_norm_by_statistics)


def _layer_norm(x: jax.Array, scale: jax.Array, bias: jax.Array) -> jax.Array:
    return _layer_norm_forward(x, scale, bias)[0]


@jax.custom_vjp
def layer_norm_by_statistics(x: jax.Array, scale: jax.Array, bias: jax.Array) -> jax.Array:
    """`layer_norm` in its form for a GPU: the backward pass takes x and two numbers a pixel from the forward one.

    Left to itself XLA keeps and makes several float32 maps, for which the memory is what it waits for.
    """
    return _layer_norm_forward(x, scale, bias)[0]


def _layer_norm_forward(x: jax.Array, scale: jax.Array, bias: jax.Array) -> tuple[jax.Array, tuple[jax.Array, ...]]:
    y, gain, shift = (a.astype(jnp.float32) for a in (x, scale, bias))
    mean = jnp.mean(y, axis=-1, keepdims=True)
    centred = y - mean
    inverse = jax.lax.rsqrt(jnp.mean(jnp.square(centred), axis=-1, keepdims=True) + LAYER_NORM_EPS)
    return centred * (inverse * gain) + shift, (x, scale, bias, mean, inverse)


def _layer_norm_backward(residuals: tuple[jax.Array, ...], g: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    x, scale, bias, mean, inverse = residuals
    # Or the statistics are computed again in every kernel, and what is made with them is kept in float32 for the sums.
    g, mean, inverse = jax.lax.optimization_barrier((g.astype(x.dtype), mean, inverse))
    g = g.astype(jnp.float32)
    normed = (x.astype(jnp.float32) - mean) * inverse
    slope = g * scale.astype(jnp.float32)
    along = jnp.mean(slope * normed, axis=-1, keepdims=True)
    dx = inverse * (slope - jnp.mean(slope, axis=-1, keepdims=True) - normed * along)
    d_scale, d_bias = (jnp.sum(a, axis=tuple(range(x.ndim - 1))) for a in (g * normed, g))
    return dx.astype(x.dtype), d_scale.astype(scale.dtype), d_bias.astype(bias.dtype)


layer_norm_by_statistics.defvjp(_layer_norm_forward, _layer_norm_backward)


@jax.jit
def batch_norm(x: jax.Array, mean: jax.Array, var: jax.Array, scale: jax.Array, bias: jax.Array) -> jax.Array:
    """x: (n, h, w, c) of any dtype, kept; the rest (c,), or what broadcasts against x; computed in float32."""
    mean, var, scale, bias, y = (jnp.asarray(a, jnp.float32) for a in (mean, var, scale, bias, x))
    return ((y - mean) * (jax.lax.rsqrt(var + BATCH_NORM_EPS) * scale) + bias).astype(x.dtype)


@jax.jit
def residual(x: jax.Array, y: jax.Array, gamma: jax.Array | None = None) -> jax.Array:
    """x + y, each channel of y (n, h, w, c) times the layer scale gamma (c,), where there is one."""
    return x + (y if gamma is None else gamma.astype(y.dtype) * y)


@jax.jit
def squeeze_excite(
    x: jax.Array, down: Sequence[jax.Array], up: Sequence[jax.Array], areas: jax.Array | None = None
) -> jax.Array:
    """Each channel of x (n, h, w, c) scaled by what two 1x1 convolutions make of the means of all.

    down, up: (kernel, bias), the kernels (1, 1, c, c / 4) and (1, 1, c / 4, c), of the dtype to compute in.
    areas: (n,) the positions that the means are over, where the others hold zeros; None: all.
    As `linear` differentiable in reverse mode alone.
    """
    return x * excitation(x, down, up, areas).astype(x.dtype)[:, None, None]


def excitation(
    x: jax.Array, down: Sequence[jax.Array], up: Sequence[jax.Array], areas: jax.Array | None = None
) -> jax.Array:
    """What `squeeze_excite` multiplies each channel with, (n, c), float32."""
    if areas is None:
        y = jnp.mean(x, axis=(1, 2), dtype=jnp.float32)
    else:
        y = jnp.sum(x, axis=(1, 2), dtype=jnp.float32) / areas[:, None]
    y = linear(y.astype(down[0].dtype), down[0][0, 0], down[1])
    y = linear(jax.nn.relu(y), up[0][0, 0], up[1])
    return jax.nn.sigmoid(y.astype(jnp.float32))
