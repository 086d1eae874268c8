"""Files for PyTorch as (task, variables): which task their tensors belong to, under which names, of which options."""

import dataclasses
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import flax
import jax.numpy as jnp
import numpy as np

from unireplknet_jax.data.base import listed
from unireplknet_jax.data.label_names import read_labels
from unireplknet_jax.models import torch_archive, torch_names, zoo
from unireplknet_jax.models.torch_archive import Placeholder, StoredTensor
from unireplknet_jax.tasks.base import Task, get_task
from unireplknet_jax.tasks.names import Names, names_of_task, task_of_file

_log = logging.getLogger(__name__)
# Of DistributedDataParallel and AveragedModel, torch.compile, Lightning, MMDetection and MMSegmentation, and others.
_WRAPPERS = ("module.", "_orig_mod.", "model.", "backbone.", "net.", "network.", "encoder.")
_COUNTERS = ("total_ops", "total_params", "n_averaged")  # of thop and AveragedModel


def read_tensors(path: Path, ema: bool = False, prefix: str = "") -> dict[str, StoredTensor]:
    """The state dict {name: tensor} in a file for PyTorch; ValueError where a tensor is more than numbers."""
    state, notes = torch_archive.read_state_dict(path, ema, prefix)
    for note in notes:
        _log.warning("%s: %s", path, note)
    unknown = {
        name: value.name.partition(".")[2]
        for name, value in state.items()
        if isinstance(value, Placeholder) and value.name.startswith("safetensors.")
    }
    if unknown:
        kinds = ", ".join(sorted({*unknown.values()}))
        raise ValueError(f"{path} is refused: {listed([*unknown])} are of {kinds}, which is not read: save as float32.")
    opaque = {name: value.name for name, value in state.items() if isinstance(value, Placeholder)}
    if opaque:
        raise ValueError(
            f"{path} is refused: {listed([*opaque])} can only be built by running code that the file names "
            f"({', '.join(sorted({*opaque.values()}))})."
        )
    return {name: value for name, value in state.items() if isinstance(value, StoredTensor)}


def unwrapped(state: Mapping[str, StoredTensor]) -> dict[str, StoredTensor]:
    """A state dict without what was around the network: prefixes that wrappers give names, and counters of profilers.

    Tensors beside a network with a prefix (a decoder's beside "backbone.") are left out. Where the prefixes are and
    what was left out is logged; names that are no task's with any prefix removed stay as they are.
    """
    inner = {name: tensor for name, tensor in state.items() if name.rpartition(".")[2] not in _COUNTERS}
    found, prefix, aside = inner, "", []
    while task_of_file({name: tensor.shape for name, tensor in found.items()}) is None:
        wrapper = next((w for w in _WRAPPERS if any(n.startswith(w) and ".stages.0." in n for n in found)), None)
        if wrapper is None:
            return inner
        aside += [prefix + name for name in found if not name.startswith(wrapper)]
        found = {name.removeprefix(wrapper): tensor for name, tensor in found.items() if name.startswith(wrapper)}
        prefix += wrapper
    if prefix:
        _log.warning("the network is below %s%s", prefix, f"; left out: {listed(aside)}" if aside else "")
    return found


def variables_of(
    path: Path, state: Mapping[str, StoredTensor], table: Mapping[str, torch_names.Entry], misfit: str
) -> dict[str, Any]:
    """The variables of a table of names; ValueError, which begins with `misfit`, for other tensors than these."""
    differences = torch_names.differences(table, {tensor: value.shape for tensor, value in state.items()})
    if differences:
        raise ValueError(f"{misfit}: {differences}.")
    integers = [name for name in table if not jnp.issubdtype(state[name].dtype, jnp.floating)]
    if integers:
        raise ValueError(f"{path} is refused: {listed(integers)} are not floating-point (a quantized network?).")
    arrays = {entry.path: torch_names.from_torch(entry, state[name].numpy()) for name, entry in table.items()}
    return flax.traverse_util.unflatten_dict(arrays)


