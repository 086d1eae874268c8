"""Video classification: layouts as the original computes them, views, augmentation alike over a clip, checkpoints."""

import itertools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from networks import SMALL, lively, small_model
from splits import examples_of, fitted_to
from video_files import indices, write

from unireplknet_jax.data.broken import BrokenFileError
from unireplknet_jax.data.clips.frames import read_frames
from unireplknet_jax.data.pipeline import train_batches
from unireplknet_jax.models import torch_names
from unireplknet_jax.models.shapes import abstract_variables
from unireplknet_jax.tasks import convert
from unireplknet_jax.tasks.base import get_task
from unireplknet_jax.tasks.checkpoint import (
    Checkpoint,
    initial_variables,
    open_checkpoint,
    save_checkpoint,
    save_torch_checkpoint,
)
from unireplknet_jax.tasks.names import names_of_task, task_of_file
from unireplknet_jax.tasks.predict import predict_files
from unireplknet_jax.tasks.video import VideoClassification, clip_to_map
from unireplknet_jax.train.evaluate import evaluate

pytestmark = pytest.mark.usefixtures("quick_compilation")

MODEL = {**SMALL, "num_classes": 2}


def make_task(**options):
    small = {
        "model": MODEL,
        "frames": 4,
        "stride": 2,
        "segments": 2,
        "crops": 3,
        "image_size": 16,
        "labels": ("loud", "still"),
    }
    return VideoClassification(**{**small, **options})


def normalized(value):
    return (np.asarray(value, np.float64) / 255 - np.array([0.485, 0.456, 0.406])) / np.array([0.229, 0.224, 0.225])


# Layouts.


@pytest.fixture(scope="module")
def layouts(goldens):
    with np.load(goldens / "video_layout.npz") as arrays:
        return dict(arrays)


def channel_first(clip, layout, rows):
    """`clip_to_map` on (n, c, t, h, w), as the original has it."""
    return np.moveaxis(np.asarray(clip_to_map(np.moveaxis(clip, 1, -1), layout, rows)), -1, 1)


@pytest.mark.parametrize(("layout", "golden"), [("grid", "grid4x4"), ("reshape", "reshape")])
def test_layouts_equal_the_originals(layouts, layout, golden):
    clip = layouts["clip8/clip"]
    np.testing.assert_array_equal(channel_first(clip, layout, 4), layouts[f"clip8/{golden}"])
    counted = np.arange(clip.size, dtype=np.int32).reshape(clip.shape)
    np.testing.assert_array_equal(channel_first(counted, layout, 4), layouts[f"clip8/arange_{golden}"])


def test_a_grid_may_have_other_rows_and_columns(layouts):
    rows, _ = layouts["t8_2x4/rc"]
    np.testing.assert_array_equal(channel_first(layouts["t8_2x4/clip"], "grid", rows), layouts["t8_2x4/grid"])


def test_reshape_follows_the_index_law_of_the_original():
    """Of frame t = i // (h / 4), row 4 * (i mod h / 4) + j // w and column j mod w stand at (i, j)."""
    clip = np.arange(16 * 8 * 12).reshape(1, 16, 8, 12, 1)
    laid_out = clip_to_map(clip, "reshape", 4)[0, :, :, 0]
    for i, j in itertools.product(range(32), range(48)):
        assert laid_out[i, j] == clip[0, i // 2, 4 * (i % 2) + j // 12, j % 12, 0]


def test_the_grid_is_as_square_as_the_frames_allow():
    assert {frames: make_task(frames=frames)._rows for frames in (1, 4, 8, 12, 16, 7)} == {
        **{1: 1, 4: 2, 8: 2},
        **{12: 3, 16: 4, 7: 1},
    }
    assert make_task(frames=8, rows=8)._rows == 8


# Options.


def test_options_go_through_json():
    task = make_task(layout="reshape", rows=4)
    card = json.loads(json.dumps({"options": task.options, "labels": task.labels}))
    again = get_task("video", **card["options"], labels=card["labels"])
    assert again == task
    assert hash(again) == hash(task)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"frames": 0}, "frames=0 must be 1 or more"),
        ({"layout": "tile"}, "layout is 'tile'; expected grid or reshape"),
        ({"sampling": "random"}, "sampling is 'random'; expected dense or uniform"),
        ({"rows": 3}, "4 frames do not fill 3 rows"),
        ({"crops": 1.5}, "crops=1.5 must be a whole number"),
    ],
)
def test_wrong_options_are_one_sentence(options, message):
    with pytest.raises(ValueError, match=message):
        make_task(**options)


