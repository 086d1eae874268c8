"""Fitting a checkpoint to another number of classes, to their order, or to another number of input channels."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import flax
import jax
import numpy as np

from unireplknet_jax.data.base import listed
from unireplknet_jax.data.classes import numbers_of
from unireplknet_jax.models.shapes import trunk_of

if TYPE_CHECKING:
    from unireplknet_jax.tasks.base import Task

_log = logging.getLogger(__name__)
_HEAD = ("norm", "head")
_OUTPUT_NORMS = ("norm0", "norm1", "norm2", "norm3")
# Where the layers are that end in a logit for each class: of a whole input, of every pixel, and of regions. Of regions
# there is one for the background besides, and four numbers for each class where its box is.
_PIXEL_CLASSIFIERS = (("decode_head", "conv_seg"), ("auxiliary_head", "conv_seg"))
_REGION_CLASSIFIERS = tuple(
    (f"{kind}_head_{stage}", layer)
    for kind, layer in (("bbox", "fc_cls"), ("bbox", "fc_reg"), ("mask", "conv_logits"))
    for stage in range(3)
)
_CLASSIFIERS = (("head",), *_PIXEL_CLASSIFIERS, *_REGION_CLASSIFIERS)


def fit_classes(checkpoint: Any, num_classes: int | None) -> Any:
    """A checkpoint with `num_classes` outputs: a fresh classifier if the number differs, none for None.

    The final norm is kept where there is one, as the original's fine-tuning does; output norms have no place in a
    classifier and are dropped. Returns the checkpoint itself if nothing changes.
    """
    model, module = dict(checkpoint.task.model), checkpoint.module
    old, trunk = module.num_classes, trunk_of(module)
    if num_classes == old:
        return checkpoint
    if num_classes is not None and num_classes < 1:
        raise ValueError(f"num_classes must be positive or None, but is {num_classes}.")
    if num_classes is None and trunk is not module:
        raise ValueError(f"a network of the task {checkpoint.task.name} cannot be without its classifier.")
    params = dict(checkpoint.variables["params"])
    if num_classes is not None and _of_classifiers(params, _REGION_CLASSIFIERS):
        task = dataclasses.replace(checkpoint.task, model=model | {"num_classes": num_classes}, labels=())
        return dataclasses.replace(checkpoint, task=task, variables=fit_trunk(checkpoint, task))
    dropped = [name for name in (*_HEAD, *_OUTPUT_NORMS) if name in params]
    kept = ["norm"] if num_classes is not None and "norm" in params else []
    for name in set(dropped) - set(kept):
        del params[name]
    made = []
    if num_classes is not None and _of_classifiers(params, _PIXEL_CLASSIFIERS):
        params, dropped = _fresh_pixel_classifiers(params, num_classes)
        made += [f"{name} (random, {num_classes} classes)" for name in dropped]
    elif num_classes is not None:
        width = trunk.dims[-1] if trunk is module else checkpoint.variables["params"]["head"]["kernel"].shape[0]
        if not kept and trunk is module:
            params["norm"] = {"scale": np.ones(width, np.float32), "bias": np.zeros(width, np.float32)}
            made.append("norm")
        kernel = np.random.default_rng(0).standard_normal((width, num_classes), np.float32)
        kernel *= np.float32(0.02 * module.head_init_scale)
        params["head"] = {"kernel": kernel, "bias": np.zeros(num_classes, np.float32)}
        made.append(f"head (random, {num_classes} classes)")
    gone = ", ".join(sorted(set(dropped) - set(kept))) or "nothing"
    _log.warning("num_classes %s -> %s: dropped %s; made %s.", old, num_classes, gone, ", ".join(made) or "nothing")
    model |= (
        {"num_classes": num_classes} if trunk is not module else {"num_classes": num_classes, "output_norms": False}
    )
    of_classes = {name: () for name in ("labels", "colours", "values") if hasattr(checkpoint.task, name)}
    task = dataclasses.replace(checkpoint.task, model=model, **of_classes)
    return dataclasses.replace(checkpoint, task=task, variables={**checkpoint.variables, "params": params})


def _of_classifiers(
    params: Mapping[str, Any], classifiers: Sequence[tuple[str, ...]] = _CLASSIFIERS
) -> dict[tuple[str, ...], Any]:
    """{path: array (..., classes)} of the layers that end in a logit for each class."""
    flat = flax.traverse_util.flatten_dict(params)
    return {path: leaf for path, leaf in flat.items() if any(path[: len(each)] == each for each in classifiers)}


def _fresh_pixel_classifiers(params: Mapping[str, Any], num_classes: int) -> tuple[dict[str, Any], list[str]]:
    """(the parameters with fresh classifiers of pixels, what these are called), drawn as those of the original."""
    rng, fresh = np.random.default_rng(0), {}
    for path, leaf in _of_classifiers(params, _PIXEL_CLASSIFIERS).items():
        shape = (*leaf.shape[:-1], num_classes)
        kernel = np.float32(0.01) * rng.standard_normal(shape, np.float32)
        fresh[path] = kernel if path[-1] == "kernel" else np.zeros(shape, np.float32)
    names = sorted({"/".join(path[:-1]) for path in fresh})
    return flax.traverse_util.unflatten_dict(flax.traverse_util.flatten_dict(params) | fresh), names


def fit_order(checkpoint: Any, labels: Sequence[str]) -> Any:
    """A checkpoint whose classifier has the classes of the data in their order, `labels`, its own found by their names.

    It stays as it is where one of them has no names, or another number of classes; and, which the log says, where the
    names are others.
    """
    own, params = checkpoint.labels, checkpoint.variables["params"]
    classifiers = _of_classifiers(params)
    fitting = all(leaf.shape[-1] == len(_outputs(path, [*range(len(own))])) for path, leaf in classifiers.items())
    if not own or not labels or own == tuple(labels) or not (classifiers and fitting) or len(labels) != len(own):
        return checkpoint
    try:
        numbers = list(numbers_of(own, tuple(labels), "the data"))
    except ValueError:
        _log.warning(
            "the classifier is kept, though its classes were %s, and are %s in the data", listed(own), listed(labels)
        )
        return checkpoint
    if numbers == [*range(len(own))]:
        return checkpoint
    _log.warning("the classifier's outputs were put into the order of the data's classes: %s", listed(labels))
    ordered = {path: np.asarray(leaf)[..., _outputs(path, numbers)] for path, leaf in classifiers.items()}
    params = flax.traverse_util.unflatten_dict(flax.traverse_util.flatten_dict(params) | ordered)
    return dataclasses.replace(checkpoint, variables={**checkpoint.variables, "params": params})


def _outputs(path: tuple[str, ...], numbers: list[int]) -> list[int]:
    """Which outputs of a classifier belong to the classes `numbers`, all there are, in this order."""
    if path[-2] == "fc_reg":
        return [4 * number + corner for number in numbers for corner in range(4)]
    return [*numbers, len(numbers)] if path[-2] == "fc_cls" else numbers


def fit_channels(checkpoint: Any, in_chans: int) -> Any:
    """A checkpoint with `in_chans` input channels: the stem's kernels summed (1), else repeated in turn and scaled."""
    module = checkpoint.module
    old = module.in_chans
    if in_chans == old:
        return checkpoint
    if in_chans < 1:
        raise ValueError(f"in_chans must be positive, but is {in_chans}.")
    if trunk_of(module) is not module:
        raise ValueError(f"a network of the task {checkpoint.task.name} takes {old} channel(s) and no other number.")
    params = dict(checkpoint.variables["params"])
    stem = dict(params["downsample_layers_0"])
    kernel = np.asarray(stem["conv1"]["kernel"])  # (3, 3, in, out)
    if in_chans == 1:
        fitted, how = kernel.astype(np.float32).sum(axis=2, keepdims=True), "summed"
    else:
        repeated = kernel[:, :, np.arange(in_chans) % old, :].astype(np.float32)
        fitted, how = repeated * (old / in_chans), f"repeated in turn and scaled by {old}/{in_chans}"
    stem["conv1"] = {**stem["conv1"], "kernel": fitted.astype(kernel.dtype)}
    params["downsample_layers_0"] = stem
    _log.warning("in_chans %d -> %d: the stem's input channels were %s.", old, in_chans, how)
    task = checkpoint.task
    mean, std = ((np.mean(values).item(),) * in_chans for values in (task.mean, task.std))
    task = dataclasses.replace(task, model=dict(task.model) | {"in_chans": in_chans}, mean=mean, std=std)
    return dataclasses.replace(checkpoint, task=task, variables={**checkpoint.variables, "params": params})


