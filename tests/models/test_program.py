"""Programs compiled ahead: announced, low in effort where they run once, and no obstacle to being stopped."""

import inspect
import itertools
import os
import signal
import subprocess
import sys
import threading
import time
import types

import jax
import jax.numpy as jnp
import pytest

from unireplknet_jax.models import program
from unireplknet_jax.models.program import AheadOfTime, announced, compile_program, is_compiling
from unireplknet_jax.train.sharding import make_mesh


class Slow:
    """What `jax.jit` gives, with a compiler that takes its time and lets Python go on, as XLA does."""

    def __init__(self, seconds, error=None):
        self.seconds, self.error = seconds, error

    def lower(self, *arguments):
        return self

    def compile(self, compiler_options=None):
        self.options = compiler_options
        time.sleep(self.seconds)
        if self.error:
            raise self.error
        return lambda *arguments: "computed"


def test_it_computes_what_the_function_computes():
    double = compile_program(jax.jit(lambda x: 2 * x), jnp.ones(3), what="twice")
    assert double(jnp.arange(3.0)).tolist() == [0, 2, 4]


def test_low_effort_is_asked_for_where_it_pays():
    for quick, options in ((False, None), (True, {"xla_backend_optimization_level": "0"})):
        slow = Slow(0)
        compile_program(slow, what="it", quick=quick)
        assert slow.options == options
    compile_program(jax.jit(lambda x: 2 * x), jnp.ones(3), what="twice", quick=True)  # which this jaxlib knows


def test_a_program_is_compiled_once_for_each_kind_of_argument(monkeypatch):
    compiled, real = [], program.compile_program
    monkeypatch.setattr(program, "compile_program", lambda *args, **kwargs: compiled.append(1) or real(*args, **kwargs))
    double = AheadOfTime(jax.jit(lambda tree: 2 * tree["x"]), "twice")
    for shape, dtype, count in (((3,), "float32", 1), ((3,), "float32", 1), ((4,), "float32", 2), ((3,), "int32", 3)):
        assert double({"x": jnp.ones(shape, dtype)}).shape == shape
        assert len(compiled) == count


def test_precision_x64_and_mesh_of_the_caller_make_a_program_of_their_own():
    product = AheadOfTime(jax.jit(jnp.matmul), "a product")
    a = jnp.ones((3, 3))
    for _ in range(2):
        product(a, a)
        with jax.default_matmul_precision("highest"):
            product(a, a)
        with jax.enable_x64(True):
            product(a, 2 * a)
        with jax.set_mesh(make_mesh()):
            product(a, a)
    assert len(product._compiled) == 4
    assert AheadOfTime(jax.jit(lambda x: x + 1), "a number")(1.0) == 2


def test_an_error_of_the_compiler_is_raised_where_it_is_waited_for():
    with pytest.raises(RuntimeError, match="out of memory"):
        compile_program(Slow(0, RuntimeError("out of memory")), what="it")
    assert not is_compiling()


def test_a_wait_is_announced_when_it_is_long(caplog, monkeypatch):
    caplog.set_level("INFO", logger="unireplknet_jax")
    with announced("reading"):
        pass
    assert caplog.messages == []
    monkeypatch.setattr(program, "_AGAIN", 0.01)
    with announced("compiling", silent=0):
        while len(caplog.messages) < 3:
            time.sleep(0.01)
    assert caplog.messages[0] == "compiling ..."
    assert caplog.messages[-1] == "compiling: took 0 s"
    monkeypatch.setattr(program, "_AGAIN", 20)
    assert inspect.signature(announced).parameters["silent"].default == 2
    monkeypatch.setattr(announced.__wrapped__, "__defaults__", (0.2,))
    clock = iter([0, 0.3, 2.3, 2.3])  # of a beginning, a line and an end
    monkeypatch.setattr(program, "time", types.SimpleNamespace(monotonic=lambda: next(clock)))
    caplog.clear()
    compile_program(Slow(0.5), what="a large program")
    assert caplog.messages == ["compiling a large program ...", "compiling a large program: took 2 s"]


