"""A graph in integers keeps the accuracy that was measured, or is not kept."""

import dataclasses
import os

import numpy as np
import pytest
from PIL import Image
from small_tasks import make_checkpoint

import unireplknet_jax as urk
from unireplknet_jax.tasks import export
from unireplknet_jax.tasks.predict import predictor

LABELS = tuple("abcdef")
pytestmark = pytest.mark.usefixtures("quick_compilation")


@pytest.fixture(scope="module")
def labelled(tmp_path_factory):
    """(a checkpoint of random weights that is always right on its data, the pictures of these)."""
    pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    folder = tmp_path_factory.mktemp("labelled")
    checkpoint = make_checkpoint("classification", labels=LABELS)
    rng = np.random.default_rng(0)
    pictures = [np.kron(rng.integers(0, 256, (4, 4, 3), np.uint8), np.ones((8, 8, 1), np.uint8)) for _ in range(40)]
    found = predictor(checkpoint.in_merged_form())([{"image": picture} for picture in pictures])
    for name in LABELS:
        (folder / "val" / name).mkdir(parents=True)
    for number, (picture, one) in enumerate(zip(pictures, found, strict=True)):
        Image.fromarray(picture).save(folder / "val" / LABELS[int(np.argmax(one["logits"]))] / f"{number}.png")
    data = {"name": "folder", "dir": str(folder), "eval_split": "val", "broken": "refuse", "class_order": "numbers"}
    return dataclasses.replace(checkpoint, data=data), pictures


def test_convolutions_are_integers_as_far_as_the_accuracy_bears(labelled, tmp_path):
    onnx = pytest.importorskip("onnx")
    checkpoint, pictures = labelled
    plain = export.export(checkpoint, tmp_path / "plain.onnx")
    found = export.export(checkpoint, tmp_path / "it.onnx", calibrate=pictures)
    assert found.integers.layers
    assert (found.integers.before, found.integers.calibrated, found.integers.examples) == (100, 40, 40)
    assert found.integers.after >= 99
    assert found.size != plain.size
    opened = urk.open_checkpoint(tmp_path / "it.onnx")
    assert opened.task == checkpoint.task
    said = [row["predictions"][0]["label"] for (row,) in urk.predict(opened, pictures)]
    true = [row["predictions"][0]["label"] for (row,) in urk.predict(checkpoint, pictures)]
    assert 100 * np.mean(np.array(said) == true) == found.integers.after
    graph = onnx.load(tmp_path / "it.onnx").graph
    made_by = {name: node.op_type for node in graph.node for name in node.output}
    sees = [made_by.get(node.input[0]) for node in graph.node if node.op_type == "Conv"]
    expected = {"pointwise": 4, "strided": 5, "depthwise": 2}
    assert sees.count("DequantizeLinear") == sum(expected[name] for name in found.integers.layers)
    assert sees.count("GlobalAveragePool") == sees.count("Relu") == 2  # squeeze and excitation stays as it was
    assert sorted(os.listdir(tmp_path)) == ["it.onnx", "plain.onnx"]


def test_a_graph_that_loses_accuracy_is_refused_with_the_number(labelled, tmp_path):
    checkpoint, _ = labelled
    black = np.zeros((32, 32, 3), np.uint8)
    why = r"^in integers the top-1 accuracy falls from 100\.00 to \d+\.\d\d %, by more than 1 point; nothing was"
    with pytest.raises(ValueError, match=why):
        export.export(checkpoint, tmp_path / "it.onnx", calibrate=black)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("ending", "options", "match"),
    [
        (".stablehlo", {}, "integers of 8 bits are for classifiers of pictures in ONNX; leave out --int8"),
        (".onnx", {"half": True}, "as float16 or as integers, not both; leave out --half or --int8"),
        (".onnx", {"calibrate": []}, "there is no picture to calibrate on; give some"),
        (".onnx", {"calibrate": [b"no picture"]}, "^input 0 is not an image that Pillow can read"),
        (".onnx", {"data": {"name": "folder", "dir": "/nowhere", "split": "val"}}, "/nowhere"),
    ],
)
def test_what_integers_cannot_be_is_a_sentence(ending, options, match, labelled, tmp_path):
    checkpoint, pictures = labelled
    with pytest.raises((ValueError, OSError), match=match):
        export.export(checkpoint, tmp_path / f"it{ending}", **{"calibrate": pictures, **options})
    assert os.listdir(tmp_path) == []


def test_a_checkpoint_without_data_has_to_be_given_some(labelled, tmp_path):
    checkpoint, pictures = labelled
    stranger = dataclasses.replace(checkpoint, data=None)
    with pytest.raises(ValueError, match=r"has to be measured, .*; name them, for example --data folder"):
        export.export(stranger, tmp_path / "it.onnx", calibrate=pictures)
    data = {**checkpoint.data, "split": "val", "eval_split": "test"}
    found = export.export(stranger, tmp_path / "it.onnx", calibrate=pictures[:30], data=data, batch=16)
    assert (found.integers.calibrated, found.integers.examples) == (30, 40)  # the last batches of both are filled up
