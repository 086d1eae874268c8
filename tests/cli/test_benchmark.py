import json
import sys

import numpy as np
import pytest
from PIL import Image

from unireplknet_jax.__main__ import main
from unireplknet_jax.benchmark.throughput import STEPS
from unireplknet_jax.models.variants import VARIANTS, Variant


@pytest.fixture(autouse=True)
def without_torchvision(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchvision", None)


@pytest.fixture
def few_blocks(monkeypatch):
    """A block per stage passes for the smallest size: what is compiled of A takes minutes, and fills the same table."""
    few = Variant((1, 1, 1, 1), (8, 16, 24, 32), ((3,), (13,), (13,), (13,)))
    monkeypatch.setitem(VARIANTS, "unireplknet_a", few)


def test_the_speed_of_the_input_is_printed_as_a_table(capsys):
    assert main(["benchmark", "input", "--pictures", "2", "--rounds", "2", "--size", "40"]) == 0
    captured = capsys.readouterr()
    lines = captured.out.splitlines()
    assert lines[0] == ("2 synthetic JPEG files of 500 x 375 pixels to 40 x 40, 2 rounds; pictures per second and core")
    assert [line.split("  ")[0] for line in lines[2:]] == list(STEPS)
    assert "note: torchvision cannot be imported" in captured.err


def test_the_speed_of_the_input_is_printed_as_json(tmp_path, capsys):
    Image.fromarray(np.zeros((9, 9, 3), np.uint8)).save(tmp_path / "a.png")
    assert main(["benchmark", "input", "--data-dir", str(tmp_path), "--rounds", "2", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["source"] == f"pictures in {tmp_path}"
    assert (document["pictures"], document["rounds"], document["size"]) == (1, 2, 224)
    assert [row["step"] for row in document["speeds"]] == list(STEPS)
    assert all(row["slowest"] <= row["median"] <= row["fastest"] for row in document["speeds"])
    assert document["notes"][0].startswith("torchvision cannot be imported")


def test_wrong_usage_and_wrong_data_are_one_line(tmp_path, capsys):
    assert main(["benchmark"]) == 2
    assert main(["benchmark", "outptu"]) == 2
    capsys.readouterr()
    assert main(["benchmark", "input", "--data-dir", str(tmp_path)]) == 1
    assert main(["benchmark", "input", "--pictures", "0"]) == 1
    assert main(["benchmark", "input", "--data-dir", str(tmp_path / "absent")]) == 1
    errors = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("note: ")]
    assert len(errors) == 3
    assert all(line.startswith("unireplknet benchmark: error: ") for line in errors)


def run_json(capsys, *arguments):
    assert main(["benchmark", *arguments, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_the_convolution_is_timed_form_by_form(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr("unireplknet_jax.benchmark.depthwise.torch_and_device", lambda: (None, None))
    monkeypatch.setattr("unireplknet_jax.benchmark.depthwise.measured_roofline", lambda: (1e9, 1e9))
    plot = tmp_path / "plot.png"
    chosen = ("--case", "1x7x7x8 k7", "--form", "xla", "--form", "dft", "--rounds", "2", "--plot", str(plot))
    document = run_json(capsys, "depthwise", *chosen)
    found = [(row["pass"], row["form"]) for row in document["rows"]]
    assert found == [
        *(("forward", form) for form in ("xla", "dft", "dft, prepared")),
        *((name, form) for name in ("input gradient", "kernel gradient") for form in ("xla", "dft")),
    ]
    assert document["dtype"] == "float32"
    assert {row["form"] for row in document["rows"] if row["auto"]} == {"dft", "dft, prepared"}
    assert all(row["times xla"] == 1 for row in document["rows"] if row["form"] == "xla")
    row = document["rows"][1]
    # 7 positions meet 4 to 7 of 7 taps: 37 in each direction.
    assert row["roofline"] == pytest.approx(2 * 8 * 37**2 / 1e9 / row["median"])
    with Image.open(plot) as picture:
        assert min(picture.size) > 100
    assert main(["benchmark", "depthwise", *chosen]) == 0
    assert "roofline" in capsys.readouterr().out.splitlines()[1]


def test_the_block_is_timed_beside_one_kernel(capsys, monkeypatch):
    monkeypatch.setattr("unireplknet_jax.benchmark.block.torch_and_device", lambda: (None, None))
    rows = run_json(capsys, "block", "--case", "1x6x6x4 k7", "--rounds", "1")["rows"]
    assert [row["form"] for row in rows] == ["one kernel, xla", "one kernel", "block", "block, xla"]
    assert rows[1]["times one kernel"] == 1
    assert all(row["temporary_bytes"] >= 0 for row in rows)


@pytest.mark.slow
@pytest.mark.usefixtures("few_blocks")
@pytest.mark.parametrize("part", ["model", "train"])
def test_networks_are_timed_beside_pytorch(capsys, part):
    # In training PyTorch refuses to normalize over a single value: the last map of one example is 1x1.
    options = ("unireplknet_a", "--batch", "2", "--size", "32", "--rounds", "1")
    rows = run_json(capsys, part, *options)["rows"]
    forms = [row["form"] for row in rows]
    ours = ["prepared", "merged", "no depthwise"] if part == "model" else ["training", "no depthwise"]
    assert forms[: len(ours)] == ours
    if "torch" in forms:
        assert forms[len(ours) :] == ["torch", "torch, channels last"]
        assert min(row["times torch"] for row in rows[len(ours) :]) == 1
    if part == "model":  # the table, which is made alike of both
        assert main(["benchmark", part, *options]) == 0


@pytest.mark.slow
@pytest.mark.usefixtures("few_blocks")
@pytest.mark.parametrize("part", ["model", "train"])
def test_networks_around_a_trunk_are_timed_beside_pytorch(capsys, part):
    found = run_json(capsys, part, "unireplknet_a", "--task", "segmentation", "--size", "32", "--rounds", "1")
    assert (found["task"], found["size"]) == ("segmentation", 32)
    forms = [row["form"] for row in found["rows"]]
    ours = ["training", "no depthwise"]
    if part == "model":
        ours = ["prepared", "merged", "no depthwise", "training form"]
    assert forms[: len(ours)] == ours
    if "torch" in forms:
        endings = ("", ", training form") if part == "model" else ("",)
        assert forms[len(ours) :] == [f"{name}{end}" for end in endings for name in ("torch", "torch, channels last")]
        ratios = [row["times torch"] for row in found["rows"] if row["form"].startswith("torch")]
        assert ratios.count(1) == len(endings)  # each form is compared with its like


@pytest.mark.parametrize("case", ["8x14x14x320", "8x14x13x320 k3", "8x14x14x320 k4", "8x14x14x320 k3 5 6", "14 k3"])
def test_a_shape_that_cannot_be_measured_is_one_line(capsys, case):
    assert main(["benchmark", "depthwise", "--case", case]) == 1
    assert f"{case!r} is no shape" in capsys.readouterr().err


def test_a_chip_that_cannot_be_counted_is_one_line(capsys):
    assert main(["benchmark", "depthwise", "--static", "v9"]) == 1
    assert "'v9' is no chip" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["depthwise", "--case", "1x7x7x8 k3", "--form", "xla", "--form", "nope"], "--form 'nope' is unknown"),
        (["depthwise", "--static", "v5e", "--case", "1x7x7x8 k3", "--case", "7"], "'7' is no shape"),
        (["depthwise", "--static", ""], "'' is no chip"),
        (["block", "--case", "1x7x7x8 k7", "--case", "1x7x7x8 k3"], "1x7x7x8 k3 is no training block"),
        (["block", "--case", "1x1x1x8 k13"], "1x1x1x8 k13 has one value for each channel"),
        (["block", "--static", "v5e", "--case", "1x7x7x8 k7 d3"], "1x7x7x8 k7 d3 is no training block"),
        (["model", "--batch", "0"], "--batch must be 1 or more"),
        (["train", "--size", "0"], "--size must be 32 or more"),
        (
            ["model", "--task", "segmentation", "--against", "torch,openvino"],
            "--against openvino takes classifiers alone; leave it or --task segmentation out.",
        ),
        (
            ["model", "--task", "nope"],
            "--task 'nope' cannot be timed; it takes one of classification, segmentation, detection.",
        ),
        (["model", "--task", "detection", "--static", "v5e"], "--task detection is timed by `benchmark model` alone"),
        (["train", "--task", "detection"], "--task detection is timed by `benchmark model` alone, without --static"),
        (
            ["model", "--task", "segmentation", "--static", "h100"],
            "--static h100 counts classifiers alone; leave it or --task segmentation out.",
        ),
        (
            ["train", "--task", "segmentation", "--static", "v5e"],
            "--static counts training steps of classifiers alone; leave it or --task segmentation out.",
        ),
        (["model", "unireplknet_a", "nope"], "unknown model 'nope'"),
        (["model", "--static", "v5e", "unireplknet_t", "nope"], "unknown model 'nope'"),
        (
            ["model", "--static", "v5e", "--only", "nope"],
            "no part's name holds 'nope'; unireplknet_t has stem 0",
        ),
        (["model", "--only", "block 2"], "--only chooses among the parts that --static v5e counts"),
        (["train", "--static", "h100", "--only", "block 2"], "--only chooses among the parts that --static v5e counts"),
        (
            ["model", "--static", "v6e"],
            "a whole network can be counted for; expected v5e or h100.",
        ),
        (["model", "--plot", "/nowhere/at/all.png"], "the folder of --plot /nowhere/at/all.png does not exist"),
        (["model", "--plot", "plot.jpg"], "--plot is plot.jpg; expected a name that ends in .png."),
        (["model", "--rounds", "0"], "--rounds must be 1 or more, not 0"),
        (["depthwise", "--static", "v5e", "--rounds", "3"], "--rounds has no meaning with it"),
        (["train", "--static", "v5e", "--xla"], "--xla has no meaning with it"),
        (
            ["train", "--against", "torch"],
            "unrecognized arguments: --against; `unireplknet benchmark train --help",
        ),
    ],
)
def test_what_cannot_be_measured_is_refused_before_it_is_tried(capsys, monkeypatch, arguments, message):
    for where in ("timing.jax_program", "depthwise.jax_program", "block.jax_program", "network.jax_program"):
        monkeypatch.setattr(f"unireplknet_jax.benchmark.{where}", None)
    monkeypatch.setattr("unireplknet_jax.benchmark.static_cost.subprocess", None)
    assert main(["benchmark", *arguments]) in (1, 2)
    assert message in capsys.readouterr().err
