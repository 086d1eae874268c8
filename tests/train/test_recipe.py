"""The section `eval` of a recipe, the place where its fields were before, and the rule about batch norm."""

import argparse

import pytest
from ml_collections import ConfigDict

from unireplknet_jax.cli.train import load_config
from unireplknet_jax.train.recipe import SHORT_RUN, base_config, completed, evaluation_options, recalibration
from unireplknet_jax.train.setup import make_task


def options_of(recipe, *overrides):
    return evaluation_options(completed(load_config(recipe, [f"--config.{word}" for word in overrides])))


def test_recipes_state_what_holds_in_evaluations():
    assert options_of("modelnet40.py:published") == {"votes": 8}
    assert options_of("scanobjectnn.py:runlocal") == {"votes": 1}
    assert options_of("ade20k.py:t") == options_of("finetune_masks.py:a") == {"scales": (1.0,), "mirror": False}
    assert options_of("kinetics400.py:s") == options_of("finetune_video.py:a") == {"segments": 1, "crops": 1}
    assert options_of("kinetics400.py:s", "eval.segments=2") == {"segments": 2, "crops": 1}
    assert options_of("small_images.py:digits") == evaluation_options(base_config()) == {}


def test_views_and_votes_count_where_older_recipes_have_them():
    older = completed(ConfigDict({"data": {"votes": 8, "views": (2, 3)}}))
    assert evaluation_options(older) == {"votes": 8, "segments": 2, "crops": 3}
    both = completed(ConfigDict({"data": {"votes": 8, "views": (2, 3)}, "eval": {"votes": 1, "crops": 4}}))
    assert evaluation_options(both) == {"votes": 1, "segments": 2, "crops": 4}


def test_an_override_of_the_old_place_is_one_of_the_new():
    config = load_config("modelnet40.py:distinct", ["--config.data.votes", "40"])
    assert (config.eval.votes, "votes" in config.data) == (40, False)
    message = r"has no field data\.views; did you mean eval\.segments and eval\.crops\?$"
    with pytest.raises(argparse.ArgumentError, match=message):
        load_config("kinetics400.py:s", ["--config.data.views=(5, 3)"])


def test_an_override_stays_where_the_recipe_has_the_field(tmp_path):
    recipe = tmp_path / "mine.py"
    recipe.write_text(
        "from unireplknet_jax.train.recipe import base_config\n"
        "def get_config():\n"
        "    config = base_config()\n"
        "    config.data.votes, config.data.views = 8, (1, 1)\n"
        "    config.eval.votes = 40\n"
        "    return config\n"
    )
    config = load_config(str(recipe), ["--config.data.votes=1", "--config.data.views=(5, 3)"])
    assert (config.data.votes, config.data.views, config.eval.votes) == (1, (5, 3), 40)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"vote": 8}, "^config.eval has 'vote', which is no option of the task points; did you mean votes"),
        ({"votes": 3}, "votes is 3; expected one"),
    ],
)
def test_options_that_cannot_hold_in_evaluations_are_refused_at_the_start(options, message):
    config = completed(load_config("modelnet40.py:distinct", []))
    config.eval = options
    with pytest.raises(ValueError, match=message):
        make_task(config)


def test_short_runs_alone_take_the_statistics_of_training_batches_unless_the_recipe_decides():
    config = base_config()
    assert recalibration(config, SHORT_RUN, 4) == (0, "as the run has 500 steps or more")
    assert recalibration(config, SHORT_RUN - 1, 100) == (16, "as the run has fewer than 500 steps")
    config.accumulate = 3
    assert recalibration(config, 60, 4)[0] == 12  # an epoch's micro-batches
    for asked in (0, 30):
        config.recalibrate = asked
        assert recalibration(config, 60, 4) == recalibration(config, 6000, 4) == (asked, "as the recipe says")


def test_small_recipes_ask_for_such_statistics_and_published_ones_do_not():
    for name in ("finetune", "finetune_masks", "finetune_sounds", "finetune_video", "modelnet40"):
        assert recalibration(load_config(f"{name}.py:small", []), 10_000, 10)[0] == 16
    for recipe in ("ade20k.py:t", "imagenet1k.py:a", "imagenet1k_384.py:s", "kinetics400.py:s", "modelnet40.py"):
        config = load_config(recipe, [])
        steps_per_epoch = config.data.train_examples // config.batch_size
        steps = config.steps or round(config.epochs * steps_per_epoch)
        assert recalibration(config, steps, steps_per_epoch)[0] == 0
    assert load_config("imagenet1k.py:a", ["--config.recalibrate=200"]).recalibrate == 200
