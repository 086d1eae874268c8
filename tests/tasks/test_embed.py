"""Embeddings by hand: the mean of the trunk's last map, over positions, windows, views and poses."""

import functools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_tasks import make_checkpoint, write_files

import unireplknet_jax as urk
from unireplknet_jax.__main__ import main
from unireplknet_jax.ops.projection import transformed
from unireplknet_jax.tasks import checkpoint as checkpoints
from unireplknet_jax.tasks.base import task_class
from unireplknet_jax.tasks.checkpoint import open_checkpoint, save_checkpoint

pytestmark = pytest.mark.usefixtures("quick_compilation")
EMBEDDED = ["classification", *(pytest.param(name, marks=pytest.mark.slow) for name in ("audio", "video", "points"))]


def pooled(checkpoint, maps):
    """(c,) of inputs (n, h, w, c) to the trunk: the mean of all that its last map says of them."""
    module, variables = checkpoint.module, checkpoint.variables
    if hasattr(module, "backbone"):
        variables = {collection: tree["backbone"] for collection, tree in variables.items() if "backbone" in tree}
        module = module.backbone.clone(parent=None, name=None)
    last = jax.jit(lambda v, x: module.apply(v, x, method="features")[-1])(variables, jnp.asarray(maps))
    return np.asarray(last, np.float64).mean(axis=(0, 1, 2))


def maps_of(checkpoint, file):
    """All that the trunk sees of a file, (n, h, w, c)."""
    task, examples = checkpoint.task, checkpoint.task.read(file)
    batches = [{name: np.asarray(value)[None] for name, value in e.items() if name != "id"} for e in examples]
    if task.name == "video":
        views = batches[0]["views"][0]
        return np.concatenate([task.inputs({"views": view[None, None]})[0] for view in views])
    if task.name == "points":
        (batch,) = batches
        coordinates = task.inputs(batch)[0]
        render = jax.jit(functools.partial(checkpoint.module.apply, method="render"))
        poses = [transformed(coordinates, pose[None]) for pose in batch["poses"][0]]
        return np.concatenate([render(checkpoint.variables, coordinates, turned)[0] for turned in poses])
    return np.concatenate([task.inputs(batch)[0] for batch in batches])


@pytest.mark.parametrize("name", EMBEDDED)
def test_an_embedding_is_the_mean_of_the_last_map_of_all_views(name, tmp_path):
    checkpoint, files = make_checkpoint(name), write_files(tmp_path, name)
    found = urk.embed(checkpoint, files)
    assert found.shape == (2, 32)
    assert found.dtype == np.float32
    if name == "audio":
        assert len(checkpoint.task.read(files[1])) > 1  # windows
    for vector, file in zip(found, files, strict=True):
        expected = pooled(checkpoint, maps_of(checkpoint, file))
        # The merged form, in batches of two, beside the training form, view by view. A rotated point on the edge of a
        # pixel may fall to either side of it.
        tolerance = 1e-2 if name == "points" else 2e-5  # 0.4 % on jax 0.10, 0.7 % on 0.12
        np.testing.assert_allclose(vector, expected, rtol=0, atol=tolerance * np.abs(expected).max())
    assert np.abs(found[0] - found[1]).max() > 1e-2 * np.abs(found).max()


def test_bytes_and_arrays_embed_as_their_file(tmp_path):
    from PIL import Image

    checkpoint, (first, _) = make_checkpoint("classification"), write_files(tmp_path, "classification")
    expected = urk.embed(checkpoint, first)
    assert expected.shape == (1, 32)
    for given in (Path(first).read_bytes(), np.asarray(Image.open(first)), [Image.open(first)]):
        np.testing.assert_array_equal(urk.embed(checkpoint, given), expected)
    assert urk.embed(checkpoint, []).shape == (0, 32)


def test_a_second_call_neither_merges_nor_traces_again(tmp_path, monkeypatch):
    checkpoint, files = make_checkpoint("classification"), write_files(tmp_path, "classification")
    counts, known = {"merges": 0, "traces": 0}, task_class("classification")

    def counted(name, function):
        def call(*arguments):
            counts[name] += 1
            return function(*arguments)

        return call

    monkeypatch.setattr(checkpoints, "reparameterize", counted("merges", checkpoints.reparameterize))
    monkeypatch.setattr(known, "features", counted("traces", known.features))
    first = urk.embed(checkpoint, files)
    np.testing.assert_array_equal(urk.embed(checkpoint, files[:1]), first[:1])
    urk.predict(checkpoint, files)
    assert counts == {"merges": 1, "traces": 1}
    urk.embed(checkpoint, files, batch_size=1)
    assert counts == {"merges": 1, "traces": 2}  # every batch size has a network of its own


