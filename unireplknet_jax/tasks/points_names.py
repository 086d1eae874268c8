"""The original's names of a classifier of shapes."""

from collections.abc import Mapping, Sequence
from typing import Any

from unireplknet_jax.data.label_names import read_labels
from unireplknet_jax.models import torch_names
from unireplknet_jax.tasks.names import Names

_TORCH_MODULES = {
    "backbone": "base_model",
    "head_norm": "cls_head.norm",
    "head": "cls_head.cls_head",
    "encoder/points/input_trans": "enc.input_trans",
    "encoder/points/graph_conv": "enc.graph_layer.0",
    "encoder/points/graph_norm": "enc.graph_layer.1",
    "encoder/points/proj_layer": "enc.proj_layer",
    "encoder/img_block/pointwise": "enc.img_block.1",
    "encoder/img_block": "enc.img_block.0",
    "encoder/fusion/conv1": "enc.fusion.conv1",
    "encoder/fusion/attention_norm": "enc.fusion.transformer.layers.0.0.norm",
    "encoder/fusion/to_qkv": "enc.fusion.transformer.layers.0.0.fn.to_qkv",
    "encoder/fusion/to_out": "enc.fusion.transformer.layers.0.0.fn.to_out.0",
    "encoder/fusion/mlp_norm": "enc.fusion.transformer.layers.0.1.norm",
    "encoder/fusion/mlp_in": "enc.fusion.transformer.layers.0.1.fn.net.0",
    "encoder/fusion/mlp_out": "enc.fusion.transformer.layers.0.1.fn.net.3",
    "encoder/fusion/conv2": "enc.fusion.conv2.0",
    "encoder/fusion/conv3": "enc.fusion.conv3.0",
    "encoder/img_layer": "enc.img_layer",
}


class PointsNames(Names):
    def matches(self, shapes: Mapping[str, Sequence[int]]) -> bool:
        return "enc.img_layer.weight" in shapes and any(name.startswith("base_model.stages.") for name in shapes)

    def options(self, shapes: Mapping[str, Sequence[int]]) -> tuple[dict[str, Any], bool]:
        """Neighbours and sizes, which tensors do not tell, are those of the original's recipe."""
        model, merged = torch_names.infer_trunk(shapes, "base_model.")
        for name, tensor in (("trans_dim", "enc.input_trans.weight"), ("graph_dim", "enc.graph_layer.0.weight")):
            model[name] = next(iter(shapes.get(tensor, (4,))))
        model["fusion"] = any(name.startswith("enc.fusion.") for name in shapes)
        model["num_classes"] = next(iter(shapes.get("cls_head.cls_head.weight", (1,))))
        width = next(iter(shapes.get("cls_head.norm.weight", (0,))))
        views = tuple(range(min(max(width // model["dims"][-1], 1), 10)))
        known = {40: "modelnet40", 15: "scanobjectnn"}.get(model["num_classes"])
        return {"model": model, "labels": read_labels(known) if known else (), "views": views}, merged

    def table(self, variables: Mapping[str, Any]) -> dict[str, torch_names.Entry]:
        return torch_names.name_table(variables, _TORCH_MODULES)


NAMES = PointsNames()
