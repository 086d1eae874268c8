"""Object detection and instance segmentation: boxes around objects, their classes and masks, by Cascade Mask R-CNN.

Paper: section 4.2 (COCO). Original: detection/ of UniRepLKNet on mmdetection 2.28.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import logging
import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, cast

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from unireplknet_jax.data.broken import AugmentedExamples, TransformedExamples
from unireplknet_jax.data.classes import Renumbered, number_of, places_among
from unireplknet_jax.data.pictures import box_sets, box_transforms, instance_masks
from unireplknet_jax.data.pictures.mask_classes import distinct_colours
from unireplknet_jax.data.pictures.mask_sets import sizes_of
from unireplknet_jax.data.pictures.mask_transforms import DIVISOR, canvas_of, kept_ratio, resize_to
from unireplknet_jax.data.pipeline import ShapedStream
from unireplknet_jax.nn.cascade import CascadeRCNN
from unireplknet_jax.nn.cascade_losses import Masks, Truth
from unireplknet_jax.tasks import box_drawing, box_metrics
from unireplknet_jax.tasks.base import Apply, Batch, Example, Record, Spec, Split
from unireplknet_jax.tasks.box_assembly import Found, merged, pasted, views_of
from unireplknet_jax.tasks.canvases import OnCanvases, Size, Way, are_whole, way_of
from unireplknet_jax.tasks.detection_names import OWN, UNTOLD
from unireplknet_jax.tasks.options import check_number

if TYPE_CHECKING:
    import grain

# What the option `model` says of the heads; the rest is the trunk's.
_HEADS = tuple(
    field.name
    for field in dataclasses.fields(CascadeRCNN)
    if field.name not in ("backbone", "num_classes", "parent", "name")
)
_COUNTS = ("channels", "box_channels", "box_features", "mask_channels", "max_detections")
_PAIRS = ("train_proposals", "test_proposals", "anchor_counts", "region_counts")
_OF_MASKS = ("mask_bits", "mask_crops", "has_mask")
_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Detection(OnCanvases):
    """Find the objects of a picture: a box, a class, a score and, where the data have them, a mask of each.

    model: keyword arguments of the trunk, "name" a published size whose fields the others override; "num_classes", 0
        waits for `fitted_to`; the fields of `nn.cascade.CascadeRCNN` are the heads'. "masks" becomes False where the
        training data have none.
    category_ids: what stands for each class in the training data, if they are COCO's files. Results have what stands
        for it in the data that are evaluated, and this where those do not have the class.
    scale: pictures are resized to fit into (long side, short side), keeping their shape; None: they keep their size.
    Training: `short_sides`, `longest`, `crop_sides`, `crop` and `flip` are those of `box_transforms.TrainTransform`;
        objects: of which a picture has room; mask_bytes: for the bits of their masks.
    Testing: scales: shares of `scale` at which a picture is seen, and `mirror`, mirrored as well: what all find is
        merged. tile: above 0, pictures keep their size and are seen in windows of so many pixels, of which a quarter
        overlaps. buckets: (rows, columns) of the canvases that pictures lie in, for each of which a program is
        compiled, in training, too; a picture that fits into none has one of its own.
    score: what the score of an object that is shown to a user exceeds, and only: the classes that are shown, () all. An
        evaluation counts all that the network finds.
    white: of pictures deeper than 8 bits, the value that becomes 255; 0: what their files say.
    evaluator: who computes COCO's metrics, one of `box_metrics.EVALUATORS`, which give the same numbers.
    """

    category_ids: tuple[int, ...] = ()
    scale: tuple[int, int] | None = (1333, 800)
    short_sides: tuple[int, ...] = box_transforms.SHORT_SIDES
    longest: int = 1333
    crop_sides: tuple[int, ...] = (400, 500, 600)
    crop: tuple[int, int] | None = (384, 600)
    flip: bool = True
    objects: int = 100
    mask_bytes: int = 2**19
    tile: int = 0
    buckets: tuple[tuple[int, int], ...] = box_transforms.CANVASES
    score: float = 0.3
    only: tuple[str, ...] = ()
    evaluator: str = "pycocotools"

    name: ClassVar[str] = "detection"
    sample: ClassVar[str] = "street.jpg"
    hub_task: ClassVar[str] = "object-detection"
    together: ClassVar[int] = 2
    augmentations: ClassVar[tuple[str, ...]] = ("flip", "crop")
    preparation: ClassVar[tuple[str, ...]] = ("scale", "scales", "mirror", "tile", "mean", "std", "white")
    units: ClassVar[Mapping[str, str]] = {
        **{f"{kind}_{name}": "%" for kind in ("box", "mask") for name in box_metrics.NAMES},
        **dict.fromkeys(("box_ap", "mask_ap"), "%"),
        "count": "pictures",
    }
    numbers: ClassVar[Mapping[str, str]] = {
        "score": "from 0 to 1",
        **dict.fromkeys(("objects", "mask_bytes", "longest"), "1 or more"),
        **dict.fromkeys(("tile", "white"), "0 or more"),
    }
    why_broken = staticmethod(box_sets.why_broken)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.balance:
            raise ValueError("balance draws examples of one class, and pictures have objects of several; leave it.")
        if self.category_ids and self.labels and len(self.category_ids) != len(self.labels):
            raise ValueError(f"{len(self.category_ids)} category_ids do not fit {len(self.labels)} classes.")
        _check_heads(dict(self.model))
        box_metrics.check_evaluator(self.evaluator)
        _train_transform(self)  # which checks its own options
        if self.only and not self.waits:
            self._shown_classes  # noqa: B018 (an unknown name is said before anything is computed)

    def module(self, deploy: bool = False) -> CascadeRCNN:
        self.require_classes()
        model = dict(self.model)
        apart = tuple(name for name in _HEADS if name != "bn_group")  # which both have
        trunk = self.trunk(apart, num_classes=None, output_norms=True, deploy=deploy)
        heads = {name: _frozen(model[name]) for name in _HEADS if name in model}
        return CascadeRCNN(trunk, model["num_classes"], **heads)

    @property
    def torch_meta(self) -> dict[str, Any]:
        heads = {name: value for name, value in dict(self.model).items() if name in UNTOLD}
        own = {OWN: json.dumps({"model": heads, **self.preparation_rules})}
        return own | ({"CLASSES": self.labels} if self.labels else {})

    @property
    def palette(self) -> tuple[tuple[int, int, int], ...]:
        """The colours in which objects of each class are drawn."""
        return distinct_colours(self.classes)

    @property
    def masks(self) -> bool:
        """Whether objects have masks."""
        return bool(dict(self.model).get("masks", True))

    # ---- shapes

    def specs(self, train: bool) -> tuple[Spec, ...]:
        return tuple(self._training_spec(bucket) if train else self.spec_of(bucket) for bucket in self.buckets)

    def _training_spec(self, canvas: Size) -> Spec:
        def of(dtype: Any, *shape: int) -> jax.ShapeDtypeStruct:
            return jax.ShapeDtypeStruct(shape, dtype)

        k = self.objects
        truth = {"boxes": of(jnp.float32, k, 4), "labels": of(jnp.int32, k), "valid": of(jnp.bool_, k)}
        if self.masks:
            truth |= {"mask_bits": of(jnp.uint8, self.mask_bytes), "mask_crops": of(jnp.int32, k, 5)}
            truth |= {"has_mask": of(jnp.bool_, k)}
        return Spec({"image": of(jnp.uint8, *canvas, 3), "size": of(jnp.int32, 2)}, truth)

    @property
    def _scale(self) -> Size | None:
        return None if self.tile else self.scale

    def ways(self, canvas: Size, original: Size) -> list[Way]:
        """How a picture of (h, w) is seen at each scale, in arrays for a canvas."""
        tile = self.tile or None
        stride = max(self.tile * 3 // 4, 1)
        return [way_of(canvas, kept_ratio(*original, self._scale, ratio), ratio, tile, stride) for ratio in self.scales]

    def ways_of(self, original: Size) -> list[Way]:
        rows, columns = (-(-side // DIVISOR) * DIVISOR for side in kept_ratio(*original, self._scale))
        return self.ways(canvas_of((rows, columns), () if self.tile else self.buckets), original)

    # ---- host

    def open_source(self, data: Mapping[str, Any], split: str) -> Any:
        return box_sets.open_source(data, split, self.white)

    def open(self, data: Mapping[str, Any], split: str, train: bool = False) -> Split:
        """As `Labelled.open`; training leaves out what `box_sets.for_training` says."""
        if not train:
            instance_masks.coco_masks()  # what measures: better missed now than after the training
            box_metrics.evaluator_classes(self.evaluator)
        found = super().open(data, split, train)
        return found._replace(source=box_sets.for_training(found.source, data)) if train else found

    def fitted_to(self, train: Split, evaluation: Split | None) -> Detection:
        """The task with the classes of the training data, where it has none, and without masks where they have none."""
        fitted = cast(Detection, super().fitted_to(train, evaluation))
        source = box_sets.origin_of(train.source)
        if fitted.masks and not source.has_masks:
            _log.warning("%s has boxes and no masks: the network is trained without masks", train.data)
            fitted = dataclasses.replace(fitted, model=dict(fitted.model) | {"masks": False})
        places = [place for place in places_among(source.labels, fitted.labels) if place is not None]
        if not fitted.category_ids and len(places) == len(fitted.labels):
            fitted = dataclasses.replace(fitted, category_ids=tuple(source.category_ids[i] for i in places))
        return fitted

    def examples(self, split: Split, train: bool, seed: int = 0) -> grain.MapDataset | ShapedStream:
        """Training: a stream of several shapes, as pictures lie on canvases of several sizes."""
        source = self.matched(split).source
        if not train:
            import grain

            prepared = functools.partial(self.prepared, category_ids=self._ids_in(source))
            return grain.MapDataset.source(TransformedExamples(source, prepared, self.why_broken))
        key = _CanvasOf(sizes_of(source), _train_transform(self))
        augmented = AugmentedExamples(source, self.augmented, split.broken, self.why_broken, key)
        return ShapedStream(range(len(source)), augmented, key, seed)

    def augmented(self, example: Mapping[str, Any], rng: np.random.Generator) -> dict[str, Any]:
        return _train_transform(self)(example, rng)

    def _ids_in(self, source: Any) -> tuple[int | None, ...]:
        """For each class what stands for it in the files of a source of the model's classes."""
        ids = box_sets.origin_of(source).category_ids
        numbers = source.numbers if isinstance(source, Renumbered) else range(len(ids))
        of_data = dict(zip(numbers, ids, strict=True))
        own = [None if number in ids else number for number in self.category_ids] or [None] * self.classes
        return tuple(of_data.get(number, own[number]) for number in range(self.classes))

    def prepared(self, example: Mapping[str, Any], category_ids: Sequence[int | None] = ()) -> dict[str, Any]:
        """category_ids: of each class, for `results`."""
        example = box_sets.whole(example)
        facts = {"truth": box_metrics.truth_of(example), "category_ids": category_ids, "id": example["id"]}
        return {**self.cut(example["image"]), **facts}

    def resized(self, picture: np.ndarray, ratio: float, way: Way) -> np.ndarray:
        return resize_to(picture, way.size)

    # ---- device

    def training_shapes(self) -> tuple[jax.ShapeDtypeStruct, ...]:
        rows, columns = max(self.buckets, key=lambda bucket: bucket[0] * bucket[1])
        return (jax.ShapeDtypeStruct((1, rows, columns, 3), jnp.float32),)

    def loss(
        self, apply: Apply, variables: Mapping[str, Any], batch: Batch, rng: jax.Array
    ) -> tuple[jax.Array, dict[str, Any]]:
        """The sum of all losses; each is a mean over the anchors, regions or masks of the batch that count for it."""
        pixels = self.normalized(batch["image"], batch["size"])
        masks = Masks(*(batch[name] for name in _OF_MASKS)) if self.masks else None
        truth = Truth(batch["boxes"], batch["labels"], batch["valid"], masks)
        draws, dropout = jax.random.split(rng)
        found, updates = apply(
            variables,
            *(pixels, truth, draws, batch["size"]),
            method="losses",
            rngs={"dropout": dropout},
            mutable=["batch_stats"],
        )
        total = sum((value for name, value in found.items() if "loss" in name), start=jnp.float32(0))
        rows = jnp.float32(len(pixels))
        scalars = {name.replace(".", "_"): (value * rows, rows) for name, value in {"loss": total, **found}.items()}
        return total, {"batch_stats": updates.get("batch_stats", {}), "scalars": scalars}

    def predict(self, apply: Apply, variables: Mapping[str, Any], inputs: Batch) -> dict[str, jax.Array]:
        """{"boxes_i": (n, k, r, 4), "scores_i", "labels_i", "valid_i": (n, k, r), ...} of the windows of scale i."""
        found: dict[str, jax.Array] = {}
        for i in range(len(self.scales)):
            seen = self.of_windows(lambda images, sizes: apply(variables, images, sizes=sizes), inputs, i)
            found |= {f"{name}_{i}": value for name, value in seen.items()}
        return found

    # ---- host, afterwards

    def record(self, pred: Mapping[str, np.ndarray], example: Example) -> Record:
        """Of a picture with annotations what `box_metrics` compares; else its "objects", best first.

        An object is {"index", "label", "score", "box": [x1, y1, x2, y2] in pixels of the picture} and, of a network
        with masks, "mask", COCO's run lengths {"size", "counts"}.
        """
        original = example["original"]
        views = [view for i, way in enumerate(example["ways"]) for view in views_of(pred, i, way, original)]
        found = merged(views, self._most, windows=self.tile > 0)
        if "truth" not in example:
            found = found.rows(self._shown(found))
        masks = () if found.masks is None else found.masks
        pieces = [pasted(mask, box, original) for mask, box in zip(masks, found.boxes, strict=False)]
        if "truth" in example:
            rows = _rows(found, [box_metrics.packed_piece(piece, original) for piece in pieces])
            ids = example["category_ids"]
            rows = [row | {"category_id": ids[row["label"]]} for row in rows] if ids else rows
            return {**self.place_of(example), "size": [*original], "truth": example["truth"], "found": rows}
        rows = _rows(found, [instance_masks.piece_runs(piece, original) for piece in pieces])
        named = [{"index": row["label"], **row, "label": self.label(row["label"])} for row in rows]
        return {**self.place_of(example), "size": [*original], "objects": named}

    @property
    def _most(self) -> int:
        return self.module().max_detections

    @functools.cached_property
    def _shown_classes(self) -> list[int]:
        return [number_of(name, self.labels, self.classes) for name in self.only]

    def _shown(self, found: Found) -> np.ndarray:
        """(k,) bool: which detections a user sees."""
        chosen = np.isin(found.labels, self._shown_classes) if self.only else True
        return (found.scores > self.score) & chosen

    def table_columns(self, top: int) -> tuple[str, ...]:
        """A row for each object, however many `top` asks for."""
        del top
        return ("label", "score", "x1", "y1", "x2", "y2")

    def table_rows(self, records: Sequence[Record], top: int) -> list[tuple[Any, ...]]:
        del top
        return [(each["label"], each["score"], *each["box"]) for record in records for each in record["objects"]]

    def metrics(self, totals: Mapping[str, np.ndarray], records: list[Record]) -> dict[str, float]:
        found = box_metrics.metrics(records, self.labels, self.masks, self.evaluator)
        return {**found, "count": float(totals["count"])}

    @property
    def has_outcomes(self) -> bool:
        return False

    @property
    def has_masks(self) -> bool:
        return self.masks

    def results(self, records: list[Record]) -> list[Any]:
        """The detections as files of results of COCO have them."""
        return box_metrics.results(records)

    def save_mask(self, path: os.PathLike[str], record: Record) -> None:
        box_drawing.save_mask(path, record)

    def draw(self, examples: list[Example], records: list[Record]) -> Image.Image:
        (example,), (record,) = examples, records
        objects = record["objects"]
        boxes = np.array([each["box"] for each in objects], np.float32).reshape(-1, 4)
        labels = [each["index"] for each in objects]
        texts = [f"{each['label']} {each['score']:.2f}" for each in objects]
        masks = box_drawing.pieces_of(record)
        size = self.drawn_size(example)
        return box_drawing.with_objects(example["picture"], boxes, labels, texts, example["id"], masks, size)


