"""Pictures with masks in training and evaluation, against numbers that were computed by hand or by OpenCV 4.14."""

import numpy as np
import pytest

from unireplknet_jax.data.pictures import mask_transforms
from unireplknet_jax.data.pictures.mask_transforms import (
    TrainTransform,
    distort,
    kept_ratio,
    network_size,
    prepared,
    resize_to,
    to_hsv,
    to_rgb,
)
from unireplknet_jax.data.pictures.masks import IGNORED

PLAIN = {"ratio": (1.0, 1.0), "flip": False, "distortion": False}


def picture(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def marked(height, width):
    """A picture whose every pixel tells its row and column, and a mask of classes that tell the column."""
    rows, columns = np.mgrid[:height, :width]
    image = np.stack([rows, columns, rows + columns], axis=-1).astype(np.uint8)
    return {"image": image, "label_map": columns.astype(np.int16), "id": "a"}


def bilinear(image, size):
    """By the formula, in float64: half-pixel centres, clamped at the borders, no antialiasing."""
    for axis, target in enumerate(size):
        length = image.shape[axis]
        place = np.clip((np.arange(target) + 0.5) * length / target - 0.5, 0, length - 1)
        first = np.floor(place).astype(int)
        part = (place - first).reshape(-1, *[1] * (image.ndim - 1 - axis))
        second = np.minimum(first + 1, length - 1)
        image = np.take(image, first, axis) * (1 - part) + np.take(image, second, axis) * part
    return image


def test_resizing_is_bilinear_without_antialiasing():
    # Centres at -0.25, 0.25, 0.75, 1.25 and so on: 0, 25, 75, 125, 175, 200.
    np.testing.assert_array_equal(resize_to(np.array([[0, 100, 200]], np.uint8), (1, 6)), [[0, 25, 75, 125, 175, 200]])
    # Centres at 1 and 4 of 6: others play no part.
    np.testing.assert_array_equal(resize_to(np.array([[9, 50, 9, 9, 70, 9]], np.uint8), (1, 2)), [[50, 70]])


# By cv2.resize, INTER_LINEAR, of the picture in the test; weights of 11 bits and roundings down show in them.
OPENCV_DOWN = [[45, 49, 106, 82], [99, 33, 10, 31], [150, 87, 130, 92]]
OPENCV_UP = [
    [0, 5, 16, 36, 63, 101, 147, 117, 1],
    [69, 122, 108, 80, 164, 113, 70, 76, 135],
    [107, 117, 89, 57, 91, 55, 26, 40, 97],
    [99, 95, 95, 80, 15, 42, 77, 85, 57],
    [111, 118, 134, 129, 62, 104, 153, 148, 77],
    [217, 148, 74, 64, 201, 153, 114, 82, 60],
]


def test_resizing_has_the_numbers_of_opencv():
    image = (np.arange(35) ** 2 * 7 % 251).astype(np.uint8).reshape(5, 7)
    np.testing.assert_array_equal(resize_to(image, (3, 4)), OPENCV_DOWN)
    np.testing.assert_array_equal(resize_to(image, (6, 9)), OPENCV_UP)


@pytest.mark.parametrize("size", [(1, 1), (7, 200), (97, 31), (64, 64), (128, 160), (300, 47)])
def test_resizing_any_size_is_near_the_formula(size):
    image = picture(64, 80)
    assert np.abs(resize_to(image, size).astype(float) - bilinear(image.astype(float), size)).max() < 1
    assert resize_to(image, size).dtype == np.uint8


def test_a_window_is_what_the_whole_has_there():
    image = picture(50, 70)
    whole = resize_to(image, (90, 33))
    np.testing.assert_array_equal(resize_to(image, (90, 33), (11, 5, 40, 20)), whole[11:51, 5:25])
    np.testing.assert_array_equal(resize_to(image, (50, 70), (11, 5, 30, 20)), image[11:41, 5:25])


def test_a_large_picture_is_resized_in_strips(monkeypatch):
    image = picture(50, 70)
    whole = resize_to(image, (90, 33))
    assert mask_transforms._AT_ONCE < 4000 * 6000
    monkeypatch.setattr(mask_transforms, "_AT_ONCE", 33 * 40)
    parts, linear = [], mask_transforms._linear
    monkeypatch.setattr(mask_transforms, "_linear", lambda *given: parts.append(given) or linear(*given))
    np.testing.assert_array_equal(resize_to(image, (90, 33)), whole)
    assert len(parts) == 2 * 3  # both axes of 40, 40 and 10 rows
    np.testing.assert_array_equal(resize_to(image[..., 0], (90, 33), (11, 0, 60, 33)), whole[11:71, :, 0])


@pytest.mark.parametrize(
    ("size", "scale", "ratio", "kept", "seen"),
    [
        ((512, 683), (2048, 512), 1.0, (512, 683), (512, 704)),
        ((333, 500), (2048, 512), 1.0, (512, 769), (512, 800)),
        ((100, 1000), (2048, 512), 1.0, (205, 2048), (224, 2048)),
        ((333, 500), (2048, 512), 0.5, (256, 384), (256, 384)),
        ((333, 500), (2560, 640), 1.75, (1120, 1682), (1120, 1696)),
        ((333, 500), (2048, 512), 1.2362, (632, 949), (640, 960)),  # the short side is 632, not 632.9
        ((100, 1000), (2048, 512), 0.6005, (123, 1229), (128, 1248)),  # the long side is 1229, not 1229.8
        ((50, 20000), (2048, 512), 1.0, (5, 2048), (32, 2048)),
        ((1, 20000), (2048, 512), 1.0, (1, 2048), (32, 2048)),
        ((1, 1), (2048, 512), 1.0, (512, 512), (512, 512)),
        ((700, 1100), None, 1.0, (700, 1100), (704, 1120)),
        ((700, 1100), None, 0.5, (350, 550), (352, 576)),
        ((1, 1), None, 0.5, (1, 1), (32, 32)),
    ],
)
def test_sizes(size, scale, ratio, kept, seen):
    assert kept_ratio(*size, scale, ratio) == kept
    assert network_size(*size, scale, ratio) == seen


def test_evaluation_resizes_twice():
    image = picture(33, 50)
    once = resize_to(image, (51, 77))
    found = prepared(image, (205, 51))
    np.testing.assert_array_equal(found, resize_to(once, (64, 96)))
    assert np.abs(found.astype(int) - resize_to(image, (64, 96))).max() > 10


def test_a_thin_picture_is_prepared():
    assert prepared(picture(5, 2000), (2048, 512)).shape == (32, 2048, 3)
    assert prepared(picture(1, 1), (2048, 512)).shape == (512, 512, 3)


def test_labels_take_the_nearest_place_rounded_down():
    transform = TrainTransform(12, (12, 12), cat_max_ratio=1.0, **PLAIN)
    example = {"image": picture(5, 5), "label_map": np.tile(np.arange(5, dtype=np.int16), (5, 1)), "id": 0}
    found = transform(example, np.random.default_rng(0))["label_map"]
    np.testing.assert_array_equal(found[0], [0, 0, 0, 1, 1, 2, 2, 2, 3, 3, 4, 4])


def test_a_crop_shows_the_same_part_of_picture_and_mask():
    transform = TrainTransform(32, None, cat_max_ratio=1.0, **PLAIN)
    example, places = marked(100, 120), set()
    for seed in range(40):
        found = transform(example, np.random.default_rng(seed))
        top, left = found["image"][0, 0, :2].tolist()
        places.add((top, left))
        np.testing.assert_array_equal(found["image"], example["image"][top : top + 32, left : left + 32])
        np.testing.assert_array_equal(found["label_map"], example["label_map"][top : top + 32, left : left + 32])
        assert found["size"].tolist() == [32, 32]
    tops, lefts = zip(*places, strict=True)
    assert (min(tops), max(tops)) == (1, 67)  # of 0 to 68
    assert max(lefts) > 80


def test_a_resized_crop_is_that_of_the_resized_picture():
    transform = TrainTransform(32, (200, 150), ratio=(1.3, 1.3), cat_max_ratio=1.0, flip=False, distortion=False)
    example = marked(60, 90)
    found = transform(example, np.random.default_rng(1))
    whole = resize_to(example["image"], kept_ratio(60, 90, (200, 150), 1.3))
    matches = [
        (top, left)
        for top in range(whole.shape[0] - 31)
        for left in range(whole.shape[1] - 31)
        if (whole[top : top + 32, left : left + 32] == found["image"]).all()
    ]
    assert matches
    scale = 90 / whole.shape[1]
    expected = np.floor((matches[0][1] + np.arange(32)) * scale)
    assert np.abs(found["label_map"][0] - expected).max() <= 2  # which of the equal windows it was is not known


def test_small_pictures_are_padded():
    transform = TrainTransform(32, None, cat_max_ratio=1.0, **PLAIN)
    example = marked(20, 40)
    found = transform(example, np.random.default_rng(0))
    assert found["size"].tolist() == [20, 32]
    assert found["size"].dtype == np.int32
    assert (found["label_map"][20:] == IGNORED).all()
    assert not found["image"][20:].any()
    assert (found["label_map"][:20] != IGNORED).all()
    assert (found["image"].dtype, found["label_map"].dtype, found["id"]) == (np.uint8, np.int16, "a")


def test_mirroring_turns_both():
    transform = TrainTransform(32, None, ratio=(1.0, 1.0), cat_max_ratio=1.0, distortion=False)
    example, mirrored = marked(32, 32), 0
    for seed in range(60):
        found = transform(example, np.random.default_rng(seed))
        turned = found["label_map"][0, 0] != 0
        mirrored += turned
        np.testing.assert_array_equal(found["image"][..., 1], found["label_map"])
        np.testing.assert_array_equal(found["label_map"][0], np.arange(32)[:: -1 if turned else 1])
    assert 20 <= mirrored <= 40


def test_a_crop_of_one_class_is_drawn_again():
    label_map = np.zeros((64, 640), np.int16)
    label_map[:, 600:] = 1
    label_map[:, 590:600] = IGNORED
    example = {"image": np.zeros((64, 640, 3), np.uint8), "label_map": label_map, "id": 0}

    def both(cat_max_ratio):
        transform = TrainTransform(64, None, cat_max_ratio=cat_max_ratio, **PLAIN)
        found = [transform(example, np.random.default_rng(seed))["label_map"] for seed in range(200)]
        counts = np.array([[(each == 0).sum(), (each == 1).sum()] for each in found])
        return (counts.max(1) < 0.75 * counts.sum(1)).mean()

    # One crop in 577 has each of the places: 27 of them have less than 75 % of both classes.
    assert both(1.0) < 0.1
    assert 0.3 < both(0.75) < 0.5  # 1 - (1 - 27 / 577) ** 11 = 0.41


class Counting:
    """Draws that are counted."""

    def __init__(self):
        self.rng, self.draws = np.random.default_rng(0), 0

    def integers(self, *args, **options):
        self.draws += 1
        return self.rng.integers(*args, **options)

    def __getattr__(self, name):
        return getattr(self.rng, name)


@pytest.mark.parametrize(
    ("columns", "cat_max_ratio", "draws"),
    [
        ((3, IGNORED, 3, 3), 0.75, 22),  # one class: the first crop and ten more, a place down and one across each
        ((0, 0, 1, 0), 0.75, 22),  # exactly that share
        ((0, 0, 1, 0), 0.76, 2),
        ((0, IGNORED, 1, 1), 0.75, 2),  # two thirds of the pixels with a class
        ((0, IGNORED, 1, 1), 0.66, 22),
        ((3, 3, 3, 3), 1.0, 2),
    ],
)
def test_a_crop_is_drawn_again_for_the_share_of_its_pixels_with_a_class(columns, cat_max_ratio, draws):
    label_map = np.tile(np.array(columns, np.int16), (8, 16))
    example, rng = {"image": np.zeros((8, 64, 3), np.uint8), "label_map": label_map, "id": 0}, Counting()
    TrainTransform(8, None, cat_max_ratio=cat_max_ratio, **PLAIN)(example, rng)
    assert rng.draws == draws


def test_a_crop_may_be_all_ignored():
    example = {"image": picture(40, 40), "label_map": np.full((40, 40), IGNORED, np.int16), "id": 0}
    found = TrainTransform(32)(example, np.random.default_rng(0))
    assert (found["label_map"] == IGNORED).all()


@pytest.mark.parametrize("size", [(1, 1), (1, 300), (2000, 5)])
def test_odd_sizes_are_cropped(size):
    example = {"image": picture(*size), "label_map": np.zeros(size, np.int16), "id": 0}
    for seed in range(5):
        found = TrainTransform(64, (256, 64))(example, np.random.default_rng(seed))
        assert found["image"].shape == (64, 64, 3)
        assert (found["label_map"] == 0).sum() == found["size"].prod()


def test_the_same_rng_gives_the_same_example():
    example = {"image": picture(60, 90), "label_map": np.tile(np.arange(90, dtype=np.int16), (60, 1)), "id": 0}
    transform = TrainTransform(32, (128, 64))
    first, again, other = (transform(example, np.random.default_rng(seed)) for seed in (7, 7, 8))
    for name in ("image", "label_map", "size"):
        np.testing.assert_array_equal(first[name], again[name])
    assert (first["image"] != other["image"]).any()


# By cv2.cvtColor, COLOR_RGB2HSV and COLOR_HSV2RGB; the way back rounds down.
HSV = {
    (255, 0, 0): (0, 255, 255),
    (0, 255, 0): (60, 255, 255),
    (0, 0, 255): (120, 255, 255),
    (128, 128, 128): (0, 0, 128),
    (10, 20, 30): (105, 170, 30),
    (200, 100, 101): (0, 127, 200),
    (200, 101, 100): (0, 127, 200),
    (200, 100, 110): (177, 127, 200),
    (1, 0, 2): (135, 255, 2),
    (0, 0, 0): (0, 0, 0),
}
OPENCV_BACK = {
    (0, 255, 255): (255, 0, 0),
    (30, 255, 255): (255, 255, 0),
    (105, 170, 30): (10, 19, 30),
    (10, 100, 200): (200, 147, 121),
    (45, 33, 77): (72, 77, 67),
    (75, 120, 201): (106, 201, 153),
    (135, 250, 9): (4, 0, 9),
    (177, 128, 200): (200, 99, 109),
    (0, 0, 128): (128, 128, 128),
    (100, 7, 0): (0, 0, 0),
}


def test_hue_saturation_and_value_are_those_of_opencv():
    colours = np.array([*HSV], np.uint8)[None]
    np.testing.assert_array_equal(np.stack(to_hsv(colours), axis=-1)[0], [*HSV.values()])


def test_the_way_back_is_that_of_opencv():
    found = to_rgb(*np.array([*OPENCV_BACK], np.uint8).T[:, None])
    np.testing.assert_array_equal(found[0], [*OPENCV_BACK.values()])


class Told:
    """Draws that are told in advance."""

    def __init__(self, coins, numbers):
        self.coins, self.numbers = iter(coins), iter(numbers)

    def random(self):
        return 0.0 if next(self.coins) else 0.9

    def uniform(self, low, high):
        number = next(self.numbers)
        assert low <= number <= high
        return number

    def integers(self, low, high):
        assert (low, high) == (-18, 18)
        return next(self.numbers)


@pytest.mark.parametrize(
    ("coins", "numbers", "expected"),
    [
        ((0, 0, 0, 0, 0), (), (200, 100, 50)),
        ((1, 0, 0, 0, 0), (-20.5,), (179, 79, 29)),  # rounded down
        ((1, 0, 0, 0, 0), (31.0,), (231, 131, 81)),
        ((0, 1, 1, 0, 0), (1.4,), (255, 140, 70)),
        ((0, 0, 0, 0, 1), (0.55,), (110, 55, 27)),
        ((1, 1, 1, 0, 0), (30.0, 1.1), (253, 143, 88)),  # brightness, then contrast
        ((0, 0, 1, 0, 0), (0.5,), (200, 150, 125)),
        ((0, 0, 0, 1, 0), (15,), (200, 174, 50)),
    ],
)
def test_colours_are_changed_in_the_order_of_the_original(coins, numbers, expected):
    found = distort(np.full((1, 1, 3), (200, 100, 50), np.uint8), Told(coins, numbers))
    assert np.abs(found[0, 0].astype(int) - expected).max() <= 1
    if not any(coins[2:4]):
        assert tuple(found[0, 0].tolist()) == expected


def test_contrast_comes_before_or_after_the_other_steps():
    image = np.full((1, 1, 3), (200, 100, 50), np.uint8)
    first = distort(image, Told((0, 1, 1, 1, 0), (1.5, 0.5)))  # clipped to 255, then paler
    last = distort(image, Told((0, 0, 1, 0, 1), (0.5, 1.5)))  # paler, then clipped
    assert first[0, 0].tolist() != last[0, 0].tolist()
    assert last[0, 0].tolist() == [255, 225, 187]


def test_half_of_all_pictures_get_each_change():
    image = np.full((2, 2, 3), (90, 120, 60), np.uint8)
    changed = [not (distort(image, np.random.default_rng(seed)) == image).all() for seed in range(200)]
    assert 0.85 < np.mean(changed) < 0.99  # 1 - 1 / 16 of them
    assert mask_transforms.MOST_DRAWS == 10


def test_a_broken_example_is_an_error():
    with pytest.raises(ValueError, match=r"^a.png is truncated$"):
        TrainTransform(32)({"path": "a.jpg", "id": "a.jpg", "broken": "a.png is truncated"}, np.random.default_rng(0))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"crop": 0}, "crop is 0"),
        ({"crop": 32, "scale": (0, 512)}, r"scale is \(0, 512\)"),
        ({"crop": 32, "ratio": (2.0, 0.5)}, r"ratio is \(2.0, 0.5\)"),
        ({"crop": 32, "cat_max_ratio": 0.0}, "cat_max_ratio is 0.0"),
    ],
)
def test_wrong_options_are_answered(options, message):
    with pytest.raises(ValueError, match=message):
        TrainTransform(**options)