def test_a_wait_that_was_given_up_did_not_end(caplog):
    caplog.set_level("INFO", logger="unireplknet_jax")
    with pytest.raises(KeyError), announced("compiling", silent=0):
        raise KeyError
    assert not any("took" in message for message in caplog.messages)


def test_how_long_it_takes_already_is_said(caplog, monkeypatch):
    caplog.set_level("INFO", logger="unireplknet_jax")
    monkeypatch.setattr(program, "_AGAIN", 0.01)
    clock = itertools.count(0, 0.6)
    monkeypatch.setattr(program, "time", types.SimpleNamespace(monotonic=lambda: next(clock)))
    with announced("compiling", silent=0):
        for _ in range(500):
            if len(caplog.messages) >= 3:
                break
            time.sleep(0.01)
    lines = ["compiling ...", "compiling: 1 s so far", "compiling: 2 s so far"]  # after 0.6, 1.2 and 1.8 seconds
    assert caplog.messages[:3] == lines


def test_a_signal_is_handled_while_the_compiler_works():
    def handler(*_):
        raise KeyError("stopped")

    before = signal.signal(signal.SIGUSR1, handler)
    try:
        threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGUSR1)).start()
        began = time.monotonic()
        with pytest.raises(KeyError, match="stopped"):
            compile_program(Slow(4), what="it")
        assert time.monotonic() - began < 3
        assert is_compiling()  # left behind: the command line ends the process without it
    finally:
        signal.signal(signal.SIGUSR1, before)


# A command that compiles something XLA works at for minutes.
SCRIPT = """
import sys, types
import jax, jax.numpy as jnp
from unireplknet_jax import __main__, cli
from unireplknet_jax.models.program import compile_program

@jax.jit
def hundred(x):
    for i in range(100):
        x = jnp.sin(x @ x) + jnp.sort(x, axis=i % 2)
    return x

def endless(x):  # traced and lowered at once
    for _ in range(40):
        x = hundred(x)
    return x

def run(args):
    import unireplknet_jax.cli.train as train
    lowered = jax.jit(endless).lower(jnp.ones((9, 9)))
    jitted = types.SimpleNamespace(lower=lambda: lowered)
    print("ready", flush=True)
    with HOW:
        compile_program(jitted, what="a long program")

module = types.ModuleType("unireplknet_jax.cli.models")
module.add_arguments, module.run, module.EXAMPLES = lambda parser: None, run, ()
sys.modules["unireplknet_jax.cli.models"] = module
sys.exit(__main__.main(["models"]))
"""
PREEMPTED = """
from unireplknet_jax.train.distributed import Preempted, Preemption
class How:
    def __enter__(self):
        self.preemption = Preemption().__enter__()
        self.wait = self.preemption.at_once("told to stop: nothing was lost")
        self.wait.__enter__()
    def __exit__(self, kind, value, trace):
        if kind is Preempted:
            print(value, file=sys.stderr)
            raise SystemExit(75)
HOW = How()
"""


@pytest.mark.parametrize(
    ("number", "how", "code", "says"),
    [
        (signal.SIGINT, "import contextlib\nHOW = contextlib.nullcontext()\n", 130, "interrupted"),
        (signal.SIGTERM, PREEMPTED, 75, "told to stop: nothing was lost"),
    ],
)
def test_a_command_that_compiles_ends_within_seconds(number, how, code, says):
    script = SCRIPT.replace("def run", how + "\ndef run")
    process = subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout.readline() == "ready\n", process.stderr.read()
        time.sleep(0.6)
        assert process.poll() is None
        began = time.monotonic()
        process.send_signal(number)
        _, error = process.communicate(timeout=30)
        assert time.monotonic() - began < 5
    finally:
        process.kill()
    assert (process.returncode, says in error) == (code, True), error
