"""Classification of sets of points and of meshes: rendered views of a shape are the maps.

Paper: section 3.3 of the journal version, with "three-view projections". Original: Point/, after P2P, where each of
four views is a picture of its own; two of the four are mirror images of the other two.
"""

import dataclasses
import functools
import math
from collections.abc import Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import optax
from PIL import Image

from unireplknet_jax.data.base import labels_of_splits
from unireplknet_jax.data.broken import AugmentedExamples, TransformedExamples, without_broken
from unireplknet_jax.data.label_names import read_labels
from unireplknet_jax.data.pipeline import training_stream
from unireplknet_jax.data.shapes import points as shapes_of_points
from unireplknet_jax.data.shapes.sets import open_points
from unireplknet_jax.models import torch_names
from unireplknet_jax.models.shapes import abstract_variables
from unireplknet_jax.models.unireplknet import UniRepLKNet
from unireplknet_jax.models.variants import create_model
from unireplknet_jax.models.zoo import IMAGENET_MEAN, IMAGENET_STD
from unireplknet_jax.nn.projection import DISTINCT, PATCH, ProjectionClassifier, RenderingEncoder, view_table
from unireplknet_jax.ops.farthest_point import farthest_points
from unireplknet_jax.ops.projection import flat_pixels, pixels_of, transformed, view_points
from unireplknet_jax.tasks.base import check_number
from unireplknet_jax.tasks.classification import Classification, captioned, freeze

