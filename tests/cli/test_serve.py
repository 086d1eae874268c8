"""`serve`: names of models, flags and sentences; nothing is listened on here."""

import os
import socket
import sys

import pytest

from unireplknet_jax.__main__ import main
from unireplknet_jax.cli.form import examples_of
from unireplknet_jax.cli.serve import _named


@pytest.fixture
def started(monkeypatch):
    """The servers that would have been started."""
    from unireplknet_jax.serve import run

    made = []
    monkeypatch.setattr(run, "run", lambda server, listening: made.append(server) or listening.close())
    return made


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (["runs/flowers/best"], ["flowers"]),
        (["runs/flowers/best/", "a.b=runs/birds/best"], ["flowers", "a.b"]),
        (["best"], ["best"]),
        (["unireplknet_a", "dir/my file.pth"], ["unireplknet_a", "my_file"]),
        (["hf-hub:USER/REPO"], ["REPO"]),
        (["a.onnx", "b.stablehlo", "c.xml", "d.tflite", "models/e"], ["a", "b", "c", "d", "e"]),
        (["x=gs://bucket/run/best"], ["x"]),
    ],
)
def test_models_are_called_by_name_or_after_their_file(given, expected):
    assert [*_named(given)] == expected


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["a=x", "a=y"], "two models would be called a; give them names as in a=x b=y."),
        (["runs/a/best", "other/a"], "two models would be called a; give"),
        (["a/b=x"], "a/b=x has no name for a model; give NAME=CHECKPOINT"),
        (["a="], "a= has no name for a model"),
    ],
)
def test_names_that_are_none_are_refused(given, said):
    with pytest.raises(ValueError, match=said.split(";")[0]):
        _named(given)


def test_a_path_with_an_equals_sign_is_a_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "lr=3").mkdir()
    assert _named(["lr=3"]) == {"lr_3": "lr=3"}


def test_flags_become_the_settings_of_the_server(small, started, tmp_path, monkeypatch):
    monkeypatch.delenv("UNIREPLKNET_TOKEN", raising=False)
    (tmp_path / "token").write_text("a-long-token\n")
    words = ["--batch", "2", "--delay", "1.5", "--body", "0.5", "--pixels", "2", "--seconds", "9", "--queue", "7"]
    words += ["--time", "3", "--port", "0", "--token-file", str(tmp_path / "token")]
    assert main(["serve", f"a={small}", *words]) == 0
    (server,) = started
    settings = server.settings
    assert (settings.batch, settings.delay, settings.body, settings.pixels) == (2, 0.0015, 2**19, 2_000_000)
    assert (settings.seconds, settings.queue, settings.time, settings.token) == (9, 7, 3, "a-long-token")
    assert [*server.models] == ["a"]
    assert server.models["a"].checkpoint.merged


def test_the_environments_token_counts_and_none_is_told_where_others_may_come(small, started, monkeypatch, capsys):
    monkeypatch.setenv("UNIREPLKNET_TOKEN", "a-long-token")
    assert main(["serve", small, "--port", "0", "--host", "0.0.0.0"]) == 0
    assert started[0].settings.token == "a-long-token"
    assert "no token" not in capsys.readouterr().err
    monkeypatch.delenv("UNIREPLKNET_TOKEN")
    assert main(["serve", small, "--port", "0", "--host", "0.0.0.0"]) == 0
    assert "note: 0.0.0.0 may be reached by others, and no token is asked for" in capsys.readouterr().err


@pytest.mark.parametrize("token", ["", "short", "tokén-of-letters"])
def test_a_token_that_protects_nothing_is_refused(small, started, monkeypatch, capsys, token):
    monkeypatch.setenv("UNIREPLKNET_TOKEN", token)
    assert main(["serve", small, "--port", "0"]) == 1
    assert "the token of $UNIREPLKNET_TOKEN is too short" in capsys.readouterr().err
    assert started == []


def test_a_file_that_is_no_text_holds_no_token(started, tmp_path, capsys):
    (tmp_path / "token").write_bytes(b"\xff\xfe a long one")
    assert main(["serve", "x", "--token-file", str(tmp_path / "token")]) == 1
    assert f"the token of {tmp_path / 'token'} is too short, or not of ASCII letters" in capsys.readouterr().err


def test_a_host_that_nobody_knows_is_said_in_words(monkeypatch):
    from unireplknet_jax.serve.run import listen

    def unknown(*_, **__):
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "create_server", unknown)
    with pytest.raises(OSError, match=r"cannot listen on nowhere, port 80 \(Name or service not known\); choose"):
        listen("nowhere", 80)


def test_a_port_that_is_taken_is_said_in_one_sentence(small, started, monkeypatch, capsys):
    monkeypatch.delenv("UNIREPLKNET_TOKEN", raising=False)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert main(["serve", small, "--port", str(port)]) == 1
    said = capsys.readouterr().err
    assert f"cannot listen on 127.0.0.1, port {port} (Address already in use); choose another" in said


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--port", "70000"], "'70000' must be a whole number from 0 to 65,535"),
        (["--batch", "0"], "'0' must be a whole number from 1 to 1,024"),
        (["--delay", "-1"], "'-1' must be a number from 0 on"),
        (["--time", "nan"], "'nan' must be a number from 0 on"),
    ],
)
def test_a_flag_without_sense_is_wrong_usage(words, said, capsys):
    assert main(["serve", "x", *words]) == 2
    assert said in capsys.readouterr().err


def test_without_the_extra_one_sentence_says_what_to_install(small, monkeypatch, capsys):
    monkeypatch.delenv("UNIREPLKNET_TOKEN", raising=False)
    for name in [name for name in sys.modules if name.startswith(("unireplknet_jax.serve", "uvicorn"))]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    assert main(["serve", small]) == 1
    said = capsys.readouterr().err
    assert said == (
        'unireplknet serve: error: serving needs uvicorn, which is missing: pip install "unireplknet_jax[serve]"\n'
    )


def test_a_checkpoint_without_classifier_is_refused(goldens, tmp_path, monkeypatch, capsys):
    from unireplknet_jax.tasks.checkpoint import open_checkpoint, save_checkpoint

    monkeypatch.delenv("UNIREPLKNET_TOKEN", raising=False)
    save_checkpoint(tmp_path / "bare", open_checkpoint(goldens / "tiny_afp.pth", num_classes=None))
    assert main(["serve", str(tmp_path / "bare"), "--port", "0"]) == 1
    assert "this checkpoint has no classifier" in capsys.readouterr().err


def test_examples_are_the_small_pictures_of_a_folder(pictures, tmp_path):
    for name in ("10.png", "2.png"):
        os.link(pictures[0], tmp_path / name)
    (tmp_path / "notes.txt").write_text("no picture")
    (tmp_path / "large.png").write_bytes(bytes(5 * 2**20))
    assert [example.name for example in examples_of(tmp_path)] == ["2.png", "10.png"]
    assert examples_of(None) == ()
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="holds no picture of up to 4 MiB"):
        examples_of(tmp_path / "empty")
