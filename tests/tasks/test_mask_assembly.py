"""Logits of windows, scales and mirrored pictures become one map of classes: as mmsegmentation, at bounded cost."""

import time
import tracemalloc

import numpy as np
import pytest

from unireplknet_jax.tasks.canvases import slide_windows
from unireplknet_jax.tasks.mask_assembly import View, class_map, class_probabilities


@pytest.fixture(scope="module")
def golden(goldens):
    with np.load(goldens / "dense" / "seg_tiny.npz") as arrays:
        return dict(arrays)


def whole(logits, size, **options):
    return View(logits, [(0, 0, *size)], size, **options)


def random_view(seed, size, classes=3, crop=None, stride=None, **options):
    windows = slide_windows(size, crop or size, stride or size)
    rows, columns = (-(-windows[0][axis] // 4) for axis in (2, 3))
    logits = np.full((len(windows), rows + 2, columns + 1, classes), np.nan, np.float32)  # beyond a window: anything
    logits[:, :rows, :columns] = np.random.default_rng(seed).normal(0, 3, (len(windows), rows, columns, classes))
    return View(logits, windows, size, **options)


def resized(maps, size):
    """(h, w, c) -> (*size, c), bilinear, by the definition: place i of n lies at (i + 1/2) l / n - 1/2 of l entries."""
    for axis, target in enumerate(size):
        length = maps.shape[axis]
        place = np.clip((np.arange(target) + 0.5) * length / target - 0.5, 0, length - 1)
        low = np.floor(place).astype(int)
        share = np.expand_dims(place - low, (1, 2) if axis == 0 else (0, 2))
        high = np.minimum(low + 1, length - 1)
        maps = np.take(maps, low, axis) * (1 - share) + np.take(maps, high, axis) * share
    return maps


def by_definition(views, size):
    """The mean of the softmax of every view, step by step in full size and float64."""
    total = 0
    for view in views:
        logits, visits = np.zeros((*view.size, view.logits[0].shape[-1])), np.zeros((*view.size, 1))
        for maps, (top, left, height, width) in zip(view.logits, view.windows, strict=True):
            own = maps[: -(-height // 4), : -(-width // 4)].astype(np.float64)
            logits[top : top + height, left : left + width] += resized(own, (height, width))
            visits[top : top + height, left : left + width] += 1
        logits = resized(logits / visits, size)
        logits = logits[:, ::-1] if view.mirrored else logits
        shares = np.exp(logits - logits.max(axis=-1, keepdims=True))
        total = total + shares / shares.sum(axis=-1, keepdims=True)
    return total / len(views)


def test_whole_pictures_are_those_of_mmsegmentation(golden):
    view = whole(golden["decode_logits_nchw"].transpose(0, 2, 3, 1), (96, 128))
    assert np.array_equal(class_map([view], (96, 128)), golden["whole_pred"][0])
    found = class_map([view], tuple(golden["ori_hw"]))
    assert found.dtype == np.int16
    assert np.array_equal(found, golden["whole_ori_pred"])


VIEWS = {
    "whole": [random_view(0, (64, 96))],
    "slide": [random_view(1, (160, 192), crop=(96, 96), stride=(64, 64))],
    "strides that no entry begins with": [random_view(2, (128, 192), crop=(64, 96), stride=(41, 67))],
    "lower than the window": [random_view(3, (32, 160), crop=(96, 96), stride=(64, 64))],
    "sides that no entry ends with": [random_view(4, (33, 50), crop=(21, 30), stride=(13, 17))],
    "scales and mirrors": [
        random_view(5, (64, 96)),
        random_view(6, (64, 96), mirrored=True),
        random_view(7, (96, 160), crop=(64, 64), stride=(43, 43), mirrored=True),
    ],
    "logits whose exponentials are infinite": [
        large := random_view(5, (64, 96)),
        large._replace(logits=large.logits * 0 + [100, 99, -200], mirrored=True),
    ],
    "many classes": [random_view(8, (32, 64), classes=150), random_view(9, (32, 32), classes=150, mirrored=True)],
}
SIZES = [(75, 100), (40, 131), (9, 7), (1, 1), (1, 90)]


@pytest.mark.parametrize("views", VIEWS.values(), ids=VIEWS)
def test_parts_are_what_the_steps_in_full_size_give(views):
    for size in [*SIZES, views[0].size]:
        expected, found = by_definition(views, size), class_probabilities(views, size)
        # Places of up to 100 in float32, as PyTorch has them, are 4e-6 off, and so are shares of logits 10 apart.
        np.testing.assert_allclose(found, expected, rtol=0, atol=2e-5, err_msg=str(size))
        clear = np.diff(np.sort(expected, axis=-1)[..., -2:])[..., 0] > 4e-5
        assert clear.mean() > 0.97
        assert np.array_equal(class_map(views, size)[clear], expected.argmax(axis=-1)[clear])


def test_windows_are_moved_back_at_the_border():
    assert slide_windows((160, 192), (96, 96), (64, 64)) == [
        *((0, 0, 96, 96), (0, 64, 96, 96), (0, 96, 96, 96)),
        *((64, 0, 96, 96), (64, 64, 96, 96), (64, 96, 96, 96)),
    ]
    assert slide_windows((100, 512), (512, 512), (341, 341)) == [(0, 0, 100, 512)]
    for length in range(1, 300):
        grids = max(length - 96 + 64 - 1, 0) // 64 + 1  # of mmsegmentation
        starts = [max(min(64 * index + 96, length) - 96, 0) for index in range(grids)]
        assert slide_windows((96, length), (96, 96), (64, 64)) == [(0, s, 96, min(96, length)) for s in starts]


@pytest.mark.parametrize("size", [(1, 1), (50, 20000), (20000, 50)])
def test_pictures_of_any_shape(size):
    """The last class in a quarter of the network's picture, the first one elsewhere."""
    net = (32, 2048) if size[1] > size[0] else (2048, 32)
    logits = np.zeros((1, net[0] // 4, net[1] // 4, 3), np.float32)
    logits[0, ..., 0] = 1
    logits[0, net[0] // 8 :, net[1] // 8 :, 2] = 2
    found = class_map([whole(logits, net)], size)
    assert found.shape == size
    assert found[0, 0] == 0  # the one pixel lies where the quarters meet
    if size != (1, 1):
        assert found[-1, -1] == 2
        assert np.mean(found == 2) == pytest.approx(0.25, abs=0.02)


def test_memory_is_that_of_the_map_and_one_part():
    """Logits in the picture's size would be 126 MB; a part does not grow with the picture."""
    view = random_view(0, (512, 768), classes=150)
    tracemalloc.start()
    found = class_map([view, view], (300, 700))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found.nbytes == 420_000
    assert peak < 12_000_000


def test_a_picture_of_ade20k_takes_a_tenth_of_a_second():
    """0.07 s of CPU time on one core; 1.5 s where products are so large that BLAS gives them to two threads."""
    view = random_view(0, (512, 704), classes=150)
    start = time.process_time()
    class_map([view], (512, 683))
    assert time.process_time() - start < 0.7


def test_windows_are_read_once_a_strip_from_the_top():
    """So they may be computed when they are asked for, one row of windows after the other."""

    class Computed:
        def __getitem__(self, number):
            asked.append(number)
            return view.logits[number]

    asked, view = [], random_view(0, (192, 192), crop=(64, 96), stride=(48, 64))
    found = class_map([view._replace(logits=Computed())], (192, 192))
    assert np.array_equal(found, class_map([view], (192, 192)))
    rows = [number // 3 for number in asked[1:]]  # the first is looked at for the number of classes
    assert np.all(np.diff(rows[::3]) >= -1)  # where windows overlap a strip needs two rows of them
    assert len(asked) - 1 <= 6 * 2 * 3


@pytest.mark.parametrize(
    ("windows", "message"),
    [
        ([(0, 0, 32, 32), (0, 32, 32, 32), (16, 16, 32, 32)], "are no grid: each has to be in a row and a column."),
        ([(0, 0, 32, 32), (0, 0, 32, 32)], "are no grid"),
        ([(0, 0, 32, 32), (0, 40, 32, 24)], "leave some of the 64 pixels out."),
    ],
)
def test_windows_that_are_no_cover_are_refused(windows, message):
    view = View(np.zeros((len(windows), 8, 8, 2), np.float32), windows, (32, 64))
    with pytest.raises(ValueError, match=message):
        class_map([view], (32, 64))


def test_a_network_that_gives_no_numbers_finds_no_class():
    """Where NaN is the largest, class 0 would be everywhere: the background of many data sets."""
    view = random_view(0, (32, 32))
    view.logits[0, 3, 3, 1] = np.nan
    with pytest.raises(ValueError, match="the network gives logits that are no finite numbers"):
        class_map([view], (32, 32))