# Host.


@pytest.fixture
def folder(tmp_path):
    """Two classes of two videos each, of different lengths and forms; the frames tell their indices."""
    for split, kind, (i, size) in itertools.product(
        ("train", "val"), ("loud", "still"), enumerate([{"count": 40}, {"count": 5, "width": 32, "height": 72}])
    ):
        path = tmp_path / split / kind / f"{i}.mp4"
        path.parent.mkdir(parents=True, exist_ok=True)
        write(path, **size)
    return tmp_path


def data(folder, **options):
    return {"name": "video_folder", "dir": str(folder), "train_split": "train", "eval_split": "val", **options}


def test_evaluation_examples_are_videos_with_all_their_views(folder):
    task = make_task()
    examples = examples_of(task, data(folder), "val", train=False)
    assert [(example["label"], example["id"]) for example in examples] == [(0, 0), (0, 1), (1, 2), (1, 3)]
    views = examples[0]["views"]
    assert views.shape == task.specs(train=False)[1].inputs["views"].shape == (6, 4, 16, 16, 3)
    expected = [[0, 2, 4, 6]] * 3 + [[32, 34, 36, 38]] * 3  # segment by segment, its crops together
    np.testing.assert_array_equal([indices(view) for view in views], expected)
    alone = examples_of(make_task(segments=1, crops=1), data(folder), "val", train=False)[0]["views"]
    assert alone.shape == task.specs(train=False)[0].inputs["views"].shape
    np.testing.assert_array_equal(indices(alone[0]), [16, 18, 21, 23])  # (8 + 40) // 2 - 8, 8 / 3 apart
    read = task.read(str(folder / "val" / "loud" / "0.mp4"))
    assert len(read) == 1
    np.testing.assert_array_equal(read[0]["views"], views)


def test_training_batches_depend_on_seed_and_step_alone(folder):
    task = make_task(crop_scale=(0.3, 1.0), flip=True, rand_augment="rand-m7-n4-mstd0.5-inc1")

    def batches(**options):
        stream = examples_of(task, {**data(folder), "seed": 3}, "train", train=True)
        found = train_batches(stream, 2, **options)
        return [next(found) for _ in range(4)]

    first, late = batches(num_threads=0), batches(num_threads=2, start_step=1)
    assert first[0]["clip"].shape == (2, *task.specs(train=True)[0].inputs["clip"].shape)
    for step in (1, 2, 3):
        np.testing.assert_array_equal(first[step]["clip"], late[step - 1]["clip"])
    ids = np.concatenate([batch["id"] for batch in first])
    again = [batch["clip"][i] for batch in first for i in range(2) if batch["id"][i] == ids[0]]
    assert len(again) == 2  # the next epoch
    assert not np.array_equal(*again)


def test_broken_videos_are_refused_by_name_or_passed_over(folder, caplog):
    broken = folder / "val" / "loud" / "0.mp4"
    broken.write_bytes(broken.read_bytes()[:500])
    task = make_task()
    with pytest.raises(BrokenFileError, match=r"loud/0\.mp4 is not a video "):
        examples_of(task, data(folder), "val", train=False)[0]
    left = examples_of(task, data(folder, broken="skip"), "val", train=False)
    assert [example["id"] for example in left] == [1, 2, 3]
    stream = examples_of(task, data(folder, broken="skip", seed=0), "val", train=True)
    assert {stream[i]["id"] for i in range(12)} == {1, 2, 3}
    assert sum("0.mp4" in record.message for record in caplog.records) == 2  # once for each


def test_other_classes_than_the_models_are_refused(folder):
    with pytest.raises(ValueError, match="video_folder has 2 classes, but the model has 3"):
        examples_of(VideoClassification({**MODEL, "num_classes": 3}), data(folder), "val", train=False)
    with pytest.raises(ValueError, match="video_folder has other classes than the model: loud, still in place of a, b"):
        examples_of(make_task(labels=("a", "b")), data(folder), "val", train=False)
    turned = examples_of(make_task(labels=("still", "loud")), data(folder), "val", train=False)
    ours = examples_of(make_task(labels=("loud", "still")), data(folder), "val", train=False)
    assert [int(example["label"]) for example in turned] == [1 - int(example["label"]) for example in ours]
    waiting = fitted_to(VideoClassification({**MODEL, "num_classes": 0}), data(folder))
    assert (waiting.labels, waiting.module().num_classes) == (("loud", "still"), 2)


