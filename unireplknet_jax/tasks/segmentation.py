"""Semantic segmentation: a class for every pixel of a picture, by a UPerNet on the maps of the backbone.

Paper: section 4.3 (ADE20K). Original: segmentation/ of UniRepLKNet on mmsegmentation 0.27.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import os
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, cast

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from unireplknet_jax.data.classes import Renumbered, places_among
from unireplknet_jax.data.pictures import mask_sets, mask_transforms, masks
from unireplknet_jax.data.pictures.mask_classes import distinct_colours
from unireplknet_jax.nn.upernet import AUXILIARY_WEIGHT, UPerNet
from unireplknet_jax.ops.segmentation import pixel_losses
from unireplknet_jax.tasks import mask_drawing, mask_metrics
from unireplknet_jax.tasks.base import Apply, Batch, Example, Record, Spec, Split
from unireplknet_jax.tasks.canvases import OnCanvases, Size, Way, are_whole, way_of
from unireplknet_jax.tasks.mask_assembly import class_map, views_of
from unireplknet_jax.tasks.training import apply_training

_HEADS = {"channels": 512, "auxiliary_channels": 256, "head_dropout": 0.1}
_OF_CLASSES = ("colours", "values")  # what else than a name each class has


@dataclasses.dataclass(frozen=True)
class Segmentation(OnCanvases):
    """Give every pixel of a picture a class.

    model: keyword arguments of the trunk, "name" a published size whose fields the others override; "num_classes", 0
        waits for `fitted_to`, "channels", "auxiliary_channels" and "head_dropout" are the heads'.
    colours: (r, g, b) of each class, and values: what stands for it in files of masks; () leaves both to the data.
    scale: pictures are resized to fit into (long side, short side), keeping their shape, and then each side up to a
        multiple of 32; None: they keep their own size but for that.
    Training: resized by `scale` times a random share out of `ratio`, a crop of `crop` x `crop` pixels of which no class
        fills more than `cat_max_ratio`, `flip` and `distortion` of colours. loss_average: "all" divides by all pixels,
        ignored ones among them, as the original does, "valid" by those that count. auxiliary_weight: of the loss of
        the auxiliary head.
    Testing: mode "whole", or "slide", windows of `crop` pixels every `stride`; scales: shares of `scale` at which a
        picture is seen, and `mirror`, mirrored as well: the probabilities of all are averaged.
        buckets: (rows, columns) of the canvases that pictures lie in, for each of which a program is compiled; a
        picture that fits into none has one of its own.
    white: of pictures deeper than 8 bits, the value that becomes 255; 0: what their files say.
    """

    colours: tuple[tuple[int, int, int], ...] = ()
    values: tuple[int, ...] = ()
    scale: tuple[int, int] | None = (2048, 512)
    crop: int = 512
    ratio: tuple[float, float] = (0.5, 2.0)
    cat_max_ratio: float = 0.75
    flip: bool = True
    distortion: bool = True
    loss_average: str = "all"
    auxiliary_weight: float = AUXILIARY_WEIGHT
    mode: str = "whole"
    stride: int = 341
    buckets: tuple[tuple[int, int], ...] = ((512, 704), (704, 512), (512, 1024))

    name: ClassVar[str] = "segmentation"
    sample: ClassVar[str] = "street.jpg"
    hub_task: ClassVar[str] = "image-segmentation"
    together: ClassVar[int] = 8
    outcomes_of: ClassVar[str] = "pixels"
    augmentations: ClassVar[tuple[str, ...]] = ("flip", "distortion")
    preparation: ClassVar[tuple[str, ...]] = (
        *("scale", "crop", "stride", "mode", "scales", "mirror"),
        *("mean", "std", "white"),
    )
    units: ClassVar[Mapping[str, str]] = {"miou": "%", "macc": "%", "aacc": "%", "iou": "%", "count": "pictures"}
    numbers: ClassVar[Mapping[str, str]] = {
        "crop": "1 or more",
        "stride": "1 or more",
        "cat_max_ratio": "above 0 and at most 1",
        **dict.fromkeys(("auxiliary_weight", "white"), "0 or more"),
    }
    why_broken = staticmethod(masks.why_broken)

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, allowed in (("loss_average", ("all", "valid")), ("mode", ("whole", "slide"))):
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} is {getattr(self, name)!r}; expected {' or '.join(map(repr, allowed))}.")
        if not (len(self.ratio) == 2 and 0 < self.ratio[0] <= self.ratio[1] < math.inf):
            raise ValueError(f"ratio={self.ratio} must be two shares of the scale, 0 < low <= high.")
        if self.mode == "slide" and self.stride > self.crop:
            raise ValueError(f"stride={self.stride} leaves pixels out between windows of crop={self.crop}.")
        for colour in self.colours:
            if not are_whole(colour, 3, 0, 255):
                raise ValueError(f"the colour {colour} must be red, green and blue, whole numbers from 0 to 255.")
        if not (are_whole(self.values, len(self.values), 0) and len({*self.values}) == len(self.values)):
            raise ValueError(f"values={self.values} must be whole numbers of 0 and above, each for one class.")
        for name in _OF_CLASSES:
            values = getattr(self, name)
            if values and self.labels and len(values) != len(self.labels):
                raise ValueError(f"{len(values)} {name} do not fit {len(self.labels)} classes.")

    def module(self, deploy: bool = False) -> UPerNet:
        self.require_classes()
        model = {**_HEADS, "bn_group": None} | dict(self.model)
        trunk = self.trunk(tuple(_HEADS), num_classes=None, output_norms=True, deploy=deploy)
        return UPerNet(trunk, *(model[name] for name in ("num_classes", *_HEADS, "bn_group")))

    @property
    def torch_meta(self) -> dict[str, Any]:
        return {"CLASSES": self.labels, "PALETTE": self.palette} if self.labels else {}

    @property
    def palette(self) -> tuple[tuple[int, int, int], ...]:
        """The colours of the classes, made where nobody gave any."""
        return self.colours or distinct_colours(self.classes)

    # ---- shapes

    def specs(self, train: bool) -> tuple[Spec, ...]:
        if train:
            size = (self.crop, self.crop)
            inputs = {
                "image": jax.ShapeDtypeStruct((*size, 3), jnp.uint8),
                "size": jax.ShapeDtypeStruct((2,), jnp.int32),
            }
            return (Spec(inputs, {"label_map": jax.ShapeDtypeStruct(size, jnp.int16)}),)
        return tuple(self.spec_of(bucket) for bucket in self.buckets or ((self.crop, self.crop),))

    def ways(self, canvas: Size, original: Size) -> list[Way]:
        """How a picture of (h, w) is seen at each scale, in arrays for a canvas."""
        crop = self.crop if self.mode == "slide" else None
        return [
            way_of(canvas, mask_transforms.network_size(*original, self.scale, ratio), ratio, crop, self.stride)
            for ratio in self.scales
        ]

    def ways_of(self, original: Size) -> list[Way]:
        size = mask_transforms.network_size(*original, self.scale)
        return self.ways(mask_transforms.canvas_of(size, self.buckets), original)

    # ---- host

    def open_source(self, data: Mapping[str, Any], split: str) -> Any:
        return mask_sets.open_source(data, split, self.white)

    def fitted_to(self, train: Split, evaluation: Split | None) -> Segmentation:
        """The task with the classes, colours and values of the training data, where it has none."""
        fitted = cast(Segmentation, super().fitted_to(train, evaluation))
        source = train.source.source if isinstance(train.source, Renumbered) else train.source
        places = [place for place in places_among(source.labels, fitted.labels) if place is not None]
        if len(places) < len(fitted.labels):
            return fitted
        colours, values = (
            getattr(self, name) or tuple(getattr(source, name)[i] for i in places) for name in _OF_CLASSES
        )
        return dataclasses.replace(fitted, colours=colours, values=values)

    def augmented(self, example: Mapping[str, Any], rng: np.random.Generator) -> dict[str, Any]:
        return _train_transform(self)(example, rng)

    def prepared(self, example: Mapping[str, Any]) -> dict[str, Any]:
        example = masks.whole(example)
        return {**self.cut(example["image"]), "label_map": example["label_map"], "id": example["id"]}

    def resized(self, picture: np.ndarray, ratio: float, way: Way) -> np.ndarray:
        return mask_transforms.prepared(picture, self.scale, ratio)

    # ---- device

    def training_shapes(self) -> tuple[jax.ShapeDtypeStruct, ...]:
        return (jax.ShapeDtypeStruct((1, self.crop, self.crop, 3), jnp.float32),)

    def loss(
        self, apply: Apply, variables: Mapping[str, Any], batch: Batch, rng: jax.Array
    ) -> tuple[jax.Array, dict[str, Any]]:
        pixels = self.normalized(batch["image"], batch["size"])
        outputs, batch_stats = apply_training(apply, variables, (pixels,), rng, method="with_auxiliary")
        total, scalars = jnp.float32(0), dict[str, tuple[jax.Array, jax.Array]]()
        for name, weight, logits in zip(("decode", "auxiliary"), (1.0, self.auxiliary_weight), outputs, strict=True):
            losses, hits, known = pixel_losses(logits, batch["label_map"])
            count = jnp.float32(batch["label_map"].size) if self.loss_average == "all" else jnp.maximum(known, 1)
            total += weight * losses / count
            scalars |= {f"loss_{name}": (weight * losses, count), f"accuracy_{name}": (100 * hits, known)}
        rows = jnp.float32(len(pixels))
        return total, {"batch_stats": batch_stats, "scalars": {"loss": (total * rows, rows)} | scalars}

    def predict(self, apply: Apply, variables: Mapping[str, Any], inputs: Batch) -> dict[str, jax.Array]:
        """{"logits_i": (n, k, h / 4, w / 4, classes)} of the windows of every scale i that the inputs have."""

        def run(images: jax.Array, sizes: jax.Array) -> jax.Array:
            return apply(variables, images, sizes=sizes)

        seen = [i for i in range(len(self.scales)) if f"image_{i}" in inputs]
        return {f"logits_{i}": self.of_windows(run, inputs, i) for i in seen}

    @property
    def streams(self) -> dict[str, dict[str, str]]:
        if self.mode == "whole":
            return {}
        first = ("image_0", "size_0")
        return {
            f"logits_{i}": dict(zip(first, (f"image_{i}", f"size_{i}"), strict=True)) for i in range(len(self.scales))
        }

    # ---- host, afterwards

    def record(self, pred: Mapping[str, np.ndarray], example: Example) -> Record:
        """Of a picture with a mask the sparse confusion matrix; else the shares of its classes and its class map.

        The map, (h, w) int16 of the picture's own size, is an array, which stays out of JSON.
        """
        views = [view for i, way in enumerate(example["ways"]) for view in views_of(pred[f"logits_{i}"], way)]
        found = class_map(views, example["original"])
        if "label_map" in example:
            matrix = mask_metrics.confusion(example["label_map"], found, self.classes)
            return {"id": example["id"], "confusion": mask_metrics.counts_of(matrix)}
        numbers, counts = np.unique(found, return_counts=True)
        order = np.argsort(-counts, kind="stable")
        classes = [
            {"index": int(i), "label": self.label(int(i)), "pixels": int(n), "share": float(n / found.size)}
            for i, n in zip(numbers[order], counts[order], strict=True)
        ]
        return {**self.place_of(example), "size": list(found.shape), "classes": classes, "class_map": found}

    def table_columns(self, top: int) -> tuple[str, ...]:
        ranks = range(2, min(top, self.classes) + 1)
        return ("label", "share", *(f"{name}_{rank}" for rank in ranks for name in ("label", "share")))

    def table_rows(self, records: Sequence[Record], top: int) -> list[tuple[Any, ...]]:
        rows, length = [], len(self.table_columns(top))
        for record in records:
            cells = [cell for each in record["classes"][:top] for cell in (each["label"], each["share"])]
            rows.append((*cells, *[None] * (length - len(cells))))  # a picture may have fewer classes than the model
        return rows

    def counted_outcomes(self, records: list[Record]) -> list[list[int]]:
        return mask_metrics.counts_of(self._confusion(records))

    def _confusion(self, records: Sequence[Record]) -> np.ndarray:
        """(classes, classes) int64, rows the masks' classes, of all the records of an evaluation."""
        return mask_metrics.summed((record["confusion"] for record in records), self.classes)

    def metrics(self, totals: Mapping[str, np.ndarray], records: list[Record]) -> dict[str, float]:
        return {**mask_metrics.metrics(self._confusion(records), self.labels), "count": float(totals["count"])}

    @property
    def has_masks(self) -> bool:
        return True

    @property
    def _numbers(self) -> tuple[int, ...]:
        """What stands for each class in files of masks."""
        return self.values or tuple(range(self.classes))

    def mask(self, record: Record) -> Image.Image:
        """The mask of a record as the picture that `save_mask` writes."""
        return mask_drawing.mask_picture(record["class_map"], self._numbers, self.palette)

    def save_mask(self, path: os.PathLike[str], record: Record) -> None:
        mask_drawing.save_mask(path, record["class_map"], self._numbers, self.palette)

    def draw(self, examples: list[Example], records: list[Record]) -> Image.Image:
        (example,), (record,) = examples, records
        size, entries = self.drawn_size(example), self.classes if "frame" in example else 0
        shown = example["picture"], record["class_map"], self.labels, self.palette, example["id"]
        return mask_drawing.overlay(*shown, size, entries)


@functools.lru_cache(maxsize=4)
def _train_transform(task: Segmentation) -> mask_transforms.TrainTransform:
    return mask_transforms.TrainTransform(
        task.crop, task.scale, task.ratio, task.cat_max_ratio, task.flip, task.distortion
    )
