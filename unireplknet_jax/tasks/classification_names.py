"""The original's names of an image classifier: those of the backbone as they are."""

from collections.abc import Mapping, Sequence
from typing import Any

from unireplknet_jax.models import torch_names
from unireplknet_jax.tasks.names import Names


class ClassificationNames(Names):
    def matches(self, shapes: Mapping[str, Sequence[int]]) -> bool:
        return any(name.startswith("stages.") for name in shapes)

    def options(self, shapes: Mapping[str, Sequence[int]]) -> tuple[dict[str, Any], bool]:
        model = torch_names.infer_options(shapes)
        merged, channels = model.pop("deploy"), model["in_chans"]
        scaling = {} if channels == 3 else {"mean": (0.5,) * channels, "std": (0.5,) * channels}
        return {"model": model, **scaling}, merged


NAMES = ClassificationNames()
