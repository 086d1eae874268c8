"""The evaluation transform and the training transform, by pixels."""

import io
import math
import pickle

import numpy as np
import pytest
from PIL import Image

from unireplknet_jax.data.pictures.randaugment import RandAugment
from unireplknet_jax.data.pictures.transforms import (
    TrainTransform,
    eval_transform,
    random_resized_crop,
    shorter_side_to,
)

RNG = np.random.default_rng(0)
PHOTO = RNG.integers(0, 256, (60, 90, 3), np.uint8)


def encoded(image, kind="PNG", **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def bicubic_rows(length, size):
    """Weights (size, length) of an antialiased bicubic resize with a = -1/2, in float64."""
    scale = length / size
    centres = (np.arange(size) + 0.5) * scale - 0.5
    x = np.abs(np.arange(length) - centres[:, None]) / max(scale, 1)
    near, far = 1.5 * x**3 - 2.5 * x**2 + 1, -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2
    weights = np.where(x < 1, near, np.where(x < 2, far, 0))
    return weights / weights.sum(axis=1, keepdims=True)


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


@pytest.mark.parametrize(("width", "height"), [(1, 3000), (7000, 9)])
def test_of_a_very_thin_picture_only_what_is_kept_is_resized(width, height, monkeypatch):
    values = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    whole = Image.fromarray(values)
    w, h = shorter_side_to(whole.size, 36)
    left, top = round((w - 32) / 2), round((h - 32) / 2)
    expected = np.asarray(whole.resize((w, h), Image.Resampling.BICUBIC).crop((left, top, left + 32, top + 32)), int)
    sizes, resize = [], Image.Image.resize
    monkeypatch.setattr(
        Image.Image, "resize", lambda self, size, *rest: sizes.append(size) or resize(self, size, *rest)
    )
    found = eval_transform(values, 32, "crop").astype(int)
    assert sizes == [(32, 32)]
    assert np.abs(found - expected).max() <= 1  # rounding


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


class Recorder:
    """Stands for a picture of some size and remembers the window that is cut out of it."""

    def __init__(self, width, height):
        self.width, self.height = width, height

    def crop(self, box):
        self.box = box
        return Image.new("RGB", (1, 1))


def windows(width, height, count, seed=0, **ranges):
    """(count, 4): left, top, width, height of random windows."""
    picture, rng, boxes = Recorder(width, height), np.random.default_rng(seed), []
    for _ in range(count):
        random_resized_crop(picture, 1, rng, **ranges)
        boxes.append(picture.box)
    boxes = np.array(boxes)
    return np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1)


def test_windows_lie_inside_with_the_areas_and_the_shapes_they_should_have():
    # So elongated shapes of so large areas do not occur that a draw must be repeated.
    left, top, width, height = windows(1000, 1000, 4000, scale=(0.08, 0.5)).T
    assert min(left.min(), top.min()) >= 0
    assert max((left + width).max(), (top + height).max()) <= 1000
    areas, shapes = width * height / 1e6, np.log(width / height)
    # Rounding to whole pixels moves an area by at most 0.5 %, a ratio likewise.
    assert areas.min() > 0.08 * 0.99
    assert areas.max() < 0.5 * 1.01
    assert np.abs(shapes).max() < math.log(4 / 3) + 0.01
    # Both are uniform; the bounds are 5 times the deviation of the mean of 4000, or of a share of them.
    assert abs(areas.mean() - 0.29) < 5 * 0.42 / math.sqrt(12 * 4000)
    assert abs((areas < 0.185).mean() - 0.25) < 5 * math.sqrt(0.1875 / 4000)
    assert abs(shapes.mean()) < 5 * 2 * math.log(4 / 3) / math.sqrt(12 * 4000)
    assert abs((shapes < -math.log(4 / 3) / 2).mean() - 0.25) < 5 * math.sqrt(0.1875 / 4000)
    # And so is the place, among those where the window fits.
    for start, side in ((left, width), (top, height)):
        places = start / (1000 - side)
        assert abs(places.mean() - 0.5) < 5 / math.sqrt(12 * 4000)
        assert abs((places < 0.25).mean() - 0.25) < 5 * math.sqrt(0.1875 / 4000)


