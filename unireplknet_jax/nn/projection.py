"""Sets of points as pictures: learned features of points, projected into several views, which a trunk classifies.

Paper: section 3.3 of the journal version; original: Point/models (`p2p_adaptor_lk.py`, `layers/encoder.py`,
`layers/fusion.py`, `layers/head.py`), after P2P (arXiv 2208.02812). How the points are arranged in space (neighbours,
coordinates) is seen by the features alone, where they lie in the pictures by the projection alone.
"""

import math
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from unireplknet_jax.nn.layers import BatchNorm, Linear
from unireplknet_jax.ops.attention import blockwise_attention
from unireplknet_jax.ops.layers import gelu
from unireplknet_jax.ops.nearest import nearest_points
from unireplknet_jax.ops.projection import pixels_of, splat, view_points

# Euler angles, in quarters of pi, of the original's table of views; each has the translation (0, 0, -1.4).
VIEW_ANGLES = (
    *((0, 0, 2), (2, 0, 2), (4, 0, 2), (6, 0, 2), (5, -1, 2), (5, 1, 2), (7, -1, 2), (7, 1, 2), (0, -2, 2), (0, 2, 2)),
)
DISTINCT, ORIGINAL = (0, 1, 8), (0, 1, 2, 3)  # three planes; the original's four are two, each with its mirror image
PATCH, TOKEN_DIM, HEADS, HEAD_DIM, MLP_DIM = 7, 128, 8, 128, 256
NORM_EPS = 1e-5  # PyTorch's default, where the trunk's own norms have 1e-6
GROUPS = 4

# What PyTorch gives convolutions and linear layers that nobody initializes.
torch_default = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")


def view_table(rows: Sequence[int] = DISTINCT) -> jax.Array:
    """(10, 2, 3) float32: Euler angles in radians and translation of every view, those of `rows` first."""
    order = [*rows, *(row for row in range(len(VIEW_ANGLES)) if row not in rows)]
    angles = jnp.asarray([[math.pi / 4 * quarters for quarters in VIEW_ANGLES[row]] for row in order], jnp.float32)
    return jnp.stack([angles, jnp.broadcast_to(jnp.asarray([0, 0, -1.4], jnp.float32), angles.shape)], axis=1)


class PointFeatures(nn.Module):
    """Features of points from the edges to their nearest neighbours, the strongest of each kind.

    trans_dim, graph_dim: channels before and after; neighbours: of each point, itself included.
    """

    trans_dim: int
    graph_dim: int
    neighbours: int
    dtype: DTypeLike = jnp.float32

    def setup(self) -> None:
        def conv(features: int, rank: int, use_bias: bool = True) -> nn.Conv:
            return nn.Conv(features, (1,) * rank, use_bias=use_bias, dtype=self.dtype, kernel_init=torch_default)

        self.input_trans, self.proj_layer = conv(self.trans_dim, 1), conv(self.graph_dim, 1)
        self.graph_conv = conv(self.graph_dim, 2, use_bias=False)
        self.graph_norm = nn.GroupNorm(GROUPS, epsilon=NORM_EPS, use_fast_variance=False, dtype=jnp.float32)

    def __call__(self, points: jax.Array) -> jax.Array:
        """points: (n, N, 3) -> (n, N, graph_dim) in float32."""
        neighbours = nearest_points(points, self.neighbours)
        y = self.input_trans(points)
        around = jax.vmap(lambda own, index: own[index])(y, neighbours)
        own = jnp.broadcast_to(y[:, :, None], around.shape)
        y = self.graph_conv(jnp.concatenate([around - own, own], axis=-1))
        y = nn.leaky_relu(self.graph_norm(y), 0.2).astype(self.dtype)
        return self.proj_layer(jnp.max(y, axis=2)).astype(jnp.float32)


