"""Learning-rate schedule, parameter groups and optimizer, as the original's `optim_factory.py` and `utils.py`."""

import math
import numbers
import re
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from unireplknet_jax.train.durations import UNITS, WARMUP, given, steps_of

_TRUNK = re.compile(r"(?:backbone/)?(?:downsample_layers_(\d)|stages_(\d)_(\d+))/")


def cosine_schedule(base, final, epochs, steps_per_epoch, warmup_epochs=0.0, warmup_ratio=None):
    """The learning rate of every step, float64 (epochs * steps_per_epoch,).

    Linear from exactly 0 to exactly `base` over the warm-up (both ends included), then a cosine from `base` towards
    `final`, which is approached and never reached. With a warm-up ratio the cosine lasts the whole run, times the
    factor of `_warmed_up`. ValueError if the warm-up is longer than the run.
    """
    total, warmup = _lengths(epochs, steps_per_epoch, warmup_epochs)

    def falling(steps):
        return final + 0.5 * (base - final) * (1 + np.cos(np.pi * np.arange(steps) / max(steps, 1)))

    return _after_warm_up(falling, base, total, warmup, warmup_ratio)


def polynomial_schedule(base, final, epochs, steps_per_epoch, warmup_epochs=0.0, warmup_ratio=None, power=1.0):
    """The learning rate of every step, float64: final + (base - final) * (1 - t / steps) ** power at step t.

    mmcv's "poly" policy, by step. The warm-up is as in `cosine_schedule`. ValueError if it is longer than the run.
    """
    total, warmup = _lengths(epochs, steps_per_epoch, warmup_epochs)

    def falling(steps):
        return final + (base - final) * (1 - np.arange(steps) / max(steps, 1)) ** power

    return _after_warm_up(falling, base, total, warmup, warmup_ratio)


def multistep_schedule(base, milestones, factor, epochs, steps_per_epoch, warmup_epochs=0.0, warmup_ratio=None):
    """The learning rate of every step, float64: `base`, times `factor` after each of the epochs in `milestones`.

    PyTorch's MultiStepLR, stepped after every epoch: the first epoch after milestone m is the first that is slower.
    The warm-up takes the place of the first rates, rising linearly from 0 as in `cosine_schedule`; with a warm-up ratio
    they are multiplied by the factor of `_warmed_up`. ValueError if it is longer than the run.
    """
    total, warmup = _lengths(epochs, steps_per_epoch, warmup_epochs)
    finished = np.arange(total) // steps_per_epoch
    rates = base * float(factor) ** np.sum(np.asarray(milestones, int)[:, None] <= finished, axis=0)
    if warmup_ratio is not None:
        return _warmed_up(rates, warmup, warmup_ratio)
    rates[:warmup] = np.linspace(0, base, warmup)
    return rates


def make_schedule(optim, epochs, steps_per_epoch, batch_size=1):
    """The learning rate of every step for a recipe's `optim` section; batch_size: for a warm-up given in examples.

    Raises ValueError for an unknown schedule, for a min_lr above lr where the schedule ends there, for milestones that
    are not numbers above 0, and for a warm-up that is given in two units or is longer than the run.
    """
    total = round(epochs * steps_per_epoch)
    fields = {f"optim.warmup_{unit}": optim[f"warmup_{unit}"] for unit in UNITS}
    warmup = round(steps_of(fields, batch_size, steps_per_epoch * batch_size, total))
    if not 0 <= warmup <= total or total < 1:
        field, value = given(fields) or (WARMUP[0], 0)
        raise ValueError(f"{field}={value:g} does not fit a run of {epochs:g} epochs, {total} steps.")
    if optim.schedule != "multistep" and optim.min_lr > optim.lr:
        raise ValueError(
            f"optim.min_lr={optim.min_lr:g} is above optim.lr={optim.lr:g}, so that the rate would rise; lower it."
        )
    when = (total, 1, warmup, optim.warmup_ratio)  # counted in steps: in epochs of one step each
    if optim.schedule == "cosine":
        return cosine_schedule(optim.lr, optim.min_lr, *when)
    if optim.schedule == "polynomial":
        return polynomial_schedule(optim.lr, optim.min_lr, *when, optim.power)
    if optim.schedule == "multistep":
        wrong = [epoch for epoch in optim.milestones if not _is_positive(epoch)]
        if wrong:
            raise ValueError(f"optim.milestones has {wrong[0]!r} among its epochs; expected numbers above 0.")
        milestones = [epoch * steps_per_epoch for epoch in optim.milestones]
        return multistep_schedule(optim.lr, milestones, optim.milestone_factor, *when)
    raise ValueError(
        f"optim.schedule={optim.schedule!r} is not known; expected 'cosine' or 'multistep' or 'polynomial'."
    )


def _is_positive(value):
    return isinstance(value, numbers.Real) and 0 < value < math.inf


def _lengths(epochs, steps_per_epoch, warmup_epochs):
    """(steps, warm-up steps)."""
    total, warmup = round(epochs * steps_per_epoch), round(warmup_epochs * steps_per_epoch)
    if not 0 <= warmup <= total or total < 1:
        raise ValueError(f"optim.warmup_epochs={warmup_epochs:g} does not fit a run of {epochs:g} epochs.")
    return total, warmup


