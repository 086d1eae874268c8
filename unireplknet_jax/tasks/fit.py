"""Fitting a checkpoint to another number of classes or of input channels."""

import dataclasses
import logging

import numpy as np

_log = logging.getLogger(__name__)
_HEAD = ("norm", "head")
_OUTPUT_NORMS = ("norm0", "norm1", "norm2", "norm3")


def fit_classes(checkpoint, num_classes):
    """A checkpoint with `num_classes` outputs: a fresh classifier if the number differs, none for None.

    The final norm is kept where there is one, as the original's fine-tuning does; output norms have no place in a
    classifier and are dropped. Returns the checkpoint itself if nothing changes.
    """
    model = dict(checkpoint.task.model)
    old = checkpoint.module.num_classes
    if num_classes == old:
        return checkpoint
    if num_classes is not None and num_classes < 1:
        raise ValueError(f"num_classes must be positive or None, but is {num_classes}.")
    params = dict(checkpoint.variables["params"])
    dropped = [name for name in (*_HEAD, *_OUTPUT_NORMS) if name in params]
    kept = ["norm"] if num_classes is not None and "norm" in params else []
    for name in set(dropped) - set(kept):
        del params[name]
    made = []
    if num_classes is not None:
        width = checkpoint.module.dims[-1]
        if not kept:
            params["norm"] = {"scale": np.ones(width, np.float32), "bias": np.zeros(width, np.float32)}
            made.append("norm")
        kernel = np.random.default_rng(0).standard_normal((width, num_classes), np.float32)
        kernel *= np.float32(0.02 * checkpoint.module.head_init_scale)
        params["head"] = {"kernel": kernel, "bias": np.zeros(num_classes, np.float32)}
        made.append(f"head (random, {num_classes} classes)")
    gone = ", ".join(sorted(set(dropped) - set(kept))) or "nothing"
    _log.warning("num_classes %s -> %s: dropped %s; made %s.", old, num_classes, gone, ", ".join(made) or "nothing")
    task = dataclasses.replace(
        checkpoint.task, model=model | {"num_classes": num_classes, "output_norms": False}, labels=()
    )
    return dataclasses.replace(checkpoint, task=task, variables={**checkpoint.variables, "params": params})


def fit_channels(checkpoint, in_chans):
    """A checkpoint with `in_chans` input channels: the stem's kernels summed (1), else repeated in turn and scaled."""
    old = checkpoint.module.in_chans
    if in_chans == old:
        return checkpoint
    if in_chans < 1:
        raise ValueError(f"in_chans must be positive, but is {in_chans}.")
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
