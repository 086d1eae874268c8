"""The small layers of UniRepLKNet: the parameters of what `ops.layers` computes."""

import flax
import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from unireplknet_jax.ops import layers
from unireplknet_jax.ops.batch_norm import batch_norm_by_groups, batch_norm_of_valid
from unireplknet_jax.ops.response_norm import Scaled, gelu_response_factor, gelu_response_norm, linear_of_scaled
from unireplknet_jax.ops.squeeze_excite import Biased, Excited, excited, linear_of_excited

# timm's trunc_normal_(std=0.02) cuts at the absolute values -2 and 2, a hundred deviations away: a plain normal.
KERNEL_STDDEV = 0.02
# A collection of what batch norms found in a training batch, laid out as "batch_stats"; kept where it is mutable.
BATCH_MOMENTS = "batch_moments"
kernel_init = nn.initializers.normal(stddev=KERNEL_STDDEV)


def parameter(module: nn.Module, name: str, init: nn.initializers.Initializer, shape: tuple[int, ...]) -> jax.Array:
    """`module.param(name, init, shape)` in float32, at a fraction of its cost where the parameter is there already.

    Flax then traces the initializer to learn the shape that it would give, half of the time that tracing a network
    takes.
    """
    if not module.has_variable("params", name):
        return module.param(name, init, shape, jnp.float32)
    value = flax.core.meta.unbox(module.get_variable("params", name))
    if jnp.shape(value) != shape:
        raise flax.errors.ScopeParamShapeError(name, "/".join(module.path), jnp.shape(value), shape)
    return value


class BatchNorm(nn.Module):
    """Batch normalization over (n, h, w) with PyTorch's conventions and a choice of who shares statistics.

    In training every `group` consecutive examples share their statistics, whatever device they are on; None: the whole
    (global) batch. The running variance is stored unbiased, as PyTorch does and `flax.linen.BatchNorm` does not;
    running statistics take the mean over groups. `frozen`: training uses the running statistics and leaves them alone.
    What the running statistics take of a batch is in `BATCH_MOMENTS`, too, for whoever makes that collection mutable.
    """

    group: int | None = None
    frozen: bool = False
    momentum: float = 0.9

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False, valid: jax.Array | None = None) -> jax.Array:
        """x: (n, h, w, c) -> (n, h, w, c) of x's dtype; ValueError if n is not a multiple of `group`.

        valid: (n, h, w, 1), where the statistics of a batch are taken (`ops.valid`); None: everywhere.
        """
        n, c = x.shape[0], x.shape[-1]
        scale = parameter(self, "scale", nn.initializers.ones, (c,))
        bias = parameter(self, "bias", nn.initializers.zeros, (c,))
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, (c,), jnp.float32)
        running_var = self.variable("batch_stats", "var", jnp.ones, (c,), jnp.float32)
        if not train or self.frozen:
            return layers.batch_norm(x, running_mean.value, running_var.value, scale, bias)

        group = self.group or n
        if n % group:
            raise ValueError(f"a batch of {n} cannot be split into groups of bn_group={group} that share statistics.")
        if valid is None:
            y, mean, var = batch_norm_by_groups(x, scale, bias, group)
        else:
            y, mean, var = batch_norm_of_valid(x, scale, bias, valid, group)
        if not self.is_initializing():
            running_mean.value = self._blend(running_mean.value, mean)
            running_var.value = self._blend(running_var.value, var)
            for name, value in (("mean", mean), ("var", var)):
                self.sow(BATCH_MOMENTS, name, value, init_fn=lambda: None, reduce_fn=lambda _, new: new)
        return y

    def _blend(self, running: jax.Array, batch: jax.Array) -> jax.Array:
        return (self.momentum * running + (1 - self.momentum) * batch).astype(running.dtype)


