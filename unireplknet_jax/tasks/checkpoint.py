"""Checkpoints of any origin as (task, variables): official PyTorch files and directories of ours, in and out."""

import dataclasses
import logging
import os
import pathlib
import platform
from collections.abc import Mapping
from typing import Any

import flax
import jax
import jax.numpy as jnp
import numpy as np

from unireplknet_jax import __version__
from unireplknet_jax.data.label_names import read_labels
from unireplknet_jax.models import directory, torch_archive, torch_names, zoo
from unireplknet_jax.models.program import announced
from unireplknet_jax.models.reparameterize import has_blocks, reparameterize
from unireplknet_jax.tasks.base import get_task
from unireplknet_jax.tasks.fit import fit_channels, fit_classes, fit_trunk
from unireplknet_jax.tasks.names import names_of_task, task_of_file, task_of_variables

_log = logging.getLogger(__name__)
KEEP = "keep"


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """A task, the variables of its network and whether they are in merged form; `data` names what it was trained on."""

    task: Any
    variables: Mapping[str, Any]
    merged: bool
    data: Mapping[str, Any] | None = None
    source: str | None = None

    @property
    def module(self):
        return self.task.module(deploy=self.merged)

    def in_merged_form(self):
        """The checkpoint in inference form: itself if it is in it already, or if it has no block to merge."""
        if self.merged or not has_blocks(self.variables):
            return self
        return dataclasses.replace(self, variables=reparameterize(self.variables), merged=True)


def load_checkpoint(path, *, num_classes=KEEP, in_chans=KEEP, ema=False, dtype=None, options=None):
    """(model, variables) of an official `.pth` or `.safetensors` file or of a checkpoint directory of ours.

    Sizes, kernels, classes, channels and form are read off the tensors; neither torch nor anything named in the file is
    needed or run. num_classes: another number of classes gets a fresh classifier, None drops it; in_chans: the stem's
    input channels are summed (1) or repeated and rescaled (others). What was dropped or summed is logged. ema: take the
    file's `model_ema`. dtype: storage dtype of the returned floating-point arrays, None: as in the file. options: those
    of the file's task, {name: value}, that leave no trace in a PyTorch file (attention heads, say).
    Raises ValueError with one sentence that lists every missing, unexpected and mis-shaped tensor.
    """
    checkpoint = open_checkpoint(
        path, num_classes=num_classes, in_chans=in_chans, ema=ema, dtype=dtype, options=options
    )
    return checkpoint.module, checkpoint.variables


def load_pretrained(name, tag, **options):
    """(model, variables) of a published file, `load_pretrained("unireplknet_s", "in22k_ft_in1k_384")`.

    Downloaded once from the Hugging Face repository of the authors (`models.zoo`); options as in `load_checkpoint`.
    """
    return load_checkpoint(zoo.download(zoo.find_weights(name, tag)), **options)


def open_checkpoint(path, *, num_classes=KEEP, in_chans=KEEP, ema=False, dtype=None, task=None, options=None):
    """As `load_checkpoint`, but a `Checkpoint`: the task with preprocessing and labels besides.

    task: what an official file is for, where its tensors fit several tasks; None: the first that they fit.
    """
    path = pathlib.Path(path)
    if dtype is not None and not jnp.issubdtype(dtype, jnp.floating):
        raise ValueError(f"dtype must be a floating-point type, but is {dtype}.")
    if not path.exists():
        raise ValueError(f"{path} does not exist.")
    with announced(f"reading {path}"):
        return _open(path, num_classes, in_chans, ema, dtype, task, options)


def _open(path, num_classes, in_chans, ema, dtype, task, options):
    if path.is_dir():
        if ema:
            raise ValueError(f"{path} is a checkpoint of ours and holds one set of weights: ema applies to .pth files.")
        if task is not None:
            raise ValueError(f"{path} is a checkpoint of ours and says its task: name one for .pth files alone.")
        if options:
            raise ValueError(f"{path} is a checkpoint of ours and says its options: give some for .pth files alone.")
        checkpoint = _open_directory(path)
    else:
        checkpoint = _open_torch(path, ema, task, options or {})
    if num_classes != KEEP:
        checkpoint = fit_classes(checkpoint, num_classes)
    if in_chans != KEEP:
        checkpoint = fit_channels(checkpoint, in_chans)

    variables = checkpoint.variables
    if dtype is not None:
        with np.errstate(over="ignore"):  # what a narrower dtype makes infinite is reported by name
            variables = jax.tree.map(lambda x: np.asarray(x).astype(dtype), variables)
    _report_non_finite(path, variables)
    # JAX would narrow float64 without a word: such a file stays with NumPy until a dtype is named.
    if dtype is not None or all(leaf.dtype != np.float64 for leaf in jax.tree.leaves(variables)):
        variables = jax.device_put(variables)
    return dataclasses.replace(checkpoint, variables=variables)


