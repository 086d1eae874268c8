"""Image classification: an image is the map; cross-entropy, top-1 and top-5 accuracy in percent."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from unireplknet_jax.data.files import source_name
from unireplknet_jax.data.pictures import transforms as images
from unireplknet_jax.data.pictures.decode import SUFFIXES, picture_of, why_broken
from unireplknet_jax.data.pictures.sets import open_source
from unireplknet_jax.tasks.base import Apply, Batch, Example, Record, Seen, Spec
from unireplknet_jax.tasks.drawing import captioned, in_colour
from unireplknet_jax.tasks.pixels import PixelClassifier


@dataclasses.dataclass(frozen=True)
class Classification(PixelClassifier):
    """Classify square images.

    resize: "crop" or "warp", None: the official rule for this size (`data.pictures.transforms.eval_transform`).
    crop_padding: the pixels of a random crop out of a padded image, in training, where crop_scale is None.
    white: the value of white in pictures deeper than 8 bits; 0: what their files say (`data.pictures.deep`).
    The other options are those of `PixelClassifier`, which names the augmentations in their order.
    """

    resize: str | None = None
    crop_padding: int = 0
    white: int = 0

    name: ClassVar[str] = "classification"
    sample: ClassVar[str] = "rose.jpg"
    suffixes: ClassVar[tuple[str, ...]] = SUFFIXES
    hub_task: ClassVar[str] = "image-classification"
    augmentations: ClassVar[tuple[str, ...]] = (*PixelClassifier.augmentations, "crop_padding")
    preparation: ClassVar[tuple[str, ...]] = ("image_size", "resize", "mean", "std", "white")
    numbers: ClassVar[Mapping[str, str]] = {
        **PixelClassifier.numbers,
        **dict.fromkeys(("crop_padding", "white"), "0 or more"),
    }
    why_broken = staticmethod(why_broken)

    def __post_init__(self) -> None:
        super().__post_init__()
        _train_transform(self)  # so that a wrong rand_augment is refused now, not in the first batch

    @property
    def preparation_rules(self) -> dict[str, Any]:
        return super().preparation_rules | {"resize": images.resize_rule(self.image_size, self.resize)}

    def specs(self, train: bool) -> tuple[Spec, ...]:
        del train
        image = jax.ShapeDtypeStruct((self.image_size, self.image_size, len(self.mean)), jnp.uint8)
        return (Spec({"image": image}, {"label": jax.ShapeDtypeStruct((), jnp.int32)}),)

    def inputs(self, batch: Batch) -> tuple[jax.Array, ...]:
        return (self.normalized(batch["image"]),)

    # ---- host

    def open_source(self, data: Mapping[str, Any], split: str) -> Any:
        return open_source(data["name"], split, data.get("dir") or None)

    def augmented(self, example: Mapping[str, Any], rng: np.random.Generator) -> dict[str, Any]:
        return {**example, "image": self.with_channels(_train_transform(self)(example["image"], rng))}

    def prepared(self, example: Mapping[str, Any]) -> dict[str, Any]:
        return {**example, "image": self._resized(example["image"])}

    def read(self, source: Any) -> list[Example]:
        """A file, a PIL image, or an array (h, w, 1, 3 or 4) or (h, w), uint8."""
        picture = picture_of(source, self.white)
        return [{"image": self._resized(picture), "picture": picture, "id": source_name(source)}]

    def _resized(self, picture: Image.Image | np.ndarray) -> np.ndarray:
        return self.with_channels(images.eval_transform(picture, self.image_size, self.resize, self.white))

    # ---- device

    def training_inputs(self, batch: Batch, rng: jax.Array) -> tuple[jax.Array, jax.Array]:
        return self.erased_and_mixed(self.normalized(batch["image"]), batch["label"], rng)

    def predict(self, apply: Apply, variables: Mapping[str, Any], inputs: Batch) -> dict[str, jax.Array]:
        logits = apply(variables, *self.inputs(inputs))
        return {"logits": logits, "scores": jax.nn.softmax(logits)}

    # ---- host, afterwards

    def seen(self, example: Example) -> Seen:
        return Seen({"image": example["image"]}, in_colour(example["image"]))

    def draw(self, examples: list[Example], records: list[Record]) -> Image.Image:
        return captioned(examples[0]["picture"], examples[0]["id"], records[0]["predictions"])


@functools.lru_cache(maxsize=4)
def _train_transform(task: Classification) -> images.TrainTransform:
    return images.TrainTransform(
        task.image_size,
        scale=task.crop_scale or (1.0, 1.0),
        flip=task.flip,
        rand_augment=task.rand_augment or None,
        crop_padding=None if task.crop_scale else task.crop_padding,
        fill=tuple(round(255 * mean) for mean in task.mean),
        white=task.white,
    )
