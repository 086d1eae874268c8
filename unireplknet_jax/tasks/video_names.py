"""The original's names of a video classifier: those of an image classifier, whose network it is."""

from collections.abc import Mapping, Sequence
from typing import Any

from unireplknet_jax.data.label_names import read_labels
from unireplknet_jax.tasks.classification_names import ClassificationNames


class VideoNames(ClassificationNames):
    def matches(self, shapes: Mapping[str, Sequence[int]]) -> bool:
        """Whether the tensors are those of the one network that the original's script trains.

        Otherwise names and shapes are those of an image classifier, and only the user or card.json can tell: 400
        classes and 11 x 11 kernels in the last stage no other model of the authors has.
        """
        kernel, head = (shapes.get(name, ()) for name in ("stages.3.0.dwconv.lk_origin.weight", "head.weight"))
        return tuple(kernel[-1:]) == (11,) and tuple(head[:1]) == (400,)

    def options(self, shapes: Mapping[str, Sequence[int]]) -> tuple[dict[str, Any], bool]:
        options, merged = super().options(shapes)
        labels = {"labels": read_labels("kinetics400")} if options["model"]["num_classes"] == 400 else {}
        return {**options, **labels, "layout": "reshape" if self.matches(shapes) else "grid"}, merged


NAMES = VideoNames()
