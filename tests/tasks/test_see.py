"""What a checkpoint looks at: the same inputs and classes as `predict`, one program, and drawings of both."""

import jax
import numpy as np
import pytest
from PIL import Image
from small_tasks import make_checkpoint, make_task, write_files

from unireplknet_jax.models.attribution import effective_receptive_field
from unireplknet_jax.tasks import see as see_module
from unireplknet_jax.tasks.base import Seen
from unireplknet_jax.tasks.checkpoint import Checkpoint
from unireplknet_jax.tasks.drawing import FULL, WIDE, Axes
from unireplknet_jax.tasks.predict import merged_once, predict
from unireplknet_jax.tasks.see import ReceptiveField, Sight, looker, see
from unireplknet_jax.tasks.see_plot import draw_field, draw_sight, overlay

pytestmark = pytest.mark.usefixtures("quick_compilation")

TRUNK = {"depths": (1, 0, 0, 1), "dims": (4, 4, 8, 8), "kernel_sizes": ((3,), (), (), (7,))}
LABELS = ("ant", "bee", "cat", "dog")


@pytest.mark.slow
def test_pictures_are_seen_as_they_are_predicted(tmp_path, monkeypatch):
    traces, look = [], see_module.attributions
    monkeypatch.setattr(see_module, "attributions", lambda *arguments: traces.append(1) or look(*arguments))
    model = {**TRUNK, "num_classes": 4}
    checkpoint = make_checkpoint("classification", model=model, image_size=64, labels=LABELS)
    rng = np.random.default_rng(0)
    pictures = [rng.integers(0, 256, (70 + index, 90, 3), np.uint8) for index in range(9)]
    (tmp_path / "broken.png").write_bytes(b"no picture")
    field, sights = see(checkpoint, [*pictures, tmp_path / "broken.png"], broken="skip")
    again = see(checkpoint, pictures[1])[1]
    assert again[0].score == pytest.approx(sights[1].score, rel=1e-3)
    assert traces == [1]  # nine pictures in batches of eight, and one more: one program
    assert "broken.png" in sights[-1].error
    assert field.count == 9
    merged, task = merged_once(checkpoint), checkpoint.task
    crops = np.stack([task.read(picture)[0]["image"] for picture in pictures])
    images = task.normalized(crops)
    expected = jax.jit(lambda images: effective_receptive_field(merged.module, merged.variables, images))(images)
    np.testing.assert_allclose(field.values, expected, rtol=0, atol=1e-3 * float(expected.max()))  # a ReLU may turn
    for sight, crop, records in zip(sights, crops, predict(checkpoint, pictures), strict=False):
        np.testing.assert_array_equal(sight.seen.picture, crop)  # the part of the picture that the network gets
        best = records[0]["predictions"][0]
        assert (sight.index, sight.label) == (best["index"], best["label"])
        assert sight.score == pytest.approx(best["score"], rel=1e-4)
        assert sight.activation.shape == (2, 2)
    worst = min(predict(checkpoint, pictures[:1])[0][0]["predictions"], key=lambda row: row["score"])
    (other,) = see(checkpoint, pictures[0], label=worst["label"].upper())[1]
    assert (other.label, other.score) == (worst["label"], pytest.approx(worst["score"], rel=1e-3))


def test_of_a_long_sound_the_window_is_shown_that_says_its_class_best(tmp_path):
    import soundfile

    model = {**TRUNK, "num_classes": 4}
    checkpoint = make_checkpoint("audio", model=model, frames=64, seconds=0.5, labels=LABELS)
    wave = np.random.default_rng(0).normal(size=16_000) * np.linspace(0, 0.3, 16_000) ** 2
    soundfile.write(tmp_path / "a.wav", wave, 16_000)
    field, (sight,) = see(checkpoint, tmp_path / "a.wav")
    examples = checkpoint.task.read(str(tmp_path / "a.wav"))
    assert [example["start"] for example in examples] == [0, 0.25, 0.5]
    windows = [see(checkpoint, wave[int(16_000 * start) :][:8000])[1][0] for start in (0, 0.25, 0.5)]
    best = max(windows, key=lambda window: window.score)
    assert (sight.label, sight.score) == (best.label, pytest.approx(best.score, rel=1e-2))
    assert sight.seen.axes.left == (0, 0.25, 0.5)[windows.index(best)]
    assert sight.seen.axes.right == pytest.approx(sight.seen.axes.left + 0.64)
    assert sight.seen.picture.shape == (128, 64, 3)  # as the network has it: rows are filters
    assert field.values.shape == (128, 64)
    assert [row for row, text in sight.seen.axes.ticks.items() if text == "1"] == [
        pytest.approx(checkpoint.task._bank.row_of(1000))
    ]
    filters = checkpoint.task._bank.weights
    peak = np.argmax(filters[:, round(1000 / 16_000 * 2 * filters.shape[1])])
    assert abs(checkpoint.task._bank.row_of(1000) - peak) < 1