def test_one_channel_takes_the_luma(folder):
    task = make_task(model={**MODEL, "in_chans": 1}, mean=(0.5,), std=(0.5,), segments=1, crops=1)
    views = task.read(str(folder / "val" / "loud" / "0.mp4"))[0]["views"]
    assert views.shape == (1, 4, 16, 16, 1)
    np.testing.assert_array_equal(indices(views[0]), [16, 18, 21, 23])


# Device.


def seen_by(logits):
    """(an `apply` that returns these logits, the list of its inputs)."""
    inputs = []

    def apply(variables, images, train=False, **options):
        inputs.append(images)
        return (jnp.asarray(logits), {"batch_stats": {}}) if train else jnp.asarray(logits)

    return apply, inputs


def test_the_network_sees_the_normalized_layout():
    clips = np.random.default_rng(0).integers(0, 256, (2, 4, 16, 16, 3), np.uint8)
    for layout in ("grid", "reshape"):
        task, expected = make_task(layout=layout), clip_to_map(normalized(clips), layout, 2)
        apply, inputs = seen_by(np.zeros((2, 2), np.float32))
        task.predict(apply, {}, {"views": clips[:, None]})
        task.loss(apply, {}, {"clip": clips, "label": np.array([0, 1])}, jax.random.key(0))
        assert task.preview({"clip": clips, "label": np.array([0, 1])}, jax.random.key(0)).shape == (2, 32, 32, 3)
        for found in inputs:
            np.testing.assert_allclose(found, expected, atol=1e-6)  # float32


def test_training_takes_clips_from_anywhere_in_a_video():
    frames = np.broadcast_to(np.arange(60, dtype=np.uint8)[:, None, None, None], (60, 16, 16, 3))
    example, task = {"path": frames, "label": 0, "id": 0}, make_task()
    clips = [task.augmented(example, np.random.default_rng(seed))["clip"] for seed in range(12)]
    assert len({int(clip[0, 0, 0, 0]) for clip in clips}) > 6


@pytest.mark.parametrize("flip", [False, True])
def test_clips_are_mirrored_where_the_recipe_says_so(flip):
    frames = np.random.default_rng(0).integers(0, 256, (4, 16, 16, 3), np.uint8)
    task = make_task(flip=flip, crop_scale=None, rand_augment="", stride=1)
    example = {"path": frames, "label": 0, "id": 0}
    made = [task.augmented(example, np.random.default_rng(seed))["clip"] for seed in range(12)]
    plain, mirrored = (
        sum(np.array_equal(clip, as_expected) for clip in made) for as_expected in (frames, frames[:, :, ::-1])
    )
    assert (plain + mirrored, mirrored > 0) == (12, flip)


def augmented(task, clips, seed):
    """The frames (n, 4, 16, 16, 3) and targets that training makes of clips with the labels 0, 1, ..."""
    batch = {"clip": clips, "label": np.arange(len(clips)) % 2}
    maps, targets = jax.jit(task.training_inputs)(batch, jax.random.key(seed))
    frames = np.asarray(maps).reshape(-1, 2, 16, 2, 16, 3).swapaxes(2, 3)
    return frames.reshape(-1, 4, 16, 16, 3), np.asarray(targets)


def test_erasing_takes_one_rectangle_of_all_frames_with_other_noise():
    frames, _ = augmented(make_task(random_erasing=1.0), np.zeros((3, 4, 16, 16, 3), np.uint8), 1)
    erased = ~np.isclose(frames, normalized(0), atol=1e-5).all(axis=-1)
    assert erased.any(axis=(1, 2, 3)).all()
    for clip, noise in zip(erased, frames, strict=True):
        assert (clip == clip[0]).all()
        assert np.abs(noise[0][clip[0]] - noise[1][clip[0]]).max() > 0.1
    assert not (erased[0] == erased[1]).all()


