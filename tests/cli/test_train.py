"""`train` and `evaluate`: recipes and overrides, and a small network all the way from its recipe to predictions."""

import json
import os
import signal
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from unireplknet_jax.__main__ import main
from unireplknet_jax.cli import train as train_command
from unireplknet_jax.cli.train import load_config
from unireplknet_jax.data.broken import BrokenFileError
from unireplknet_jax.data.pictures.sets import open_source
from unireplknet_jax.train import loop
from unireplknet_jax.train.distributed import Preempted

RECIPE = str(Path(__file__).parents[2] / "configs" / "small_images.py") + ":digits"


@pytest.fixture
def no_training(monkeypatch):
    """Makes training fail at once instead of taking minutes."""

    def train(config, workdir, profile):
        raise AssertionError("training was started")

    monkeypatch.setattr(loop, "train", train)


def test_overrides_reach_the_recipe(capsys):
    words = ["--config.seed", "-3", "--config.optim.lr=1e-2", "--config.task.options.model.dims=(8,8,8,8)"]
    config = load_config(RECIPE, [*words, "--config.task.options.model.kernel_sizes=((3,),(13,),(7,0),(3,))"])
    assert (config.seed, config.optim.lr, config.task.options.model.dims) == (-3, 0.01, (8, 8, 8, 8))
    assert config.task.options.model.kernel_sizes == ((3,), (13,), (7, 0), (3,))
    assert config.optim.min_lr == 1e-6
    with pytest.raises(AttributeError):
        config.unknown = 1


@pytest.mark.parametrize("profile", [False, True])
def test_the_command_hands_recipe_and_workdir_to_training(tmp_path, monkeypatch, profile):
    seen = []
    monkeypatch.setattr(loop, "train", lambda *args: seen.append(args))
    words = ["--config.epochs=3", "--config", RECIPE, "--workdir", str(tmp_path), "--config.seed", "7"]
    assert main(["train", *words, *(["--profile"] if profile else [])]) == 0
    ((config, workdir, profiled, command),) = seen
    assert (config.epochs, config.seed, workdir, profiled) == (3, 7, str(tmp_path), profile)
    typed = ["--config", RECIPE, "--config.epochs=3", "--config.seed", "7", "--workdir", str(tmp_path)]
    assert command == ["unireplknet", "train", *typed, *(["--profile"] if profile else [])]


def test_a_run_told_to_stop_asks_to_be_started_again(tmp_path, monkeypatch, capsys):
    def train(config, workdir, profile, command):
        raise Preempted("told to stop: step 3 of 9 is saved.")

    monkeypatch.setattr(loop, "train", train)
    assert main(["train", "--config", RECIPE, "--workdir", str(tmp_path)]) == 75
    assert capsys.readouterr() == ("", "unireplknet train: told to stop: step 3 of 9 is saved.\n")


