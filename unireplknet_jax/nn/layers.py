"""The small layers of UniRepLKNet, with the constants of the original (`unireplknet.py`)."""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp

BATCH_NORM_EPS = 1e-5
LAYER_NORM_EPS = 1e-6
GRN_EPS = 1e-6

# timm's trunc_normal_(std=0.02) cuts at the absolute values -2 and 2, a hundred deviations away: a plain normal.
kernel_init = nn.initializers.normal(stddev=0.02)


class BatchNorm(nn.Module):
    """Batch normalization over (n, h, w) with PyTorch's conventions and a choice of who shares statistics.

    In training every `group` consecutive examples share their statistics, whatever device they are on; None: the whole
    (global) batch. The running variance is stored unbiased, as PyTorch does and `flax.linen.BatchNorm` does not;
    running statistics take the mean over groups. `frozen`: training uses the running statistics and leaves them alone.
    """

    group: int | None = None
    frozen: bool = False
    momentum: float = 0.9

    @nn.compact
    def __call__(self, x, train=False):
        """x: (n, h, w, c) -> (n, h, w, c) of x's dtype; ValueError if n is not a multiple of `group`."""
        n, h, w, c = x.shape
        scale = self.param("scale", nn.initializers.ones, (c,), jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, (c,), jnp.float32)
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, (c,), jnp.float32)
        running_var = self.variable("batch_stats", "var", jnp.ones, (c,), jnp.float32)
        if not train or self.frozen:
            return _normalize(x, running_mean.value, running_var.value, scale, bias)

        group = self.group or n
        if n % group:
            raise ValueError(f"a batch of {n} cannot be split into groups of bn_group={group} that share statistics.")
        y = x.astype(jnp.float32).reshape(n // group, group, h, w, c)
        mean = jnp.mean(y, axis=(1, 2, 3), keepdims=True)
        var = jnp.mean(jnp.square(y - mean), axis=(1, 2, 3), keepdims=True)
        if not self.is_initializing():
            count = group * h * w
            unbiased = jnp.mean(var, axis=(0, 1, 2, 3)) * (count / max(count - 1, 1))
            running_mean.value = self._blend(running_mean.value, jnp.mean(mean, axis=(0, 1, 2, 3)))
            running_var.value = self._blend(running_var.value, unbiased)
        return _normalize(y, mean, var, scale, bias).reshape(x.shape).astype(x.dtype)

    def _blend(self, running, batch):
        return (self.momentum * running + (1 - self.momentum) * batch).astype(running.dtype)


def _normalize(x, mean, var, scale, bias):
    mean, var, scale, bias, y = (jnp.asarray(a, jnp.float32) for a in (mean, var, scale, bias, x))
    return ((y - mean) * (jax.lax.rsqrt(var + BATCH_NORM_EPS) * scale) + bias).astype(x.dtype)


def layer_norm(name):
    """LayerNorm over the channels of (..., c), in float32 as every norm here."""
    return nn.LayerNorm(epsilon=LAYER_NORM_EPS, use_fast_variance=False, dtype=jnp.float32, name=name)


class GlobalResponseNorm(nn.Module):
    """GRN of ConvNeXt V2: scale each channel by its share of the map's energy. Merged form: no beta (`use_bias`)."""

    use_bias: bool = True

    @nn.compact
    def __call__(self, x):
        """x: (n, h, w, c) -> (n, h, w, c) of x's dtype; norms in float32."""
        shape = (1, 1, 1, x.shape[-1])  # rank 4 on purpose: weight decay applies to tensors of rank above 1
        gamma = self.param("gamma", nn.initializers.zeros, shape, jnp.float32)
        y = x.astype(jnp.float32)
        energy = jnp.sum(jnp.square(y), axis=(1, 2), keepdims=True)
        positive = energy > 0  # PyTorch's norm has gradient 0 at 0, where sqrt's is infinite
        norm = jnp.where(positive, jnp.sqrt(jnp.where(positive, energy, 1.0)), 0.0)
        y = (gamma * norm / (jnp.mean(norm, axis=-1, keepdims=True) + GRN_EPS) + 1) * y
        if self.use_bias:
            y = y + self.param("beta", nn.initializers.zeros, shape, jnp.float32)
        return y.astype(x.dtype)


class SqueezeExcite(nn.Module):
    """Channel attention through a quarter of the channels: paper section 3.1, `SEBlock` of the original."""

    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x):
        """x: (n, h, w, c) -> (n, h, w, c)."""
        c = x.shape[-1]
        y = jnp.mean(x, axis=(1, 2), keepdims=True, dtype=jnp.float32)
        y = nn.Conv(c // 4, (1, 1), dtype=self.dtype, kernel_init=kernel_init, name="down")(y)
        y = nn.Conv(c, (1, 1), dtype=self.dtype, kernel_init=kernel_init, name="up")(nn.relu(y))
        return x * nn.sigmoid(y.astype(jnp.float32)).astype(x.dtype)


class DropPath(nn.Module):
    """Stochastic depth: drop whole examples of a residual branch with probability `rate`, scale the survivors."""

    rate: float = 0.0

    @nn.compact
    def __call__(self, x, train=False):
        """x: (n, h, w, c) -> (n, h, w, c); draws from the "dropout" stream when training."""
        if not train or self.rate == 0.0:
            return x
        keep = jax.random.bernoulli(self.make_rng("dropout"), 1 - self.rate, (x.shape[0], 1, 1, 1))
        return jnp.where(keep, x / (1 - self.rate), 0).astype(x.dtype)


def gelu(x):
    """GELU in its exact form, in float32: `jax.nn.gelu` is the tanh approximation, or one by erfc.

    erfc is no operation of XLA's: its hundred instructions become some 25 kernels on a GPU, erf a part of one.
    """
    y = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    return (0.5 * y * (1 + jax.lax.erf(y * math.sqrt(0.5)))).astype(x.dtype)


def strided_conv(features, dtype, name):
    """The 3x3 stride-2 convolution of stem and downsamplers. "SAME" would pad (0, 1) on even sizes; PyTorch pads 1."""
    return nn.Conv(
        features, (3, 3), strides=2, padding=((1, 1), (1, 1)), dtype=dtype, kernel_init=kernel_init, name=name
    )
