"""The train state, a plain dict of pytrees, and the jitted functions on it."""

import jax
import jax.numpy as jnp
import optax

from unireplknet_jax.train.sharding import batch_sharding, gather, replicated, state_shardings


def make_state(task, optimizer, mesh, seed):
    """{"params", "batch_stats", "opt", "step"}, every array born on its devices, and the same tree of shardings."""
    module = task.module()
    example = task.shapes(train=False)[0]

    def init():
        variables = {}

        def apply(_, *inputs, **options):
            output, made = module.init_with_output(jax.random.key(seed), *inputs, **options)
            variables.update(made)
            return output

        # Only the task knows what its network takes, so the network is initialized where `predict` applies it.
        task.predict(apply, {}, {name: jnp.zeros((1, *leaf.shape), leaf.dtype) for name, leaf in example.items()})
        params = variables["params"]
        return {
            "params": params,
            "batch_stats": variables.get("batch_stats", {}),
            "opt": optimizer.init(params),
            "step": jnp.zeros((), jnp.int32),
        }

    shardings = state_shardings(mesh, jax.eval_shape(init))
    return jax.jit(init, out_shardings=shardings)(), shardings


def variables_of(state):
    """The model's variables in a train state."""
    return {"params": state["params"], "batch_stats": state["batch_stats"]}


def make_train_step(task, optimizer, mesh, shardings, seed):
    """The jitted (state, batch) -> (state, scalars); the old state is donated. Scalars are means over the batch.

    Randomness is a function of (seed, step), so a resumed run draws what the uninterrupted one would have drawn.
    """
    module = task.module()

    def train_step(state, batch):
        rng = jax.random.fold_in(jax.random.key(seed + 1), state["step"])

        def loss(params):
            variables = {"params": gather(mesh, params), "batch_stats": state["batch_stats"]}
            return task.loss(module.apply, variables, batch, rng)

        gradients, out = jax.grad(loss, has_aux=True)(state["params"])
        updates, opt = optimizer.update(gradients, state["opt"], state["params"])
        scalars = {name: total / jnp.maximum(count, 1) for name, (total, count) in out["scalars"].items()}
        scalars["grad_norm"] = optax.tree.norm(gradients)
        new_state = {
            "params": optax.apply_updates(state["params"], updates),
            "batch_stats": out["batch_stats"],
            "opt": opt,
            "step": state["step"] + 1,
        }
        return new_state, scalars

    return jax.jit(
        train_step,
        donate_argnums=0,
        in_shardings=(shardings, batch_sharding(mesh)),
        out_shardings=(shardings, replicated(mesh)),
    )


def make_eval_step(task, mesh, deploy):
    """The jitted (variables, batch) -> (totals, predictions), both replicated."""
    module = task.module(deploy)

    def eval_step(variables, batch):
        pred = task.predict(module.apply, gather(mesh, variables), batch)
        return task.totals(pred, batch), pred

    return jax.jit(eval_step, out_shardings=(replicated(mesh), replicated(mesh)))
