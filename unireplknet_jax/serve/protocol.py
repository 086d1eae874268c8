"""The Open Inference Protocol, version 2, as KServe and Triton speak it: JSON, and Triton's binary tensors behind it.

Sources: specification/protocol of github.com/kserve/open-inference-protocol, and
docs/protocol/extension_binary_data.md of github.com/triton-inference-server/server.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from reprlib import repr as shortened
from typing import Any, NamedTuple

import numpy as np

from unireplknet_jax.data.base import finite
from unireplknet_jax.serve.bodies import document_of
from unireplknet_jax.serve.model import Model
from unireplknet_jax.serve.refusal import Refusal
from unireplknet_jax.tasks.base import Example

HEADER_LENGTH = "Inference-Header-Content-Length"
VERSION = "1"
_DIGITS = 18  # of a number of bytes
_TYPES = {
    **{"bool": "BOOL", "uint8": "UINT8", "uint16": "UINT16", "uint32": "UINT32", "uint64": "UINT64"},
    **{"int8": "INT8", "int16": "INT16", "int32": "INT32", "int64": "INT64"},
    **{"float16": "FP16", "float32": "FP32", "float64": "FP64"},
}


class Call(NamedTuple):
    """What a request for inference asks: the examples, and of each wanted output whether it is to be binary."""

    examples: list[Example]
    outputs: dict[str, bool]
    name: Any


def model_metadata(model: Model) -> dict[str, Any]:
    """The names, types and shapes of what a model takes and gives; -1 is the batch, and a side that may differ."""
    kinds = [*model.programs.kinds.values()]
    inputs = [
        _tensor(name, leaf.dtype, _common([kind[name].shape for kind in kinds]))
        for name, leaf in model.programs.inputs.items()
    ]
    outputs = [_tensor(name, dtype, shape) for name, (shape, dtype) in model.programs.outputs.items()]
    return {
        **{"name": model.name, "versions": [VERSION], "platform": "unireplknet_jax"},
        **{"inputs": inputs, "outputs": outputs},
    }


def _common(shapes: list[tuple[int, ...]]) -> list[int]:
    return [sides[0] if len({*sides}) == 1 else -1 for sides in zip(*shapes, strict=True)]


def _tensor(name: str, dtype: Any, shape: Any) -> dict[str, Any]:
    return {"name": name, "datatype": _type_of(np.dtype(dtype)), "shape": [-1, *shape]}


def _type_of(dtype: np.dtype[Any]) -> str:
    return _TYPES.get(dtype.name, "FP32")  # bfloat16 goes out as float32


def read_call(body: bytes, header_length: str | None, model: Model, most: int) -> Call:
    """A request for inference; Refusal (400) for what is none, (413) for a batch of more than `most` examples.

    header_length: of the JSON before the binary tensors, as the header says it; None where all is JSON.
    """
    if header_length is None:
        header, blobs = body, b""
    elif header_length.isdecimal() and len(header_length) <= _DIGITS and int(header_length) <= len(body):
        header, blobs = body[: int(header_length)], body[int(header_length) :]
    else:
        raise Refusal(
            400, f"{HEADER_LENGTH} is {shortened(header_length)}; expected how many of the body's bytes are JSON."
        )
    document = document_of(header)
    if not isinstance(document, dict) or not isinstance(document.get("inputs"), list):
        raise Refusal(400, "the document has no list of inputs, which the protocol asks for.")
    arrays = dict(_arrays(document["inputs"], blobs, model, most))
    return Call(_examples(arrays, model), _wanted(document, model), document.get("id"))


def _arrays(inputs: list[Any], blobs: bytes, model: Model, most: int) -> Iterator[tuple[str, np.ndarray]]:
    """(name, array) of every input; the binary ones lie one after the other in `blobs`."""
    start = 0
    for given in inputs:
        name = given.get("name") if isinstance(given, dict) else None
        if not isinstance(name, str) or name not in model.programs.inputs:
            expected = ", ".join(model.programs.inputs)
            raise Refusal(400, f"the model {model.name} has no input {shortened(name)}; expected {expected}.")
        leaf = model.programs.inputs[name]
        shape, parameters = given.get("shape"), given.get("parameters") or {}
        dtype = np.dtype(leaf.dtype)
        if given.get("datatype") != _type_of(dtype):
            raise Refusal(
                400, f"the input {name} is of {shortened(given.get('datatype'))}; expected {_type_of(dtype)}."
            )
        if not (isinstance(shape, list) and all(type(side) is int and side >= 0 for side in shape)):
            raise Refusal(
                400, f"the shape of the input {name} is {shortened(shape)}; expected a list of whole numbers."
            )
        if shape and tuple(shape[1:]) not in [kind[name].shape for kind in model.programs.kinds.values()]:
            raise _of_other_shapes([shape[1:]], model)
        if shape and shape[0] > most:
            raise Refusal(413, f"the batch has {shortened(shape[0])} examples; this server takes {most:,} at most.")
        size = parameters.get("binary_data_size") if isinstance(parameters, dict) else None
        if size is None:
            yield name, _from_json(name, given.get("data"), dtype, shape)
            continue
        stop = start + size if type(size) is int and size >= 0 else len(blobs) + 1
        if stop > len(blobs) or stop - start != dtype.itemsize * math.prod(shape):
            raise Refusal(400, f"the input {name} has not as many bytes as its shape {shape} needs.")
        yield name, np.frombuffer(blobs[start:stop], dtype).reshape(shape)
        start = stop


def _from_json(name: str, data: Any, dtype: np.dtype[Any], shape: list[int]) -> np.ndarray:
    """Nested or flat lists as an array; Refusal (400) for what is no list of such numbers."""
    wrong = Refusal(400, f"the data of the input {name} are no {math.prod(shape):,} numbers of {_type_of(dtype)}.")
    if not isinstance(data, list):
        raise wrong
    try:
        found = np.array(data)
        with np.errstate(invalid="ignore"):  # NaN as a whole number, which is refused below
            same = found.astype(dtype)
    except (ValueError, TypeError, OverflowError, RecursionError) as error:
        raise wrong from error
    if found.dtype.kind not in "iufb" or found.size != math.prod(shape):
        raise wrong
    if dtype.kind in "iub" and not np.array_equal(found, same):
        raise wrong
    return same.reshape(shape)


def _examples(arrays: Mapping[str, np.ndarray], model: Model) -> list[Example]:
    missing = [name for name in model.programs.inputs if name not in arrays]
    if missing:
        raise Refusal(400, f"the input {missing[0]} is missing, which the model {model.name} needs.")
    counts = {len(array) if array.ndim else 0 for array in arrays.values()}
    if len(counts) > 1 or counts == {0}:
        raise Refusal(400, "the inputs are no batch: their first sides differ, or are 0.")
    kind = tuple(arrays[name].shape[1:] for name in model.programs.inputs)
    if kind not in model.programs.kinds:
        raise _of_other_shapes([*map(list, kind)], model)
    (count,) = counts
    return [{name: array[row] for name, array in arrays.items()} for row in range(count)]


def _of_other_shapes(shapes: list[list[int]], model: Model) -> Refusal:
    expected = " or ".join(str(tuple(map(list, known))) for known in model.programs.kinds)
    return Refusal(400, f"the examples have the shapes {shortened(shapes)}; expected {expected}.")


def _wanted(document: Mapping[str, Any], model: Model) -> dict[str, bool]:
    """{name of a wanted output: whether it is to be binary}; all where none is named."""
    parameters = document.get("parameters") or {}
    default = isinstance(parameters, dict) and bool(parameters.get("binary_data_output", False))
    wanted = document.get("outputs") or [{"name": name} for name in model.programs.outputs]
    found = {}
    for each in wanted if isinstance(wanted, list) else [wanted]:
        name = each.get("name") if isinstance(each, dict) else each
        if not isinstance(name, str) or name not in model.programs.outputs:
            expected = ", ".join(model.programs.outputs)
            raise Refusal(400, f"the model {model.name} has no output {shortened(name)}; expected {expected}.")
        own = each.get("parameters") if isinstance(each, dict) else None
        own = own if isinstance(own, dict) else {}
        if "classification" in own:
            raise Refusal(400, "outputs as classifications are not given; `/predict` names classes.")
        found[name] = bool(own.get("binary_data", default))
    return found


def write_answer(call: Call, predictions: list[dict[str, np.ndarray]], model: Model) -> tuple[bytes, dict[str, str]]:
    """(the body of the answer, its headers)."""
    outputs: list[dict[str, Any]] = []
    blobs: list[bytes] = []
    for name, binary in call.outputs.items():
        array = np.stack([pred[name] for pred in predictions])
        if array.dtype.name not in _TYPES:
            array = array.astype(np.float32)
        row: dict[str, Any] = {"name": name, "datatype": _type_of(array.dtype), "shape": [*array.shape]}
        if binary:
            blobs.append(np.ascontiguousarray(array).tobytes())
            row["parameters"] = {"binary_data_size": len(blobs[-1])}
        else:
            row["data"] = finite(array.ravel().tolist())
        outputs.append(row)
    document = {"model_name": model.name, "model_version": VERSION, "outputs": outputs}
    if call.name is not None:
        document["id"] = call.name
    header = json.dumps(document).encode()
    if not blobs:
        return header, {"Content-Type": "application/json"}
    return b"".join([header, *blobs]), {"Content-Type": "application/octet-stream", HEADER_LENGTH: str(len(header))}
