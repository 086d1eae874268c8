"""Train states on disk: back on any mesh, only to the run they belong to, and past what is damaged."""

import asyncio
import errno
import gc
import json
import logging
import os
import shutil

import flax.linen as nn
import jax
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest
from jax.sharding import PartitionSpec
from linear import Linear, adamw
from orbax.checkpoint.handlers import JsonCheckpointHandler

from unireplknet_jax.train.checkpoint import TrainCheckpoints, saved_so_far
from unireplknet_jax.train.optimizer import make_optimizer
from unireplknet_jax.train.sharding import make_mesh
from unireplknet_jax.train.step import abstract_state, make_state

FACTS = {"batch_size": 16, "seed": 3, "labels": ["ant", "bee", "cat"]}
FACTS["files"] = {"ant": [30, 5], "bee": [31, 7], "cat": [2, 9]}
# When a read fails, Orbax leaves those of other parts unawaited, or lets them end after their event loop.
pytestmark = [
    pytest.mark.filterwarnings("ignore:coroutine .* was never awaited:RuntimeWarning"),
    pytest.mark.filterwarnings(
        "ignore:Exception ignored in. (None|<coroutine):pytest.PytestUnraisableExceptionWarning"
    ),
]

OPTIMIZER = make_optimizer(adamw(), np.full(3, 1e-2))


class Wide(Linear):
    """A kernel that is worth splitting, (4, 1024)."""

    def module(self, deploy=False):
        return nn.Dense(1024, use_bias=False)


@pytest.fixture(scope="module")
def states():
    """{step: state} with other numbers in every leaf, on a mesh of 4 x 2."""
    start = make_state(Wide(), OPTIMIZER, make_mesh(2), seed=0, ema=True)
    return {step: jax.tree.map(lambda leaf, step=step: leaf + step, start) for step in range(1, 6)}


def checkpoints_in(folder, mesh=None, facts=FACTS, keep=3, task=Wide):
    return TrainCheckpoints(folder, facts, abstract_state(task(), OPTIMIZER, mesh or make_mesh(2), ema=True), keep)


def save(folder, states, steps, **options):
    checkpoints = checkpoints_in(folder, **options)
    for step in steps:
        checkpoints.save(step, states[step])
    checkpoints.close()


def restore(folder, **options):
    checkpoints = checkpoints_in(folder, **options)
    try:
        return checkpoints.restore()
    finally:
        checkpoints.close()


@pytest.fixture(scope="module")
def three(tmp_path_factory, states):
    """A workdir with the steps 1, 2 and 3; not to be changed."""
    folder = tmp_path_factory.mktemp("three")
    save(folder, states, (1, 2, 3))
    return folder


@pytest.fixture
def workdir(three, tmp_path):
    """A copy of it."""
    yield shutil.copytree(three, tmp_path / "run")
    gc.collect()  # here, where its warnings are expected, and not in another test


def steps_in(folder):
    return sorted(int(path.name) for path in (folder / "checkpoints").iterdir() if path.name.isdigit())


