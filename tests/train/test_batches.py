"""Batches that are larger than their data sets become smaller, in one place for all tasks."""

import logging

import jax
import pytest
from dots import Dots
from linear import Linear
from ml_collections import ConfigDict

from unireplknet_jax.tasks.base import get_task
from unireplknet_jax.train.batches import fit_batches, smallest_batch
from unireplknet_jax.train.sharding import make_mesh

MODEL = {"depths": (1, 1, 1, 1), "dims": (8, 8, 8, 8), "kernel_sizes": ((3,),) * 4, "num_classes": 3}
DECODER = {"width": 16, "heads": 2, "hidden": 32, "layers": 1, "moving_average": 5}


def fitted(examples, measured, task=None, devices=1, accumulate=1):
    """(batch_size, eval_batch_size) of a recipe of 64 and 32."""
    config = ConfigDict({"batch_size": 64, "eval_batch_size": 32, "accumulate": accumulate})
    fit_batches(config, task or Linear(), make_mesh(devices=jax.devices()[:devices]), examples, measured)
    return config.batch_size, config.eval_batch_size


def test_a_batch_fits_into_the_data(caplog):
    caplog.set_level(logging.INFO, "unireplknet_jax")
    assert fitted(64, 32) == fitted(1000, 1000) == fitted(64, 0) == (64, 32)
    assert caplog.messages == []
    assert fitted(63, 31) == (63, 31)
    assert caplog.messages == [
        "note: batch_size=64 is larger than the training set of 63 examples; it is now 63.",
        "note: eval_batch_size=32 is larger than the evaluation set of 31 examples; it is now 31.",
    ]


def test_it_stays_a_multiple_of_devices_micro_batches_and_groups():
    assert fitted(63, 9, devices=8) == (56, 16)
    assert fitted(63, 33, devices=8, accumulate=2) == (48, 32)
    grouped = get_task("classification", model={**MODEL, "bn_group": 12})
    assert fitted(63, 1, grouped, devices=8) == (48, 8)
    assert smallest_batch(grouped, make_mesh(devices=jax.devices()[:8]), 2) == 48


def test_groups_that_devices_tear_get_a_note(caplog):
    """6 examples on each of 8 devices: 12 in a group are two devices, 3 half of one, 16 none of both."""
    caplog.set_level(logging.INFO, "unireplknet_jax")
    for group in (3, 12, 16):
        task = get_task("classification", model={**MODEL, "bn_group": group})
        config = ConfigDict({"batch_size": 96, "eval_batch_size": 8, "accumulate": 2})
        fit_batches(config, task, make_mesh(devices=jax.devices()[:8]), 96, 8)
    (message,) = caplog.messages
    assert message.startswith("note: a device has 6 examples and 16 share the statistics of a batch norm (bn_group)")
    assert fitted(64, 32, get_task("classification", model={**MODEL, "bn_group": 24})) == (64, 32)
    assert len(caplog.messages) == 1  # one device holds everything


def test_groups_of_what_is_no_example_do_not_count():
    """The forecaster's groups are of maps, of which a window has many."""
    model = {name: value for name, value in MODEL.items() if name != "num_classes"} | {"bn_group": 350}
    sizes = {"tree": (3,), "history": 24, "label": 12, "horizon": 6, "stations": 3}
    task = get_task("forecasting", model=model, decoder=DECODER, **sizes)
    assert smallest_batch(task, make_mesh(devices=jax.devices()[:1])) == 1
    assert smallest_batch(Dots(), make_mesh(devices=jax.devices()[:1])) == 1


def test_too_few_examples_for_any_batch_are_refused():
    with pytest.raises(ValueError, match=r"the batch of 64 is larger than the training set of 7 examples.* one is 8;"):
        fitted(7, 1, devices=8)
