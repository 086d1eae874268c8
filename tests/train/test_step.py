"""The jitted train step on the smallest of tasks, by numbers."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from linear import ADAMW, Linear, adamw

from unireplknet_jax.tasks.classification import Classification
from unireplknet_jax.train.optimizer import make_optimizer
from unireplknet_jax.train.sharding import make_mesh, micro_batch_sharding, to_devices
from unireplknet_jax.train.step import RAMPS, _squares, abstract_state, make_state, make_train_step, variables_of

RATE = 0.01


class Trainer:
    """A train step and its fresh state on all devices."""

    def __init__(self, seed=0, task=None, ema=None, variables=None, optim=ADAMW, ramp=("", 1)):
        self.task = task = task or Linear()
        self.mesh = make_mesh()
        optimizer = make_optimizer(optim, np.full(100, RATE))
        shapes = abstract_state(task, optimizer, self.mesh, ema is not None)
        self.state = make_state(task, optimizer, self.mesh, seed, ema is not None, variables)
        self.train_step = make_train_step(task, optimizer, self.mesh, shapes, seed, ema, *ramp)

    def step(self, batch, accumulate=1):
        with jax.set_mesh(self.mesh):
            rows = {name: column.reshape(accumulate, -1, *column.shape[1:]) for name, column in batch.items()}
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
    assert scalars["update_norm/kernel"] == pytest.approx(np.linalg.norm(expected - before), rel=1e-4)


def test_an_update_that_is_not_finite_is_seen_in_its_own_step(batch):
    scalars = Trainer(optim=adamw(weight_decay=np.nan)).step(batch)
    assert [name for name, value in scalars.items() if not np.isfinite(value)] == ["update_norm/kernel"]


@pytest.mark.parametrize("devices", [1, 8])
def test_the_optimizer_is_a_list_of_programs_of_its_own_on_one_cpu_device_only(devices, batch):
    mesh, task = make_mesh(devices=jax.devices()[:devices]), Linear()
    optimizer = make_optimizer(ADAMW, np.full(100, RATE))
    state = abstract_state(task, optimizer, mesh)
    step = make_train_step(task, optimizer, mesh, state, 0)
    rows = {name: jax.ShapeDtypeStruct((1, *batch[name].shape), batch[name].dtype) for name in ("x", "y")}
    with jax.set_mesh(mesh):
        text = step.lower(state, rows).compile().as_text()
    assert (re.search(r" call\(.*inlineable=", text) is not None) == (devices == 1)


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


def test_a_network_is_initialized_on_what_the_task_gives_it():
    class Scaled(Linear):
        def inputs(self, batch):
            return (2 * batch["x"][:, :3],)

    assert Trainer(task=Scaled()).kernel().shape == (3,)


def test_micro_batches_give_the_gradient_of_the_whole_batch(batch):
    whole, parts = Trainer(), Trainer()
    one, other = whole.step(batch), parts.step(batch, accumulate=2)
    assert one.pop("drawn") != other.pop("drawn")  # the second is the mean of two draws
    assert other == pytest.approx(one, rel=1e-6)
    np.testing.assert_allclose(parts.kernel(), whole.kernel(), rtol=0, atol=1e-7)
    assert int(parts.state["step"]) == 1


@pytest.mark.parametrize("count", [2, 4])
def test_every_micro_batch_of_every_step_draws_its_own_numbers(count):
    class Drawing(Linear):
        """Reports what each micro-batch drew under the name of its number."""

        def loss(self, apply, variables, batch, rng):
            value, out = super().loss(apply, variables, batch, rng)
            drawn, number = jax.random.uniform(rng), batch["number"][0]
            each = {f"drawn {i}": (jnp.where(number == i, drawn, 0), number == i) for i in range(count)}
            return value, {**out, "scalars": out["scalars"] | each}

    rows = {"x": np.ones((8 * count, 4), np.float32), "y": np.ones(8 * count, np.float32)}
    batch, trainer = rows | {"number": np.repeat(np.arange(count), 8)}, Trainer(task=Drawing())
    drawn = [scalars[f"drawn {i}"] for scalars in (trainer.step(batch, count) for _ in range(2)) for i in range(count)]
    assert all(0 < value < 1 for value in drawn)
    assert len(set(drawn)) == 2 * count


def test_running_statistics_go_from_one_micro_batch_to_the_next():
    model = {"depths": (1, 0, 0, 0), "dims": (8,) * 4, "kernel_sizes": ((3,), (), (), ()), "num_classes": 3}
    trainer = Trainer(task=Classification(model, image_size=8))
    rng = np.random.default_rng(0)
    batch = {"image": rng.integers(0, 256, (16, 8, 8, 3), np.uint8), "label": rng.integers(0, 3, 16, np.int32)}
    variables = jax.tree.map(jnp.copy, variables_of(trainer.state))
    trainer.step(batch, accumulate=2)
    module = trainer.task.module()
    apply = jax.jit(lambda variables, images: module.apply(variables, images, train=True, mutable=["batch_stats"]))
    for half in (slice(0, 8), slice(8, 16)):
        images = trainer.task.normalized(jnp.asarray(batch["image"][half]))
        _, updates = apply(variables, images)
        variables |= updates
    jax.tree.map(
        lambda ours, expected: np.testing.assert_allclose(ours, expected, rtol=1e-5, atol=1e-7),
        trainer.state["batch_stats"],
        variables["batch_stats"],
    )


def test_the_moving_average_follows_the_parameters_from_a_copy(batch):
    trainer = Trainer(ema=0.75)
    average = trainer.kernel()
    for _ in range(3):
        trainer.step(batch)
        average = 0.75 * average + 0.25 * trainer.kernel()
        ours = np.asarray(trainer.state["ema"]["params"]["kernel"])[:, 0]
        np.testing.assert_allclose(ours, average, rtol=1e-6)
    assert np.max(np.abs(average - trainer.kernel())) > 1e-3


@pytest.mark.parametrize(
    ("ramp", "decays"),
    [
        (("count", 1), [1 / 10, 2 / 11, 3 / 12, 0.3, 0.3]),  # (1 + t) / (10 + t), which would be 4 / 13, 5 / 14
        (("exponential", 2), [0.3 * (1 - np.exp(-(1 + t) / 2)) for t in range(5)]),
    ],
)
def test_the_moving_average_may_ramp(batch, ramp, decays):
    trainer = Trainer(ema=0.3, ramp=ramp)
    average = trainer.kernel()
    for decay in decays:
        trainer.step(batch)
        average = decay * average + (1 - decay) * trainer.kernel()
        np.testing.assert_allclose(trainer.state["ema"]["params"]["kernel"][:, 0], average, rtol=1e-6)


def test_the_published_ramp_of_detection():
    """mmdetection's ExpMomentumEMAHook: momentum (1 - 1e-4) * exp(-(1 + t) / 2000) + 1e-4, the share of the new."""
    shares = [float(RAMPS["exponential"](0.9999, jnp.float32(t), 2000)) for t in (0, 1999, 40_000)]
    np.testing.assert_allclose(shares, [0.99950017, 0.36794265, 0.00010000206], rtol=1e-6)


