"""What pictures and clips share: square RGB pixels, their augmentation, cross-entropy, top-1 and top-5 accuracy."""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import optax
from PIL import Image

from unireplknet_jax.models.unireplknet import UniRepLKNet
from unireplknet_jax.models.zoo import IMAGENET_MEAN, IMAGENET_STD
from unireplknet_jax.ops.augment import mix_batch, random_erasing
from unireplknet_jax.tasks.base import Apply, Batch, Record
from unireplknet_jax.tasks.labelled import Labelled, counted, masked_sum, misses
from unireplknet_jax.tasks.options import check_number
from unireplknet_jax.tasks.training import apply_training


@dataclasses.dataclass(frozen=True)
class PixelClassifier(Labelled):
    """Classify what is made of square pictures of `image_size` pixels.

    model: keyword arguments of the network; "name" is a published size whose fields the others override; num_classes=0
        waits for `fitted_to`.
    mean, std: per channel, of pixels scaled to 0..1.
    Augmentation in training: crop_scale, the bounds of the area of a random resized crop, or None; flip; rand_augment,
    a policy of `data.pictures.randaugment`; on the device random_erasing, a probability; mixup and cutmix, the
    parameters of their Beta distributions (0: off), of which one is drawn by mixup_switch_prob, with probability
    mixup_prob, for every `bn_group` of the model, as on one GPU of the original.
    """

    image_size: int = 224
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    label_smoothing: float = 0.0
    crop_scale: tuple[float, float] | None = None
    flip: bool = False
    rand_augment: str = ""
    random_erasing: float = 0.0
    mixup: float = 0.0
    cutmix: float = 0.0
    mixup_prob: float = 1.0
    mixup_switch_prob: float = 0.5

    units: ClassVar[Mapping[str, str]] = {"top1": "%", "top5": "%", "loss": "nats", "count": "examples"}
    augmentations: ClassVar[tuple[str, ...]] = ("crop_scale", "flip", "rand_augment", "random_erasing")
    absent: ClassVar[Mapping[str, str]] = {"top5": "of five classes and fewer it would always be 100"}
    numbers: ClassVar[Mapping[str, str]] = {
        "image_size": "1 or more",
        "label_smoothing": "0 or more and below 1",
        "random_erasing": "from 0 to 1",
        "mixup": "0 or more",
        "cutmix": "0 or more",
        "mixup_prob": "from 0 to 1",
        "mixup_switch_prob": "from 0 to 1",
    }

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.waits and not len(self.mean) == len(self.std) == self.module().in_chans:
            raise ValueError(f"mean and std need one value for each of {self.module().in_chans} channels.")
        for field, allowed in (("mean", "from 0 to 1"), ("std", "above 0")):
            for value in getattr(self, field):
                check_number(field, value, allowed)
        if self.crop_scale is not None and not (
            len(self.crop_scale) == 2 and 0 < self.crop_scale[0] <= self.crop_scale[1] <= 1
        ):
            raise ValueError(f"crop_scale={self.crop_scale} must be two shares of the area, 0 < low <= high <= 1.")

    def module(self, deploy: bool = False) -> UniRepLKNet:
        self.require_classes()
        return self.trunk(deploy=deploy)

    def with_channels(self, picture: np.ndarray) -> np.ndarray:
        """(h, w, 1 or 3) uint8 -> (h, w, in_chans): luma for one channel, grey repeated for three."""
        if picture.shape[-1] == len(self.mean):
            return picture
        if len(self.mean) == 1:
            return np.asarray(Image.fromarray(picture).convert("L"))[..., None]
        if len(self.mean) == 3:
            return np.repeat(picture, 3, axis=-1)
        raise ValueError(f"pictures have 1 or 3 channels, but this model takes {len(self.mean)}.")

    # ---- device

    def normalized(self, pixels: jax.Array) -> jax.Array:
        """(..., c) uint8 -> float32."""
        mean, std = jnp.asarray(self.mean, jnp.float32), jnp.asarray(self.std, jnp.float32)
        return (pixels.astype(jnp.float32) / 255 - mean) / std

    def training_inputs(self, batch: Batch, rng: jax.Array) -> tuple[jax.Array, jax.Array]:
        """What the network is trained on, normalized, erased and mixed, and its soft targets (n, classes)."""
        raise NotImplementedError

    def erased_and_mixed(self, inputs: jax.Array, label: jax.Array, rng: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Erased and mixed maps (n, h, w, c), normalized, and their soft targets (n, classes)."""
        network = self.module()
        if self.random_erasing:
            inputs = random_erasing(jax.random.fold_in(rng, 0), inputs, self.random_erasing)
        targets = optax.smooth_labels(jax.nn.one_hot(label, self.classes), self.label_smoothing)
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
    def _mixes(self) -> bool:
        return self.mixup > 0 or self.cutmix > 0

    def preview(self, batch: Batch, rng: jax.Array) -> jax.Array:
        inputs, _ = self.training_inputs(batch, rng)
        return jnp.clip(inputs * jnp.asarray(self.std) + jnp.asarray(self.mean), 0, 1)

    def loss(
        self, apply: Apply, variables: Mapping[str, Any], batch: Batch, rng: jax.Array
    ) -> tuple[jax.Array, dict[str, Any]]:
        inputs, targets = self.training_inputs(batch, rng)
        logits, batch_stats = apply_training(apply, variables, (inputs,), rng)
        losses = optax.softmax_cross_entropy(logits, targets)
        count = jnp.float32(losses.size)
        scalars = {"loss": (jnp.sum(losses), count)}
        if not self._mixes:  # a mixed image has no class to hit
            hits = jnp.argmax(logits, axis=-1) == batch["label"]
            scalars["top1"] = (100 * jnp.sum(hits, dtype=jnp.float32), count)
        return jnp.mean(losses), {"batch_stats": batch_stats, "scalars": scalars}

    def totals(self, pred: Batch, batch: Batch) -> dict[str, jax.Array]:
        mask, label, logits = batch["mask"], batch["label"], pred["logits"]
        missed = misses(logits, label)
        return {
            "top1": jnp.sum(mask * (missed < 1)),
            "top5": jnp.sum(mask * (missed < 5)),
            "loss": masked_sum(mask, optax.softmax_cross_entropy_with_integer_labels(logits, label)),
            "count": jnp.sum(mask),
        }

    # ---- host, afterwards

    def metrics(self, totals: Mapping[str, np.ndarray], records: list[Record]) -> dict[str, float]:
        del records
        count = counted(totals)
        percent = {
            name: 100 * float(totals[name]) / count for name in (("top1", "top5") if self.classes > 5 else ("top1",))
        }
        return {**percent, "loss": float(totals["loss"]) / count, "count": count}