def test_clips_are_seen_as_the_network_has_them_side_by_side(tmp_path):
    task = make_task("video", layout="grid")
    (example,) = task.read(write_files(tmp_path, "video")[0])
    seen = task.seen(example)
    assert seen.inputs["views"].shape == (1, 4, 16, 16, 3)
    np.testing.assert_array_equal(seen.inputs["views"][0], example["views"][4])  # of 2 segments by 3 crops
    np.testing.assert_array_equal(seen.picture[16:, :16], example["views"][4][2])


@pytest.mark.parametrize("name", ["points", "forecasting"])
def test_what_is_no_picture_to_the_network_is_refused_in_a_sentence(name):
    with pytest.raises(ValueError, match=rf"the task {name} sees no single picture"):
        looker(Checkpoint(make_task(name), {}, merged=False))


def test_a_class_that_is_not_there_is_refused():
    with pytest.raises(ValueError, match="no class is called 'cow'"):
        looker(
            Checkpoint(make_task("classification", model={**TRUNK, "num_classes": 4}, labels=LABELS), {}, False), "cow"
        )
    with pytest.raises(ValueError, match="no classifier"):
        looker(Checkpoint(make_task("classification", model={**TRUNK, "num_classes": None}), {}, False), "cow")


def test_squares_are_shares_of_what_was_added():
    field, values = ReceptiveField(), np.zeros((64, 64))
    values[32, 32], values[32, 42] = 9, 1
    for scale in (1, 3):
        field.add(Sight("a", contribution=scale * values))
    field.add(Sight("b", error="broken"))
    assert (field.count, field.middle) == (2, (32, 32))
    np.testing.assert_array_equal(field.values, 2 * values)
    rows = field.squares()
    assert [row["side"] for row in rows] == [1, 1, 1, 21]
    assert rows[3]["area"] == 21**2 / 64**2
    logarithms = np.log10(1 + np.array([18, 2]))
    assert logarithms[0] / logarithms.sum() < 0.75  # so that half is in the middle, too
    assert [row["side_of_logarithm"] for row in rows] == [1, 1, 1, 21]


PICTURE = np.full((64, 64, 3), (0, 100, 200), np.uint8)


def test_an_overlay_is_coloured_where_the_class_has_evidence():
    drawn = overlay(PICTURE, np.array([[-1.0, 0.0], [0.0, 2.0]]))
    np.testing.assert_array_equal(drawn[0, :20], np.full((20, 3), 100))  # grey: evidence against the class is none
    red, _, blue = drawn[40, 40].astype(int)
    assert red > 100 > blue
    nothing = overlay(PICTURE, np.zeros((2, 2)))
    np.testing.assert_array_equal(nothing, np.full_like(PICTURE, 100))


@pytest.mark.parametrize("size", [WIDE, FULL])
@pytest.mark.parametrize("axes", [None, Axes("time, s", 0.5, 1.14, "frequency, kHz", {3.0: "1"})])
def test_inputs_are_drawn_beside_what_speaks_for_their_class(size, axes):
    seen = Seen({}, PICTURE, axes)
    sight = Sight("a.png", None, seen, None, 1, "bee", 0.5, np.array([[0.0, 0.0], [0.0, 1.0]]))
    picture = draw_sight(sight, size)
    assert picture.width == size
    if axes is None:
        assert picture.getpixel((5, 5)) == (0, 100, 200)
        right = picture.getpixel((size - 8, (size - 8) // 2 - 8))
        assert right[0] > 100 > right[2]


def test_the_receptive_field_is_drawn_with_its_squares():
    field, values = ReceptiveField(), np.full((64, 96), 1e-9)
    values[20:44, 20:44] = 1.0
    field.add(Sight("a", contribution=values))
    for axes in (None, Axes("time, s", 0.0, 1.0, "frequency, kHz", {3.0: "1"})):
        picture = draw_field(field, "net" * 200, axes)
        assert picture.width == FULL
        pixels = np.asarray(picture)
        assert np.sum(np.all(pixels == (253, 231, 36), axis=-1)) > 1000  # the largest contribution
        assert np.sum(np.all(pixels == (68, 1, 84), axis=-1)) > 1000  # and none
    assert isinstance(picture, Image.Image)
