"""Corrformer: a tree of nodes, each with a few series; a ConvNet reads their history, a decoder writes their future.

Original: Time-Series/models/Corrformer.py, in which UniRepLKNet takes the place of Corrformer's own encoder.
"""

import math
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from unireplknet_jax.nn.auto_correlation import MultiCorrelation
from unireplknet_jax.nn.causal_conv import bias_uniform, fan_in_uniform
from unireplknet_jax.ops.layers import gelu

_COUNTS = ("width", "heads", "hidden", "layers", "causal_layers", "moving_average", "factor_temporal", "factor_spatial")
READOUTS = ("tokens", "pool", "tokens_nchw")
NORMALIZATIONS = ("window", "none")
_INPUT_EPS, _AFFINE_EPS, _NORM_EPS = 1e-5, 1e-10, 1e-5
_value_init = nn.initializers.variance_scaling(2.0, "fan_in", "normal")


def decompose(x: jax.Array, window: int) -> tuple[jax.Array, jax.Array]:
    """x: (r, t, c) -> (what is left, moving average over `window` steps), the ends repeated; window is odd."""
    edge = (window - 1) // 2
    padded = jnp.pad(x, ((0, 0), (edge, edge), (0, 0)), mode="edge")
    trend = nn.avg_pool(padded, (window,), (1,))
    return x - trend, trend


def normalized(
    x: jax.Array, scale: jax.Array, bias: jax.Array, normalization: str, residual: bool
) -> tuple[jax.Array, Callable[[jax.Array], jax.Array]]:
    """x: (n, t, c) -> (x of mean 0 and deviation 1 over each window, then times `scale` plus `bias`, (1, 1, c); the
    function that undoes both, (n, any, c) -> the same shape).

    Of departures (residual) the mean stays, and the root mean square is 1. normalization "none": the affine map alone.
    """
    mean, std = jnp.zeros_like(x[:, :1]), jnp.ones_like(x[:, :1])
    if normalization == "window" and not residual:
        mean = jax.lax.stop_gradient(jnp.mean(x, axis=1, keepdims=True))
        std = jnp.sqrt(jnp.var(x - mean, axis=1, keepdims=True) + _INPUT_EPS)
    elif normalization == "window":
        std = jnp.sqrt(jnp.mean(jnp.square(x), axis=1, keepdims=True) + _INPUT_EPS)

    def restore(y: jax.Array) -> jax.Array:
        return (y - bias) / (scale + _AFFINE_EPS) * std + mean

    return (x - mean) / std * scale + bias, restore


class Embedding(nn.Module):
    """Values, time and place of a node, summed: a circular convolution and two linear layers."""

    width: int
    dropout: float

    @nn.compact
    def __call__(self, x: jax.Array, marks: jax.Array, places: jax.Array, train: bool = False) -> jax.Array:
        """x: (b * nodes, t, c), marks: (b, t, m), places: (nodes, 3 c) -> (b * nodes, t, width)."""
        nodes, (examples, length, _) = len(places), marks.shape
        values = _circular(self.width, _value_init, "value_embedding")(x)
        time = nn.Dense(self.width, use_bias=False, kernel_init=fan_in_uniform, name="temporal_embedding")(marks)
        place = _linear(self.width, places.shape[-1], "location_embedding")(places)
        values = values.reshape(examples, nodes, length, -1) + time[:, None] + place[:, None]
        return nn.Dropout(self.dropout, deterministic=not train)(values.reshape(examples * nodes, length, -1))


class DecoderLayer(nn.Module):
    """Correlation with itself, with the encoder's tokens, a feed-forward layer; each gives its trend away.

    from_zero: untrained, its share of the trend is zero.
    """

    channels: int
    hidden: int
    moving_average: int
    correlation: dict[str, Any]
    dropout: float
    from_zero: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, tokens: jax.Array, train: bool = False) -> tuple[jax.Array, jax.Array]:
        """x: (r, l, d), tokens: (r, s, d) -> (x, its share of the trend (r, l, channels))."""

        def drop(y: jax.Array) -> jax.Array:
            return nn.Dropout(self.dropout, deterministic=not train)(y)

        correlation = dict(self.correlation)
        x = x + MultiCorrelation(**correlation, name="multi_correlation")(x, x, train)
        x, first = decompose(x, self.moving_average)
        x = x + MultiCorrelation(**correlation, name="cross_multi_correlation")(x, tokens, train)
        x, second = decompose(x, self.moving_average)
        y = nn.Conv(self.hidden, (1,), use_bias=False, kernel_init=fan_in_uniform, name="conv1")(x)
        y = nn.Conv(x.shape[-1], (1,), use_bias=False, kernel_init=fan_in_uniform, name="conv2")(drop(gelu(y)))
        x, third = decompose(x + drop(y), self.moving_average)
        init = nn.initializers.zeros if self.from_zero else fan_in_uniform
        return x, _circular(self.channels, init, "projection")(first + second + third)


