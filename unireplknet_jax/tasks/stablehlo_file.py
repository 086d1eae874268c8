"""StableHLO: the programs of `jax.export` and their weights in one file, which any environment with jax can run.

The file is a .npz as `numpy.load` reads it: the card, a program for each kind of example, and the weights by name.
"""

from __future__ import annotations

import json
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import flax
import jax
import jax.numpy as jnp
import numpy as np
from jax import export

from unireplknet_jax.models.directory import CARD
from unireplknet_jax.models.program import AheadOfTime
from unireplknet_jax.ops.batch import SMALL
from unireplknet_jax.tasks.artefact import kind_of
from unireplknet_jax.tasks.base import Spec

PLATFORMS = ("cpu", "cuda", "tpu")


def write(path: Path, checkpoint: Any, card: Mapping[str, Any], half: bool = False) -> None:
    """Write a merged checkpoint as programs for every kind of example of its task, each for all of `PLATFORMS` and any
    number of examples; half: large weights are stored as float16.
    """
    task, module = checkpoint.task, checkpoint.module
    weights = flax.traverse_util.flatten_dict(jax.device_get(checkpoint.variables), sep="/")
    stored = {name: stored_as(value, half) for name, value in weights.items()}

    def predict(weights: Mapping[str, jax.Array], inputs: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        whole = {name: jnp.asarray(value, jnp.float32) for name, value in weights.items()}
        return task.predict(module.apply, flax.traverse_util.unflatten_dict(whole, sep="/"), inputs)

    shapes = {name: jax.ShapeDtypeStruct(value.shape, value.dtype) for name, value in stored.items()}
    programs = [
        export.export(jax.jit(predict), platforms=PLATFORMS)(shapes, batched(spec)) for spec in task.specs(train=False)
    ]
    card = {
        **card,
        "weights": [*stored],
        "programs": [
            {"entry": f"program_{i}", "inputs": _described(program.in_tree, program.in_avals)}
            | {"outputs": _described(program.out_tree, program.out_avals)}
            for i, program in enumerate(programs)
        ],
    }
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as file:
        file.writestr(CARD, json.dumps(card, indent=2))
        for i, program in enumerate(programs):
            file.writestr(f"program_{i}", bytes(program.serialize()))
        file.compression = zipfile.ZIP_STORED  # what cannot be compressed is quicker to read so
        for name, value in stored.items():
            with file.open(f"{name}.npy", "w", force_zip64=True) as entry:
                np.lib.format.write_array(entry, np.ascontiguousarray(value), allow_pickle=False)


def stored_as(value: Any, half: bool) -> np.ndarray:
    """Weights as they are stored: float32, or, where they take much room, float16."""
    with np.errstate(over="ignore"):  # what becomes infinite is found by the comparison
        return np.asarray(value, np.float16 if half and np.size(value) >= SMALL else np.float32)


def batched(spec: Spec, batch: int | None = None) -> dict[str, jax.ShapeDtypeStruct]:
    """The shapes of a batch of examples; None: of any number of them."""
    rows = export.symbolic_shape("batch")[0] if batch is None else batch
    return {name: jax.ShapeDtypeStruct((rows, *leaf.shape), leaf.dtype) for name, leaf in spec.inputs.items()}


def _described(tree: Any, avals: Any) -> dict[str, Any]:
    """{name: {"dtype", "shape"}} of the last argument of a program, or of its results; -1 is any number."""
    found = jax.tree.unflatten(tree, avals)
    leaves = found[0][1] if isinstance(found, tuple) else found
    return {
        name: {"dtype": leaf.dtype.name, "shape": [side if isinstance(side, int) else -1 for side in leaf.shape]}
        for name, leaf in leaves.items()
    }


def opened(path: Path) -> tuple[dict[str, Any], str, Any]:
    """(the card, the runtime's name, {name: (n, ...)} -> {name: (n, ...)})."""
    with np.load(path) as file:
        card = json.loads(file[CARD])
        weights = {name: file[name] for name in card["weights"]}
        programs = {
            kind_of({name: leaf["shape"][1:] for name, leaf in one["inputs"].items()}): _compiled(file[one["entry"]])
            for one in card["programs"]
        }
    on_device: list[Any] = []

    def run(inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        if not on_device:
            on_device.append(jax.device_put(weights))
        program = programs[kind_of({name: value.shape[1:] for name, value in inputs.items()})]
        return jax.device_get(program(on_device[0], dict(inputs)))

    return card, f"jax {jax.__version__}", run


def _compiled(program: bytes) -> AheadOfTime:
    with warnings.catch_warnings():  # of a version that writes what this one still reads
        warnings.simplefilter("ignore", UserWarning)
        call = export.deserialize(bytearray(program)).call
    return AheadOfTime(jax.jit(call), "an exported network")