def fit_trunk(checkpoint: Any, task: Task) -> dict[str, Any]:
    """The variables to start a task from whose network has layers of its own around a trunk called "backbone".

    A checkpoint of such a network gives all of it but the layers of another shape; any other gives its trunk, with the
    stem fitted to the channels (`fit_channels`). What it does not give is fresh: output norms start at 1 and 0.
    """
    trunk = trunk_of(task.module())
    if "backbone" not in checkpoint.variables["params"]:
        checkpoint = fit_channels(checkpoint, trunk.in_chans)
        found: Mapping[str, Any] = {
            name: {"backbone": {layer: leaves for layer, leaves in tree.items() if layer not in _HEAD}}
            for name, tree in checkpoint.variables.items()
        }
    else:
        found = checkpoint.variables
    taken, own = flax.traverse_util.flatten_dict(found), _fresh_layers(task) | _fresh_norms(trunk)
    kept = {path: taken[path] for path, leaf in own.items() if path in taken and taken[path].shape == leaf.shape}
    given = {path: leaf for path, leaf in taken.items() if path[1] == "backbone" and path[2] not in _OUTPUT_NORMS}
    made = _whole_layers(own.keys() - kept.keys(), own.keys() | given.keys())
    _log.warning("taken: the backbone; made: %s.", ", ".join(made) or "nothing")
    return flax.traverse_util.unflatten_dict(given | own | kept)


def _whole_layers(paths: Collection[tuple[str, ...]], known: Collection[tuple[str, ...]]) -> list[str]:
    """The names "decode_head" or "decode_head/conv_seg" of the layers whose arrays, of those known, are all there."""
    found = set()
    for path in paths:
        whole = (
            path[1:end]
            for end in range(2, len(path) + 1)
            if all(other in paths for other in known if other[1:end] == path[1:end])
        )
        found.add("/".join(next(whole, path[1:])))
    return sorted(found)


def _fresh_norms(trunk: Any) -> dict[tuple[str, ...], np.ndarray]:
    """{path: array} of the norms behind a trunk's stages; none where it has none."""
    return {
        ("params", "backbone", f"norm{stage}", leaf): make(width, np.float32)
        for stage, width in enumerate(trunk.dims if trunk.output_norms else ())
        for leaf, make in (("scale", np.ones), ("bias", np.zeros))
    }


def _fresh_layers(task: Task) -> dict[tuple[str, ...], jax.Array]:
    """{path: array} of the layers around the trunk, alone: compiled, the trunk's are never made."""

    def make() -> dict[str, jax.Array]:
        flat = flax.traverse_util.flatten_dict(task.init(jax.random.key(0)))
        return {"/".join(path): leaf for path, leaf in flat.items() if path[1] != "backbone"}

    return {tuple(name.split("/")): leaf for name, leaf in jax.jit(make)().items()}
