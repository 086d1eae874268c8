"""Points by numbers: the original's whole chain, loss and names, votes, files, and checkpoints of ours."""

import dataclasses
import functools
import itertools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import trimesh
from networks import lively
from official_files import assert_equal, leaves, make_state, write
from splits import examples_of, fitted_to

import unireplknet_jax as urk
from unireplknet_jax.data.broken import BrokenFileError
from unireplknet_jax.data.pipeline import train_batches
from unireplknet_jax.data.shapes import solids
from unireplknet_jax.data.shapes.points import fixed_poses
from unireplknet_jax.models.torch_archive import read_state_dict
from unireplknet_jax.ops.farthest_point import farthest_points
from unireplknet_jax.ops.projection import flat_pixels, pixels_of, view_points
from unireplknet_jax.tasks.base import get_task
from unireplknet_jax.tasks.checkpoint import Checkpoint, initial_variables, open_checkpoint, save_checkpoint
from unireplknet_jax.tasks.convert import merge
from unireplknet_jax.tasks.points import Points
from unireplknet_jax.tasks.points_names import NAMES
from unireplknet_jax.tasks.predict import predict_files

TRUNK = {"depths": (1, 1, 2, 1), "dims": (8, 16, 24, 32), "kernel_sizes": ((3,), (7,), (7, 3), (7,))}
SMALL = {"points": 16, "raw_points": 24, "view_size": 14, "neighbours": 4, "votes": 8}


def make_task(num_classes=10, **options):
    return Points({**TRUNK, "num_classes": num_classes, "graph_dim": 8}, **{**SMALL, **options})


pytestmark = pytest.mark.usefixtures("quick_compilation")


# Against the original.


@pytest.fixture(scope="module")
def reference(goldens):
    return np.load(goldens / "points" / "points_model.npz")


@pytest.fixture(scope="module")
def checkpoint(goldens):
    """With the numbers of the reference that tensors do not tell."""
    found = open_checkpoint(goldens / "points" / "points_model.pth")
    sizes = {"points": 128, "raw_points": 128, "view_size": 56, "neighbours": 8}
    return dataclasses.replace(found, task=dataclasses.replace(found.task, **sizes))


def test_the_originals_chain_from_points_to_logits_in_both_forms(checkpoint, reference):
    assert (checkpoint.task.name, checkpoint.module.num_classes, checkpoint.merged) == ("points", 5, False)
    assert checkpoint.task.views == (0, 1, 2, 3)
    inputs = reference["original_points"], reference["points"]
    run = jax.jit(functools.partial(checkpoint.module.apply, method="_forward"), static_argnums=3)
    logits, pictures = run(checkpoint.variables, *inputs, False)
    pictures = np.asarray(pictures).reshape(8, 56, 56, 3).transpose(0, 3, 1, 2)
    # The original in float32 is 7e-6 off its float64 in the pictures and 6e-6 in the logits, of deviation 2.3.
    np.testing.assert_allclose(pictures, reference["image_nchw"], rtol=0, atol=2e-5)
    np.testing.assert_allclose(pictures[:1], reference["image_f64_nchw"], rtol=0, atol=1e-5)
    np.testing.assert_allclose(logits, reference["logits_f64"], rtol=0, atol=1e-5)
    merged = urk.reparameterize(checkpoint.variables)
    again = jax.jit(checkpoint.task.module(deploy=True).apply)(merged, *inputs)
    np.testing.assert_allclose(again, reference["logits_merged"], rtol=0, atol=2e-5)


def test_a_merge_is_checked_on_all_inputs():
    trunk = {"depths": (0, 0, 0, 1), "dims": (8, 16, 24, 32), "kernel_sizes": ((), (), (), (3,))}
    task = Points(trunk | {"num_classes": 3, "graph_dim": 4}, **SMALL)
    variables = lively(task.abstract_variables())
    assert merge(Checkpoint(task, variables, merged=False), tolerance=1e-5)[1] < 2e-6


