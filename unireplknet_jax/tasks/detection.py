"""Object detection and instance segmentation: boxes around things in a picture, by a Cascade Mask R-CNN.

Paper: section 4.3 (COCO). Original: detection/ of UniRepLKNet on mmdetection 2.28.
"""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from unireplknet_jax.nn.cascade import CascadeRCNN
from unireplknet_jax.nn.feature_pyramid import FRAME
from unireplknet_jax.tasks.base import Batch, Spec
from unireplknet_jax.tasks.labelled import Labelled

_HEADS = (
    *("num_classes", "channels", "box_channels", "box_features", "mask_channels", "masks", "bn_group"),
    *("anchor_scale", "finest", "train_proposals", "test_proposals", "min_score", "max_detections"),
)


@dataclasses.dataclass(frozen=True)
class Detection(Labelled):
    """Find the things of some classes in a picture, and with masks their pixels.

    model: keyword arguments of the trunk, "name" a published size whose fields the others override, and those of
        `nn.cascade.CascadeRCNN`; "num_classes", 0 waits for `fitted_to`.
    """

    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (58.395 / 255, 57.12 / 255, 57.375 / 255)

    name: ClassVar[str] = "detection"
    hub_task: ClassVar[str] = "object-detection"
    preparation: ClassVar[tuple[str, ...]] = ("mean", "std")

    def module(self, deploy: bool = False) -> CascadeRCNN:
        self.require_classes()
        heads = {name: value for name, value in dict(self.model).items() if name in _HEADS}
        trunk = self.trunk(_HEADS, num_classes=None, output_norms=True, deploy=deploy)
        return CascadeRCNN(trunk, **heads)

    @property
    def torch_meta(self) -> dict[str, Any]:
        return {"CLASSES": self.labels} if self.labels else {}

    def specs(self, train: bool) -> tuple[Spec, ...]:
        return (Spec({"image": jax.ShapeDtypeStruct((FRAME, FRAME, 3), jnp.uint8)}, {}),)

    def inputs(self, batch: Batch) -> tuple[jax.Array, ...]:
        mean, std = jnp.asarray(self.mean, jnp.float32), jnp.asarray(self.std, jnp.float32)
        return ((batch["image"].astype(jnp.float32) / 255 - mean) / std,)
