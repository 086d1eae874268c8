"""The train state, a plain dict of pytrees, and the jitted functions on it."""

import contextlib

import jax
import jax.numpy as jnp
import optax
from jax.experimental.xla_metadata import set_xla_metadata

from unireplknet_jax.models.program import AheadOfTime, compile_program
from unireplknet_jax.ops.batch import SMALL
from unireplknet_jax.train.sharding import (
    batch_sharding,
    gather,
    micro_batch_sharding,
    own_rows,
    replicated,
    state_shardings,
    to_devices,
)


def abstract_state(task, optimizer, mesh, ema=False):
    """The shapes of a train state, each with its sharding; nothing is computed and no device is touched.

    {"params", "batch_stats", "opt", "step"} and, if asked for, "ema": a moving average of parameters and batch
    statistics alike, as in the original.
    """
    shapes = jax.eval_shape(lambda: _state_of(task.init(jax.random.key(0)), optimizer, ema))
    shardings = state_shardings(mesh, shapes)
    return jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), shapes, shardings)


def make_state(task, optimizer, mesh, seed, ema=False, variables=None):
    """A train state at step 0, every array born on its devices.

    variables: {"params", "batch_stats"} to start from instead of fresh ones; they are copied.
    """
    given = () if variables is None else (variables,)

    def make(*given):
        return _state_of(given[0] if given else task.init(jax.random.key(seed)), optimizer, ema)

    shardings = state_shardings(mesh, jax.eval_shape(make, *given))
    with jax.set_mesh(mesh):  # so that each device draws its own part
        what = "the initial state"
        return compile_program(jax.jit(make, out_shardings=shardings), *given, what=what, quick=True)(*given)


def _state_of(variables, optimizer, ema):
    model = {"params": variables["params"], "batch_stats": variables.get("batch_stats", {})}
    model = jax.tree.map(jnp.copy, model)  # the first step gives its state away, not what this one was made of
    state = {**model, "opt": optimizer.init(model["params"]), "step": jnp.zeros((), jnp.int32)}
    return state | ({"ema": jax.tree.map(jnp.copy, model)} if ema else {})


def state_bytes(state):
    """The size of a train state, arrays or shapes."""
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state))


def variables_of(state):
    """The model's variables in a train state, or in its moving average `state["ema"]`."""
    return {"params": state["params"], "batch_stats": state["batch_stats"]}


# How the decay of a moving average grows: (decay, t steps done before this one) -> the share of the new variables.
RAMPS = {
    "": lambda decay, t, steps: 1 - decay,
    "count": lambda decay, t, steps: jnp.maximum(1 - decay, 9 / (10 + t)),  # 1 - (1 + t) / (10 + t)
    "exponential": lambda decay, t, steps: 1 - decay + decay * jnp.exp(-(1 + t) / steps),
}