@pytest.mark.slow  # `test_the_originals_chain_from_points_to_logits_in_both_forms` stays
def test_parts_of_the_encoder(checkpoint, reference):
    module, variables = checkpoint.module.encoder, checkpoint.variables
    inner = {name: tree["encoder"] for name, tree in variables.items()}
    seen = view_points(reference["points"], variables["batch_stats"]["views"][:4])
    np.testing.assert_allclose(seen.reshape(8, 128, 3), reference["rotated"], rtol=0, atol=1e-6)
    flat = flat_pixels(pixels_of(seen, 56), 56)
    np.testing.assert_array_equal(flat.reshape(8, -1), reference["flat_index"])

    @jax.jit
    def run(variables, points, seen):
        return module.apply(variables, points, seen, capture_intermediates=True)[1]["intermediates"]

    parts = run(inner, reference["original_points"], seen)
    found = parts["points"]["__call__"][0]
    expected = reference["point_features_bnc"]
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * np.abs(expected).max())
    for name, key in (("img_block", "img_block_out_nchw"), ("fusion", "fusion_out_nchw")):
        found = np.asarray(parts[name]["__call__"][0]).reshape(8, 56, 56, 8)[:1].transpose(0, 3, 1, 2)
        np.testing.assert_allclose(found, reference[key], rtol=0, atol=1e-5 * np.abs(reference[key]).max())


@pytest.mark.parametrize(("smoothing", "key"), [(0.2, "loss_smooth02"), (0.0, "loss_plain")])
def test_the_originals_loss(reference, smoothing, key):
    task = make_task(5, label_smoothing=smoothing)
    batch = {
        "points": np.random.default_rng(0).standard_normal((2, 24, 3)).astype(np.float32),
        "poses": fixed_poses(1)[None].repeat(2, 0),
        "kept": np.arange(2, 18, dtype=np.int32)[None].repeat(2, 0),
        "label": reference["labels"].astype(np.int32),
    }
    seen = []

    def apply(variables, *inputs, train, rngs, mutable):
        seen.extend(inputs)
        return jnp.asarray(reference["logits"]), {"batch_stats": {"new": 1.0}}

    value, out = task.loss(apply, {}, batch, jax.random.key(0))
    assert float(value) == pytest.approx(float(reference[key]), rel=1e-6)
    total, count = out["scalars"]["OA"]
    assert (float(total / count), out["batch_stats"]) == (float(reference["accuracy_percent"]), {"new": 1.0})
    spread = np.asarray(farthest_points(batch["points"], 18))  # 16 * 75 // 64
    expected = np.take_along_axis(batch["points"], spread[:, 2:, None], axis=1)
    np.testing.assert_array_equal(seen[0], expected)
    np.testing.assert_allclose(seen[1], expected @ batch["poses"][0, 0].T, rtol=0, atol=1e-6)


def test_the_originals_names_there_and_back(goldens, tmp_path):
    path = goldens / "points" / "points_model.pth"
    state = {name: tensor.numpy() for name, tensor in read_state_dict(path)[0].items()}
    model, variables = urk.load_checkpoint(path)
    assert (model.in_chans, model.num_classes, model.encoder.neighbours) == (3, 5, 32)
    urk.save_torch_checkpoint(tmp_path / "back.pth", variables)
    back = {name: tensor.numpy() for name, tensor in read_state_dict(tmp_path / "back.pth")[0].items()}
    assert_equal(back, state)
    np.testing.assert_array_equal(variables["batch_stats"]["views"], state["views"])
    qkv = state["enc.fusion.transformer.layers.0.0.fn.to_qkv.weight"]
    np.testing.assert_array_equal(variables["params"]["encoder"]["fusion"]["to_qkv"]["kernel"], qkv.T)
    urk.save_torch_checkpoint(tmp_path / "merged.pth", urk.reparameterize(variables))
    assert open_checkpoint(tmp_path / "merged.pth").merged


def test_missing_and_surplus_tensors_are_listed(goldens, tmp_path):
    path = goldens / "points" / "points_model.pth"
    state = {name: tensor.numpy() for name, tensor in read_state_dict(path)[0].items()}
    del state["enc.proj_layer.bias"]
    state["base_model.head.weight"] = np.zeros((1000, 32), np.float32)
    message = r"missing \(1\): enc\.proj_layer\.bias; unexpected \(1\): base_model\.head\.weight"
    with pytest.raises(ValueError, match=message):
        urk.load_checkpoint(write(tmp_path / "a.pth", state))


