"""`predict` in Python: the records of the command, for files, bytes and arrays, merged and compiled once."""

import copy
import dataclasses
import json
import logging
import math
import pickle
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from PIL import Image
from small_tasks import KINDS, make_checkpoint, make_task, with_lists, write_files

import unireplknet_jax as urk
from unireplknet_jax.__main__ import main
from unireplknet_jax.data.clips.frames import read_frames
from unireplknet_jax.data.sounds.waveforms import read_sound
from unireplknet_jax.tasks import checkpoint as checkpoints
from unireplknet_jax.tasks.base import task_class
from unireplknet_jax.tasks.checkpoint import open_checkpoint, save_checkpoint
from unireplknet_jax.tasks.predict import predict_files, shown, with_image_size

pytestmark = pytest.mark.usefixtures("quick_compilation")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("files")


@pytest.fixture(scope="module", params=KINDS)
def opened(request, folder):
    """(a checkpoint's path, two files of its task)."""
    path = folder / request.param
    save_checkpoint(path, make_checkpoint(request.param))
    return path, write_files(folder, request.param)


@pytest.fixture
def pictures(folder):
    """A checkpoint of pictures, opened anew, and two files."""
    if not (folder / "small").exists():
        save_checkpoint(folder / "small", make_checkpoint("classification"))
    return open_checkpoint(folder / "small"), write_files(folder, "classification")


@pytest.fixture
def traces(monkeypatch):
    """The batch sizes with which a network of pictures was traced."""
    known, found = task_class("classification"), []
    predict = known.predict
    monkeypatch.setattr(
        known, "predict", lambda self, apply, v, i: found.append(len(i["image"])) or predict(self, apply, v, i)
    )
    return found


