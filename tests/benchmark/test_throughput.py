import io

import numpy as np
import pytest
from PIL import Image

from unireplknet_jax.benchmark import throughput
from unireplknet_jax.benchmark.throughput import STEPS, measure, our_steps, pictures_in, synthetic_jpegs
from unireplknet_jax.data.pictures.randaugment import OPERATIONS
from unireplknet_jax.data.pictures.transforms import TrainTransform


def test_synthetic_pictures_are_different_jpegs_of_one_size_and_the_same_each_time():
    files = synthetic_jpegs(3)
    images = [Image.open(io.BytesIO(data)) for data in files]
    assert [(image.format, image.size, image.mode) for image in images] == [("JPEG", (500, 375), "RGB")] * 3
    assert len(set(files)) == 3
    assert synthetic_jpegs(3) == files
    assert synthetic_jpegs(1, seed=1)[0] not in files
    # A photo of this size has about this many bytes at quality 90; a flat picture has a tenth.
    assert all(40_000 < len(data) < 150_000 for data in files)


def test_the_first_pictures_of_a_folder_are_taken_in_the_order_of_their_names(tmp_path):
    for name in ("b/2.png", "a/9.jpg", "b/1.JPEG", "c.txt", "c.bmp"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(name.encode())
    assert pictures_in(tmp_path, 3) == [b"a/9.jpg", b"b/1.JPEG", b"b/2.png"]
    assert pictures_in(tmp_path, 99)[3:] == [b"c.bmp"]
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"no pictures in .*empty; expected a folder with"):
        pictures_in(tmp_path / "empty", 3)


def test_our_steps_are_those_of_training():
    transform = TrainTransform(48)
    data = synthetic_jpegs(1)[0]
    steps = our_steps(transform)
    assert tuple(steps) == STEPS
    results = [np.asarray(step(data, np.random.default_rng(1))) for step in steps.values()]
    np.testing.assert_array_equal(results[0], np.asarray(Image.open(io.BytesIO(data))))
    plain = TrainTransform(48, rand_augment=None)(data, np.random.default_rng(1))
    np.testing.assert_array_equal(results[1], plain)
    np.testing.assert_array_equal(results[2], transform(data, np.random.default_rng(1)))


def test_the_rates_follow_from_the_clock_and_all_meet_the_same_pictures_and_draws(monkeypatch):
    clock, calls = [0.0], []

    def costing(name, seconds):
        def prepare(data, rng):
            clock[0] += seconds
            calls.append((name, data, rng.random()))

        return prepare

    monkeypatch.setattr(throughput.time, "thread_time", lambda: clock[0])
    speeds = measure({"one": {"step": costing("a", 0.25)}, "two": {"step": costing("b", 0.125)}}, [b"x", b"y"], 3)
    assert [(s.pipeline, s.step, s.median, s.slowest, s.fastest, s.ratio) for s in speeds] == [
        ("one", "step", 4.0, 4.0, 4.0, 1.0),
        ("two", "step", 8.0, 8.0, 8.0, 2.0),
    ]
    assert "".join(name for name, _, _ in calls) == "ab" + 3 * "abba"
    one, two = ([(data, value) for name, data, value in calls[2:] if name == kind] for kind in "ab")
    assert one == two
    assert len(set(one)) == 6


def test_median_and_spread_are_those_of_the_rounds(monkeypatch):
    times = iter([0.0, 1.0, 0.0, 0.5, 0.0, 0.25])
    monkeypatch.setattr(throughput.time, "thread_time", lambda: next(times))
    (speed,) = measure({"one": {"step": lambda data, rng: None}}, [b"x"], rounds=3)
    assert (speed.median, speed.slowest, speed.fastest, speed.ratio) == (2.0, 1.0, 4.0, 1.0)


def test_counts_below_one_are_refused():
    for call in (lambda: synthetic_jpegs(0), lambda: measure({"one": {}}, []), lambda: measure({"one": {}}, [b""], 0)):
        with pytest.raises(ValueError, match="expected at least 1"):
            call()


def test_torchvision_does_the_same_operations():
    pytest.importorskip("torchvision")
    theirs = throughput._torchvision_operations()
    assert list(theirs) == list(OPERATIONS)
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (20, 40, 3), np.uint8))
    fill = (124, 116, 104)
    for name, operation in theirs.items():
        for level in (0.5, -0.5, 0.9, -0.9):
            # It calls a shift to the right positive.
            sign = -1 if name.startswith("Translate") else 1
            got = np.asarray(operation(picture, level, fill)).astype(int)
            # The tangent of a shear goes through degrees; Pillow cuts fractions off, so the last bit may differ.
            tolerance = 1 if name.startswith("Shear") else 0
            difference = got - np.asarray(OPERATIONS[name](picture, sign * level, fill))
            assert np.abs(difference).max() <= tolerance, (name, level)
