"""`benchmark startup`: fresh processes, cold and warm, medians."""

import json
import sys

import pytest

from unireplknet_jax.__main__ import main
from unireplknet_jax.benchmark import startup
from unireplknet_jax.benchmark.startup import Case, cases, measure
from unireplknet_jax.tasks import made_up


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


@pytest.mark.slow  # `test_a_row_of_the_table_is_measured_in_processes_of_its_own` stays
def test_the_files_of_a_row_are_made_and_predicted(tmp_path, capsys):
    (case,) = cases(tmp_path, "predict a table")
    made_up.write(tmp_path, case.files)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["table", "table.csv"]
    assert main(case.command[3:]) == 0
    assert "north" in capsys.readouterr().out


def test_every_row_has_a_name_of_its_own(tmp_path):
    names = [case.name for case in cases(tmp_path)]
    assert len({*names}) == len(names) == 16
    for text in ("a sound", "a clip", "a shape", "a table", "models", "finetune"):
        assert any(text in name for name in names)


@pytest.mark.parametrize(
    ("words", "message", "code"),
    [
        (["--only", "telepathy"], "no row's name holds 'telepathy'", 1),
        (["--folder", "nowhere"], "--folder nowhere is not a folder; create it first.", 1),
        (["--rounds", "0"], "--rounds must be 1 or more, not 0", 2),
    ],
)
def test_wrong_words_are_one_line(words, message, code, capsys):
    assert main(["benchmark", "startup", *words]) == code
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_a_row_that_cannot_be_measured_is_left_out_and_named(monkeypatch, capsys):
    def write(folder, files):
        if "clip" in files:
            raise ImportError("clips need av: pip install av.")

    monkeypatch.setattr(made_up, "write", write)
    monkeypatch.setattr(startup, "_run", lambda case, cache: [(case.name, 1.0, 1.0)])
    assert main(["benchmark", "startup", "--rounds", "1", "--only", "predict a ", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["left_out"] == ["predict a clip, a: clips need av: pip install av."]
    assert {row["row"] for row in document["rows"]} >= {"predict a picture, a", "predict a sound, a"}


def test_a_run_has_a_workdir_of_its_own(tmp_path):
    (case,) = cases(tmp_path, "finetune")
    (workdir,) = (word for word in case.command if word.startswith("--workdir="))
    assert str(tmp_path) not in workdir  # nothing that lies in the folder is ever removed
    script = "import json, pathlib, sys; print(json.dumps([len(list(pathlib.Path(sys.argv[1]).iterdir())), 1, 1]))"
    command = [sys.executable, "-c", script, startup._SCRATCH]
    assert [row["row"] for row in measure(Case("x", command, measures_itself=True), rounds=2)] == [0, 0]


def test_files_are_made_whole_or_not_at_all(tmp_path, monkeypatch):
    def broken(path):
        path.write_text("half")
        raise KeyboardInterrupt

    monkeypatch.setitem(made_up._WRITERS, "table", broken)
    with pytest.raises(KeyboardInterrupt):
        made_up.write(tmp_path, ["table.csv"])
    assert list(tmp_path.iterdir()) == []
