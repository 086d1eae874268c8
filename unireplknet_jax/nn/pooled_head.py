"""A trunk whose last map is averaged, normalized and classified."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from unireplknet_jax.nn.layers import Linear

HEAD_NORM_EPS = 1e-5  # PyTorch's default, where the trunk's own norms have 1e-6


class PooledClassifier(nn.Module):
    """Mean over the positions of the trunk's last map, LayerNorm, Linear, in float32.

    backbone: a trunk without classifier and output norms, (n, h, w, c) -> (n, h / 32, w / 32, c'); the merged form is
    that of the backbone, `model.clone(backbone=model.backbone.clone(deploy=True))`. Original:
    Audio/src/models/ast_models.py (`mlp_head`).
    """

    backbone: nn.Module
    num_classes: int
    head_init_scale: float = 1.0

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """x: (n, h, w, in_chans) -> logits (n, num_classes) in float32."""
        y = jnp.mean(self.backbone(x, train), axis=(1, 2), dtype=jnp.float32)
        y = nn.LayerNorm(epsilon=HEAD_NORM_EPS, use_fast_variance=False, dtype=jnp.float32, name="head_norm")(y)
        return Linear(self.num_classes, init_scale=self.head_init_scale, name="head")(y)

    @property
    def in_chans(self) -> int:
        return self.backbone.in_chans