class ImageBlock(nn.Module):
    """ResNet's basic block and a 1x1 convolution: (n, h, w, c) -> (n, h, w, c)."""

    bn_group: int | None = None
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        c = x.shape[-1]

        def conv(x: jax.Array, name: str, size: int = 3, use_bias: bool = False) -> jax.Array:
            options: dict[str, Any] = dict(
                padding="SAME", use_bias=use_bias, dtype=self.dtype, kernel_init=torch_default
            )
            return nn.Conv(c, (size, size), **options, name=name)(x)

        x = x.astype(self.dtype)
        y = nn.relu(BatchNorm(self.bn_group, name="bn1")(conv(x, "conv1"), train))
        y = BatchNorm(self.bn_group, name="bn2")(conv(y, "conv2"), train)
        return conv(nn.relu(x + y), "pointwise", size=1, use_bias=True)


class ViewFusion(nn.Module):
    """Attention among the patches of all views of an object, added to the pictures by convolutions.

    Original: `MultiViewFusionV2`, one layer of pre-norm transformer without any code of position or view.
    """

    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """x: (n, v, h, w, c), h and w multiples of 7 -> (n, v, h, w, c)."""
        n, v, h, w, c = x.shape

        def dense(features: int, name: str, use_bias: bool = True) -> nn.Dense:
            return nn.Dense(features, use_bias=use_bias, dtype=self.dtype, kernel_init=torch_default, name=name)

        def conv(features: int, size: int, name: str, **options: Any) -> nn.Conv:
            options |= {"dtype": self.dtype, "kernel_init": torch_default}
            return nn.Conv(features, (size, size), **options, name=name)

        def norm(x: jax.Array, name: str) -> jax.Array:
            y = nn.LayerNorm(epsilon=NORM_EPS, use_fast_variance=False, dtype=jnp.float32, name=name)(x)
            return y.astype(self.dtype)

        pictures = x.reshape(n * v, h, w, c)
        patches = conv(TOKEN_DIM, PATCH, "conv1", strides=PATCH, padding="VALID", use_bias=False)(pictures)
        tokens = patches.reshape(n, -1, TOKEN_DIM)
        heads = (n, tokens.shape[1], HEADS, HEAD_DIM)
        qkv = dense(3 * HEADS * HEAD_DIM, "to_qkv", use_bias=False)(norm(tokens, "attention_norm"))
        query, key, value = (part.reshape(heads) for part in jnp.split(qkv, 3, axis=-1))
        attended = blockwise_attention(query, key, value)
        tokens = tokens + dense(TOKEN_DIM, "to_out")(attended.reshape(*heads[:2], -1))
        hidden = gelu(dense(MLP_DIM, "mlp_in")(norm(tokens, "mlp_norm")))
        tokens = tokens + dense(TOKEN_DIM, "mlp_out")(hidden)
        # A 3x3 convolution of patches enlarged to 7x7 gives nine different values in each: of 3x3 it gives the same.
        y = jnp.repeat(jnp.repeat(tokens.reshape(patches.shape), 3, axis=1), 3, axis=2)
        y = gelu(conv(c, 3, "conv2", padding="SAME")(y))
        y = _inside_widened(_inside_widened(y, axis=1), axis=2)
        y = gelu(conv(c, 1, "conv3")(jnp.concatenate([y, pictures.astype(self.dtype)], axis=-1)))
        return y.reshape(x.shape)


def _inside_widened(x: jax.Array, axis: int) -> jax.Array:
    """Every three entries along an axis as the seven of a patch: the first, five times the second, the third."""
    shape = x.shape
    first, inside, last = jnp.split(x.reshape(*shape[:axis], -1, 3, *shape[axis + 1 :]), 3, axis=axis + 1)
    wide = jnp.concatenate([first, jnp.repeat(inside, PATCH - 2, axis=axis + 1), last], axis=axis + 1)
    return wide.reshape(*shape[:axis], -1, *shape[axis + 1 :])