TORCH_MODULES = {
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
_ENCODER = ("trans_dim", "graph_dim", "fusion")
_HEAD = ("num_classes", "head_init_scale")
_NUMBERS = ("points", "raw_points", "neighbours", "object_size", "view_size")


@dataclasses.dataclass(frozen=True)
class Points:
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
        40 (its test); data["votes"] takes another number, as recipes do in training.
    Augmentation in training: another subset of points, a random pose and random scales within `scale`, or None.
    """

    model: Mapping[str, Any]
    labels: tuple[str, ...] = ()
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
    makes_records: ClassVar[bool] = False
    units: ClassVar[Mapping[str, str]] = {"OA": "%", "mAcc": "%", "single": "%", "loss": "nats", "count": "shapes"}

    def __post_init__(self):
        for field in ("model", "labels", "views", "mean", "std", "scale"):
            object.__setattr__(self, field, freeze(getattr(self, field)))
        for field in _NUMBERS:
            value = getattr(self, field)
            if value is not None and not (isinstance(value, int) and value > 0):
                raise ValueError(f"{field}={value} must be a positive whole number.")
        check_number("label_smoothing", self.label_smoothing, "0 or more and below 1")
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
        if not self._waits and self.labels and self._classes != len(self.labels):
            raise ValueError(f"{len(self.labels)} labels do not fit a model of {self._classes} classes.")
        if not self._waits:
            self.module()

    @property
    def options(self):
        fields = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name != "labels"}
        return fields | {"model": dict(self.model)}

    @property
    def _classes(self):
        return dict(self.model)["num_classes"]

    @property
    def _waits(self):
        return dict(self.model).get("num_classes") == 0

    @property
    def _object_size(self):
        return self.object_size or self.view_size

    def fitted_to(self, data):
        """The task with the classes of the training data, where the model's num_classes is 0 or it has no labels.

        Raises ValueError if the training and the evaluation split have other classes or another order of them.
        """
        labels = labels_of_splits(self._open, data)
        if self.labels or (not self._waits and self._classes != len(labels)):
            return self
        return dataclasses.replace(self, model=dict(self.model) | {"num_classes": len(labels)}, labels=labels)

    def module(self, deploy=False):
        if self._waits:
            raise ValueError("the number of classes is left to the data; give model.num_classes where there is none.")
        options, views = dict(self.model), len(self.views)
        head = {name: options.pop(name) for name in _HEAD if name in options}
        encoder = {name: options.pop(name) for name in _ENCODER if name in options}
        options["dtype"] = jnp.dtype(options.get("dtype", "float32"))
        group = options.get("bn_group")
        options |= {"num_classes": None, "in_chans": 3, "deploy": deploy, "bn_group": group and views * group}
        name = options.pop("name", None)
        trunk = create_model(name, **options) if name else UniRepLKNet(**options)
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

    def shapes(self, train):
        def example(count, poses):
            return {
                "points": jax.ShapeDtypeStruct((count, 3), jnp.float32),
                "poses": jax.ShapeDtypeStruct((poses, 3, 3), jnp.float32),
                "label": jax.ShapeDtypeStruct((), jnp.int32),
            }

        if train:
            return (example(self.raw_points, 1) | {"kept": jax.ShapeDtypeStruct((self.points,), jnp.int32)},)
        return tuple(example(self.raw_points, poses) for poses in dict.fromkeys((1, self.votes)))

    # ---- host

    def _open(self, data, split):
        return open_points(data["name"], split, data.get("dir") or None, self.up)

    def dataset(self, data, split, train):
        import grain

        source, broken, why = self._open(data, split), data.get("broken", "refuse"), shapes_of_points.why_broken
        if len(source.labels) != self._classes:
            raise ValueError(f"{data['name']} has {len(source.labels)} classes, but the model has {self._classes}.")
        if train:
            examples = AugmentedExamples(source, self._augmented, broken, why)
            return training_stream(range(len(source)), examples, data["seed"])
        source = without_broken(source, why=why) if broken == "skip" else source
        plain = functools.partial(self._plain, data.get("votes") or self.votes)
        return grain.MapDataset.source(TransformedExamples(source, plain, why))

    def _read(self, example, rng):
        """(raw_points, 3) float32, in random order."""
        points = shapes_of_points.points_of(example, self.raw_points, rng)
        if self.unit_sphere:
            points = shapes_of_points.in_unit_sphere(points)
        else:  # far from the origin, float32 may keep no shape
            points = shapes_of_points.checked(points.astype(np.float32), example["path"])
        return shapes_of_points.resized(points, self.raw_points, rng).astype(np.float32)

    def _augmented(self, example, rng):
        return {
            "points": self._read(example, rng),
            "poses": shapes_of_points.random_pose(rng, self.scale)[None],
            "kept": rng.permutation(self._spread)[: self.points].astype(np.int32),
            "label": example["label"],
            "id": example["id"],
        }

    @property
    def _spread(self):
        """Of how many farthest points a training example keeps a random subset: 1200 of 1024, as in the original."""
        return min(self.points * 75 // 64, self.raw_points)

    def _plain(self, votes, example):
        points = self._read(example, np.random.default_rng(0))
        return {"points": points, "poses": _poses(votes), "label": example["label"], "id": example["id"]}

    def read(self, source):
        points = self._read({"path": str(source), "up": self.up}, np.random.default_rng(0))
        return [{"points": points, "poses": _poses(self.votes), "id": str(source)}]

    # ---- device

    def _farthest(self, points, count):
        """(n, count, 3): all points if there are no more."""
        if count == points.shape[1]:
            return points
        return jnp.take_along_axis(points, farthest_points(points, count)[..., None], axis=1)

    def _training_points(self, batch):
        """The points of the features and those of the projection, (n, points, 3)."""
        points = self._farthest(batch["points"], self._spread)
        points = jnp.take_along_axis(points, batch["kept"][..., None], axis=1)
        return points, transformed(points, batch["poses"][:, 0])

    def preview(self, batch, rng):
        """The projections of all views side by side, brighter where more points are."""
        del rng
        seen = view_points(self._training_points(batch)[1], view_table(self.views))[:, : len(self.views)]
        shades = jnp.moveaxis(_densities(seen, self._object_size), 1, 2)
        return shades.reshape(*shades.shape[:2], -1, 1)

    def loss(self, apply, variables, batch, rng):
        coordinates, positions = self._training_points(batch)
        logits, updates = apply(
            variables, coordinates, positions, train=True, rngs={"dropout": rng}, mutable=["batch_stats"]
        )
        # As in the original, the smoothing goes to the other classes alone.
        others = self.label_smoothing / max(self._classes - 1, 1)
        own = jax.nn.one_hot(batch["label"], self._classes)
        losses = optax.softmax_cross_entropy(logits, own * (1 - self.label_smoothing) + (1 - own) * others)
        count, hits = jnp.float32(losses.size), jnp.argmax(logits, axis=-1) == batch["label"]
        scalars = {"loss": (jnp.sum(losses), count), "OA": (100 * jnp.sum(hits, dtype=jnp.float32), count)}
        return jnp.mean(losses), {"batch_stats": updates.get("batch_stats", {}), "scalars": scalars}

    def predict(self, apply, variables, batch):
        """logits: (n, classes), the mean over the poses; each: (n, poses, classes)."""
        coordinates, poses = self._farthest(batch["points"], self.points), batch["poses"]

        def logits_of(pose):
            return apply(variables, coordinates, transformed(coordinates, pose))

        if poses.shape[1] == 1:
            each = logits_of(poses[:, 0])[:, None]
        else:  # one after the other: all at once would take as many times the memory
            each = jnp.moveaxis(jax.lax.map(logits_of, jnp.moveaxis(poses, 1, 0)), 0, 1)
        return {"logits": jnp.mean(each, axis=1), "each": each}

    def totals(self, pred, batch):
        mask, label, logits = batch["mask"], batch["label"], pred["logits"]
        hits, single = _hits(logits, label), jnp.mean(jax.vmap(_hits, (1, None), 1)(pred["each"], label), axis=1)
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, label)
        own = jax.nn.one_hot(label, self._classes) * mask[:, None]
        return {
            "hits": jnp.sum(own * hits[:, None], axis=0),
            "shapes": jnp.sum(own, axis=0),
            "single": jnp.sum(mask * single),
            "loss": jnp.sum(jnp.where(mask > 0, losses, 0.0)),
            "count": jnp.sum(mask),
        }

    # ---- host, afterwards

    record, _label = Classification.record, Classification._label

    def metrics(self, totals, records):
        """OA and mAcc: of all shapes and of the mean class, by votes; single: the mean accuracy of one pose."""
        del records
        count = float(totals["count"])
        if not count:
            raise ValueError("there is nothing to evaluate: the data set is empty.")
        hits, shapes = (np.asarray(totals[name], np.float64) for name in ("hits", "shapes"))
        there = shapes > 0  # a class without a shape has no accuracy
        return {
            "OA": 100 * float(hits.sum()) / count,
            "mAcc": 100 * float(np.mean(hits[there] / shapes[there])),
            "single": 100 * float(totals["single"]) / count,
            "loss": float(totals["loss"]) / count,
            "count": count,
        }

    def draw(self, source, records):
        """The projections of all views in the first pose, brighter where more points are, above the predictions."""
        from matplotlib import colormaps

        (example,) = self.read(source)
        points = transformed(jnp.asarray(example["points"])[None], example["poses"][:1])
        shades = np.asarray(_densities(view_points(points, view_table(self.views)), 104))[0, : len(self.views)]
        side = math.ceil(math.sqrt(len(shades)))
        shades = np.pad(shades, ((0, side**2 - len(shades)), (4, 4), (4, 4)))
        shades = shades.reshape(side, side, 112, 112).swapaxes(1, 2).reshape(side * 112, side * 112)
        picture = Image.fromarray(colormaps["magma"](shades, bytes=True)[..., :3])
        return captioned(picture, records[0]["predictions"])

    # ---- checkpoints

    @classmethod
    def matches(cls, shapes):
        return "enc.img_layer.weight" in shapes and any(name.startswith("base_model.stages.") for name in shapes)

    @classmethod
    def from_torch_shapes(cls, shapes):
        """The task of a file; neighbours and sizes, which tensors do not tell, are those of the original's recipe."""
        trunk = {name.removeprefix("base_model."): shape for name, shape in shapes.items() if "base_model." in name}
        options = torch_names.infer_options(trunk)
        deploy = options.pop("deploy")
        options = {name: options[name] for name in ("depths", "dims", "kernel_sizes", "layer_scale_init")}
        for name, tensor in (("trans_dim", "enc.input_trans.weight"), ("graph_dim", "enc.graph_layer.0.weight")):
            options[name] = next(iter(shapes.get(tensor, (4,))))
        options["fusion"] = any(name.startswith("enc.fusion.") for name in shapes)
        options["num_classes"] = next(iter(shapes.get("cls_head.cls_head.weight", (1,))))
        width = next(iter(shapes.get("cls_head.norm.weight", (0,))))
        views = tuple(range(min(max(width // options["dims"][-1], 1), 10)))
        known = {40: "modelnet40", 15: "scanobjectnn"}.get(options["num_classes"])
        return cls(options, read_labels(known) if known else (), views=views), deploy

    @classmethod
    def names_of(cls, variables):
        return torch_names.name_table(variables, TORCH_MODULES)

    def name_table(self, deploy=False):
        return _name_table(dataclasses.replace(self, points=32, raw_points=32, view_size=28, object_size=None), deploy)


@functools.lru_cache(maxsize=8)  # the layers around the trunk are traced
def _name_table(task, deploy):
    cloud = jax.ShapeDtypeStruct((1, task.points, 3), jnp.float32)
    return Points.names_of(abstract_variables(task.module(deploy), cloud, cloud))


def _poses(votes):
    if votes not in shapes_of_points.ANGLES:
        raise ValueError(f"votes is {votes!r}; expected one of {', '.join(map(str, shapes_of_points.ANGLES))}.")
    return shapes_of_points.fixed_poses(votes)


def _hits(logits, label):
    """Whether the label's logit is above all others; ties count against us, and so does a network that gives NaN."""
    own = jnp.take_along_axis(logits, label[..., None], axis=-1)
    return jnp.isfinite(own[..., 0]) & (jnp.sum(~(logits < own), axis=-1) == 1)


def _densities(points, size):
    """(n, v, size, size) in 0..1: how many points (n, v, N, 3) fall on each pixel, on a logarithmic scale."""
    flat = flat_pixels(pixels_of(points, size), size)
    counts = jax.vmap(jax.vmap(lambda index: jnp.bincount(index, length=size * size)))(flat)
    shades = jnp.log1p(counts) / jnp.log1p(jnp.max(counts, axis=-1, keepdims=True))
    return shades.reshape(*counts.shape[:2], size, size)
