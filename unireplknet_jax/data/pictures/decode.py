"""Any picture file as upright RGB."""

from __future__ import annotations

import functools
import io
import os
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from unireplknet_jax.data.broken import name_of
from unireplknet_jax.data.files import misplaced, read_file
from unireplknet_jax.data.limits import TooLargeError, check_pixels
from unireplknet_jax.data.pictures import deep, headers

JPEG = (".jpg", ".jpeg", ".jpe", ".jfif")
_ON_ITS_SIDE = (5, 6, 7, 8)  # EXIF orientations
T = TypeVar("T")
SUFFIXES = (*JPEG, ".png", ".bmp", ".webp", ".tif", ".tiff", ".gif", ".ppm", ".pgm", ".pbm", ".pnm", ".jp2", ".avif")


def read_image(source: str | os.PathLike | bytes | Image.Image, white: int = 0) -> Image.Image:
    """The picture in a file, in bytes or in a PIL image, as an upright 8-bit RGB PIL image.

    Whatever Pillow opens is read; of an animation, the first frame (of a PIL image, the frame it stands at).
    - Texts and a colour profile of a PNG may be larger than Pillow lets them be. Which end of the grey of a TIFF is
      white its own tag says, at any depth.
    - The EXIF orientation is applied. The original does not look at it and sees such a photo lying on its side.
    - Transparency (alpha, a palette's or a colour key) is composited on white. This differs from the original's
      `convert("RGB")`, which drops it, only where a picture is transparent.
      An alpha channel of zeros alone in a BMP or TGA says nothing, as for other programs.
    - Grey deeper than 8 bits is scaled (`pictures.deep.to_8_bits`), where `convert("RGB")` would clip it at 255: by
      white, a value, or 0, what the file says: 65535 of 16 bits, 4095 of a TIFF of 12. NaN and infinities become 0.

    Raises ValueError with the file's name (of bytes, their attribute `name`, if they have one) where there is no
    readable image, TypeError for another kind of source.
    """
    if isinstance(source, Image.Image):
        name = getattr(source, "filename", "") or "the PIL image"
        picture = _decoded(lambda: source, name, functools.partial(_flattened, white=white, name=name))
        return picture.copy() if picture is source else picture
    if isinstance(source, str | os.PathLike):
        source = read_file(source, "an image file")
    elif not isinstance(source, bytes | bytearray | memoryview):
        raise TypeError(f"cannot read an image from a {type(source).__name__}; expected a path, bytes or a PIL image")
    name = getattr(source, "name", f"the image given as {len(source)} bytes")
    source = source if isinstance(source, bytes) else bytes(source)
    finish = functools.partial(_flattened, white=white, name=name)
    inverse = headers.black_is_zero(source)
    return decoded(source, name, finish) if inverse is None else ImageOps.invert(decoded(inverse, name, finish))


def decoded(data: bytes, name: str, finish: Callable[[Image.Image], T]) -> T:
    """finish(the picture in a file's bytes, as Pillow opens it).

    Raises ValueError with the file's name where there is no readable image, and where `finish` fails.
    """
    what = misplaced(data) or headers.program(data)
    if what:
        raise ValueError(f"{name} is {what}; expected for example a JPEG or PNG")
    try:
        return _decoded(lambda: Image.open(io.BytesIO(data)), name, finish)
    except TooLargeError:
        raise
    except ValueError:
        what = headers.other_kind(data)
        if what:
            raise ValueError(f"{name} is {what}; expected for example a JPEG or PNG") from None
        slim = headers.without_texts(data) if data[:8] == headers.PNG else data
        if slim == data:
            raise
        return _decoded(lambda: Image.open(io.BytesIO(slim)), name, finish)