class LayerNorm(nn.Module):
    """LayerNorm over the channels of (..., c), in float32 as every norm here."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """x: (..., c) -> (..., c) in float32."""
        scale = parameter(self, "scale", nn.initializers.ones, x.shape[-1:])
        return layers.layer_norm(x, scale, parameter(self, "bias", nn.initializers.zeros, x.shape[-1:]))


class Linear(nn.Module):
    """A linear layer; `init_scale` multiplies its initial kernel."""

    features: int
    use_bias: bool = True
    dtype: DTypeLike = jnp.float32
    init_scale: float = 1.0

    @nn.compact
    def __call__(self, x: jax.Array | Scaled | Excited) -> jax.Array:
        """x: (..., c), or (n, h, w, c) and a factor of each example -> (..., features) of `dtype`."""
        y = x.map if isinstance(x, Scaled | Excited) else x
        values = kernel_and_bias(self, (y.shape[-1], self.features), self.dtype, self.use_bias, self.init_scale)
        y = y.astype(self.dtype)
        if isinstance(x, Excited):
            return linear_of_excited(x._replace(map=y), *values)
        return linear_of_scaled(x._replace(map=y), *values) if isinstance(x, Scaled) else layers.linear(y, *values)


def kernel_and_bias(
    module: nn.Module, shape: tuple[int, ...], dtype: DTypeLike, use_bias: bool = True, init_scale: float = 1.0
) -> list[jax.Array]:
    """The parameters [kernel, bias] or [kernel] of a module in `dtype`, the kernel of that shape (..., features)."""

    def init(key: jax.Array, shape: tuple[int, ...], dtype: jax.typing.DTypeLike) -> jax.Array:
        return init_scale * kernel_init(key, shape, dtype)

    kernel = parameter(module, "kernel", kernel_init if init_scale == 1 else init, shape)
    values = {"kernel": kernel}
    if use_bias:
        values["bias"] = parameter(module, "bias", nn.initializers.zeros, shape[-1:])
    return [in_dtype(module, name, value, dtype) for name, value in values.items()]


def in_dtype(module: nn.Module, name: str, value: jax.Array, dtype: DTypeLike) -> jax.Array:
    """A parameter of a module in the dtype of its computation, as `models.prepare` has cast it where it has."""
    cast: jax.Array | None = module.get_variable("prepared", name)
    return cast if cast is not None and cast.dtype == dtype and cast.shape == value.shape else value.astype(dtype)


class GlobalResponseNorm(nn.Module):
    """GRN of ConvNeXt V2 behind a GELU: scale each channel by its share of the map's energy.

    Merged form (`use_bias` is False): no beta, and what it multiplies with is left to the linear layer behind.
    """

    use_bias: bool = True

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array | Scaled:
        """x: (n, h, w, c) -> (n, h, w, c) of x's dtype; norms in float32."""
        shape = (1, 1, 1, x.shape[-1])  # rank 4 on purpose: weight decay applies to tensors of rank above 1
        gamma = parameter(self, "gamma", nn.initializers.zeros, shape)
        if not self.use_bias:
            return gelu_response_factor(x, gamma)
        return gelu_response_norm(x, gamma, parameter(self, "beta", nn.initializers.zeros, shape))


class _Pointwise(nn.Module):
    """The parameters of a 1x1 convolution."""

    channels: int
    features: int
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self) -> list[jax.Array]:
        """-> [kernel (1, 1, channels, features), bias (features,)] of `dtype`."""
        return kernel_and_bias(self, (1, 1, self.channels, self.features), self.dtype)


class SqueezeExcite(nn.Module):
    """Channel attention through a quarter of the channels: paper section 3.1, `SEBlock` of the original."""

    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array | Biased, areas: jax.Array | None = None) -> jax.Array | Excited:
        """x: (n, h, w, c) -> (n, h, w, c), of which a linear layer is to make the rest where x is yet to get its bias.

        areas as of `ops.layers.squeeze_excite`, of a map alone.
        """
        c = (x.map if isinstance(x, Biased) else x).shape[-1]
        down = _Pointwise(c, c // 4, self.dtype, name="down")()
        up = _Pointwise(c // 4, c, self.dtype, name="up")()
        return excited(x, down, up) if isinstance(x, Biased) else layers.squeeze_excite(x, down, up, areas)


class DropPath(nn.Module):
    """Stochastic depth: drop whole examples of a residual branch with probability `rate`, scale the survivors."""

    rate: float = 0.0

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """x: (n, h, w, c) -> (n, h, w, c); draws from the "dropout" stream when training."""
        if not train or self.rate == 0.0:
            return x
        keep = jax.random.bernoulli(self.make_rng("dropout"), 1 - self.rate, (x.shape[0], 1, 1, 1))
        return jnp.where(keep, x / (1 - self.rate), 0).astype(x.dtype)


class StridedConv(nn.Module):
    """The 3x3 convolution of stride 2 of stem and downsamplers, with the padding of PyTorch."""

    features: int
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """x: (n, h, w, c) -> (n, h/2, w/2, features) of `dtype`, sizes rounded up."""
        kernel, bias = kernel_and_bias(self, (3, 3, x.shape[-1], self.features), self.dtype)
        turned: jax.Array | None = self.get_variable("prepared", "OHWI")
        if turned is not None and turned.dtype == self.dtype:
            return layers.strided_conv(x.astype(self.dtype), turned, bias, "OHWI")
        return layers.strided_conv(x.astype(self.dtype), kernel, bias)
