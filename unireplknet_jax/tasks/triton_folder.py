"""A model of a repository that NVIDIA's Triton Inference Server reads: an ONNX graph, its description and the labels.

https://docs.nvidia.com/deeplearning/triton-inference-server/user-guide/docs/user_guide/model_configuration.html
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from unireplknet_jax.tasks import onnx_file
from unireplknet_jax.tasks.predict import with_labels

CONFIG, GRAPH, _LABELS = "config.pbtxt", "1/model.onnx", "labels.txt"
_MOST, _DELAY = 8, 5000  # examples at a time, and microseconds that one waits for others: as `serve` does


def write(path: Path, checkpoint: Any, card: Mapping[str, Any], half: bool = False, opset: int | None = None) -> None:
    """Fill the folder of a model with the graph of a merged checkpoint; half, opset: as of `onnx_file.write`."""
    graph = onnx_file.model(checkpoint, card, half, opset)
    (path / GRAPH).parent.mkdir()
    (path / GRAPH).write_bytes(graph.SerializeToString())
    labels = with_labels(checkpoint, checkpoint.path or "the checkpoint")[0].labels
    if labels:
        (path / _LABELS).write_text("".join(f"{label}\n" for label in labels), encoding="utf-8")
    (path / CONFIG).write_text(_config(graph, bool(labels)), encoding="utf-8")


def opened(path: Path) -> tuple[dict[str, Any] | None, str, Any]:
    """As `onnx_file.opened`, of the graph in the folder."""
    return onnx_file.opened(path / GRAPH)


def _config(graph: Any, labelled: bool) -> str:
    """The description of a graph as text of the protocol buffer `ModelConfig`; the batch is not among its dims."""
    ends = [
        *(_end("input", value, False) for value in graph.graph.input),
        *(_end("output", value, labelled and value.name == "scores") for value in graph.graph.output),
    ]
    rest = f"dynamic_batching {{ max_queue_delay_microseconds: {_DELAY} }}\n"
    return "".join(['backend: "onnxruntime"\n', f"max_batch_size: {_MOST}\n", *ends, rest])


def _end(kind: str, value: Any, labelled: bool) -> str:
    from onnx import TensorProto

    types = {TensorProto.FLOAT: "TYPE_FP32", TensorProto.UINT8: "TYPE_UINT8", TensorProto.INT32: "TYPE_INT32"}
    dims = [axis.dim_value for axis in value.type.tensor_type.shape.dim][1:]
    fields = [
        f"name: {json.dumps(value.name)}",
        f"data_type: {types[value.type.tensor_type.elem_type]}",
        f"dims: {json.dumps(dims)}",
        *([f"label_filename: {json.dumps(_LABELS)}"] if labelled else []),
    ]
    return f"{kind} {{ {', '.join(fields)} }}\n"
