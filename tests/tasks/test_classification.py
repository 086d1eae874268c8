"""Image classification by numbers; the networks here are functions that return what the test wants."""

import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from splits import examples_of

from unireplknet_jax.data.pictures.base import ArraySource
from unireplknet_jax.data.pictures.sets import open_source
from unireplknet_jax.tasks import classification
from unireplknet_jax.tasks.base import Split, get_task
from unireplknet_jax.tasks.classification import Classification

MODEL = {"depths": (1, 1, 2, 1), "dims": (8, 16, 24, 32), "kernel_sizes": ((3,), (7,), (7, 3), (7,))}


def make_task(num_classes=10, in_chans=1, **options):
    statistics = {"mean": (0.5,) * in_chans, "std": (0.25,) * in_chans}
    model = {**MODEL, "num_classes": num_classes, "in_chans": in_chans}
    return Classification(model, **{"image_size": 16, **statistics, **options})


def network(logits, seen=None):
    """An `apply` that returns these logits, and in training new statistics besides; keeps its inputs in `seen`."""

    def apply(variables, images, train=False, rngs=None, mutable=None):
        if seen is not None:
            seen.append((images, rngs))
        return (jnp.asarray(logits), {"batch_stats": {"new": 1.0}}) if train else jnp.asarray(logits)

    return apply


# Options.


def test_options_go_through_json():
    task = make_task(3, labels=["a", "b", "c"], resize="warp", flip=True, label_smoothing=0.1)
    card = json.loads(json.dumps({"options": task.options, "labels": task.labels}))
    again = get_task("classification", **card["options"], labels=card["labels"])
    assert again == task
    assert hash(again) == hash(task)
    assert again.module() == task.module()


@pytest.mark.parametrize(
    ("size", "resize", "rule"), [(16, None, "warp"), (64, None, "crop"), (16, "crop", "crop"), (64, "warp", "warp")]
)
def test_whoever_prepares_pictures_elsewhere_is_told_the_rule(size, resize, rule):
    task = make_task(image_size=size, resize=resize)
    found = {"image_size": size, "resize": rule, "mean": (0.5,), "std": (0.25,), "white": 0}
    assert task.preparation_rules == found


def test_a_dtype_goes_through_json():
    task = Classification({**MODEL, "dtype": jnp.bfloat16})
    again = Classification(**json.loads(json.dumps(task.options)))
    assert again == task
    assert again.module().dtype == jnp.bfloat16


def test_tasks_that_differ_are_not_equal():
    assert make_task(10) != make_task(11)
    assert len({make_task(10), make_task(10), make_task(10, flip=True)}) == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"labels": ("a", "b")}, "2 labels do not fit a model of 10 classes"),
        ({"num_classes": None, "labels": ("a",)}, "1 labels do not fit a model of None classes"),
        ({"mean": (0.5,) * 3}, "mean and std need one value for each of 1 channels"),
        ({"in_chans": 3, "std": (1.0,)}, "mean and std need one value for each of 3 channels"),
    ],
)
def test_options_that_contradict_each_other(options, message):
    with pytest.raises(ValueError, match=message):
        make_task(**options)


@pytest.mark.parametrize(
    ("field", "values"),
    [
        ("label_smoothing", (-0.1, 1.0, np.nan)),
        ("mixup", (-0.1, np.nan, np.inf)),
        ("cutmix", (-0.1, np.nan, np.inf)),
        ("mixup_prob", (-0.1, 1.1, np.nan)),
        ("mixup_switch_prob", (-0.1, 1.1, np.nan)),
        ("random_erasing", (-0.1, 1.1, np.nan)),
        ("crop_padding", (-1, 0.5)),
        ("image_size", (0, 16.0)),
        ("crop_scale", ((0.0, 1.0), (0.5, 0.2), (0.5, 1.1), (np.nan, 1.0), (0.5, np.nan), (0.5,))),
    ],
)
def test_a_number_that_cannot_be_is_refused_by_its_name(field, values):
    for value in values:
        with pytest.raises(ValueError, match=f"^{re.escape(f'{field}={value}')} must be "):
            make_task(**{field: value})


