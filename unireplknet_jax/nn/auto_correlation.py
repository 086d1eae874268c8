"""Attention by correlation over lags, in a row and between the nodes of a tree.

Paper: Corrformer, "Interpretable weather forecasting for worldwide stations with a unified deep model" (2023), as in
Time-Series/layers of the original. There lags come from a Fourier transform; here from the diagonals of a matrix
product, the same sums, which every partitioner can split by rows.
"""

import math
from collections.abc import Callable
from typing import cast

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from unireplknet_jax.nn.causal_conv import CausalConvs, bias_uniform, fan_in_uniform

_EXACT = jax.lax.Precision.HIGHEST  # lags are chosen by comparing these sums


def circular_correlation(q: jax.Array, k: jax.Array) -> jax.Array:
    """(..., l, e), (..., l, e) -> (..., l): for each lag, sum over t of q[(t + lag) % l] . k[t], averaged over e."""
    length = q.shape[-2]
    gram = jnp.einsum("...se,...te->...st", q, k, precision=_EXACT) / q.shape[-1]
    t = np.arange(length)
    return jnp.sum(gram[..., (t[None, :] + t[:, None]) % length, t[None, :]], axis=-1)


def mix_shifts(weights: jax.Array, v: jax.Array) -> jax.Array:
    """(..., l), (..., l, e) -> (..., l, e): sum over lags of weights[lag] * v[(t + lag) % l]."""
    t = np.arange(v.shape[-2])
    circulant = weights[..., (t[None, :] - t[:, None]) % len(t)]
    return jnp.einsum("...ts,...se->...te", circulant, v, precision=_EXACT)


def _dense(features: int, name: str) -> Callable[[jax.Array], jax.Array]:
    def apply(x: jax.Array) -> jax.Array:
        bias = bias_uniform(x.shape[-1])
        return nn.Dense(features, kernel_init=fan_in_uniform, bias_init=bias, name=name)(x)

    return apply


def _heads(x: jax.Array, heads: int) -> jax.Array:
    """(..., l, d) -> (..., heads, l, d / heads)."""
    return jnp.swapaxes(x.reshape(*x.shape[:-1], heads, -1), -2, -3)


def _merged_heads(x: jax.Array) -> jax.Array:
    """(..., heads, l, e) -> (..., l, heads * e)."""
    x = jnp.swapaxes(x, -2, -3)
    return x.reshape(*x.shape[:-2], -1)


def _of_length(x: jax.Array, length: int) -> jax.Array:
    """(..., s, d) -> (..., length, d): the end is cut off or filled with zeros."""
    missing = max(length - x.shape[-2], 0)
    return jnp.pad(x[..., :length, :], [(0, 0)] * (x.ndim - 2) + [(0, missing), (0, 0)])


class _Projected(nn.Module):
    """Queries, keys and values in heads -> `_correlate` -> one linear layer."""

    heads: int
    factor: int = 1
    lag_sign: int = 1
    layers: int = 1

    @nn.compact
    def __call__(self, queries: jax.Array, keys: jax.Array, values: jax.Array, train: bool = False) -> jax.Array:
        """queries: (..., l, d), keys, values: (..., s, d) -> (..., l, d); keys and values are brought to length l."""
        length, width = queries.shape[-2:]
        q = _heads(_dense(width, "query_projection")(queries), self.heads)
        k = _heads(_of_length(_dense(width, "key_projection")(keys), length), self.heads)
        v = _heads(_of_length(_dense(width, "value_projection")(values), length), self.heads)
        return _dense(width, "out_projection")(_merged_heads(self._correlate(q, k, v, train)))


class AutoCorrelation(_Projected):
    """The values of a row, shifted by its few best lags and mixed by their softmax (`factor` * log l lags).

    lag_sign: 1 moves values as the original does, against its own definition of a lag (a delay of 3 finds lag 3 and
    moves the values another 3 steps ahead); -1 moves them back to where the queries are.
    """

    def _correlate(self, q: jax.Array, k: jax.Array, v: jax.Array, train: bool) -> jax.Array:
        del train
        length = v.shape[-2]
        count = min(max(int(self.factor * math.log(length)), 1), length)
        values, lags = jax.lax.top_k(circular_correlation(q, k), count)
        shifts = jax.nn.one_hot((self.lag_sign * lags) % length, length)
        return mix_shifts(jnp.einsum("...k,...kl->...l", jax.nn.softmax(values), shifts, precision=_EXACT), v)