def open_torch(
    path: Path, ema: bool, name: str | None, options: Mapping[str, Any], prefix: str = ""
) -> tuple[Task, dict[str, Any], bool]:
    """(task, variables, whether they are in merged form) of a file for PyTorch.

    name: of the task, None: the first that the tensors fit. options: of the task, that leave no trace in the file.
    prefix: of the tensors' names that alone are taken.
    Raises ValueError, one sentence, that lists every missing, unexpected and mis-shaped tensor.
    """
    state = unwrapped(read_tensors(path, ema, prefix))
    shapes = {tensor: value.shape for tensor, value in state.items()}
    found = task_of_file(shapes)
    if found is None:
        some = ", ".join(list(shapes)[:5])
        raise ValueError(
            f"{path} is not a UniRepLKNet checkpoint: it has no tensors below stages.0 (it has {some}, ...)"
            f"{torch_archive.networks_below(state)}."
        )
    try:
        names = names_of_task(name or found)
        state = canonical(names, state)
        shapes = {tensor: value.shape for tensor, value in state.items()}
        told, merged = names.options(shapes)
        meta = _meta_of(path)
        prepared = names.prepared_for(path.name, meta)
        model = {"model": told["model"] | prepared.get("model", {})}
        told |= _fitting(names.told_by(meta), told) | prepared | model
        task = get_task(name or found, **told)
        task = dataclasses.replace(task, **_adopted(task, options))
        table = task.name_table(merged)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    variables = variables_of(path, state, table, f"{path} does not fit a UniRepLKNet")
    return _with_zoo_facts(task, path), variables, merged


def preparation_told(names: Names, path: Path) -> dict[str, Any]:
    """The task's options for how inputs are prepared that a file for PyTorch tells, {} for none."""
    return names.prepared_for(path.name, _meta_of(path))


def _meta_of(path: Path) -> dict[str, Any]:
    return {} if path.suffix.lower() == ".safetensors" else torch_archive.read_meta(path)


def _fitting(told: dict[str, Any], options: Mapping[str, Any]) -> dict[str, Any]:
    """What a file says of its classes, if they are as many as the network's."""
    return told if len(told.get("labels", ())) == options["model"].get("num_classes") else {}


def canonical(names: Names, state: Mapping[str, StoredTensor]) -> dict[str, StoredTensor]:
    """A state dict {name: tensor} under the names of the task alone; ValueError where two names mean one tensor and
    the tensors differ.
    """
    found: dict[str, StoredTensor] = {}
    without_use = []
    for name, tensor in state.items():
        own = names.canonical(name)
        if own is None:
            without_use.append(name)
        elif own in found and not np.array_equal(found[own].numpy(), tensor.numpy(), equal_nan=True):
            raise ValueError(f"{name} and {own} are the same tensor in the original, but differ here.")
        else:
            found.setdefault(own, tensor)
    if without_use:
        _log.warning("without use and left out: %s", ", ".join(without_use))
    return found


def _adopted(task: Task, options: Mapping[str, Any]) -> dict[str, Any]:
    """Options for `dataclasses.replace`; those that are mappings add to the task's own. ValueError for unknown ones."""
    unknown = sorted({*options} - {*task.options})
    if unknown:
        raise ValueError(f"the task {task.name} has no options {', '.join(unknown)}; it has {', '.join(task.options)}.")
    return {
        name: {**task.options[name], **value} if isinstance(value, Mapping) else value
        for name, value in options.items()
    }


def _with_zoo_facts(task: Any, path: Path) -> Task:
    """The published preprocessing and labels, if the file has a published name and the classes and channels with it."""
    weights = zoo.weights_of_file(path)
    if weights is None:
        return task
    network = task.module()
    if (network.num_classes, network.in_chans) == (weights.num_classes, len(weights.mean)):
        labels = read_labels(weights.label_names)
        facts = {"image_size": weights.image_size, "resize": weights.resize, "mean": weights.mean, "std": weights.std}
        return dataclasses.replace(task, labels=labels, **{n: facts[n] for n in facts if n in task.options})
    return task
