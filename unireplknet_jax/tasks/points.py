"""Classification of sets of points and of meshes: rendered views of a shape are the maps.

Paper: section 3.3 of the journal version, with "three-view projections". Original: Point/, after P2P, where each of
four views is a picture of its own; two of the four are mirror images of the other two.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import optax
from PIL import Image

from unireplknet_jax.data.files import source_name
from unireplknet_jax.data.shapes import points as shapes_of_points
from unireplknet_jax.data.shapes.sets import open_points
from unireplknet_jax.models.zoo import IMAGENET_MEAN, IMAGENET_STD
from unireplknet_jax.nn.projection import DISTINCT, PATCH, ProjectionClassifier, RenderingEncoder, view_table
from unireplknet_jax.ops.farthest_point import farthest_points
from unireplknet_jax.ops.projection import flat_pixels, pixels_of, transformed, view_points
from unireplknet_jax.tasks.base import Apply, Batch, Example, Record, Spec
from unireplknet_jax.tasks.drawing import NARROW, captioned
from unireplknet_jax.tasks.labelled import Labelled, counted, masked_sum, misses
from unireplknet_jax.tasks.training import apply_training

_ENCODER = ("trans_dim", "graph_dim", "fusion")
_HEAD = ("num_classes", "head_init_scale")
_COUNTS = ("points", "raw_points", "neighbours", "object_size", "view_size")


@dataclasses.dataclass(frozen=True)
class Points(Labelled):
    """Classify shapes by pictures of `points` points on their surface, from several views.

    model: keyword arguments of the trunk, "name" a published size whose fields the others override; "num_classes", 0
        waits for `fitted_to`, and "head_init_scale" are the head's, "trans_dim", "graph_dim" and "fusion" the
        encoder's; "bn_group" counts shapes, "remat" and "dtype" hold for the encoder, too.
    raw_points: read of every shape, more than `points`, of which the farthest are taken (`ops.farthest_point`).
    views: rows of the table of views (`nn.projection`): (0, 1, 8), three planes, by default; the original's four are
        (0, 1, 2, 3). view_size, object_size: pixels of the pictures and of the shape in their middle; None: all.
    neighbours: of each point, for its features. mean, std: of the colours.
    unit_sphere: shapes are moved to their mean and scaled to the radius 1. up: which axis of a user's files points
        upwards, "z" or "y".
    votes: rotations of a shape whose logits are averaged, 1, 8 (the original's validation, which does not average) or
        40 (its test).
    Augmentation in training: another subset of points, a random pose and random scales within `scale`, or None.
    """

    points: int = 4096
    raw_points: int = 8192
    views: tuple[int, ...] = DISTINCT
    view_size: int = 224
    object_size: int | None = None
    neighbours: int = 32
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    unit_sphere: bool = True
    up: str = "z"
    votes: int = 40
    label_smoothing: float = 0.0
    scale: tuple[float, float] | None = (2 / 3, 3 / 2)

    name: ClassVar[str] = "points"
    sample: ClassVar[str] = "chair.off"
    suffixes: ClassVar[tuple[str, ...]] = shapes_of_points.SUFFIXES
    augmentations: ClassVar[tuple[str, ...]] = ("scale",)
    preparation: ClassVar[tuple[str, ...]] = (
        *("points", "raw_points", "view_size", "neighbours", "unit_sphere", "up", "votes", "mean", "std"),
    )
    units: ClassVar[Mapping[str, str]] = {"OA": "%", "mAcc": "%", "single": "%", "loss": "nats", "count": "shapes"}
    numbers: ClassVar[Mapping[str, str]] = {"label_smoothing": "0 or more and below 1"}
    why_broken = staticmethod(shapes_of_points.why_broken)

    def __post_init__(self) -> None:
        for field in _COUNTS:
            value = getattr(self, field)
            if value is not None and not (isinstance(value, int) and value > 0):
                raise ValueError(f"{field}={value} must be a positive whole number.")
        super().__post_init__()
        if self.neighbours > self.points or self.points > self.raw_points:
            raise ValueError(
                f"neighbours={self.neighbours}, points={self.points} and raw_points={self.raw_points} must not fall."
            )
        if self.view_size % PATCH or not 4 <= self._object_size <= self.view_size:
            raise ValueError(
                f"view_size={self.view_size} must be a multiple of {PATCH}, and object_size={self._object_size} from 4 "
                "to it."
            )
        if not self.views or len({*self.views}) < len(self.views) or not {*self.views} <= {*range(10)}:
            raise ValueError(f"views={self.views} must be different rows, 0 to 9, of the table of views.")
        if self.scale is not None and not (len(self.scale) == 2 and 0 < self.scale[0] <= self.scale[1] < np.inf):
            raise ValueError(f"scale={self.scale} must be two factors, 0 < low <= high.")
        if self.up not in shapes_of_points.UPWARDS:
            raise ValueError(f"up is {self.up!r}; expected 'y' or 'z', the axis that points upwards.")
        _poses(self.votes)
        if not self.waits:
            self.module()

    @property
    def _object_size(self) -> int:
        return self.object_size or self.view_size

    def module(self, deploy: bool = False) -> ProjectionClassifier:
        self.require_classes()
        model = dict(self.model)
        group = model.get("bn_group")
        head = {name: model[name] for name in _HEAD if name in model}
        encoder = {name: model[name] for name in _ENCODER if name in model}
        trunk = self.trunk(
            (*_HEAD, *_ENCODER),
            num_classes=None,
            in_chans=3,
            deploy=deploy,
            dtype=model.get("dtype", "float32"),
            bn_group=group and len(self.views) * group,
        )
        rendering = RenderingEncoder(
            neighbours=self.neighbours,
            object_size=self._object_size,
            image_size=self.view_size,
            mean=self.mean,
            std=self.std,
            bn_group=trunk.bn_group,
            remat=trunk.remat,
            dtype=trunk.dtype,
            **encoder,
        )
        return ProjectionClassifier(trunk, rendering, views=self.views, bn_group=group, **head)

    def specs(self, train: bool) -> tuple[Spec, ...]:
        label = {"label": jax.ShapeDtypeStruct((), jnp.int32)}

        def inputs(poses: int) -> dict[str, jax.ShapeDtypeStruct]:
            return {
                "points": jax.ShapeDtypeStruct((self.raw_points, 3), jnp.float32),
                "poses": jax.ShapeDtypeStruct((poses, 3, 3), jnp.float32),
            }

        if train:
            return (Spec(inputs(1) | {"kept": jax.ShapeDtypeStruct((self.points,), jnp.int32)}, label),)
        return tuple(Spec(inputs(poses), label) for poses in dict.fromkeys((1, self.votes)))

    def inputs(self, batch: Batch) -> tuple[jax.Array, ...]:
        """The points of the features and those of the projection in the first pose, (n, points, 3)."""
        coordinates = self._farthest(batch["points"], self.points)
        return coordinates, transformed(coordinates, batch["poses"][:, 0])

    def abstract_variables(self, deploy: bool = False) -> dict[str, Any]:
        few = dataclasses.replace(self, points=32, raw_points=32, neighbours=1, view_size=2 * PATCH, object_size=None)
        return super(Points, few).abstract_variables(deploy)  # sizes that no variable depends on, quick to trace

    # ---- host

    def open_source(self, data: Mapping[str, Any], split: str) -> Any:
        return open_points(data["name"], split, data.get("dir") or None, self.up)

    def _read(self, example: Mapping[str, Any], rng: np.random.Generator) -> np.ndarray:
        """(raw_points, 3) float32, in random order."""
        points = shapes_of_points.points_of(example, self.raw_points, rng)
        if self.unit_sphere:
            points = shapes_of_points.in_unit_sphere(points)
        else:  # far from the origin, float32 may keep no shape
            points = shapes_of_points.checked(points.astype(np.float32), example["path"])
        return shapes_of_points.resized(points, self.raw_points, rng).astype(np.float32)

    def augmented(self, example: Mapping[str, Any], rng: np.random.Generator) -> dict[str, Any]:
        return {
            "points": self._read(example, rng),
            "poses": shapes_of_points.random_pose(rng, self.scale)[None],
            "kept": rng.permutation(self._spread)[: self.points].astype(np.int32),
            "label": example["label"],
            "id": example["id"],
        }

    @property
    def _spread(self) -> int:
        """Of how many farthest points a training example keeps a random subset: 1200 of 1024, as in the original."""
        return min(self.points * 75 // 64, self.raw_points)

    def prepared(self, example: Mapping[str, Any]) -> dict[str, Any]:
        points = self._read(example, np.random.default_rng(0))
        return {"points": points, "poses": _poses(self.votes), "label": example["label"], "id": example["id"]}

    def read(self, source: Any) -> list[Example]:
        """A file, or the points of a cloud, (N, 3) or more columns, of which `up` points upwards."""
        content = "points" if isinstance(source, np.ndarray) else "file"
        example = {"path": source_name(source), "up": self.up, content: source}
        points = self._read(example, np.random.default_rng(0))
        return [{"points": points, "poses": _poses(self.votes), "id": source_name(source)}]

    # ---- device

    def _farthest(self, points: jax.Array, count: int) -> jax.Array:
        """(n, count, 3): all points if there are no more."""
        if count == points.shape[1]:
            return points
        return jnp.take_along_axis(points, farthest_points(points, count)[..., None], axis=1)

    def _training_points(self, batch: Batch) -> tuple[jax.Array, jax.Array]:
        """The points of the features and those of the projection, (n, points, 3)."""
        points = self._farthest(batch["points"], self._spread)
        points = jnp.take_along_axis(points, batch["kept"][..., None], axis=1)
        return points, transformed(points, batch["poses"][:, 0])

    def preview(self, batch: Batch, rng: jax.Array) -> jax.Array:
        """The projections of all views side by side, brighter where more points are."""
        del rng
        seen = view_points(self._training_points(batch)[1], view_table(self.views))[:, : len(self.views)]
        shades = jnp.moveaxis(_densities(seen, self._object_size), 1, 2)
        return shades.reshape(*shades.shape[:2], -1, 1)

    def loss(
        self, apply: Apply, variables: Mapping[str, Any], batch: Batch, rng: jax.Array
    ) -> tuple[jax.Array, dict[str, Any]]:
        logits, batch_stats = apply_training(apply, variables, self._training_points(batch), rng)
        # As in the original, the smoothing goes to the other classes alone.
        others = self.label_smoothing / max(self.classes - 1, 1)
        own = jax.nn.one_hot(batch["label"], self.classes)
        losses = optax.softmax_cross_entropy(logits, own * (1 - self.label_smoothing) + (1 - own) * others)
        count, hits = jnp.float32(losses.size), jnp.argmax(logits, axis=-1) == batch["label"]
        scalars = {"loss": (jnp.sum(losses), count), "OA": (100 * jnp.sum(hits, dtype=jnp.float32), count)}
        return jnp.mean(losses), {"batch_stats": batch_stats, "scalars": scalars}

    def predict(self, apply: Apply, variables: Mapping[str, Any], inputs: Batch) -> dict[str, jax.Array]:
        """logits, scores: (n, classes), of the mean over the poses; each: (n, poses, classes), logits."""
        coordinates, poses = self._farthest(inputs["points"], self.points), inputs["poses"]

        def logits_of(pose: jax.Array) -> jax.Array:
            return apply(variables, coordinates, transformed(coordinates, pose))

        if poses.shape[1] == 1:
            each = logits_of(poses[:, 0])[:, None]
        else:  # one after the other: all at once would take as many times the memory
            each = jnp.moveaxis(jax.lax.map(logits_of, jnp.moveaxis(poses, 1, 0)), 0, 1)
        logits = jnp.mean(each, axis=1)
        return {"logits": logits, "scores": jax.nn.softmax(logits), "each": each}

    def features(self, trunk: Apply, variables: Mapping[str, Any], inputs: Batch) -> jax.Array:
        coordinates, poses = self._farthest(inputs["points"], self.points), jnp.moveaxis(inputs["poses"], 1, 0)
        # (poses, n * views, c): the trunk sees every view as a picture of its own.
        each = jax.lax.map(lambda pose: trunk(variables, coordinates, transformed(coordinates, pose)), poses)
        return jnp.mean(each.reshape(len(poses), len(coordinates), len(self.views), -1), axis=(0, 2))

    def totals(self, pred: Batch, batch: Batch) -> dict[str, jax.Array]:
        mask, label, logits = batch["mask"], batch["label"], pred["logits"]
        hits = misses(logits, label) < 1
        single = jnp.mean(jax.vmap(misses, (1, None), 1)(pred["each"], label) < 1, axis=1)
        own = jax.nn.one_hot(label, self.classes) * mask[:, None]
        return {
            "hits": jnp.sum(own * hits[:, None], axis=0),
            "shapes": jnp.sum(own, axis=0),
            "single": jnp.sum(mask * single),
            "loss": masked_sum(mask, optax.softmax_cross_entropy_with_integer_labels(logits, label)),
            "count": jnp.sum(mask),
        }

    # ---- host, afterwards

    def metrics(self, totals: Mapping[str, np.ndarray], records: list[Record]) -> dict[str, float]:
        """OA and mAcc: of all shapes and of the mean class, by votes; single: the mean accuracy of one pose."""
        del records
        count = counted(totals)
        hits, shapes = (np.asarray(totals[name], np.float64) for name in ("hits", "shapes"))
        there = shapes > 0  # a class without a shape has no accuracy
        return {
            "OA": 100 * float(hits.sum()) / count,
            "mAcc": 100 * float(np.mean(hits[there] / shapes[there])),
            "single": 100 * float(totals["single"]) / count,
            "loss": float(totals["loss"]) / count,
            "count": count,
        }

    def draw(self, examples: list[Example], records: list[Record]) -> Image.Image:
        """The projections of all views in the first pose, brighter where more points are, above the predictions."""
        from matplotlib import colormaps

        (example,) = examples
        points = transformed(jnp.asarray(example["points"])[None], example["poses"][:1])
        side = math.ceil(math.sqrt(len(self.views)))
        size = NARROW // side - 8
        shades = np.asarray(_densities(view_points(points, view_table(self.views)), size))[0, : len(self.views)]
        cells = np.full((side**2, size + 8, size + 8, 3), 255, np.uint8)  # the frames of views, and no view
        cells[: len(shades), 4:-4, 4:-4] = colormaps["magma"](shades, bytes=True)[..., :3]
        grid = cells.reshape(side, side, *cells.shape[1:]).swapaxes(1, 2).reshape(side * (size + 8), -1, 3)
        return captioned(Image.fromarray(grid), example["id"], records[0]["predictions"])


def _poses(votes: int) -> np.ndarray:
    if votes not in shapes_of_points.ANGLES:
        raise ValueError(f"votes is {votes!r}; expected one of {', '.join(map(str, shapes_of_points.ANGLES))}.")
    return shapes_of_points.fixed_poses(votes)


def _densities(points: jax.Array, size: int) -> jax.Array:
    """(n, v, size, size) in 0..1: how many points (n, v, N, 3) fall on each pixel, on a logarithmic scale."""
    flat = flat_pixels(pixels_of(points, size), size)
    counts = jax.vmap(jax.vmap(lambda index: jnp.bincount(index, length=size * size)))(flat)
    shades = jnp.log1p(counts) / jnp.log1p(jnp.max(counts, axis=-1, keepdims=True))
    return shades.reshape(*counts.shape[:2], size, size)
