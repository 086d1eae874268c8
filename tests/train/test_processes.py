"""Runs in processes of their own: killed and resumed, told to stop, on other meshes, in two processes."""

import itertools
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest
from fashion_files import write_fashion

from unireplknet_jax.train.metrics import read_metrics

SCRIPT = Path(__file__).parent / "train_in_process.py"
RESTORE = Path(__file__).parent / "restore_in_process.py"
EVALUATE = Path(__file__).parent / "evaluate_in_process.py"
DOTS = Path(__file__).parent / "dots_in_process.py"
DETECT = Path(__file__).parent / "detect_in_process.py"
STEPS = 11  # of 128 out of 1,437 examples


@pytest.fixture(scope="module")
def programs(tmp_path_factory):
    """A cache of compiled programs that the processes share."""
    return tmp_path_factory.mktemp("programs")


def start(workdir, programs, devices, process=None, **wishes):
    """One process that trains; process: (index, count, port)."""
    workdir.mkdir(exist_ok=True)
    return launch(programs, devices, process, SCRIPT, workdir, json.dumps(wishes))


def launch(programs, devices, process, *words):
    """One process of a script."""
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(sys.path),
        "JAX_PLATFORMS": "cpu",
        "JAX_NUM_CPU_DEVICES": str(devices),
        "JAX_COMPILATION_CACHE_DIR": str(programs),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
    }
    if process:
        index, count, port = process
        environment |= {
            "UNIREPLKNET_COORDINATOR": f"127.0.0.1:{port}",
            "UNIREPLKNET_PROCESSES": str(count),
            "UNIREPLKNET_PROCESS": str(index),
        }
    command = [sys.executable, *map(str, words)]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def finish(runs, expected=0):
    """Wait for processes; one that ends otherwise takes the others with it."""
    try:
        outputs = [run.communicate(timeout=400)[0] for run in runs]
    finally:
        for run in runs:
            run.kill()
    for run, output in zip(runs, outputs, strict=True):
        assert run.returncode == expected, output[-3000:]
    return outputs


def printed(output):
    """The line of JSON that a process prints."""
    return next(json.loads(line) for line in output.splitlines() if line.startswith("{"))


def in_one(workdir, programs, devices=1, expected=0, **wishes):
    finish([start(workdir, programs, devices, **wishes)], expected)


def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def in_two(workdir, programs, devices=4, expected=0, **wishes):
    port = free_port()
    finish([start(workdir, programs, devices, (index, 2, port), **wishes) for index in range(2)], expected)


def final_state(workdir, step=STEPS):
    """Every array of the train state of a step, by path."""
    with ocp.StandardCheckpointer() as checkpointer:
        folder = workdir / "checkpoints" / str(step) / "state"
        shapes = checkpointer.metadata(folder).item_metadata.tree
        here = jax.sharding.SingleDeviceSharding(jax.devices()[0])
        like = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=here), shapes)
        state = checkpointer.restore(folder, like)
    return {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(state)}


def assert_same(workdir, other, step=STEPS):
    ours, theirs = final_state(workdir, step), final_state(other, step)
    assert ours.keys() == theirs.keys()
    assert {"params", "batch_stats", "opt", "ema", "step"} == {name.split("'")[1] for name in ours}
    for name, leaf in ours.items():
        np.testing.assert_array_equal(leaf, theirs[name], err_msg=name)


@pytest.fixture(scope="module")
def runs(tmp_path_factory, programs):
    """{name: workdir} of uninterrupted runs."""
    made = {}

    def run(name):
        if name not in made:
            workdir = tmp_path_factory.mktemp("run") / name
            {
                "1 device": lambda: in_one(workdir, programs),
                "8 devices": lambda: in_one(workdir, programs, 8),
                "4 x 2": lambda: in_one(workdir, programs, 8, fields={"mesh": {"fsdp": 2}}),
                "2 processes": lambda: in_two(workdir, programs),
            }[name]()
            made[name] = workdir
        return made[name]

    return run


@pytest.mark.slow
@pytest.mark.parametrize(("name", "train"), [("1 device", in_one), ("2 processes", in_two)])
def test_a_killed_run_goes_on_bit_for_bit(runs, tmp_path, programs, name, train):
    step = int(np.random.default_rng().integers(1, STEPS))  # anywhere
    print(f"killed before step {step + 1}")  # which pytest shows if this fails
    train(tmp_path / "run", programs, expected=-signal.SIGKILL, kill_at=step)
    train(tmp_path / "run", programs)
    assert_same(tmp_path / "run", runs(name))


