"""The whole loop on the digits recipe, a small network and few steps: what it leaves behind, and that it resumes."""

import contextlib
import errno
import filecmp
import functools
import itertools
import json
import logging
import math
import os
import re
import runpy
import shutil
import signal
from pathlib import Path

import flax
import jax
import numpy as np
import pytest
from orbax.checkpoint.handlers import JsonCheckpointHandler

from unireplknet_jax.data.pictures import sets as pictures
from unireplknet_jax.tasks import classification
from unireplknet_jax.tasks.checkpoint import open_checkpoint
from unireplknet_jax.train import batches, evaluations, loop
from unireplknet_jax.train import workdir as workdir_module
from unireplknet_jax.train.checkpoint import TrainCheckpoints
from unireplknet_jax.train.history import History
from unireplknet_jax.train.loop import train
from unireplknet_jax.train.metrics import read_metrics
from unireplknet_jax.train.recalibrate import recalibrate
from unireplknet_jax.train.sharding import make_mesh, micro_batch_sharding, to_devices

RECIPE = Path(__file__).parents[2] / "configs" / "small_images.py"
UNREAD = ("checkpoint", "data", "eval_first", "init", "log_every", "recalibrate", "stop")  # by `set_up`


def make_config(**fields):
    """10 steps, 5 an epoch; logged at 2, 4, 6, 8, evaluated and saved at 5 and 10."""
    config = runpy.run_path(str(RECIPE))["get_config"]("digits")
    options = {
        **{"depths": (0, 2, 0, 0), "dims": (8, 32, 8, 8), "kernel_sizes": ((), (0, 3), (), ())},
        "drop_path_rate": 0.3,  # so that steps draw random numbers
        "layer_scale_init": 1.0,
    }
    config.task.options.model.update(options)
    config.task.options.image_size = 16
    config.optim.update({"lr": 4e-3, "min_lr": 1e-6, "warmup_epochs": 1})
    config.update({"batch_size": 240, "eval_batch_size": 120, "epochs": 2, "eval_every_epochs": 1, "log_every": 2})
    config.update({"recalibrate": 0})
    config.ema.decay = 0.5
    config.update(fields)
    return config


def draw_nothing(patch):
    """Leave an empty picture of the curves: drawing them is a third of a run here, and only `finished` looks at it."""
    patch.setattr(loop, "draw_curves", lambda folder, *_: (folder / "curves.png").touch())


def measure_nothing(monkeypatch, values):
    """Take the values, one after the other, for what evaluations find, and 0 for those of the merged form."""

    def evaluate(*_, deploy=False, **__):
        return {"top1": 0.0 if deploy else values.pop(0)}

    monkeypatch.setattr(evaluations, "evaluate", evaluate)


@pytest.fixture(scope="module", autouse=True)
def set_up_once():
    """Runs share what follows from their recipe, so that their steps are traced once; UNREAD says nothing of these."""
    made, real = {}, loop.set_up

    def set_up(config, task, mesh, examples):
        read = {name: value for name, value in config.to_dict().items() if name not in UNREAD}
        key = repr(read), task, mesh, examples
        if key not in made:
            made[key] = real(config, task, mesh, examples)
        return made[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "set_up", set_up)
        patch.setattr(evaluations, "make_eval_step", functools.cache(evaluations.make_eval_step))
        yield


@pytest.fixture(autouse=True)
def without_curves(finished, monkeypatch):
    draw_nothing(monkeypatch)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """(workdir, metrics) of a run without interruption."""
    workdir = tmp_path_factory.mktemp("run") / "new" / "folder"
    return workdir, train(make_config(), workdir)


def rows_of(workdir):
    """The rows of metrics.jsonl without what a clock measured."""
    return [
        {name: value for name, value in row.items() if not name.startswith("speed/")}
        for row in read_metrics(workdir / "metrics.jsonl")
    ]


def variables_of(workdir):
    variables = open_checkpoint(workdir / "model").variables
    return {path: np.asarray(leaf) for path, leaf in flax.traverse_util.flatten_dict(variables, sep="/").items()}


def saved_steps(workdir):
    return sorted(int(path.name) for path in (workdir / "checkpoints").iterdir() if path.name.isdigit())


def stop_at(monkeypatch, step):
    """Make `train` fail before it takes this step."""
    calls = []

    def to_devices(*args):
        calls.append(args)
        if len(calls) == step:
            raise KeyboardInterrupt
        return real(*args)

    real = loop.to_devices
    monkeypatch.setattr(loop, "to_devices", to_devices)