def make_train_step(task, optimizer, mesh, state, seed, ema_decay=None, ema_ramp="", ema_ramp_steps=1):
    """The jitted (state, batch) -> (state, scalars); the old state is donated. `state`: as `abstract_state` gives it.

    batch: {name: (k, n, ...)}, k micro-batches of n examples over all devices. Their gradients are averaged; each has
    batch statistics of its own, and updates the running ones. Scalars are means over all k * n examples, among them
    "grad_norm" and the norm below every first name of the parameter tree, "grad_norm/stages_0_0"; "update_norm/..."
    likewise, of what is added to the parameters, which is not finite where they would stop being so.
    Randomness is a function of (seed, step), so a resumed run draws what the uninterrupted one would have drawn.
    ema_decay: of the moving average, which grows to it as a recipe's `ema.ramp` says.
    Raises ValueError for an unknown ramp.
    """
    if ema_ramp not in RAMPS:
        raise ValueError(f"ema.ramp={ema_ramp!r} is not known; expected one of {', '.join(map(repr, RAMPS))}.")
    module = task.module()

    def gradients_of(params, batch_stats, batch, rng):
        def loss(params):
            variables = {"params": gather(mesh, params), "batch_stats": batch_stats}
            value, out = task.loss(module.apply, variables, batch, rng)
            return value, (out["batch_stats"], out["scalars"])

        return jax.grad(loss, has_aux=True)(params)

    def accumulate(params, batch_stats, batch, rng):
        """(gradient mean, batch statistics, scalar sums) over the micro-batches, one after the other."""
        first = jax.tree.map(lambda x: x[0], batch)
        count = len(jax.tree.leaves(batch)[0])
        if count == 1:
            gradients, (batch_stats, sums) = gradients_of(params, batch_stats, first, jax.random.fold_in(rng, 0))
            return gradients, batch_stats, sums

        def add(carry, inputs):
            total, stats, sums = carry
            index, micro = inputs
            gradients, (stats, more) = gradients_of(params, stats, micro, jax.random.fold_in(rng, index))
            return (jax.tree.map(jnp.add, total, gradients), stats, jax.tree.map(jnp.add, sums, more)), None

        shapes = jax.eval_shape(gradients_of, params, batch_stats, first, rng)
        zeros, (_, no_sums) = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
        (total, batch_stats, sums), _ = jax.lax.scan(add, (zeros, batch_stats, no_sums), (jnp.arange(count), batch))
        return jax.tree.map(lambda gradient: gradient / count, total), batch_stats, sums

    def train_step(state, batch):
        rng = jax.random.fold_in(jax.random.key(seed + 1), state["step"])
        gradients, batch_stats, sums = accumulate(state["params"], state["batch_stats"], batch, rng)
        with _apart(mesh):
            updates, opt = jax.jit(optimizer.update)(gradients, state["opt"], state["params"])
        model = {"params": optax.apply_updates(state["params"], updates), "batch_stats": batch_stats}
        new_state = {**model, "opt": opt, "step": state["step"] + 1}
        if ema_decay is not None:
            share = RAMPS[ema_ramp](ema_decay, state["step"].astype(jnp.float32), ema_ramp_steps)
            new_state["ema"] = optax.incremental_update(model, state["ema"], share)
        scalars = {name: total / jnp.maximum(count, 1) for name, (total, count) in sums.items()}
        squares = _squares(gradients)
        norms = {"grad_norm": jnp.sqrt(sum(squares.values()))}
        norms |= {f"grad_norm/{name}": jnp.sqrt(square) for name, square in squares.items()}
        norms |= {f"update_norm/{name}": jnp.sqrt(square) for name, square in _squares(updates).items()}
        return new_state, scalars | norms

    shardings = jax.tree.map(lambda leaf: leaf.sharding, state)
    return jax.jit(
        train_step,
        donate_argnums=0,
        in_shardings=(shardings, micro_batch_sharding(mesh)),
        out_shardings=(shardings, replicated(mesh)),
    )


def _apart(mesh):
    """Where a jitted function is called, its programs stay a list of their own on one CPU device.

    XLA's CPU compiler orders a list of programs in quadratic time, whenever it is compiled or read back: with the
    optimizer's apart the whole step takes a tenth less. Elsewhere the compiler may see through the call.
    """
    alone = mesh.size == 1 and mesh.devices.flat[0].platform == "cpu"
    return set_xla_metadata(inlineable="false") if alone else contextlib.nullcontext()


def _squares(tree):
    """{first name: the squares of all numbers below it, summed}.

    Small tensors are laid end to end: summing each by itself is a third of all the programs that XLA makes of a step.
    """

    def total(leaves):
        small = [leaf.ravel() for leaf in leaves if leaf.size < SMALL]
        parts = [leaf for leaf in leaves if leaf.size >= SMALL] + ([jnp.concatenate(small)] if small else [])
        return sum(jnp.sum(jnp.square(part)) for part in parts)

    return {name: total(jax.tree.leaves(below)) for name, below in tree.items()}


def make_eval_step(task, mesh, deploy, predictions=True):
    """The (variables, batch) -> (totals, replicated, and predictions, split like the batch); batch: {name: (n, ...)}.

    Compiled when it is first called. predictions: False gives None in their place: XLA drops what nobody asks for.
    """
    module, seen = task.module(deploy), task.specs(train=False)[0].inputs

    def eval_step(variables, batch):
        pred = task.predict(
            module.apply, gather(mesh, variables), {name: batch[name] for name in seen if name in batch}
        )
        return task.totals(pred, batch), pred if predictions else None

    jitted = jax.jit(
        eval_step,
        in_shardings=(None, batch_sharding(mesh)),
        out_shardings=(replicated(mesh), batch_sharding(mesh)),
    )
    return AheadOfTime(jitted, f"the evaluation of the {'merged' if deploy else 'training'} form")


def make_runtime_step(task, mesh, runtime):
    """`make_eval_step` of an artefact of `export`: what its runtime gives of a batch is predicted, the rest as ever."""
    seen = task.specs(train=False)[0].inputs
    totals = jax.jit(task.totals, out_shardings=replicated(mesh))

    def eval_step(variables, batch):
        del variables  # which the artefact has
        pred = to_devices(batch_sharding(mesh), runtime({name: own_rows(batch[name]) for name in seen}))
        return totals(pred, batch), pred

    return eval_step