@pytest.mark.parametrize(("share", "side"), [(0.2, 2), (0.3, 2), (0.35, 3)])  # of 5 x 4: the roots of 4, 6 and 7
def test_every_place_is_reached_up_to_the_last_pixel(share, side):
    boxes = windows(5, 4, 400, scale=(share, share), ratio=(1.0, 1.0))
    places = {(left, top, side, side) for left in range(6 - side) for top in range(5 - side)}
    assert set(map(tuple, boxes)) == places


def test_the_default_windows_are_those_of_the_recipe():
    boxes = windows(500, 375, 3000)
    areas, shapes = boxes[:, 2] * boxes[:, 3] / (500 * 375), boxes[:, 2] / boxes[:, 3]
    assert 0.075 < areas.min() < 0.09
    assert 0.95 < areas.max() <= 1
    assert 0.74 < shapes.min() < 0.76
    assert 1.32 < shapes.max() < 1.35


@pytest.mark.parametrize(
    ("size", "ranges", "window"),
    [
        ((1000, 10), {}, (493, 0, 13, 10)),
        ((10, 1000), {}, (0, 493, 10, 13)),
        ((1000, 1), {}, (499, 0, 1, 1)),
        ((1, 1000), {}, (0, 499, 1, 1)),
        ((10, 11), {"scale": (1.0, 1.0), "ratio": (0.5, 0.6)}, (1, 0, 7, 11)),
        ((3, 3), {"scale": (0.01, 0.01)}, (0, 0, 3, 3)),
        ((1, 1), {"scale": (0.01, 0.01)}, (0, 0, 1, 1)),
        ((2, 2), {"scale": (0.06, 0.06)}, (0, 0, 2, 2)),  # 1 x 0 and 0 x 1 pixels are drawn
    ],
)
def test_where_ten_draws_do_not_fit_the_centre_is_taken(size, ranges, window):
    assert set(map(tuple, windows(*size, 20, **ranges))) == {window}


def test_ten_draws_are_made_before_the_centre_is_taken():
    # Half of the area fits into a square in shapes from 1/2 to 2: a share of log(4) / log(100) of all draws.
    boxes = windows(100, 100, 8000, scale=(0.5, 0.5), ratio=(0.1, 10))
    missed = (boxes == (0, 0, 100, 100)).all(axis=1).mean()
    expected = (1 - math.log(4) / math.log(100)) ** 10
    # 4 standard deviations, which keeps 9 and 11 draws apart from 10.
    assert abs(missed - expected) < 4 * math.sqrt(expected * (1 - expected) / 8000)


@pytest.mark.parametrize("seed", range(6))
def test_the_window_is_resized_by_the_antialiased_bicubic_filter_and_sees_nothing_around_it(seed):
    left, top, width, height = windows(90, 60, 1, seed)[0]
    window = PHOTO[top : top + height, left : left + width] // 2 + 60  # away from the ends, where values are clipped
    picture = np.zeros_like(PHOTO)
    picture[top : top + height, left : left + width] = window
    result = random_resized_crop(Image.fromarray(picture), 34, np.random.default_rng(seed))
    expected = np.einsum("yh,hwc,xw->yxc", bicubic_rows(height, 34), window, bicubic_rows(width, 34))
    # Pillow rounds after each of the two passes and works with fixed-point weights.
    assert np.abs(np.asarray(result) - expected).max() < 1.2


