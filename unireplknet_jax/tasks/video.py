"""Video classification: the frames of a clip laid out as one picture, which an image classifier takes.

Paper: section 3.3 of the journal version (16 frames of 224 pixels become 896 x 896). Original: Video/.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, ClassVar, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from unireplknet_jax.data.clips import frames as clips
from unireplknet_jax.data.clips.lists import SUFFIXES
from unireplknet_jax.data.clips.sets import open_videos
from unireplknet_jax.data.files import source_name
from unireplknet_jax.tasks.base import Apply, Batch, Example, Record, Seen, Spec
from unireplknet_jax.tasks.drawing import WIDE, captioned, in_colour
from unireplknet_jax.tasks.pixels import PixelClassifier

Frames = TypeVar("Frames", np.ndarray, jax.Array)
LAYOUTS = ("grid", "reshape")


def clip_to_map(clip: Frames, layout: str, rows: int) -> Frames:
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
class VideoClassification(PixelClassifier):
    """Classify videos: clips of `frames` square frames of `image_size` pixels, by a classifier of their layout.

    frames, stride, sampling: which frames of a video make a clip (`data.clips.frames.one_clip`; stride is of "dense").
    segments, crops: the views of a video, clips spread over time and windows along its longer side, whose
    probabilities are averaged (original: 5 x 3).
    layout, rows: as of `clip_to_map`; None: the number of rows that makes the most square grid, rather wide than high.
    Augmentation is that of `PixelClassifier` with these differences: all frames of a clip get the same RandAugment,
    first, with grey (128, 128, 128) from outside, then the same crop and flip; random erasing takes the same rectangle
    in all frames, with other noise; mixup and cutmix mix whole clips.
    """

    frames: int = 16
    stride: int = 4
    sampling: str = "dense"
    segments: int = 5
    crops: int = 3
    layout: str = "grid"
    rows: int | None = None

    name: ClassVar[str] = "video"
    sample: ClassVar[str] = "skating.mp4"
    suffixes: ClassVar[tuple[str, ...]] = SUFFIXES
    hub_task: ClassVar[str] = "video-classification"
    preparation: ClassVar[tuple[str, ...]] = (
        *("image_size", "frames", "stride", "sampling", "segments", "crops", "layout", "mean", "std"),
    )
    units: ClassVar[Mapping[str, str]] = {**PixelClassifier.units, "count": "videos"}
    numbers: ClassVar[Mapping[str, str]] = {
        **PixelClassifier.numbers,
        **dict.fromkeys(("frames", "stride", "segments", "crops"), "1 or more"),
    }
    retired: ClassVar[Mapping[str, Any]] = {"resize": None, "crop_padding": 0}
    why_broken = staticmethod(clips.why_broken)

    def __post_init__(self) -> None:
        super().__post_init__()
        for field, known in (("layout", LAYOUTS), ("sampling", clips.SAMPLINGS)):
            if getattr(self, field) not in known:
                raise ValueError(f"{field} is {getattr(self, field)!r}; expected {' or '.join(known)}.")
        if self.rows is not None and (self.rows < 1 or self.frames % self.rows):
            raise ValueError(f"{self.frames} frames do not fill {self.rows} rows; give a divisor, or None.")

    @property
    def _middle(self) -> int:
        """Which of a video's views is drawn."""
        return self.segments // 2 * self.crops + self.crops // 2

    @property
    def _rows(self) -> int:
        return self.rows or max(rows for rows in range(1, math.isqrt(self.frames) + 1) if self.frames % rows == 0)

    def specs(self, train: bool) -> tuple[Spec, ...]:
        size = (self.frames, self.image_size, self.image_size, len(self.mean))
        label = {"label": jax.ShapeDtypeStruct((), jnp.int32)}
        if train:
            return (Spec({"clip": jax.ShapeDtypeStruct(size, jnp.uint8)}, label),)
        counts = dict.fromkeys((1, self.segments * self.crops))
        return tuple(Spec({"views": jax.ShapeDtypeStruct((views, *size), jnp.uint8)}, label) for views in counts)

    def inputs(self, batch: Batch) -> tuple[jax.Array, ...]:
        return (self._to_map(self.normalized(batch["views"][:, 0])),)

    # ---- host

    def open_source(self, data: Mapping[str, Any], split: str) -> Any:
        return open_videos(data["name"], split, data.get("dir") or None)

    def augmented(self, example: Mapping[str, Any], rng: np.random.Generator) -> dict[str, Any]:
        clip = clips.read_frames(
            example["path"], lambda count: clips.one_clip(count, self.frames, self.stride, self.sampling, rng)
        )
        transform = clips.ClipTransform(self.image_size, self.crop_scale, self.flip, self.rand_augment)
        return {"clip": self._channels(transform(clip, rng)), "label": example["label"], "id": example["id"]}

    def prepared(self, example: Mapping[str, Any]) -> dict[str, Any]:
        return {"views": self._views(example["path"]), "label": example["label"], "id": example["id"]}

    def _views(self, path: Any) -> np.ndarray:
        """(segments * crops, frames, h, w, c) uint8 of a file, which is decoded once."""
        frames = clips.read_frames(path, lambda count: self._over_time(count, self.segments).ravel())
        cropped = clips.spatial_crops(frames, self.image_size, self.crops)
        # (crops, segments * frames, ...) -> (segments, crops, frames, ...)
        cropped = cropped.reshape(self.crops, self.segments, self.frames, *cropped.shape[2:]).swapaxes(0, 1)
        return self._channels(cropped.reshape(-1, *cropped.shape[2:]))

    def _over_time(self, count: int, segments: int) -> np.ndarray:
        return clips.clips_over_time(count, self.frames, self.stride, self.sampling, segments)

    def _channels(self, pixels: np.ndarray) -> np.ndarray:
        """(..., h, w, 3) uint8 -> (..., h, w, in_chans): luma for one channel."""
        if pixels.shape[-1] == len(self.mean):
            return pixels
        flat = pixels.reshape(-1, *pixels.shape[-3:])
        flat = np.stack([self.with_channels(picture) for picture in flat])
        return flat.reshape(*pixels.shape[:-1], -1)

    def read(self, source: Any) -> list[Example]:
        """A file, or all frames of a video, (t, h, w, 3) uint8."""
        return [{"views": self._views(source), "id": source_name(source)}]

    # ---- device

    def training_inputs(self, batch: Batch, rng: jax.Array) -> tuple[jax.Array, jax.Array]:
        # All frames of a clip side by side in the channels: one rectangle, one partner and one share for all of them.
        clip = jnp.moveaxis(self.normalized(batch["clip"]), 1, 3)
        n, h, w, t, c = clip.shape
        stacked, targets = self.erased_and_mixed(clip.reshape(n, h, w, t * c), batch["label"], rng)
        return self._to_map(jnp.moveaxis(stacked.reshape(n, h, w, t, c), 3, 1)), targets

    def _to_map(self, clip: Frames) -> Frames:
        return clip_to_map(clip, self.layout, self._rows)

    def predict(self, apply: Apply, variables: Mapping[str, Any], inputs: Batch) -> dict[str, jax.Array]:
        """logits: (n, classes), of several views the logarithm of the mean of their probabilities."""
        views = jnp.moveaxis(inputs["views"], 1, 0)

        def logits_of(clip: jax.Array) -> jax.Array:
            return apply(variables, *self.inputs({"views": clip[:, None]}))

        if len(views) == 1:
            logits = logits_of(views[0])
        else:  # one view after the other: all of them at once would take as many times the memory
            each = jax.lax.map(lambda clip: jax.nn.log_softmax(logits_of(clip)), views)
            logits = jax.nn.logsumexp(each, axis=0) - math.log(len(views))
        return {"logits": logits, "scores": jax.nn.softmax(logits)}

    def features(self, trunk: Apply, variables: Mapping[str, Any], inputs: Batch) -> jax.Array:
        views = jnp.moveaxis(inputs["views"], 1, 0)
        each = jax.lax.map(lambda clip: trunk(variables, *self.inputs({"views": clip[:, None]})), views)
        return jnp.mean(each, axis=0)

    # ---- host, afterwards

    def seen(self, example: Example) -> Seen:
        """The view in the middle, its frames as the network has them side by side."""
        views = example["views"][self._middle][None]
        return Seen({"views": views}, in_colour(self._to_map(views)[0]))

    def draw(self, examples: list[Example], records: list[Record]) -> Image.Image:
        """The frames of the view in the middle, in rows from left to right."""
        frames = examples[0]["views"][self._middle]
        edge = max(1, self.image_size // 32)
        framed = np.pad(frames, ((0, 0), (edge, edge), (edge, edge), (0, 0)), constant_values=255)
        grid = clip_to_map(framed[None], "grid", self._rows)[0]
        picture = Image.fromarray(grid[..., 0] if grid.shape[-1] == 1 else grid)
        return captioned(picture, examples[0]["id"], records[0]["predictions"], WIDE)
