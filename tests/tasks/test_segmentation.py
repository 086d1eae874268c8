"""Segmentation: evaluation and prediction of pictures of any size, files of mmsegmentation, wrong options and masks."""

import dataclasses
import json
import math
import shutil
import weakref

import jax
import numpy as np
import pytest
from networks import lively
from PIL import Image
from splits import examples_of, fitted_to

import unireplknet_jax as urk
from unireplknet_jax.data.pictures.mask_transforms import canvas_of
from unireplknet_jax.models.complexity import count_parameters
from unireplknet_jax.tasks import mask_metrics, segmentation, stream
from unireplknet_jax.tasks.base import get_task
from unireplknet_jax.tasks.canvases import slide_windows, way_of
from unireplknet_jax.tasks.checkpoint import Checkpoint, open_checkpoint
from unireplknet_jax.tasks.mask_assembly import View, class_map, class_probabilities
from unireplknet_jax.tasks.network import Network
from unireplknet_jax.tasks.stream import Stream
from unireplknet_jax.train.evaluate import evaluate
from unireplknet_jax.train.sharding import make_mesh

pytestmark = pytest.mark.usefixtures("quick_compilation")

MODEL = {
    **{"depths": (1, 1, 1, 1), "dims": (4, 8, 12, 16), "kernel_sizes": ((3,), (0,), (3,), (0,))},
    **{"num_classes": 0, "channels": 8, "auxiliary_channels": 4, "layer_scale_init": 1.0},
}
SMALL = {"model": MODEL, "scale": (96, 64), "crop": 64, "buckets": ((64, 96), (96, 64))}
SIZES = {"train": [(40, 60)], "val": [(50, 70), (90, 61)]}  # rows and columns
COLOURS = ((20, 20, 20), (200, 40, 40), (40, 40, 200))


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A folder of pictures, half of each of one class, and their masks with the values 0, 5 and 9."""
    folder = tmp_path_factory.mktemp("streets")
    rng = np.random.default_rng(0)
    (folder / "classes.csv").write_text("name,value,colour\nroad,0,#141414\ncar,5,#c82828\nsky,9,#2828c8\n")
    for split, sizes in SIZES.items():
        for kind in ("images", "masks"):
            (folder / split / kind).mkdir(parents=True)
        for number, (rows, columns) in enumerate(sizes):
            classes = np.full((rows, columns), number % 3)
            classes[:, columns // 2 :] = (number + 1) % 3
            pixels = np.array(COLOURS)[classes] + rng.integers(0, 40, (rows, columns, 3))
            Image.fromarray(pixels.astype(np.uint8)).save(folder / split / "images" / f"{number}.png")
            Image.fromarray(np.array([0, 5, 9], np.uint8)[classes]).save(folder / split / "masks" / f"{number}.png")
    return {"name": "mask_folder", "dir": str(folder), "train_split": "train", "eval_split": "val"}


@pytest.fixture(scope="module")
def task(data):
    return fitted_to(get_task("segmentation", **SMALL), data)


@pytest.fixture(scope="module")
def variables(task):
    return lively(task.abstract_variables())


def test_classes_colours_and_values_come_from_the_data(task):
    assert task.labels == ("road", "car", "sky")
    assert (task.colours, task.values) == (COLOURS, (0, 5, 9))
    assert task.classes == 3


def test_every_option_of_training_reaches_the_pictures(task):
    options = {"crop": 96, "scale": (80, 60), "ratio": (0.7, 0.9), "cat_max_ratio": 0.5}
    for flip in (False, True):
        given = options | {"flip": flip, "distortion": not flip}
        transform = segmentation._train_transform(dataclasses.replace(task, **given))
        assert {name: getattr(transform, name) for name in given} == given


def test_colours_and_values_follow_their_classes_into_another_order(task, data, tmp_path):
    named = SMALL | {"model": MODEL | {"num_classes": 3}, "labels": ("sky", "road", "car")}
    turned = fitted_to(get_task("segmentation", **named), data)
    assert (turned.labels, turned.values) == (("sky", "road", "car"), (9, 0, 5))
    assert turned.colours == (COLOURS[2], *COLOURS[:2])
    for kind in ("images", "masks"):
        (tmp_path / "train" / kind).mkdir(parents=True)
        mask = np.array([[2, 10], [7, 2]], np.uint8)
        Image.fromarray(mask).save(tmp_path / "train" / kind / "1.png")
    texts = {"name": "mask_folder", "dir": str(tmp_path), "train_split": "train", "class_order": "texts"}
    numbered = fitted_to(get_task("segmentation", **SMALL), texts | {"eval_split": "train"})
    assert (numbered.labels, numbered.values) == (("10", "2", "7"), (10, 2, 7))


@pytest.mark.slow  # the canvas of tests/nn/test_canvas.py is quick
def test_an_evaluation_is_what_the_pictures_give_one_by_one(task, data, variables):
    """Of two sizes in two canvases, on one device and on eight, beside each alone in a canvas of its own."""
    split = task.open(data, "val")
    keys, examples = task.shape_keys(split), task.examples(split, train=False)
    assert len({*keys}) == 2
    found = []
    for devices in (1, 8):
        mesh = make_mesh(devices=jax.devices()[:devices])
        found.append(evaluate(task, variables, examples, devices, mesh=mesh, keys=keys))
    assert found[0] == found[1]
    alone, matrix = dataclasses.replace(task, buckets=()), 0
    for number, example in enumerate(examples):
        file = f"{data['dir']}/val/images/{number}.png"
        (record,) = urk.predict(Checkpoint(alone, variables, merged=False), file)[0]
        matrix = matrix + mask_metrics.confusion(example["label_map"], record["class_map"], 3)
    expected = mask_metrics.metrics(matrix, task.labels)
    assert {name: found[0][name] for name in expected} == pytest.approx(expected, abs=0.2)
    assert found[0]["count"] == 2
    assert 5 < expected["miou"] < 95


def test_a_prediction_is_a_map_of_the_pictures_size(task, data, variables, tmp_path):
    checkpoint = Checkpoint(task, variables, merged=False)
    path = f"{data['dir']}/val/images/0.png"
    (record,) = urk.predict(checkpoint, path)[0]
    assert record["class_map"].shape == (50, 70)
    assert record["size"] == [50, 70]
    shares = {row["label"]: row["share"] for row in record["classes"]}
    assert sum(shares.values()) == pytest.approx(1)
    assert shares[task.labels[record["class_map"][0, 0]]] > 0
    counts = np.bincount(record["class_map"].ravel())
    assert [row["pixels"] for row in record["classes"]] == sorted(counts[counts > 0], reverse=True)  # the largest first
    assert len({*counts}) > 1
    task.save_mask(tmp_path / "mask.png", record)
    mask = Image.open(tmp_path / "mask.png")
    np.testing.assert_array_equal(np.asarray(mask), np.array([0, 5, 9])[record["class_map"]])
    assert mask.getpalette()[15:18] == [200, 40, 40]
    drawn = task.draw(task.read(path), [{"id": "0.png", **record}])
    assert drawn.width >= 70


def test_a_network_whose_classes_nobody_coloured_has_colours_of_its_own(task, tmp_path):
    bare = dataclasses.replace(task, labels=(), colours=(), values=())
    picture = np.zeros((20, 30, 3), np.uint8)
    record = {"class_map": np.repeat(np.arange(3, dtype=np.int16), 200).reshape(20, 30)}
    drawn = bare.draw([{"picture": picture, "id": "a.png"}], [record])
    bare.save_mask(tmp_path / "mask.png", record)
    mask = Image.open(tmp_path / "mask.png")
    np.testing.assert_array_equal(np.asarray(mask), record["class_map"])
    palette = mask.getpalette()
    colours = [tuple(palette[3 * i : 3 * i + 3]) for i in range(3)]
    assert len({*colours}) == 3
    assert {*colours} <= {*map(tuple, np.asarray(drawn)[drawn.height - 60 :].reshape(-1, 3).tolist())}  # the legend


def test_a_table_has_a_cell_for_every_column_where_few_classes_are_found(task):
    record = {"classes": [{"label": "sky", "share": 1.0}]}
    assert task.table_rows([record], 5) == [("sky", 1.0, None, None, None, None)]
    assert len(task.table_columns(5)) == 6


def test_windows_scales_and_mirrors_have_arrays_of_the_sizes_that_are_announced(task, data):
    several = dataclasses.replace(task, mode="slide", stride=32, crop=64, scales=(0.5, 1.0), mirror=True)
    example = several.read(f"{data['dir']}/val/images/0.png")[0]
    spec = several.specs(train=False)[0]
    assert {name: example[name].shape for name in spec.inputs} == {n: leaf.shape for n, leaf in spec.inputs.items()}
    first, second = (example[f"image_{i}"].shape for i in range(2))
    assert first == (2, 64, 64, 3)  # 32 x 64 pixels in one window, and mirrored
    assert second == (4, 64, 64, 3)  # 64 x 96 pixels in two
    np.testing.assert_array_equal(example["size_0"], [[32, 64]] * 2)


def brightest(variables, pixels, sizes):
    """In place of a network: the channels of each square of 4 x 4 pixels as logits, so that the brightest is found."""
    del variables, sizes
    return pixels.reshape(len(pixels), pixels.shape[1] // 4, 4, pixels.shape[2] // 4, 4, 3).mean((2, 4))


@pytest.mark.parametrize(
    "way",
    [
        {"mirror": True},
        {"scales": (0.5, 1.0, 1.5)},
        {"mode": "slide", "crop": 32, "stride": 20},
        {"mode": "slide", "crop": 32, "stride": 20, "scales": (1.5, 0.5), "mirror": True},
    ],
    ids=["mirrored", "scales", "slide", "all"],
)
def test_every_way_of_seeing_a_picture_finds_the_same(task, way):
    """Nothing in the picture is symmetric: a view that is not turned back, or a window elsewhere, is seen."""
    picture = np.zeros((64, 96, 3), np.uint8)
    picture[..., 0] = 255
    picture[10:40, :30], picture[50:, 60:] = (0, 255, 0), (0, 0, 255)
    several = dataclasses.replace(task, mean=(0.5,) * 3, std=(0.1,) * 3, **way)
    (example,) = several.read(picture)
    batch = {name: np.asarray(example[name])[None] for name in several.specs(train=False)[0].inputs}
    pred = jax.device_get(several.predict(brightest, {}, batch))
    record = several.record({name: value[0] for name, value in pred.items()}, example)
    assert np.mean(record["class_map"] != picture.argmax(axis=-1)) < 0.03


SLIDING = {"mode": "slide", "crop": 32, "stride": 20, "scale": None, "scales": (1.0, 1.5), "mirror": True}


def in_windows(task, apply, variables, **bounds):
    """({name: what the network gives}, the record) of a picture of 11 x 9 and 16 x 14 windows, and mirrored."""
    sliding = dataclasses.replace(task, mean=(0.5,) * 3, **SLIDING)
    picture = np.random.default_rng(3).integers(0, 256, (211, 189, 3)).astype(np.uint8)
    picture[60:150, 90:] //= 3
    (example,) = sliding.read(picture)
    function = lambda _, variables, inputs: sliding.predict(apply, variables, inputs)  # noqa: E731
    checkpoint = Checkpoint(sliding, variables, merged=False)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in bounds.items():
            patch.setattr(stream, name, value)
        (pred,) = Network(checkpoint, function, 1, sliding.streams)([example])
        return pred, sliding.record(pred, example)


ONE = 8 * 8 * 3 * 4  # bytes of the logits of a window
GROUPS = {"_MOST_BYTES": 100 * ONE, "_GROUP_BYTES": 4 * ONE}


@pytest.fixture
def groups(monkeypatch):
    """[(windows in a program, the first of a group, behind its last, groups that were held then), ...]"""
    seen, held, compute = [], [], stream.Streaming._compute

    def counted(self, windows, group, start, stop):
        seen.append((group, start, stop, sum(each() is not None for each in held)))
        found = compute(self, windows, group, start, stop)
        held.append(weakref.ref(found))
        return found

    monkeypatch.setattr(stream.Streaming, "_compute", counted)
    return seen


def test_windows_that_are_streamed_give_the_same_map(task, groups):
    """Four at a time, each once; of 646 windows no more are held than lie in the rows that a strip needs."""
    expected, whole = in_windows(task, brightest, {})
    assert not groups
    assert not any(isinstance(value, Stream) for value in expected.values())
    pred, record = in_windows(task, brightest, {}, **GROUPS)
    np.testing.assert_array_equal(record["class_map"], whole["class_map"])
    rows, columns = zip((11, 9), (16, 14), strict=True)  # of windows at each scale
    sides = [math.ceil(high * wide / 4) for high, wide in zip(rows, columns, strict=True)]
    assert len(groups) == 2 * sum(sides)
    assert {group for group, *_ in groups} == {4}
    # A strip of 32 rows of the picture, 48 at the larger scale, lies in 4 and 5 rows of windows, which begin and end
    # within a group.
    most = 2 * sum(math.ceil(high * wide / 4) + 1 for high, wide in zip((4, 5), columns, strict=True))
    assert max(held for *_, held in groups) <= most < sum(sides)
    for name, value in pred.items():
        np.testing.assert_array_equal(np.stack([value[place] for place in range(len(value))]), expected[name])


def test_an_evaluation_streams_windows_too(task, data, groups, monkeypatch):
    sliding = dataclasses.replace(task, mean=(0.5,) * 3, **SLIDING)
    split = sliding.open(data, "val")
    keys, examples = sliding.shape_keys(split), sliding.examples(split, train=False)
    step = jax.jit(lambda variables, batch: (sliding.totals({}, batch), sliding.predict(brightest, variables, batch)))
    seen = {name for i in range(2) for name in (f"image_{i}", f"size_{i}")}

    def measured():
        mesh = make_mesh(devices=jax.devices()[:1])
        only = lambda v, batch: step(v, {name: batch[name] for name in batch if name in seen | {"mask"}})  # noqa: E731
        return evaluate(sliding, {}, examples, 2, mesh=mesh, eval_step=only, keys=keys)

    whole = measured()
    assert not groups
    monkeypatch.setattr(stream, "_MOST_BYTES", 20 * ONE)
    monkeypatch.setattr(stream, "_GROUP_BYTES", 4 * ONE)
    assert measured() == whole
    assert len(groups) > 8
    assert whole["count"] == 2


@pytest.mark.slow  # two programs of a network
def test_a_network_gives_in_a_stream_what_it_gives_at_once(task, variables, groups):
    """Its logits are brought to the mean 0 in each window, so that several classes are found."""

    def apply(variables, pixels, sizes):
        logits = task.module().apply(variables, pixels, sizes=sizes)
        return logits - logits.mean(axis=(1, 2), keepdims=True)

    _, whole = in_windows(task, apply, variables)
    assert not groups
    _, record = in_windows(task, apply, variables, **GROUPS)
    assert groups
    assert len({*record["class_map"].ravel()}) > 1
    np.testing.assert_array_equal(record["class_map"], whole["class_map"])


@pytest.mark.parametrize("average", ["all", "valid"])
def test_the_loss_is_an_average_over_all_pixels_or_those_that_count(task, average):
    rng = np.random.default_rng(0)
    label_map = rng.integers(-1, 3, (2, 8, 8)).astype(np.int16)
    label_map[1, 2:] = -1
    logits = [rng.standard_normal((2, 8, 8, 3)).astype(np.float32) for _ in range(2)]
    batch = {"image": np.zeros((2, 8, 8, 3), np.uint8), "size": np.full((2, 2), 8), "label_map": label_map}
    chosen = dataclasses.replace(task, loss_average=average, auxiliary_weight=0.3)
    total, found = chosen.loss(lambda *_, **__: (logits, {}), {}, batch, jax.random.key(0))
    known = label_map >= 0
    logs = [x - np.log(np.exp(x).sum(axis=-1, keepdims=True)) for x in logits]
    sums = [-np.take_along_axis(x, np.maximum(label_map, 0)[..., None], -1)[..., 0][known].sum() for x in logs]
    count = known.sum() if average == "valid" else known.size
    assert float(total) == pytest.approx((sums[0] + 0.3 * sums[1]) / count, rel=1e-5)
    means = {name: float(above / below) for name, (above, below) in found["scalars"].items()}
    assert means["loss"] == pytest.approx(float(total))
    assert means["loss_auxiliary"] == pytest.approx(0.3 * sums[1] / count, rel=1e-5)
    hits = (logits[0].argmax(-1) == label_map)[known]
    assert means["accuracy_decode"] == pytest.approx(100 * hits.mean(), rel=1e-5)


def test_a_batch_without_a_class_has_no_loss(task):
    empty = {"image": np.zeros((1, 8, 8, 3), np.uint8), "size": np.full((1, 2), 8)}
    empty["label_map"] = np.full((1, 8, 8), -1, np.int16)
    logits = np.ones((1, 8, 8, 3), np.float32)
    chosen = dataclasses.replace(task, loss_average="valid")
    assert float(chosen.loss(lambda *_, **__: ((logits, logits), {}), {}, empty, jax.random.key(0))[0]) == 0


def test_a_picture_has_the_smallest_canvas_that_holds_it_or_one_of_its_own():
    buckets = ((512, 704), (704, 512), (512, 1024))
    assert canvas_of((512, 512), buckets) == (512, 704)
    assert canvas_of((640, 512), buckets) == (704, 512)
    assert canvas_of((512, 736), buckets) == (512, 1024)
    assert canvas_of((32, 2048), buckets) == (32, 2048)
    assert way_of((512, 704), (256, 352), 0.5, None, 1).canvas == (256, 352)
    assert way_of((512, 704), (896, 1216), 1.75, None, 1).canvas == (896, 1248)


def test_the_white_of_deep_pictures_reaches_every_way_of_reading_them(task, tmp_path):
    for kind, values in (("images", np.full((32, 32), 2048, np.uint16)), ("masks", np.zeros((32, 32), np.uint8))):
        (tmp_path / "val" / kind).mkdir(parents=True)
        Image.fromarray(values).save(tmp_path / "val" / kind / "1.png")
    (tmp_path / "classes.csv").write_text("road\ncar\nsky\n")
    task = dataclasses.replace(task, white=4095, distortion=False)
    split = task.open({"name": "mask_folder", "dir": tmp_path}, "val")
    seen = [task.read(tmp_path / "val" / "images" / "1.png")[0], task.examples(split, train=False)[0]]
    assert {int(np.max(example["image_0"])) for example in seen} == {128}
    assert task.examples(split, train=True, seed=0)[0]["image"].max() == 128


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"mode": "sliding"}, "'whole' or 'slide'"),
        ({"scale": (512,)}, "long side, short side"),
        ({"scale": (512.5, 64)}, "long side, short side"),
        ({"ratio": (1.0, float("inf"))}, "two shares of the scale"),
        ({"mirror": "no"}, "mirror='no' must be True or False"),
        ({"crop": True}, "crop=True must be a whole number"),
        ({"mean": (0.5, 0.5, float("nan"))}, "mean=nan must be a number, and finite"),
        ({"colours": ((1, 2, 300),)}, r"the colour \(1, 2, 300\) must be"),
        ({"values": (1, 1)}, r"values=\(1, 1\) must be whole numbers of 0 and above, each for one class"),
        ({"buckets": ((500, 512),)}, "multiples of 32"),
        ({"mode": "slide", "stride": 65}, "leaves pixels out"),
        ({"scales": ()}, "one or more"),
        ({"loss_average": "most"}, "'all' or 'valid'"),
        ({"labels": ("a", "b"), "model": MODEL | {"num_classes": 2}, "values": (1,)}, "1 values do not fit 2 classes"),
    ],
)
def test_wrong_options_are_refused_in_a_sentence(wrong, message):
    with pytest.raises(ValueError, match=message):
        get_task("segmentation", **SMALL | wrong)


@pytest.mark.parametrize(
    ("size", "training", "merged"),
    [
        ("t", 62_417_936, 60.99),
        ("s", 88_110_212, 86.38),
        ("b", 132_600_908, 130.30),
        ("l", 257_303_516, 253.87),
        ("xl", 429_634_412, 425.07),
    ],
)
def test_parameters_are_as_many_as_the_originals(size, training, merged):
    """training: of the training form; merged: millions of the merged form without the auxiliary head, as published."""
    task = get_task("segmentation", model={"name": f"unireplknet_{size}", "num_classes": 150})
    assert count_parameters(task.abstract_variables()) == training
    params = dict(task.abstract_variables(deploy=True)["params"])
    del params["auxiliary_head"]
    assert round(count_parameters({"params": params}) / 1e6, 2) == merged


def test_another_number_of_classes_is_refused(task, data):
    other = dataclasses.replace(task, model=dict(task.model) | {"num_classes": 2}, labels=(), colours=(), values=())
    with pytest.raises(ValueError, match="has 3 classes, but the model has 2"):
        examples_of(other, data, "val")


def test_a_mask_value_outside_the_classes_names_file_and_value(task, data, tmp_path):
    shutil.copytree(data["dir"], tmp_path / "copy")
    path = tmp_path / "copy" / "val" / "masks" / "1.png"
    pixels = np.array(Image.open(path))
    pixels[3, 4] = 7
    Image.fromarray(pixels).save(path)
    examples = examples_of(task, {**data, "dir": str(tmp_path / "copy")}, "val")
    with pytest.raises(ValueError, match=r"1\.png.* 7"):
        examples[1]


@pytest.mark.slow  # `test_a_prediction_is_a_map_of_the_pictures_size` stays
def test_records_are_json_but_for_the_map(task, data, variables):
    (record,) = urk.predict(Checkpoint(task, variables, merged=False), f"{data['dir']}/val/images/1.png")[0]
    plain = {name: value for name, value in record.items() if name != "class_map"}
    assert json.loads(json.dumps(plain)) == plain


@pytest.mark.slow  # three programs of the original's network; its parts have quick tests
def test_the_originals_predictions_whole_mirrored_and_in_windows(goldens):
    """At most 0.1 % of the pixels may differ: some logits are nearly equal."""
    golden = np.load(goldens / "dense" / "seg_tiny.npz")
    checkpoint = open_checkpoint(goldens / "dense" / "seg_tiny.pth")
    apply = jax.jit(lambda x, sizes: checkpoint.module.apply(checkpoint.variables, x, sizes=sizes))

    def view(picture, windows, canvas, mirrored=False):
        """What the network says of windows of a picture (3, h, w), each in the upper left of a canvas of noise."""
        picture = picture.transpose(1, 2, 0)
        size, picture = picture.shape[:2], picture[:, ::-1] if mirrored else picture
        arrays = np.random.default_rng(0).standard_normal((len(windows), *canvas, 3), np.float32)
        for array, (top, left, height, width) in zip(arrays, windows, strict=True):
            array[:height, :width] = picture[top : top + height, left : left + width]
        sizes = np.array([window[2:] for window in windows])
        return View(np.asarray(apply(arrays, sizes)), windows, size, mirrored)

    def differing(found, expected):
        return np.mean(found != expected)

    picture = golden["input_nchw"][0]
    size, original = picture.shape[1:], tuple(golden["ori_hw"])
    views = [view(picture, [(0, 0, *size)], (160, 192), mirrored) for mirrored in (False, True)]
    assert differing(class_map(views[:1], size), golden["whole_pred"][0]) < 1e-3
    assert differing(class_map(views[:1], original), golden["whole_ori_pred"]) < 1e-3
    assert differing(class_map(views, original), golden["flip_pred"]) < 1e-3
    mean = class_probabilities(views, original).transpose(2, 0, 1)
    np.testing.assert_allclose(mean, golden["flip_prob_avg_nchw"][0], rtol=0, atol=2e-5)
    picture, crop, stride = golden["slide_input_nchw"][0], tuple(golden["slide_crop"]), tuple(golden["slide_stride"])
    windows = slide_windows(picture.shape[1:], crop, stride)
    slid = [view(picture, windows, (160, 192))]
    assert differing(class_map(slid, picture.shape[1:]), golden["slide_pred"]) < 1e-3
    assert differing(class_map(slid, tuple(golden["slide_ori_hw"])), golden["slide_ori_pred"]) < 1e-3
