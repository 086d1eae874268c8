import dataclasses
import json
import logging
import math

import numpy as np
import pytest
from PIL import Image
from tensorboardX import SummaryWriter

from unireplknet_jax.tasks.base import get_task
from unireplknet_jax.train import curves, metrics
from unireplknet_jax.train.curves import draw_curves
from unireplknet_jax.train.metrics import MetricWriter, Progress, read_metrics


def write(workdir, rows, first_step=0):
    writer = MetricWriter(workdir, first_step)
    for step, values in rows:
        writer.write(step, values)
    writer.close()


def test_rows_are_json_lines(tmp_path):
    write(tmp_path, [(2, {"train/loss": 1.5}), (4, {"train/loss": 1.25, "lr": 1})])
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert lines == ['{"step": 2, "train/loss": 1.5}', '{"step": 4, "train/loss": 1.25, "lr": 1.0}']
    assert read_metrics(tmp_path / "metrics.jsonl") == [json.loads(line) for line in lines]


def test_a_row_can_be_read_at_once(tmp_path):
    writer = MetricWriter(tmp_path)
    writer.write(1, {"a": 1})
    assert read_metrics(tmp_path / "metrics.jsonl") == [{"step": 1, "a": 1.0}]
    writer.close()


def test_a_resumed_run_drops_the_rows_it_will_repeat(tmp_path):
    write(tmp_path, [(step, {"a": step}) for step in (2, 4, 5, 6, 8)])
    write(tmp_path, [(6, {"a": -6}), (8, {"a": -8})], first_step=5)
    rows = read_metrics(tmp_path / "metrics.jsonl")
    assert [(row["step"], row["a"]) for row in rows] == [(2, 2), (4, 4), (5, 5), (6, -6), (8, -8)]


def test_a_run_that_starts_again_starts_an_empty_file(tmp_path):
    write(tmp_path, [(2, {"a": 1})])
    write(tmp_path, [(1, {"a": 2})])
    assert read_metrics(tmp_path / "metrics.jsonl") == [{"step": 1, "a": 2.0}]


def test_a_last_line_that_was_cut_off_is_left_out(tmp_path):
    write(tmp_path, [(2, {"a": 1}), (4, {"a": 2})])
    path = tmp_path / "metrics.jsonl"
    path.write_text(path.read_text()[:-9])
    assert read_metrics(path) == [{"step": 2, "a": 1.0}]
    write(tmp_path, [(6, {"a": 3})], first_step=4)
    assert [row["step"] for row in read_metrics(path)] == [2, 6]


@pytest.mark.parametrize(
    "garbage",
    [
        b"\xff\xfe\x00\n",
        b"\0" * 99 + b"\n",
        b"3\n",
        b"[1]\n",
        b"null\n",
        b'{"a": 1}\n',
        b'{"step": "4"}\n',
        b'{"step": 4.5}\n',
    ],
)
def test_other_lines_than_rows_are_left_out(tmp_path, garbage):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"step": 2, "a": 1.0}\n' + garbage + b'{"step": 4, "a": 2.0}\n')
    write(tmp_path, [(6, {"a": 3})], first_step=4)
    assert [(row["step"], row["a"]) for row in read_metrics(path)] == [(2, 1), (4, 2), (6, 3)]
    assert garbage not in path.read_bytes()


