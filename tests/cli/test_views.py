"""`--scales`, `--mirror` and `--mode`: in which views `predict` and `evaluate` show an input to the network."""

import numpy as np
import pytest
from PIL import Image
from small_tasks import make_task

from unireplknet_jax.__main__ import main
from unireplknet_jax.cli.form import views_of
from unireplknet_jax.cli.parser import parse
from unireplknet_jax.tasks import predict
from unireplknet_jax.tasks.segmentation import Segmentation
from unireplknet_jax.train import evaluate

FLAGS = ["--scales", "0.5,1", "--mirror", "--mode", "slide"]


@pytest.fixture(scope="module")
def masks(goldens):
    """An official file of a network for masks: 11 classes."""
    return str(goldens / "dense" / "seg_tiny.pth")


@pytest.fixture
def seen(monkeypatch):
    """The tasks with which commands predict and evaluate, which they do not do here."""
    tasks = []
    monkeypatch.setattr(predict, "predict_files", lambda checkpoint, files: tasks.append(checkpoint.task) or [])
    monkeypatch.setattr(evaluate, "evaluate", lambda task, *args, **options: tasks.append(task) or {"miou": 1.0})
    monkeypatch.setattr(Segmentation, "has_outcomes", False)
    return tasks


@pytest.fixture(scope="module")
def street(tmp_path_factory):
    """A folder of one picture and its mask."""
    folder = tmp_path_factory.mktemp("street")
    for kind, shape in (("images", (40, 60, 3)), ("masks", (40, 60))):
        (folder / "val" / kind).mkdir(parents=True)
        Image.fromarray(np.zeros(shape, np.uint8)).save(folder / "val" / kind / "1.png")
    (folder / "classes.csv").write_text("".join(f"class_{number}\n" for number in range(11)))
    return folder


def command(name, checkpoint, street):
    words = {
        "predict": [str(street / "val" / "images" / "1.png")],
        "evaluate": ["--data", "mask_folder", "--data-dir", str(street), "--split", "val"],
    }
    return [name, checkpoint, *words[name]]


@pytest.mark.parametrize("name", ["predict", "evaluate"])
@pytest.mark.parametrize(
    ("flags", "views"),
    [
        ([], ("whole", (1.0,), False)),
        (FLAGS, ("slide", (0.5, 1.0), True)),
        (["--mirror"], ("whole", (1.0,), True)),
        (["--no-mirror", "--scales", "1.75"], ("whole", (1.75,), False)),
    ],
)
def test_inputs_are_seen_in_the_views_that_are_asked_for(name, flags, views, seen, masks, street, capsys):
    assert main([*command(name, masks, street), *flags]) == 0
    (task,) = seen
    assert (task.mode, task.scales, task.mirror) == views
    assert (
        f"crop 512, stride 341, mode {views[0]}, scales {views[1]}, mirror {views[2]}" in capsys.readouterr().err
    )  # the note has them, too


@pytest.mark.parametrize("name", ["predict", "evaluate"])
@pytest.mark.parametrize(
    ("flags", "code", "message"),
    [
        (["--scales", "0.5,big"], 2, "'0.5,big' must be numbers with commas between them"),
        (["--scales", "0"], 1, "scales=0.0 must be above 0."),
        (["--scales", "nan"], 1, "scales=nan must be above 0, and finite."),
        (["--mode", "sliding"], 1, "mode is 'sliding'; expected 'whole' or 'slide'."),
    ],
)
def test_wrong_views_are_refused_in_a_line(name, flags, code, message, masks, street, capsys):
    assert main([*command(name, masks, street), *flags]) == code
    assert message in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize("name", ["predict", "evaluate"])
@pytest.mark.parametrize(("option", "words"), [("scales", ["1"]), ("mirror", []), ("mode", ["slide"])])
def test_a_task_that_has_no_such_views_says_so(name, option, words, small, street, capsys):
    assert main([*command(name, small, street), f"--{option}", *words]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith(f"the task classification has no option {option} to change; leave out --{option}.")


def test_who_computes_the_metrics_of_objects_is_an_option_of_the_task(small, street, capsys):
    args = parse(["evaluate", small, "--evaluator", "faster-coco-eval"])
    assert views_of(args) == {"evaluator": "faster_coco_eval"}
    assert make_task("detection", **views_of(args)).evaluator == "faster_coco_eval"
    assert main([*command("evaluate", small, street), "--evaluator", "pycocotools"]) == 1
    assert "classification has no option evaluator to change; leave out --evaluator." in capsys.readouterr().err