def test_the_steps_come_in_the_order_crop_flip_randaugment():
    transform, policy = TrainTransform(40, fill=(9, 8, 7)), RandAugment.from_policy("rand-m9-mstd0.5-inc1", (9, 8, 7))
    flips = 0
    for seed in range(30):
        rng = np.random.default_rng(seed)
        picture = random_resized_crop(Image.fromarray(PHOTO), 40, rng)
        if rng.random() < 0.5:
            picture, flips = Image.fromarray(np.asarray(picture)[:, ::-1]), flips + 1
        expected = np.asarray(policy(picture, rng))
        np.testing.assert_array_equal(transform(PHOTO, np.random.default_rng(seed)), expected)
    assert 5 < flips < 25


def test_half_of_the_pictures_are_mirrored_unless_flip_is_off():
    transform = TrainTransform(8, rand_augment=None, crop_padding=0)
    picture = RNG.integers(0, 256, (8, 8, 3), np.uint8)
    rng = np.random.default_rng(1)
    results = [transform(picture, rng).tobytes() for _ in range(2000)]
    assert set(results) == {picture.tobytes(), picture[:, ::-1].tobytes()}
    # 2000 fair coins: the standard deviation of the share is 0.011.
    assert abs(results.count(picture.tobytes()) / 2000 - 0.5) < 0.055
    upright = TrainTransform(8, rand_augment=None, crop_padding=0, flip=False)
    assert {upright(picture, rng).tobytes() for _ in range(50)} == {picture.tobytes()}


@pytest.mark.parametrize(("size", "crop_padding", "pad"), [(8, None, 4), (8, 1, 1), (40, 2, 2)])
@pytest.mark.parametrize("channels", [1, 3])
def test_small_pictures_are_cut_out_of_a_zero_border(size, crop_padding, pad, channels):
    picture = RNG.integers(1, 256, (size, size, channels), np.uint8)
    transform = TrainTransform(size, flip=False, rand_augment=None, crop_padding=crop_padding)
    padded = np.zeros((size + 2 * pad, size + 2 * pad, channels), np.uint8)
    padded[pad:-pad, pad:-pad] = picture
    places = range(2 * pad + 1)
    expected = {padded[y : y + size, x : x + size].tobytes() for y in places for x in places}
    rng = np.random.default_rng(2)
    results = [transform(picture, rng) for _ in range(1000)]
    assert {result.tobytes() for result in results} == expected
    assert {result.shape for result in results} == {(size, size, channels)}
    again = np.random.default_rng(2)
    np.testing.assert_array_equal(transform(picture, again), results[0])


@pytest.mark.parametrize("size", [28, 32, 40])
def test_a_padded_crop_starts_from_the_whole_picture(size):
    transform = TrainTransform(size, flip=False, rand_augment=None, crop_padding=0)
    expected = np.asarray(Image.fromarray(PHOTO).resize((size, size), Image.Resampling.BICUBIC))
    np.testing.assert_array_equal(transform(PHOTO, np.random.default_rng(3)), expected)


def test_sizes_up_to_32_are_padded_and_sizes_above_are_resized_windows():
    options = {"flip": False, "rand_augment": None}
    white = np.full((90, 90, 3), 255, np.uint8)
    dark = {size: [] for size in (32, 33)}
    for size, seen in dark.items():
        transform = TrainTransform(size, **options)
        seen += [int((transform(white, np.random.default_rng(seed)) == 0).sum()) for seed in range(20)]
    assert max(dark[32]) > 0
    assert max(dark[33]) == 0


def test_arrays_files_bytes_and_pil_images_give_the_same_picture(tmp_path):
    image = Image.fromarray(PHOTO)
    path = tmp_path / "a.png"
    image.save(path)
    transform = TrainTransform(36)
    expected = transform(PHOTO, np.random.default_rng(4))
    assert expected.shape == (36, 36, 3)
    assert expected.dtype == np.uint8
    for source in (path, str(path), path.read_bytes(), image):
        np.testing.assert_array_equal(transform(source, np.random.default_rng(4)), expected)


