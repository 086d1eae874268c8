"""Checkpoints from one place and form to another: where they may be written, as what, and what is in them."""

import dataclasses
import os
from pathlib import Path
from typing import Any

import flax
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from unireplknet_jax.models import directory, torch_names
from unireplknet_jax.models.complexity import count_parameters
from unireplknet_jax.models.reparameterize import merge_error, reparameterize
from unireplknet_jax.models.shapes import trunk_of
from unireplknet_jax.models.variants import VARIANTS
from unireplknet_jax.tasks.checkpoint import Checkpoint, save_checkpoint, save_torch_checkpoint

TORCH_SUFFIXES = (".pth", ".safetensors")


def is_torch(destination: str | os.PathLike[str]) -> bool:
    """Whether a name stands for a file for PyTorch."""
    return Path(destination).suffix.lower() in TORCH_SUFFIXES


def check_destination(
    source: str | os.PathLike[str], destination: str | os.PathLike[str], overwrite: bool = False
) -> None:
    """Raise FileExistsError or ValueError if `destination` may not be written, before the source costs any time.

    A name that ends in .pth or .safetensors is a file for PyTorch, any other a directory of ours.
    """
    source, destination = Path(source), Path(destination)
    there, here = destination.resolve(), source.resolve()
    if there == here or there in here.parents or here in there.parents:
        raise ValueError(f"{destination} is, holds or lies in the source {source}; choose another destination.")
    if destination.suffix in (".pt", ".bin", ".ckpt"):
        raise ValueError(f"{destination} would become a directory; end its name in .pth or .safetensors for PyTorch.")
    if not is_torch(destination):
        directory.check_destination(destination, overwrite)
    elif destination.is_dir():
        raise FileExistsError(f"{destination} is a directory and not a {destination.suffix} file; choose another name.")
    elif not destination.parent.is_dir():
        raise FileNotFoundError(f"the folder {destination.parent} does not exist; create it first.")
    elif destination.exists() and not overwrite:
        raise FileExistsError(f"{destination} exists already; remove it, choose another name, or give --overwrite.")


def write_checkpoint(destination: str | os.PathLike[str], checkpoint: Checkpoint, overwrite: bool = False) -> None:
    """Write a `Checkpoint` as `check_destination` says, whole or not at all."""
    if is_torch(destination):
        save_torch_checkpoint(destination, checkpoint.variables, overwrite, checkpoint.task.torch_meta)
    else:
        save_checkpoint(destination, checkpoint, overwrite)


def cast(checkpoint: Checkpoint, dtype: DTypeLike) -> Checkpoint:
    """The checkpoint with its floating-point tensors stored as `dtype`; ValueError if some do not fit into it."""
    before = flax.traverse_util.flatten_dict(jax.device_get(checkpoint.variables))
    with np.errstate(over="ignore"):
        after = {path: leaf.astype(jnp.dtype(dtype)) for path, leaf in before.items()}
    lost = ["/".join(path) for path, leaf in after.items() if np.any(np.isfinite(before[path]) & ~np.isfinite(leaf))]
    if lost:
        largest = jnp.finfo(dtype).max
        raise ValueError(f"values beyond {dtype}'s largest, {largest}, are in {', '.join(lost)}; choose bfloat16.")
    return dataclasses.replace(checkpoint, variables=flax.traverse_util.unflatten_dict(after))


def merge(checkpoint: Checkpoint, tolerance: float, seed: int = 0, examples: int = 2) -> tuple[Checkpoint, float]:
    """(the checkpoint in merged form, the largest difference that makes, relative to the largest output).

    The difference is over all outputs on random input of the network, of the size that the task hands to it. Raises
    ValueError if it exceeds the tolerance or the checkpoint is merged already.
    """
    merged = reparameterize(checkpoint.variables)
    shapes = checkpoint.task.input_shapes(examples)
    keys = jax.random.split(jax.random.key(seed), len(shapes))
    inputs = [jax.random.normal(key, leaf.shape) for key, leaf in zip(keys, shapes, strict=True)]
    error = merge_error(checkpoint.module, checkpoint.variables, merged, *inputs)
    if not error <= tolerance:
        raise ValueError(
            f"on random input the merged form differs from the training form by {error:.2g} of the largest output, "
            f"which exceeds the tolerance of {tolerance:g}; nothing was written."
        )
    return dataclasses.replace(checkpoint, variables=merged, merged=True), error


def describe(checkpoint: Checkpoint) -> dict[str, Any]:
    """{name: value} of what a person wants to know about a checkpoint."""
    module, leaves = checkpoint.module, jax.tree.leaves(checkpoint.variables)
    trunk = trunk_of(module)
    sizes = {"depths": trunk.depths, "dims": trunk.dims, "kernel_sizes": trunk.kernel_sizes}
    same = [name for name, variant in VARIANTS.items() if dataclasses.asdict(variant) == sizes]
    return {
        "form": "merged" if checkpoint.merged else "training",
        "model": same[0] if same else "a UniRepLKNet of no published size",
        "depths": trunk.depths,
        "dims": trunk.dims,
        "classes": getattr(module, "num_classes", None),
        "channels": module.in_chans,
        "tensors": len(leaves),
        "counters": len(torch_names.counters(torch_names.name_table(checkpoint.variables))),
        "parameters": count_parameters(checkpoint.variables),
        "dtype": "+".join(sorted({leaf.dtype.name for leaf in leaves})),
    }