def _after_warm_up(falling, base, total, warmup, ratio):
    """The rates of `falling(steps)` after a warm-up from 0, or, with a ratio, all the time and warmed up."""
    if ratio is None:
        return np.concatenate([np.linspace(0, base, warmup), falling(total - warmup)])
    return _warmed_up(falling(total), warmup, ratio)


def _warmed_up(rates, warmup, ratio):
    """Rates times a factor that rises linearly from `ratio` at step 0 to 1 at step `warmup`, as mmcv warms up."""
    rates[:warmup] *= ratio + (1 - ratio) * np.arange(warmup) / max(warmup, 1)
    return rates


class ParameterGroup(NamedTuple):
    """What one tensor gets: layer id 0..layer_groups + 1, factor on the learning rate, weight decay."""

    layer: int
    lr_scale: float
    weight_decay: float


def parameter_groups(params, layer_decay=1.0, weight_decay=0.0, layer_groups=12):
    """A tree like `params` of `ParameterGroup`s: lr_scale = layer_decay ** (layer_groups + 1 - layer id).

    Raises ValueError if a layer of the trunk is above the last group: it would learn faster than the head.
    """
    head = layer_groups + 1
    names = ["/".join(key.key for key in path) for path, _ in jax.tree_util.tree_leaves_with_path(params)]
    needed, last = max(((layer_id(name, layer_groups), name) for name in names if _TRUNK.match(name)), default=(0, ""))
    if needed > layer_groups:
        raise ValueError(
            f"optim.layer_groups={layer_groups} are too few: {last} belongs to group {needed}; raise it to {needed}."
        )

    def group(path, leaf):
        layer = layer_id("/".join(key.key for key in path), layer_groups)
        return ParameterGroup(layer, layer_decay ** (head - layer), weight_decay if decays(path, leaf) else 0.0)

    return jax.tree_util.tree_map_with_path(group, params)


def layer_id(path, layer_groups=12):
    """The layer, 0 (stem) to layer_groups + 1 (head), of a parameter "stages_2_7/pwconv1/kernel".

    A leading "backbone/" is ignored. As in the original, whatever the depths: three blocks of the third stage share a
    group, the last stage and what leads to it are the last one; what is not of the backbone's stages and downsamplers
    belongs to the head.
    """
    found = _TRUNK.match(path)
    if not found:
        return layer_groups + 1
    downsample, stage, block = (None if part is None else int(part) for part in found.groups())
    if downsample is not None:
        return (0, 2, 3, layer_groups)[downsample]
    return (1, 2, 3 + block // 3, layer_groups)[stage]


def decays(path, leaf):
    """Whether weight decay applies: to tensors of rank above 1, so to GRN's gamma and beta, not to norms or biases."""
    return leaf.ndim > 1 and path[-1].key != "bias"


def make_optimizer(config, schedule):
    """The optax transformation of a recipe's `optim` section, its learning rate read from the schedule's table.

    name: "adamw" decouples the weight decay from the gradient, "adam" adds it to the gradient (L2), as PyTorch's
    optimizers of these names do. decay_rule: which tensors decay, "matrices" (`decays`) or "all". Weight decay follows
    its own cosine from `weight_decay` to `weight_decay_end` (None: constant); `clip_norm` bounds the global norm of the
    gradient (0: no bound).
    """
    if config.name not in ("adamw", "adam"):
        raise ValueError(f"optim.name={config.name!r} is not known; expected 'adamw' or 'adam'.")
    if config.decay_rule not in ("matrices", "all"):
        raise ValueError(f"optim.decay_rule={config.decay_rule!r} is not known; expected 'matrices' or 'all'.")
    decay = config.weight_decay
    if config.weight_decay_end is not None:
        decay = _lookup(cosine_schedule(decay, config.weight_decay_end, 1, len(schedule)))

    def scale_layers(updates, params):
        groups = parameter_groups(params, config.layer_decay, layer_groups=config.layer_groups)
        return jax.tree.map(lambda update, group: update * group.lr_scale, updates, groups)

    def mask(tree):
        return jax.tree_util.tree_map_with_path(decays, tree)

    adam = optax.scale_by_adam(b1=config.b1, b2=config.b2, eps=config.eps)
    decayed = optax.add_decayed_weights(decay, mask=mask if config.decay_rule == "matrices" else None)
    return optax.chain(
        optax.clip_by_global_norm(config.clip_norm) if config.clip_norm else optax.identity(),
        *((adam, decayed) if config.name == "adamw" else (decayed, adam)),
        optax.stateless(scale_layers) if config.layer_decay != 1 else optax.identity(),
        optax.scale_by_learning_rate(_lookup(schedule)),
    )


def _lookup(table):
    """An optax schedule that reads a table, its last entry repeated."""
    table = jnp.asarray(table, jnp.float32)
    return lambda step: table[jnp.minimum(step, table.size - 1)]
