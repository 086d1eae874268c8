"""Checkpoints of any origin as (task, variables): official PyTorch files and directories of ours, in and out."""

from __future__ import annotations

import dataclasses
import functools
import logging
import os
import pathlib
import platform
import re
from collections.abc import Mapping
from typing import Any, Final, Literal

import flax
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from unireplknet_jax import __version__
from unireplknet_jax.data.base import listed
from unireplknet_jax.models import directory, torch_archive, torch_names, zoo
from unireplknet_jax.models.program import announced
from unireplknet_jax.models.reparameterize import has_blocks, reparameterize
from unireplknet_jax.models.shapes import trunk_of
from unireplknet_jax.tasks.artefact import Runtime, format_of, open_artefact
from unireplknet_jax.tasks.base import Task, get_task
from unireplknet_jax.tasks.fit import fit_channels, fit_classes, fit_order, fit_trunk
from unireplknet_jax.tasks.names import names_of_task, task_of_variables
from unireplknet_jax.tasks.torch_files import canonical, open_torch, read_tensors, variables_of

_log = logging.getLogger(__name__)
KEEP: Final = "keep"


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """A task, the variables of its network and whether they are in merged form.

    data: what it was trained on; source: the file that it was converted from; path: where it was opened.
    runtime: of an artefact of `export` what computes in place of the network, of which there are no variables then.
    """

    task: Any
    variables: Mapping[str, Any]
    merged: bool
    data: Mapping[str, Any] | None = None
    source: str | None = None
    path: pathlib.Path | None = None
    runtime: Runtime | None = None

    @property
    def module(self) -> nn.Module:
        require_weights(self)
        return self.task.module(deploy=self.merged)

    @property
    def labels(self) -> tuple[str, ...]:
        """The names of the classes, or of the stations, in the order of the outputs; () where they are not known."""
        return self.task.labels

    @property
    def preprocessing(self) -> dict[str, Any]:
        """{option: value} of the task that say how an input is prepared for the network."""
        return {name: self.task.options[name] for name in self.task.preparation}

    @functools.cached_property
    def cache(self) -> dict[Any, Any]:
        """What was made of this checkpoint and may be used again: its merged form, compiled programs."""
        return {}

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "cache"}

    def in_merged_form(self) -> Checkpoint:
        """The checkpoint in inference form: itself if it is in it already, or if it has no block to merge."""
        if self.merged or not has_blocks(self.variables):
            return self
        return dataclasses.replace(self, variables=reparameterize(self.variables), merged=True)


def require_weights(checkpoint: Checkpoint) -> None:
    """Raise ValueError for an artefact of `export`, which is a program without variables of its own."""
    if checkpoint.runtime is not None:
        raise ValueError(
            f"{checkpoint.path or 'this'} is what `unireplknet export` wrote, which can predict and be evaluated; for "
            "anything else give the checkpoint that it was made of."
        )


def short_name(path: str | os.PathLike[str]) -> str:
    """What a network is called after its path or name: its file, or the run that wrote it."""
    parts = pathlib.PurePath(os.fspath(path).rstrip("/")).parts
    last = parts[-1] if parts else os.fspath(path)
    if last in ("best", "last") and len(parts) > 1:
        last = parts[-2]
    return re.sub(r"[^\w.-]+", "_", re.sub(r"\.(pth|safetensors|stablehlo|onnx|xml|tflite)$", "", last)).strip("._-")


def load_checkpoint(
    path: str | os.PathLike[str],
    *,
    num_classes: int | Literal["keep"] | None = KEEP,
    in_chans: int | Literal["keep"] = KEEP,
    ema: bool = False,
    prefix: str = "",
    dtype: DTypeLike | None = None,
    options: Mapping[str, Any] | None = None,
) -> tuple[nn.Module, Mapping[str, Any]]:
    """(model, variables) of an official `.pth` or `.safetensors` file or of a checkpoint directory of ours.

    path: where it lies, or a name as in `open_checkpoint`.
    Sizes, kernels, classes, channels and form are read off the tensors; neither torch nor anything named in the file is
    needed or run. num_classes: another number of classes gets a fresh classifier, None drops it; in_chans: the stem's
    input channels are summed (1) or repeated and rescaled (others). What was dropped or summed is logged. ema: take the
    file's `model_ema`. prefix: take what lies below it, "teacher.", of a file with several networks. dtype: storage
    dtype of the returned floating-point arrays, None: as in the file. options: those of the file's task, {name: value},
    that leave no trace in a PyTorch file (attention heads, say).
    Raises ValueError with one sentence that lists every missing, unexpected and mis-shaped tensor.
    """
    checkpoint = open_checkpoint(
        path, num_classes=num_classes, in_chans=in_chans, ema=ema, prefix=prefix, dtype=dtype, options=options
    )
    return checkpoint.module, checkpoint.variables


