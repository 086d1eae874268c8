import json
import sys

import numpy as np
import pytest
from PIL import Image

from unireplknet_jax.__main__ import main
from unireplknet_jax.data.throughput import STEPS


@pytest.fixture(autouse=True)
def without_torchvision(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchvision", None)


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
