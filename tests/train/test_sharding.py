"""Where state and batches live, and that it changes nothing."""

import dataclasses
import functools
import re
from types import SimpleNamespace

import flax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec
from linear import Linear, adamw

from unireplknet_jax.tasks.classification import Classification
from unireplknet_jax.train import sharding
from unireplknet_jax.train.optimizer import make_optimizer
from unireplknet_jax.train.sharding import (
    batch_sharding,
    gather,
    make_mesh,
    micro_batch_sharding,
    state_shardings,
    to_devices,
)
from unireplknet_jax.train.step import abstract_state, make_state, make_train_step

# One block with FFT convolutions and batch norms, and weights that are worth splitting.
MODEL = {
    "depths": (1, 0, 0, 0),
    "dims": (32, 8, 8, 8),
    "kernel_sizes": ((7,), (), (), ()),
    "in_chans": 1,
    "num_classes": 10,
    "layer_scale_init": 1.0,
}
TASK = Classification(MODEL, image_size=16, mean=(0.5,), std=(0.5,), label_smoothing=0.1)
# The gradients of the branches' norm biases and of GRN's beta are rounding noise around 0, which an epsilon below it
# would turn into full steps in random directions.
OPTIMIZER = make_optimizer(adamw(eps=1e-3), np.full(3, 1e-2))


@pytest.mark.parametrize("fsdp", [0, 3, 16])
def test_a_mesh_that_the_devices_do_not_fill_is_refused(fsdp):
    with pytest.raises(ValueError, match=rf"mesh\.fsdp={fsdp} does not divide the 8 devices"):
        make_mesh(fsdp)


