"""Every operation against its definition in NumPy; a level is the signed magnitude / 10."""

import math
import pickle
from collections import Counter

import numpy as np
import pytest
from PIL import Image

from unireplknet_jax.data.pictures import randaugment
from unireplknet_jax.data.pictures.randaugment import OPERATIONS, RandAugment

FILL = (124, 116, 104)
LEVELS = [0.0, 0.25, -0.25, 0.5, -0.5, 0.8, -0.83, 0.9, -0.9, 0.937, -0.937, 1.0, -1.0]


def pictures():
    rng = np.random.default_rng(0)
    ramps = np.add.outer(3 * np.arange(31), 2 * np.arange(24))[..., None] + np.array([0, 20, 60])
    return {
        "noise": rng.integers(0, 256, (20, 30, 3), np.uint8),
        "ramps": ramps.astype(np.uint8),
        "flat": np.full((7, 9, 3), (10, 20, 250), np.uint8),
        "dull": rng.integers(100, 130, (40, 17, 3), np.uint8),
        "pixel": np.array([[[3, 140, 251]]], np.uint8),
        "line": rng.integers(0, 256, (2, 25, 3), np.uint8),
        "grey": rng.integers(0, 256, (21, 20, 1), np.uint8),
    }


PICTURES = pictures()


def auto_contrast(a, level):
    result = a.copy()
    for c in range(a.shape[2]):
        low, high = int(a[..., c].min()), int(a[..., c].max())
        if high > low:
            stretched = a[..., c] * (255 / (high - low)) + (-low * (255 / (high - low)))
            result[..., c] = np.clip(np.trunc(stretched), 0, 255)
    return result