# Of the recipes for pictures with masks and with boxes: what is smaller than in `:runlocal`.
PICTURES = {
    "ade20k": {"model": {"channels": 8, "auxiliary_channels": 4}, "crop": 32, "stride": 32},
    "coco": {
        "model": {
            **{"channels": 8, "box_channels": 4, "box_features": 8, "mask_channels": 4, "anchor_counts": (32, 16)},
            **{"train_proposals": (30, 20), "region_counts": (16, 8), "masks": False},  # nothing is drawn of masks
        },
        **{"short_sides": (32, 48), "longest": 64, "crop_sides": (40,), "crop": (24, 40)},
    },
}


@pytest.mark.slow
@pytest.mark.parametrize("recipe", PICTURES)
def test_a_killed_run_on_pictures_goes_on_bit_for_bit(recipe, tmp_path, programs):
    """Scales, crops and colours, the channels that heads drop, anchors and regions are drawn as if nothing was."""
    for split in ("train", "t10k"):
        write_fashion(tmp_path, 40, split)
    trunk = {"depths": (1, 1, 0, 0), "dims": (4, 8, 12, 16), "kernel_sizes": ((3,), (7,), (), ())}
    options = PICTURES[recipe]
    model = trunk | {"drop_path_rate": 0.2} | options["model"]
    fields = {
        **{"task": {"options": options | {"model": model}}},
        **{"data": {"dir": str(tmp_path), "eval_split": ""}, "ema": {"decay": 0.5}, "checkpoint": {"every_steps": 1}},
        **{"batch_size": 8, "recalibrate": 0, "epochs": 0.0, "steps": 4},
        "optim": {"warmup_epochs": 0.0, "warmup_steps": 2},
    }
    wishes = {"recipe": f"{recipe}.py:runlocal", "fields": fields}
    in_one(tmp_path / "whole", programs, **wishes)
    in_one(tmp_path / "run", programs, expected=-signal.SIGKILL, kill_at=1, **wishes)
    in_one(tmp_path / "run", programs, **wishes)
    assert_same(tmp_path / "run", tmp_path / "whole", 4)


@pytest.mark.slow
@pytest.mark.parametrize("joined", [False, True])  # a run of one process that jax was told of, too
def test_a_run_told_to_stop_saves_and_goes_on_bit_for_bit(runs, tmp_path, programs, joined):
    workdir, joining = tmp_path / "run", (0, 1, free_port()) if joined else None
    process = start(workdir, programs, 1, joining, fields={"checkpoint": {"every_steps": 1000}})
    while not [row for row in read_metrics(workdir / "metrics.jsonl") if row["step"] >= 2]:
        assert process.poll() is None, process.communicate()[0][-3000:]
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    output = process.communicate(timeout=100)[0]
    assert "Preempted: told to stop: step" in output, output[-3000:]
    saved = [int(path.name) for path in (workdir / "checkpoints").iterdir() if path.name.isdigit()]
    assert len(saved) == 1
    assert 2 <= saved[0] < STEPS
    in_one(workdir, programs)
    assert_same(workdir, runs("1 device"))


def ids_by_step(workdir, processes):
    """The ids of every micro-batch over all processes, (steps, micro-batches * n), in the order of the processes."""
    rows = [
        [json.loads(line) for line in (workdir / f"ids_{index}.jsonl").read_text().splitlines()]
        for index in range(processes)
    ]
    return [[*itertools.chain(*parts)] for parts in zip(*rows, strict=True)][: 2 * STEPS]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "processes"), [("8 devices", 1), ("4 x 2", 1), ("2 processes", 2)])
def test_the_same_run_on_every_mesh(runs, name, processes):
    files = [read_metrics(runs(n) / "metrics.jsonl") for n in ("1 device", name)]
    one, other = ({row["step"]: row for row in rows if "train/loss" in row} for rows in files)
    for step, tolerance in ((1, 1e-5), (2, 1e-5), (3, 1e-5), (10, 1e-4)):
        assert other[step]["train/loss"] == pytest.approx(one[step]["train/loss"], rel=tolerance)
    (first, *_), (second, *_) = ([row for row in rows if "eval/loss" in row] for rows in files)
    for column in ("eval/loss", "eval/ema/loss"):  # with the statistics of training batches
        assert second[column] == pytest.approx(first[column], rel=1e-3)
    assert one[1]["train/loss"] != pytest.approx(one[2]["train/loss"], rel=1e-4)
    ids = ids_by_step(runs(name), processes)
    assert ids == ids_by_step(runs("1 device"), 1)
    assert len({*itertools.chain(*ids)}) == STEPS * 128  # an epoch, no example twice