def test_what_is_turned_by_exif_is_turned_before_it_is_cropped():
    exif, file = Image.Exif(), io.BytesIO()
    exif[0x0112] = 6
    Image.fromarray(PHOTO).save(file, "PNG", exif=exif)
    transform = TrainTransform(36)
    upright = transform(np.ascontiguousarray(np.rot90(PHOTO, -1)), np.random.default_rng(5))
    np.testing.assert_array_equal(transform(file.getvalue(), np.random.default_rng(5)), upright)


def test_the_same_rng_gives_the_same_picture_also_after_pickling():
    transform = TrainTransform(40)
    copy = pickle.loads(pickle.dumps(transform))
    assert copy == transform
    assert hash(copy) == hash(transform)
    given = PHOTO.copy()
    one, other = ([t(given, rng) for _ in range(8)] for t, rng in zip((transform, copy), two_rngs(6), strict=True))
    np.testing.assert_array_equal(one, other)
    assert len({result.tobytes() for result in one}) == 8
    np.testing.assert_array_equal(given, PHOTO)


def two_rngs(seed):
    return np.random.default_rng(seed), np.random.default_rng(seed)


@pytest.mark.parametrize("shape", [(1, 1, 3), (1, 1, 1), (1, 300, 3), (300, 1, 1), (2, 3, 3)])
@pytest.mark.parametrize("size", [1, 28, 64])
def test_the_smallest_pictures_pass_through_every_operation(shape, size):
    transform = TrainTransform(size, rand_augment="rand-m9-mstd2-n8-p1-inc1")
    rng = np.random.default_rng(7)
    for _ in range(10):
        result = transform(RNG.integers(0, 256, shape, np.uint8), rng)
        assert result.shape == (size, size, shape[2])
        assert result.dtype == np.uint8


def test_grey_pictures_are_augmented_as_grey_ones():
    grey = RNG.integers(0, 256, (28, 28, 1), np.uint8)
    transform = TrainTransform(28, fill=(73,))
    rng = np.random.default_rng(8)
    results = [transform(grey, rng) for _ in range(60)]
    assert {result.shape for result in results} == {(28, 28, 1)}
    coloured = TrainTransform(28, fill=(73, 73, 73))
    for seed in range(30):
        one, three = (
            t(a, np.random.default_rng(seed)) for t, a in ((transform, grey), (coloured, np.repeat(grey, 3, axis=2)))
        )
        np.testing.assert_array_equal(np.repeat(one, 3, axis=2), three)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": 0}, "size is 0"),
        ({"scale": (0.5, 0.2)}, "expected the smallest and the largest share of the area"),
        ({"scale": (0.0, 1.0)}, "scale is"),
        ({"scale": (0.1, 1.1)}, "scale is"),
        ({"ratio": (2, 1)}, "expected the smallest and the largest width / height"),
        ({"ratio": (0, 1)}, "ratio is"),
        ({"crop_padding": -1}, "crop_padding is -1"),
        ({"rand_augment": "rand-m9"}, "without -inc1"),
        ({"fill": (1, 2)}, "fill colour"),
    ],
)
def test_options_that_make_no_sense_are_refused_at_once(options, message):
    with pytest.raises(ValueError, match=message):
        TrainTransform(**{"size": 64, **options})


def test_pictures_of_another_kind_are_refused():
    rng = np.random.default_rng(9)
    with pytest.raises(ValueError, match="expected a uint8 array of shape"):
        TrainTransform(8)(np.zeros((4, 4), np.uint8), rng)
    with pytest.raises(ValueError, match="the image given as 3 bytes is not an image"):
        TrainTransform(8)(b"abc", rng)


def test_bytes_with_a_name_are_called_by_it():
    class Named(bytes):
        name = "shelf/17.jpg"

    with pytest.raises(ValueError, match=r"shelf/17\.jpg is not an image"):
        TrainTransform(8)(Named(b"abc"), np.random.default_rng(0))
