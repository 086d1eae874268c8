"""Audio classification and tagging: the log-mel spectrogram of a sound is a map of one channel.

Paper: section 3.3 of the journal version. Original: Audio/, after the pipeline of AST. There H is the mel axis and W is
time, whatever the paper's text says; the weights depend on it.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Mapping
from statistics import NormalDist
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import optax
from PIL import Image

from unireplknet_jax.data.broken import AugmentedExamples
from unireplknet_jax.data.files import source_name
from unireplknet_jax.data.sounds import waveforms as sounds
from unireplknet_jax.data.sounds.sets import open_sounds
from unireplknet_jax.nn.pooled_head import PooledClassifier
from unireplknet_jax.tasks.base import Apply, Batch, Example, Record, Seen, Spec, Split
from unireplknet_jax.tasks.drawing import WIDE, Axes, captioned, coloured, draw_map
from unireplknet_jax.tasks.labelled import Labelled, counted, masked_sum, misses
from unireplknet_jax.tasks.training import apply_training

_KILOHERTZ = ("0.1", "0.2", "0.5", "1", "2", "4", "8", "16", "32")
LARGEST_AUC = 1 - 1e-7  # d' is infinite at 1
_NUMBERS = {
    "frames": "1 or more",
    "rate": "1 or more",
    "width": "above 0",
    "shift": "above 0",
    "mean": "a number",
    "std": "above 0",
    "fill": "a number",
    "seconds": "0 or more",
    "scale": "above 0",
    "mixup": "from 0 to 1",
    "mixup_alpha": "above 0",
    "freq_mask": "0 or more",
    "time_mask": "0 or more",
    "noise": "0 or more",
    "roll": "0 or more",
}


@dataclasses.dataclass(frozen=True)
class Audio(Labelled):
    """Classify sounds by their log-mel spectrograms of `frames` frames.

    model: keyword arguments of the trunk, "name" a published size whose fields the others override; "num_classes", 0
        waits for `fitted_to`, and "head_init_scale" are the head's.
    rate, mels, width, shift, window: the filter bank (`data.sounds.waveforms.FilterBank`, milliseconds). mean, std: of
        its features, which are normalized to (x - mean) / (2 std). fill: what is put, before that, in place of missing
        and of masked frames; 0, as in the original, is loud, -15.94 is silence.
    seconds: a longer file is predicted by windows of this length, every half of it, whose scores are averaged; 0: of
        `frames` frames. Training and evaluation take the first `frames` frames of a file, as the original does.
    channels, scale: what becomes of several, "mean", "first" or "loudest", and what files of floats are divided by
        (`data.sounds.waveforms.read_sound`).
    loss: "bce", a sigmoid per class, or "ce", one softmax; both take soft labels. multilabel: a sound may have several
        classes: mAP leads, and there is no accuracy.
    Augmentation in training: mixup, the probability to mix two waveforms with a share from Beta(mixup_alpha,
    mixup_alpha); freq_mask and time_mask, bands masked at most (SpecAugment); noise, its largest strength; roll, the
    most frames to turn by.
    """

    frames: int = 128
    rate: int = 16_000
    mels: int = 128
    width: float = 25.0
    shift: float = 10.0
    window: str = "hanning"
    mean: float = -6.845978
    std: float = 5.5654526
    fill: float = 0.0
    seconds: float = 1.0
    channels: str = "mean"
    scale: float = 1.0
    loss_kind: str = "bce"
    multilabel: bool = False
    mixup: float = 0.0
    mixup_alpha: float = 10.0
    freq_mask: int = 0
    time_mask: int = 0
    noise: float = 0.0
    roll: int = 0

    name: ClassVar[str] = "audio"
    sample: ClassVar[str] = "bell.wav"
    suffixes: ClassVar[tuple[str, ...]] = sounds.SUFFIXES
    hub_task: ClassVar[str] = "audio-classification"
    preparation: ClassVar[tuple[str, ...]] = (
        *("rate", "frames", "mels", "width", "shift", "window", "mean", "std", "fill", "seconds", "channels", "scale"),
    )
    makes_records: ClassVar[bool] = True
    augmentations: ClassVar[tuple[str, ...]] = ("freq_mask", "time_mask", "noise", "roll")
    units: ClassVar[Mapping[str, str]] = {"accuracy": "%", "mAP": "%", "loss": "nats", "count": "sounds"}
    numbers: ClassVar[Mapping[str, str]] = _NUMBERS

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.channels not in sounds.CHANNELS:
            raise ValueError(f"channels is {self.channels!r}; expected one of {', '.join(sounds.CHANNELS)}.")
        if self.loss_kind not in ("bce", "ce"):
            raise ValueError(f"loss_kind is {self.loss_kind!r}; expected 'bce' or 'ce'.")
        needed = self._bank.frames(int(self.seconds * self.rate))  # refuses a wrong filter bank, too
        if needed > self.frames:
            raise ValueError(
                f"windows of seconds={self.seconds} have {needed} frames, of which the network would get the first "
                f"{self.frames}; give frames={needed}, or seconds=0 for windows of {self.frames} frames."
            )

    @functools.cached_property
    def _bank(self) -> sounds.FilterBank:
        return sounds.FilterBank(self.rate, self.mels, self.width, self.shift, window=self.window)

    def module(self, deploy: bool = False) -> PooledClassifier:
        self.require_classes()
        model = dict(self.model)
        trunk = self.trunk(("head_init_scale",), num_classes=None, in_chans=1, deploy=deploy)
        return PooledClassifier(trunk, model["num_classes"], model.get("head_init_scale", 1.0))

    def specs(self, train: bool) -> tuple[Spec, ...]:
        del train
        spectrogram = jax.ShapeDtypeStruct((self.frames, self.mels), jnp.float32)
        target = jax.ShapeDtypeStruct((self.classes,), jnp.float32)
        return (Spec({"spectrogram": spectrogram}, {"target": target}),)

    def inputs(self, batch: Batch) -> tuple[jax.Array, ...]:
        """(n, frames, mels) -> (n, mels, frames, 1)."""
        return (jnp.swapaxes(batch["spectrogram"], 1, 2)[..., None],)

    # ---- host

    def open_source(self, data: Mapping[str, Any], split: str) -> Any:
        return open_sounds(data["name"], split, data.get("dir") or None)

    def augmented_examples(self, split: Split) -> AugmentedExamples:
        transform = functools.partial(self._mixed, split.source, split.broken)
        return AugmentedExamples(split.source, transform, split.broken, self.why_broken)

    def why_broken(self, example: dict[str, Any]) -> str | None:  # type: ignore[override]  # it depends on the scale
        return sounds.why_broken(example, self.scale)

    def _waveform(self, sound: Any) -> np.ndarray:
        return sounds.read_sound(sound, self.rate, self.channels, self.scale)

    def prepared(self, example: Mapping[str, Any]) -> dict[str, Any]:
        waveform = self._waveform(example["sound"])
        return self._example(example, self._normalized(self._features(waveform)), self._target(example))

    def _mixed(self, source: Any, broken: str, example: Mapping[str, Any], rng: np.random.Generator) -> dict[str, Any]:
        waveform, target = self._waveform(example["sound"]), self._target(example)
        if rng.random() < self.mixup:
            partner, share = source[int(rng.integers(len(source)))], rng.beta(self.mixup_alpha, self.mixup_alpha)
            if not (broken == "skip" and self.why_broken(partner)):
                waveform = sounds.mix(waveform, self._waveform(partner["sound"]), share)
                target = share * target + (1 - share) * self._target(partner)
        features = sounds.mask_bands(self._features(waveform), rng, self.freq_mask, self.time_mask, self.fill)
        features = (
            sounds.add_noise(self._normalized(features), rng, self.noise) if self.noise else self._normalized(features)
        )
        return self._example(example, sounds.roll_frames(features, rng, self.roll), target)

    def _features(self, waveform: np.ndarray) -> np.ndarray:
        return sounds.fit_frames(self._first_frames(waveform, self.frames), self.frames, self.fill)

    def _first_frames(self, waveform: np.ndarray, most: int) -> np.ndarray:
        """(frames', mels), at most `most`; the rest of a long file would only cost time and memory."""
        return self._bank(sounds.centred(waveform)[: self._bank.samples(most)])

    def _normalized(self, features: np.ndarray) -> np.ndarray:
        return (features - self.mean) / (2 * self.std)

    def _target(self, example: Mapping[str, Any]) -> np.ndarray:
        target = np.zeros(self.classes)
        target[list(example["classes"])] = 1
        return target

    def _example(self, example: Mapping[str, Any], features: np.ndarray, target: np.ndarray) -> dict[str, Any]:
        return {
            "spectrogram": features.astype(np.float32),
            "target": target.astype(np.float32),
            "id": example["id"],
        }

    def read(self, source: Any) -> list[Example]:
        """A file, or a waveform (samples,) of floats from -1 to 1, `rate` of them a second."""
        waveform = self._waveform(source)
        size = int(self.seconds * self.rate) or self._bank.samples(self.frames)
        return [
            {"spectrogram": self._normalized(self._features(part)).astype(np.float32)}
            | {"sound": waveform, "start": start / self.rate, "id": source_name(source)}
            for part, start in zip(
                sounds.windows(waveform, size), sounds.window_starts(len(waveform), size), strict=True
            )
        ]

    # ---- device

    def preview(self, batch: Batch, rng: jax.Array) -> jax.Array:
        del rng
        return jnp.clip(self.inputs(batch)[0][:, ::-1] / 3 + 0.5, 0, 1)

    def _losses(self, logits: jax.Array, target: jax.Array) -> jax.Array:
        """(n, classes) -> (n,)."""
        if self.loss_kind == "bce":
            return jnp.mean(optax.sigmoid_binary_cross_entropy(logits, target), axis=-1)
        return optax.softmax_cross_entropy(logits, target / jnp.maximum(jnp.sum(target, axis=-1, keepdims=True), 1e-6))

    def loss(
        self, apply: Apply, variables: Mapping[str, Any], batch: Batch, rng: jax.Array
    ) -> tuple[jax.Array, dict[str, Any]]:
        logits, batch_stats = apply_training(apply, variables, self.inputs(batch), rng)
        losses = self._losses(logits, batch["target"])
        count = jnp.float32(losses.size)
        scalars = {"loss": (jnp.sum(losses), count)}
        if not (self.multilabel or self.mixup):  # a mixed sound has no class to hit
            hits = jnp.argmax(logits, axis=-1) == jnp.argmax(batch["target"], axis=-1)
            scalars["accuracy"] = (100 * jnp.sum(hits, dtype=jnp.float32), count)
        return jnp.mean(losses), {"batch_stats": batch_stats, "scalars": scalars}

    def predict(self, apply: Apply, variables: Mapping[str, Any], inputs: Batch) -> dict[str, jax.Array]:
        logits = apply(variables, *self.inputs(inputs))
        scores = jax.nn.sigmoid if self.loss_kind == "bce" else jax.nn.softmax
        return {"logits": logits, "scores": scores(logits)}

    def totals(self, pred: Batch, batch: Batch) -> dict[str, jax.Array]:
        mask, logits, target = batch["mask"], pred["logits"], batch["target"]
        return {
            "hits": jnp.sum(mask * (misses(logits, jnp.argmax(target, axis=-1)) < 1)),
            "loss": masked_sum(mask, self._losses(logits, target)),
            "count": jnp.sum(mask),
        }

    # ---- host, afterwards

    @property
    def has_outcomes(self) -> bool:
        return not self.multilabel

    def true_classes(self, batch: Mapping[str, Any]) -> np.ndarray:
        return np.argmax(batch["target"], axis=-1)

    def record(self, pred: Mapping[str, np.ndarray], example: Example) -> Record | None:
        if "target" not in example:
            return super().record(pred, example)
        classes = np.flatnonzero(np.asarray(example["target"])).tolist()
        return {"id": int(example["id"]), "logits": np.asarray(pred["logits"], float).tolist(), "classes": classes}

    def combined(self, records: list[Record]) -> list[Record]:
        """The windows of one file as one record of their mean scores."""
        scores = np.zeros(self.classes)
        for record in records:
            for row in record["predictions"]:
                scores[row["index"]] += row["score"] / len(records)
        return [self.ranked_record(records[0]["id"], scores)] if records else []

    def metrics(self, totals: Mapping[str, np.ndarray], records: list[Record]) -> dict[str, float]:
        count = counted(totals)
        leading = {} if self.multilabel else {"accuracy": 100 * float(totals["hits"]) / count}
        ranking = ranking_metrics(*_stacked(records, self.classes))
        return {**leading, **ranking, "loss": float(totals["loss"]) / count, "count": count}

    def metric_names(self) -> tuple[str, ...]:
        return (*(() if self.multilabel else ("accuracy",)), "mAP", "mAUC", "d_prime", "loss", "count")

    def draw(self, examples: list[Example], records: list[Record]) -> Image.Image:
        example = examples[0]
        features = self._first_frames(example["sound"], 8 * self.frames)
        axes, whole = self._axes(0.0, len(features)), len(example["sound"]) / self.rate
        if axes.right < whole - 0.1:
            axes = dataclasses.replace(axes, across=f"{axes.across} (the first {axes.right:.1f} of {whole:.1f})")
        return captioned(draw_map(coloured(features.T), axes, WIDE), example["id"], records[0]["predictions"], WIDE)

    def seen(self, example: Example) -> Seen:
        features = example["spectrogram"]
        axes = self._axes(example["start"], len(features))
        return Seen({"spectrogram": features}, coloured(features.T), axes)

    def _axes(self, start: float, frames: int) -> Axes:
        """Of the features of so many frames from `start` seconds on."""
        rows = {text: self._bank.row_of(1000 * float(text)) for text in _KILOHERTZ}
        ticks, last = {}, -math.inf
        for text, row in rows.items():  # as many as have room for their text
            if -0.5 <= row <= self.mels - 0.5 and row - last > 0.1 * self.mels:
                ticks[row], last = text, row
        return Axes("time, s", start, start + frames * self.shift / 1000, "frequency, kHz", ticks)


def _stacked(records: list[Record], classes: int) -> tuple[np.ndarray, np.ndarray]:
    """((n, classes) logits, (n, classes) bool): what was said and what is so."""
    logits, truth = np.array([record["logits"] for record in records]), np.zeros((len(records), classes), bool)
    for row, record in enumerate(records):
        truth[row, record["classes"]] = True
    return logits, truth


def ranking_metrics(scores: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    """{"mAP" in percent, "mAUC", "d_prime"} of scores (n, classes) and truth (n, classes) bool.

    Means over classes of scikit-learn's average_precision_score and roc_auc_score; d' = sqrt(2) times the normal
    quantile of mAUC. Classes without a positive have no precision, those without both kinds no curve: they are left
    out, where the original's script fails, and so is a metric that no class has. d' ends at 7.35, mAUC 1 - 1e-7.
    """
    from sklearn.metrics import average_precision_score, roc_auc_score

    found: dict[str, float] = {}
    some, both = truth.any(axis=0), truth.any(axis=0) & ~truth.all(axis=0)
    if not np.all(np.isfinite(scores)):
        return found
    if some.any():
        precisions = [average_precision_score(truth[:, k], scores[:, k]) for k in np.flatnonzero(some)]
        found["mAP"] = 100 * float(np.mean(precisions))
    if both.any():
        found["mAUC"] = float(np.mean([roc_auc_score(truth[:, k], scores[:, k]) for k in np.flatnonzero(both)]))
        area = min(max(found["mAUC"], 1 - LARGEST_AUC), LARGEST_AUC)
        found["d_prime"] = 2**0.5 * NormalDist().inv_cdf(area)
    return found
