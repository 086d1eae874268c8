"""Where a command is to write is looked at before it opens or computes anything; what it prints can be printed."""

import io
import os
import sys
import types

import pytest

from unireplknet_jax.__main__ import main
from unireplknet_jax.cli import output
from unireplknet_jax.cli.output import print_file_error

COMMANDS = [
    (["predict", "unopened", "a.png"], "--draw", ".png"),
    (["predict", "unopened", "a.png"], "--csv", ".csv"),
    (["embed", "unopened", "a.png"], "--out", ".npz"),
    (["evaluate", "unopened"], "--predictions", ".npz"),
    (["see", "unopened", "a.png"], "--output", ".png"),
]


@pytest.mark.parametrize(("words", "flag", "suffix"), COMMANDS)
def test_an_output_that_cannot_be_written_is_refused_first(words, flag, suffix, tmp_path, monkeypatch, capsys):
    def error(path):
        assert main([*words, flag, str(path)]) == 1
        return capsys.readouterr().err.removeprefix(f"unireplknet {words[0]}: error: ")

    folder = tmp_path / f"folder{suffix}"
    folder.mkdir()
    assert error(folder) == f"{flag} {folder} is a folder; choose the name of a file.\n"
    new = tmp_path / f"new{suffix}"
    monkeypatch.setattr(os, "access", lambda path, mode: path != tmp_path)  # as root, one may write anywhere
    assert error(new) == f"the folder of {flag} {new} cannot be written to; choose another one.\n"
    assert list(tmp_path.iterdir()) == [folder]


def test_progress_is_told_every_few_seconds(monkeypatch, capsys):
    now = [100.0]
    monkeypatch.setattr(output.time, "monotonic", lambda: now[0])
    progress = output.Progress(1000, "pictures")
    for done in range(1, 251):
        now[0] += 0.125
        progress(done)
    assert capsys.readouterr().err.splitlines() == [
        "80 of 1,000 pictures, 8 per second, 2 minutes left",
        "160 of 1,000 pictures, 8 per second, 2 minutes left",
        "240 of 1,000 pictures, 8 per second, 2 minutes left",
    ]


def test_names_of_files_may_be_no_text_and_have_line_ends(monkeypatch, capsys):
    """Such names come from drives of other systems; a terminal may not know their letters."""
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", stream)
    assert main(["predict", "nowhere.pth", "a.png"]) == 1
    print("caf\udce9 \u00e9", file=sys.stdout, flush=True)
    assert stream.buffer.getvalue() == b"caf\\udce9 \\xe9\n"
    print_file_error("predict", types.SimpleNamespace(source="a\nb.png", error="a\nb.png is empty"))
    assert capsys.readouterr().err.splitlines()[-1] == "unireplknet predict: error: a b.png is empty"
