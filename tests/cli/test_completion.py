"""`completion`: the script of a shell, which completes commands, options, files, recipes and names."""

import subprocess
import sys

import pytest

from unireplknet_jax.__main__ import main
from unireplknet_jax.cli.parser import COMMANDS

# What bash does for a word: the function that is registered is called, and its answers are in COMPREPLY.
_BASH = """
source "$1"; shift
COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1))
function=$(complete -p unireplknet | sed 's/.*-F \\([^ ]*\\).*/\\1/')
"$function" unireplknet "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD - 1]}"
printf '%s\\n' "${COMPREPLY[@]}"
"""


@pytest.fixture(scope="module")
def script(tmp_path_factory):
    pytest.importorskip("shtab")
    path = tmp_path_factory.mktemp("completion") / "unireplknet.bash"
    done = subprocess.run(
        [sys.executable, "-m", "unireplknet_jax", "completion", "bash"], capture_output=True, text=True, check=True
    )
    path.write_text(done.stdout)
    return path


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["e"], {"evaluate", "embed", "export"}),
        (["evaluate", "--con"], {"--confusion"}),
        (["predict", "unireplknet_xl.in1"], set()),
        (["predict", "unireplknet_s.in22k_f"], {"unireplknet_s.in22k_ft_in1k_384"}),
        (["predict", "a.pth", "mine"], {"mine.pth"}),
        (["train", "--config", "finetune_"], {f"finetune_{kind}.py" for kind in ("boxes", "masks", "sounds", "video")}),
        (["train", "--config", "mine"], {"mine.pth"}),
        (["completion", ""], {"bash", "zsh"}),
    ],
)
def test_bash_completes(words, expected, script, tmp_path):
    (tmp_path / "mine.pth").touch()
    done = subprocess.run(
        ["bash", "-c", _BASH, "bash", script, "unireplknet", *words], capture_output=True, text=True, cwd=tmp_path
    )
    assert {*done.stdout.split()} == expected, done.stderr


def test_zsh_has_all_commands(capsys):
    pytest.importorskip("shtab")
    assert main(["completion", "zsh"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("#compdef unireplknet")
    assert all(f"\n    {name}:" in out for name in COMMANDS)


def test_without_the_library_its_name_is_said(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "shtab", None)
    assert main(["completion", "bash"]) == 1
    assert "not installed: pip install 'unireplknet_jax[completion]'" in capsys.readouterr().err


@pytest.mark.parametrize("words", [[], ["fish"]])
def test_another_shell_is_refused(words, capsys):
    assert main(["completion", *words]) == 2
    assert capsys.readouterr().out == ""
