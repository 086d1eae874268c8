"""Any picture file as upright RGB, and files that are none."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from unireplknet_jax.data.files import EncodedFile
from unireplknet_jax.data.pictures import deep
from unireplknet_jax.data.pictures.decode import picture_of, read_image

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


def tiff(values, photometric, order, bits=0, raw=b""):
    """A grey TIFF file of one strip. values: (h, w) of whole numbers, of `bits` in `raw` if that is given."""
    (h, w), bits = values.shape, bits or 8 * values.itemsize
    raw = raw or values.astype(values.dtype.newbyteorder(order)).tobytes()
    numbers = {256: w, 257: h, 258: bits, 259: 1, 262: photometric, 273: 8, 277: 1, 278: h, 279: len(raw)}
    numbers[339] = 2 if values.dtype.kind == "i" else 1
    entries = b"".join(struct.pack(f"{order}HHIHH", tag, 3, 1, value, 0) for tag, value in numbers.items())
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}I", 8 + len(raw))
    return head + raw + struct.pack(f"{order}H", len(numbers)) + entries + bytes(4)


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_the_tag_of_a_tiff_says_which_end_is_white(dtype, order):
    values = np.array([[0, 51, 255]]).astype(dtype) * (257 if dtype == np.uint16 else 1)
    assert pixels(tiff(values, 1, order)).tolist() == grey([[0, 51, 255]]).tolist()
    assert pixels(tiff(values, 0, order)).tolist() == grey([[255, 204, 0]]).tolist()


@pytest.mark.parametrize(
    ("values", "dtype", "expected"),
    [
        ([0, 16_384, 32_767], np.int16, [0, 128, 255]),
        ([-32_768, 0, 32_767], np.int16, [0, 128, 255]),
        ([0, 64, 127], np.int8, [0, 129, 255]),
        ([-128, 0, 127], np.int8, [0, 128, 255]),
        ([0, 2**31, 2**32 - 1], np.uint32, [0, 128, 255]),
        ([0, 128, 255], np.uint32, [0, 128, 255]),
    ],
)
def test_the_tags_of_a_tiff_say_what_its_numbers_are(values, dtype, expected):
    assert pixels(tiff(np.array([values], dtype), 1, "<")).tolist() == grey([expected]).tolist()


def test_a_tiff_of_12_bits_has_its_own_white():
    packed = bytes([0x00, 0x08, 0x00, 0xFF, 0xF0, 0x10])  # 0, 2048, 4095, 16
    for photometric, expected in ((1, [0, 128, 255, 1]), (0, [255, 127, 0, 254])):
        data = tiff(np.zeros((1, 4), np.uint16), photometric, "<", 12, packed)
        assert pixels(data).tolist() == grey([expected]).tolist()


@pytest.fixture
def said(monkeypatch, caplog):
    """The log, in which nothing was said yet."""
    monkeypatch.setattr(deep, "_said", set())
    return caplog


def test_white_of_16_bits_is_an_option_and_what_is_assumed_is_said_once(said):
    data = encoded(Image.fromarray(np.array([[0, 2048, 4095]], np.uint16)))
    for _ in range(2):
        np.testing.assert_array_equal(pixels(EncodedFile(data, "a.png")), grey([[0, 8, 16]]))
    assert said.messages == [
        "a.png: its values of 16 bits end at 4095, and 65535 is taken for white (task.options.white says otherwise)"
    ]
    np.testing.assert_array_equal(read_image(data, white=4095), grey([[0, 128, 255]]))
    np.testing.assert_array_equal(picture_of(data, white=2048), grey([[0, 255, 255]]))
    assert len(said.messages) == 1


def test_ranges_that_are_guessed_are_said(said):
    for values in ([0, 0.5, 1], [0, 0.2, 0.7], [-3, 0, 3], [-1, 0, 5]):
        read_image(EncodedFile(encoded(Image.fromarray(np.array([values], np.float32)), "TIFF"), "a.tif"))
    assert [message.partition(" are ")[2][:50] for message in said.messages] == [
        "taken to go from 0, black, to 1, white (task.optio",
        "taken to go from -3, black, to 3, white (task.opti",
    ]


@pytest.mark.parametrize(("kind", "expected"), [("TGA", (1, 2, 3)), ("PNG", (255, 255, 255))])
def test_an_alpha_channel_that_programs_leave_empty_says_nothing(kind, expected):
    data = encoded(Image.new("RGBA", (2, 2), (1, 2, 3, 0)), kind)
    assert pixels(data)[0, 0].tolist() == list(expected)
    mixed = Image.fromarray(np.array([[[1, 2, 3, 0], [1, 2, 3, 255]]], np.uint8))
    assert pixels(encoded(mixed, kind)).tolist() == [[[255] * 3, [1, 2, 3]]]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"\0\0\0\x18ftypheic\0\0\0\0", "a.jpg is a HEIC picture, which is not read: convert it, or let"),
        (b"\xff\x0a" + bytes(9), "a.jpg is a JPEG XL picture, which is not read: convert it;"),
        (b"%PDF-1.7", "a.jpg is a PDF, which is not read"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n", "a.jpg is a page of PostScript, which is not read"),
        (b"<?xml version='1.0'?><svg/>", "a.jpg is an SVG drawing, which is not read"),
        (b"<html>", "a.jpg is a web page and not the file itself; expected for example a JPEG or PNG$"),
        (b"version https://git-lfs.github.com/spec/v1", "a.jpg is a Git LFS pointer and not the file itself, which `g"),
    ],
)
def test_what_stands_in_the_place_of_a_picture_is_said(data, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        read_image(EncodedFile(data, "a.jpg"))


def test_a_picture_may_speak_of_others():
    exif = Image.Exif()
    exif[0x010E] = "<svg> %PDF"
    np.testing.assert_array_equal(pixels(encoded(Image.fromarray(PICTURE), exif=exif)), PICTURE)


@pytest.mark.parametrize("kind", [b"iCCP", b"zTXt"])
def test_large_texts_and_profiles_of_a_png_are_no_damage(kind):
    whole = encoded(Image.new("RGB", (3, 2), "red"), "PNG")
    large = b"name\0\0" + zlib.compress(np.random.default_rng(0).integers(0, 9, 1_200_000).astype(np.uint8).tobytes())
    chunk = struct.pack(">I", len(large)) + kind + large + struct.pack(">I", zlib.crc32(kind + large))
    data = whole[:33] + chunk + whole[33:]
    assert pixels(data).tolist() == [[[255, 0, 0]] * 3] * 2
    with pytest.raises(ValueError, match="truncated or damaged"):
        read_image(data[:-30])


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
        "empty.jpg": "empty.jpg is empty; expected for example a JPEG or PNG",
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


def test_an_array_is_the_picture_of_its_pixels(tmp_path):
    Image.fromarray(PICTURE).save(tmp_path / "a.png")
    alpha = np.concatenate([PICTURE, np.zeros((5, 7, 1), np.uint8)], axis=-1)
    for source, expected in (
        (PICTURE, PICTURE),
        (PICTURE[:, ::-1], PICTURE[:, ::-1]),
        (PICTURE[..., 0], grey(PICTURE[..., 0])),
        (PICTURE[..., :1], grey(PICTURE[..., 0])),
        (alpha, np.full_like(PICTURE, 255)),
        (tmp_path / "a.png", PICTURE),
        (Image.fromarray(PICTURE), PICTURE),
    ):
        picture = picture_of(source)
        assert picture.mode == "RGB"
        np.testing.assert_array_equal(np.asarray(picture), expected)


@pytest.mark.parametrize(
    "array",
    [PICTURE / 255, PICTURE[..., :2], PICTURE[None], PICTURE[:0], PICTURE[0, 0]],
    ids=["float", "two channels", "a batch", "empty", "a row"],
)
def test_an_array_that_is_no_picture_is_one_sentence(array):
    with pytest.raises(ValueError, match=r"^an array of \w+ \(.*\) is not a picture; expected uint8 \(h, w, 3\)"):
        picture_of(array)
