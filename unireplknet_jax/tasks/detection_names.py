"""The original's names of a Cascade Mask R-CNN: those of mmdetection 2.28, whose files hold them below "state_dict"."""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from unireplknet_jax.data.label_names import read_labels
from unireplknet_jax.models import torch_names
from unireplknet_jax.nn.cascade import STAGES
from unireplknet_jax.nn.region_heads import CONVS
from unireplknet_jax.tasks.names import Names

_TORCH_MODULES = {
    "backbone": "backbone",
    **{f"neck/{name}_convs_{i}": f"neck.{name}_convs.{i}.conv" for name in ("lateral", "fpn") for i in range(4)},
    **{f"{kind}_head_{s}": f"roi_head.{kind}_head.{s}" for kind in ("bbox", "mask") for s in range(STAGES)},
    **{
        f"bbox_head_{s}/{layer}_{i}": f"roi_head.bbox_head.{s}.{layer}.{i}"
        for s in range(STAGES)
        for layer, count in (("shared_convs", CONVS), ("shared_fcs", 1))
        for i in range(count)
    },
    **{
        f"mask_head_{s}/convs_{i}": f"roi_head.mask_head.{s}.convs.{i}.conv"
        for s in range(STAGES)
        for i in range(CONVS)
    },
}
_PUBLISHED = re.compile(r"casc_mask_rcnn_unireplknet_\w+_3x_coco")  # how names of files begin
OWN = "unireplknet_jax"  # the entry of "meta" in our own files, a JSON of options that leave no trace in tensors
UNTOLD = (  # those of them that are the heads'
    *("anchor_scale", "finest", "train_proposals", "test_proposals", "anchor_counts", "region_counts"),
    *("min_score", "max_detections"),
)
_SIZES = {
    "num_classes": "roi_head.bbox_head.0.fc_cls.weight",
    "channels": "rpn_head.rpn_conv.weight",
    "box_channels": "roi_head.bbox_head.0.shared_convs.0.conv.weight",
    "box_features": "roi_head.bbox_head.0.shared_fcs.0.weight",
    "mask_channels": "roi_head.mask_head.0.convs.0.conv.weight",
}


class DetectionNames(Names):
    entry: ClassVar[str] = "state_dict"

    def matches(self, shapes: Mapping[str, Sequence[int]]) -> bool:
        return any(name.startswith("roi_head.bbox_head.") for name in shapes)

    def options(self, shapes: Mapping[str, Sequence[int]]) -> tuple[dict[str, Any], bool]:
        trunk, merged = torch_names.infer_trunk(shapes, "backbone.")
        heads = {name: (*shapes.get(tensor, ()), 1)[0] for name, tensor in _SIZES.items()}
        heads["num_classes"] = max(heads["num_classes"] - 1, 1)  # the last logit is the background's
        if not any(name.startswith("roi_head.mask_head.") for name in shapes):
            heads = {**heads, "masks": False}
            del heads["mask_channels"]
        labels = {"labels": read_labels("coco")} if heads["num_classes"] == 80 else {}
        return {"model": {**trunk, **heads}, **labels}, merged

    def table(self, variables: Mapping[str, Any]) -> dict[str, torch_names.Entry]:
        return torch_names.name_table(variables, _TORCH_MODULES)

    def canonical(self, name: str) -> str | None:
        """None for a classifier's layers and for the weights beside their moving averages, "ema_..." in mmcv's files.

        The original swaps the two before it saves: what has a plain name is the moving average.
        """
        return None if name.startswith(("ema_", "backbone.head.", "backbone.norm.")) else name

    def told_by(self, meta: Mapping[str, Any]) -> dict[str, Any]:
        """The names of the classes, which mmdetection calls CLASSES."""
        labels = meta.get("CLASSES")
        if not (isinstance(labels, list | tuple) and labels and all(isinstance(name, str) for name in labels)):
            return {}
        return {"labels": tuple(labels)}

    def prepared_for(self, file: str, meta: Mapping[str, Any]) -> dict[str, Any]:
        """What our own files say, heads among it, and the scale of the published ones, told by their names."""
        if not isinstance(meta.get(OWN), str):
            return {"scale": (1333, 800)} if _PUBLISHED.match(file) else {}
        found = json.loads(meta[OWN])
        return found | {"model": {name: found["model"][name] for name in UNTOLD if name in found["model"]}}


NAMES = DetectionNames()
