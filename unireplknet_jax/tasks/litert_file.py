"""LiteRT: a network as a .tflite file, for phones and small devices, made of StableHLO without TensorFlow."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import export

from unireplknet_jax.models.shapes import map_size
from unireplknet_jax.tasks.onnx_file import KEY
from unireplknet_jax.tasks.stablehlo_file import batched

SIGNATURE = "serving_default"


def write(path: Path, checkpoint: Any, card: Mapping[str, Any]) -> None:
    """Write a merged checkpoint as a network for batches of card["batch"] examples.

    Its depthwise convolutions are XLA's, for which LiteRT has an operator. The converter fails at maps (1, 1, 1, c), so
    that a single example whose last map has one position goes through the network twice.
    """
    task = checkpoint.task
    task = dataclasses.replace(task, model={**dict(task.model), "impl": "xla"})
    variables, apply = jax.device_get(checkpoint.variables), task.module(deploy=True).apply
    (spec,) = task.specs(train=False)
    inputs = batched(spec, card["batch"])
    twice = all(side == 1 for side in (card["batch"], *map_size(inputs["image"].shape[1:3], 3)))

    def predict(inputs: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        if not twice:
            return task.predict(apply, variables, inputs)
        found = task.predict(apply, variables, {name: jnp.tile(x, (2, 1, 1, 1)) for name, x in inputs.items()})
        return {name: value[:1] for name, value in found.items()}

    data = converted(predict, inputs)
    path.write_bytes(_with_card(data, json.dumps(card)))


def converted(function: Callable[..., Mapping[str, Any]], inputs: Mapping[str, Any]) -> bytes:
    """A function of {name: array} that gives {name: array} as a model, for inputs of these shapes and types."""
    from litert_converter import converter_api_ext as converter
    from litert_converter.mlir import ir, passmanager
    from litert_converter.mlir.dialects import stablehlo

    program = export.export(jax.jit(function), platforms=("cpu",))(inputs)
    context = ir.Context()
    converter.prepare_mlir_context(context)
    with context, ir.Location.unknown():
        module = stablehlo.deserialize_portable_artifact(context, program.mlir_module_serialized)
        outputs = [*jax.tree.unflatten(program.out_tree, program.out_avals)]
        converter.set_signature(module.operation, SIGNATURE, [*inputs], outputs)
        passes = passmanager.PassManager("builtin.module")
        try:
            converter.run_convert_to_tfl_passes(module, passes, converter.ConvertToTFLConfig())
            passes.run(module.operation)
        except Exception as error:  # its own kinds; the first line names an operator, the others our source
            why = str(error).partition("\n")[0].rpartition("error: ")[2].rstrip(".")
            raise ValueError(
                f"the converter of LiteRT fails at this network ({why}); export it to ONNX or StableHLO."
            ) from error
        data: bytes = converter.export_flatbuffer_to_bytes(module.operation)
    return data


def _with_card(data: bytes, card: str) -> bytes:
    """A model with the card among its metadata, which are named buffers."""
    import flatbuffers
    from litert_converter import schema_py_generated as schema

    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(data))
    buffer, metadata = schema.BufferT(), schema.MetadataT()
    buffer.data = np.frombuffer(card.encode(), np.uint8)
    metadata.name, metadata.buffer = KEY, len(model.buffers)
    model.buffers.append(buffer)
    model.metadata = [*(model.metadata or []), metadata]
    builder = flatbuffers.Builder(len(data) + len(card))
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def opened(path: Path) -> tuple[dict[str, Any] | None, str, Any]:
    """(the card or None, the runtime's name, {name: (n, ...)} -> {name: (n, ...)})."""
    from importlib.metadata import version

    from ai_edge_litert.interpreter import Interpreter

    data = path.read_bytes()
    interpreter = Interpreter(model_content=data)
    network = interpreter.get_signature_runner(SIGNATURE)

    def run(inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {name: np.array(value) for name, value in network(**inputs).items()}

    return _card_of(data), f"ai_edge_litert {version('ai-edge-litert')}", run


def _card_of(data: bytes) -> dict[str, Any] | None:
    from ai_edge_litert import schema_py_generated as schema

    model = schema.Model.GetRootAs(data)
    for entry in (model.Metadata(i) for i in range(model.MetadataLength())):
        if entry.Name().decode() == KEY:
            return json.loads(model.Buffers(entry.Buffer()).DataAsNumpy().tobytes())
    return None