@pytest.mark.parametrize("options", [{"mixup": 0.8}, {"cutmix": 1.0}])
def test_whole_clips_are_mixed_with_one_share_and_one_rectangle(options):
    values = np.array([10, 200], np.uint8)
    clips = np.broadcast_to(values[:, None, None, None, None], (2, 4, 16, 16, 3))
    frames, targets = augmented(make_task(**options), clips, 0)
    for clip in frames:
        np.testing.assert_array_equal(clip, np.broadcast_to(clip[:1], clip.shape))
    share = (frames[0, 0, ..., 0].mean() - normalized(200)[0]) / (normalized(10) - normalized(200))[0]
    assert 0.02 < share < 0.98
    np.testing.assert_allclose(targets, [[share, 1 - share], [1 - share, share]], atol=1e-5)


def test_the_view_in_the_middle_is_drawn():
    views = np.broadcast_to(np.arange(0, 240, 40, dtype=np.uint8)[:, None, None, None, None], (6, 4, 16, 16, 3))
    picture = np.asarray(make_task().draw([{"views": views, "id": "a.mp4"}], [{"predictions": []}]))
    assert {*picture[:388].ravel().tolist()} == {160, 255}  # of 2 segments by 3 crops; the frames' edges are white


def test_the_probabilities_of_all_views_are_averaged():
    """The network is a table from the grey value of a view to its probabilities."""
    chances = {10: [0.9, 0.1], 60: [0.2, 0.8], 110: [0.3, 0.7]}

    def apply(variables, images):
        grey = jnp.round(255 * (images.mean(axis=(1, 2))[:, 0] * 0.229 + 0.485)).astype(int)
        table = jnp.zeros((256, 2)).at[jnp.array(list(chances))].set(jnp.log(jnp.array(list(chances.values()))))
        return table[grey] + 5.0  # a constant does not matter to a softmax

    values = np.array([[10, 60, 110], [60, 60, 10]], np.uint8)
    views = np.broadcast_to(values[:, :, None, None, None, None], (2, 3, 4, 16, 16, 3))
    task, batch = make_task(), {"views": views, "label": np.array([0, 0]), "mask": np.ones(2, np.float32)}
    pred = task.predict(apply, {}, batch)
    expected = np.array([[1.4 / 3, 1.6 / 3], [1.3 / 3, 1.7 / 3]])
    np.testing.assert_allclose(np.exp(pred["logits"]), expected, rtol=1e-5)
    ranked = task.record({"scores": pred["scores"][0]}, {"id": "x"})["predictions"]
    assert [(row["label"], round(row["score"], 4)) for row in ranked] == [("still", 0.5333), ("loud", 0.4667)]
    metrics = task.metrics(jax.jit(task.totals)(pred, batch), [])
    assert metrics["top1"] == 0
    assert metrics["loss"] == pytest.approx(-np.log(expected[:, 0]).mean(), rel=1e-5)


# Checkpoints, and all of it together.


@pytest.fixture(scope="module")
def variables():
    return lively(abstract_variables(small_model(num_classes=2)))


@pytest.mark.slow  # its twins of other tasks stay
def test_merged_inference_is_the_same_from_file_to_labels(folder, tmp_path, variables):
    save_checkpoint(tmp_path / "trained", Checkpoint(make_task(), variables, False, data(folder)))
    trained = open_checkpoint(tmp_path / "trained")
    merged, error = convert.merge(trained, 1e-5)
    assert error < 1e-5
    save_checkpoint(tmp_path / "merged", merged)
    merged = open_checkpoint(tmp_path / "merged")
    files = [*sorted(map(str, folder.glob("val/*/*.mp4"))), str(folder / "none.mp4")]
    before, after = (list(predict_files(each, files)) for each in (trained, merged))
    assert [prediction.source for prediction in before] == files
    assert "cannot read" in before[-1].error
    for one, other in zip(before[:-1], after[:-1], strict=True):
        assert len(one.records) == 1
        rows, others = one.records[0]["predictions"], other.records[0]["predictions"]
        assert [row["label"] for row in rows] == [row["label"] for row in others]
        np.testing.assert_allclose([row["score"] for row in rows], [row["score"] for row in others], atol=1e-5)
    examples = examples_of(trained.task, data(folder), "val", train=False)
    found = evaluate(trained.task, variables, examples, 8)
    assert found["count"] == 4
    again = evaluate(merged.task, merged.variables, examples, 8, deploy=True)
    np.testing.assert_allclose([*found.values()], [*again.values()], rtol=1e-4)
    picture = trained.task.draw(before[0].examples, before[0].records)
    assert picture.size == (388, 388 + 3 * 21 + 6)