def test_a_run_leaves_everything_behind(finished):
    workdir, metrics = finished
    assert {path.name for path in workdir.iterdir()} == {
        *("checkpoints", "curves.png", "metrics.jsonl", "tensorboard", "model", "model_ema", "best", "best_ema"),
        *("run.json", ".lock"),
    }
    assert (workdir / "curves.png").stat().st_size > 0
    assert list(metrics) == [f"{form}{name}" for form in ("", "ema/") for name in ("top1", "top5", "loss", "count")]
    assert metrics["count"] == 360
    assert saved_steps(workdir) == [5, 10]
    checkpoint = open_checkpoint(workdir / "model")
    assert checkpoint.module.kernel_sizes == ((), (0, 3), (), ())
    assert (checkpoint.data["name"], checkpoint.source, checkpoint.merged) == ("digits", "digits, 10 steps", False)


def test_what_is_measured_is_written(finished):
    workdir, metrics = finished
    rows = rows_of(workdir)
    trained = {row["step"]: row for row in rows if "train/loss" in row}
    evaluated = {row["step"]: row for row in rows if "eval/loss" in row}
    merged = [row for row in rows if "eval/merged/loss" in row]
    assert [(row["step"], row["eval/merged/top1"]) for row in merged] == [(10, metrics["top1"])]
    assert merged[0]["eval/merged/loss"] == pytest.approx(metrics["loss"], rel=1e-5)
    assert list(trained) == [2, 4, 5, 6, 8, 10]
    assert list(evaluated) == [5, 10]
    assert {f"eval/{name}": value for name, value in metrics.items()} | {"step": 10} == evaluated[10]
    # Warm-up in 5 steps from 0, then a cosine: the rate of a row is that of its last step.
    assert [trained[step]["lr"] for step in (2, 4, 5, 6)] == pytest.approx([1e-3, 3e-3, 4e-3, 4e-3], rel=1e-12)
    assert trained[2]["train/loss"] == pytest.approx(np.log(10), rel=0.05)
    assert trained[10]["train/loss"] < trained[2]["train/loss"]


@pytest.fixture(scope="module")
def resumed(finished, tmp_path_factory):
    """A run that was stopped in step 9, while it wrote a row, and then started again; (workdir, metrics)."""
    workdir = tmp_path_factory.mktemp("stopped")
    with pytest.MonkeyPatch.context() as patch:
        draw_nothing(patch)
        stop_at(patch, 9)
        with pytest.raises(KeyboardInterrupt):
            train(make_config(), workdir)
    assert saved_steps(workdir) == [5]
    assert [row["step"] for row in rows_of(workdir)] == [2, 4, 5, 5, 6, 8]
    with (workdir / "metrics.jsonl").open("a") as file:
        file.write('{"step": 9, "train/lo')
    with pytest.MonkeyPatch.context() as patch:
        draw_nothing(patch)
        return workdir, train(make_config(), workdir)


def test_a_stopped_run_goes_on_bit_for_bit(finished, resumed):
    assert resumed[1] == finished[1]
    expected, ours = variables_of(finished[0]), variables_of(resumed[0])
    assert ours.keys() == expected.keys()
    for name, leaf in expected.items():
        np.testing.assert_array_equal(ours[name], leaf, err_msg=name)


def test_its_metrics_are_those_of_one_run(finished, resumed):
    assert rows_of(resumed[0]) == rows_of(finished[0])


def test_statistics_are_estimated_anew_of_training_batches(finished, tmp_path):
    """Of a finished run, which nothing is left to be done for but to evaluate it so."""
    workdir, config = shutil.copytree(finished[0], tmp_path / "run"), make_config(recalibrate=2)
    lines = (workdir / "metrics.jsonl").read_text().splitlines(keepends=True)
    (workdir / "metrics.jsonl").write_text("".join(line for line in lines if "eval/" not in line))
    metrics = train(config, workdir)
    assert metrics["loss"] != finished[1]["loss"]
    task = open_checkpoint(finished[0] / "model").task
    data = {**config.data.to_dict(), "seed": 0}
    stream = task.examples(task.open(data, "train", train=True), train=True, seed=0)
    parts = list(itertools.islice(batches.micro_batches(config, task, stream), 2))
    expected = recalibrate(task, open_checkpoint(finished[0] / "model").variables, parts)
    jax.tree.map(np.testing.assert_array_equal, open_checkpoint(workdir / "model").variables, expected)


