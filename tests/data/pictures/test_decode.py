import io

import numpy as np
import pytest
from PIL import Image

from unireplknet_jax.data.pictures.decode import read_image
from unireplknet_jax.data.pictures.transforms import TrainTransform, eval_transform

RNG = np.random.default_rng(0)
PICTURE = RNG.integers(0, 256, (5, 7, 3), np.uint8)


def encoded(image, kind="PNG", **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def pixels(source):
    image = read_image(source)
    assert image.mode == "RGB"
    return np.asarray(image)


def grey(values):
    return np.repeat(np.asarray(values, np.uint8)[..., None], 3, axis=-1)


def test_path_bytes_and_pil_image_give_the_same_picture(tmp_path):
    image = Image.fromarray(PICTURE)
    path = tmp_path / "a.png"
    image.save(path)
    for source in (path, str(path), path.read_bytes(), bytearray(path.read_bytes()), image, Image.open(path)):
        np.testing.assert_array_equal(pixels(source), PICTURE)
    read_image(image).paste((0, 0, 0), (0, 0, 5, 5))
    np.testing.assert_array_equal(np.asarray(image), PICTURE)


@pytest.mark.parametrize(
    ("orientation", "upright"),
    [
        (1, PICTURE),
        (2, PICTURE[:, ::-1]),
        (3, PICTURE[::-1, ::-1]),
        (4, PICTURE[::-1]),
        (5, PICTURE.swapaxes(0, 1)),
        (6, np.rot90(PICTURE, -1)),
        (7, PICTURE[::-1, ::-1].swapaxes(0, 1)),
        (8, np.rot90(PICTURE, 1)),
    ],
)
def test_every_exif_orientation_is_applied_once(orientation, upright):
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = read_image(encoded(Image.fromarray(PICTURE), exif=exif))
    np.testing.assert_array_equal(np.asarray(image), upright)
    np.testing.assert_array_equal(pixels(image), upright)


def test_a_broken_exif_block_does_not_cost_the_picture():
    data = encoded(Image.fromarray(PICTURE), exif=b"Exif\x00\x00MM\x00*\x00\x00\xff\xffgarbage")
    np.testing.assert_array_equal(pixels(data), PICTURE)


def test_alpha_is_composited_on_white_and_opaque_pixels_stay_exact():
    colours = np.full((1, 3, 4), (10, 20, 30, 0), np.uint8)
    colours[0, 1, 3], colours[0, 2, 3] = 128, 255
    assert pixels(encoded(Image.fromarray(colours))).tolist() == [[[255] * 3, [132, 137, 142], [10, 20, 30]]]
    opaque = np.full((16, 16, 4), 255, np.uint8)
    opaque[..., :3] = np.arange(256).reshape(16, 16, 1)
    np.testing.assert_array_equal(pixels(Image.fromarray(opaque)), opaque[..., :3])


def test_all_kinds_of_transparency_become_white():
    grey_alpha = Image.fromarray(np.array([[[50, 0], [50, 255]]], np.uint8), "LA")
    assert pixels(encoded(grey_alpha)).tolist() == [[[255] * 3, [50] * 3]]
    palette = Image.fromarray(np.array([[0, 1]], np.uint8), "P")
    palette.putpalette([1, 2, 3, 4, 5, 6])
    assert pixels(encoded(palette)).tolist() == [[[1, 2, 3], [4, 5, 6]]]
    for kind in ("PNG", "GIF"):
        assert pixels(encoded(palette, kind, transparency=0)).tolist() == [[[255] * 3, [4, 5, 6]]]
    keyed = Image.fromarray(np.array([[[1, 2, 3], [4, 5, 6]]], np.uint8))
    assert pixels(encoded(keyed, transparency=(1, 2, 3))).tolist() == [[[255] * 3, [4, 5, 6]]]
    deep = Image.fromarray(np.array([[257, 514]], np.uint16))
    assert pixels(encoded(deep, transparency=257)).tolist() == [[[255] * 3, [2] * 3]]


def test_grey_bilevel_and_cmyk():
    values = np.arange(12, dtype=np.uint8).reshape(3, 4)
    np.testing.assert_array_equal(pixels(encoded(Image.fromarray(values))), grey(values))
    bits = Image.fromarray(np.array([[0, 255]], np.uint8)).convert("1")
    np.testing.assert_array_equal(pixels(encoded(bits)), grey([[0, 255]]))
    inks = Image.fromarray(np.array([[[0, 0, 0, 0], [255, 0, 0, 0], [0, 0, 0, 255]]], np.uint8), "CMYK")
    assert pixels(encoded(inks, "TIFF")).tolist() == [[[255] * 3, [0, 255, 255], [0] * 3]]


@pytest.mark.parametrize(
    ("values", "dtype", "expected"),
    [
        ([0, 128, 129, 257, 40000, 65535], np.uint16, [0, 0, 1, 1, 156, 255]),
        ([0, 128, 129, 257, 40000, 65535], ">u2", [0, 0, 1, 1, 156, 255]),
        ([0, 1, 2, 255], np.uint16, [0, 0, 0, 1]),
        ([0, 257, 40000, 65535], np.int32, [0, 1, 156, 255]),
        ([0, 1, 200, 255], np.int32, [0, 1, 200, 255]),
        ([0, 50000, 100000], np.int32, [0, 128, 255]),
        ([-10, 0, 10], np.int32, [0, 128, 255]),
        ([0, 0.5, 1], np.float32, [0, 128, 255]),
        ([0, 99.5, 255], np.float32, [0, 100, 255]),
        ([-1, 0, np.nan, 1], np.float32, [0, 128, 128, 255]),
        ([7e5, 7e5], np.float32, [0, 0]),
    ],
)
def test_deep_grey_is_scaled_not_clipped(values, dtype, expected):
    image = Image.fromarray(np.array([values], dtype))
    np.testing.assert_array_equal(pixels(encoded(image, "TIFF")), grey([expected]))
    np.testing.assert_array_equal(pixels(image), grey([expected]))


def test_a_16_bit_png_is_scaled_and_turned():
    exif = Image.Exif()
    exif[0x0112] = 6
    data = encoded(Image.fromarray(np.array([[0, 65535], [25700, 25700]], np.uint16)), exif=exif)
    np.testing.assert_array_equal(pixels(data), grey([[100, 0], [100, 255]]))


def test_the_first_frame_of_an_animation_is_read():
    frames = [Image.new("RGB", (4, 3), colour) for colour in ("red", "lime", "blue")]
    data = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert pixels(data)[0, 0].tolist() == [255, 0, 0]


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP"])
def test_a_truncated_file_is_named(tmp_path, kind):
    data = encoded(Image.fromarray(RNG.integers(0, 256, (64, 64, 3), np.uint8)), kind)
    path = tmp_path / "cut"
    path.write_bytes(data[: len(data) * 2 // 3])
    with pytest.raises(ValueError, match=r"cut is truncated or damaged|cut is not an image") as raised:
        read_image(path)
    assert "\n" not in str(raised.value)


def test_what_is_no_image_is_named(tmp_path, monkeypatch):
    (tmp_path / "text.png").write_text("hello")
    (tmp_path / "empty.jpg").touch()
    for name, message in {
        "text.png": "text.png is not an image that Pillow can read",
        "empty.jpg": "empty.jpg is not an image",
        "absent.png": "cannot read .*absent.png .No such file or directory.; expected the path of an image file",
        ".": "cannot read .* .Is a directory.",
        "nul\0.png": "cannot read .*nul",
    }.items():
        with pytest.raises(ValueError, match=message):
            read_image(str(tmp_path / name))
    with pytest.raises(ValueError, match="the image given as 3 bytes is not an image"):
        read_image(b"abc")
    with pytest.raises(TypeError, match="from a ndarray; expected a path, bytes or a PIL image"):
        read_image(PICTURE)
    data = encoded(Image.fromarray(PICTURE))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    with pytest.raises(ValueError, match=r"the image given as .* bytes holds more than 20 pixels"):
        read_image(data)


def positions(width, height):
    y, x = np.mgrid[:height, :width]
    return np.stack([x % 256, x // 256, y], axis=-1).astype(np.uint8)


@pytest.mark.parametrize(
    ("width", "height", "left", "top"),
    [(341, 256, 58, 16), (343, 256, 60, 16), (256, 256, 16, 16), (400, 256, 88, 16)],
)
def test_the_centre_crop_rounds_half_to_even(width, height, left, top):
    picture = positions(width, height)
    crop = eval_transform(Image.fromarray(picture), 224)
    np.testing.assert_array_equal(crop, picture[top : top + 224, left : left + 224])


@pytest.mark.parametrize(
    ("given", "size", "resized", "corner"),
    [
        ((640, 427), 224, (383, 256), (80, 16)),
        ((427, 640), 224, (256, 383), (16, 80)),
        ((90, 60), 192, (328, 219), (68, 14)),
        ((61, 61), 40, (45, 45), (2, 2)),
        ((100, 80), 383, (546, 437), (82, 27)),
    ],
)
def test_below_384_the_shorter_side_is_resized_and_the_centre_cut_out(given, size, resized, corner):
    image = Image.fromarray(RNG.integers(0, 256, (given[1], given[0], 3), np.uint8))
    whole = np.asarray(image.resize(resized, Image.Resampling.BICUBIC))
    left, top = corner
    for resize in (None, "crop"):
        np.testing.assert_array_equal(eval_transform(image, size, resize), whole[top : top + size, left : left + size])


@pytest.mark.parametrize(("size", "resize"), [(384, None), (32, None), (28, None), (224, "warp")])
def test_large_small_and_warped_inputs_show_the_whole_picture(size, resize):
    image = Image.fromarray(RNG.integers(0, 256, (60, 90, 3), np.uint8))
    expected = np.asarray(image.resize((size, size), Image.Resampling.BICUBIC))
    np.testing.assert_array_equal(eval_transform(image, size, resize), expected)


def test_evaluation_takes_arrays_and_turns_photos():
    small = RNG.integers(0, 256, (32, 32, 1), np.uint8)
    np.testing.assert_array_equal(eval_transform(small, 32), np.repeat(small, 3, axis=2))
    exif = Image.Exif()
    exif[0x0112] = 6
    square = RNG.integers(0, 256, (32, 32, 3), np.uint8)
    turned = Image.open(io.BytesIO(encoded(Image.fromarray(square), exif=exif)))
    np.testing.assert_array_equal(eval_transform(turned, 32), np.rot90(square, -1))
    with pytest.raises(ValueError, match="resize is 'squash'; expected 'crop', 'warp' or None"):
        eval_transform(square, 224, "squash")
    with pytest.raises(ValueError, match="size is 0"):
        eval_transform(square, 0)


def bicubic_rows(length, size):
    """Weights (size, length) of an antialiased bicubic resize with a = -1/2, in float64."""
    scale = length / size
    centres = (np.arange(size) + 0.5) * scale - 0.5
    x = np.abs(np.arange(length) - centres[:, None]) / max(scale, 1)
    near, far = 1.5 * x**3 - 2.5 * x**2 + 1, -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2
    weights = np.where(x < 1, near, np.where(x < 2, far, 0))
    return weights / weights.sum(axis=1, keepdims=True)


@pytest.mark.parametrize(("shape", "size"), [((8, 8, 1), 32), ((28, 28, 1), 32), ((60, 45, 3), 16)])
def test_warping_is_the_antialiased_bicubic_filter(shape, size):
    image = RNG.integers(60, 196, shape, np.uint8)
    expected = np.einsum("yh,hwc,xw->yxc", bicubic_rows(shape[0], size), image, bicubic_rows(shape[1], size))
    result = eval_transform(image, size, "warp")[..., : shape[-1]]
    assert result.shape == (size, size, shape[2])
    assert result.dtype == np.uint8
    # Pillow rounds after each of the two passes and works with fixed-point weights.
    assert np.abs(result - np.clip(expected, 0, 255)).max() < 1.2


def test_warping_to_the_same_size_changes_nothing():
    image = RNG.integers(0, 256, (28, 28, 1), np.uint8)
    np.testing.assert_array_equal(eval_transform(image, 28)[..., :1], image)


@pytest.mark.parametrize(
    "wrong", [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 4), np.uint8), np.zeros((4, 4, 3), np.float32)]
)
def test_arrays_of_another_kind_are_refused(wrong):
    for call in (
        lambda: eval_transform(wrong, 4),
        lambda: TrainTransform(4)(wrong, np.random.default_rng(0)),
    ):
        with pytest.raises(ValueError, match="expected a uint8 array of shape"):
            call()
