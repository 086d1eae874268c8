"""`recipes`: the list of what ships, one recipe's own words, and the error for a name that is none."""

import json

from unireplknet_jax.__main__ import main
from unireplknet_jax.train.shipped import shipped_recipes


def test_the_table_has_a_line_for_every_recipe(capsys):
    assert main(["recipes"]) == 0
    header, *lines = capsys.readouterr().out.splitlines()
    assert header.split() == ["recipe", "arguments", "options", "what"]
    lines = {line.split()[0]: " ".join(line.split()) for line in lines if line.split()[:1] != ["Of"] and line}
    assert {*lines} == {*shipped_recipes()}
    summary = "ImageNet-1K from scratch: 300 epochs at 224 pixels."
    assert lines["imagenet1k.py"] == f"imagenet1k.py t a f p n s paper ablation runlocal {summary}"


def test_json_lists_the_same(capsys):
    assert main(["recipes", "--json"]) == 0
    listed = {entry["name"]: entry for entry in json.loads(capsys.readouterr().out)}
    assert {*listed} == {*shipped_recipes()}
    entry = listed["finetune_video.py"]
    assert entry["summary"] == "Fine-tuning of published image weights on one's own videos."
    assert entry["arguments"] == ["a", "f", "p", "n", "t", "s", "b", "small"]
    assert entry["options"] == ["uniform", "runlocal"]
    assert entry["path"].endswith("configs/finetune_video.py")


def test_a_recipe_by_name_is_printed_as_it_describes_itself(capsys):
    assert main(["recipes", "configs/cifar100.py"]) == 0
    recipe = shipped_recipes()["cifar100.py"]
    assert capsys.readouterr().out == f"{recipe.path}\n\n{recipe.text}\n"
    names = ["cifar100.py", "imagenet1k.py"]
    assert main(["recipes", *names, "--json"]) == 0
    assert [entry["name"] for entry in json.loads(capsys.readouterr().out)] == names


def test_an_unknown_name_is_one_line(capsys):
    assert main(["recipes", "cifar10.py"]) == 1
    error = "there is no recipe cifar10.py here, and none among those that ship; did you mean cifar100.py?"
    assert capsys.readouterr() == ("", f"unireplknet recipes: error: {error}\n")