def files_in(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def assert_same(ours, expected):
    jax.tree.map(np.testing.assert_array_equal, ours, expected)


def test_without_a_checkpoint_there_is_nothing_to_restore(tmp_path):
    assert restore(tmp_path) is None


@pytest.mark.parametrize(
    ("fsdp", "devices", "spec"),
    [(2, 8, (None, "fsdp")), (4, 8, (None, "fsdp")), (1, 8, ()), (1, 1, ())],
    ids=["4x2", "2x4", "8x1", "1x1"],
)
def test_the_newest_state_comes_back_on_any_mesh(three, states, fsdp, devices, spec):
    mesh = make_mesh(fsdp, jax.devices()[:devices])
    state = restore(three, mesh=mesh)
    assert_same(state, states[3])
    for leaf, like in zip(*map(jax.tree.leaves, (state, abstract_state(Wide(), OPTIMIZER, mesh, True))), strict=True):
        assert leaf.sharding == like.sharding
        assert leaf.dtype == like.dtype
    assert state["params"]["kernel"].sharding.spec == PartitionSpec(*spec)
    assert len(state["params"]["kernel"].addressable_shards) == devices


def test_what_one_device_wrote_comes_back_on_eight(tmp_path):
    alone, mesh = make_mesh(1, jax.devices()[:1]), make_mesh(2)
    state = make_state(Wide(), OPTIMIZER, alone, seed=0, ema=True)
    save(tmp_path, {7: state}, (7,), mesh=alone)
    ours = restore(tmp_path, mesh=mesh)
    assert_same(ours, state)
    assert ours["params"]["kernel"].addressable_data(0).shape == (4, 512)


def test_what_every_device_has_is_written_without_compiling_a_program(tmp_path, caplog):
    """Orbax would cut small arrays into a part for each device, by a program for every shape and part."""

    class Odd(Linear):
        def module(self, deploy=False):
            return nn.Dense(1016, use_bias=False)  # no other test's shapes

    state = make_state(Odd(), OPTIMIZER, make_mesh(), seed=0, ema=True)
    checkpoints = checkpoints_in(tmp_path, make_mesh(), task=Odd)
    with jax.log_compiles():
        checkpoints.save(1, state)
        checkpoints.close()
    assert "Compiling" not in caplog.text
    assert steps_in(tmp_path) == [1]


def test_only_the_newest_stay(tmp_path, states):
    save(tmp_path, states, (1, 2, 3, 4, 5), keep=2)
    assert steps_in(tmp_path) == [4, 5]
    assert_same(restore(tmp_path), states[5])


def test_a_step_that_is_there_is_not_written_again(workdir, states):
    before = files_in(workdir)
    checkpoints = checkpoints_in(workdir)
    checkpoints.save(3, states[1])
    checkpoints.close()
    assert files_in(workdir) == before


def largest_file(folder):
    return max((path for path in folder.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)


def truncate(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip_a_bit(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def overwrite(path):
    path.write_bytes(os.urandom(path.stat().st_size))


DAMAGE = {
    "data cut off": lambda folder: truncate(largest_file(folder / "state")),
    "data overwritten": lambda folder: overwrite(largest_file(folder / "state")),
    "data gone": lambda folder: largest_file(folder / "state").unlink(),
    "manifest empty": lambda folder: (folder / "state" / "manifest.ocdbt").write_bytes(b""),
    "tree gone": lambda folder: (folder / "state" / "_METADATA").unlink(),
    "tree cut off": lambda folder: truncate(folder / "state" / "_METADATA"),
    "state gone": lambda folder: shutil.rmtree(folder / "state"),
    "state empty": lambda folder: (shutil.rmtree(folder / "state"), (folder / "state").mkdir()),
    "facts empty": lambda folder: (folder / "facts" / "metadata").write_bytes(b""),
    "facts cut off": lambda folder: truncate(folder / "facts" / "metadata"),
    "facts of nothing": lambda folder: (folder / "facts" / "metadata").write_text("{}"),
    "facts gone": lambda folder: shutil.rmtree(folder / "facts"),
    "all gone": lambda folder: (shutil.rmtree(folder), folder.mkdir()),
}


def every_file(change):
    def damage(folder):
        for path in sorted((folder / "state").rglob("*")):
            if path.is_file():
                change(path)

    return damage


SEALED_DAMAGE = DAMAGE | {
    "a bit of the data flipped": lambda folder: flip_a_bit(largest_file(folder / "state")),
    "a bit of all flipped": every_file(flip_a_bit),
    "checksums cut off": lambda folder: truncate(folder / "checksums.json"),
}


@pytest.mark.parametrize(
    ("damage", "sealed"),
    [*((name, True) for name in SEALED_DAMAGE), *((name, False) for name in DAMAGE)],
)
def test_a_damaged_checkpoint_is_set_aside_for_the_one_before(workdir, states, caplog, damage, sealed):
    folder = workdir / "checkpoints"
    if not sealed:  # as if written before there were checksums
        (folder / "3" / "checksums.json").unlink()
    SEALED_DAMAGE[damage](folder / "3")
    damaged = {path.relative_to(folder / "3"): data for path, data in files_in(folder / "3").items()}
    caplog.set_level(logging.WARNING, "unireplknet_jax")
    checkpoints = checkpoints_in(workdir)
    assert_same(checkpoints.restore(), states[2])
    (record,) = [record for record in caplog.records if record.name == "unireplknet_jax.train.checkpoint"]
    assert record.getMessage().startswith(f"damaged checkpoints in {folder} are not used: step 3 (")
    assert "\n" not in record.getMessage()
    kept = folder / "damaged" / "3"
    assert {path.relative_to(kept): data for path, data in files_in(kept).items()} == damaged
    assert steps_in(workdir) == [1, 2]
    checkpoints.save(3, states[5])  # the run gets there again
    checkpoints.close()
    assert_same(restore(workdir), states[5])


def test_several_damaged_checkpoints_are_set_aside(workdir, states, caplog):
    for step in (2, 3):
        truncate(largest_file(workdir / "checkpoints" / str(step) / "state"))
    assert_same(restore(workdir), states[1])
    assert "step 3 (" in caplog.text
    assert "step 2 (" in caplog.text
    assert steps_in(workdir) == [1]
    assert sorted(path.name for path in (workdir / "checkpoints" / "damaged").iterdir()) == ["2", "3"]


def test_a_step_may_be_damaged_twice(workdir, states):
    for _ in range(2):
        truncate(largest_file(workdir / "checkpoints" / "3" / "state"))
        assert_same(restore(workdir), states[2])
        save(workdir, states, (3,))
    assert sorted(path.name for path in (workdir / "checkpoints" / "damaged").iterdir()) == ["3", "3.1"]


def test_when_all_are_damaged_nothing_is_moved(workdir):
    for step in (1, 2, 3):
        truncate(largest_file(workdir / "checkpoints" / str(step) / "state"))
    before = files_in(workdir)
    message = rf"no checkpoint in {workdir}/checkpoints can be read: step 3 \(.*\); step 2 \(.*\); step 1 \(.*\); put"
    with pytest.raises(ValueError, match=message) as caught:
        restore(workdir)
    assert str(caught.value).endswith("; put back a copy of one, or start in another workdir.")
    assert files_in(workdir) == before


def test_what_is_said_of_damage_is_short(workdir):
    for step in (1, 2, 3):
        (workdir / "checkpoints" / str(step) / "checksums.json").unlink()
        truncate(largest_file(workdir / "checkpoints" / str(step) / "state"))
    with pytest.raises(ValueError, match="no checkpoint in") as caught:
        restore(workdir)
    text = str(caught.value)
    assert "\\" not in text
    assert len(text) < 3 * 140 + 200


def test_all_files_of_a_state_have_checksums(three):
    for step in (1, 2, 3):
        folder = three / "checkpoints" / str(step)
        items = {path for path in files_in(folder) if path.parent != folder}
        assert {folder / name for name in json.loads((folder / "checksums.json").read_text())} == items


def test_a_state_without_checksums_is_read_without_a_word(workdir, states, caplog):
    (workdir / "checkpoints" / "3" / "checksums.json").unlink()
    assert_same(restore(workdir), states[3])
    assert [record for record in caplog.records if record.name.startswith("unireplknet_jax")] == []


PASSING = [
    ValueError("Error opening driver: UNAVAILABLE: connection reset [source locations='...']"),
    ValueError("PERMISSION_DENIED: no access"),
    ValueError("DEADLINE_EXCEEDED: 60 s"),
    TimeoutError(errno.ETIMEDOUT, "Connection timed out"),
    PermissionError(errno.EACCES, "Permission denied", "state"),
    OSError(errno.EIO, "Input/output error", "state"),
    RuntimeError("HTTP 503"),
    MemoryError("as large as the state"),
    jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory"),
]


@pytest.mark.parametrize("wrapped", [False, True])
@pytest.mark.parametrize("error", PASSING, ids=lambda error: str(error)[:24])
def test_what_may_pass_is_no_damage(workdir, monkeypatch, error, wrapped):
    def fail(*_):
        if wrapped:
            raise Exception("Encountered error while reading.") from error
        raise error

    before = files_in(workdir)
    monkeypatch.setattr(ocp.StandardCheckpointer, "restore", fail)
    with pytest.raises(OSError, match=r"the checkpoint at step 3 in .* could not be read \(.+\); nothing was moved"):
        restore(workdir)
    assert files_in(workdir) == before


@pytest.mark.parametrize("damaged", [False, True])
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"facts": FACTS | {"seed": 4}}, "this run has seed=4, but the checkpoint at step {step} was made with 3;"),
        (
            {"facts": FACTS | {"labels": ["bee", "cat", "zebra"]}},
            "this run has labels=zebra, but the checkpoint at step {step} was made with ant; resume",
        ),
        (
            {"facts": FACTS | {"labels": ["bee", "ant", "cat"]}},
            "this run has labels=bee, ant, cat, but the checkpoint at step {step} was made with ant, bee, cat; resume",
        ),
        (
            {"facts": FACTS | {"files": {"ant": [30, 5], "bee": [31, 6], "elk": [1, 3]}}},
            "the files are others than those that the checkpoint at step {step} was made with: "
            r"bee \(31, but with other names\), cat \(2, now 0\), elk \(0, now 1\); resume with the same or start in",
        ),
        ({"task": Linear}, "the checkpoint at step {step} is not of the network and optimizer of this recipe"),
    ],
)
def test_another_run_is_refused_and_nothing_is_moved(workdir, options, message, damaged):
    if damaged:
        truncate(workdir / "checkpoints" / "3" / "facts" / "metadata")
    before = files_in(workdir)
    with pytest.raises(ValueError, match=message.format(step=2 if damaged else 3)) as caught:
        restore(workdir, **options)
    assert "\n" not in str(caught.value)
    assert files_in(workdir) == before


