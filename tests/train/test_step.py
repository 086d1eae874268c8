"""The jitted train step on the smallest of tasks, by numbers."""

import jax
import numpy as np
import pytest
from linear import ADAMW, Linear

from unireplknet_jax.train.optimizer import make_optimizer
from unireplknet_jax.train.sharding import make_mesh, micro_batch_sharding, to_devices
from unireplknet_jax.train.step import abstract_state, make_state, make_train_step, variables_of

RATE = 0.01


class Trainer:
    """A train step and its fresh state on all devices."""

    def __init__(self, seed=0, task=None):
        task, self.mesh = task or Linear(), make_mesh()
        optimizer = make_optimizer(ADAMW, np.full(100, RATE))
        self.state = make_state(task, optimizer, self.mesh, seed)
        self.train_step = make_train_step(task, optimizer, self.mesh, abstract_state(task, optimizer, self.mesh), seed)

    def step(self, batch):
        with jax.set_mesh(self.mesh):
            rows = {name: column[None] for name, column in batch.items()}
            self.state, scalars = self.train_step(self.state, to_devices(micro_batch_sharding(self.mesh), rows))
        return {name: float(value) for name, value in scalars.items()}

    def kernel(self):
        return np.asarray(self.state["params"]["kernel"], np.float64)[:, 0]


@pytest.fixture
def batch():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(16, 4)), rng.normal(size=16)
    return {"x": x.astype(np.float32), "y": y.astype(np.float32), "id": np.arange(16)}


def test_one_step_by_hand(batch):
    trainer = Trainer()
    before = trainer.kernel()
    scalars = trainer.step(batch)
    errors = batch["x"] @ before - batch["y"]
    gradient = 2 * batch["x"].T @ errors / 16
    # Means and gradients of 16 float32 terms.
    assert scalars["loss"] == pytest.approx(np.mean(errors**2), rel=1e-6)
    assert scalars["grad_norm"] == pytest.approx(np.linalg.norm(gradient), rel=1e-6)
    # The first step of AdamW is the rate times the sign of the gradient, after the decay.
    expected = before * (1 - RATE * ADAMW.weight_decay) - RATE * gradient / (np.abs(gradient) + ADAMW.eps)
    np.testing.assert_allclose(trainer.kernel(), expected, rtol=0, atol=2e-7)


def test_training_on_one_batch_reduces_its_loss_at_every_step(batch):
    trainer = Trainer()
    losses = [trainer.step(batch)["loss"] for _ in range(30)]
    assert np.all(np.diff(losses) < 0)
    assert losses[-1] < 0.9 * losses[0]


def test_steps_are_counted_and_the_old_state_is_given_away(batch):
    trainer = Trainer()
    old = trainer.state
    assert int(old["step"]) == 0
    trainer.step(batch)
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(old))
    assert int(trainer.state["step"]) == 1
    assert variables_of(trainer.state) == {"params": trainer.state["params"], "batch_stats": {}}


def test_randomness_depends_on_seed_and_step_alone(batch):
    first, again, other = Trainer(seed=1), Trainer(seed=1), Trainer(seed=2)
    drawn = [first.step(batch)["drawn"] for _ in range(3)]
    assert len(set(drawn)) == 3
    assert other.step(batch)["drawn"] not in drawn
    again.state = jax.tree.map(lambda x: x + 2 if x.dtype == np.int32 and x.ndim == 0 else x, again.state)
    assert again.step(batch)["drawn"] == drawn[2]


def test_the_seed_makes_the_parameters():
    first, again, other = Trainer(seed=1), Trainer(seed=1), Trainer(seed=2)
    np.testing.assert_array_equal(first.kernel(), again.kernel())
    assert np.all(first.kernel() != other.kernel())


def test_without_images_a_network_is_initialized_where_predict_applies_it():
    class Scaled(Linear):
        def predict(self, apply, variables, batch):
            return {"y": apply(variables, 2 * batch["x"][:, :3])}

    assert Trainer(task=Scaled()).kernel().shape == (3,)
