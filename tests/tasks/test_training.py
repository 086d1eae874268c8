"""A network in training: it draws by the key that it is given, and its batch statistics come back."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from unireplknet_jax.tasks.training import apply_training


class Noisy(nn.Module):
    """Half of the numbers are dropped, after a batch norm whose running mean is the last batch's."""

    @nn.compact
    def __call__(self, x, train=False):
        x = nn.BatchNorm(use_running_average=not train, momentum=0.0)(x)
        return nn.Dropout(0.5, deterministic=not train)(x)

    def negative(self, x, train=False):
        return -self(x, train)


def test_the_draws_are_those_of_the_key():
    x = jnp.arange(64.0).reshape(16, 4)
    network, key = Noisy(), jax.random.key(3)
    variables = network.init(key, x)
    output, statistics = apply_training(network.apply, variables, (x,), key)
    np.testing.assert_allclose(statistics["BatchNorm_0"]["mean"], np.mean(x, axis=0), rtol=1e-6)
    again, _ = apply_training(network.apply, variables, (x,), key)
    np.testing.assert_array_equal(again, output)
    other, _ = apply_training(network.apply, variables, (x,), jax.random.key(4))
    assert np.mean((other == 0) != (output == 0)) > 0.25  # half of the places, with two independent draws
    negative, _ = apply_training(network.apply, variables, (x,), key, method="negative")
    np.testing.assert_array_equal(negative == 0, output == 0)
    assert np.all(np.sign(negative) == -np.sign(output))