@pytest.mark.slow  # `test_statistics_are_estimated_anew_of_training_batches` stays
def test_statistics_that_are_estimated_anew_are_those_of_evaluations_alone(finished, tmp_path, monkeypatch, caplog):
    """The run is stopped and goes on; its training is that of a run with the running statistics."""
    caplog.set_level(logging.INFO, "unireplknet_jax")
    config = make_config(recalibrate=2)
    with monkeypatch.context() as patch:
        stop_at(patch, 9)
        with pytest.raises(KeyboardInterrupt):
            train(config, tmp_path)
    metrics = train(config, tmp_path)
    assert "the statistics of batch norm of 2 training batches, as the recipe says" in caplog.text
    trained = [[row for row in rows_of(folder) if "train/loss" in row] for folder in (tmp_path, finished[0])]
    assert trained[0] == trained[1]
    merged = [row for row in rows_of(tmp_path) if "eval/merged/loss" in row]
    assert merged[-1]["eval/merged/loss"] == pytest.approx(metrics["loss"], rel=1e-5) != finished[1]["loss"]
    task = open_checkpoint(finished[0] / "model").task
    data = {**config.data.to_dict(), "seed": 0}
    stream = task.examples(task.open(data, "train", train=True), train=True, seed=0)
    parts = list(itertools.islice(batches.micro_batches(config, task, stream), 2))
    for name in ("model", "model_ema"):
        before = open_checkpoint(finished[0] / name).variables
        expected = recalibrate(task, before, parts)
        jax.tree.map(np.testing.assert_array_equal, open_checkpoint(tmp_path / name).variables, expected)
        first = [tree["batch_stats"]["stages_1_1"]["norm"]["var"] for tree in (before, expected)]
        assert np.all(first[0] > 2 * first[1])  # which have come down from 1 by ten tenths


def test_a_finished_run_only_measures_again(finished):
    workdir, metrics = finished
    before = {path: path.read_bytes() for path in (workdir / "best" / "card.json", workdir / "model" / "card.json")}
    rows = rows_of(workdir)
    variables = variables_of(workdir)
    assert train(make_config(), workdir) == metrics
    assert {path: path.read_bytes() for path in before} == before
    assert rows_of(workdir) == rows
    assert saved_steps(workdir) == [5, 10]
    jax.tree.map(np.testing.assert_array_equal, variables_of(workdir), variables)


def test_a_run_goes_on_with_the_micro_batches_that_come_next():
    config = make_config(accumulate=2)
    task = loop.make_task(config)
    stream = task.examples(task.open({**config.data.to_dict(), "seed": 0}, "train", train=True), train=True, seed=0)
    with contextlib.ExitStack() as stack:
        (whole, first), (later, second) = (loop._batches(config, task, stream, step) for step in (0, 2))
        for micro_batches in (first, second):
            stack.enter_context(contextlib.closing(micro_batches))
        expected, found = list(itertools.islice(whole, 3))[2], next(later)
    assert found["image"].shape[:2] == (2, 120)
    for name in expected:
        np.testing.assert_array_equal(found[name], expected[name])


def test_threads_and_workers_read_the_micro_batches(monkeypatch):
    config, asked = make_config(accumulate=2), []
    config.data.update({"num_threads": 5, "workers": 3})
    task = loop.make_task(config)
    monkeypatch.setattr(batches, "train_batches", lambda stream, *args, arrays: asked.append((stream, args, arrays)))
    loop._batches(config, task, "a stream", 3)
    assert asked == [("a stream", (120, 6, 0, 1, 5, 3), {"image", "label"})]


def test_a_run_does_not_resume_with_another_batch_size(finished):
    message = "this run has batch_size=160, but the checkpoint at step 10 was made with 240; resume with the same value"
    with pytest.raises(ValueError, match=message):
        train(make_config(batch_size=160), finished[0])


@pytest.mark.parametrize(("name", "made", "value"), [("accumulate", 1, 2), ("seed", 0, 1)])
def test_a_run_does_not_resume_with_another_order_or_other_draws(finished, name, made, value):
    message = rf"this run has {name}={value}, but the checkpoint at step 10 was made with {made}; resume with the same"
    with pytest.raises(ValueError, match=message):
        train(make_config(**{name: value}), finished[0])


def test_a_run_does_not_resume_on_other_data(finished):
    facts = json.loads((finished[0] / "checkpoints" / "10" / "facts" / "metadata").read_text())
    assert (facts["data.name"], facts["data.train_split"], facts["training examples"]) == ("digits", "train", 1437)
    assert facts["labels"] == list("0123456789")
    message = r"this run has data\.train_split=test, but the checkpoint at step 10 was made with train; resume"
    with pytest.raises(ValueError, match=message):
        train(make_config(data={"train_split": "test"}), finished[0])


@pytest.mark.parametrize(("role", "split"), [("training", "train"), ("evaluation", "test")])
def test_a_run_does_not_resume_where_its_files_changed(finished, monkeypatch, role, split):
    found = {split: {"files": {"ant": [3, 9]}}}
    monkeypatch.setattr(classification.Classification, "identity", lambda _, opened: found.get(opened.name, {}))
    read = TrainCheckpoints._check
    before = {f"{role} files": {"ant": [2, 7]}, "training examples": 1436}  # files say more than their number
    monkeypatch.setattr(TrainCheckpoints, "_check", lambda self, step, facts: read(self, step, facts | before))
    with pytest.raises(
        ValueError, match=rf"^the {role} files are others than .* step 10 was made with: ant \(2, now 3\);"
    ):
        train(make_config(), finished[0])


