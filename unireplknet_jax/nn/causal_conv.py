"""Causal convolutions with weight norm (original: Time-Series/layers, a temporal convolution network)."""

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp

KERNEL_SIZE = 3
DROPOUT = 0.2  # fixed in the original, whatever the rest of the network drops

# PyTorch's default for linear layers and convolutions: uniform within 1 / sqrt(fan in).
fan_in_uniform = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")


def bias_uniform(fan_in: int) -> Callable[..., jax.Array]:
    """PyTorch's default for the bias of a layer with so many inputs to a unit."""

    def init(key: jax.Array, shape: tuple[int, ...], dtype: jax.typing.DTypeLike = jnp.float32) -> jax.Array:
        return jax.random.uniform(key, shape, dtype, -1, 1) / fan_in**0.5

    return init


class CausalConvs(nn.Module):
    """A stack of residual blocks, one for each of `features`; the j-th has dilation 3^j."""

    features: tuple[int, ...]

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """x: (n, positions, c) -> (n, positions, features[-1]); no position sees a later one."""
        for j, width in enumerate(self.features):
            x = CausalBlock(width, KERNEL_SIZE**j, name=f"network_{j}")(x, train)
        return x


class CausalBlock(nn.Module):
    """Two causal convolutions with ReLU and dropout, residual, ReLU; a linear shortcut where the width changes."""

    features: int
    dilation: int

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """x: (n, positions, c) -> (n, positions, features)."""
        y = x
        for name in ("conv1", "conv2"):
            y = nn.relu(CausalConv(self.features, self.dilation, name=name)(y))
            y = nn.Dropout(DROPOUT, deterministic=not train)(y)
        if x.shape[-1] != self.features:
            bias = bias_uniform(x.shape[-1])
            x = nn.Conv(self.features, (1,), kernel_init=fan_in_uniform, bias_init=bias, name="downsample")(x)
        return nn.relu(x + y)


class CausalConv(nn.Module):
    """A convolution that looks back alone, its kernel scaled to the norm `g` for each output channel."""

    features: int
    dilation: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """x: (n, positions, c) -> (n, positions, features)."""
        shape = (KERNEL_SIZE, x.shape[-1], self.features)
        kernel = self.param("kernel", fan_in_uniform, shape, jnp.float32)
        bias = self.param("bias", bias_uniform(shape[0] * shape[1]), (self.features,), jnp.float32)
        norm = jnp.sqrt(jnp.sum(jnp.square(kernel), axis=(0, 1)))
        g = self.param("g", lambda key: norm[:, None, None])  # PyTorch's rank, on which weight decay depends
        y = jax.lax.conv_general_dilated(
            x,
            kernel * (g[:, 0, 0] / norm),
            window_strides=(1,),
            padding=(((KERNEL_SIZE - 1) * self.dilation, 0),),
            rhs_dilation=(self.dilation,),
            dimension_numbers=("NWC", "WIO", "NWC"),
        )
        return y + bias