@dataclasses.dataclass(frozen=True)
class _CanvasOf:
    """The key of `ShapedStream`: the canvas of a training example."""

    sizes: Sequence[Size]
    transform: box_transforms.TrainTransform

    def __call__(self, index: int, rng: np.random.Generator) -> Size:
        return self.transform.canvas(self.sizes[index], rng)


def _rows(found: Found, masks: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    fields = (field.tolist() for field in (found.labels, found.scores, found.boxes))
    rows = [{"label": label, "score": score, "box": box} for label, score, box in zip(*fields, strict=True)]
    return [row | {"mask": mask} for row, mask in zip(rows, masks, strict=True)] if masks else rows


def _check_heads(model: Mapping[str, Any]) -> None:
    """Raise ValueError for numbers of heads that make no detector."""
    for name in ("anchor_scale", "finest"):
        check_number(name, model.get(name, 1), "above 0")
    check_number("min_score", model.get("min_score", 0), "from 0 to 1")
    for names, count in ((_COUNTS, 1), (_PAIRS, 2)):
        for name in (name for name in names if name in model):
            value = model[name] if isinstance(model[name], list | tuple) else (model[name],)
            if not are_whole(tuple(value), count, 1):
                raise ValueError(
                    f"{name}={model[name]} must be {('a whole number', 'two whole numbers')[count - 1]}, 1 or more."
                )


def _frozen(value: Any) -> Any:
    return tuple(value) if isinstance(value, list | tuple) else value


@functools.lru_cache(maxsize=4)
def _train_transform(task: Detection) -> box_transforms.TrainTransform:
    return box_transforms.TrainTransform(
        *(task.short_sides, task.longest, task.crop_sides, task.crop, task.flip, task.buckets, task.objects),
        *(task.masks, task.mask_bytes),
    )