@pytest.mark.slow
def test_one_process_goes_on_where_two_were_killed(runs, tmp_path, programs):
    in_two(tmp_path / "run", programs, expected=-signal.SIGKILL, kill_at=7)
    in_one(tmp_path / "run", programs)
    ours, theirs = final_state(tmp_path / "run"), final_state(runs("1 device"))
    assert ours.keys() == theirs.keys()
    rows = {row["step"]: row for row in read_metrics(tmp_path / "run" / "metrics.jsonl")}
    expected = {row["step"]: row for row in read_metrics(runs("1 device") / "metrics.jsonl")}
    assert rows[10]["train/loss"] == pytest.approx(expected[10]["train/loss"], rel=1e-4)


def two_with(workdir, programs, what):
    """The outputs of two processes that save or restore train states."""
    port = free_port()
    runs = [launch(programs, 2, (index, 2, port), RESTORE, workdir, what) for index in range(2)]
    return finish(runs)


@pytest.mark.slow
def test_two_processes_agree_on_what_is_damaged(tmp_path, programs):
    two_with(tmp_path, programs, "save")
    assert (tmp_path / "checkpoints" / "3" / "checksums.json").exists()
    for output in two_with(tmp_path, programs, "out of reach"):
        assert "OSError: the checkpoint at step 3" in output, output[-3000:]
    assert not (tmp_path / "checkpoints" / "damaged").exists()
    for output in two_with(tmp_path, programs, "damaged"):
        assert "restored step 2" in output, output[-3000:]
    assert (tmp_path / "checkpoints" / "damaged" / "3" / "state").is_dir()


def test_every_process_makes_the_records_of_its_own_examples(programs):
    counts = (21, 3)  # three batches of 8; of the smaller set process 1 has padding alone
    port = free_port()
    outputs = finish([launch(programs, 2, (index, 2, port), EVALUATE, 8, *counts) for index in range(2)])
    expected = [
        {"examples": count, "sum": 3 * 4 * sum(range(count)), "records": count, "ids": count, "own": count}
        for count in counts
    ]
    for index, output in enumerate(outputs):
        found = [json.loads(line) for line in output.splitlines() if line.startswith("{")]
        pairs = [{"outcomes": None} if index else {"outcomes": count, "hits": count} for count in counts]
        assert found == [own | more for own, more in zip(expected, pairs, strict=True)], output[-3000:]


@pytest.mark.slow
def test_a_task_of_any_shapes_is_evaluated_alike_in_two_processes(tmp_path, programs):
    port = free_port()
    outputs = finish([launch(programs, 4, (index, 2, port), DOTS, tmp_path / "two") for index in range(2)])
    outputs += finish([launch(programs, 8, None, DOTS, tmp_path / "one")])
    found = [printed(output) for output in outputs]
    assert found[0] == found[1] == found[2]
    assert (found[0]["wrong"], found[0]["records"]) == (0, 13)


@pytest.mark.slow
def test_a_detector_is_measured_alike_in_two_processes(tmp_path, programs):
    """Each process makes records of its own pictures, and of one canvas the second has padding alone."""
    folder, port = tmp_path / "pictures", free_port()
    (output,) = finish([launch(programs, 1, None, DETECT, folder, tmp_path / "one.json")])
    outputs = finish(
        [launch(programs, 1, (index, 2, port), DETECT, folder, tmp_path / f"{index}.json") for index in range(2)]
    )
    expected, found = printed(output), [printed(each) for each in outputs]
    assert [row.pop("process") for row in (expected, *found)] == [0, 0, 1]
    for name in ("box_ap", "mask_ap"):
        assert 30 < expected[name] < 90  # half of what is found is there
    for row in found:
        assert row == pytest.approx(expected, rel=1e-9, nan_ok=True)
    files = [json.loads((tmp_path / f"{name}.json").read_text()) for name in ("one", "0")]
    one, two = (sorted(rows, key=lambda row: row["image_id"]) for rows in files)  # each picture's, best first
    assert not (tmp_path / "1.json").exists()  # metrics are made by one process
    assert len(one) == 25
    for own, other in zip(one, two, strict=True):
        assert (own["image_id"], own["category_id"]) == (other["image_id"], other["category_id"])
        # Rows of a batch change what float32 rounds: places by less than a thousandth of a pixel.
        np.testing.assert_allclose([*own["bbox"], own["score"]], [*other["bbox"], other["score"]], atol=1e-3)
