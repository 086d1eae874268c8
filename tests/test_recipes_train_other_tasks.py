"""Every recipe for something else than pictures trains on data that are made up."""

import pytest
from recipes import FILES, load, train_on_a_laptop

SAME = "scanobjectnn"  # whose `:runlocal` is modelnet40's
OTHERS = [name for name in FILES if load(name).task.name != "classification" and name != SAME]


def test_the_recipe_left_out_is_another_one():
    assert load(f"{SAME}:runlocal") == load("modelnet40:runlocal")


@pytest.mark.slow
@pytest.mark.parametrize("name", OTHERS)
def test_every_other_recipe_trains_on_a_laptop(name, tmp_path):
    train_on_a_laptop(name, tmp_path)
