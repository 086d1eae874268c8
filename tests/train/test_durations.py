"""Durations in epochs, steps, examples or percent, from the recipe to the steps of a run."""

import pytest
from ml_collections import ConfigDict

from unireplknet_jax.cli.train import load_config
from unireplknet_jax.train.durations import steps_of
from unireplknet_jax.train.recipe import base_config, completed
from unireplknet_jax.train.setup import make_task, set_up
from unireplknet_jax.train.sharding import make_mesh

DIGITS = "small_images.py:digits"  # 1,437 examples in batches of 64: 22 steps an epoch


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"epochs": 2.5}, 5),  # of 2 steps: the last, partial batch is dropped
        ({"epochs": 0.0, "steps": 7}, 7),
        ({"epochs": 0.0, "steps": 0, "examples": 10}, 2.5),
        ({"optim.warmup_epochs": 0.25}, 0.5),
        ({"optim.warmup_steps": 1000}, 1000),
        ({"eval_every_examples": 3}, 0.75),
        ({"eval_every_percent": 5.0}, 10),
        ({"eval_every_percent": 7.0}, 14),  # exactly, so that rounding up does not add a step
        ({"epochs": 0.0, "steps": 0, "examples": 0}, 0),
    ],
)
def test_a_duration_in_steps(fields, expected):
    assert steps_of(fields, batch_size=4, examples=11, total=200) == expected


def test_two_units_are_one_too_many():
    message = r"^epochs=3 and examples=1\.5e\+06 say the same thing in different units; set all but one of them to 0\.$"
    with pytest.raises(ValueError, match=message):
        steps_of({"epochs": 3.0, "steps": 0, "examples": 1_500_000}, 4, 11)


def planned(*overrides):
    """The `Run` of digits with overrides ["steps=50", ...]."""
    config = completed(load_config(DIGITS, [f"--config.{word}" for word in overrides]))
    return set_up(config, make_task(config), make_mesh(), 1437)


@pytest.mark.parametrize(
    ("overrides", "steps", "eval_every"),
    [
        ((), 880, 110),  # 40 epochs, evaluated every 5
        (("epochs=1.5",), 33, 110),
        (("steps=50", "eval_every_percent=10"), 50, 5),
        (("examples=6400", "eval_every_steps=7"), 100, 7),
        (("steps=50", "eval_every_examples=100"), 50, 2),
        (("epochs=2", "eval_every_epochs=0.1"), 44, 3),
    ],
)
def test_the_length_of_a_run_and_its_evaluations_in_every_unit(overrides, steps, eval_every):
    run = planned("optim.warmup_epochs=0", *overrides)
    assert (run.steps, run.eval_every, run.steps_per_epoch) == (steps, eval_every, 22)


@pytest.mark.parametrize("warmup", ["steps=11", "epochs=0.5", "examples=704", "percent=5"])
def test_a_warm_up_in_every_unit(warmup):
    run = planned("steps=220", f"optim.warmup_{warmup}", "optim.lr=0.5")
    assert run.schedule[:12].tolist() == pytest.approx([0.05 * t for t in range(11)] + [0.5])
    assert run.schedule[12] < 0.5


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("epochs=3", "steps=50"), r"^epochs=3 and steps=50 say the same thing"),
        (("steps=0",), r"^epochs=0\.0 must be above 0, unless steps or examples is\.$"),
        (("eval_every_steps=0",), r"^eval_every_epochs=0\.0 must be above 0, unless eval_every_steps or eval_"),
        (("optim.warmup_steps=5", "optim.warmup_percent=1"), r"^optim\.warmup_steps=5 and optim\.warmup_percent=1 say"),
        (
            ("steps=50", "optim.warmup_steps=51"),
            r"^optim\.warmup_steps=51 does not fit a run of 2\.27273 epochs, 50 st",
        ),
        (("examples=20", "optim.warmup_steps=0"), r"^examples=20 is less than one step of 64 examples; raise it\.$"),
    ],
)
def test_durations_that_cannot_be_are_refused_by_their_fields(overrides, message):
    with pytest.raises(ValueError, match=message):
        planned(*overrides)


def test_an_override_takes_the_place_of_the_recipes_unit():
    config = load_config("audioset.py:balanced", ["--config.optim.warmup_epochs=0", "--config.steps", "99"])
    assert (config.epochs, config.steps, config.examples) == (0, 99, 0)
    assert (config.optim.warmup_epochs, config.optim.warmup_steps) == (0, 0)
    assert config.eval_every_epochs == 1


def test_a_recipe_of_epochs_stays_as_it_was(tmp_path):
    """As recipes were written when there was no other unit."""
    recipe = tmp_path / "mine.py"
    recipe.write_text(
        "from unireplknet_jax.train.recipe import base_config\n"
        "def get_config():\n"
        "    config = base_config()\n"
        "    config.epochs, config.eval_every_epochs, config.optim.warmup_epochs = 3, 0.5, 1\n"
        "    return config\n"
    )
    own = ConfigDict({"epochs": 3, "eval_every_epochs": 0.5, "optim": {"warmup_epochs": 1}})
    for config in (completed(load_config(str(recipe), [])), completed(own)):
        assert (config.epochs, config.steps, config.examples) == (3, 0, 0)
        assert (config.eval_every_epochs, config.eval_every_steps) == (0.5, 0)
        assert (config.optim.warmup_epochs, config.optim.warmup_steps) == (1, 0)


def test_a_default_in_another_unit_is_not_for_a_recipe_that_states_its_own():
    config = completed(ConfigDict({"steps": 5, "eval_every_steps": 2}))
    assert (config.steps, config.eval_every_steps, config.eval_every_epochs) == (5, 2, 0)
    assert completed(ConfigDict({"steps": 5})).eval_every_epochs == base_config().eval_every_epochs == 1
