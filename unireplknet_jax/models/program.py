"""Programs compiled ahead of their first run: a word to whoever waits, and nothing in the way of being stopped."""

import contextlib
import logging
import threading
import time

import jax

_log = logging.getLogger(__name__)
_SILENT = 2.0  # seconds that a wait may last before a line says what is waited for
_AGAIN = 20.0  # seconds between the lines after that
_COMPILER = "compiler"  # the name of the threads that compile
# For a program that runs once: what the compiler saves is more than what the program then takes longer.
_QUICK = {"cpu": {"xla_backend_optimization_level": "0"}}
_QUICK_ELSEWHERE = {"exec_time_optimization_effort": -1.0}


def compile_program(function, *arguments, what, quick=False):
    """A jitted function compiled for arguments (arrays or their shapes); called with such arguments it gives the same.

    what: what is compiled, for the line that a wait of more than two seconds is announced with. quick: compile in half
    of the time a program that takes up to three times as long, which pays for one that runs a few times.

    The compiler runs in a thread of its own: where it holds the main thread, Python handles no signal before it ends.
    An exception that a handler raises leaves it behind, see `is_compiling`.
    """
    with announced(f"compiling {what}"):
        lowered = function.lower(*arguments)
        options = _QUICK.get(jax.default_backend(), _QUICK_ELSEWHERE) if quick else None
        result = {}

        def work():
            try:
                result["program"] = lowered.compile(compiler_options=options)
            except BaseException as error:  # raised where it is waited for
                result["error"] = error

        thread = threading.Thread(target=work, name=_COMPILER, daemon=True)
        thread.start()
        while thread.is_alive():
            thread.join(0.1)
    if "error" in result:
        raise result["error"]
    return result["program"]


class Program:
    """A jitted function that is compiled by `compile_program` when it is first called with arguments of some shapes."""

    def __init__(self, function, what, quick=False):
        self.function, self._what, self._quick = function, what, quick
        self._compiled = {}

    def __call__(self, *arguments):
        leaves, structure = jax.tree.flatten(arguments)
        key = structure, tuple((leaf.shape, leaf.dtype, getattr(leaf, "sharding", None)) for leaf in leaves)
        if key not in self._compiled:
            self._compiled[key] = compile_program(self.function, *arguments, what=self._what, quick=self._quick)
        return self._compiled[key](*arguments)


def is_compiling():
    """Whether a compilation goes on that nobody waits for any more: the interpreter cannot end before it does."""
    return any(thread.name == _COMPILER for thread in threading.enumerate())


@contextlib.contextmanager
def announced(text, silent=_SILENT):
    """Log that something goes on, and for how long already, where it takes longer than `silent` seconds."""
    began, done = time.monotonic(), threading.Event()

    def beat():
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
