"""Learning-rate schedule, parameter groups and optimizer, as the original's `optim_factory.py` and `utils.py`."""

import re
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

LAST_LAYER = 13


def cosine_schedule(base, final, epochs, steps_per_epoch, warmup_epochs=0.0):
    """The learning rate of every step, float64 (epochs * steps_per_epoch,).

    Linear from exactly 0 to exactly `base` over the warm-up (both ends included), then a cosine from `base` towards
    `final`, which is approached and never reached. ValueError if the warm-up is longer than the run.
    """
    total, warmup = _lengths(epochs, steps_per_epoch, warmup_epochs)
    rising = np.linspace(0, base, warmup)
    t = np.arange(total - warmup)
    falling = final + 0.5 * (base - final) * (1 + np.cos(np.pi * t / max(total - warmup, 1)))
    return np.concatenate([rising, falling])


def multistep_schedule(base, milestones, factor, epochs, steps_per_epoch, warmup_epochs=0.0):
    """The learning rate of every step, float64: `base`, times `factor` after each of the epochs in `milestones`.

    PyTorch's MultiStepLR, stepped after every epoch: the first epoch after milestone m is the first that is slower.
    The warm-up rises linearly from 0 as in `cosine_schedule`. ValueError if it is longer than the run.
    """
    total, warmup = _lengths(epochs, steps_per_epoch, warmup_epochs)
    finished = np.arange(total) // steps_per_epoch
    rates = base * float(factor) ** np.sum(np.asarray(milestones, int)[:, None] <= finished, axis=0)
    rates[:warmup] = np.linspace(0, base, warmup)
    return rates


def make_schedule(optim, epochs, steps_per_epoch):
    """The learning rate of every step for a recipe's `optim` section; ValueError for an unknown schedule."""
    if optim.schedule == "cosine":
        return cosine_schedule(optim.lr, optim.min_lr, epochs, steps_per_epoch, optim.warmup_epochs)
    if optim.schedule == "multistep":
        return multistep_schedule(
            optim.lr, optim.milestones, optim.milestone_factor, epochs, steps_per_epoch, optim.warmup_epochs
        )
    raise ValueError(f"optim.schedule={optim.schedule!r} is not known; expected 'cosine' or 'multistep'.")


def _lengths(epochs, steps_per_epoch, warmup_epochs):
    """(steps, warm-up steps)."""
    total, warmup = round(epochs * steps_per_epoch), round(warmup_epochs * steps_per_epoch)
    if not 0 <= warmup <= total or total < 1:
        raise ValueError(f"optim.warmup_epochs={warmup_epochs:g} does not fit a run of {epochs:g} epochs.")
    return total, warmup


class ParameterGroup(NamedTuple):
    """What one tensor gets: layer id 0..13, factor on the learning rate, weight decay."""

    layer: int
    lr_scale: float
    weight_decay: float


def parameter_groups(params, layer_decay=1.0, weight_decay=0.0):
    """A tree like `params` of `ParameterGroup`s: lr_scale = layer_decay ** (13 - layer id)."""

    def group(path, leaf):
        layer = layer_id("/".join(key.key for key in path))
        return ParameterGroup(layer, layer_decay ** (LAST_LAYER - layer), weight_decay if decays(path, leaf) else 0.0)

    return jax.tree_util.tree_map_with_path(group, params)


def layer_id(path):
    """The layer, 0 (stem) to 13 (head), of a parameter "stages_2_7/pwconv1/kernel", a leading "backbone/" ignored.

    The original's twelve groups, whatever the depths: three blocks of the third stage share one; what is not of the
    backbone's stages and downsamplers belongs to the last.
    """
    found = re.match(r"(?:backbone/)?(?:downsample_layers_(\d)|stages_(\d)_(\d+))/", path)
    if not found:
        return LAST_LAYER
    downsample, stage, block = (None if part is None else int(part) for part in found.groups())
    if downsample is not None:
        return (0, 2, 3, 12)[downsample]
    return (1, 2, 3 + block // 3, 12)[stage]


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
        groups = parameter_groups(params, config.layer_decay)
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