class Decoder(nn.Module):
    """Decoder layers that add up trends; what is left over is normalized, freed of its mean and projected.

    remat: recompute each layer in the backward pass instead of keeping its activations.
    """

    channels: int
    layers: int
    layer: dict[str, Any]
    remat: bool = False

    @nn.compact
    def __call__(
        self, x: jax.Array, tokens: jax.Array, trend: jax.Array, train: bool = False
    ) -> tuple[jax.Array, jax.Array]:
        """x: (r, l, d), tokens: (r, s, d), trend: (r, l, channels) -> (seasonal, trend), both as `trend`."""
        layer = nn.remat(DecoderLayer, static_argnums=(3,)) if self.remat else DecoderLayer
        for i in range(self.layers):
            x, more = layer(self.channels, **dict(self.layer), name=f"layers_{i}")(x, tokens, train)
            trend = trend + more
        x = centred_norm("norm")(x)
        if dict(self.layer).get("from_zero"):
            zeros = nn.initializers.zeros
            return nn.Dense(self.channels, kernel_init=zeros, bias_init=zeros, name="projection")(x), trend
        return _linear(self.channels, x.shape[-1], "projection")(x), trend


def centred_norm(name: str) -> Callable[[jax.Array], jax.Array]:
    """LayerNorm, less its mean over time: (r, l, d) -> (r, l, d)."""
    norm = nn.LayerNorm(epsilon=_NORM_EPS, use_fast_variance=False, dtype=jnp.float32, name=name)

    def apply(x: jax.Array) -> jax.Array:
        x = norm(x)
        return x - jnp.mean(x, axis=1, keepdims=True)

    return apply