def load_pretrained(name: str, tag: str | None = None, **options: Any) -> tuple[nn.Module, Mapping[str, Any]]:
    """(model, variables) of a published file, `load_pretrained("unireplknet_s", "in22k_ft_in1k_384")`.

    Downloaded once from the Hugging Face repository of the authors (`models.zoo`); options as in `load_checkpoint`.
    Without a tag it is a name as in `open_checkpoint`: "unireplknet_s.in22k_ft_in1k_384", "hf-hub:USER/REPO".
    """
    return load_checkpoint(zoo.located(name) if tag is None else zoo.download(zoo.find_weights(name, tag)), **options)


def open_checkpoint(
    path: str | os.PathLike[str],
    *,
    num_classes: int | Literal["keep"] | None = KEEP,
    in_chans: int | Literal["keep"] = KEEP,
    ema: bool = False,
    prefix: str = "",
    dtype: DTypeLike | None = None,
    task: str | None = None,
    options: Mapping[str, Any] | None = None,
) -> Checkpoint:
    """As `load_checkpoint`, but a `Checkpoint`: the task with preprocessing and labels besides.

    path: where it lies, of what `export` wrote, too, which then computes in its own runtime; or a name, by which it is
    fetched once from the Hugging Face hub: "unireplknet_a" where a size has one published file,
    "unireplknet_s.in22k_ft_in1k_384" (`models.zoo`), or "hf-hub:USER/REPO" of what `unireplknet push` uploaded.
    ValueError for what names nothing, with the nearest names.
    task: what an official file is for, where its tensors fit several tasks; None: the first that they fit.
    """
    if dtype is not None and not jnp.issubdtype(dtype, jnp.floating):
        raise ValueError(f"dtype must be a floating-point type, but is {dtype}.")
    path = zoo.located(path)
    with announced(f"reading {path}"):
        return _open(path, num_classes, in_chans, ema, prefix, dtype, task, options)


def _open(
    path: pathlib.Path,
    num_classes: int | Literal["keep"] | None,
    in_chans: int | Literal["keep"],
    ema: bool,
    prefix: str,
    dtype: DTypeLike | None,
    task: str | None,
    options: Mapping[str, Any] | None,
) -> Checkpoint:
    form = format_of(path)
    if form is not None:
        if ema or prefix or task or options or dtype is not None or num_classes != KEEP or in_chans != KEEP:
            raise ValueError(f"{path} is what `unireplknet export` wrote, and cannot be changed: open it as it is.")
        return _open_artefact(path, form)
    if path.is_dir():
        if ema:
            raise ValueError(f"{path} is a checkpoint of ours and holds one set of weights: ema applies to .pth files.")
        if prefix:
            raise ValueError(f"{path} is a checkpoint of ours, without prefixes: give one for .pth files alone.")
        if task is not None:
            raise ValueError(f"{path} is a checkpoint of ours and says its task: name one for .pth files alone.")
        if options:
            raise ValueError(f"{path} is a checkpoint of ours and says its options: give some for .pth files alone.")
        checkpoint = _open_directory(path)
    else:
        checkpoint = Checkpoint(*open_torch(path, ema, task, options or {}, prefix), source=path.name)
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
    return dataclasses.replace(checkpoint, variables=variables, path=path)


