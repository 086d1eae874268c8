"""Every recipe for pictures trains on data that are made up."""

import pytest
from recipes import FILES, load, train_on_a_laptop


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in FILES if load(name).task.name == "classification"])
def test_a_recipe_for_pictures_trains_on_a_laptop(name, tmp_path):
    train_on_a_laptop(name, tmp_path)
