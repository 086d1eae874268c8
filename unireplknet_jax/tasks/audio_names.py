"""The original's names of a classifier of sounds."""

from collections.abc import Mapping, Sequence
from typing import Any

from unireplknet_jax.data.label_names import read_labels
from unireplknet_jax.models import torch_names
from unireplknet_jax.tasks.names import Names

_TORCH_MODULES = {"backbone": "v", "head_norm": "mlp_head.0", "head": "mlp_head.1"}


class AudioNames(Names):
    def matches(self, shapes: Mapping[str, Sequence[int]]) -> bool:
        return any(name.startswith("v.stages.") for name in shapes)

    def options(self, shapes: Mapping[str, Sequence[int]]) -> tuple[dict[str, Any], bool]:
        trunk, merged = torch_names.infer_trunk(shapes, "v.")
        classes = (*shapes.get("mlp_head.1.weight", ()), 1)[0]
        labels = {"labels": read_labels("speech_commands")} if classes == 35 else {}
        return {"model": {**trunk, "num_classes": classes}, **labels}, merged

    def table(self, variables: Mapping[str, Any]) -> dict[str, torch_names.Entry]:
        return torch_names.name_table(variables, _TORCH_MODULES)


NAMES = AudioNames()
