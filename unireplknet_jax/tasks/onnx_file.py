"""ONNX: a network as a graph of operators, for ONNX Runtime, TensorRT, OpenVINO and whatever else reads it."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from unireplknet_jax.models.shapes import map_size, trunk_of

KEY = "unireplknet_jax"  # of the card in the file's metadata


def write(path: Path, checkpoint: Any, card: Mapping[str, Any], half: bool = False, opset: int | None = None) -> None:
    """Write a merged checkpoint as a graph (`model`); opset: None is the first that has all operators."""
    path.write_bytes(model(checkpoint, card, half, opset).SerializeToString())


def model(
    checkpoint: Any, card: Mapping[str, Any], half: bool = False, opset: int | None = None, evidence: bool = False
) -> Any:
    """The graph of a merged checkpoint, which takes "image" (n, c, h, w) uint8.

    A classifier gives "logits" and "scores" (n, classes). A network for masks takes "size" (n, 2) int32, too, the rows
    and columns of the pictures in the upper left of their canvas, and gives "logits" (n, classes, h / 4, w / 4).
    card["batch"]: examples in a batch, None: any number. evidence: of a classifier, "activation" (n, h / 32, w / 32),
    too, what speaks for the likeliest class (`models.attribution`).
    Raises ValueError for an opset that is too old or unknown.
    """
    import jax
    from onnx import defs

    from unireplknet_jax.tasks import onnx_graph, onnx_upernet

    newest = defs.onnx_opset_version()
    if opset is not None and not onnx_graph.OPSET <= opset <= newest:
        raise ValueError(f"--opset is {opset}; expected {onnx_graph.OPSET}, the first that has Gelu, to {newest}.")
    task, module, graph = checkpoint.task, checkpoint.module, onnx_graph.Graph(half)
    rows, variables, classes = card["batch"] or "batch", jax.device_get(checkpoint.variables), module.num_classes
    canvas, depths = canvas_of(task), trunk_of(module).depths
    image = graph.end("input", "image", "uint8", (rows, module.in_chans, *canvas))
    if task.name == "segmentation":
        if card["batch"] is not None:
            raise ValueError("for masks a graph takes any number of windows of pictures; leave out --batch.")
        size = graph.end("input", "size", "int32", (rows, 2))
        logits = onnx_upernet.logits_of(graph, image, size, canvas, depths, variables, task)
        graph.end("output", logits, "float32", (rows, classes, *(-(-side // 4) for side in canvas)))
    else:
        pixels = onnx_graph.normalized(graph, image, task.mean, task.std)
        last = map_size(canvas, 3)
        positions = math.prod(last) if evidence else None
        logits = onnx_graph.logits_of(graph, pixels, variables["params"], depths, positions)
        for name in (logits, graph.node("Softmax", logits, name="scores", axis=-1)):
            graph.end("output", name, "float32", (rows, classes))
        if evidence:
            graph.end("output", "activation", "float32", (rows, *last))
    return graph.model(opset or onnx_graph.OPSET, {KEY: json.dumps(card)})


def canvas_of(task: Any) -> tuple[int, int]:
    """(h, w) of the pictures that a graph takes; ValueError for a task that has several."""
    shapes = [leaf.shape for spec in task.specs(train=False) for leaf in spec.inputs.values() if len(leaf.shape) > 2]
    canvases = {shape[-3:-1] for shape in shapes}
    if len(canvases) > 1:
        raise ValueError(
            f"a graph takes pictures of one size, and this checkpoint has {len(canvases)} canvases, scales or both: "
            "give --image-size N for one canvas, or export it to StableHLO."
        )
    return canvases.pop()


def opened(path: Path) -> tuple[dict[str, Any] | None, str, Any]:
    """(the card or None, the runtime's name, {name: (n, ...)} -> {name: (n, ...)})."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # what it warns of is no user's business
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    card = session.get_modelmeta().custom_metadata_map.get(KEY)
    names = [output.name for output in session.get_outputs()]

    def run(inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        asked = asked_of_graph(inputs)
        return given_by_graph(inputs, dict(zip(names, session.run(names, asked), strict=True)))

    return json.loads(card) if card else None, f"onnxruntime {onnxruntime.__version__}", run


def asked_of_graph(inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """What the graph takes of a task's inputs: pictures (n, c, h, w), of windows each as a picture of its own."""
    if "image" in inputs:
        return {"image": np.ascontiguousarray(np.moveaxis(inputs["image"], -1, 1))}
    pixels, sizes = inputs["image_0"], inputs["size_0"]
    pixels = pixels.reshape(-1, *pixels.shape[2:])
    return {"image": np.ascontiguousarray(np.moveaxis(pixels, -1, 1)), "size": sizes.reshape(-1, 2)}


def given_by_graph(inputs: Mapping[str, np.ndarray], found: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """What `Task.predict` gives, of what the graph gives."""
    if "image" in inputs:
        return dict(found)
    logits = np.moveaxis(found["logits"], 1, -1)
    return {"logits_0": logits.reshape(*inputs["image_0"].shape[:2], *logits.shape[1:])}
