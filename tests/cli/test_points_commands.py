"""The commands on shapes: the merged network and the original's file say the same, wrong files are one line each."""

import json

import numpy as np
import pytest
import trimesh
from networks import lively
from PIL import Image

from unireplknet_jax.__main__ import main
from unireplknet_jax.data.shapes import solids
from unireplknet_jax.tasks.base import get_task
from unireplknet_jax.tasks.checkpoint import Checkpoint, open_checkpoint, save_checkpoint

SIZES = {"depths": (1, 1, 1, 1), "dims": (8, 8, 8, 8), "kernel_sizes": ((3,), (7,), (0,), (3,)), "num_classes": 10}


@pytest.fixture(scope="module")
def seen(tmp_path_factory):
    """A checkpoint of ours that knows ten solids, with random weights; its data are 20 of them."""
    folder = tmp_path_factory.mktemp("seen")
    task = get_task(
        "points", model=SIZES | {"graph_dim": 4}, labels=solids.KINDS, points=16, raw_points=32, view_size=14,
        neighbours=4, votes=1,
    )  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(solids, "PER_CLASS", {"test": 2})
        solids.solids_folder(folder / "solids", "test")
    data = {"name": "solids", "dir": str(folder / "solids"), "eval_split": "test"}
    save_checkpoint(
        folder / "model", Checkpoint(task, lively(task.abstract_variables(), seed=1), merged=False, data=data)
    )
    return str(folder / "model")


@pytest.fixture(scope="module")
def shapes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shapes")
    files = [str(folder / name) for name in ("box.off", "torus.stl", "cloud.xyz")]
    trimesh.creation.box((1, 2, 3)).export(files[0])
    trimesh.creation.torus(1, 0.3).export(files[1])
    np.savetxt(files[2], np.random.default_rng(0).standard_normal((9, 3)))
    return files


def scores(capsys):
    document = json.loads(capsys.readouterr().out)
    assert document["task"] == "points"
    return {r["file"]: [(p["label"], p["score"]) for p in r["records"][0]["predictions"]] for r in document["results"]}


@pytest.mark.slow  # its twin of sounds stays
def test_the_merged_network_sees_the_same(seen, shapes, tmp_path, capsys):
    merged, picture = str(tmp_path / "merged"), str(tmp_path / "drawn.png")
    assert main(["reparameterize", seen, merged]) == 0
    assert open_checkpoint(merged).merged
    capsys.readouterr()
    assert main(["predict", seen, *shapes, "--json", "--top", "10", "--form", "training"]) == 0
    before = scores(capsys)
    assert main(["predict", merged, *shapes, "--json", "--top", "10", "--draw", picture]) == 0
    after = scores(capsys)
    assert list(before) == list(after) == shapes
    for file in shapes:
        assert [label for label, _ in after[file]] == [label for label, _ in before[file]]
        np.testing.assert_allclose([s for _, s in after[file]], [s for _, s in before[file]], rtol=1e-4)
    assert before[shapes[0]] != before[shapes[1]]
    with Image.open(picture) as drawn:
        assert drawn.size == (2 * (256 + 8) + 8, 2 * (256 + 90 + 8) + 8)  # views, names and classes


def test_the_originals_file_says_how_shapes_are_prepared(seen, shapes, tmp_path, capsys):
    official = str(tmp_path / "official.pth")
    assert main(["convert", seen, official]) == 0
    assert open_checkpoint(official).task.views == (0, 1, 2)  # the first of its own table
    table = [np.asarray(open_checkpoint(path).variables["batch_stats"]["views"]) for path in (seen, official)]
    np.testing.assert_array_equal(*table)
    capsys.readouterr()
    assert main(["predict", official, "gone.off"]) == 1
    assert "points 4096, raw_points 8192, view_size 224, neighbours 32" in capsys.readouterr().err


@pytest.mark.slow  # `test_metrics_of_a_whole_set` of tasks/test_points.py stays
def test_evaluation_prints_all_metrics(seen, capsys):
    assert main(["evaluate", seen, "--batch-size", "16", "--json"]) == 0
    metrics = json.loads(capsys.readouterr().out)["metrics"]
    assert list(metrics) == ["OA", "mAcc", "single", "loss", "count"]
    assert metrics["count"] == 20
    assert metrics["OA"] == metrics["mAcc"] == metrics["single"]  # one vote, as many shapes of each class


def test_files_that_are_no_shape_are_named_and_the_others_predicted(seen, shapes, tmp_path, capsys):
    wrong = [tmp_path / name for name in ("empty.off", "text.ply", "missing.stl", "picture.png", "nan.xyz")]
    wrong[0].write_text("OFF\n0 0 0\n")
    wrong[1].write_text("la la la")
    wrong[3].write_bytes(b"PNG")
    wrong[4].write_text("0 0 0\n1 nan 1\n")
    assert main(["predict", seen, *map(str, wrong), shapes[0], "--json"]) == 1
    captured = capsys.readouterr()
    assert [result["file"] for result in json.loads(captured.out)["results"]] == shapes[:1]
    lines = captured.err.splitlines()
    assert len(lines) == len(wrong)
    for line, path in zip(lines, wrong, strict=True):
        assert line.startswith("unireplknet predict: error: ")
        assert str(path) in line
