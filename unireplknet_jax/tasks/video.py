"""Video classification: the frames of a clip laid out as one picture, which an image classifier takes.

Paper: section 3.3 of the journal version (16 frames of 224 pixels become 896 x 896). Original: Video/.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from unireplknet_jax.data.base import check_order
from unireplknet_jax.data.broken import AugmentedExamples, TransformedExamples, without_broken
from unireplknet_jax.data.clips import frames as clips
from unireplknet_jax.data.clips.sets import open_videos
from unireplknet_jax.data.label_names import read_labels
from unireplknet_jax.data.pipeline import training_stream
from unireplknet_jax.tasks.base import check_number
from unireplknet_jax.tasks.classification import Classification, captioned

LAYOUTS = ("grid", "reshape")


def clip_to_map(clip, layout, rows):
    """The frames of clips as one picture each: (n, t, h, w, c) -> (n, rows * h, t / rows * w, c).

    layout: "grid", frame t in row t // columns and column t % columns, as the paper's text says; or "reshape", the
    memory of (t, h, w) read as one picture, as the original's code does (for t = 16, rows = 4): of each frame a strip
    of h / columns rows as wide as the picture, in which stand `columns` pictures of every columns-th row of the frame.
    """
    n, t, h, w, c = clip.shape
    columns = t // rows
    if layout == "grid":
        clip = clip.reshape(n, rows, columns, h, w, c).transpose(0, 1, 3, 2, 4, 5)
    return clip.reshape(n, rows * h, columns * w, c)


@dataclasses.dataclass(frozen=True)
class VideoClassification(Classification):
    """Classify videos: clips of `frames` square frames of `image_size` pixels, by a classifier of their layout.

    frames, stride, sampling: which frames of a video make a clip (`clips.frames.one_clip`; stride matters to "dense").
    segments, crops: the views of a video, clips spread over time and windows along its longer side, whose
    probabilities are averaged (original: 5 x 3); data["views"] takes other numbers, as recipes do in training.
    layout, rows: as of `clip_to_map`; None: the number of rows that makes the most square grid, rather wide than high.
    Augmentation is that of `Classification` with these differences: all frames of a clip get the same RandAugment,
    first, with grey (128, 128, 128) from outside, then the same crop and flip; random erasing takes the same rectangle
    in all frames, with other noise; mixup and cutmix mix whole clips. resize and crop_padding are for images alone.
    """

    frames: int = 16
    stride: int = 4
    sampling: str = "dense"
    segments: int = 5
    crops: int = 3
    layout: str = "grid"
    rows: int | None = None

    name: ClassVar[str] = "video"
    units: ClassVar[Mapping[str, str]] = Classification.units | {"count": "videos"}

    def __post_init__(self):
        super().__post_init__()
        for field in ("frames", "stride", "segments", "crops"):
            check_number(field, getattr(self, field), "1 or more")
            if not isinstance(getattr(self, field), int):
                raise ValueError(f"{field}={getattr(self, field)} must be a whole number.")
        for field, known in (("layout", LAYOUTS), ("sampling", clips.SAMPLINGS)):
            if getattr(self, field) not in known:
                raise ValueError(f"{field} is {getattr(self, field)!r}; expected {' or '.join(known)}.")
        if self.rows is not None and (self.rows < 1 or self.frames % self.rows):
            raise ValueError(f"{self.frames} frames do not fill {self.rows} rows; give a divisor, or None.")
        if self.resize is not None or self.crop_padding:
            raise ValueError("resize and crop_padding are for images; clips are cropped as crop_scale says.")

    @property
    def _rows(self):
        return self.rows or max(rows for rows in range(1, math.isqrt(self.frames) + 1) if self.frames % rows == 0)

    def shapes(self, train):
        clip, label = (
            (self.frames, self.image_size, self.image_size, len(self.mean)),
            jax.ShapeDtypeStruct((), jnp.int32),
        )
        if train:
            return ({"clip": jax.ShapeDtypeStruct(clip, jnp.uint8), "label": label},)
        counts = dict.fromkeys((1, self.segments * self.crops))
        return tuple({"views": jax.ShapeDtypeStruct((views, *clip), jnp.uint8), "label": label} for views in counts)

    # ---- host

    @staticmethod
    def _open(data, split):
        return open_videos(data["name"], split, data.get("dir") or None)

    def dataset(self, data, split, train):
        import grain

        source, classes, broken = self._open(data, split), self.module().num_classes, data.get("broken", "refuse")
        if len(source.labels) != classes:
            raise ValueError(f"{data['name']} has {len(source.labels)} classes, but the model has {classes}.")
        check_order(self.labels, source.labels, data["name"])
        if train:
            examples = AugmentedExamples(source, self._training_clip, broken, clips.why_broken)
            return training_stream(range(len(source)), examples, data["seed"])
        segments, crops = data.get("views") or (self.segments, self.crops)
        task = dataclasses.replace(self, segments=segments, crops=crops)
        source = without_broken(source, why=clips.why_broken) if broken == "skip" else source
        return grain.MapDataset.source(TransformedExamples(source, task._viewed, clips.why_broken))

    def _training_clip(self, example, rng):
        clip = clips.read_frames(
            example["path"], lambda count: clips.one_clip(count, self.frames, self.stride, self.sampling, rng)
        )
        transform = clips.ClipTransform(self.image_size, self.crop_scale, self.flip, self.rand_augment)
        return {"clip": self._channels(transform(clip, rng)), "label": example["label"], "id": example["id"]}

    def _viewed(self, example):
        return {"views": self._views(example["path"]), "label": example["label"], "id": example["id"]}

    def _views(self, path):
        """(segments * crops, frames, h, w, c) uint8 of a file, which is decoded once."""
        frames = clips.read_frames(path, lambda count: self._over_time(count, self.segments).ravel())
        cropped = clips.spatial_crops(frames, self.image_size, self.crops)
        # (crops, segments * frames, ...) -> (segments, crops, frames, ...)
        cropped = cropped.reshape(self.crops, self.segments, self.frames, *cropped.shape[2:]).swapaxes(0, 1)
        return self._channels(cropped.reshape(-1, *cropped.shape[2:]))

    def _over_time(self, count, segments):
        return clips.clips_over_time(count, self.frames, self.stride, self.sampling, segments)

    def _channels(self, pixels):
        """(..., h, w, 3) uint8 -> (..., h, w, in_chans): luma for one channel."""
        if pixels.shape[-1] == len(self.mean):
            return pixels
        flat = pixels.reshape(-1, *pixels.shape[-3:])
        flat = np.stack([super(VideoClassification, self)._channels(picture) for picture in flat])
        return flat.reshape(*pixels.shape[:-1], -1)

    def read(self, source):
        return [{"views": self._views(source), "id": str(source)}]

    # ---- device

    def _training_inputs(self, batch, rng):
        # All frames of a clip side by side in the channels: one rectangle, one partner and one share for all of them.
        clip = jnp.moveaxis(self._normalize(batch["clip"]), 1, 3)
        n, h, w, t, c = clip.shape
        stacked, targets = self._augmented(clip.reshape(n, h, w, t * c), batch["label"], rng)
        return self._to_map(jnp.moveaxis(stacked.reshape(n, h, w, t, c), 3, 1)), targets

    def _to_map(self, clip):
        return clip_to_map(clip, self.layout, self._rows)

    def predict(self, apply, variables, batch):
        """logits: (n, classes), of several views the logarithm of the mean of their probabilities."""

        def logits_of(clip):
            return apply(variables, self._to_map(self._normalize(clip)))

        views = batch["views"]
        if views.shape[1] == 1:
            return {"logits": logits_of(views[:, 0])}
        # One view after the other: all of them at once would take as many times the memory.
        each = jax.lax.map(lambda clip: jax.nn.log_softmax(logits_of(clip)), jnp.moveaxis(views, 1, 0))
        return {"logits": jax.nn.logsumexp(each, axis=0) - math.log(views.shape[1])}

    # ---- host, afterwards

    def draw(self, source, records):
        clip = clips.read_frames(source, lambda count: self._over_time(count, 1)[0])
        frames = clips.spatial_crops(clip, self.image_size, 1)
        edge = max(1, self.image_size // 32)
        framed = np.pad(frames, ((0, 0), (0, 0), (edge, edge), (edge, edge), (0, 0)), constant_values=255)
        grid = clip_to_map(framed, "grid", self._rows)[0]
        return captioned(Image.fromarray(grid), records[0]["predictions"], size=448)

    # ---- checkpoints

    @classmethod
    def matches(cls, shapes):
        """Whether the tensors are those of the one network that the original's script trains.

        Otherwise names and shapes are those of an image classifier, and only the user or card.json can tell: 400
        classes and 11 x 11 kernels in the last stage no other model of the authors has.
        """
        kernel, head = (shapes.get(name, ()) for name in ("stages.3.0.dwconv.lk_origin.weight", "head.weight"))
        return tuple(kernel[-1:]) == (11,) and tuple(head[:1]) == (400,)

    @classmethod
    def from_torch_shapes(cls, shapes):
        task, deploy = super().from_torch_shapes(shapes)
        if dict(task.model)["num_classes"] == 400:
            task = dataclasses.replace(task, labels=read_labels("kinetics400"))
        return dataclasses.replace(task, layout="reshape" if cls.matches(shapes) else "grid"), deploy
