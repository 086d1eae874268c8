"""The frame around the commands: help, exit codes, one line for each error, plain logging."""

import argparse
import importlib
import io
import logging
import os
import pathlib
import platform
import shlex
import subprocess
import sys
import warnings
from importlib.metadata import version

import pytest

from unireplknet_jax import __main__ as command_line
from unireplknet_jax import __version__
from unireplknet_jax.__main__ import main
from unireplknet_jax.cli.parser import COMMANDS, make_parser, parse
from unireplknet_jax.cli.train import load_config

models_command = importlib.import_module("unireplknet_jax.cli.models")


def failing(monkeypatch, error):
    def run(args):
        raise error

    monkeypatch.setattr(models_command, "run", run)


def test_help_is_printed_without_a_command(capsys):
    assert main([]) == 0
    out = capsys.readouterr().out
    assert all(f"\n    {name}" in out for name in COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help(name, capsys):
    assert main([name, "--help"]) == 0
    assert f"usage: unireplknet {name}" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["predict", "evaluate", "see"])
def test_the_help_says_which_addresses_a_checkpoint_may_have(name, capsys):
    assert main([name, "--help"]) == 0
    assert "gs://BUCKET/PATH" in capsys.readouterr().out


def test_help_and_usage_errors_import_nothing_heavy():
    code = (
        "import sys; from unireplknet_jax.__main__ import main; from unireplknet_jax.cli.parser import COMMANDS\n"
        "assert main(['--help']) == 0 and main(['predict', 'x']) == 2\n"
        "assert 'unireplknet_jax.cli.models' not in sys.modules\n"
        "assert all(main([name, '--help']) == 0 for name in COMMANDS)\n"
        "print([name for name in ('jax', 'flax', 'numpy', 'PIL', 'absl') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize(
    "words",
    [["modles"], ["models", "--jsn"], ["predict", "x"], ["models", "--js"], ["train", "--workdir", "x"], ["-x"]],
)
def test_wrong_usage_exits_with_2(words, capsys):
    assert main(words) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.splitlines()[-1].startswith("unireplknet")


def test_the_version_is_that_of_the_package_and_of_jax(capsys):
    assert main(["--version"]) == 0
    versions = f"unireplknet_jax {__version__}, jax {version('jax')}, Python {platform.python_version()}"
    assert capsys.readouterr().out == f"{versions}\n"


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["modles"], "unireplknet: error: there is no command 'modles'; did you mean models?"),
        (["PREDCT", "x"], "unireplknet: error: there is no command 'PREDCT'; did you mean predict?"),
        (["xyz"], "unireplknet: error: there is no command 'xyz'; `unireplknet --help` lists them"),
        (["models", "--jsn"], "unireplknet models: error: unrecognized arguments: --jsn; did you mean --json?"),
        (["models", "--q=3"], "arguments: --q=3; `unireplknet models --help` shows what there is"),
        (["benchmark", "modl"], "'depthwise', 'block', 'model', 'train', 'serve'); did you mean model?"),
        (["predict", "a", "b", "--form", "mergd"], "(choose from 'merged', 'training'); did you mean merged?"),
    ],
)
def test_a_wrong_word_says_which_was_meant(words, line, capsys):
    assert main(words) == 2
    assert capsys.readouterr().err.splitlines()[-1].endswith(line)


@pytest.mark.parametrize("name", COMMANDS)
def test_the_help_of_every_command_has_examples_that_can_be_run(name):
    """As far as their words are concerned: recipes are read, and have the fields that are overridden."""
    module = importlib.import_module(f"unireplknet_jax.cli.{name.replace('-', '_')}")
    for example in module.EXAMPLES:
        args = parse(shlex.split(example))
        assert args.command == name
        if "config" in args:
            load_config(args.config, args.overrides)
    (command,) = [action.choices[name] for action in make_parser([name])._actions if action.choices]
    parts = [part for action in command._actions if name == "benchmark" for part in (action.choices or {}).values()]
    for parser in (command, *parts):
        shown = parser.format_help().partition("examples:\n")[2].splitlines()
        own = [line for line in module.EXAMPLES if line.startswith(parser.prog.removeprefix("unireplknet "))]
        assert shown == [f"  unireplknet {line}" for line in own] != []


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ValueError("too big;\n  make it smaller."), "too big; make it smaller."),
        (FileExistsError("x exists already."), "x exists already."),
        (FileNotFoundError(2, "No such file or directory", "x.txt"), "x.txt: No such file or directory"),
        (ConnectionError("offline."), "offline."),
        (ImportError("pip install it."), "pip install it."),
        (FloatingPointError("loss is nan."), "loss is nan."),
        (MemoryError(), "the memory does not suffice; give less at a time."),
        (MemoryError("out of it"), "the memory does not suffice (out of it); give less at a time."),
        (OSError(28, "No space left on device"), "[Errno 28] No space left on device"),
        (ValueError(), "ValueError"),
    ],
)
def test_an_error_is_one_line(error, line, monkeypatch, capsys):
    failing(monkeypatch, error)
    assert main(["models"]) == 1
    assert capsys.readouterr() == ("", f"unireplknet models: error: {line}\n")


def test_a_late_usage_error_exits_with_2(monkeypatch, capsys):
    failing(monkeypatch, argparse.ArgumentError(None, "no such field."))
    assert main(["models"]) == 2
    assert capsys.readouterr().err == "unireplknet models: error: no such field.\n"


def test_an_interrupt_is_one_line(monkeypatch, capsys):
    failing(monkeypatch, KeyboardInterrupt())
    assert main(["models"]) == 130
    assert capsys.readouterr().err == "unireplknet models: interrupted\n"