def test_a_run_told_to_stop_before_it_trains_asks_to_be_started_again(tmp_path, monkeypatch, capsys):
    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(train_command, "load_config", lambda *_: os.kill(os.getpid(), signal.SIGTERM))
    assert main(["train", "--config", RECIPE, "--workdir", str(tmp_path)]) == 75
    assert capsys.readouterr().err == "unireplknet train: told to stop while it did not train; nothing was lost.\n"
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--config.optm.lr=1"], "has no field optm.lr; did you mean optim.lr?"),
        (["--config.optim.lrr", "1"], "has no field optim.lrr; did you mean optim.lr?"),
        (["--config.lr=1"], "has no field lr; did you mean optim.lr?"),
        (["--config.data.lr=1"], "has no field data.lr; did you mean optim.lr?"),
        (["--config.task.options.moddel.x=1"], "has no field task.options.moddel.x; did you mean task.options.model?"),
        (["--config.patiense=1"], "has no field patiense; did you mean stop.patience?"),
        (["--config.name=x"], "has no field name; did you mean data.name or optim.name or task.name?"),
        (["--config.xyz=1"], "has no field xyz; its fields there are accumulate, batch_size, "),
        (["--config.seed.x=1"], "has no field seed.x"),
        (
            ["--config.batch_size=abc"],
            "--config.batch_size=abc does not fit: batch_size is of type int, in the recipe 64",
        ),
        (["--config.batch_size=0.5"], "does not fit"),
        (["--config.optim.warmup_ratio=a"], "optim.warmup_ratio is of type float, in the recipe None; give a value"),
        (["--config.optim=3"], "optim is a group of fields"),
        (["--config.batch_size"], "Missing value for flag --config.batch_size"),
        (["--confg.seed=1"], "unknown option --confg.seed=1"),
        (["--config.seed", "1", "stray"], "unexpected 'stray'"),
    ],
)
def test_wrong_overrides_are_one_line(words, message, tmp_path, no_training, capsys):
    assert main(["train", "--config", RECIPE, "--workdir", str(tmp_path / "run"), *words]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("unireplknet train: error: ")
    assert message in line
    assert not (tmp_path / "run").exists()


def test_a_checkpoint_that_cannot_be_fetched_names_the_field_for_a_file(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("unireplknet_jax.models.hub.answers", lambda hub: False)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    words = ["train", "--config", RECIPE, "--workdir", str(tmp_path / "run"), "--config.init=unireplknet_a"]
    assert main(words) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "(the server cannot be reached and the file is not in the cache)" in line
    assert line.endswith(" and give its path in place of the name: --config.init=FILE.")


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        ("small_images.py:digts", "fashion_mnist_full, runlocal, not 'digts'. Did you mean digits?"),
        ("finetune.py:a,runlcal", "not 'runlcal'. Did you mean runlocal?"),
        ("finetune.py:a,qqqq", "not 'qqqq'."),
        ("finetune", "did you mean finetune.py?"),
    ],
)
def test_a_wrong_recipe_or_argument_says_which_was_meant(recipe, message, tmp_path, capsys):
    assert main(["train", "--config", recipe, "--workdir", str(tmp_path / "run")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith(message)


@pytest.mark.parametrize(
    ("text", "argument", "message"),
    [
        (None, "", "there is no recipe"),
        ("x = 1", "", "has no attribute 'get_config'"),
        ("def get_config(:", "", "SyntaxError"),
        ("def get_config():\n    return {}['a']", "", "failed in line 2: KeyError: 'a'"),
        ("def get_config():\n    return 3", "", "returned a int"),
        ("def get_config():\n    return 3", ":arg", "TypeError"),
        ("def get_config(arg):\n    raise ValueError(f'{arg} is not known.')", ":mine", "mine is not known."),
    ],
)
def test_wrong_recipes_are_one_line(text, argument, message, tmp_path, no_training, capsys):
    load_config(RECIPE, [])  # a good one, of which nothing may stay
    recipe = tmp_path / "recipe.py"
    if text:
        recipe.write_text(text)
    assert main(["train", "--config", f"{recipe}{argument}", "--workdir", str(tmp_path / "run")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("unireplknet train: error: ")
    assert message in line


@pytest.mark.parametrize(
    ("fields", "message"),
    [({}, "batch_size=0 must be 1 or more"), ({"optim": {"lr": "high"}}, "the recipe has a field of the wrong type")],
)
def test_a_recipe_without_its_fields_is_told_so(fields, message, tmp_path, capsys):
    recipe = tmp_path / "recipe.py"
    recipe.write_text(f"from ml_collections import ConfigDict\ndef get_config():\n    return ConfigDict({fields})\n")
    assert main(["train", "--config", str(recipe), "--workdir", str(tmp_path / "run")]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line


def test_errors_of_the_run_are_one_line(tmp_path, capsys):
    assert main(["train", "--config", RECIPE, "--workdir", str(tmp_path), "--config.data.name=digts"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "did you mean digits?" in line


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "does not say which data it belongs to"),
        (["--data", "mnst"], "there is no image source 'mnst'"),
        (["--data", "digits", "--split", "dev"], "digits has no split 'dev'"),
        (["--predictions", "a.txt"], "--predictions a.txt must be a name that ends in .npz"),
        (["--predictions", "absent/a.npz"], "in a folder that exists"),
        (["--data", "digits", "--batch-size", "12"], "the batch of 12 is not a multiple of the 8 devices"),
    ],
)
def test_evaluation_without_good_data_is_one_line(words, message, small, capsys):
    assert main(["evaluate", small, *words]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--batch-size", "0"], "--batch-size must be 1 or more, not 0."),
        (["--threads", "0"], "--threads must be 1 or more, not 0."),
        (["--workers", "-1"], "--workers must be 0 or more, not -1."),
    ],
)
def test_numbers_of_evaluate_that_cannot_be_are_usage_errors(words, message, capsys):
    assert main(["evaluate", "absent", *words]) == 2
    assert capsys.readouterr().err == f"unireplknet evaluate: error: {message}\n"


def test_a_broken_picture_is_named_with_the_flag_that_passes_over_it(small, pictures, tmp_path, capsys):
    for label, picture in enumerate(pictures[:10]):
        folder = tmp_path / "data" / "test" / str(label)
        folder.mkdir(parents=True)
        (folder / "a.png").write_bytes(Path(picture).read_bytes())
    (tmp_path / "data" / "test" / "7" / "a.png").write_bytes(b"no picture")
    words = ["evaluate", small, "--data", "folder", "--data-dir", str(tmp_path / "data"), "--json"]
    assert main(words) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "7/a.png is not an image" in line
    assert line.endswith("; to pass over what is broken: --broken skip")
    assert main([*words, "--broken", "skip", "--threads", "3"]) == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out)["metrics"]["count"] == 9
    assert "left out: " in captured.err


@pytest.mark.parametrize("error", [ValueError, BrokenFileError])
def test_training_names_the_field_that_passes_over_a_broken_file(error, tmp_path, monkeypatch, capsys):
    def fail(*_):
        raise error("a.jpg is truncated")

    monkeypatch.setattr(loop, "train", fail)
    assert main(["train", "--config", RECIPE, "--workdir", str(tmp_path)]) == 1
    remedy = {BrokenFileError: "; to pass over what is broken: --config.data.broken=skip"}.get(error, "")
    assert capsys.readouterr().err == f"unireplknet train: error: a.jpg is truncated{remedy}\n"


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A workdir in which a very small network has learned digits for two epochs."""
    workdir = tmp_path_factory.mktemp("run")
    options = {
        "epochs": 2,
        "eval_every_epochs": 2,
        "log_every": 11,
        "optim.warmup_epochs": 0,
        "optim.lr": 0.02,
        "task.options.crop_padding": 0,
        "task.options.model.depths": "(1,1,0,0)",
        "task.options.model.dims": "(8,8,8,8)",
        "task.options.model.kernel_sizes": "((3,),(0,),(),())",
    }
    flags = [f"--config.{name}={value}" for name, value in options.items()]
    assert main(["train", "--config", RECIPE, "--workdir", str(workdir), *flags]) == 0
    return workdir


def evaluated(path, capsys, *words):
    assert main(["evaluate", str(path), "--json", *words]) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    return json.loads(captured.out)


@pytest.mark.slow  # its commands have quick tests of their own: test_evaluate, test_predict, train/test_loop
def test_a_recipe_goes_all_the_way(trained, tmp_path, capsys):
    model, merged = trained / "model", tmp_path / "merged"
    rows = [json.loads(line) for line in (trained / "metrics.jsonl").read_text().splitlines()]
    before = evaluated(model, capsys, "--form", "training")
    assert before["form"] == "training"
    assert before["data"] == {
        "name": "digits",
        "dir": None,
        "train_split": "train",
        "split": "test",
        "broken": "refuse",
        "class_order": "numbers",
    }
    assert before["metrics"]["count"] == 360
    assert before["metrics"]["top1"] == pytest.approx(rows[-2]["eval/top1"])
    assert before["metrics"]["top1"] > 50  # 10 is chance
    assert main(["reparameterize", str(model), str(merged)]) == 0
    capsys.readouterr()
    saved = tmp_path / "saved.npz"
    assert main(["evaluate", str(merged), "--batch-size", "72", "--predictions", str(saved)]) == 0
    with np.load(saved) as file:
        assert file["labels"].tolist() == [str(digit) for digit in range(10)]
        assert len({*file["id"].tolist()}) == len(file["logits"]) == 360
    metrics, classes = capsys.readouterr().out.split("\n\n")
    assert len(classes.splitlines()) == 11
    title, header, *lines = metrics.splitlines()
    assert title == f"{merged}, merged form, on digits, split test"
    assert header.split() == ["metric", "value", "unit"]
    for line in lines:
        name, value, unit = line.split()
        assert float(value) == pytest.approx(before["metrics"][name], rel=1e-5)
        assert unit == {"loss": "nats", "count": "examples"}.get(name, "%")

    digits, files = open_source("digits", "test"), []
    for number in range(40):
        files.append(str(tmp_path / f"{number}.png"))
        Image.fromarray(digits[number]["image"][..., 0]).save(files[-1])
    assert main(["predict", str(merged), *files, "--top", "1", "--json"]) == 0
    results = json.loads(capsys.readouterr().out)["results"]
    hits = [r["records"][0]["predictions"][0]["index"] == digits[i]["label"] for i, r in enumerate(results)]
    assert sum(hits) > 20  # 4 is chance
