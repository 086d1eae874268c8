"""A recipe's numbers are checked before anything else is done with it."""

import dataclasses
import math
import re
from pathlib import Path

import pytest

from unireplknet_jax.cli.train import load_config
from unireplknet_jax.train import setup
from unireplknet_jax.train.optimizer import make_schedule
from unireplknet_jax.train.recipe import base_config
from unireplknet_jax.train.setup import check_stop, make_task
from unireplknet_jax.train.sharding import make_mesh

RECIPE = str(Path(__file__).parents[2] / "configs" / "small_images.py") + ":digits"
NAN, INF = math.nan, math.inf
COUNTS = ("batch_size", "accumulate", "eval_batch_size", "log_every", "checkpoint.every_steps", "checkpoint.keep")
WRONG = {
    **dict.fromkeys((*COUNTS, "mesh.fsdp"), (0, -1)),
    **dict.fromkeys(("data.workers", "data.num_threads", "data.train_examples", "stop.patience"), (-1,)),
    **dict.fromkeys(("epochs", "eval_every_epochs", "optim.lr", "optim.eps"), (0.0, -1.0, NAN, INF)),
    **dict.fromkeys(("steps", "examples", "eval_every_steps", "eval_every_examples"), (-1,)),
    **dict.fromkeys(("eval_every_percent", "optim.warmup_percent"), (-0.1, NAN, INF)),
    **dict.fromkeys(("optim.warmup_steps", "optim.warmup_examples", "recalibrate"), (-1,)),
    **dict.fromkeys(("optim.layer_groups", "ema.ramp_steps"), (0, -1)),
    "optim.power": (0.0, -1.0, NAN, INF),
    "optim.warmup_ratio": (-0.1, 1.1, NAN, INF),
    **dict.fromkeys(("optim.min_lr", "optim.warmup_epochs", "optim.clip_norm"), (-0.1, NAN, INF)),
    **dict.fromkeys(("optim.weight_decay", "optim.weight_decay_end"), (-0.1, NAN, INF)),
    **dict.fromkeys(("ema.decay", "optim.b1", "optim.b2"), (-0.1, 1.0, NAN)),
    **dict.fromkeys(("optim.layer_decay", "optim.milestone_factor"), (0.0, -0.1, 1.1, NAN)),
}
FIRST = {**dict.fromkeys(WRONG, 0), **dict.fromkeys((*COUNTS, "mesh.fsdp", "optim.layer_decay"), 1), "optim.eps": 1e-30}
FIRST |= {"optim.milestone_factor": 1e-30, "epochs": 1e-3, "eval_every_epochs": 1e-3, "optim.lr": 1e-30}
FIRST |= {"steps": 1, "examples": 1, "eval_every_steps": 1, "eval_every_examples": 1, "eval_every_percent": 1e-3}
FIRST |= {"optim.layer_groups": 1, "ema.ramp_steps": 1, "optim.power": 1e-30}


def recipe(field, value):
    return load_config(RECIPE, [f"--config.{field}={value}"])


@pytest.mark.parametrize(("field", "value"), [(field, value) for field, values in WRONG.items() for value in values])
def test_a_number_that_cannot_be_is_refused_by_its_field(field, value):
    with pytest.raises(ValueError, match=rf"^{re.escape(f'{field}={value}')} must be "):
        make_task(recipe(field, value))


@pytest.mark.parametrize(
    ("metric", "decay", "hint"),
    [
        ("zzz", 0, "choose top1, top5, loss, count"),
        ("Top1", 0, "did you mean top1"),
        ("ema/top1", 0, "did you mean top1"),
        ("ema/los", 0.9, "did you mean ema/loss"),
    ],
)
def test_a_metric_that_is_not_measured_ends_no_run_and_is_refused_at_its_start(metric, decay, hint):
    config = recipe("stop.metric", metric)
    config.ema.decay = decay
    with pytest.raises(ValueError, match=rf"^stop.metric={metric} is not measured; {re.escape(hint)}"):
        check_stop(config, make_task(config))
    for known in ("", "top1", "loss", *(["ema/top5"] if decay else [])):
        config.stop.metric = known
        check_stop(config, make_task(config))


def test_top5_of_few_classes_is_refused_where_others_would_be_taken(tmp_path):
    config = recipe("stop.metric", "top5")
    task = dataclasses.replace(make_task(config), model=dict(make_task(config).model) | {"num_classes": 4}, labels=())
    with pytest.raises(
        ValueError, match=r"measured: of five classes and fewer it would always be 100; did you mean top1"
    ):
        check_stop(config, task)


@pytest.mark.parametrize("schedule", ["cosine", "polynomial", "multistep"])
def test_a_rate_that_would_rise_is_refused(schedule):
    config = recipe("optim.schedule", schedule)
    config.optim.lr, config.optim.min_lr = 1e-3, 2e-3
    if schedule == "multistep":
        assert len(make_schedule(config.optim, 2, 10)) == 20
        return
    with pytest.raises(ValueError, match=r"^optim.min_lr=0.002 is above optim.lr=0.001, so that the rate would rise"):
        make_schedule(config.optim, 2, 10)


@pytest.mark.parametrize("field", WRONG)
def test_the_smallest_number_that_can_be_is_taken(field):
    assert make_task(recipe(field, FIRST[field])).name == "classification"


def test_every_number_of_a_recipe_is_checked():
    numbers = set()
    for name, value in base_config().items():
        fields = {f"{name}.{key}": part for key, part in value.items()} if hasattr(value, "items") else {name: value}
        numbers |= {field for field, part in fields.items() if type(part) in (int, float)}
    no_numbers_yet = {"optim.weight_decay_end", "optim.warmup_ratio", "recalibrate"}
    assert numbers - {"seed"} == set(WRONG) - no_numbers_yet  # `training_stream` checks the seed


def test_a_run_in_steps_is_as_long_whatever_the_data_are():
    words = ("steps=700", "optim.warmup_steps=70", "eval_every_steps=50", "optim.schedule=polynomial")
    config = load_config(RECIPE, [f"--config.{word}" for word in (*words, "optim.min_lr=0", "optim.warmup_ratio=1e-6")])
    run = setup.set_up(config, make_task(config), make_mesh(), 1437)
    assert (run.steps, run.steps_per_epoch, run.eval_every) == (700, 22, 50)
    assert run.schedule[350] == pytest.approx(config.optim.lr / 2, rel=1e-12)
    assert run.schedule[35] == pytest.approx(config.optim.lr * 0.95 * (1 + 1e-6) / 2, rel=1e-12)


def test_the_moving_average_of_a_recipe_reaches_the_step(monkeypatch):
    seen = []
    monkeypatch.setattr(setup, "make_train_step", lambda *args: seen.append(args[5:]))
    config = load_config(
        RECIPE, ["--config.ema.decay=0.9", "--config.ema.ramp=exponential", "--config.ema.ramp_steps=7"]
    )
    for changed in (config, load_config(RECIPE, [])):
        setup.set_up(changed, make_task(changed), make_mesh(), 1437)
    assert seen == [(0.9, "exponential", 7), (None, "", 2000)]


def test_the_sentence_says_what_can_be():
    with pytest.raises(ValueError, match=r"^mesh\.fsdp=0 must be 1 or more\.$"):
        make_task(recipe("mesh.fsdp", 0))
    with pytest.raises(ValueError, match=r"^ema\.decay=1\.0 must be 0 or more and below 1\.$"):
        make_task(recipe("ema.decay", 1.0))
    with pytest.raises(ValueError, match=r"^optim\.lr=inf must be above 0, and finite\.$"):
        make_task(recipe("optim.lr", INF))