def initial_variables(task, path):
    """A checkpoint's variables to start training a task from: fitted to its classes and channels, float32.

    path: a checkpoint, or the name of a published file, which is downloaded if it is not there. A fresh classifier is
    scaled by the task's `head_init_scale`; a kept one is not.
    Raises ValueError if the checkpoint is merged or its network is not the task's.
    """
    module = task.module()
    published = zoo.weights_of_file(path)
    if published and not os.path.exists(path):
        path = zoo.download(published)
    checkpoint = open_checkpoint(path, dtype=jnp.float32)
    if checkpoint.merged:
        raise ValueError(f"{path} is in merged form, which cannot be trained: start from its training form.")
    if hasattr(module, "backbone"):
        variables = fit_trunk(checkpoint, task)
    else:
        model = dict(checkpoint.task.model) | {"head_init_scale": module.head_init_scale}
        checkpoint = dataclasses.replace(checkpoint, task=dataclasses.replace(checkpoint.task, model=model))
        variables = fit_classes(fit_channels(checkpoint, module.in_chans), module.num_classes).variables
    table = task.name_table()
    differences = torch_names.differences(table, torch_names.shapes_by_name(table, variables))
    if differences:
        raise ValueError(f"{path} holds another network than the recipe asks for: {differences}.")
    return variables


def save_checkpoint(path, checkpoint, overwrite=False):
    """Write a `Checkpoint` as a directory of ours: card.json and an Orbax tree."""
    card = {
        "task": checkpoint.task.name,
        "options": checkpoint.task.options,
        "labels": checkpoint.task.labels,
        "form": "merged" if checkpoint.merged else "training",
        "data": checkpoint.data,
        "source": checkpoint.source,
        "versions": {
            "unireplknet_jax": __version__,
            "jax": jax.__version__,
            "flax": flax.__version__,
            "python": platform.python_version(),
        },
    }
    directory.write_directory(path, checkpoint.variables, card, overwrite)


def save_torch_checkpoint(path, variables, overwrite=False):
    """Write a network's variables, either form, for the original PyTorch code to load strictly.

    path ends in .pth (`{"model": state dict}`) or .safetensors. Storage dtypes are kept; the batch counters
    (`num_batches_tracked`), which we do not keep, are written as 0. Raises ValueError for a tree that is not a
    UniRepLKNet's and FileExistsError if the path exists, unless `overwrite`.
    """
    if not hasattr(variables, "items") or "params" not in variables:
        raise ValueError('variables must be a dict with "params" and, in training form, "batch_stats".')
    if "prepared" in variables:
        raise ValueError('prepared kernels have no place in a PyTorch checkpoint: leave out the collection "prepared".')
    name, table = task_of_variables(variables)
    if name is None:
        raise ValueError("these variables are not those of a UniRepLKNet, so they have no official PyTorch names.")
    shapes = {tensor: entry.shape for tensor, entry in table.items()}
    options, merged = names_of_task(name).options(shapes)
    differences = torch_names.differences(get_task(name, **options).name_table(merged), shapes)
    if differences:
        raise ValueError(f"these variables are not a whole UniRepLKNet: {differences}.")
    if os.path.exists(path) and not overwrite:
        raise FileExistsError(
            f"{path} exists already; remove it, choose another name, or ask for it to be overwritten."
        )
    flat = flax.traverse_util.flatten_dict(variables)
    arrays = {tensor: torch_names.to_torch(entry, np.asarray(flat[entry.path])) for tensor, entry in table.items()}
    arrays |= {tensor: np.zeros((), np.int64) for tensor in torch_names.counters(table)}
    arrays |= {alias: arrays[tensor] for alias, tensor in names_of_task(name).aliases(table).items()}
    torch_archive.write_state_dict(path, arrays)


