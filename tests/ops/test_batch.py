"""Work on each example of a batch, on one device and on many."""

import jax
import jax.numpy as jnp
import numpy as np

from unireplknet_jax.ops.batch import of_examples
from unireplknet_jax.train.sharding import batch_sharding, make_mesh


def halved(x, key, limit):
    """How x and a drawn number are after as many halvings as bring x below a limit."""

    def once(state):
        return state[0] / 2, state[1] / 2

    low, value = jax.lax.while_loop(
        lambda state: state[0] > limit, once, (jax.lax.stop_gradient(x[0]), jax.random.normal(key))
    )
    return {"low": low, "value": value * x[1]}


def test_loops_ask_no_other_device():
    x = np.stack([2.0 ** np.arange(8), np.arange(8)], axis=1).astype(np.float32)
    keys, limit = jax.random.split(jax.random.key(0), 8), np.float32(3)
    expected = jax.tree.map(np.asarray, jax.jit(jax.vmap(halved, (0, 0, None)))(x, keys, limit))
    assert expected["low"].max() <= 3

    def loss(x):
        found = of_examples(halved, (x, keys), (limit,))
        return jnp.sum(jnp.square(found["value"])), found

    gradient, found = jax.tree.map(np.asarray, jax.jit(jax.grad(loss, has_aux=True))(x))
    mesh = make_mesh()
    with jax.set_mesh(mesh):
        own = jax.device_put(x, batch_sharding(mesh))
        program = jax.jit(jax.grad(loss, has_aux=True)).lower(own).compile()
        split_gradient, split = program(own)
        one = jax.jit(lambda x: of_examples(halved, (x, keys[:1]), (limit,)))(x[:1])
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value)
        np.testing.assert_array_equal(split[name], value)
        np.testing.assert_array_equal(one[name], value[:1])
    assert len(split["value"].sharding.device_set) == 8
    np.testing.assert_allclose(split_gradient, gradient, rtol=1e-6)
    assert gradient[1:, 1].all()
    assert not any(name in program.as_text() for name in ("all-reduce", "all-gather", "all-to-all"))