@pytest.mark.parametrize("value", [0.0, -1.0, np.nan, np.inf])
def test_a_deviation_that_cannot_be_divided_by_is_refused(value):
    with pytest.raises(ValueError, match=f"^std={value} must be above 0"):
        make_task(std=(value,))
    with pytest.raises(ValueError, match=r"^mean=inf must be from 0 to 1"):
        make_task(mean=(np.inf,))


@pytest.mark.parametrize("policy", ["rand-m9", "rand-m11-inc1", "auto", "rand-m9-q2-inc1"])
def test_a_wrong_augmentation_policy_is_refused_at_once(policy):
    with pytest.raises(ValueError, match=r"augmentation policy|RandAugment has magnitude 11"):
        make_task(rand_augment=policy)


# Training.


def test_pixels_are_normalized_per_channel():
    task = make_task(in_chans=3, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
    images = np.random.default_rng(0).integers(0, 256, (2, 16, 16, 3), np.uint8)
    expected = (images / 255 - np.array(task.mean)) / np.array(task.std)
    seen = []
    task.predict(network(np.zeros((2, 10)), seen), {}, {"image": images})
    task.loss(network(np.zeros((2, 10)), seen), {}, {"image": images, "label": jnp.zeros(2, int)}, None)
    for found, _ in seen:
        assert found.dtype == jnp.float32
        # Three float32 roundings of values up to 2.7.
        np.testing.assert_allclose(found, expected, rtol=0, atol=5e-7)


def test_loss_is_cross_entropy_with_smoothed_labels():
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(size=(8, 10)).astype(np.float32) * 3, rng.integers(0, 10, 8)
    batch = {"image": np.zeros((8, 16, 16, 1), np.uint8), "label": jnp.asarray(labels)}
    seen, key = [], jax.random.key(0)
    loss, out = make_task(label_smoothing=0.1).loss(network(logits, seen), {}, batch, key)
    logs = logits - np.log(np.sum(np.exp(logits.astype(np.float64)), axis=1, keepdims=True))
    by_hand = -np.mean(0.9 * logs[np.arange(8), labels] + 0.1 * np.mean(logs, axis=1))
    # A handful of float32 roundings of values near 5.
    assert float(loss) == pytest.approx(by_hand, rel=1e-6)
    assert out["batch_stats"] == {"new": 1.0}
    assert seen[0][1] == {"dropout": key}
    means = {name: float(total / count) for name, (total, count) in out["scalars"].items()}
    hits = np.sum(np.argmax(logits, axis=1) == labels)
    assert means == {"loss": pytest.approx(by_hand, rel=1e-6), "top1": 100 * hits / 8}
    assert 0 < hits < 8


# Evaluation.


def by_hand(logits, labels, mask, k):
    """Of the examples that count, those whose own logit is finite and above all but k - 1 others."""
    hits = 0
    for row, label, real in zip(logits, labels, mask, strict=True):
        rivals = sum(not row[label] > other for i, other in enumerate(row) if i != label)
        hits += bool(real and np.isfinite(row[label]) and rivals < k)
    return hits


@pytest.mark.parametrize("classes", [2, 4, 10])
def test_totals_count_masked_hits_with_ties_and_nan_against_us(classes):
    rng = np.random.default_rng(classes)
    logits = rng.integers(0, 6, (400, classes)).astype(np.float32)  # few values: many ties
    logits[rng.random(logits.shape) < 0.05] = np.nan
    logits[rng.random(logits.shape) < 0.02] = np.inf
    labels, mask = rng.integers(0, classes, 400), (rng.random(400) < 0.7).astype(np.float32)
    batch = {"label": jnp.asarray(labels), "mask": jnp.asarray(mask)}
    totals = jax.jit(make_task(classes).totals)({"logits": jnp.asarray(logits)}, batch)
    assert float(totals["top1"]) == by_hand(logits, labels, mask, 1)
    assert float(totals["top5"]) == by_hand(logits, labels, mask, 5)
    assert float(totals["count"]) == mask.sum()


def test_balance_draws_every_class_as_often():
    targets = np.array([0] * 90 + [1] * 10)
    source = ArraySource(np.zeros((100, 8, 8, 1), np.uint8), targets, np.arange(100), ("a", "b"))
    split = Split(source, "mine", "train")

    def share_of_rare(**options):
        stream = make_task(2, labels=("a", "b"), **options).examples(split, train=True)
        return np.mean([stream[index]["label"] for index in range(400)])

    assert share_of_rare() == 0.1
    assert 0.4 < share_of_rare(balance=True) < 0.6
    swapped = make_task(2, labels=("b", "a"), balance=True).examples(split, train=True)
    assert 0.4 < np.mean([swapped[index]["label"] for index in range(400)]) < 0.6
    plain, balanced = (make_task(2, balance=on).examples(split, train=False) for on in (False, True))
    assert [plain[i]["id"] for i in range(100)] == [balanced[i]["id"] for i in range(100)]


def test_padding_adds_no_loss_even_if_it_is_nan():
    logits = np.array([[2.0, 0.0], [np.nan, np.nan]], np.float32)
    batch = {"label": jnp.array([1, 0]), "mask": jnp.array([1.0, 0.0])}
    totals = jax.jit(make_task(2).totals)({"logits": jnp.asarray(logits)}, batch)
    assert float(totals["loss"]) == pytest.approx(np.log1p(np.exp(2.0)), rel=1e-6)


def test_metrics_are_percentages_and_the_first_picks_the_best():
    metrics = make_task().metrics({"top1": 3.0, "top5": 7.0, "loss": 4.0, "count": 8.0}, [])
    assert list(metrics.items()) == [("top1", 37.5), ("top5", 87.5), ("loss", 0.5), ("count", 8.0)]


@pytest.mark.parametrize(("classes", "names"), [(2, ["top1"]), (5, ["top1"]), (6, ["top1", "top5"])])
def test_the_first_five_of_five_classes_are_no_metric(classes, names):
    task = make_task(classes)
    metrics = task.metrics({"top1": 3.0, "top5": 8.0, "loss": 4.0, "count": 8.0}, [])
    assert list(metrics) == [*names, "loss", "count"] == list(task.metric_names())


def test_nothing_to_evaluate_is_an_error():
    with pytest.raises(ValueError, match="the data set is empty"):
        make_task().metrics({"top1": 0.0, "top5": 0.0, "loss": 0.0, "count": 0.0}, [])


# Prediction.


def test_a_record_ranks_all_classes_by_probability():
    task = make_task(4, labels=("ant", "bee", "cat", "dog"))
    logits = jnp.log(jnp.array([[0.1, 0.4, 0.4, 0.1]])) + 90
    scores = task.predict(network(logits, []), {}, {"image": np.zeros((1, 16, 16, 1), np.uint8)})["scores"]
    record = task.record({"scores": np.asarray(scores[0])}, {"id": "a.png"})
    assert json.loads(json.dumps(record)) == record
    assert record["id"] == "a.png"
    assert [row["label"] for row in record["predictions"]] == ["bee", "cat", "ant", "dog"]
    assert [row["index"] for row in record["predictions"]] == [1, 2, 0, 3]
    # The logits near 90 are rounded to 4e-6.
    assert [row["score"] for row in record["predictions"]] == pytest.approx([0.4, 0.4, 0.1, 0.1], rel=1e-5)
    assert sum(row["score"] for row in record["predictions"]) == pytest.approx(1, rel=3e-7)  # float32


def test_classes_without_names_are_numbered():
    record = make_task(2).record({"scores": np.array([0.3, 0.7])}, {"id": 1})
    assert [row["label"] for row in record["predictions"]] == ["class 1", "class 0"]


def test_labelled_examples_need_no_record():
    assert make_task().record({"scores": np.zeros(10)}, {"id": 0, "label": 3}) is None


@pytest.mark.parametrize("in_chans", [1, 3])
@pytest.mark.parametrize(("mode", "color"), [("L", 90), ("RGB", (255, 0, 0))])
def test_files_get_the_channels_of_the_model(tmp_path, in_chans, mode, color):
    Image.new(mode, (40, 30), color).save(tmp_path / "a.png")
    (example,) = make_task(in_chans=in_chans).read(tmp_path / "a.png")
    assert example["id"] == str(tmp_path / "a.png")
    assert example["image"].dtype == np.uint8
    assert example["image"].shape == (16, 16, in_chans)
    rgb = (90, 90, 90) if mode == "L" else color
    luma = 90 if mode == "L" else round(0.299 * 255)
    np.testing.assert_array_equal(example["image"][3, 5], rgb if in_chans == 3 else [luma])


def test_other_channels_than_one_or_three_are_refused(tmp_path):
    Image.new("RGB", (16, 16)).save(tmp_path / "a.png")
    with pytest.raises(ValueError, match="this model takes 2"):
        make_task(in_chans=2).read(tmp_path / "a.png")


def test_a_drawing_shows_picture_and_classes(tmp_path):
    Image.new("RGB", (10, 40), "red").save(tmp_path / "a.png")
    task = make_task(2, labels=("ant", "bee"))
    drawings = [
        task.draw(task.read(tmp_path / "a.png"), [task.record({"scores": np.array(scores)}, {"id": "a"})])
        for scores in ([0.3, 0.7], [0.7, 0.3])
    ]
    assert drawings[0].size == (256, 256 + 3 * 21 + 6)
    assert drawings[0].getpixel((128, 128)) == (255, 0, 0)
    assert drawings[0].getpixel((20, 128)) == (255, 255, 255)
    name, first, second = (np.asarray(drawings[0])[256 + 4 + 21 * row :][:21] for row in range(3))
    assert all(np.any(line < 128) for line in (name, first, second))
    bars = [np.sum(np.all(line == (198, 219, 239), axis=-1).any(axis=0)) for line in (first, second)]
    assert bars[0] > 2 * bars[1] > 0  # of 70 and 30 %
    assert np.any(np.asarray(drawings[0]) != np.asarray(drawings[1]))


# Data.


def test_examples_have_the_shapes_that_get_compiled():
    for in_chans in (1, 3):
        task = make_task(in_chans=in_chans, crop_padding=2, flip=True)
        for train in (True, False):
            example = examples_of(task, {"name": "digits", "seed": 0}, "test", train)[0]
            (spec,) = task.specs(train)
            for name, shape in {**spec.inputs, **spec.targets}.items():
                assert np.shape(example[name]) == shape.shape
            assert example["image"].dtype == np.uint8
            assert "id" in example


def test_training_examples_are_augmented_from_the_seed():
    task = make_task(crop_padding=4)
    data = {"name": "digits", "dir": "", "seed": 5}
    plain = {example["id"]: example["image"] for example in examples_of(task, data, "test", train=False)}
    first, again, other = (
        [examples_of(task, data | {"seed": seed}, "test", train=True)[i] for i in range(20)] for seed in (5, 5, 6)
    )
    assert [e["id"] for e in first] == [e["id"] for e in again] != [e["id"] for e in other]
    assert all(np.array_equal(a["image"], b["image"]) for a, b in zip(first, again, strict=True))
    assert sum(not np.array_equal(e["image"], plain[e["id"]]) for e in first) > 10


def test_half_of_the_training_pictures_are_mirrored_if_asked_for():
    data = {"name": "digits", "seed": 0}
    plain, upright, mirrored = (
        examples_of(make_task(flip=flip), data, "test", train)
        for flip, train in ((False, False), (False, True), (True, True))
    )
    whole = {example["id"]: example["image"] for example in (plain[i] for i in range(len(plain)))}
    assert all(np.array_equal(upright[i]["image"], whole[upright[i]["id"]]) for i in range(8))
    turned = 0
    for example in (mirrored[i] for i in range(40)):
        before = whole[example["id"]]
        turned += not np.array_equal(example["image"], before)
        assert np.array_equal(example["image"], before) or np.array_equal(example["image"], before[:, ::-1])
    assert 8 < turned < 32


def test_broken_files_are_left_out_of_evaluations_alone(tmp_path):
    """Training passes over them as it draws: to look for them first would read the whole set at every start."""
    for label in "ab":
        (tmp_path / "train" / label).mkdir(parents=True)
        Image.fromarray(np.zeros((16, 16), np.uint8)).save(tmp_path / "train" / label / "0.png")
    (tmp_path / "train" / "b" / "1.png").write_bytes(b"no picture")
    data = {"name": "folder", "dir": str(tmp_path), "broken": "skip"}
    assert [len(make_task(2).open(data, "train", train).source) for train in (True, False)] == [3, 2]


@pytest.mark.parametrize(("name", "split"), [("folder", "train"), ("digits", "test"), ("tones", "test")])
def test_a_split_is_known_by_its_files(tmp_path, name, split):
    for label, count in (("a", 2), ("b", 1)):
        (tmp_path / "train" / label).mkdir(parents=True)
        for number in range(count):
            Image.fromarray(np.zeros((16, 16), np.uint8)).save(tmp_path / "train" / label / f"{number}.png")
    task = get_task("audio", model=MODEL) if name == "tones" else make_task(2)

    def files():
        return task.identity(task.open({"name": name, "dir": str(tmp_path) if name == "folder" else ""}, split))[
            "files"
        ]

    before = files()
    (tmp_path / "train" / "b" / "0.png").rename(tmp_path / "train" / "b" / "1.png")
    if name == "folder":
        assert {label: count for label, (count, _) in before.items()} == {"a": 2, "b": 1}
        assert [label for label, found in files().items() if found != before[label]] == ["b"]
    else:
        assert files() == before == {}


def test_data_of_other_classes_is_refused():
    with pytest.raises(ValueError, match="digits has 10 classes, but the model has 5"):
        examples_of(make_task(5), {"name": "digits", "seed": 0}, "train", train=True)


@pytest.mark.parametrize(("given", "opened"), [({}, None), ({"dir": ""}, None), ({"dir": "here"}, "here")])
def test_an_empty_folder_is_none(monkeypatch, given, opened):
    asked = []
    monkeypatch.setattr(
        classification, "open_source", lambda *args: asked.append(args) or open_source(args[0], args[1])
    )
    examples_of(make_task(), {"name": "digits", **given}, "test", train=False)
    assert asked == [("digits", "test", opened)]


def test_what_a_rotated_picture_uncovers_has_the_mean_colour(monkeypatch):
    fills = []
    monkeypatch.setattr(classification.images, "TrainTransform", lambda size, **options: fills.append(options["fill"]))
    classification._train_transform.__wrapped__(make_task(in_chans=3, mean=(0.2, 0.4, 0.6), std=(0.3, 0.1, 0.5)))
    assert {*fills} == {(51, 102, 153)}


def test_whole_numbers_may_be_classes_in_the_order_of_texts(tmp_path):
    for label in ("2", "10"):
        (tmp_path / "val" / label).mkdir(parents=True)
        Image.new("L", (16, 16)).save(tmp_path / "val" / label / "a.png")
    data, task = {"name": "folder", "dir": tmp_path}, make_task(2)
    orders = {None: [0, 1], "numbers": [0, 1], "texts": [1, 0]}
    for order, expected in orders.items():
        split = task.open(data | ({"class_order": order} if order else {}), "val")
        assert [example["label"] for example in task.examples(split, train=False)] == expected
    with pytest.raises(ValueError, match=r"^data\.class_order is 'names'; expected 'numbers' or 'texts'\.$"):
        task.open(data | {"class_order": "names"}, "val")


def test_the_white_of_deep_pictures_reaches_every_way_of_reading_them(tmp_path):
    path = tmp_path / "val" / "a" / "1.png"
    path.parent.mkdir(parents=True)
    Image.fromarray(np.full((16, 16), 2048, np.uint16)).save(path)
    task = make_task(1, white=4095, resize="warp")
    split = task.open({"name": "folder", "dir": tmp_path}, "val")
    seen = [task.read(path)[0], task.examples(split, train=False)[0], task.examples(split, train=True, seed=0)[0]]
    assert {int(example["image"].max()) for example in seen} == {128}
    assert task.read(path)[0]["picture"].getpixel((0, 0)) == (128, 128, 128)
