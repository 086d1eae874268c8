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

from unireplknet_jax.data.base import labels_of_splits
from unireplknet_jax.data.broken import AugmentedExamples, TransformedExamples, without_broken
from unireplknet_jax.data.pictures import transforms as images
from unireplknet_jax.data.pictures.decode import read_image, why_broken
from unireplknet_jax.data.pictures.sets import open_source
from unireplknet_jax.data.pipeline import training_stream
from unireplknet_jax.models import torch_names
from unireplknet_jax.models.shapes import abstract_variables
from unireplknet_jax.models.unireplknet import UniRepLKNet
from unireplknet_jax.models.variants import create_model
from unireplknet_jax.models.zoo import IMAGENET_MEAN, IMAGENET_STD
from unireplknet_jax.ops.augment import mix_batch, random_erasing
from unireplknet_jax.tasks.base import check_number

_NUMBERS = {
    "image_size": "1 or more",
    "label_smoothing": "0 or more and below 1",
    "crop_padding": "0 or more",
    "random_erasing": "from 0 to 1",
    "mixup": "0 or more",
    "cutmix": "0 or more",
    "mixup_prob": "from 0 to 1",
    "mixup_switch_prob": "from 0 to 1",
}


@dataclasses.dataclass(frozen=True)
class Classification:
    """Classify square images.

    model: keyword arguments of the network; "name" is a published size whose fields the others override; num_classes=0
        waits for `fitted_to`.
    image_size: pixels; resize: "crop" or "warp", None: the official rule for this size (`transforms.eval_transform`).
    mean, std: per channel, of pixels scaled to 0..1.
    Augmentation of training images, in this order: crop_scale, the bounds of the area of a random resized crop, or
    None, then crop_padding, the pixels of a random crop out of a padded image; flip; rand_augment, a policy of
    `pictures.randaugment`; on the device random_erasing, a probability; mixup and cutmix, the parameters of their Beta
    distributions (0: off), of which one is drawn by mixup_switch_prob, with probability mixup_prob, for every
    `bn_group` of the model, as on one GPU of the original.
    """

    model: Mapping[str, Any]
    labels: tuple[str, ...] = ()
    image_size: int = 224
    resize: str | None = None
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    label_smoothing: float = 0.0
    crop_scale: tuple[float, float] | None = None
    crop_padding: int = 0
    flip: bool = False
    rand_augment: str = ""
    random_erasing: float = 0.0
    mixup: float = 0.0
    cutmix: float = 0.0
    mixup_prob: float = 1.0
    mixup_switch_prob: float = 0.5

    name: ClassVar[str] = "classification"
    makes_records: ClassVar[bool] = False
    units: ClassVar[Mapping[str, str]] = {"top1": "%", "top5": "%", "loss": "nats", "count": "examples"}

    def __post_init__(self):
        for field in ("model", "labels", "mean", "std", "crop_scale"):
            object.__setattr__(self, field, freeze(getattr(self, field)))
        if not self._waits:
            network = self.module()
            if self.labels and network.num_classes != len(self.labels):
                raise ValueError(f"{len(self.labels)} labels do not fit a model of {network.num_classes} classes.")
            if not len(self.mean) == len(self.std) == network.in_chans:
                raise ValueError(f"mean and std need one value for each of {network.in_chans} channels.")
        for field, allowed in _NUMBERS.items():
            check_number(field, getattr(self, field), allowed)
        for field in ("image_size", "crop_padding"):
            if not isinstance(getattr(self, field), int):
                raise ValueError(f"{field}={getattr(self, field)} must be a whole number.")
        for field, allowed in (("mean", "from 0 to 1"), ("std", "above 0")):
            for value in getattr(self, field):
                check_number(field, value, allowed)
        if self.crop_scale is not None and not (
            len(self.crop_scale) == 2 and 0 < self.crop_scale[0] <= self.crop_scale[1] <= 1
        ):
            raise ValueError(f"crop_scale={self.crop_scale} must be two shares of the area, 0 < low <= high <= 1.")
        _train_transform(self)  # so that a wrong rand_augment is refused now, not in the first batch

    @property
    def options(self):
        fields = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name != "labels"}
        return fields | {"model": dict(self.model)}

    @property
    def _waits(self):
        return dict(self.model).get("num_classes") == 0

    def fitted_to(self, data):
        """The task with the classes of the training data, where the model's num_classes is 0; else itself.

        Raises ValueError if the training and the evaluation split have other classes or another order of them.
        """
        labels = labels_of_splits(self._open, data)
        if not self._waits:
            return self
        return dataclasses.replace(self, model=dict(self.model) | {"num_classes": len(labels)}, labels=labels)

    def module(self, deploy=False):
        if self._waits:
            raise ValueError("the number of classes is left to the data; give model.num_classes where there is none.")
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

    @staticmethod
    def _open(data, split):
        return open_source(data["name"], split, data.get("dir") or None)

    def dataset(self, data, split, train):
        import grain

        source = self._open(data, split)
        classes = self.module().num_classes
        if len(source.labels) != classes:
            raise ValueError(f"{data['name']} has {len(source.labels)} classes, but the model has {classes}.")
        broken = data.get("broken", "refuse")
        if train:
            examples = AugmentedExamples(source, self._augment, broken, why_broken)
            return training_stream(range(len(source)), examples, data["seed"])
        source = without_broken(source, why_broken) if broken == "skip" else source
        return grain.MapDataset.source(TransformedExamples(source, self._resize, why_broken))

    def _augment(self, example, rng):
        return {**example, "image": self._channels(_train_transform(self)(example["image"], rng))}

    def _resize(self, example):
        picture = images.eval_transform(example["image"], self.image_size, self.resize)
        return {**example, "image": self._channels(picture)}

    def read(self, source):
        picture = images.eval_transform(read_image(source), self.image_size, self.resize)
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

    def _normalize(self, pixels):
        """(..., c) uint8 -> float32."""
        mean, std = jnp.asarray(self.mean, jnp.float32), jnp.asarray(self.std, jnp.float32)
        return (pixels.astype(jnp.float32) / 255 - mean) / std

    def _training_inputs(self, batch, rng):
        """Normalized, erased and mixed images (n, h, w, c) and their soft targets (n, classes)."""
        return self._augmented(self._normalize(batch["image"]), batch["label"], rng)

    def _augmented(self, inputs, label, rng):
        """Erased and mixed maps (n, h, w, c), normalized, and their soft targets (n, classes)."""
        network = self.module()
        if self.random_erasing:
            inputs = random_erasing(jax.random.fold_in(rng, 0), inputs, self.random_erasing)
        targets = optax.smooth_labels(jax.nn.one_hot(label, network.num_classes), self.label_smoothing)
        if not self._mixes:
            return inputs, targets
        return mix_batch(
            jax.random.fold_in(rng, 1),
            inputs,
            targets,
            mixup=self.mixup,
            cutmix=self.cutmix,
            probability=self.mixup_prob,
            switch_probability=self.mixup_switch_prob,
            group=network.bn_group,
        )

    @property
    def _mixes(self):
        return self.mixup > 0 or self.cutmix > 0

    def preview(self, batch, rng):
        inputs, _ = self._training_inputs(batch, rng)
        return jnp.clip(inputs * jnp.asarray(self.std) + jnp.asarray(self.mean), 0, 1)

    def loss(self, apply, variables, batch, rng):
        inputs, targets = self._training_inputs(batch, rng)
        logits, updates = apply(variables, inputs, train=True, rngs={"dropout": rng}, mutable=["batch_stats"])
        losses = optax.softmax_cross_entropy(logits, targets)
        count = jnp.float32(losses.size)
        scalars = {"loss": (jnp.sum(losses), count)}
        if not self._mixes:  # a mixed image has no class to hit
            hits = jnp.argmax(logits, axis=-1) == batch["label"]
            scalars["top1"] = (100 * jnp.sum(hits, dtype=jnp.float32), count)
        return jnp.mean(losses), {"batch_stats": updates.get("batch_stats", {}), "scalars": scalars}

    def predict(self, apply, variables, batch):
        return {"logits": apply(variables, self._normalize(batch["image"]))}

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
        return captioned(read_image(source), records[0]["predictions"])

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

    @classmethod
    def names_of(cls, variables):
        return torch_names.name_table(variables)

    def name_table(self, deploy=False):
        return torch_names.name_table(abstract_variables(self.module(deploy)))


