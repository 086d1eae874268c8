"""Learning-rate schedule, weight-decay rule and optimizer, as the original's `optim_factory.py` and `utils.py`."""

import jax
import jax.numpy as jnp
import numpy as np
import optax


def cosine_schedule(base, final, epochs, steps_per_epoch, warmup_epochs=0.0):
    """The learning rate of every step, float64 (epochs * steps_per_epoch,).

    Linear from exactly 0 to exactly `base` over the warm-up (both ends included), then a cosine from `base` towards
    `final`, which is approached and never reached. ValueError if the warm-up is longer than the run.
    """
    total, warmup = round(epochs * steps_per_epoch), round(warmup_epochs * steps_per_epoch)
    if not 0 <= warmup <= total or total < 1:
        raise ValueError(f"warmup_epochs={warmup_epochs} does not fit a run of {epochs} epochs.")
    rising = np.linspace(0, base, warmup)
    t = np.arange(total - warmup)
    falling = final + 0.5 * (base - final) * (1 + np.cos(np.pi * t / max(total - warmup, 1)))
    return np.concatenate([rising, falling])


def decays(path, leaf):
    """Whether weight decay applies: to tensors of rank above 1, so to GRN's gamma and beta, not to norms or biases."""
    return leaf.ndim > 1 and path[-1].key != "bias"


def make_optimizer(config, schedule):
    """The optax transformation of a recipe's `optim` section, its learning rate read from the schedule's table."""
    if config.name != "adamw":
        raise ValueError(f"optim.name={config.name!r} is not known; expected 'adamw'.")
    table = jnp.asarray(schedule, jnp.float32)
    return optax.adamw(
        lambda step: table[jnp.minimum(step, table.size - 1)],
        b1=config.b1,
        b2=config.b2,
        eps=config.eps,
        weight_decay=config.weight_decay,
        mask=lambda params: jax.tree_util.tree_map_with_path(decays, params),
    )
