"""The original's names of a UPerNet: those of mmsegmentation 0.27, whose files hold them below "state_dict"."""

import re
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


_PUBLISHED = re.compile(r"upernet_unireplknet_\w+_(512|640)_160k_ade20k")  # how names of files begin, with the crop
_SCALE = re.compile(r"\b(?:img_scale|scale)\s*=\s*\((\d{2,5}),\s*(\d{2,5})\)")  # in the text of a configuration
_CROP = re.compile(r"\bcrop_size\s*=\s*\((\d{2,5}),\s*(\d{2,5})\)")


def sizes_for(crop: int) -> dict[str, Any]:
    """The task's options for pictures that the original trains on crops of so many pixels."""
    long = -(-4 * crop // 96) * 32  # of a picture whose sides are 4 to 3, up to a multiple of 32
    return {
        "scale": (4 * crop, crop),
        "crop": crop,
        "stride": crop * 2 // 3,
        "buckets": ((crop, long), (long, crop), (crop, 2 * crop)),
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
        """Names and colours of the classes: CLASSES and PALETTE of mmsegmentation 0, "dataset_meta" of 1."""
        later = meta.get("dataset_meta")
        later = later if isinstance(later, Mapping) else {}
        labels, colours = meta.get("CLASSES", later.get("classes")), meta.get("PALETTE", later.get("palette"))
        if not (isinstance(labels, list | tuple) and labels and all(isinstance(name, str) for name in labels)):
            return {}
        # The original's name of one of ADE20K's classes is "bed ".
        found: dict[str, Any] = {"labels": tuple(name.strip() for name in labels), "colours": (), "values": ()}
        if found["labels"] == _of_ade20k()["labels"]:
            found = _of_ade20k()
        if isinstance(colours, list | tuple) and len(colours) == len(labels) and all(map(_is_colour, colours)):
            found["colours"] = tuple(map(tuple, colours))
        return found

    def prepared_for(self, file: str, meta: Mapping[str, Any]) -> dict[str, Any]:
        """Scale and crop: as the text of the configuration has them, "config" or "cfg", or the published file's name.

        Nothing where the text has several, or another scale than (4 crop, crop), which no published file has.
        """
        text = meta.get("config", meta.get("cfg"))
        crop, scale = None, None
        if isinstance(text, str):
            scale, crops = (_only([tuple(map(int, pair)) for pair in form.findall(text)]) for form in (_SCALE, _CROP))
            crop = crops[0] if scale and crops == scale[1:] * 2 and scale[0] == 4 * scale[1] else None
        published = _PUBLISHED.match(file)
        if scale is None and published:
            crop = int(published[1])
        return sizes_for(crop) if crop and crop % 32 == 0 else {}  # canvases are multiples of 32


def _only(found: list[tuple[int, ...]]) -> tuple[int, ...] | None:
    """What is found in a text, where that is the same in all places."""
    return found[0] if len({*found}) == 1 else None


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
