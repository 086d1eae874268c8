"""run.json: every start, and what it changed."""

import json

import pytest
from ml_collections import ConfigDict

from unireplknet_jax.train.run_file import last_start, write_run


def config(**fields):
    return ConfigDict({"epochs": 2.0, "optim": {"lr": 0.1, "milestones": (1, 2)}, **fields})


def starts(folder):
    return json.loads((folder / "run.json").read_text())["starts"]


def test_every_start_is_listed_with_what_it_changed(tmp_path):
    write_run(tmp_path, config(), 0, ["unireplknet", "train", "--config", "my recipe.py"])
    write_run(tmp_path, config(), 5)
    write_run(tmp_path, config(epochs=4.0, optim={"lr": 0.1, "milestones": (3,)}, note="new"), 7)
    first, second, third = starts(tmp_path)
    assert first["command"] == "unireplknet train --config 'my recipe.py'"
    assert "changed" not in first
    assert (second["step"], second["changed"]) == (5, {})
    assert third["changed"] == {"epochs": [2.0, 4.0], "optim.milestones": [[1, 2], [3]], "note": [None, "new"]}
    assert json.loads((tmp_path / "run.json").read_text())["recipe"]["epochs"] == 4.0
    assert [path.name for path in tmp_path.iterdir()] == ["run.json"]


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"starts": 3, "recipe": {}}', '{"starts": [1'])
def test_a_damaged_file_is_begun_anew(tmp_path, text):
    (tmp_path / "run.json").write_text(text)
    assert last_start(text) == {}
    write_run(tmp_path, config(), 3)
    assert [start["step"] for start in starts(tmp_path)] == [3]


def test_the_last_start_is_told():
    assert last_start('{"starts": [{"host": "a"}, {"host": "b"}]}') == {"host": "b"}