def test_a_network_without_classifier_embeds_what_comes_before_it(goldens, tmp_path):
    files = write_files(tmp_path, "classification")
    whole = open_checkpoint(goldens / "tiny_afp.pth")
    bare = open_checkpoint(goldens / "tiny_afp.pth", num_classes=None)
    np.testing.assert_allclose(urk.embed(bare, files[0]), urk.embed(whole, files[0]), rtol=1e-5)


def test_what_cannot_be_read_is_refused_or_passed_over(tmp_path, caplog):
    checkpoint, files = make_checkpoint("classification"), write_files(tmp_path, "classification")
    given = [files[0], tmp_path / "gone.jpg", files[1]]
    with pytest.raises(ValueError, match=r"^cannot read .*gone\.jpg"):
        urk.embed(checkpoint, given)
    found = urk.embed(checkpoint, given, broken="skip")
    assert np.isnan(found[1]).all()
    np.testing.assert_array_equal(found[[0, 2]], urk.embed(checkpoint, files))
    assert "gone.jpg" in caplog.text


def test_a_table_of_stations_has_no_embedding(tmp_path):
    with pytest.raises(ValueError, match=r"^a table of stations has no embedding: its trunk sees each group"):
        urk.embed(make_checkpoint("forecasting"), write_files(tmp_path, "forecasting"))


# The command.


@pytest.fixture
def saved(tmp_path):
    save_checkpoint(tmp_path / "small", make_checkpoint("classification"))
    return str(tmp_path / "small"), write_files(tmp_path, "classification")


def said(err):
    """The lines on stderr but for those of the wait for the compiler, which there are on a busy machine."""
    return [line for line in err.splitlines() if not line.startswith("compiling ")]


def test_the_command_writes_vectors_and_names(saved, tmp_path, capsys):
    path, files = saved
    out = tmp_path / "x.npz"
    assert main(["embed", path, *files, "--out", str(out)]) == 0
    captured = capsys.readouterr()
    assert captured.out == ""
    assert said(captured.err) == [f"wrote {out}: 2 x 32"]
    with np.load(out) as arrays:
        assert sorted(arrays) == ["embeddings", "files"]
        assert list(arrays["files"]) == files
        assert arrays["embeddings"].dtype == np.float32
        np.testing.assert_array_equal(arrays["embeddings"], urk.embed(open_checkpoint(path), files))
    assert main(["embed", path, *files, "--out", str(out), "--form", "training", "--image-size", "64"]) == 0
    assert said(capsys.readouterr().err)[0].startswith("note: inputs are prepared with image_size 64")


def test_the_command_names_broken_files_and_embeds_the_others(saved, tmp_path, capsys):
    path, files = saved
    out = tmp_path / "x.npz"
    assert main(["embed", path, files[0], str(tmp_path / "gone.jpg"), files[1], "--out", str(out)]) == 1
    lines = said(capsys.readouterr().err)
    assert lines[0].startswith("unireplknet embed: error: cannot read ")
    assert "gone.jpg" in lines[0]
    assert len(lines) == 2
    with np.load(out) as arrays:
        assert list(arrays["files"]) == files
    out.unlink()
    assert main(["embed", path, str(tmp_path / "gone.jpg"), "--out", str(out)]) == 1
    assert not out.exists()


def test_embeddings_are_written_whole_or_not_at_all(saved, tmp_path, monkeypatch, capsys):
    path, files = saved
    out = tmp_path / "x.npz"
    out.write_bytes(b"before")
    there = sorted(tmp_path.iterdir())

    def savez(part, **arrays):
        part.write_bytes(b"half")
        raise OSError(28, "No space left on device", str(part))

    monkeypatch.setattr(np, "savez", savez)
    assert main(["embed", path, *files, "--out", str(out)]) == 1
    assert "No space left on device" in capsys.readouterr().err
    assert out.read_bytes() == b"before"
    assert sorted(tmp_path.iterdir()) == there


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["x.png", "--out", "x.txt"], 2, "--out is x.txt; expected a name that ends in .npz."),
        (["x.png", "--out", "nowhere/x.npz"], 1, "the folder of --out nowhere/x.npz does not exist"),
        (["x.npz", "--out", "x.npz"], 1, "would overwrite an input"),
        (["x.png", "--out", "x.npz", "--image-size", "0"], 2, "--image-size is 0"),
        (["x.png"], 2, "--out"),
    ],
)
def test_wrong_words_are_one_line(words, code, message, capsys):
    assert main(["embed", "unopened", *words]) == code
    error = capsys.readouterr().err
    assert message in error.splitlines()[-1]