def _open_directory(path):
    variables, card = directory.read_directory(path)
    try:
        task = get_task(card["task"], labels=tuple(card["labels"]), **card["options"])
        if card["form"] not in ("training", "merged"):
            raise ValueError(f"its form is {card['form']!r}, not training or merged.")
        data = card.get("data")
        if data is not None and not (isinstance(data, dict) and "name" in data):
            raise ValueError(f"its data is {data!r}, not an object with a name.")
        merged = card["form"] == "merged"
        table = task.name_table(merged)
    except (KeyError, TypeError, ValueError) as error:
        why = f"there is no {error} in it" if isinstance(error, KeyError) else error
        raise ValueError(f"the {directory.CARD} of {path} is damaged or of another version: {why}") from None
    differences = torch_names.differences(table, torch_names.shapes_by_name(table, variables))
    if differences:
        raise ValueError(f"the variables in {path} do not fit its {directory.CARD}: {differences}.")
    return Checkpoint(task, variables, merged, data, card.get("source"))


def _open_torch(path, ema, name, options):
    state, notes = torch_archive.read_state_dict(path, ema)
    for note in notes:
        _log.warning("%s: %s", path, note)
    shapes = {name: getattr(value, "shape", None) for name, value in state.items()}
    opaque = [name for name, shape in shapes.items() if shape is None]
    if opaque:
        raise ValueError(
            f"{path} is refused: {', '.join(opaque)} can only be built by running code that the file names "
            f"({', '.join(sorted({state[name].name for name in opaque}))})."
        )
    found = task_of_file(shapes)
    if found is None:
        some = ", ".join(list(shapes)[:5])
        raise ValueError(
            f"{path} is not a UniRepLKNet checkpoint: it has no tensors below stages.0 (it has {some}, ...)."
        )
    try:
        names = names_of_task(name or found)
        state = _canonical(names, state)
        shapes = {tensor: value.shape for tensor, value in state.items()}
        told, merged = names.options(shapes)
        task = get_task(name or found, **told)
        task = dataclasses.replace(task, **_adopted(task, options))
        table = task.name_table(merged)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    differences = torch_names.differences(table, shapes)
    if differences:
        raise ValueError(f"{path} does not fit a UniRepLKNet: {differences}.")
    integers = [name for name in table if not jnp.issubdtype(state[name].dtype, jnp.floating)]
    if integers:
        raise ValueError(f"{path} is refused: {', '.join(integers)} are not floating-point (a quantized network?).")
    arrays = {entry.path: torch_names.from_torch(entry, state[name].numpy()) for name, entry in table.items()}
    variables = flax.traverse_util.unflatten_dict(arrays)
    return Checkpoint(_with_zoo_facts(task, path), variables, merged, source=path.name)


def _canonical(names, state):
    """A state dict {name: tensor} under the names of the task alone; ValueError where two names mean one tensor and
    the tensors differ.
    """
    found, without_use = {}, []
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


def _adopted(task, options):
    """Options for `dataclasses.replace`; those that are mappings add to the task's own. ValueError for unknown ones."""
    unknown = sorted({*options} - {*task.options})
    if unknown:
        raise ValueError(f"the task {task.name} has no options {', '.join(unknown)}; it has {', '.join(task.options)}.")
    return {
        name: {**task.options[name], **value} if isinstance(value, Mapping) else value
        for name, value in options.items()
    }


def _with_zoo_facts(task, path):
    """The published preprocessing and labels, if the file has a published name and the classes and channels with it."""
    weights = zoo.weights_of_file(path)
    network = task.module() if weights else None
    if weights and (network.num_classes, network.in_chans) == (weights.num_classes, len(weights.mean)):
        labels = read_labels(weights.label_names)
        facts = {"image_size": weights.image_size, "resize": weights.resize, "mean": weights.mean, "std": weights.std}
        return dataclasses.replace(task, labels=labels, **facts)
    return task


def _report_non_finite(path, variables):
    flat = flax.traverse_util.flatten_dict(variables, sep="/")
    bad = [name for name, leaf in flat.items() if not np.all(np.isfinite(np.asarray(leaf, np.float32)))]
    if bad:
        _log.warning("%s: non-finite values in %s", path, ", ".join(bad))
