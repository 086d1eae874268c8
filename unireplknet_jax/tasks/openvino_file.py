"""OpenVINO: the ONNX graph in the form that OpenVINO keeps, a description NAME.xml and its weights NAME.bin."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from unireplknet_jax.tasks.onnx_file import KEY, asked_of_graph, given_by_graph, model


def library() -> ModuleType:
    """The module openvino, without what tells Intel of every import: it forks, which threads of jax do not survive."""
    watched = sys.modules.get("openvino_telemetry")
    sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]  # whoever imports it finds it missing
    try:
        import openvino
    finally:
        del sys.modules["openvino_telemetry"]
        if watched is not None:
            sys.modules["openvino_telemetry"] = watched
    return openvino


def write(path: Path, checkpoint: Any, card: Mapping[str, Any], half: bool = False) -> None:
    """Write a merged checkpoint to `path`, which ends in .xml, and a .bin beside it; half: weights are float16."""
    openvino = library()
    graph = openvino.Core().read_model(model(checkpoint, card).SerializeToString())
    graph.set_rt_info(json.dumps(card), [KEY])
    openvino.save_model(graph, path, compress_to_fp16=half)


def opened(path: Path) -> tuple[dict[str, Any] | None, str, Any]:
    """(the card or None, the runtime's name, {name: (n, ...)} -> {name: (n, ...)})."""
    openvino = library()
    core = openvino.Core()
    graph = core.read_model(path)
    card = json.loads(graph.get_rt_info([KEY]).astype(str)) if graph.has_rt_info([KEY]) else None
    network = core.compile_model(graph, "CPU", {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY"})
    names = [output.get_any_name() for output in network.outputs]

    def run(inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        found = network(asked_of_graph(inputs))
        return given_by_graph(inputs, {name: np.array(found[name]) for name in names})

    return card, f"openvino {openvino.__version__.split('-')[0]}", run
