"""`benchmark startup`: fresh processes, cold and warm, medians."""

import json
import sys

import pytest

from unireplknet_jax.__main__ import main
from unireplknet_jax.benchmark import startup
from unireplknet_jax.benchmark.startup import Case, cases, measure


def test_a_row_of_the_table_is_measured_in_processes_of_its_own(capsys):
    assert main(["benchmark", "startup", "--only", "import", "--rounds", "1", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert [row["cache"] for row in rows] == ["cold", "warm"]
    for row in rows:
        assert row["row"] == "import unireplknet_jax.tasks.checkpoint"
        assert 0 < row["fastest"] <= row["wall"] <= row["slowest"] < 120
        assert row["cpu"] > 0


def test_a_cold_process_finds_no_programs_and_a_warm_one_those_of_the_one_before(tmp_path):
    script = (
        "import json, os, pathlib; folder = pathlib.Path(os.environ['JAX_COMPILATION_CACHE_DIR']); "
        "found = len(list(folder.glob('*'))) if folder.is_dir() else 0; folder.mkdir(exist_ok=True, parents=True); "
        "(folder / str(found)).touch(); print(json.dumps(['found', found, 1]))"
    )
    rows = measure(Case("x", [sys.executable, "-c", script], measures_itself=True), rounds=3)
    assert [(row["cache"], row["fastest"], row["slowest"]) for row in rows] == [("cold", 0, 0), ("warm", 1, 1)]


def test_medians_of_the_rounds_are_given(monkeypatch):
    seconds = iter([(3.0, 1.0), (1.0, 1.0), (9.0, 5.0), (2.0, 2.0), (5.0, 3.0), (3.0, 3.0)])
    monkeypatch.setattr(startup, "_run", lambda case, cache: [("row", *next(seconds))])
    cold, warm = measure(Case("row", []), rounds=3)
    assert cold == {"row": "row", "cache": "cold", "wall": 5.0, "cpu": 3.0, "fastest": 3.0, "slowest": 9.0}
    assert (warm["wall"], warm["cpu"]) == (2.0, 2.0)


def test_a_process_is_over_at_the_line_that_is_waited_for(tmp_path):
    script = "import sys, time; print('step 1', file=sys.stderr, flush=True); time.sleep(60)"
    (row, _) = measure(Case("x", [sys.executable, "-c", script], until="step "), rounds=1)
    assert row["wall"] < 30


@pytest.mark.parametrize("until", ["", "step "])
def test_a_process_that_fails_is_named_with_its_last_words(until):
    script = "import sys; print('no such picture', file=sys.stderr); sys.exit(3)"
    with pytest.raises(ValueError, match="row x failed: no such picture"):
        measure(Case("row x", [sys.executable, "-c", script], until=until), rounds=1)


def test_the_files_of_a_row_are_made_and_predicted(tmp_path, capsys):
    (case,) = cases(tmp_path, "predict a table")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["table", "table.csv"]
    assert main(case.command[3:]) == 0
    assert "north" in capsys.readouterr().out


def test_every_row_has_a_name_of_its_own(monkeypatch, tmp_path):
    monkeypatch.setattr(startup.made_up, "write", lambda *args: None)
    names = [case.name for case in cases(tmp_path)]
    assert len({*names}) == len(names) == 16
    for text in ("a sound", "a clip", "a shape", "a table", "models", "finetune"):
        assert any(text in name for name in names)


@pytest.mark.parametrize(
    ("words", "message"),
    [(["--only", "telepathy"], "no row's name holds 'telepathy'"), (["--rounds", "0"], "--rounds")],
)
def test_wrong_words_are_one_line(words, message, capsys):
    assert main(["benchmark", "startup", *words]) == 1
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