def test_a_drawing_is_a_grid_of_the_frames_of_one_clip(folder):
    predictions = [{"label": "loud", "score": 1.0}]
    task = make_task(segments=1, crops=1)
    picture = np.asarray(task.draw(task.read(folder / "val/loud/0.mp4"), [{"predictions": predictions}]))
    frames = [picture[y, x] for y in (97, 291) for x in (97, 291)]
    np.testing.assert_array_equal(np.rint((np.mean(frames, axis=1) - 20) / 4), [16, 18, 21, 23])


def test_options_of_pictures_that_older_checkpoints_carry_are_known_only_as_unused():
    older = {**make_task().options, "resize": None, "crop_padding": 0}
    assert get_task("video", **older, labels=("loud", "still")) == make_task()
    for changed in ({"resize": "warp"}, {"crop_padding": 2}):
        with pytest.raises(ValueError, match=rf"the task video has no option '{next(iter(changed))}'; "):
            get_task("video", **{**older, **changed})


def script_network():
    """The names and shapes of the network that the original's script trains."""
    model = {"name": "unireplknet_b", "num_classes": 400}
    kernels = dict(kernel_sizes=((3,) * 3, (13,) * 3, (13, 3, 3) * 9, (11,) * 3))
    module = VideoClassification({**model, **kernels}).module()
    table = torch_names.name_table(abstract_variables(module))
    return {name: entry.shape for name, entry in table.items()}


def test_the_network_of_the_originals_script_is_known_by_its_shapes():
    shapes = script_network()
    assert task_of_file(shapes) == "video"
    options, merged = names_of_task("video").options(shapes)
    task = get_task("video", **options)
    assert not merged
    assert (task.layout, task.labels[0], task.labels[-1]) == ("reshape", "abseiling", "zumba")
    assert torch_names.differences(task.name_table(), shapes) == ""
    assert sum(int(np.prod(shape)) for name, shape in shapes.items() if "running" not in name) == pytest.approx(
        98.25e6, rel=1e-3
    )  # as counted from the original
    others = {"head.weight": (1000, 1024), "stages.3.0.dwconv.lk_origin.weight": (1024, 1, 13, 13)}
    for name, shape in others.items():
        assert task_of_file({**shapes, name: shape}) == "classification"


def test_an_official_file_is_for_videos_if_one_says_so(tmp_path, variables):
    save_torch_checkpoint(tmp_path / "a.pth", variables)
    assert open_checkpoint(tmp_path / "a.pth").task.name == "classification"
    checkpoint = open_checkpoint(tmp_path / "a.pth", task="video")
    assert (checkpoint.task.name, checkpoint.task.layout, checkpoint.module.num_classes) == ("video", "grid", 2)
    with pytest.raises(ValueError, match="unknown task 'film'; known tasks: "):
        open_checkpoint(tmp_path / "a.pth", task="film")
    save_checkpoint(tmp_path / "ours", checkpoint)
    with pytest.raises(ValueError, match="is a checkpoint of ours and says its task"):
        open_checkpoint(tmp_path / "ours", task="video")


def test_training_starts_from_an_image_model(tmp_path, variables):
    save_torch_checkpoint(tmp_path / "image.pth", variables)
    task = VideoClassification({**MODEL, "num_classes": 7})
    found = initial_variables(task, str(tmp_path / "image.pth"))
    assert found["params"]["head"]["kernel"].shape == (32, 7)
    np.testing.assert_array_equal(
        found["params"]["stages_1_0"]["dwconv"]["lk_origin"]["kernel"],
        variables["params"]["stages_1_0"]["dwconv"]["lk_origin"]["kernel"],
    )


def test_a_file_is_decoded_once_for_all_of_its_views(folder, monkeypatch):
    from unireplknet_jax.data.clips import frames as video

    calls = []
    monkeypatch.setattr(video, "read_frames", lambda *args: calls.append(args) or read_frames(*args))
    make_task().read(str(folder / "val/loud/0.mp4"))
    assert len(calls) == 1