class CrossCorrelation(_Projected):
    """What sibling nodes know of each other: aligned to their mean, ordered by delay, causal convolution over nodes.

    Inputs: (g, n, l, d), n siblings in each of g groups. factor: how many lags are followed and averaged. layers: of
    the causal convolution, whose width is l * d / heads, so the weights belong to one l. Equal delays keep the order of
    the nodes (a stable sort, where the original's may differ from run to run).
    """

    def _correlate(self, q: jax.Array, k: jax.Array, v: jax.Array, train: bool) -> jax.Array:
        groups, nodes, heads, length, width = v.shape
        convs = CausalConvs((width * length,) * self.layers, name="causal_fusion")
        pivot = jnp.broadcast_to(jnp.mean(q, axis=1, keepdims=True), q.shape)
        values, lags = jax.lax.top_k(circular_correlation(pivot, k), self.factor)
        found = []
        for i in range(self.factor):
            lag, value = lags[..., i], values[..., i]
            aligned = mix_shifts(jax.nn.one_hot(-lag % length, length), v) * nn.sigmoid(value)[..., None, None]
            order = jnp.argsort(length - lag, axis=1, stable=True)[..., None]
            rows = jnp.swapaxes(aligned, -1, -2).reshape(groups, nodes, heads, -1)
            rows = jnp.swapaxes(jnp.take_along_axis(rows, order, axis=1), 1, 2)
            rows = convs(rows.reshape(groups * heads, nodes, -1), train).reshape(groups, heads, nodes, -1)
            rows = jnp.take_along_axis(jnp.swapaxes(rows, 1, 2), jnp.argsort(order, axis=1), axis=1)
            fused = jnp.swapaxes(rows.reshape(groups, nodes, heads, width, length), -1, -2)
            found.append(mix_shifts(jax.nn.one_hot(lag, length), fused))
        return cast(jax.Array, sum(found)) / self.factor


class MultiCorrelation(nn.Module):
    """Auto-correlation in every leaf, plus the mean over the levels of the tree of cross-correlation among siblings.

    tree: children of the root, of each of these, and so on; its product is the number of leaves. All levels share one
    cross-correlation, for which a node is the mean of the leaves below it.
    """

    tree: tuple[int, ...]
    heads: int
    factor_temporal: int = 1
    factor_spatial: int = 1
    layers: int = 1
    dropout: float = 0.0
    lag_sign: int = 1

    @nn.compact
    def __call__(self, x: jax.Array, cross: jax.Array, train: bool = False) -> jax.Array:
        """x: (b * leaves, l, d), cross: (b * leaves, s, d) -> (b * leaves, l, d); row = example * leaves + leaf."""

        def drop(y: jax.Array) -> jax.Array:
            return nn.Dropout(self.dropout, deterministic=not train)(y)

        own = AutoCorrelation(self.heads, self.factor_temporal, self.lag_sign, name="auto_correlation")
        between = CrossCorrelation(self.heads, self.factor_spatial, layers=self.layers, name="cross_correlation")
        leaf = drop(own(x, cross, cross, train))
        levels = []
        for depth, siblings in enumerate(self.tree):
            leaves_below = math.prod(self.tree[depth + 1 :])
            x_nodes, cross_nodes = (
                jnp.mean(y.reshape(-1, siblings, leaves_below, *y.shape[1:]), axis=2) for y in (x, cross)
            )
            level = between(x_nodes, cross_nodes, cross_nodes, train)
            levels.append(jnp.repeat(level.reshape(-1, *x.shape[1:]), leaves_below, axis=0))
        return drop(leaf) + drop(cast(jax.Array, sum(levels)) / len(levels))