def test_a_start_that_is_interrupted_keeps_the_rows(tmp_path, monkeypatch):
    write(tmp_path, [(2, {"a": 1}), (4, {"a": 2})])
    before = read_metrics(tmp_path / "metrics.jsonl")
    with monkeypatch.context() as patch:
        patch.setattr(metrics.json, "dumps", lambda row: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            MetricWriter(tmp_path, first_step=4)
    assert read_metrics(tmp_path / "metrics.jsonl") == before
    assert {path.name for path in tmp_path.iterdir()} == {"metrics.jsonl", "tensorboard"}


def test_without_a_file_there_are_no_rows(tmp_path):
    assert read_metrics(tmp_path / "metrics.jsonl") == []


def test_tensorboard_gets_the_same_numbers(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(SummaryWriter, "add_scalar", lambda self, *scalar: seen.append(scalar))
    write(tmp_path, [(3, {"train/loss": 0.5, "eval/ap_small": math.nan, "lr": 1e-3})])
    assert seen == [("train/loss", 0.5, 3), ("lr", 1e-3, 3)]
    assert list((tmp_path / "tensorboard").glob("events.*"))


def test_tensorboard_forgets_the_steps_that_a_resumed_run_repeats(tmp_path, monkeypatch):
    seen, begin = [], SummaryWriter.__init__
    monkeypatch.setattr(
        SummaryWriter,
        "__init__",
        lambda self, *a, **k: seen.append(k["purge_step"]) or begin(self, *a, **k),
    )
    write(tmp_path, [(6, {"a": 1})], first_step=5)
    assert seen == [6]


def test_only_the_first_process_writes(tmp_path, monkeypatch):
    monkeypatch.setattr(metrics.jax, "process_index", lambda: 1)
    write(tmp_path, [(2, {"a": 1})])
    assert list(tmp_path.iterdir()) == []


def test_speed_leaves_pauses_out_and_time_left_follows_from_it(monkeypatch, caplog):
    now = [100.0]
    monkeypatch.setattr(metrics.time, "monotonic", lambda: now[0])
    progress = Progress(steps=100, steps_per_epoch=10, batch_size=8, first_step=20, utilization=0.01)
    now[0] += 2
    measured = progress.measure(30)  # 10 steps of 8 examples in 2 seconds
    assert measured.pop("device_memory_gib", 1) > 0  # a CPU does not say
    assert measured == pytest.approx(
        {"examples_per_second": 40, "seconds_per_step": 0.2, "model_flops_utilization": 0.4}
    )
    now[0] += 1000
    progress.restart(30)
    now[0] += 4
    assert progress.measure(40)["examples_per_second"] == pytest.approx(20)
    with caplog.at_level(logging.INFO):
        progress.line(40, {"loss": 0.123456})
    # 60 steps of 8 examples at 20 a second: 24 seconds.
    assert caplog.messages == ["step 40/100  epoch 4.0  loss 0.1235  left 0:00:24"]


@pytest.fixture
def drawn(monkeypatch):
    """What is drawn: figures of matplotlib."""
    figures, render = [], curves.rendered
    monkeypatch.setattr(curves, "rendered", lambda figure: figures.append(figure) or render(figure))
    return figures


def lines_of(axes):
    """{colour: points} of the curves in a panel."""
    return {line.get_color(): line.get_xydata().tolist() for line in axes.lines if len(line.get_xydata())}


def test_curves_have_one_panel_for_each_quantity(tmp_path, drawn):
    write(tmp_path, [(2, {"train/loss": 2.0, "lr": 0.1}), (4, {"train/loss": 1.0, "lr": 0.2})])
    write(tmp_path, [(4, {"eval/loss": 1.5, "eval/count": 9}), (6, {"eval/loss": 1.25, "eval/count": 9})], first_step=4)
    draw_curves(tmp_path)
    panels = {axes.get_title(): axes for axes in drawn[0].axes}
    assert list(panels) == ["loss", "learning rate"]  # a count that stays the same is no curve
    assert lines_of(panels["loss"]) == {"tab:green": [[2, 2.0], [4, 1.0]], "tab:blue": [[4, 1.5], [6, 1.25]]}
    with Image.open(tmp_path / "curves.png") as picture:
        assert picture.width == 800
    assert {path.name for path in tmp_path.iterdir()} == {"metrics.jsonl", "tensorboard", "curves.png"}


def test_curves_name_units_epochs_and_what_is_of_training_alone(tmp_path, drawn):
    model = {"depths": (1, 1, 1, 1), "dims": (8,) * 4, "kernel_sizes": ((3,),) * 4, "num_classes": 2}
    options = {"label_smoothing": 0.1, "flip": True, "mixup": 0.2}
    task = get_task("classification", model=model | {"drop_path_rate": 0.3}, **options)
    write(tmp_path, [(2, {"train/loss": 2.0}), (4, {"train/loss": 1.0}), (4, {"eval/loss": 0.5, "eval/top1": 75.0})])
    draw_curves(tmp_path, task, steps_per_epoch=2)
    loss, top1 = drawn[0].axes
    assert (loss.get_title(), top1.get_title()) == ("loss, nats", "top1, %")
    assert lines_of(top1) == {"tab:blue": [[4, 75.0]]}  # one evaluation is a point that is seen
    assert top1.lines[0].get_marker() == "o"
    (above,) = loss.child_axes
    assert above.get_xlabel() == "epoch"
    assert above.get_xlim() == pytest.approx(np.array(loss.get_xlim()) / 2)
    (legend,) = drawn[0].legends
    texts = [text.get_text().replace("\n", " ") for text in legend.get_texts()]
    assert "augmentation, mixup, label smoothing 0.1, drop path up to 0.3, batch statistics" in texts[0]
    assert texts[1:] == ["evaluation"]
    frame = legend.get_window_extent()
    assert not any(frame.overlaps(axes.get_tightbbox()) for axes in drawn[0].axes)  # the legend covers nothing
    plain = dataclasses.replace(task, label_smoothing=0.0, flip=False, mixup=0.0, model=model)
    assert plain.training_only == ("batch statistics of batch norm",)
    assert dataclasses.replace(plain, cutmix=1.0).training_only == ("cutmix", "batch statistics of batch norm")


def test_curves_mark_what_is_not_finite(tmp_path, drawn):
    rows = [(2, {"train/loss": 8.0, "a": 1.0}), (4, {"train/loss": float("nan"), "a": 2.0})]
    write(tmp_path, [*rows, (6, {"train/loss": 1.0}), (6, {"eval/mse": float("inf"), "eval/loss": -1.0})])
    draw_curves(tmp_path)
    panels = {axes.get_title(): axes for axes in drawn[0].axes}
    assert lines_of(panels["loss"])["tab:green"] == [[2, 8.0], [6, 1.0]]
    assert [point[0] for point in lines_of(panels["loss"])["red"]] == [4]
    assert panels["loss"].get_yscale() == "linear"  # of what is below 0 there is no logarithm
    assert [point[0] for point in lines_of(panels["mse"])["red"]] == [6]


@pytest.mark.parametrize(("last", "scale"), [(0.5, "log"), (2.0, "linear")])
def test_losses_that_fall_far_are_on_a_logarithmic_axis(tmp_path, drawn, last, scale):
    write(tmp_path, [(2, {"train/loss": 3.0, "lr": 3.0}), (4, {"train/loss": last, "lr": last})])
    draw_curves(tmp_path)
    assert [axes.get_yscale() for axes in drawn[0].axes] == [scale, "linear"]


def test_curves_of_many_quantities_wrap(tmp_path, drawn):
    names = ["eval/mse", "eval/ema/mse", "eval/merged/mse", "train/grad_norm"]
    names += [f"train/a{index}" for index in range(5)]
    parts = ["train/grad_norm/stages_0_", "eval/mse/lead ", "eval/ema/mse/lead ", "eval/merged/mse/lead "]
    parts = [f"{name}{index}" for name in parts for index in range(10)]
    write(tmp_path, [(step, {name: step for name in names + parts}) for step in (2, 4)])
    draw_curves(tmp_path)
    assert [axes.get_title() for axes in drawn[0].axes] == ["mse", "norm of the gradient", "a0", "a1", "a2", "a3", "a4"]
    assert {*lines_of(drawn[0].axes[0])} == {"tab:blue", "tab:orange", "tab:red"}
    assert len({axes.get_position().y0 for axes in drawn[0].axes}) == 4  # two beside each other


def test_without_rows_nothing_is_drawn(tmp_path):
    draw_curves(tmp_path)
    assert not (tmp_path / "curves.png").exists()
