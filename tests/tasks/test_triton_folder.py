"""What Triton reads of an exported model: its description, the labels and the graph."""

import dataclasses
import os

import numpy as np
import pytest
from small_tasks import make_checkpoint

import unireplknet_jax as urk
from unireplknet_jax.tasks import export

CLASSIFIER = """\
backend: "onnxruntime"
max_batch_size: 8
input { name: "image", data_type: TYPE_UINT8, dims: [3, 32, 32] }
output { name: "logits", data_type: TYPE_FP32, dims: [6] }
output { name: "scores", data_type: TYPE_FP32, dims: [6], label_filename: "labels.txt" }
dynamic_batching { max_queue_delay_microseconds: 5000 }
"""
SEGMENTER = """\
backend: "onnxruntime"
max_batch_size: 8
input { name: "image", data_type: TYPE_UINT8, dims: [3, 32, 32] }
input { name: "size", data_type: TYPE_INT32, dims: [2] }
output { name: "logits", data_type: TYPE_FP32, dims: [6, 8, 8] }
dynamic_batching { max_queue_delay_microseconds: 5000 }
"""
pytestmark = pytest.mark.usefixtures("quick_compilation")


def exported(checkpoint, path, **options):
    pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    export.export(checkpoint, path, "triton", **options)
    return (path / "config.pbtxt").read_text()


def parsed(config):
    """As Triton itself reads it, where its client is installed; else nothing."""
    pytest.importorskip("tritonclient.grpc", reason="pip install 'tritonclient[grpc]'")
    from google.protobuf import text_format
    from tritonclient.grpc import model_config_pb2

    return text_format.Parse(config, model_config_pb2.ModelConfig())


def test_a_classifier_is_a_model_of_a_repository(tmp_path):
    checkpoint = make_checkpoint("classification", labels=("a b", 'c"d', "e", "f", "g", "ö"))
    assert exported(checkpoint, tmp_path / "flowers") == CLASSIFIER
    assert sorted(os.listdir(tmp_path / "flowers")) == ["1", "config.pbtxt", "labels.txt"]
    assert (tmp_path / "flowers/labels.txt").read_text(encoding="utf-8").splitlines() == [*checkpoint.labels]
    picture = np.random.default_rng(0).integers(0, 256, (40, 50, 3), np.uint8)
    (ours,), (theirs,) = (
        urk.predict(each, picture)[0] for each in (checkpoint, urk.open_checkpoint(tmp_path / "flowers"))
    )
    for one, other in zip(ours["predictions"], theirs["predictions"], strict=True):
        assert one["label"] == other["label"]
        assert one["score"] == pytest.approx(other["score"], abs=1e-5)


def test_options_are_those_of_the_graph_and_without_names_there_are_no_labels(tmp_path):
    config = exported(make_checkpoint("classification"), tmp_path / "it", half=True, opset=21)
    assert "label_filename" not in config
    onnx = pytest.importorskip("onnx")
    model = onnx.load(tmp_path / "it/1/model.onnx")
    assert model.opset_import[0].version == 21
    assert onnx.TensorProto.FLOAT16 in {tensor.data_type for tensor in model.graph.initializer}
    assert sorted(os.listdir(tmp_path / "it")) == ["1", "config.pbtxt"]


@pytest.mark.slow
def test_a_network_for_masks_takes_the_sizes_of_its_pictures(tmp_path):
    assert exported(make_checkpoint("segmentation"), tmp_path / "masks", image_size=32) == SEGMENTER


@pytest.mark.parametrize("config", [CLASSIFIER, SEGMENTER])
def test_it_is_read_as_it_was_meant(config):
    found = parsed(config)
    assert found.backend == "onnxruntime"
    assert found.max_batch_size == 8
    assert [*found.input[0].dims] == [3, 32, 32]
    assert found.dynamic_batching.max_queue_delay_microseconds == 5000


def test_only_its_own_kind_of_folder_gives_way(tmp_path):
    checkpoint = make_checkpoint("classification")
    exported(checkpoint, tmp_path / "it")
    with pytest.raises(FileExistsError, match="exists already; remove it, choose another name, or give --overwrite"):
        exported(checkpoint, tmp_path / "it")
    renamed = dataclasses.replace(checkpoint, task=dataclasses.replace(checkpoint.task, labels=tuple("abcdef")))
    exported(renamed, tmp_path / "it", overwrite=True)
    assert urk.open_checkpoint(tmp_path / "it").labels == tuple("abcdef")
    with pytest.raises(FileExistsError, match="is no folder that such an export wrote; choose another name"):
        exported(checkpoint, tmp_path, overwrite=True)
    (tmp_path / "other").mkdir()
    (tmp_path / "other/config.pbtxt").write_text('backend: "python"')  # a model of another kind
    with pytest.raises(FileExistsError, match="is no folder that such an export wrote"):
        exported(checkpoint, tmp_path / "other", overwrite=True)
    assert sorted(os.listdir(tmp_path)) == ["it", "other"]
