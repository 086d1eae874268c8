"""Programs compiled ahead of their first run: a word to whoever waits, and nothing in the way of being stopped."""

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, cast

import jax
import jax.numpy as jnp

_log = logging.getLogger(__name__)
_SILENT = 2.0  # seconds that a wait may last before a line says what is waited for
_AGAIN = 20.0  # seconds between the lines after that
_at_work: list[threading.Event] = []  # an event for each thread in which jax works, which it sets at its end
# For a program that runs once: what the compiler saves is more than what the program then takes longer.
_QUICK: dict[str, dict[str, Any]] = {"cpu": {"xla_backend_optimization_level": "0"}}
QUICK_ELSEWHERE: dict[str, Any] = {"exec_time_optimization_effort": -1.0}


def compile_program(function: Any, *arguments: Any, what: str, quick: bool = False) -> jax.stages.Compiled:
    """A jitted function compiled for arguments (arrays or their shapes); called with such arguments it gives the same.

    what: what is compiled, for the line that a wait of more than two seconds is announced with. quick: compile in half
    of the time a program that takes up to three times as long, which pays for one that runs a few times.

    The compiler runs in a thread of its own: where it holds the main thread, Python handles no signal before it ends.
    An exception that a handler raises leaves it behind, see `is_compiling`.
    """
    with announced(f"compiling {what}"):
        options = _QUICK.get(jax.default_backend(), QUICK_ELSEWHERE) if quick else None
        return compile_lowered(function.lower(*arguments), options)


def compile_lowered(lowered: jax.stages.Lowered, options: dict[str, Any] | None = None) -> jax.stages.Compiled:
    """`lowered.compile(options)` in a thread of its own, so that signals are handled while it goes on."""
    result: dict[str, Any] = {}

    def work() -> None:
        try:
            result["program"] = lowered.compile(compiler_options=options)
        except BaseException as error:  # raised where it is waited for
            result["error"] = error

    done = in_background(work)
    while not done.wait(0.1):  # a handler runs between two waits
        pass
    if "error" in result:
        raise result["error"]
    return result["program"]


def in_background(work: Callable[[], None], name: str | None = None) -> threading.Event:
    """Let jax work in a thread of its own; -> what is set at its end. Of one that is left behind: `is_compiling`."""
    done = threading.Event()

    def run() -> None:
        try:
            work()
        finally:
            _at_work.remove(done)
            done.set()

    _at_work.append(done)
    threading.Thread(target=run, name=name, daemon=True).start()
    return done


class AheadOfTime:
    """A jitted function that is compiled by `compile_program` when it is first called with arguments of some kind.

    As with `jax.jit`, shapes, types, shardings, the context mesh, the matmul precision and x64 make a kind.
    """

    def __init__(self, function: Any, what: str, quick: bool = False) -> None:
        self.function, self._what, self._quick = function, what, quick
        self._compiled: dict[Any, jax.stages.Compiled] = {}

    def __call__(self, *arguments: Any) -> Any:
        leaves, structure = jax.tree.flatten(arguments)
        kinds = ((jnp.shape(leaf), jnp.result_type(leaf), getattr(leaf, "sharding", None)) for leaf in leaves)
        config = cast(Any, jax.config)
        options = config.jax_default_matmul_precision, config.jax_enable_x64
        key = structure, tuple(kinds), options, jax.sharding.get_abstract_mesh()
        if key not in self._compiled:
            self._compiled[key] = compile_program(self.function, *arguments, what=self._what, quick=self._quick)
        return self._compiled[key](*arguments)


def is_compiling() -> bool:
    """Whether jax works in a thread that nobody waits for any more: the interpreter would wait for its compiler, and
    abort where it ends in the middle of anything else.
    """
    return bool(_at_work)


@contextlib.contextmanager
def announced(text: str, silent: float = _SILENT) -> Iterator[None]:
    """Log that something goes on, and for how long already, where it takes longer than `silent` seconds."""
    began, done = time.monotonic(), threading.Event()

    def beat() -> None:
        wait = silent
        while not done.wait(wait):
            passed = time.monotonic() - began
            _log.info("%s%s", text, f": {passed:.0f} s so far" if passed > silent + 1 else " ...")
            wait = _AGAIN

    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
    if time.monotonic() - began > silent:
        _log.info("%s: took %.0f s", text, time.monotonic() - began)
