"""Pictures on the host: any file as upright RGB, the evaluation transform, the augmentations of small inputs.

Source of the transforms: the original's Image/datasets.py (build_transform), and torchvision's Resize, CenterCrop and
RandomCrop on PIL images. Arrays are (h, w, c) uint8 with c = 1 (grey) or 3 (RGB).
"""

from __future__ import annotations

import io
import os

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

CROP_RATE = 224 / 256
WARP_SIZE = 384
SMALL_SIZE = 32


def read_image(source: str | os.PathLike | bytes | Image.Image) -> Image.Image:
    """The picture in a file, in bytes or in a PIL image, as an upright 8-bit RGB PIL image.

    Whatever Pillow opens is read; of an animation, the first frame (of a PIL image, the frame it stands at).
    - The EXIF orientation is applied. The original does not look at it and sees such a photo lying on its side.
    - Transparency (alpha, a palette's or a colour key) is composited on white. This differs from the original's
      `convert("RGB")`, which drops it, only where a picture is transparent.
    - Grey deeper than 8 bits is scaled, where `convert("RGB")` would clip it at 255: 16-bit modes by 255/65535; 32-bit
      integers and floats from the smallest range that holds all values (0..255, 0..65535; for floats also 0..1), else
      from the picture's own minimum..maximum. NaN and infinities become 0.

    Raises ValueError with the file's name where there is no readable image, TypeError for another kind of source.
    """
    if isinstance(source, Image.Image):
        return _decode(lambda: source, getattr(source, "filename", "") or "the PIL image")
    if isinstance(source, bytes | bytearray | memoryview):
        data, name = bytes(source), f"the image given as {len(source)} bytes"
    elif isinstance(source, str | os.PathLike):
        name = os.fspath(source)
        try:
            with open(source, "rb") as file:
                data = file.read()
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            raise ValueError(f"cannot read {name} ({reason}); expected the path of an image file") from error
    else:
        raise TypeError(f"cannot read an image from a {type(source).__name__}; expected a path, bytes or a PIL image")
    return _decode(lambda: Image.open(io.BytesIO(data)), name)


def eval_transform(
    image: str | os.PathLike | bytes | Image.Image | np.ndarray, size: int, resize: str | None = None
) -> np.ndarray:
    """The picture a model is evaluated on: uint8 (size, size, 3), resized with Pillow's antialiased bicubic filter.

    image: an (h, w, 1 or 3) uint8 array, or whatever `read_image` takes.
    resize: "crop" brings the shorter side to int(size / 0.875) and cuts the centre out, with torchvision's rounding;
        "warp" resizes the whole picture to (size, size) and does not keep its aspect ratio; None takes the original's
        rule, "warp" from 384 on and "crop" below. Up to 32 None means "warp" too: there the original does not resize
        at all and so needs pictures of exactly that size, for which "warp" changes nothing.
    """
    _check_size(size)
    if resize is None:
        resize = "crop" if SMALL_SIZE < size < WARP_SIZE else "warp"
    if resize not in ("crop", "warp"):
        raise ValueError(f"resize is {resize!r}; expected 'crop', 'warp' or None")
    picture = _as_pil(image).convert("RGB") if isinstance(image, np.ndarray) else read_image(image)
    if resize == "warp":
        return np.array(picture.resize((size, size), Image.Resampling.BICUBIC))
    width, height = _shorter_side_to(picture.size, int(size / CROP_RATE))
    picture = picture.resize((width, height), Image.Resampling.BICUBIC)
    left, top = round((width - size) / 2), round((height - size) / 2)
    return np.array(picture.crop((left, top, left + size, top + size)))


def random_crop_pad(image: np.ndarray, pad: int, rng: np.random.Generator) -> np.ndarray:
    """Put a zero border of `pad` pixels around (h, w, c) and cut a window of (h, w, c) out of it, anywhere.

    The original's first training step for inputs up to 32 pixels, with pad 4.
    """
    _check_array(image)
    if pad < 0:
        raise ValueError(f"pad is {pad}; expected 0 or a positive number of pixels")
    top, left = rng.integers(0, 2 * pad, endpoint=True, size=2)
    padded = np.pad(image, ((pad, pad), (pad, pad), (0, 0)))
    return np.ascontiguousarray(padded[top : top + image.shape[0], left : left + image.shape[1]])


def horizontal_flip(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Mirror (h, w, c) left to right with probability 1/2."""
    _check_array(image)
    return np.ascontiguousarray(image[:, ::-1]) if rng.random() < 0.5 else image


def _decode(open_image, name: str) -> Image.Image:
    try:
        image = open_image()
        image.load()
        return _flatten(_upright(image))
    except UnidentifiedImageError as error:
        raise ValueError(f"{name} is not an image that Pillow can read; expected for example a JPEG or PNG") from error
    except Image.DecompressionBombError as error:
        limit = 2 * Image.MAX_IMAGE_PIXELS
        raise ValueError(f"{name} holds more than {limit:,} pixels, which is refused; make it smaller first") from error
    except MemoryError:
        raise
    except Exception as error:  # what Pillow's decoders raise on damaged data is of many kinds
        raise ValueError(f"{name} is truncated or damaged ({error}); replace the file with a whole one") from error


def _upright(image: Image.Image) -> Image.Image:
    try:
        turned = image.getexif().get(ExifTags.Base.Orientation, 1) != 1
        return ImageOps.exif_transpose(image) if turned else image
    except Exception:  # a picture with a broken EXIF block is a good picture without an orientation
        return image


def _flatten(image: Image.Image) -> Image.Image:
    if image.mode == "F" or image.mode.startswith("I"):
        return _to_8_bits(image).convert("RGB")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image).convert("RGB")
    return image.convert("RGB")


def _to_8_bits(image: Image.Image) -> Image.Image:
    values = np.asarray(image).astype(np.float64)
    values = np.where(np.isfinite(values), values, 0.0)
    low, high = values.min(), values.max()
    ranges = {"F": (1, 255, 65535), "I": (255, 65535)}.get(image.mode, (65535,))
    fitting = [top for top in ranges if low >= 0 and high <= top]
    if fitting:
        low, high = 0.0, fitting[0]
    scaled = np.floor((values - low) * (255 / max(high - low, 1e-300)) + 0.5)
    if "transparency" in image.info:
        scaled[values == image.info["transparency"]] = 255
    return Image.fromarray(scaled.astype(np.uint8))


def _shorter_side_to(size: tuple[int, int], target: int) -> tuple[int, int]:
    width, height = size
    longer = int(target * max(width, height) / min(width, height))
    return (target, longer) if width <= height else (longer, target)


def _as_pil(image: np.ndarray) -> Image.Image:
    _check_array(image)
    return Image.fromarray(image[:, :, 0] if image.shape[2] == 1 else image)


def _check_array(image: np.ndarray) -> None:
    if not isinstance(image, np.ndarray) or image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] not in (1, 3):
        found = f"{image.dtype} {image.shape}" if isinstance(image, np.ndarray) else type(image).__name__
        raise ValueError(f"the image is {found}; expected a uint8 array of shape (h, w, 1) or (h, w, 3)")


def _check_size(size: int) -> None:
    if size < 1:
        raise ValueError(f"size is {size}; expected a positive number of pixels")
