"""Tasks on pictures of any size: each lies in the upper left of one of a few canvases, for each of which a program is
compiled.

A picture is seen at several scales, whole or in windows, mirrored or not. Original: the test pipelines of
mmsegmentation 0.27, `slide_inference` and `aug_test`.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from unireplknet_jax.data.clips import lists
from unireplknet_jax.data.clips.frames import each_frame
from unireplknet_jax.data.files import source_name
from unireplknet_jax.data.pictures.decode import SUFFIXES, picture_of
from unireplknet_jax.data.pictures.mask_sets import sizes_of
from unireplknet_jax.data.pictures.mask_transforms import DIVISOR
from unireplknet_jax.ops.valid import only_valid, valid_mask
from unireplknet_jax.tasks.base import Apply, Batch, Example, Record, Spec, Split
from unireplknet_jax.tasks.drawing import WIDE
from unireplknet_jax.tasks.labelled import Labelled
from unireplknet_jax.tasks.options import check_number
from unireplknet_jax.tasks.sources import has_parts

Size = tuple[int, int]
Window = tuple[int, int, int, int]


@dataclasses.dataclass(frozen=True)
class OnCanvases(Labelled):
    """A task whose records are of whole pictures, which its network sees in canvases.

    scale: pictures are resized to fit into (long side, short side), keeping their shape; None: they keep their size.
    scales: shares of `scale` at which a picture is seen in an evaluation, and `mirror`, mirrored as well.
    buckets: (rows, columns) of the canvases that pictures lie in, for each of which a program is compiled; a picture
        that fits into none has one of its own.
    white: of pictures deeper than 8 bits, the value that becomes 255; 0: what their files say.
    Derived classes give `ways` in place of the shapes of an evaluation.
    """

    scale: tuple[int, int] | None = None
    scales: tuple[float, ...] = (1.0,)
    mirror: bool = False
    buckets: tuple[tuple[int, int], ...] = ()
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (58.395 / 255, 57.12 / 255, 57.375 / 255)
    white: int = 0

    suffixes: ClassVar[tuple[str, ...]] = SUFFIXES
    part_suffixes: ClassVar[tuple[str, ...]] = tuple(name for name in lists.SUFFIXES if name not in SUFFIXES)
    makes_records: ClassVar[bool] = True
    ranked: ClassVar[bool] = False
    unset: ClassVar[str] = "that of the picture"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.scale is not None and not (are_whole(self.scale, 2, 1) and self.scale[0] >= self.scale[1]):
            raise ValueError(f"scale={self.scale} must be (long side, short side) in pixels, or None.")
        if not self.scales:
            raise ValueError(f"scales={self.scales} must be one or more shares of the scale, each above 0.")
        for share in self.scales:
            check_number("scales", share, "above 0")
        sides = [side for bucket in self.buckets for side in bucket]
        fitting = all(side >= 1 and side % DIVISOR == 0 for side in sides)
        if not fitting or any(len(bucket) != 2 for bucket in self.buckets):
            raise ValueError(f"buckets={self.buckets} must be (rows, columns), multiples of {DIVISOR}.")
        for name, numbers in (("mean", "a number"), ("std", "above 0")):
            if len(getattr(self, name)) != 3:
                raise ValueError(f"{name}={getattr(self, name)} needs one value for each of 3 channels.")
            for value in getattr(self, name):
                check_number(name, value, numbers)

    # ---- shapes

    def ways(self, canvas: Size, original: Size) -> list[Way]:
        """How a picture of (h, w) is seen at each scale, in arrays for a canvas."""
        raise NotImplementedError

    def ways_of(self, original: Size) -> list[Way]:
        """How a picture of (h, w) is seen at each scale, in arrays for the canvas that holds it."""
        raise NotImplementedError

    def spec_of(self, canvas: Size) -> Spec:
        """The shapes of an evaluation's example in a canvas: "image_i" and "size_i" of the windows of each scale i."""
        inputs = {}
        for i, way in enumerate(self.ways(canvas, canvas)):
            count = way.places * (1 + self.mirror)
            inputs[f"image_{i}"] = jax.ShapeDtypeStruct((count, *way.canvas, 3), jnp.uint8)
            inputs[f"size_{i}"] = jax.ShapeDtypeStruct((count, 2), jnp.int32)
        return Spec(inputs, {})

    def shape_keys(self, split: Split) -> Sequence[Hashable]:
        return [tuple((way.canvas, way.places) for way in self.ways_of(size)) for size in sizes_of(split.source)]

    # ---- host

    def read(self, source: Any) -> list[Example]:
        """A file, a PIL image, or an array (h, w, 1, 3 or 4) or (h, w), uint8; a video is for `read_parts`."""
        picture = np.asarray(picture_of(source, self.white).convert("RGB"))
        return [{**self.views(picture), "picture": picture, "id": source_name(source)}]

    def read_parts(self, source: Any) -> Iterator[list[Example]]:
        """The frames of a video, each an example by itself; of any other source its picture."""
        if not has_parts(self, source):
            yield self.read(source)
            return
        for number, (time, picture) in enumerate(each_frame(source)):
            place = {"id": source_name(source), "frame": number, "time": time}
            yield [{**self.views(picture), "picture": picture, **place}]

    def views(self, picture: np.ndarray) -> dict[str, Any]:
        """What the network gets of a picture (h, w, 3), `Windows` and their sizes, and how they lie in it."""
        ways = self.ways_of(picture.shape[:2])
        found: dict[str, Any] = {"ways": ways, "original": picture.shape[:2]}
        for i, (ratio, way) in enumerate(zip(self.scales, ways, strict=True)):
            found[f"image_{i}"] = Windows(self.resized(picture, ratio, way), way, self.mirror)
            found[f"size_{i}"] = sizes_of_windows(way, self.mirror)
        return found

    def cut(self, picture: np.ndarray) -> dict[str, Any]:
        """As `views`, all windows in arrays."""
        return {name: np.asarray(v) if isinstance(v, Windows) else v for name, v in self.views(picture).items()}

    def resized(self, picture: np.ndarray, ratio: float, way: Way) -> np.ndarray:
        """A picture (h, w, 3) as it is seen at one scale, of the way's size."""
        raise NotImplementedError

    # ---- device

    def normalized(self, pixels: jax.Array, sizes: jax.Array) -> jax.Array:
        """(n, h, w, 3) uint8 -> float32, 0 beyond the sizes (n, 2)."""
        mean, std = jnp.asarray(self.mean, jnp.float32), jnp.asarray(self.std, jnp.float32)
        return only_valid((pixels.astype(jnp.float32) / 255 - mean) / std, valid_mask(sizes, pixels.shape[1:3]))

    def inputs(self, batch: Batch) -> tuple[jax.Array, ...]:
        """The first window of the first scale, (n, h, w, 3)."""
        return (self.normalized(batch["image_0"][:, 0], batch["size_0"][:, 0]),)

    def of_windows(self, run: Callable[..., Any], batch: Batch, scale: int) -> Any:
        """What run(images (m, h, w, 3), sizes (m, 2)) gives of all windows of a scale: a tree of (n, k, ...).

        More than a picture and its mirror image go through the network one after the other, which bounds its memory.
        """
        pixels, sizes = (batch[f"{name}_{scale}"] for name in ("image", "size"))
        n, k, *_ = pixels.shape

        def see(window: tuple[jax.Array, jax.Array]) -> Any:
            own_pixels, own_sizes = window
            return run(self.normalized(own_pixels, own_sizes), own_sizes)

        if k > 2:
            found = jax.lax.map(see, (jnp.swapaxes(pixels, 0, 1), jnp.swapaxes(sizes, 0, 1)))
            return jax.tree.map(lambda leaf: jnp.swapaxes(leaf, 0, 1), found)
        found = see((pixels.reshape(-1, *pixels.shape[2:]), sizes.reshape(-1, 2)))
        return jax.tree.map(lambda leaf: leaf.reshape(n, k, *leaf.shape[1:]), found)

    def preview(self, batch: Batch, rng: jax.Array) -> jax.Array:
        del rng
        return batch["image"].astype(jnp.float32) / 255

    def features(self, trunk: Apply, variables: Mapping[str, Any], inputs: Batch) -> jax.Array:
        raise ValueError(
            f"the network of the task {self.name} describes parts of a picture, not the whole: embed with its "
            "backbone, which `convert IT.pth TRUNK --prefix backbone` takes out of a .pth file."
        )

    def totals(self, pred: Batch, batch: Batch) -> dict[str, jax.Array]:
        return {"count": jnp.sum(batch["mask"])}

    # ---- host, afterwards

    def label(self, index: int) -> str:
        """The name of a class, or what stands for one."""
        return self.labels[index] if self.labels else f"class {index}"

    def place_of(self, example: Example) -> Record:
        """What a record says of where its picture comes from: its "id" and, of a frame, its number and its time."""
        return {name: example[name] for name in ("id", "frame", "time") if name in example}

    def drawn_size(self, example: Example) -> int:
        """The longer side of a picture as it is drawn: frames keep theirs, of pictures two stand side by side."""
        return max(example["original"]) if "frame" in example else WIDE