def test_another_optimizer_is_refused(workdir):
    state = abstract_state(Wide(), optax.sgd(1e-2, momentum=0.9), make_mesh(2), ema=True)
    checkpoints = TrainCheckpoints(workdir, FACTS, state)
    with pytest.raises(ValueError, match=r"\(they differ in \['opt'\].* and \d+ more\); resume with its own recipe"):
        checkpoints.restore()
    checkpoints.close()


def test_what_an_interrupted_save_left_is_ignored(workdir, states):
    folder = workdir / "checkpoints"
    half = shutil.copytree(folder / "3", folder / "4.orbax-checkpoint-tmp-17")
    largest_file(half).unlink()
    assert_same(restore(workdir), states[3])
    assert steps_in(workdir) == [1, 2, 3]
    assert not (folder / "damaged").exists()


@pytest.mark.parametrize("noticed_by", ["save", "close"])
def test_a_full_disk_is_not_silent(tmp_path, states, monkeypatch, noticed_by):
    async def full(*args):
        await asyncio.sleep(0.5)  # until the other threads of this save are done
        raise OSError(errno.ENOSPC, "No space left on device")

    checkpoints = checkpoints_in(tmp_path)
    checkpoints.save(1, states[1])
    checkpoints._manager.wait_until_finished()
    monkeypatch.setattr(JsonCheckpointHandler, "_save_fn", full)
    checkpoints.save(2, states[2])
    notice = {"save": lambda: checkpoints.save(3, states[3]), "close": checkpoints.close}[noticed_by]
    with pytest.raises(OSError, match="No space left on device"):
        notice()
    assert steps_in(tmp_path) == [1]


def test_facts_are_stored_readably(three):
    facts = json.loads((three / "checkpoints" / "3" / "facts" / "metadata").read_text())
    assert {name: facts[name] for name in FACTS} == FACTS
    assert facts["state"]["['params']['kernel']"] == "float32[4, 1024]"


def test_what_is_saved_so_far_is_the_largest_step(tmp_path):
    assert saved_so_far(tmp_path) == "no step was saved yet."
    for name in ("damaged", "9", "100", "20", "3", "40.orbax-checkpoint-tmp"):
        (tmp_path / "checkpoints" / name).mkdir(parents=True)
    assert saved_so_far(tmp_path) == f"step 100 is saved in {tmp_path}, from which the same command goes on."
    assert saved_so_far("gs://b/run") == "the run goes on from what is saved in gs://b/run."