def test_published_numbers_of_classes_have_their_names(checkpoint):
    shapes = {name: entry.shape for name, entry in checkpoint.task.name_table().items()}
    for classes, first in ((40, "airplane"), (15, "bag")):
        labels = NAMES.options(shapes | {"cls_head.cls_head.weight": (classes, 128)})[0]["labels"]
        assert (labels[0], len(labels)) == (first, classes)
    assert NAMES.options(shapes)[0]["labels"] == ()


# Checkpoints of ours.


def test_a_directory_keeps_everything(checkpoint, tmp_path):
    task = dataclasses.replace(checkpoint.task, labels=tuple("abcde"), up="y", scale=None, votes=8)
    save_checkpoint(tmp_path / "a", dataclasses.replace(checkpoint, task=task))
    again = open_checkpoint(tmp_path / "a")
    assert (again.task, hash(again.task)) == (task, hash(task))
    assert_equal(leaves(again.variables), leaves(checkpoint.variables))
    card = json.loads((tmp_path / "a" / "card.json").read_text())
    assert get_task("points", **card["options"], labels=card["labels"]) == task


def test_training_starts_from_an_image_checkpoint(tmp_path, caplog):
    state = make_state()
    ours = leaves(initial_variables(make_task(4), write(tmp_path / "a.pth", state)))
    assert "made: encoder, head, head_norm, views" in caplog.text
    np.testing.assert_array_equal(
        ours["params/backbone/stages_3_0/pwconv1/kernel"], state["stages.3.0.pwconv1.1.weight"].T
    )
    assert ours["params/head/kernel"].shape == (3 * 32, 4)
    assert ours["batch_stats/views"].shape == (10, 2, 3)


def test_a_loaded_network_gets_other_classes_but_not_channels(goldens):
    path = goldens / "points" / "points_model.pth"
    model, variables = urk.load_checkpoint(path, num_classes=3)
    assert (model.num_classes, variables["params"]["head"]["kernel"].shape) == (3, (128, 3))
    with pytest.raises(ValueError, match=r"a network of the task points takes 3 channel\(s\) and no other"):
        urk.load_checkpoint(path, in_chans=1)


# Options.


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"labels": ("a",)}, "1 labels do not fit a model of 10 classes"),
        ({"neighbours": 17}, "neighbours=17, points=16 and raw_points=24 must not fall"),
        ({"points": 25}, "points=25 and raw_points=24 must not fall"),
        ({"view_size": 15}, "view_size=15 must be a multiple of 7"),
        ({"object_size": 15}, "object_size=15 from 4 to it"),
        ({"views": (0, 0)}, "must be different rows, 0 to 9"),
        ({"views": (0, 10)}, "must be different rows, 0 to 9"),
        ({"votes": 5}, "votes is 5; expected one of 1, 8, 40"),
        ({"up": "x"}, "up is 'x'; expected 'y' or 'z'"),
        ({"scale": (2, 1)}, "must be two factors, 0 < low <= high"),
        ({"label_smoothing": 1.0}, "label_smoothing=1.0 must be 0 or more and below 1"),
        ({"points": 1.5}, "points=1.5 must be a positive whole number"),
    ],
)
def test_options_that_cannot_be(options, message):
    with pytest.raises(ValueError, match=message):
        make_task(**options)


def test_groups_of_statistics_are_of_shapes():
    module = Points({**TRUNK, "num_classes": 3, "bn_group": 4}, **SMALL).module()
    assert (module.bn_group, module.backbone.bn_group, module.encoder.bn_group) == (4, 12, 12)


# Examples.


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("solids")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(solids, "PER_CLASS", {"train": 3, "test": 2})
        for split in ("train", "test"):
            solids.solids_folder(folder, split)
    return {"name": "solids", "dir": folder, "train_split": "train", "eval_split": "test", "seed": 5}


def test_the_classes_are_the_datas(data):
    task = make_task(0)
    with pytest.raises(ValueError, match="the number of classes is left to the data"):
        task.module()
    fitted = fitted_to(task, data)
    assert (fitted.labels, fitted.module().num_classes) == (solids.KINDS, 10)
    with pytest.raises(ValueError, match="solids has 10 classes, but the model has 3"):
        examples_of(make_task(3), data, "train", train=True)