def test_what_is_no_user_error_keeps_its_trace(monkeypatch):
    failing(monkeypatch, TypeError("a bug"))
    with pytest.raises(TypeError, match="a bug"):
        main(["models"])


def test_debugging_raises_user_errors_too(monkeypatch):
    failing(monkeypatch, ValueError("mine"))
    monkeypatch.setenv("UNIREPLKNET_DEBUG", "1")
    with pytest.raises(ValueError, match="mine"):
        main(["models"])


def test_the_package_logs_plainly_on_stderr_and_only_meanwhile(monkeypatch, capsys):
    logger = logging.getLogger("unireplknet_jax.somewhere")

    def run(args):
        logger.info("progress")
        logger.warning("a warning")
        logging.getLogger("absl").info("chatter")

    monkeypatch.setattr(models_command, "run", run)
    before = list(logging.getLogger("unireplknet_jax").handlers)
    twice = io.StringIO()
    monkeypatch.setattr(logging.getLogger(), "handlers", [logging.StreamHandler(twice)])
    assert main(["models"]) == 0
    assert capsys.readouterr() == ("", "progress\na warning\n")
    assert twice.getvalue() == ""
    assert logging.getLogger("unireplknet_jax").handlers == before


def test_a_cache_that_cannot_be_written_is_one_line(tmp_path, monkeypatch, capsys):
    import jax
    from jax.experimental.compilation_cache import compilation_cache

    def run(args):
        compilation_cache.reset_cache()
        for number in range(2):
            jax.jit(lambda x, number=number: x + number).lower(1.5).compile()
        warnings.warn("another", UserWarning, stacklevel=1)

    def refused(*_):
        raise OSError(30, "Read-only file system", "/xla/entry")

    monkeypatch.setattr("jax._src.compilation_cache.put_executable_and_time", refused)
    monkeypatch.setattr(models_command, "run", run)
    others = []
    names = ("jax_persistent_cache_min_compile_time_secs", "jax_compilation_cache_dir")
    before = {name: getattr(jax.config, name) for name in names}
    try:
        for name, value in zip(names, (0, str(tmp_path)), strict=True):
            jax.config.update(name, value)
        with warnings.catch_warnings():
            warnings.simplefilter("always")
            monkeypatch.setattr(warnings, "showwarning", lambda message, *_, **__: others.append(str(message)))
            assert main(["models"]) == 0
    finally:
        for name, value in before.items():
            jax.config.update(name, value)
        compilation_cache.reset_cache()
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("compiled programs are not kept, so the next start compiles them again: [Errno 30] ")
    assert line.endswith("JAX_COMPILATION_CACHE_DIR names a folder that can be written to")
    assert others == ["another"]


def test_a_closed_pipe_is_no_error():
    command = [sys.executable, "-m", "unireplknet_jax", "models", "unireplknet_a", "--json"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    process.stdout.close()
    assert process.stderr.read() == ""
    process.stderr.close()
    assert process.wait() == 1


@pytest.mark.parametrize("cache", ["", "own"])
@pytest.mark.parametrize("chosen", [None, "elsewhere"])
def test_compiled_programs_are_kept_where_the_user_wants_them(cache, chosen, tmp_path, monkeypatch):
    home = tmp_path / "home"
    monkeypatch.setattr(pathlib.Path, "home", lambda: home)
    monkeypatch.setenv("XDG_CACHE_HOME", cache and str(tmp_path / cache))
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "set")  # so that it is put back at the end
    if chosen is None:
        monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR")
    else:
        monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", chosen)
    monkeypatch.setattr(models_command, "run", lambda args: None)
    assert main(["models"]) == 0
    ours = (tmp_path / cache if cache else home / ".cache") / "unireplknet_jax" / "xla" / platform.node()
    assert os.environ["JAX_COMPILATION_CACHE_DIR"] == (chosen or str(ours))


@pytest.mark.parametrize(
    ("program", "settings", "plugin", "again"),
    [
        (command_line.__file__, {"JAX_PLATFORMS": "cpu"}, True, True),
        (command_line.__file__, {}, True, False),
        ("/usr/bin/unireplknet", {}, False, True),
        ("/usr/bin/unireplknet", {"GLIBC_TUNABLES": "glibc.malloc.perturb=1"}, False, False),
        ("/home/a/script.py", {}, False, False),
        (None, {}, False, False),  # `python -c`, or a program from a pipe, which is empty the second time
    ],
)
def test_a_process_starts_again_with_huge_pages_where_the_cpu_computes(program, settings, plugin, again, monkeypatch):
    started = []
    monkeypatch.setattr(sys.modules["__main__"], "__file__", program, raising=False)
    monkeypatch.setattr(command_line.os, "environ", {"HOME": "/", **settings})
    monkeypatch.setattr(command_line.importlib.util, "find_spec", lambda name: plugin or None)
    monkeypatch.setattr(command_line.platform, "libc_ver", lambda: ("glibc", "2.36"))
    monkeypatch.setattr(command_line.sys, "orig_argv", ["python", "-m", "unireplknet_jax", "models"])
    monkeypatch.setattr(command_line.os, "execv", lambda *command: started.append(command))
    command_line._use_huge_pages()
    assert started == [(sys.executable, [sys.executable, "-m", "unireplknet_jax", "models"])] * again
    command_line._use_huge_pages()  # in the process that started again
    assert len(started) == again


def test_a_command_that_starts_again_answers_once():
    environment = {name: value for name, value in os.environ.items() if name != "GLIBC_TUNABLES"}
    command = [sys.executable, "-m", "unireplknet_jax", "--version"]
    done = subprocess.run(command, env={**environment, "JAX_PLATFORMS": "cpu"}, capture_output=True, text=True)
    assert (done.returncode, done.stderr, done.stdout.count("\n")) == (0, "", 1)
    assert __version__ in done.stdout