def test_an_unknown_ramp_is_refused():
    message = r"^ema\.ramp='slow' is not known; expected one of '', 'count', 'exponential'\.$"
    with pytest.raises(ValueError, match=message):
        Trainer(ema=0.5, ramp=("slow", 1))


def test_variables_to_start_from_are_copied_and_survive_the_first_step(batch):
    given = {"params": {"kernel": jax.device_put(np.ones((4, 1), np.float32))}, "batch_stats": {}}
    trainer = Trainer(ema=0.5, variables=given)
    np.testing.assert_array_equal(trainer.kernel(), np.ones(4))
    np.testing.assert_array_equal(trainer.state["ema"]["params"]["kernel"], np.ones((4, 1)))
    trainer.step(batch)
    np.testing.assert_array_equal(given["params"]["kernel"], np.ones((4, 1)))


def test_gradient_norms_come_for_every_part_of_the_tree(batch):
    scalars = Trainer().step(batch)
    assert set(scalars) == {"loss", "drawn", "grad_norm", "grad_norm/kernel", "update_norm/kernel"}
    assert scalars["grad_norm/kernel"] == scalars["grad_norm"]
    large = jnp.full((64, 64), 2.0)  # not laid end to end with the others
    tree = {
        "a": {"x": jnp.array([3.0]), "y": jnp.array([[4.0]])},
        "b": {"x": jnp.array([12.0]), "y": large},
        "c": large,
    }
    assert _squares(tree) == {"a": 25, "b": 144 + 4 * 64**2, "c": 4 * 64**2}
