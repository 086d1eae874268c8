"""The original's names of a UPerNet: those of mmsegmentation 0.27, whose files hold them below "state_dict"."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from unireplknet_jax.data.pictures.mask_classes import ade20k_classes
from unireplknet_jax.models import torch_names
from unireplknet_jax.nn.upernet import POOL_SCALES
from unireplknet_jax.tasks.names import Names

_TORCH_MODULES = {
    "backbone": "backbone",
    **{f"decode_head/psp_modules_{i}": f"decode_head.psp_modules.{i}.1" for i in range(len(POOL_SCALES))},
    **{
        f"decode_head/{name}_convs_{i}": f"decode_head.{name}_convs.{i}"
        for name in ("lateral", "fpn")
        for i in range(3)
    },
    "auxiliary_head/convs_0": "auxiliary_head.convs.0",
}
_SIZES = {
    "num_classes": "decode_head.conv_seg.weight",
    "channels": "decode_head.bottleneck.conv.weight",
    "auxiliary_channels": "auxiliary_head.convs.0.conv.weight",
}


class SegmentationNames(Names):
    entry: ClassVar[str] = "state_dict"

    def matches(self, shapes: Mapping[str, Sequence[int]]) -> bool:
        return "decode_head.conv_seg.weight" in shapes

    def options(self, shapes: Mapping[str, Sequence[int]]) -> tuple[dict[str, Any], bool]:
        trunk, merged = torch_names.infer_trunk(shapes, "backbone.")
        heads = {name: (*shapes.get(tensor, ()), 1)[0] for name, tensor in _SIZES.items()}
        classes = _of_ade20k() if heads["num_classes"] == 150 else {}
        return {"model": {**trunk, **heads}, **classes}, merged

    def table(self, variables: Mapping[str, Any]) -> dict[str, torch_names.Entry]:
        return torch_names.name_table(variables, _TORCH_MODULES)

    def canonical(self, name: str) -> str | None:
        """None for a classifier's layers and for moving averages, which mmcv keeps beside the weights as "ema_..."."""
        return None if name.startswith(("ema_", "backbone.head.", "backbone.norm.")) else name

    def told_by(self, meta: Mapping[str, Any]) -> dict[str, Any]:
        """Names and colours of the classes, which mmsegmentation calls CLASSES and PALETTE."""
        labels, colours = meta.get("CLASSES"), meta.get("PALETTE")
        if not (isinstance(labels, list | tuple) and labels and all(isinstance(name, str) for name in labels)):
            return {}
        # The original's name of one of ADE20K's classes is "bed ".
        found: dict[str, Any] = {"labels": tuple(name.strip() for name in labels), "colours": (), "values": ()}
        if found["labels"] == _of_ade20k()["labels"]:
            found = _of_ade20k()
        if isinstance(colours, list | tuple) and len(colours) == len(labels) and all(map(_is_colour, colours)):
            found["colours"] = tuple(map(tuple, colours))
        return found


def _of_ade20k() -> dict[str, Any]:
    """The task's options for the classes of ADE20K."""
    classes = ade20k_classes()
    return {"labels": classes.labels, "colours": classes.colours, "values": classes.values}


def _is_colour(value: Any) -> bool:
    return (
        isinstance(value, list | tuple)
        and len(value) == 3
        and all(isinstance(part, int) and 0 <= part <= 255 for part in value)
    )


NAMES = SegmentationNames()