def without_nan(value):
    """What JSON makes of a value, in which maps of pixels are left out."""
    if isinstance(value, dict):
        return {key: without_nan(item) for key, item in value.items() if not isinstance(item, np.ndarray)}
    if isinstance(value, list):
        return [without_nan(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def test_records_are_those_that_the_command_prints(opened, capsys):
    path, files = opened
    assert main(["predict", str(path), *files, "--json"]) == 0
    results = json.loads(capsys.readouterr().out)["results"]
    found = urk.predict(open_checkpoint(path), files)
    assert without_nan(found) == [result["records"] for result in results]
    first, second = without_nan(found)
    assert first != second


def test_bytes_and_arrays_give_the_records_of_their_file(opened):
    path, files = opened
    checkpoint = open_checkpoint(path)
    contents = [urk.EncodedFile(Path(file).read_bytes(), file) for file in files]
    expected = with_lists(urk.predict(checkpoint, files))
    assert with_lists(urk.predict(checkpoint, contents)) == expected
    arrays = {
        "classification": lambda file: np.asarray(Image.open(file)),
        "segmentation": lambda file: np.asarray(Image.open(file)),
        "detection": lambda file: np.asarray(Image.open(file)),
        "audio": lambda file: read_sound(file, 16_000),
        "video": lambda file: read_frames(file, np.arange),
        "points": np.loadtxt,
    }
    if checkpoint.task.name in arrays:
        in_memory = [arrays[checkpoint.task.name](file) for file in files]
        assert with_lists(urk.predict(checkpoint, in_memory)) == expected
        assert with_lists(urk.predict(checkpoint, in_memory[1])) == expected[1:]
    else:
        with pytest.raises(ValueError, match=r"^input 0: cannot read the array of shape .* expected a table of stat"):
            urk.predict(checkpoint, np.zeros((40, 3)))


def test_one_input_or_many_of_all_kinds(pictures):
    checkpoint, (first, second) = pictures
    (expected,) = urk.predict(checkpoint, first)
    image = Image.open(first)
    content = Path(first).read_bytes()
    given = [image, np.asarray(image), jax.numpy.asarray(np.asarray(image)), content, bytearray(content)]
    assert urk.predict(checkpoint, given) == [expected] * 5
    assert all(urk.predict(checkpoint, one) == [expected] for one in given)
    assert urk.predict(checkpoint, (each for each in (first, second)))[0] == expected
    assert urk.predict(checkpoint, []) == []


def test_lists_end_after_the_best(pictures):
    checkpoint, (first, _) = pictures
    ((record,),) = urk.predict(checkpoint, first, top=None)
    assert [row["score"] for row in record["predictions"]] == sorted(
        (row["score"] for row in record["predictions"]), reverse=True
    )
    assert len(record["predictions"]) == 6
    for top in (2, 5):
        assert urk.predict(checkpoint, first, top=top) == [[{"predictions": record["predictions"][:top]}]]
    assert "id" not in record


@pytest.mark.parametrize(("name", "rows"), [("classification", [3, 1]), ("forecasting", [3, 1, 2])])
def test_lists_that_are_not_best_first_are_whole(name, rows):
    assert shown(task_class(name), [{"id": "x", "rows": [3, 1, 2], "count": 3}], 2) == [{"rows": rows, "count": 3}]


def test_a_second_call_neither_merges_nor_traces_again(pictures, traces, monkeypatch):
    checkpoint, files = pictures
    merges, reparameterize = [], checkpoints.reparameterize
    monkeypatch.setattr(checkpoints, "reparameterize", lambda v: merges.append(1) or reparameterize(v))
    first = urk.predict(checkpoint, files)
    assert traces == [2]
    for again in (files, files[:1], [*files, *files, files[0]], [np.asarray(Image.open(file)) for file in files]):
        assert urk.predict(checkpoint, again)[0] == first[0]
    assert (traces, merges) == ([2], [1])
    urk.predict(checkpoint, files * 5)  # ten: worth a program for full batches
    assert traces == [2, 8]
    urk.predict(checkpoint, files * 5)
    assert (traces, merges) == ([2, 8], [1])
    urk.predict(dataclasses.replace(checkpoint), files)
    assert (traces, merges) == ([2, 8, 2], [1, 1])


def test_every_batch_size_has_a_network_of_its_own(pictures, traces):
    checkpoint, files = pictures
    for size in (1, 2, 1):
        urk.predict(checkpoint, files, batch_size=size)
    assert traces == [1, 2]


def test_it_is_the_merged_form_that_runs(pictures, monkeypatch):
    checkpoint, files = pictures
    forms, known = [], task_class("classification")
    module = known.module
    monkeypatch.setattr(known, "module", lambda self, deploy=False: forms.append(deploy) or module(self, deploy))
    found = urk.predict(checkpoint, files)
    assert forms[-1] is True
    assert not checkpoint.merged
    assert urk.predict(checkpoint.in_merged_form(), files) == found


def test_a_checkpoint_that_was_used_can_still_be_copied_and_sent(pictures):
    checkpoint, files = pictures
    expected = urk.predict(checkpoint, files)
    for other in (copy.deepcopy(checkpoint), pickle.loads(pickle.dumps(checkpoint))):
        assert other.cache == {}
        assert urk.predict(other, files) == expected


def test_the_first_input_that_cannot_be_read_is_refused_before_anything_is_computed(pictures, traces, tmp_path):
    checkpoint, (first, _) = pictures
    (tmp_path / "broken.jpg").write_bytes(b"no picture")
    for given, message in (
        ([first, tmp_path / "broken.jpg"], r"^.*broken\.jpg is not an image"),
        ([first, str(tmp_path / "gone.jpg")], r"^cannot read .*gone\.jpg"),
        ([first, b"abc"], r"^input 1 is not an image"),
        ([first, urk.EncodedFile(b"abc", "upload.png")], r"^upload\.png is not an image"),
        ([first, np.zeros((4, 4, 3))], r"^input 1: an array of float64 \(4, 4, 3\) is not a picture"),
    ):
        with pytest.raises(ValueError, match=message) as raised:
            urk.predict(checkpoint, given)
        assert "\n" not in str(raised.value)
    assert traces == []


def test_what_cannot_be_read_can_be_passed_over(pictures, tmp_path, caplog):
    checkpoint, files = pictures
    (tmp_path / "broken.jpg").write_bytes(b"no picture")
    found = urk.predict(checkpoint, [files[0], tmp_path / "broken.jpg", files[1]], broken="skip")
    assert found == [urk.predict(checkpoint, files)[0], [], urk.predict(checkpoint, files)[1]]
    assert [record.message for record in caplog.records if "broken" in record.message] == [
        f"skipped: {tmp_path}/broken.jpg is not an image that Pillow can read; expected for example a JPEG or PNG"
    ]
    with pytest.raises(ValueError, match="broken is 'pass'; expected 'refuse' or 'skip'"):
        urk.predict(checkpoint, files, broken="pass")


def test_a_record_that_cannot_be_made_is_refused_too(pictures, monkeypatch):
    checkpoint, files = pictures

    def record(self, pred, example):
        raise ValueError("no record of this")

    monkeypatch.setattr(task_class("classification"), "record", record)
    with pytest.raises(ValueError, match=r"picture\.jpg: no record of this$"):
        urk.predict(checkpoint, files)
    assert urk.predict(checkpoint, files, broken="skip") == [[], []]


@pytest.mark.parametrize("given", [3.5, [3.5], {"a": 1}, None, [None]])
def test_what_is_no_input_is_one_sentence(pictures, given):
    with pytest.raises(
        TypeError, match=r"^input 0 is of the type \w+; expected a path, bytes, an array or a PIL image"
    ):
        urk.predict(pictures[0], given)


def test_an_open_file_is_not_taken_for_its_lines(pictures):
    with open(pictures[1][0], "rb") as file, pytest.raises(TypeError, match="input 0 is of the type BufferedReader"):
        urk.predict(pictures[0], file)


def test_what_is_no_checkpoint_is_one_sentence(pictures):
    with pytest.raises(TypeError, match="expected what open_checkpoint gives, not a str"):
        urk.predict("unireplknet_a", pictures[1])


def test_guesses_are_logged_once(goldens, pictures, caplog):
    checkpoint = open_checkpoint(goldens / "tiny_afp.pth", num_classes=1000)
    checkpoint = dataclasses.replace(checkpoint, task=dataclasses.replace(checkpoint.task, image_size=32))
    caplog.clear()  # of what opening it said
    with caplog.at_level(logging.WARNING):
        ((record,),) = urk.predict(checkpoint, pictures[1][0])
        urk.predict(checkpoint, pictures[1][0])
    assert record["predictions"][0]["label"] != "class 0"
    assert ["are prepared with image_size 32" in record.message for record in caplog.records] == [True, False]
    assert ["names no classes" in record.message for record in caplog.records] == [False, True]
    assert checkpoint.labels == ()


def test_a_network_without_classifier_predicts_nothing(goldens, pictures):
    checkpoint = open_checkpoint(goldens / "tiny_afp.pth", num_classes=None)
    with pytest.raises(ValueError, match="this checkpoint has no classifier"):
        urk.predict(checkpoint, pictures[1])


@pytest.mark.parametrize("name", KINDS)
def test_a_checkpoint_says_how_inputs_are_prepared(name):
    checkpoint = make_checkpoint(name)
    assert checkpoint.preprocessing
    for option, value in checkpoint.preprocessing.items():
        assert getattr(checkpoint.task, option) == value
    assert checkpoint.labels == checkpoint.task.labels


def test_the_size_of_the_frames_of_a_clip_can_be_changed():
    checkpoint = make_checkpoint("video")
    changed, (note,) = with_image_size(checkpoint, "x.pth", 32)
    assert changed.task == make_task("video", image_size=32)
    assert "image_size 32" in note


def test_another_size_of_pictures_is_resized_by_the_official_rule():
    checkpoint = make_checkpoint("classification")
    warping = dataclasses.replace(checkpoint, task=dataclasses.replace(checkpoint.task, resize="warp"))
    changed, (note,) = with_image_size(warping, "x.pth", 32)
    assert (changed.task.image_size, changed.task.resize) == (32, None)
    assert "resize by the official rule" in note


def test_an_input_without_a_name_that_gives_no_record_is_called_by_its_place():
    def record(pred, example):
        if not example["id"]:
            raise ValueError("nothing is in it")
        return example

    def read_parts(source):
        yield [{"id": int(source[0])}]

    task = SimpleNamespace(read_parts=read_parts, record=record, combined=lambda rows: rows)
    checkpoint = SimpleNamespace(task=task, module=None, runtime=None)
    arrays = [np.array([value]) for value in (2, 1, 0)]
    with pytest.raises(ValueError, match=r"^input 2: nothing is in it$"):
        list(predict_files(checkpoint, arrays, 2, network=lambda examples, count: examples, broken="refuse"))