def picture_of(source: str | os.PathLike | bytes | Image.Image | np.ndarray, white: int = 0) -> Image.Image:
    """As `read_image`, also of a uint8 array (h, w), or (h, w, c) with c = 1 (grey), 3 (RGB) or 4 (RGB and alpha)."""
    if not isinstance(source, np.ndarray):
        return read_image(source, white)
    h, w, c = source.shape if source.ndim == 3 else (*source.shape, 1) if source.ndim == 2 else (0, 0, 0)
    if source.dtype != np.uint8 or not h * w or c not in (1, 3, 4):
        raise ValueError(
            f"an array of {source.dtype} {source.shape} is not a picture; expected uint8 (h, w, 3) from 0 to 255"
        )
    return _flatten(Image.fromarray(source.reshape(h, w) if c == 1 else source))


def why_broken(example: dict[str, Any]) -> str | None:
    """The sentence that names the picture of an example and says why it cannot be decoded; None where it can."""
    image = example["image"]
    if isinstance(image, np.ndarray):
        return None
    try:
        read_image(image)
    except ValueError as error:
        return str(error).replace(f"the image given as {len(image)} bytes", name_of(example))
    return None


def upright_size(data: bytes) -> tuple[int, int]:
    """(height, width) of the picture in a file's bytes as `read_image` gives it, from what stands before its pixels.

    (1, 1) where there is no readable image.
    """

    def measured(image: Image.Image) -> tuple[int, int]:
        # Pillow decodes a PNG to look for an orientation behind its pixels.
        looks = image.format != "PNG" or any(mark in data for mark in (b"eXIf", b"xmp", b"Raw profile"))
        turned = looks and _orientation(image) in _ON_ITS_SIDE
        return image.size if turned else (image.height, image.width)

    try:
        return decoded(data, "", measured)
    except ValueError:
        return 1, 1


def stored_size(data: bytes) -> tuple[tuple[int, int], int]:
    """((height, width) of the picture in a file's bytes as it is stored, its EXIF orientation, 1 to 8)."""
    return decoded(data, getattr(data, "name", ""), lambda image: ((image.height, image.width), _orientation(image)))


def _decoded(open_image: Callable[[], Image.Image], name: str, finish: Callable[[Image.Image], T]) -> T:
    try:
        image = open_image()
        check_pixels(*image.size, name)
        return finish(image)
    except TooLargeError:
        raise
    except UnidentifiedImageError as error:
        raise ValueError(f"{name} is not an image that Pillow can read; expected for example a JPEG or PNG") from error
    except Image.DecompressionBombError as error:
        limit = 2 * Image.MAX_IMAGE_PIXELS
        raise ValueError(f"{name} holds more than {limit:,} pixels, which is refused; make it smaller first") from error
    except MemoryError:
        raise
    except Exception as error:  # what Pillow's decoders raise on damaged data is of many kinds
        raise ValueError(f"{name} is truncated or damaged; replace the file with a whole one") from error


def _flattened(image: Image.Image, white: int, name: str) -> Image.Image:
    kind, drops_alpha = deep.kind_of(image), image.format in ("BMP", "TGA")
    image.load()
    if drops_alpha and image.mode == "RGBA" and not image.getextrema()[3][1]:
        image = image.convert("RGB")
    return _flatten(upright(image), kind, white, name)


def upright(image: Image.Image) -> Image.Image:
    """The picture as its EXIF orientation says; modes stay, such as indices of a palette."""
    try:
        return ImageOps.exif_transpose(image) if _orientation(image) != 1 else image
    except Exception:  # which writes an EXIF block again, and cannot write some broken ones
        return image


def _orientation(image: Image.Image) -> int:
    try:
        return image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # a picture with a broken EXIF block is a good picture without an orientation
        return 1


def _flatten(image: Image.Image, kind: tuple[int, int] = (0, 0), white: int = 0, name: str = "") -> Image.Image:
    if deep.is_deep(image, kind):
        return deep.to_8_bits(image, kind, white, name).convert("RGB")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        backdrop = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(backdrop, image).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")  # convert would copy