def initial_variables(task: Task, path: str | os.PathLike[str]) -> Mapping[str, Any]:
    """A checkpoint's variables to start training a task from: fitted to its classes and channels, float32.

    path: a checkpoint's, or a name as in `open_checkpoint`. A fresh classifier is scaled by the task's
    `head_init_scale`; a kept one is not, and has its outputs in the order of the task's classes (`fit_order`).
    Raises ValueError if the checkpoint is merged or its network is not the task's.
    """
    module = task.module()
    checkpoint = open_checkpoint(path, dtype=jnp.float32)
    require_weights(checkpoint)
    if checkpoint.merged:
        raise ValueError(f"{path} is in merged form, which cannot be trained: start from its training form.")
    checkpoint = fit_order(checkpoint, getattr(task, "labels", ()))
    if trunk_of(module) is not module:
        variables: Mapping[str, Any] = fit_trunk(checkpoint, task)
    else:
        model = dict(checkpoint.task.model) | {"head_init_scale": module.head_init_scale}
        checkpoint = dataclasses.replace(checkpoint, task=dataclasses.replace(checkpoint.task, model=model))
        variables = fit_classes(fit_channels(checkpoint, module.in_chans), module.num_classes).variables
    table = task.name_table()
    differences = torch_names.differences(table, torch_names.shapes_by_name(table, variables))
    if differences:
        raise ValueError(f"{path} holds another network than the recipe asks for: {differences}.")
    return variables


def save_checkpoint(path: str | os.PathLike[str], checkpoint: Checkpoint, overwrite: bool = False) -> None:
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


def save_torch_checkpoint(
    path: str | os.PathLike[str],
    variables: Mapping[str, Any],
    overwrite: bool = False,
    meta: Mapping[str, Any] | None = None,
) -> None:
    """Write a network's variables, either form, for the original PyTorch code to load strictly.

    path ends in .pth (`{"model": state dict}`, of a segmentation network `{"state_dict": state dict}`) or .safetensors.
    meta: what stands beside it in a .pth as "meta" (`Task.torch_meta`). Storage dtypes are kept; the batch counters
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
    torch_archive.write_state_dict(path, arrays, names_of_task(name).entry, meta)


def _open_directory(path: pathlib.Path) -> Checkpoint:
    variables, card = directory.read_directory(path)
    checkpoint = _of_card(card, path)
    task, table = checkpoint.task, checkpoint.task.name_table(checkpoint.merged)
    misfit = f"the variables in {path} do not fit its {directory.CARD}"
    if variables is None:
        state = canonical(task.names, read_tensors(path / directory.TENSORS))
        variables = variables_of(path / directory.TENSORS, state, table, misfit)
    differences = torch_names.differences(table, torch_names.shapes_by_name(table, variables))
    if differences:
        raise ValueError(f"{misfit}: {differences}.")
    return dataclasses.replace(checkpoint, variables=variables)


def _open_artefact(path: pathlib.Path, form: str) -> Checkpoint:
    card, runtime = open_artefact(path, form)
    return dataclasses.replace(_of_card(card, path), merged=True, runtime=runtime, path=path)


def _of_card(card: Mapping[str, Any], path: pathlib.Path) -> Checkpoint:
    """What a card says of a checkpoint; ValueError for one that makes no network."""
    try:
        task = get_task(card["task"], labels=tuple(card["labels"]), **card["options"])
        if card["form"] not in ("training", "merged"):
            raise ValueError(f"its form is {card['form']!r}, not training or merged.")
        data = card.get("data")
        if data is not None and not (isinstance(data, dict) and "name" in data):
            raise ValueError(f"its data is {data!r}, not an object with a name.")
        merged = card["form"] == "merged"
        task.name_table(merged)
    except Exception as error:  # what a card may hold fails in as many ways as there are layers
        if isinstance(error, ValueError) and str(error).count("\n") == 0:
            why = str(error)
        else:
            why = f"there is no {error} in it" if isinstance(error, KeyError) else "its options make no network."
        raise ValueError(f"the {directory.CARD} of {path} is damaged or of another version: {why}") from None
    return Checkpoint(task, {}, merged, data, card.get("source"))


def _report_non_finite(path: str | os.PathLike[str], variables: Mapping[str, Any]) -> None:
    flat = flax.traverse_util.flatten_dict(variables, sep="/")
    bad = [name for name, leaf in flat.items() if not np.all(np.isfinite(np.asarray(leaf, np.float32)))]
    if bad:
        _log.warning("%s: non-finite values in %s", path, listed(bad))