def equalize(a, level):
    result = a.copy()
    for c in range(a.shape[2]):
        counts = np.bincount(a[..., c].ravel(), minlength=256)
        step = (counts.sum() - counts[counts > 0][-1]) // 255
        if step:
            below = np.concatenate([[0], np.cumsum(counts)[:-1]])
            result[..., c] = np.minimum(255, (below + step // 2) // step)[a[..., c]]
    return result


def invert(a, level):
    return 255 - a


def posterize(a, level):
    dropped = 4 + int(abs(level) * 4)
    return (a.astype(int) >> dropped << dropped).astype(np.uint8)


def solarize(a, level):
    return np.where(a < 256 - int(abs(level) * 256), a, 255 - a)


def solarize_add(a, level):
    return np.where(a < 128, np.minimum(255, a.astype(int) + int(abs(level) * 110)), a)


def blend(base, a, level):
    factor = np.float32(max(0.1, 1 + 0.9 * level))
    mixed = base.astype(np.float32) + factor * (a.astype(np.float32) - base.astype(np.float32))
    return np.trunc(np.clip(mixed, 0, 255))


def luma(a):
    if a.shape[2] == 1:
        return a.astype(int)
    # ITU-R 601-2 in units of 1 / 65536, rounded.
    return ((a.astype(int) @ [19595, 38470, 7471] + 32768) // 65536)[..., None]


def color(a, level):
    return blend(luma(a), a, level)


def contrast(a, level):
    return blend(np.full_like(a, int(luma(a).mean() + 0.5)), a, level)


def brightness(a, level):
    return blend(np.zeros_like(a), a, level)


def sharpness(a, level):
    smooth = a.astype(int)
    h, w, _ = a.shape
    if h >= 3 and w >= 3:
        nine = sum(smooth[y : h - 2 + y, x : w - 2 + x] for y in range(3) for x in range(3))
        inner = np.floor((nine + 4 * smooth[1:-1, 1:-1]) / 13 + 0.5)
        smooth = smooth.copy()
        smooth[1:-1, 1:-1] = inner  # the border stays as it is
    return blend(smooth, a, level)


def cubic(before, here, after, beyond, d):
    """Cubic convolution with a = -1 between `here` (d = 0) and `after` (d = 1)."""
    square, cube = 2 * (before - here) + after - beyond, -before + here - after + beyond
    return here + d * (after - before + d * (square + d * cube))


def sampled(a, source):
    """Each pixel from source(x, y) -> (u, v), both in pixels from the upper left corner of the picture."""
    h, w, channels = a.shape
    y, x = np.mgrid[:h, :w] + 0.5
    u, v = source(x, y)
    outside = (u < 0) | (u >= w) | (v < 0) | (v >= h)
    left, top = np.floor(u - 0.5), np.floor(v - 0.5)
    du, dv = (u - 0.5 - left)[..., None], (v - 0.5 - top)[..., None]
    column = [np.clip(left + k, 0, w - 1).astype(int) for k in (-1, 0, 1, 2)]
    row = [np.clip(top + k, 0, h - 1).astype(int) for k in (-1, 0, 1, 2)]
    values = cubic(*(cubic(*(a[r, c].astype(float) for c in column), du) for r in row), dv)
    fill = FILL if channels == 3 else (117,)  # the luma of FILL
    return np.where(outside[..., None], fill, np.trunc(np.clip(values, 0, 255)))


def rotate(a, level):
    h, w, _ = a.shape
    cos, sin = math.cos(math.radians(30 * level)), math.sin(math.radians(30 * level))
    # Counterclockwise as one sees it, with y pointing down.
    return sampled(
        a,
        lambda x, y: (
            w / 2 + cos * (x - w / 2) - sin * (y - h / 2),
            h / 2 + sin * (x - w / 2) + cos * (y - h / 2),
        ),
    )


def shear_x(a, level):
    return sampled(a, lambda x, y: (x + 0.3 * level * y, y))


def shear_y(a, level):
    return sampled(a, lambda x, y: (x, y + 0.3 * level * x))


def translate_x(a, level):
    return sampled(a, lambda x, y: (x + 0.45 * level * a.shape[1], y))


def translate_y(a, level):
    return sampled(a, lambda x, y: (x, y + 0.45 * level * a.shape[0]))


DEFINITIONS = {
    "AutoContrast": auto_contrast,
    "Equalize": equalize,
    "Invert": invert,
    "Rotate": rotate,
    "PosterizeIncreasing": posterize,
    "SolarizeIncreasing": solarize,
    "SolarizeAdd": solarize_add,
    "ColorIncreasing": color,
    "ContrastIncreasing": contrast,
    "BrightnessIncreasing": brightness,
    "SharpnessIncreasing": sharpness,
    "ShearX": shear_x,
    "ShearY": shear_y,
    "TranslateXRel": translate_x,
    "TranslateYRel": translate_y,
}


def as_pil(a):
    return Image.fromarray(a[..., 0] if a.shape[2] == 1 else a)


def applied(name, a, level, fill=None):
    result = np.asarray(OPERATIONS[name](as_pil(a), level, fill or (FILL if a.shape[2] == 3 else 117)))
    return result[..., None] if a.shape[2] == 1 else result


def test_the_operations_are_those_fifteen():
    assert list(OPERATIONS) == list(DEFINITIONS)


@pytest.mark.parametrize("picture", PICTURES)
@pytest.mark.parametrize("name", DEFINITIONS)
def test_an_operation_gives_exactly_the_pixels_of_its_definition(name, picture):
    a = PICTURES[picture]
    for level in LEVELS:
        np.testing.assert_array_equal(applied(name, a, level), DEFINITIONS[name](a, level), err_msg=str(level))


def test_the_two_signs_and_the_magnitudes_give_different_pictures():
    signless = {"AutoContrast", "Equalize", "Invert", "PosterizeIncreasing", "SolarizeIncreasing", "SolarizeAdd"}
    constant = {"AutoContrast", "Equalize", "Invert"}
    a = PICTURES["noise"]
    for name in OPERATIONS:
        plus, minus, weak = (applied(name, a, level).tobytes() for level in (0.9, -0.9, 0.2))
        assert (plus == minus) == (name in signless), name
        assert (plus == weak) == (name in constant), name


@pytest.mark.parametrize("name", ["Rotate", "ShearX", "ShearY", "TranslateXRel", "TranslateYRel", "SolarizeIncreasing"])
def test_magnitude_0_changes_nothing(name):
    np.testing.assert_array_equal(applied(name, PICTURES["noise"], 0.0), PICTURES["noise"])


def test_whole_pixels_are_moved_without_resampling_and_the_fill_follows():
    a = np.random.default_rng(1).integers(0, 256, (20, 40, 3), np.uint8)
    left = applied("TranslateXRel", a, 0.5, (1, 2, 3))  # 0.5 * 0.45 * 40 = 9
    np.testing.assert_array_equal(left[:, :31], a[:, 9:])
    np.testing.assert_array_equal(left[:, 31:], np.broadcast_to(np.uint8([1, 2, 3]), (20, 9, 3)))
    down = applied("TranslateYRel", a, -1.0, (1, 2, 3))  # 0.45 * 20 = 9
    np.testing.assert_array_equal(down[9:], a[:11])
    np.testing.assert_array_equal(down[:9], np.broadcast_to(np.uint8([1, 2, 3]), (9, 40, 3)))


@pytest.mark.parametrize("name", OPERATIONS)
def test_a_grey_picture_becomes_what_equal_channels_become(name):
    grey = PICTURES["grey"]
    for level in LEVELS:
        as_rgb = applied(name, np.repeat(grey, 3, axis=2), level, (117, 117, 117))
        np.testing.assert_array_equal(applied(name, grey, level), as_rgb[..., :1])
        np.testing.assert_array_equal(as_rgb[..., 0], as_rgb[..., 2])


def test_the_draws_follow_the_policy():
    policy, rng, count = RandAugment.from_policy("rand-m9-mstd0.5-inc1"), np.random.default_rng(2), 6000
    draws = [policy.draw(rng) for _ in range(count)]
    # 2 operations, each applied with probability 1/2; the bounds are 5 standard deviations of a binomial count.
    lengths = Counter(map(len, draws))
    for length, share in {0: 0.25, 1: 0.5, 2: 0.25}.items():
        assert abs(lengths[length] - share * count) < 5 * math.sqrt(count * share * (1 - share))
    names = Counter(name for draw in draws for name, _ in draw)
    assert set(names) == set(OPERATIONS)
    assert all(abs(names[name] - count / 15) < 5 * math.sqrt(count / 15) for name in OPERATIONS)
    twice = sum(len(draw) == 2 and draw[0][0] == draw[1][0] for draw in draws)
    assert abs(twice - count / 60) < 5 * math.sqrt(count / 60)
    levels = np.array([level for draw in draws for _, level in draw])
    assert abs((levels < 0).mean() - 0.5) < 5 * 0.5 / math.sqrt(len(levels))
    sizes = 10 * np.abs(levels)
    # A Gaussian around 9 with deviation 1/2, of which 2.3 % lie above 10 and are brought there.
    assert sizes.max() == 10
    assert abs((sizes == 10).mean() - 0.0228) < 0.01
    assert abs(np.median(sizes) - 9) < 0.05
    assert abs((sizes < 8.5).mean() - 0.1587) < 0.025
    assert abs((sizes < 8).mean() - 0.0228) < 0.01


def test_magnitudes_are_clipped_at_both_ends_and_exact_without_deviation():
    rng = np.random.default_rng(3)
    wide = [abs(level) for _ in range(300) for _, level in RandAugment(5, 50, probability=1).draw(rng)]
    assert set(wide) > {0.0, 1.0}
    assert max(wide) == 1
    exact = {abs(level) for _ in range(50) for _, level in RandAugment(7, probability=1).draw(rng)}
    assert exact == {0.7}


def test_drawn_operations_are_applied_one_after_the_other(monkeypatch):
    calls = []

    def stand_in(name):
        def operation(picture, level, fill):
            calls.append((name, level, fill))
            return as_pil(np.asarray(picture) + np.uint8(1))

        return operation

    monkeypatch.setattr(randaugment, "OPERATIONS", {name: stand_in(name) for name in OPERATIONS})
    policy = RandAugment.from_policy("rand-m9-mstd0.5-n5-p1-inc1", (1, 2, 3))
    drawn = policy.draw(np.random.default_rng(4))
    result = policy(as_pil(np.zeros((2, 2, 3), np.uint8)), np.random.default_rng(4))
    assert calls == [(name, level, (1, 2, 3)) for name, level in drawn]
    assert (np.asarray(result) == 5).all()


def test_the_same_rng_gives_the_same_picture_and_leaves_the_given_one_alone():
    policy, a = RandAugment.from_policy("rand-m9-mstd0.5-n3-inc1"), PICTURES["noise"]
    picture = Image.fromarray(a)
    first, again = (
        [np.asarray(policy(picture, rng)).tobytes() for _ in range(20)] for rng in map(np.random.default_rng, (5, 5))
    )
    assert first == again
    assert len(set(first)) > 10
    np.testing.assert_array_equal(np.asarray(picture), a)


def test_the_position_in_rng_does_not_depend_on_what_was_drawn():
    policy = RandAugment.from_policy("rand-m9-mstd0.5-inc1")
    never = RandAugment.from_policy("rand-m9-mstd0.5-p0-inc1")
    rng, other = np.random.default_rng(6), np.random.default_rng(6)
    for _ in range(50):
        policy.draw(rng)
        assert never.draw(other) == []
    assert rng.random() == other.random()


@pytest.mark.parametrize("fill", [(200,), (10, 250, 90)])
@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_the_fill_colour_fits_the_mode_of_the_picture(fill, mode, monkeypatch):
    monkeypatch.setattr(randaugment, "OPERATIONS", {"TranslateXRel": randaugment.translate_x})
    policy = RandAugment(10, count=1, probability=1, fill=fill)
    result = np.asarray(policy(Image.new(mode, (40, 3)), np.random.default_rng(7)))
    expected = {(1, "L"): 200, (3, "L"): 160, (1, "RGB"): (200,) * 3, (3, "RGB"): fill}[len(fill), mode]
    side = 0 if (result[0, 0] > 0).any() else -1
    np.testing.assert_array_equal(result[:, side], np.broadcast_to(np.uint8(expected), result[:, side].shape))


def test_policies_are_read_and_equal_their_fields():
    assert RandAugment.from_policy("rand-m9-mstd0.5-inc1") == RandAugment(9, 0.5, 2, 0.5, FILL)
    assert RandAugment.from_policy("rand-inc1-p0.75-n3-m7.5", [1, 2, 3]) == RandAugment(7.5, 0, 3, 0.75, (1, 2, 3))
    assert RandAugment.from_policy("rand-inc1") == RandAugment(10, 0, 2, 0.5)
    policy = RandAugment.from_policy("rand-m9-mstd0.5-inc1")
    assert pickle.loads(pickle.dumps(policy)) == policy


@pytest.mark.parametrize(
    ("policy", "message"),
    [
        ("augmix-m3", "unknown part 'augmix'; expected"),
        ("", "unknown part ''"),
        ("rand-m9-w0-inc1", "unknown part 'w0'"),
        ("rand-m-inc1", "unknown part 'm'"),
        ("rand-m9-mstd0.5", "without -inc1"),
        ("rand-m9-inc0", "without -inc1"),
        ("rand-m9-m8-inc1", "says something twice"),
        ("rand-n1.5-inc1", "asks for n1.5; expected a whole number"),
        ("rand-m11-inc1", "magnitude 11 with deviation 0; expected 0 to 10"),
        ("rand-m9-mstd101-inc1", "deviation 101; expected 0 to 10 and 0 to 100"),
        ("rand-p1.5-inc1", "probability 1.5; expected"),
    ],
)
def test_a_policy_that_cannot_be_followed_is_refused(policy, message):
    with pytest.raises(ValueError, match=message):
        RandAugment.from_policy(policy)


@pytest.mark.parametrize("fill", [(), (1, 2), (1, 2, 256), (-1,)])
def test_a_fill_colour_of_another_kind_is_refused(fill):
    with pytest.raises(ValueError, match="expected 1 or 3 values from 0 to 255"):
        RandAugment(fill=fill)


def test_a_picture_of_another_mode_is_refused():
    with pytest.raises(ValueError, match="mode RGBA; expected RGB or L"):
        RandAugment()(Image.new("RGBA", (2, 2)), np.random.default_rng(0))