def captioned(picture, predictions, size=224):
    """A picture, brought to `size` pixels, above the three best of its predictions."""
    scale = size / max(picture.size)
    picture = picture.resize([max(1, round(side * scale)) for side in picture.size], Image.Resampling.NEAREST)
    canvas = Image.new("RGB", (size, size + 54), "white")
    canvas.paste(picture, ((size - picture.width) // 2, (size - picture.height) // 2))
    text = [f"{row['label'][:26]} {100 * row['score']:.1f} %" for row in predictions[:3]]
    ImageDraw.Draw(canvas).multiline_text((8, size + 4), "\n".join(text), fill="black", spacing=3)
    return canvas


@functools.lru_cache(maxsize=4)
def _train_transform(task):
    return images.TrainTransform(
        task.image_size,
        scale=task.crop_scale or (1.0, 1.0),
        flip=task.flip,
        rand_augment=task.rand_augment or None,
        crop_padding=None if task.crop_scale else task.crop_padding,
        fill=tuple(round(255 * mean) for mean in task.mean),
    )


def freeze(value):
    """Hashable, and what JSON can hold: lists to tuples, mappings to sorted tuples of items, dtypes to their names."""
    if isinstance(value, Mapping):
        return tuple(sorted((key, freeze(item)) for key, item in value.items()))
    if isinstance(value, (list, tuple)):
        return tuple(freeze(item) for item in value)
    if isinstance(value, np.generic):
        return value.item()
    return value if isinstance(value, (str, int, float, type(None))) else jnp.dtype(value).name