def test_a_run_says_how_it_was_started(finished, tmp_path):
    workdir = shutil.copytree(finished[0], tmp_path / "run")
    train(make_config(log_every=5), workdir, command=["unireplknet", "train", "--config.name=two words"])
    run = json.loads((workdir / "run.json").read_text())
    assert run["recipe"]["task"]["options"]["model"]["dims"] == [8, 32, 8, 8]
    first, *_, second = run["starts"]  # others may have begun it, too
    assert (first["step"], first["command"], "changed" in first) == (0, "", False)
    assert (second["step"], second["command"]) == (10, "unireplknet train '--config.name=two words'")
    assert second["changed"] == {"log_every": [2, 5]}
    assert second["versions"]["jax"] == jax.__version__


def test_a_second_run_stays_out_of_the_workdir_and_the_first_goes_on(tmp_path, monkeypatch):
    def meanwhile(*args):
        before = saved_steps(tmp_path)
        with pytest.raises(OSError, match=rf"^another run is at work in the workdir .*\(process {os.getpid()} on "):
            train(make_config(), tmp_path)
        assert saved_steps(tmp_path) == before
        return real(*args)

    real, calls = loop.to_devices, []
    monkeypatch.setattr(
        loop, "to_devices", lambda *args: real(*args) if calls else meanwhile(*args, *calls.append(0) or [])
    )
    (tmp_path / ".best.killed" / "new").mkdir(parents=True)
    train(make_config(epochs=1), tmp_path)
    assert saved_steps(tmp_path) == [5]
    assert not (tmp_path / ".best.killed").exists()


def test_a_run_does_not_resume_with_a_shorter_recipe(finished):
    workdir, rows = finished[0], rows_of(finished[0])
    with pytest.raises(ValueError, match=r"already has 10 steps, but this recipe ends after 5; raise epochs"):
        train(make_config(epochs=1), workdir)
    assert rows_of(workdir) == rows
    assert saved_steps(workdir) == [5, 10]


def test_a_run_does_not_resume_with_another_network(finished):
    config = make_config()
    config.task.options.model.dims = (8, 16, 8, 8)
    message = "the checkpoint at step 10 is not of the network and optimizer of this recipe"
    with pytest.raises(ValueError, match=message) as caught:
        train(config, finished[0])
    assert "\n" not in str(caught.value)


def test_a_run_starts_from_the_checkpoint_it_is_given(finished, tmp_path, monkeypatch):
    started = []

    class Stop(Exception):
        pass

    def make_state(*args):
        started.append(real(*args))
        raise Stop

    real = loop.make_state
    monkeypatch.setattr(loop, "make_state", make_state)
    with pytest.raises(Stop):
        train(make_config(init=str(finished[0] / "model")), tmp_path)
    expected = variables_of(finished[0])
    for holder in (started[0], started[0]["ema"]):
        variables = {name: holder[name] for name in ("params", "batch_stats")}
        ours = flax.traverse_util.flatten_dict(variables, sep="/")
        assert ours.keys() == expected.keys()
        for name, leaf in expected.items():
            np.testing.assert_array_equal(ours[name], leaf, err_msg=name)
    assert int(started[0]["step"]) == 0


@pytest.mark.slow  # `test_a_merged_form_that_was_not_measured_yet_is_measured_later` stays
@pytest.mark.parametrize("step", [5, 10])
def test_an_evaluation_that_fails_loses_no_step_and_is_repeated(finished, tmp_path, monkeypatch, step):
    def evaluate(*args, **kwargs):
        calls.append(args)
        if len(calls) == {5: 1, 10: 4}[step]:  # of two forms; the second form at step 10
            raise ValueError("val/rose/1.jpg is broken")
        return real(*args, **kwargs)

    real, calls = evaluations.evaluate, []
    with monkeypatch.context() as patch:
        patch.setattr(evaluations, "evaluate", evaluate)
        with pytest.raises(ValueError, match="is broken"):
            train(make_config(), tmp_path)
    assert saved_steps(tmp_path)[-1] == step
    assert train(make_config(), tmp_path) == finished[1]
    assert rows_of(tmp_path) == rows_of(finished[0])
    for name in ("best", "best_ema", "model"):
        cards = [json.loads((workdir / name / "card.json").read_text()) for workdir in (tmp_path, finished[0])]
        assert cards[0] == cards[1]


def test_a_merged_form_that_was_not_measured_yet_is_measured_later(finished, tmp_path, monkeypatch):
    shutil.copytree(finished[0], tmp_path / "run")
    *before, last = (finished[0] / "metrics.jsonl").read_text().splitlines(keepends=True)
    assert "eval/merged/" in last
    (tmp_path / "run" / "metrics.jsonl").write_text("".join(before))
    measure_nothing(monkeypatch, [1.0, 2.0])
    assert train(make_config(), tmp_path / "run") == {"top1": 1.0, "ema/top1": 2.0}
    assert rows_of(tmp_path / "run") == [*rows_of(finished[0])[:-1], {"step": 10, "eval/merged/top1": 0.0}]