@pytest.mark.parametrize("fsdp", [1, 2])
def test_devices_stand_in_the_order_of_their_processes(monkeypatch, fsdp):
    class Device(str):
        """What a mesh asks of a device."""

        process_index = property(lambda self: int(self.split()[0]))
        id = property(lambda self: int(self.split()[1]))

    names = [f"{process} {id}" for process, id in ((0, 9), (8, 2), (0, 1), (8, 10), (1, 4), (1, 3), (2, 0), (2, 11))]
    seen = []
    monkeypatch.setattr(sharding, "Mesh", lambda devices, *_, **__: seen.append(devices))
    make_mesh(fsdp, [Device(name) for name in names])
    assert seen[0].shape == (8 // fsdp, fsdp)
    assert seen[0].ravel().tolist() == ["0 1", "0 9", "1 3", "1 4", "2 0", "2 11", "8 2", "8 10"]


def test_a_shuffled_list_of_devices_gives_the_same_mesh():
    assert make_mesh(2, jax.devices()[::-1]) == make_mesh(2)


def test_own_rows_come_in_their_order_each_once(monkeypatch):
    def shard(start, stop):
        return SimpleNamespace(index=(slice(start, stop),), data=jnp.arange(start or 0, stop))

    monkeypatch.setattr(sharding.jax, "process_count", lambda: 2)
    shards = [shard(*ends) for ends in ((6, 8), (4, 6), (6, 8), (4, 6))]
    found = sharding.own_rows(SimpleNamespace(addressable_shards=shards))
    np.testing.assert_array_equal(found, [4, 5, 6, 7])


def test_large_leaves_are_split_over_fsdp_along_their_largest_axis():
    leaves = {
        "tall": (512, 64),
        "wide": (64, 512),
        "odd": (511, 64),
        "indivisible": (511, 63),
        "small": (64, 63),
        "scalar": (),
    }
    shapes = {name: jax.ShapeDtypeStruct(shape, jnp.float32) for name, shape in leaves.items()}
    specs = {name: sharding.spec for name, sharding in state_shardings(make_mesh(2), shapes).items()}
    assert specs == {
        "tall": PartitionSpec("fsdp", None),
        "wide": PartitionSpec(None, "fsdp"),
        "odd": PartitionSpec(None, "fsdp"),
        "indivisible": PartitionSpec(),
        "small": PartitionSpec(),
        "scalar": PartitionSpec(),
    }
    assert {sharding.spec for sharding in state_shardings(make_mesh(1), shapes).values()} == {PartitionSpec()}


def test_a_batch_is_split_over_all_devices_and_its_ids_stay_behind():
    batch = {"image": np.arange(32.0).reshape(16, 2), "id": np.arange(16), "name": ["a"] * 16}
    arrays = to_devices(batch_sharding(make_mesh(2)), batch)
    assert list(arrays) == ["image"]
    np.testing.assert_array_equal(arrays["image"], batch["image"])
    assert [shard.data.shape for shard in arrays["image"].addressable_shards] == [(2, 2)] * 8


class Run:
    """Three steps of training on a mesh of (data, fsdp), and the program that made them."""

    def __init__(self, data, fsdp):
        mesh = make_mesh(fsdp, jax.devices()[: data * fsdp])
        self.shapes = abstract_state(TASK, OPTIMIZER, mesh)
        self.first = state = make_state(TASK, OPTIMIZER, mesh, seed=0)
        step = make_train_step(TASK, OPTIMIZER, mesh, self.shapes, seed=0)
        rng = np.random.default_rng(0)
        self.losses = []
        with jax.set_mesh(mesh):
            for _ in range(3):
                images, labels = rng.integers(0, 256, (16, 16, 16, 1), np.uint8), rng.integers(0, 10, 16, np.int32)
                batch = to_devices(micro_batch_sharding(mesh), {"image": images[None], "label": labels[None]})
                if not self.losses:
                    compiled = step.lower(state, batch).compile()
                    state = jax.tree.map(jnp.copy, state)  # what is given away is the copy
                state, scalars = compiled(state, batch)
                self.losses.append({name: float(value) for name, value in scalars.items()})
        self.state, self.text = state, compiled.as_text()


@pytest.fixture(scope="module")
def run():
    return functools.cache(Run)


MESHES = [(4, 2), pytest.param((8, 1), marks=pytest.mark.slow)]


def test_parameters_and_their_moments_are_born_split(run):
    state, shapes = run(4, 2).first, run(4, 2).shapes
    adam = state["opt"][1]
    for tree in (state["params"], adam.mu, adam.nu):
        kernel = tree["stages_0_0"]["pwconv1"]["kernel"]  # (32, 128)
        assert kernel.addressable_shards[0].data.shape == (32, 64)
        assert tree["head"]["kernel"].sharding.is_fully_replicated
    assert all(
        (leaf.sharding, leaf.shape, leaf.dtype) == (shape.sharding, shape.shape, shape.dtype)
        for leaf, shape in zip(jax.tree.leaves(state), jax.tree.leaves(shapes), strict=True)
    )


@pytest.mark.parametrize("mesh", MESHES)
def test_training_does_not_depend_on_the_mesh(run, mesh):
    expected, ours = run(1, 1), run(*mesh)
    for name in expected.first:
        jax.tree.map(np.testing.assert_array_equal, ours.first[name], expected.first[name])
    for one, other in zip(expected.losses, ours.losses, strict=True):
        assert other == pytest.approx(one, rel=1e-5)
    for name in ("params", "batch_stats"):
        for path, leaf in flax.traverse_util.flatten_dict(expected.state[name], sep="/").items():
            found = flax.traverse_util.flatten_dict(ours.state[name], sep="/")[path]
            np.testing.assert_allclose(found, leaf, rtol=0, atol=1e-5 * max(1, np.abs(leaf).max()), err_msg=path)
    moved = jax.tree.map(lambda a, b: float(jnp.max(jnp.abs(a - b))), expected.first, expected.state)
    assert moved["params"]["stages_0_0"]["dwconv"]["lk_origin"]["kernel"] > 1e-3
    assert moved["batch_stats"]["stages_0_0"]["norm"]["var"] > 0.1


def gathers(text):
    """The result shapes of all all-gathers in a program."""
    return re.findall(r"= \(?\w+\[([\d,]*)\]\S* all-gather", text)


@pytest.mark.parametrize("mesh", MESHES)
def test_a_step_gathers_split_parameters_and_no_activations(run, mesh):
    text, params = run(*mesh).text, jax.tree.leaves(run(*mesh).first["params"])
    split = [",".join(map(str, leaf.shape)) for leaf in params if not leaf.sharding.is_fully_replicated]
    assert len(split) == (3 if mesh == (4, 2) else 0)
    assert sorted(gathers(text)) == sorted(split)
    assert "all-reduce" in text
    assert not re.search("all-to-all|collective-permute", text)


@dataclasses.dataclass(frozen=True)
class Gathering(Linear):
    """Wants the whole batch on every device."""

    def loss(self, apply, variables, batch, rng):
        return super().loss(apply, variables, {**batch, "x": gather(make_mesh(), batch["x"])}, rng)


@pytest.mark.parametrize(("task", "expected"), [(Linear(), []), (Gathering(), ["1,16,4"])])
def test_a_gathered_batch_would_be_seen(task, expected):
    mesh = make_mesh()
    state = make_state(task, OPTIMIZER, mesh, seed=0)
    step = make_train_step(task, OPTIMIZER, mesh, abstract_state(task, OPTIMIZER, mesh), seed=0)
    batch = {"x": np.ones((1, 16, 4), np.float32), "y": np.ones((1, 16), np.float32)}
    rows = to_devices(micro_batch_sharding(mesh), batch)
    with jax.set_mesh(mesh):
        assert gathers(step.lower(state, rows).compile().as_text()) == expected