def test_the_stream_is_a_function_of_seed_and_position(data):
    task = make_task()

    def batches(seed, **options):
        return list(
            itertools.islice(
                train_batches(examples_of(task, data | {"seed": seed}, "train", train=True), 8, **options), 3
            )
        )

    first = batches(5)
    for again in (batches(5, num_threads=0), batches(5, num_threads=4)):
        for ours, theirs in zip(first, again, strict=True):
            for name in ("points", "poses", "kept", "label"):
                np.testing.assert_array_equal(ours[name], theirs[name])
    later = next(iter(train_batches(examples_of(task, data, "train", train=True), 8, start_step=2)))
    np.testing.assert_array_equal(later["points"], first[2]["points"])
    assert not np.array_equal(batches(6)[0]["poses"], first[0]["poses"])
    (spec,) = task.specs(train=True)
    shapes = {name: (leaf.shape, leaf.dtype) for name, leaf in {**spec.inputs, **spec.targets}.items()}
    assert {name: (first[0][name].shape[1:], first[0][name].dtype) for name in shapes} == shapes
    assert all(len(np.unique(kept)) == 16 for kept in first[0]["kept"])
    assert first[0]["kept"].max() == 17


def test_of_no_more_points_than_are_needed_each_is_kept_once(data):
    example = examples_of(make_task(points=24), data, "train", train=True)[0]
    assert sorted(example["kept"].tolist()) == [*range(24)]


def test_evaluation_reads_alike_and_takes_the_votes_of_the_task(data):
    task = make_task()
    one, again = (examples_of(make_task(votes=1), data, "test", train=False)[3] for _ in range(2))
    np.testing.assert_array_equal(one["points"], again["points"])
    assert (one["poses"].shape, one["label"], one["id"]) == ((1, 3, 3), 1, 3)
    assert examples_of(task, data, "test", train=False)[3]["poses"].shape == (8, 3, 3)
    assert np.linalg.norm(one["points"], axis=1).max() <= 1 + 1e-6  # the unit sphere, of those that are kept
    wide = examples_of(make_task(unit_sphere=False), data, "test", train=False)[12]["points"]
    assert np.linalg.norm(wide, axis=1).max() != pytest.approx(1, abs=1e-3)


def test_a_broken_shape_ends_or_is_passed_over(tmp_path):
    for split, kind, name in itertools.product(("train", "val"), "xy", "abc"):
        path = tmp_path / split / kind / f"{name}.off"
        path.parent.mkdir(parents=True, exist_ok=True)
        trimesh.creation.box((1, 2, 3)).export(str(path))
    for split in ("train", "val"):
        (tmp_path / split / "x" / "b.off").write_text("OFF\n3 1 0\n0 0 0\n1 0 nan\n0 1 0\n3 0 1 2\n")
    data = {"name": "shape_folder", "dir": tmp_path, "train_split": "train", "eval_split": "val", "seed": 0}
    task = make_task(2)
    refused = r"x/b\.off has 1 of 3 points that are not finite"
    with pytest.raises(BrokenFileError, match=refused):
        list(examples_of(task, data, "val", train=False))
    stream = examples_of(task, data | {"broken": "skip"}, "train", train=True)
    assert {int(stream[i]["id"]) for i in range(24)} == {0, 2, 3, 4, 5}
    assert [e["id"] for e in examples_of(task, data | {"broken": "skip"}, "val", train=False)] == [0, 2, 3, 4, 5]


def test_a_shape_far_away_needs_the_unit_sphere(tmp_path):
    path = tmp_path / "far.xyz"
    np.savetxt(path, np.random.default_rng(0).standard_normal((30, 3)) + np.array([0, 5e7, 0]), fmt="%.9f")
    (example,) = make_task().read(path)
    assert (example["points"].dtype, len(np.unique(example["points"], axis=0))) == (np.float32, 24)
    with pytest.raises(ValueError, match=r"far\.xyz is no shape: all its 30 points lie in one place"):
        make_task(unit_sphere=False).read(path)


# Votes and metrics.


def network(variables, coordinates, positions, **_):
    """Logits that depend on the pose alone: the mean height, and its opposite, of the second of three classes."""
    height = positions[:, 0, 2]
    return jnp.stack([height, -height, jnp.zeros_like(height)], axis=1)