@pytest.mark.parametrize("step", [0, pytest.param(5, marks=pytest.mark.slow)])
def test_a_run_told_to_stop_before_its_first_step_stops(tmp_path, monkeypatch, step):
    def restore(self):
        os.kill(os.getpid(), signal.SIGTERM)
        return real(self)

    if step:
        with monkeypatch.context() as patch:
            stop_at(patch, 7)
            with pytest.raises(KeyboardInterrupt):
                train(make_config(), tmp_path)
    real = loop.TrainCheckpoints.restore
    monkeypatch.setattr(loop.TrainCheckpoints, "restore", restore)
    with pytest.raises(loop.Preempted, match=f"^told to stop before going on at step {step} of 10: nothing was lost; "):
        train(make_config(), tmp_path)
    assert saved_steps(tmp_path) == ([5] if step else [])


@pytest.mark.slow  # `test_a_stopped_run_goes_on_bit_for_bit` stays, and being told to stop before the first step
def test_a_run_told_to_stop_saves_and_leaves_the_evaluation_for_later(finished, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(loop.Preemption, "reached", lambda self, step: step == 5)
        patch.setattr(evaluations, "evaluate", None)
        with pytest.raises(loop.Preempted, match="told to stop: step 5 of 10 is saved in"):
            train(make_config(), tmp_path)
    assert saved_steps(tmp_path) == [5]
    assert train(make_config(), tmp_path) == finished[1]
    assert rows_of(tmp_path) == rows_of(finished[0])


def test_a_disk_that_fills_up_is_one_sentence(tmp_path, monkeypatch):
    async def full(*args):
        raise OSError(errno.ENOSPC, "No space left on device")

    def evaluate(*args, **kwargs):  # after the first state has been saved
        monkeypatch.setattr(JsonCheckpointHandler, "_save_fn", full)
        return real(*args, **kwargs)

    real = evaluations.evaluate
    config = make_config()
    config.checkpoint.every_steps = 4
    monkeypatch.setattr(evaluations, "evaluate", evaluate)
    with pytest.raises(OSError, match=rf"^the disk of the workdir {tmp_path} is full; the last saved step is \d;"):
        train(config, tmp_path)


def test_a_run_asks_for_the_room_of_one_state_more_than_it_keeps(tmp_path, monkeypatch):
    class Asked(Exception):
        pass

    def require_room(self, size):
        raise Asked(size)

    monkeypatch.setattr(loop, "state_bytes", lambda state: 100)
    monkeypatch.setattr(loop.Workdir, "require_room", require_room)
    config = make_config()
    config.checkpoint.keep = 3
    with pytest.raises(Asked, match="400"):
        train(config, tmp_path)


def test_what_reads_the_data_is_closed(tmp_path, monkeypatch):
    def train_batches(*args, **options):
        made.append(real(*args, **options))
        return made[0]

    real, made = batches.train_batches, []
    monkeypatch.setattr(batches, "train_batches", train_batches)
    stop_at(monkeypatch, 2)
    with pytest.raises(KeyboardInterrupt):
        train(make_config(), tmp_path)
    with pytest.raises(ValueError, match="closed"):
        next(made[0])


@pytest.mark.slow  # test_workdir.py has what is mirrored, test_checkpoint.py what is saved
def test_rows_are_in_a_bucket_before_their_state_and_each_split_is_opened_once(tmp_path, monkeypatch):
    opened, open_source = [], pictures.open_source
    monkeypatch.setattr(classification, "open_source", lambda *args: opened.append(args[1]) or open_source(*args))
    bucket, published = tmp_path / "bucket", []
    bucket.mkdir()
    monkeypatch.setattr(workdir_module, "_open_bucket", lambda text: bucket)
    real = loop.TrainCheckpoints.save

    def save(self, step, state):
        published.append((step, [row["step"] for row in read_metrics(bucket / "metrics.jsonl")][-1]))
        real(self, step, state)

    monkeypatch.setattr(loop.TrainCheckpoints, "save", save)
    config = make_config()
    config.task.options.model.num_classes, config.task.labels = 0, ()
    train(config, "gs://bucket/run")
    assert opened == ["train", "test"]
    assert published == [(5, 5), (10, 10)]
    names = {"model", "model_ema", "best", "best_ema", "checkpoints"}
    names |= {"metrics.jsonl", "tensorboard", "curves.png", "run.json"}
    assert {path.name for path in bucket.iterdir()} == names


def test_a_preview_gathers_no_more_than_it_shows():
    config = make_config()
    config.task.options.update({"mixup": 0.8, "cutmix": 1.0})
    mesh, task = make_mesh(), loop.make_task(config)
    images = np.zeros((1, 256, 16, 16, 1), np.uint8)
    batch = to_devices(micro_batch_sharding(mesh), {"image": images, "label": np.zeros((1, 256), np.int32)})
    with jax.set_mesh(mesh):
        lowered = loop._viewer(task).lower(batch, jax.random.key(0))
    text = lowered.compile().as_text()
    assert lowered.out_info.shape == (16, 16, 16, 1)
    sizes = re.findall(r"= \(?\w+\[([\d,]*)\]\S* (?:all-gather|all-reduce|all-to-all|collective-permute)", text)
    largest = max(math.prod(map(int, filter(None, size.split(",")))) for size in sizes)
    assert largest <= images.size // 8  # a device's neighbour's, for mixing, and not those of all


def stopped_and_resumed(monkeypatch, workdir, values):
    """A run whose evaluations at steps 5 and 10 give these top1, stopped in step 7 and started again."""
    config, left = make_config(), list(values)
    config.ema.decay = 0.0
    monkeypatch.setattr(
        evaluations, "evaluate", lambda *_, deploy=False, **__: {"top1": 0.0 if deploy else left.pop(0)}
    )
    with monkeypatch.context() as patch:
        stop_at(patch, 7)
        with pytest.raises(KeyboardInterrupt):
            train(config, workdir)
    assert train(config, workdir) == {"top1": values[1]}


@pytest.mark.slow  # `test_what_a_run_starts_from_may_stay_the_best` stays
@pytest.mark.parametrize(("values", "step"), [((50.0, 40.0), 5), ((50.0, 60.0), 10)])
def test_the_best_evaluation_stays_the_best_when_a_run_resumes(tmp_path, monkeypatch, values, step):
    stopped_and_resumed(monkeypatch, tmp_path, values)
    assert open_checkpoint(tmp_path / "best").source == f"digits, step {step} of 10, top1 {max(values):g}"
    assert open_checkpoint(tmp_path / "model").source == "digits, 10 steps"
    assert {path.name for path in tmp_path.iterdir()}.isdisjoint({"model_ema", "best_ema"})


@pytest.mark.slow  # `test_the_best_so_far_is_read_from_the_rows_before_the_checkpoint` has both forms
def test_each_form_is_measured_by_its_own_best(tmp_path, monkeypatch):
    left = [50.0, 20.0, 40.0, 30.0]  # of the network and of its moving average, at steps 5 and 10
    monkeypatch.setattr(
        evaluations, "evaluate", lambda *_, deploy=False, **__: {"top1": 0.0 if deploy else left.pop(0)}
    )
    train(make_config(), tmp_path)
    assert open_checkpoint(tmp_path / "best").source == "digits, step 5 of 10, top1 50"
    assert open_checkpoint(tmp_path / "best_ema").source == "digits, step 10 of 10, top1 30"


def test_the_best_so_far_is_read_from_the_rows_before_the_checkpoint(tmp_path):
    rows = [
        {"step": 5, "eval/top1": 50.0, "eval/loss": 9.0, "eval/ema/top1": 20.0, "eval/ema/loss": 9.0},
        {"step": 5, "train/loss": 99.0, "lr": 99.0},
        {"step": 10, "eval/top1": 40.0, "eval/loss": 7.0, "eval/ema/top1": 30.0, "eval/ema/loss": 8.0},
        {"step": 10, "eval/merged/top1": 99.0},
        {"step": 15, "eval/top1": 90.0, "eval/loss": 1.0, "eval/ema/top1": 90.0, "eval/ema/loss": 1.0},
    ]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    def best(form, value, step, higher=True, folder=tmp_path, loss=99.0):
        return History(folder, step, higher_is_better=higher).is_best(form, {"top1": value, "loss": loss})

    assert (best("", 50.1, 10), best("", 49.9, 10), best("ema", 30.1, 10), best("ema", 29.9, 10)) == (1, 0, 1, 0)
    assert (best("", 90.1, 15), best("", 89.9, 15), best("ema", 90.1, 15), best("ema", 89.9, 15)) == (1, 0, 1, 0)
    assert (best("", 39.9, 10, False), best("", 40.1, 10, False), best("ema", 19.9, 10, False)) == (1, 0, 1)
    assert all(best(form, -1e9, 4) and best(form, -1e9, 10, folder=tmp_path / "new") for form in ("", "ema"))
    assert not best("", math.nan, 4)


def test_what_a_run_starts_from_may_stay_the_best(tmp_path, monkeypatch):
    measure_nothing(monkeypatch, [30.0, 20.0, 25.0] * 2)
    config = make_config(eval_first=True)
    config.ema.decay = 0.0
    assert train(config, tmp_path)["top1"] == 25
    rows = [(row["step"], row["eval/top1"]) for row in rows_of(tmp_path) if "eval/top1" in row]
    assert rows == [(0, 30), (5, 20), (10, 25)]
    assert open_checkpoint(tmp_path / "best").source == "digits, step 0 of 10, top1 30"
    train(config, tmp_path)  # nothing is left to do
    assert [row["step"] for row in rows_of(tmp_path) if "eval/top1" in row] == [0, 5, 10]


def test_of_equal_evaluations_the_one_with_the_smaller_loss_is_best(tmp_path):
    rows = [{"step": 5, "eval/top1": 50.0, "eval/loss": 9.0}, {"step": 10, "eval/top1": 50.0, "eval/loss": 7.0}]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    history = History(tmp_path, 10)
    assert [history.is_best("", {"top1": 50.0, "loss": loss}) for loss in (6.9, 7.0, 8.0)] == [True, False, False]


def test_of_many_evaluations_with_one_accuracy_the_one_with_the_smallest_loss_is_best(tmp_path):
    history, best = History(tmp_path, 0), []
    for step, loss in enumerate([1.4, 1.5, math.nan, 1.3, 1.35, 1.2, 1.25], 1):
        found = {"accuracy": 25.0, "mAP": 50.0 + step, "loss": loss}
        best += [step] if history.is_best("", found) else []
        history.add(step, {"": found})
    assert best == [1, 4, 6]
    assert history.since_best() == 1


def test_an_evaluation_without_a_loss_is_beaten_by_an_equal_one_that_has_it(tmp_path):
    history = History(tmp_path, 0)
    history.add(1, {"": {"accuracy": 25.0, "loss": math.nan}})
    assert history.is_best("", {"accuracy": 25.0, "loss": 9.0})


def test_after_an_evaluation_that_is_not_a_number_there_is_a_best_again(tmp_path):
    rows = [{"step": 5, "eval/top1": 50.0}, {"step": 10, "eval/top1": math.nan}]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    history = History(tmp_path, 10)
    assert [history.is_best("", {"top1": value}) for value in (50.1, 49.9, math.nan)] == [True, False, False]


def test_a_run_ends_when_its_patience_does_and_stays_ended(tmp_path, monkeypatch):
    """The best evaluation is the first; neither NaN nor an equal one is better."""
    values = [50.0, math.nan, 50.0, 99.0]
    monkeypatch.setattr(
        evaluations, "evaluate", lambda *_, deploy=False, **__: {"top1": 0.0 if deploy else values.pop(0)}
    )
    config = make_config(eval_every_epochs=0.5)  # at steps 3, 6, 9 and 10
    config.ema.decay = 0.0
    config.stop.patience = 2
    assert train(config, tmp_path) == {"top1": 50.0}
    assert open_checkpoint(tmp_path / "best").source == "digits, step 3 of 10, top1 50"
    assert open_checkpoint(tmp_path / "model").source == "digits, 9 steps"
    train(config, tmp_path)
    assert open_checkpoint(tmp_path / "model").source == "digits, 9 steps"


def test_the_patience_is_of_the_metric_that_the_recipe_names(tmp_path):
    rows = [
        {"step": 5, "eval/top1": 50.0, "eval/loss": 9.0, "eval/ema/top1": 20.0, "eval/ema/rmse/lead 1": 3.0},
        {"step": 5, "eval/merged/top1": 99.0},
        {"step": 10, "eval/top1": math.nan, "eval/loss": 7.0, "eval/ema/top1": 30.0, "eval/ema/rmse/lead 1": 4.0},
        {"step": 15, "eval/top1": 40.0, "eval/loss": 8.0, "eval/ema/top1": 30.0},
        {"step": 20, "eval/top1": 60.0, "eval/loss": 8.0, "eval/ema/top1": 90.0},
    ]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    def waited(metric, step, higher=True, folder=tmp_path):
        return History(folder, step, metric, higher).since_best()

    assert waited("", 15) == 2
    assert waited("", 20) == 0
    assert waited("", 15, higher=False) == 0
    assert waited("loss", 20) == 2
    assert waited("ema/top1", 15) == 1
    assert waited("ema/rmse/lead 1", 10) == 1
    assert waited("loss", 20, folder=tmp_path / "new") == 0
    with pytest.raises(ValueError, match=r"stop\.metric=lost is not measured; choose one of top1, loss, ema/top1"):
        waited("lost", 20)


def test_a_metric_that_is_not_measured_is_refused_at_the_start(tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "set_up", None)
    config = make_config()
    config.stop.metric = "zzz"
    with pytest.raises(
        ValueError, match=r"^stop\.metric=zzz is not measured; choose top1, top5, loss, count, ema/top1"
    ):
        train(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.fixture(scope="module")
def unmeasured(tmp_path_factory):
    """(workdir, metrics, [(step, name, images)] shown) of a run without evaluation."""
    workdir, shown, config = tmp_path_factory.mktemp("unmeasured"), [], make_config()
    config.data.eval_split = ""
    with pytest.MonkeyPatch.context() as patch:
        draw_nothing(patch)
        patch.setattr(loop.MetricWriter, "write_images", lambda self, *args: shown.append(args))
        metrics = train(config, workdir)
    return workdir, metrics, shown


def test_a_run_without_evaluation(unmeasured, finished):
    workdir, metrics, _ = unmeasured
    assert metrics == {}
    assert saved_steps(workdir) == [5, 10]
    names = {path.name for path in workdir.iterdir()}
    expected = {"checkpoints", "curves.png", "metrics.jsonl", "tensorboard", "run.json", "model", "model_ema"}
    assert names - {".lock"} == expected
    assert rows_of(workdir) == [row for row in rows_of(finished[0]) if "train/loss" in row]


def test_training_images_are_shown_once(unmeasured):
    ((step, name, images),) = unmeasured[2]
    assert (step, name) == (0, "training images")
    assert images.shape == (16, 16, 16, 1)
    assert 0 <= images.min() < images.max() <= 1
    assert len({image.tobytes() for image in images}) > 8


def make_nan_at(monkeypatch, step, names=("loss", "grad_norm/head")):
    """Make these scalars of this step and all after it NaN."""
    real, calls = loop.compile_program, []

    def compile_program(*args, **options):
        train_step = real(*args, **options)

        def broken(state, batch):
            state, scalars = train_step(state, batch)
            calls.append(step)
            factor = np.nan if len(calls) >= step else 1.0
            return state, scalars | {name: scalars[name] * factor for name in names}

        return broken if options["what"] == "the training step" else train_step

    monkeypatch.setattr(loop, "compile_program", compile_program)


def test_a_loss_that_is_not_finite_ends_the_run(tmp_path, monkeypatch):
    make_nan_at(monkeypatch, 8)
    message = (
        r"^loss stopped being finite at step 8, learning rate 0\.00262 .*not finite: head; the largest .* was [\d.]+ in"
    )
    with pytest.raises(FloatingPointError, match=message):
        train(make_config(), tmp_path)
    assert saved_steps(tmp_path) == [5]


@pytest.mark.parametrize("names", [pytest.param(("loss",), marks=pytest.mark.slow), ("update_norm/head",)])
def test_what_is_not_finite_is_not_saved(tmp_path, monkeypatch, names):
    make_nan_at(monkeypatch, 3, names)
    with pytest.raises(FloatingPointError, match="at step 3"):
        train(make_config(log_every=100), tmp_path)
    assert saved_steps(tmp_path) == []


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"log_every": 0}, "log_every=0 must be 1 or more"),
        ({"batch_size": 100}, "batch_size=100 is not a multiple of the 8 devices"),
        ({"eval_batch_size": 100}, "eval_batch_size=100 is not a multiple of the 8 devices"),
        ({"mesh": {"fsdp": 3}}, r"mesh\.fsdp=3 does not divide the 8 devices"),
        ({"accumulate": 4}, "batch_size=240 is not a multiple of accumulate=4 times the 8 devices"),
        ({"ema": {"decay": 1.5}}, r"ema\.decay=1\.5 must be 0 or more and below 1"),
        ({"ema": {"ramp": "slow"}}, r"ema\.ramp='slow' is not known"),
        ({"steps": 10}, "epochs=2 and steps=10 say the same thing in different units"),
        ({"optim": {"layer_decay": 0.5, "layer_groups": 1}}, r"optim\.layer_groups=1 are too few: .* raise it to 3\."),
        ({"data": {"name": "digts"}}, "digts"),
        ({"optim": {"name": "lion"}}, "'lion' is not known"),
        ({"optim": {"warmup_epochs": 5}}, "warmup_epochs=5 does not fit a run of 2 epochs"),
        ({"task": {"name": "telepathy"}}, "unknown task 'telepathy'"),
        ({"task": {"options": {"model": {"num_classes": 7}}}}, "10 labels do not fit a model of 7 classes"),
        (
            {"task": {"labels": (), "options": {"model": {"num_classes": 7}}}},
            "digits has 10 classes, but the model has 7",
        ),
    ],
)
def test_a_recipe_that_cannot_run_is_refused_before_it_compiles(tmp_path, monkeypatch, fields, message):
    monkeypatch.setattr(loop, "make_state", None)
    with pytest.raises(ValueError, match=message):
        train(make_config(**fields), tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_two_runs_with_one_seed_are_the_same_file_by_file(finished, resumed):
    cards = [workdir / "model" / "card.json" for workdir, _ in (finished, resumed)]
    assert filecmp.cmp(*cards, shallow=False)