class RenderingEncoder(nn.Module):
    """Coloured pictures of sets of points, normalized as a trunk for pictures expects them.

    object_size, image_size: pixels of the projection and of the picture in whose middle it lies. mean, std: of the
    colours, which lie in 0..1. remat: activations of the pictures are computed again for the gradient.
    """

    trans_dim: int = 8
    graph_dim: int = 64
    neighbours: int = 32
    object_size: int = 224
    image_size: int = 224
    fusion: bool = True
    mean: tuple[float, ...] = (0.0, 0.0, 0.0)
    std: tuple[float, ...] = (1.0, 1.0, 1.0)
    bn_group: int | None = None
    remat: bool = False
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, coordinates: jax.Array, positions: jax.Array, train: bool = False) -> jax.Array:
        """coordinates: (n, N, 3) of the features; positions: (n, v, N, 3) in the views -> (n, v, size, size, 3)."""
        block = nn.remat(ImageBlock, static_argnums=(2,)) if self.remat else ImageBlock
        fuse = nn.remat(ViewFusion) if self.remat else ViewFusion
        n, v = positions.shape[:2]
        features = PointFeatures(self.trans_dim, self.graph_dim, self.neighbours, self.dtype, name="points")(
            coordinates
        )
        pictures = splat(features, pixels_of(positions, self.object_size), self.object_size)
        before = (self.image_size - self.object_size) // 2
        margin = (before, self.image_size - self.object_size - before)
        pictures = jnp.pad(pictures, ((0, 0), (0, 0), margin, margin, (0, 0)))
        flat = pictures.reshape(n * v, *pictures.shape[2:])
        pictures = block(self.bn_group, self.dtype, name="img_block")(flat, train).reshape(pictures.shape)
        if self.fusion:
            pictures = fuse(self.dtype, name="fusion")(pictures)
        colours = nn.Conv(3, (1, 1), dtype=self.dtype, kernel_init=torch_default, name="img_layer")(pictures)
        colours = nn.sigmoid(colours.astype(jnp.float32))
        return (colours - jnp.asarray(self.mean)) / jnp.asarray(self.std)


class ProjectionClassifier(nn.Module):
    """Views of a set of points, rendered, through one trunk; their averaged maps side by side, LayerNorm, Linear.

    backbone: a trunk without classifier and output norms. views: rows of the table of views to begin with; the table
    lies, never trained, in the batch statistics, as in the original's files, and its first `len(views)` rows are used.
    bn_group: sets of points, each of `len(views)` pictures, that share batch statistics; None: all.
    """

    backbone: nn.Module
    encoder: nn.Module
    num_classes: int
    views: tuple[int, ...] = DISTINCT
    head_init_scale: float = 1.0
    bn_group: int | None = None

    def __call__(self, coordinates: jax.Array, positions: jax.Array, train: bool = False) -> jax.Array:
        """coordinates, of the features, and positions, of the projection: (n, N, 3) -> logits (n, num_classes)."""
        return self._forward(coordinates, positions, train)[0]

    def render(self, coordinates: jax.Array, positions: jax.Array, train: bool = False) -> jax.Array:
        """The pictures (n, v, h, w, 3) that the trunk sees, normalized."""
        return self._forward(coordinates, positions, train)[1]

    @nn.compact
    def _forward(self, coordinates: jax.Array, positions: jax.Array, train: bool) -> tuple[jax.Array, jax.Array]:
        table = self.variable("batch_stats", "views", view_table, self.views)
        pictures = self.encoder(coordinates, view_points(positions, table.value[: len(self.views)]), train)
        n, v = pictures.shape[:2]
        maps = self.backbone(pictures.reshape(n * v, *pictures.shape[2:]), train)
        y = jnp.mean(maps, axis=(1, 2), dtype=jnp.float32).reshape(n, -1)
        y = nn.LayerNorm(epsilon=NORM_EPS, use_fast_variance=False, dtype=jnp.float32, name="head_norm")(y)
        return Linear(self.num_classes, init_scale=self.head_init_scale, name="head")(y), pictures

    @property
    def in_chans(self) -> int:
        return self.backbone.in_chans
