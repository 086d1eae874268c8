"""`plan`: what is printed about a report, without compiling."""

import json
from pathlib import Path

import pytest

from unireplknet_jax.__main__ import main
from unireplknet_jax.train import plan as planning

RECIPE = str(Path(__file__).parents[2] / "configs" / "small_images.py") + ":digits"
GIB = 2**30
REPORT = {
    "topology": "v5e:4x4",
    "devices": 16,
    "batch_size": 4096,
    "accumulate": 8,
    "examples_per_device": 32,
    "memory": int(10.5 * GIB),
    "memory_of": {"arguments": GIB, "results": 0, "temporaries": 9 * GIB, "program": GIB // 2},
    "collectives": {"all-reduce": {"count": 12, "bytes": 34_500_000, "sent": 6e7}},
    "programs": [
        {"what": "training", "shapes": {"label": [], "image": [224, 224, 3]}, "memory": int(10.5 * GIB)},
        {"what": "evaluation", "shapes": {"image": [512, 704, 3], "size": [2]}, "memory": GIB},
    ],
    "device_memory": 15.75 * GIB,
    "fits": True,
    "largest_batch": 5120,
    "largest_batch_compiled": True,
    "model_flops_per_step": 1.234e15,
    "model_flops_per_device": 7.7e13,
    "step_seconds_at_least": 0.391,
    "step_bounds": {"arithmetic": 0.391, "memory": 0.002, "links": 0.0003},
    "epochs_per_day_at_most": 708.24,
    "effort": "low",
    "versions": {"jax": "0.10.2", "libtpu": "0.0.42"},
    "notes": ["compiled with low effort."],
}


@pytest.fixture
def planned(monkeypatch, tmp_path):
    """Runs the command with a report of these fields; gives (its exit status, what `plan` was called with)."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))

    def run(words=(), **fields):
        seen = []

        def plan(*args):
            seen.append(args)
            return REPORT | fields

        monkeypatch.setattr(planning, "plan", plan)
        return main(["plan", "--config", RECIPE, "--topology", "v5e:4x4", *words]), seen

    return run


def rows(printed):
    """{first cell: second cell} of the printed table."""
    lines = [line.strip().split("  ", 1) for line in printed.splitlines() if "  " in line.strip()]
    return {line[0]: line[1].strip() for line in lines}


def test_a_report_is_printed_as_a_table(planned, capsys):
    assert planned()[0] == 0
    printed, notes = capsys.readouterr()
    first, table = printed.splitlines()[0], rows(printed)
    assert first == f"{RECIPE} on v5e:4x4, batch 4,096: FITS"
    assert table["batch"] == "16 devices x 32 examples x 8 micro-batches"
    assert table["memory per device"] == "10.50 of 15.75 GiB"
    assert table["temporaries"] == "9.00 GiB"
    assert table["programs for its shapes"] == "2, the largest: training, image 224x224x3"
    assert (table["training, image 224x224x3"], table["evaluation, image 512x704x3"]) == ("10.50 GiB", "1.00 GiB")
    assert table["largest batch that fits"] == "5,120 (compiled)"
    assert table["model FLOPs per step"].startswith("1.23e+15")
    assert table["all-reduce per step"].startswith("12, 34.5 MB")
    assert table["step time, a lower bound"] == "391 ms (matrix units at their peak)"
    assert table["epochs per day, at most"] == "708.2"
    assert table["compiler"] == "low effort, jax 0.10.2, libtpu 0.0.42"
    assert notes == "note: compiled with low effort.\n"


def test_what_does_not_fit_or_is_not_known_says_so(planned, capsys):
    lacking = {name: {} for name in ("memory_of", "collectives")}
    planned(fits=False, largest_batch=0, largest_batch_compiled=False, epochs_per_day_at_most=None, **lacking)
    printed = capsys.readouterr().out
    assert printed.splitlines()[0].endswith("DOES NOT FIT")
    assert rows(printed)["largest batch that fits"] == "none"
    assert rows(printed)["epochs per day, at most"].startswith("unknown")
    planned(largest_batch_compiled=False)
    assert rows(capsys.readouterr().out)["largest batch that fits"] == "5,120 (estimated)"


def test_json_is_the_report(planned, capsys):
    assert planned(["--json"])[0] == 0
    assert json.loads(capsys.readouterr().out) == REPORT


def test_the_options_reach_the_plan(planned, tmp_path):
    ((config, topology, full, cache),) = planned(["--config.batch_size=128"])[1]
    assert (config.batch_size, topology, full, cache) == (128, "v5e:4x4", False, tmp_path / "unireplknet_jax" / "plan")
    ((_, _, full, cache),) = planned(["--full", "--no-cache"])[1]
    assert (full, cache) == (True, None)


@pytest.mark.parametrize("error", [ValueError("no such slice."), ImportError("plan needs libtpu.")])
def test_a_plan_that_cannot_be_made_is_one_line(monkeypatch, capsys, error):
    def plan(*args):
        raise error

    monkeypatch.setattr(planning, "plan", plan)
    assert main(["plan", "--config", RECIPE, "--topology", "v5e:4x4", "--no-cache"]) == 1
    assert capsys.readouterr() == ("", f"unireplknet plan: error: {error}\n")
