"""Image classification: an image is the map; cross-entropy, top-1 and top-5 accuracy in percent."""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import optax
from PIL import Image, ImageDraw

from unireplknet_jax.data import image as images
from unireplknet_jax.data.pipeline import training_stream
from unireplknet_jax.data.sources import open_source
from unireplknet_jax.models import torch_names
from unireplknet_jax.models.unireplknet import UniRepLKNet
from unireplknet_jax.models.variants import create_model
from unireplknet_jax.models.zoo import IMAGENET_MEAN, IMAGENET_STD


@dataclasses.dataclass(frozen=True)
class Classification:
    """Classify square images.

    model: keyword arguments of the network; "name" is a published size whose fields the others override.
    image_size: pixels; resize: "crop" or "warp", None: the official rule for this size (`data.image.eval_transform`).
    mean, std: per channel, of pixels scaled to 0..1. crop_padding (pixels), flip: augmentation of training images.
    """

    model: Mapping[str, Any]
    labels: tuple[str, ...] = ()
    image_size: int = 224
    resize: str | None = None
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    label_smoothing: float = 0.0
    crop_padding: int = 0
    flip: bool = False

    name: ClassVar[str] = "classification"
    units: ClassVar[Mapping[str, str]] = {"top1": "%", "top5": "%", "loss": "nats", "count": "examples"}

    def __post_init__(self):
        for field in ("model", "labels", "mean", "std"):
            object.__setattr__(self, field, _freeze(getattr(self, field)))
        network = self.module()
        if self.labels and network.num_classes != len(self.labels):
            raise ValueError(f"{len(self.labels)} labels do not fit a model of {network.num_classes} classes.")
        if not len(self.mean) == len(self.std) == network.in_chans:
            raise ValueError(f"mean and std need one value for each of {network.in_chans} channels.")
        if not isinstance(self.image_size, int) or self.image_size < 1 or not all(value > 0 for value in self.std):
            raise ValueError(f"image_size={self.image_size!r} must be a positive integer and std={self.std} positive.")

    @property
    def options(self):
        fields = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name != "labels"}
        return fields | {"model": dict(self.model)}

    def module(self, deploy=False):
        options = {**dict(self.model), "deploy": deploy}
        if "dtype" in options:
            options["dtype"] = jnp.dtype(options["dtype"])
        name = options.pop("name", None)
        return create_model(name, **options) if name else UniRepLKNet(**options)

    def shapes(self, train):
        del train
        image = jax.ShapeDtypeStruct((self.image_size, self.image_size, len(self.mean)), jnp.uint8)
        return ({"image": image, "label": jax.ShapeDtypeStruct((), jnp.int32)},)

    # ---- host

    def dataset(self, data, split, train):
        import grain

        source = open_source(data["name"], split, data.get("dir") or None)
        classes = self.module().num_classes
        if len(source.labels) != classes:
            raise ValueError(f"{data['name']} has {len(source.labels)} classes, but the model has {classes}.")
        source = _Resized(source, self)
        if train:
            return training_stream(source, self._augment, data["seed"])
        return grain.MapDataset.source(source)

    def _augment(self, example, rng):
        picture = example["image"]
        if self.crop_padding:
            picture = images.random_crop_pad(picture, self.crop_padding, rng)
        if self.flip:
            picture = images.horizontal_flip(picture, rng)
        return {**example, "image": picture}

    def read(self, source):
        picture = images.eval_transform(images.read_image(source), self.image_size, self.resize)
        return [{"image": self._channels(picture), "id": str(source)}]

    def _channels(self, picture):
        """(h, w, 1 or 3) uint8 -> (h, w, in_chans): luma for one channel, grey repeated for three."""
        if picture.shape[-1] == len(self.mean):
            return picture
        if len(self.mean) == 1:
            return np.asarray(Image.fromarray(picture).convert("L"))[..., None]
        if len(self.mean) == 3:
            return np.repeat(picture, 3, axis=-1)
        raise ValueError(f"pictures have 1 or 3 channels, but this model takes {len(self.mean)}.")

    # ---- device

    def _normalize(self, batch):
        mean, std = jnp.asarray(self.mean, jnp.float32), jnp.asarray(self.std, jnp.float32)
        return (batch["image"].astype(jnp.float32) / 255 - mean) / std

    def loss(self, apply, variables, batch, rng):
        logits, updates = apply(
            variables, self._normalize(batch), train=True, rngs={"dropout": rng}, mutable=["batch_stats"]
        )
        targets = optax.smooth_labels(jax.nn.one_hot(batch["label"], logits.shape[-1]), self.label_smoothing)
        losses = optax.softmax_cross_entropy(logits, targets)
        hits = jnp.argmax(logits, axis=-1) == batch["label"]
        count = jnp.float32(losses.size)
        scalars = {"loss": (jnp.sum(losses), count), "top1": (100 * jnp.sum(hits, dtype=jnp.float32), count)}
        return jnp.mean(losses), {"batch_stats": updates.get("batch_stats", {}), "scalars": scalars}

    def predict(self, apply, variables, batch):
        return {"logits": apply(variables, self._normalize(batch))}

    def totals(self, pred, batch):
        mask, label, logits = batch["mask"], batch["label"], pred["logits"]
        own = jnp.take_along_axis(logits, label[:, None], axis=-1)
        # Ties count against us, and so does a network that gives NaN, however few classes there are.
        others = jnp.where(jnp.isfinite(own[:, 0]), jnp.sum(~(logits < own), axis=-1) - 1, np.inf)
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, label)
        return {
            "top1": jnp.sum(mask * (others < 1)),
            "top5": jnp.sum(mask * (others < 5)),
            "loss": jnp.sum(jnp.where(mask > 0, losses, 0.0)),
            "count": jnp.sum(mask),
        }

    # ---- host, afterwards

    def record(self, pred, example):
        if "label" in example:
            return None
        logits = np.asarray(pred["logits"], np.float64)
        scores = np.exp(logits - logits.max())
        scores /= scores.sum()
        order = np.argsort(-scores, kind="stable")
        ranked = [{"index": int(i), "label": self._label(i), "score": float(scores[i])} for i in order]
        return {"id": example["id"], "predictions": ranked}

    def _label(self, index):
        return self.labels[index] if self.labels else f"class {index}"

    def metrics(self, totals, records):
        del records
        count = float(totals["count"])
        if not count:
            raise ValueError("there is nothing to evaluate: the data set is empty.")
        percent = {name: 100 * float(totals[name]) / count for name in ("top1", "top5")}
        return {**percent, "loss": float(totals["loss"]) / count, "count": count}

    def draw(self, source, records):
        picture = images.read_image(source)
        scale = 224 / max(picture.size)
        picture = picture.resize([max(1, round(side * scale)) for side in picture.size], Image.Resampling.NEAREST)
        canvas = Image.new("RGB", (224, 224 + 54), "white")
        canvas.paste(picture, ((224 - picture.width) // 2, (224 - picture.height) // 2))
        text = [f"{row['label'][:26]} {100 * row['score']:.1f} %" for row in records[0]["predictions"][:3]]
        ImageDraw.Draw(canvas).multiline_text((8, 228), "\n".join(text), fill="black", spacing=3)
        return canvas

    # ---- checkpoints

    @classmethod
    def matches(cls, names):
        return any(name.startswith("stages.") for name in names)

    @classmethod
    def from_torch_shapes(cls, shapes):
        options = torch_names.infer_options(shapes)
        deploy = options.pop("deploy")
        channels = options["in_chans"]
        if channels == 3:
            return cls(model=options), deploy
        return cls(model=options, mean=(0.5,) * channels, std=(0.5,) * channels), deploy

    def name_table(self, deploy=False):
        return _name_table(self.module(deploy))


@functools.lru_cache(maxsize=8)  # tracing a deep network takes seconds
def _name_table(module):
    return torch_names.name_table(torch_names.abstract_variables(module))


class _Resized:
    """A source whose images have the task's size and channels; picklable, for worker processes."""

    def __init__(self, source, task):
        self.source, self.task = source, task

    def __len__(self):
        return len(self.source)

    def __getitem__(self, index):
        example = self.source[index]
        picture = images.eval_transform(example["image"], self.task.image_size, self.task.resize)
        return {**example, "image": self.task._channels(picture)}


def _freeze(value):
    """Hashable, and what JSON can hold: lists to tuples, mappings to sorted tuples of items, dtypes to their names."""
    if isinstance(value, Mapping):
        return tuple(sorted((key, _freeze(item)) for key, item in value.items()))
    if isinstance(value, (list, tuple)):
        return tuple(_freeze(item) for item in value)
    if isinstance(value, np.generic):
        return value.item()
    return value if isinstance(value, (str, int, float, type(None))) else jnp.dtype(value).name