class Corrformer(nn.Module):
    """Forecast all series of a tree of nodes from their history.

    backbone: a trunk without classifier and output norms, for one channel. tree: see `MultiCorrelation`; the series are
    its leaves' in order, equally many in each. label: the last steps of the history that the decoder starts from;
    horizon: the steps that it adds. width, heads, hidden, layers: of embedding and decoder. moving_average: steps, odd.
    readout: how the trunk's last map becomes the decoder's tokens: "tokens", its positions, "pool", their mean, or
    "tokens_nchw", a reshape of the map in PyTorch's order, which mixes positions and channels. The original's released
    code crashes at this place, so the paper's choice is not known. A map of another width than `width` goes through a
    linear layer, which the original does not have.
    normalization: "window", each series by the mean and the deviation of its own history, undone in the forecast, as in
        the original (instance normalization: RevIN, Kim et al., ICLR 2022; Non-stationary Transformers, arXiv
        2205.14415), or "none".
    residual: the history is departures from a start, and the forecast is the departure from it: the mean of the window
        stays in it and is added to nothing, and the untrained network says 0.
    The weights belong to one label + horizon; history and tree are free.
    """

    backbone: nn.Module
    tree: tuple[int, ...]
    label: int
    horizon: int
    width: int = 768
    heads: int = 16
    hidden: int = 2048
    layers: int = 1
    moving_average: int = 25
    factor_temporal: int = 1
    factor_spatial: int = 1
    causal_layers: int = 1
    dropout: float = 0.05
    readout: str = "tokens"
    lag_sign: int = 1
    normalization: str = "window"
    residual: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "tree", tuple(self.tree))
        if self.readout not in READOUTS:
            raise ValueError(f"readout is {self.readout!r}; expected one of {', '.join(READOUTS)}.")
        if self.normalization not in NORMALIZATIONS:
            raise ValueError(f"normalization is {self.normalization!r}; expected one of {', '.join(NORMALIZATIONS)}.")
        for name in _COUNTS:
            if not isinstance(getattr(self, name), int) or getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be a whole number, 1 or more.")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout={self.dropout} must be 0 or more and below 1.")
        if self.lag_sign not in (1, -1):
            raise ValueError(f"lag_sign={self.lag_sign} must be 1 or -1.")
        if self.factor_spatial > self.label + self.horizon:
            raise ValueError(f"factor_spatial={self.factor_spatial} exceeds the {self.label + self.horizon} lags.")
        if self.width % self.heads:
            raise ValueError(f"a width of {self.width} cannot be split into {self.heads} heads; choose a multiple.")
        if not self.moving_average % 2:
            raise ValueError(f"moving_average={self.moving_average} must be odd, or the average would be a step short.")
        if not self.tree or min(self.tree) < 1:
            raise ValueError(f"tree={self.tree} must list the children of every level, 1 or more.")

    @property
    def in_chans(self) -> int:
        return self.backbone.in_chans

    @nn.compact
    def __call__(
        self,
        history: jax.Array,
        history_marks: jax.Array,
        future_marks: jax.Array,
        places: jax.Array,
        train: bool = False,
    ) -> jax.Array:
        """history: (b, t, series); marks: features of time, (b, t, m) and (b, label + horizon, m) ->
        (b, horizon, series) on the scale of the history.

        places: (series, 3), z-scored latitude, longitude and elevation; zeros where they are not known.
        ValueError where the series do not fit the tree, or the history is shorter than `label`.
        """
        x = history.astype(jnp.float32)
        examples, steps, series = x.shape
        nodes = math.prod(self.tree)
        if series % nodes:
            raise ValueError(f"{series} series cannot be shared equally by the {nodes} leaves of the tree {self.tree}.")
        if not 0 <= self.label <= steps:
            raise ValueError(f"label={self.label} must be from 0 to the {steps} steps of the history.")
        channels = series // nodes
        scale = self.param("affine_scale", nn.initializers.ones, (1, 1, channels), jnp.float32)
        bias = self.param("affine_bias", nn.initializers.zeros, (1, 1, channels), jnp.float32)
        scale, bias = (jnp.tile(value, (1, 1, nodes)) for value in (scale, bias))
        x, restore = normalized(x, scale, bias, self.normalization, self.residual)
        mean = bias if self.residual else jnp.mean(x, axis=1, keepdims=True)
        mean = jnp.broadcast_to(mean, (examples, self.horizon, series))
        seasonal, trend = decompose(x, self.moving_average)
        first = steps - self.label
        seasonal = jnp.concatenate([seasonal[:, first:], jnp.zeros_like(mean)], axis=1)
        trend = jnp.concatenate([trend[:, first:], mean], axis=1)

        def by_node(y: jax.Array) -> jax.Array:
            """(b, t, series) -> (b * nodes, t, channels)."""
            y = jnp.swapaxes(y.reshape(examples, -1, nodes, channels), 1, 2)
            return y.reshape(examples * nodes, -1, channels)

        places = places.reshape(nodes, channels * places.shape[-1])
        embedded = Embedding(self.width, self.dropout, name="enc_embedding")(by_node(x), history_marks, places, train)
        tokens = self._tokens(embedded, train)
        y = Embedding(self.width, self.dropout, name="dec_embedding")(by_node(seasonal), future_marks, places, train)
        seasonal, trend = self._decoder(channels)(y, tokens, by_node(trend), train)
        y = (seasonal + trend)[:, self.label :].reshape(examples, nodes, self.horizon, channels)
        y = jnp.swapaxes(y, 1, 2).reshape(examples, self.horizon, series)
        return restore(y)

    def _tokens(self, embedded: jax.Array, train: bool) -> jax.Array:
        """(r, t, width) -> (r, s, width): the embedding as a picture through the trunk."""
        rows, steps, width = embedded.shape
        picture = embedded.reshape(rows, *picture_size(steps * width), 1)
        y = self.backbone(picture, train).astype(jnp.float32)
        if self.readout == "pool":
            y = jnp.mean(y, axis=(1, 2), keepdims=True)
        elif self.readout == "tokens_nchw":
            if y[0].size % width:
                raise ValueError(f"a map of {y.shape[1:]} does not give tokens {width} wide; choose another readout.")
            return jnp.transpose(y, (0, 3, 1, 2)).reshape(rows, -1, width)
        y = y.reshape(rows, -1, y.shape[-1])
        return y if y.shape[-1] == width else _linear(width, y.shape[-1], "token_projection")(y)

    def _decoder(self, channels: int) -> Decoder:
        correlation = {
            "tree": self.tree,
            "heads": self.heads,
            "factor_temporal": self.factor_temporal,
            "factor_spatial": self.factor_spatial,
            "layers": self.causal_layers,
            "dropout": self.dropout,
            "lag_sign": self.lag_sign,
        }
        layer = {
            "hidden": self.hidden,
            "moving_average": self.moving_average,
            "correlation": correlation,
            "dropout": self.dropout,
            "from_zero": self.residual,
        }
        return Decoder(channels, self.layers, layer, getattr(self.backbone, "remat", False), name="decoder")


def picture_size(count: int) -> tuple[int, int]:
    """The (h, w) nearest to a square with h * w = count and h <= w."""
    height = next(h for h in range(math.isqrt(count), 0, -1) if count % h == 0)
    return height, count // height


def _circular(features: int, init: nn.initializers.Initializer, name: str) -> nn.Conv:
    return nn.Conv(features, (3,), padding="CIRCULAR", use_bias=False, kernel_init=init, name=name)


def _linear(features: int, fan_in: int, name: str) -> nn.Dense:
    return nn.Dense(features, kernel_init=fan_in_uniform, bias_init=bias_uniform(fan_in), name=name)
