"""Squeeze and excitation between a convolution and a linear layer, whose kernel may take in what both leave undone."""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from unireplknet_jax.ops.batch import by_platform
from unireplknet_jax.ops.layers import excitation, linear


class Biased(NamedTuple):
    """A map (n, h, w, c) and the bias (c,) that is yet to be added to it."""

    map: jax.Array
    bias: jax.Array

    def added(self) -> jax.Array:
        """The map with its bias, (n, h, w, c)."""
        return self.map + self.bias


class Excited(NamedTuple):
    """A `Biased` map and what each channel of each example is then to be multiplied with, (n, c), float32."""

    map: jax.Array
    bias: jax.Array
    factor: jax.Array


@jax.jit
def excited(x: Biased, down: Sequence[jax.Array], up: Sequence[jax.Array]) -> Excited:
    """`ops.layers.squeeze_excite`, sum and product left to `linear_of_excited`."""
    return Excited(*x, excitation(x.added(), down, up))


@jax.jit
def linear_of_excited(x: Excited, kernel: jax.Array, bias: jax.Array) -> jax.Array:
    """`ops.layers.linear` of a map that is added to and scaled before; kernel: (c, d), bias: (d,) -> (n, h, w, d).

    On a GPU the factor goes into the kernel, once for every example, where that takes less than half of the map.
    """
    _, h, w, _ = x.map.shape
    if 2 * kernel.shape[1] > h * w:
        return _of_map(*x, kernel, bias)
    return by_platform(*x, kernel, bias, default=_of_map, cuda=of_kernels)


def _of_map(y: jax.Array, shift: jax.Array, factor: jax.Array, kernel: jax.Array, bias: jax.Array) -> jax.Array:
    return linear((y + shift) * factor.astype(y.dtype)[:, None, None], kernel, bias)


def of_kernels(y: jax.Array, shift: jax.Array, factor: jax.Array, kernel: jax.Array, bias: jax.Array) -> jax.Array:
    """`linear_of_excited` in its form for a GPU, which reads the map once and makes no other of its size."""
    n, h, w, c = y.shape
    kernels = (factor[:, :, None] * kernel.astype(jnp.float32)).astype(y.dtype)
    z = jax.lax.dot_general(y.reshape(n, h * w, c), kernels, (((2,), (1,)), ((0,), (0,))))
    shift = (factor * shift.astype(jnp.float32)).astype(y.dtype)
    biases = jnp.matmul(shift, kernel, preferred_element_type=jnp.float32) + bias.astype(jnp.float32)
    return (z.astype(jnp.float32) + biases[:, None]).astype(y.dtype).reshape(n, h, w, -1)
