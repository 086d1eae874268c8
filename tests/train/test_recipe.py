"""The section `eval` of a recipe, and the place where its fields were before."""

import pytest
from ml_collections import ConfigDict

from unireplknet_jax.cli.train import load_config
from unireplknet_jax.train import loop
from unireplknet_jax.train.recipe import base_config, completed, evaluation_options


class Opened(Exception):
    """What a run opens its data with."""


class Task:
    """Raises `Opened` whatever is done with it."""

    def __getattr__(self, name):
        def called(data, *args, **options):
            raise Opened(data)

        return called


@pytest.fixture
def opened_with(monkeypatch, tmp_path):
    """config -> the data that a run of it hands to its task."""
    monkeypatch.setattr(loop, "make_task", lambda config: Task())

    def run(config):
        with pytest.raises(Opened) as caught:
            loop.train(config, tmp_path / "run")
        return caught.value.args[0]

    return run


def test_views_and_votes_reach_the_data_from_their_section(opened_with):
    assert opened_with(load_config("modelnet40.py:published", []))["votes"] == 8
    assert opened_with(load_config("kinetics400.py:s", ["--config.eval.views=(2, 3)"]))["views"] == (2, 3)
    plain = opened_with(load_config("small_images.py:digits", []))
    assert not {"views", "votes"} & {*plain}


@pytest.mark.parametrize("section", ["data", "eval"])
def test_views_and_votes_reach_the_data_from_either_place(opened_with, section):
    data = opened_with(ConfigDict({section: {"votes": 8, "views": (1, 2)}}))
    assert (data["votes"], data["views"]) == (8, (1, 2))


def test_the_new_place_wins(opened_with):
    assert opened_with(ConfigDict({"data": {"votes": 8}, "eval": {"votes": 1}}))["votes"] == 1


def test_an_override_of_the_old_place_is_one_of_the_new():
    config = load_config("modelnet40.py:distinct", ["--config.data.votes", "40"])
    assert (config.eval.votes, "votes" in config.data) == (40, False)
    assert load_config("kinetics400.py:s", ["--config.data.views=(5, 3)"]).eval.views == (5, 3)


def test_an_override_of_a_recipe_that_has_the_old_place_stays_there(tmp_path):
    recipe = tmp_path / "mine.py"
    recipe.write_text(
        "from unireplknet_jax.train.recipe import base_config\n"
        "def get_config():\n"
        "    config = base_config()\n"
        "    config.data.votes = 8\n"
        "    return config\n"
    )
    assert load_config(str(recipe), ["--config.data.votes=1"]).data.votes == 1
    assert evaluation_options(completed(load_config(str(recipe), ["--config.data.votes=1"]))) == {"votes": 1}


def test_a_moved_field_of_another_type_is_refused():
    with pytest.raises(ValueError, match="the recipe has a field of the wrong type"):
        completed(ConfigDict({"data": {"votes": "many"}}))
    assert evaluation_options(base_config()) == {}