def test_votes_are_means_of_logits():
    task = make_task(3)
    points = np.random.default_rng(0).standard_normal((2, 24, 3)).astype(np.float32)
    batch = {"points": points, "poses": np.broadcast_to(fixed_poses(40), (2, 40, 3, 3))}
    pred = task.predict(network, {}, batch)
    heights = np.einsum("vij,nj->nvi", fixed_poses(40), points[:, 0])[..., 2]
    np.testing.assert_allclose(pred["each"][..., 0], heights, rtol=0, atol=1e-6)
    np.testing.assert_allclose(pred["logits"][:, 1], -heights.mean(axis=1), rtol=0, atol=1e-6)
    single = task.predict(network, {}, batch | {"poses": batch["poses"][:, :1]})
    np.testing.assert_allclose(single["each"][:, 0], pred["each"][:, 0], rtol=0, atol=1e-6)


def test_metrics_of_a_whole_set():
    task = make_task(3)
    each = np.array(
        [[[3, 0, 0], [0, 1, 0]], [[0, 0, 0], [0, 0, 0]], [[0, 4, 0], [0, 4, 0]], [[1, 9, 0], [0, 9, 0]]], float
    )
    each = np.concatenate([each, np.full((1, 2, 3), np.nan), [[[0, 0, 9]] * 2]]).astype(np.float32)
    batch = {"label": np.array([0, 0, 1, 0, 1, 2], np.int32), "mask": np.array([1, 1, 1, 1, 1, 0], np.float32)}
    totals = jax.device_get(jax.jit(task.totals)({"logits": each.mean(axis=1), "each": each}, batch))
    metrics = task.metrics({**totals, "loss": 5.0}, [])
    assert list(metrics) == ["OA", "mAcc", "single", "loss", "count"]
    # Class 0: one of three (a tie and a wrong one), class 1: one of two (NaN), class 2: masked.
    assert metrics["OA"] == pytest.approx(100 * 2 / 5)
    assert metrics["mAcc"] == pytest.approx(100 * (1 / 3 + 1 / 2) / 2)
    assert metrics["single"] == pytest.approx(100 * (0.5 + 1) / 5)
    assert metrics["count"] == 5
    assert set(metrics) == set(task.units)
    with pytest.raises(ValueError, match="there is nothing to evaluate"):
        task.metrics({"count": 0}, [])


# A user's file.


def test_a_file_is_predicted_and_drawn(checkpoint, tmp_path):
    task = dataclasses.replace(checkpoint.task, labels=tuple("abcde"), votes=1)
    other = dataclasses.replace(checkpoint, task=task)
    trimesh.creation.cone(1, 2).export(str(tmp_path / "cone.off"))
    (tmp_path / "empty.off").write_text("OFF\n0 0 0\n")
    files = [str(tmp_path / name) for name in ("cone.off", "empty.off", "gone.stl", "cone.off")]
    results = list(predict_files(other, files))
    assert [bool(result.error) for result in results] == [False, True, True, False]
    assert "gone.stl" in results[2].error
    first, again = results[0].records[0], results[3].records[0]
    # Products of matrices add up in an order that depends on the row: equal rows of a batch agree to rounding.
    assert [row["label"] for row in again["predictions"]] == [row["label"] for row in first["predictions"]]
    scores = [[row["score"] for row in record["predictions"]] for record in (first, again)]
    np.testing.assert_allclose(*scores, rtol=1e-5)
    assert sum(row["score"] for row in first["predictions"]) == pytest.approx(1)
    json.dumps(first)
    picture = np.asarray(task.draw(results[0].examples, results[0].records))
    assert picture.shape == (256 + 4 * 21 + 6, 256, 3)
    views = [picture[y:, x:][4:124, 4:124] for y in (0, 128) for x in (0, 128)]
    assert all(view.std() > 10 for view in views)  # the original's four


def test_a_preview_shows_all_views_side_by_side(data):
    task = make_task()
    batch = next(iter(train_batches(examples_of(task, data, "train", train=True), 2)))
    shown = np.asarray(jax.jit(task.preview)(batch, None))
    assert shown.shape == (2, 14, 3 * 14, 1)
    for view in np.split(shown, 3, axis=2):
        assert view.max() == 1
        assert 0 < (view > 0).mean() < 1