def are_whole(values: tuple[Any, ...], count: int, low: int, high: float = math.inf) -> bool:
    """Whether these are so many whole numbers from low to high."""
    return len(values) == count and all(isinstance(value, int) and low <= value <= high for value in values)


class Way(NamedTuple):
    """One scale at which a picture is seen.

    size: of the picture as the network sees it; windows: of it, all or several; canvas: the size of each of their
    arrays, and `places`, how many arrays there are, of which windows fill the first.
    """

    size: Size
    windows: tuple[Window, ...]
    canvas: Size
    places: int


def way_of(canvas: Size, size: Size, ratio: float, crop: int | None, stride: int) -> Way:
    """How a picture is seen at one scale. canvas: of the scale 1; size: at this scale; crop: None for all of it."""
    canvas = (_enlarged(canvas[0], ratio), _enlarged(canvas[1], ratio))
    if crop is None:
        return Way(size, ((0, 0, *size),), canvas, 1)
    windows, most = (slide_windows(area, (crop, crop), (stride, stride)) for area in (size, canvas))
    return Way(size, tuple(windows), (crop, crop), len(most))


def _enlarged(length: int, ratio: float) -> int:
    return math.ceil(math.ceil(length * ratio) / DIVISOR) * DIVISOR


class Windows:
    """The windows of a picture of the way's size, (k, h, w, 3) uint8, the mirrored ones behind.

    Each is cut out when it is asked for. Windows that are not there, and what is beyond one, hold zeros.
    """

    def __init__(self, picture: np.ndarray, way: Way, mirror: bool) -> None:
        """picture: (h, w, 3) uint8."""
        self._picture, self._way = picture, way
        self.shape = ((1 + mirror) * way.places, *way.canvas, picture.shape[-1])
        self.size, self.dtype = math.prod(self.shape), picture.dtype
        self.nbytes = picture.nbytes  # which are held

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, part: slice) -> np.ndarray:
        numbers = range(len(self))[part]
        found = np.zeros((len(numbers), *self.shape[1:]), self.dtype)
        for array, number in zip(found, numbers, strict=True):
            side, place = divmod(number, self._way.places)
            if place < len(self._way.windows):
                top, left, height, width = self._way.windows[place]
                turned = self._picture[:, ::-1] if side else self._picture
                array[:height, :width] = turned[top : top + height, left : left + width]
        return found

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        del copy  # they are always new
        return self[:] if dtype is None else self[:].astype(dtype)


def sizes_of_windows(way: Way, mirror: bool) -> np.ndarray:
    """(k, 2) int32, heights and widths of `Windows`; (1, 1) of those not there, as nothing can be computed of none."""
    sizes = np.ones((way.places, 2), np.int32)
    sizes[: len(way.windows)] = [window[2:] for window in way.windows]
    return np.tile(sizes, (1 + mirror, 1))


def slide_windows(size: tuple[int, int], crop: tuple[int, int], stride: tuple[int, int]) -> list[Window]:
    """(top, left, height, width) of the windows that slide over a picture of a size, all as (height, width).

    The last ones of an axis are moved back so that they end with the picture, and none is larger than the picture; as
    mmsegmentation has them.
    """
    tops, lefts = (
        [max(min(start, length - part), 0) for start in range(0, max(length - part, 0) + step, step)]
        for length, part, step in zip(size, crop, stride, strict=True)
    )
    height, width = (min(pair) for pair in zip(size, crop, strict=True))
    return [(top, left, height, width) for top in tops for left in lefts]
