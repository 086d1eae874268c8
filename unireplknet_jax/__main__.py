"""The command line: `unireplknet COMMAND ...`, or `python -m unireplknet_jax COMMAND ...`."""

import argparse
import contextlib
import importlib.util
import io
import logging
import os
import pathlib
import platform
import re
import sys
import warnings

from unireplknet_jax.cli.parser import parse

_USER_ERRORS = (ValueError, OSError, ImportError, FloatingPointError, MemoryError)


def main(argv=None):
    """Run a command; returns the exit code, see `_run`, unless the compiler still works at what nobody waits for."""
    if argv is None:
        _use_huge_pages()
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # names of files may be no text, or of letters that a terminal has not
            stream.reconfigure(errors="backslashreplace")
    code = _run(argv)
    program = sys.modules.get("unireplknet_jax.models.program")
    if program is not None and program.is_compiling():  # it would keep the process for minutes
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code if isinstance(code, int) else 1)
    return code


def _run(argv):
    """Run a command; returns the exit code: 0, 1 for an error, 2 for wrong usage, 130 after Ctrl-C.

    75 means that `train` was told to stop, has saved its state, and goes on when it is run again.
    What the user can mend is one line on stderr; UNIREPLKNET_DEBUG=1 raises it with its stack trace instead.
    """
    prog = "unireplknet"
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # names of files may be bytes that are no text
    try:
        args = parse(sys.argv[1:] if argv is None else list(argv))
        if args is None:
            return 0
        prog = f"unireplknet {args.command}"
        _keep_compiled_programs()
        with _plain_logging(), _one_line_about_the_cache():
            code = args.run(args) or 0
            sys.stdout.flush()
            return code
    except SystemExit as exit:  # argparse, after its help or its own error
        return exit.code
    except KeyboardInterrupt as interrupt:
        print(f"{prog}: interrupted{''.join(f'; {note}' for note in interrupt.args)}", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # The reader (`| head`) has gone; without this, Python's own flush at exit would complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (argparse.ArgumentError, *_USER_ERRORS) as error:
        if os.environ.get("UNIREPLKNET_DEBUG"):
            raise
        print(f"{prog}: error: {_sentence(error)}", file=sys.stderr)
        return 2 if isinstance(error, argparse.ArgumentError) else 1


def _keep_compiled_programs():
    """Let jax, which is not imported yet, keep what it compiles; a program fits the machine it was compiled on."""
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.2")
    # A program that takes minutes to compile is announced by us; XLA would print a banner that asks to report a bug.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    home = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache")
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(home / "unireplknet_jax" / "xla" / platform.node()))


def _use_huge_pages():
    """Start this process again with huge pages for what it allocates, where jax will compute on the CPU of a Linux.

    XLA allocates a program's temporaries anew at every run. That the system clears them in pages of 4 KiB takes a sixth
    of a training step and a tenth of a merged network. glibc looks at the setting once, when a process starts.
    A program that calls `main` is left alone: it may have done something already, or be read from a pipe.
    """
    program = pathlib.Path(getattr(sys.modules["__main__"], "__file__", None) or "")
    if program.stem != "unireplknet" and program != pathlib.Path(__file__):
        return
    accelerators = ("libtpu", "jax_cuda12_plugin", "jax_cuda13_plugin", "jax_rocm7_plugin")
    computing = os.environ.get("JAX_PLATFORMS") or ("" if any(map(importlib.util.find_spec, accelerators)) else "cpu")
    if computing == "cpu" and platform.libc_ver()[0] == "glibc" and "GLIBC_TUNABLES" not in os.environ:
        os.environ["GLIBC_TUNABLES"] = "glibc.malloc.hugetlb=1"
        with contextlib.suppress(OSError):
            os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


@contextlib.contextmanager
def _plain_logging():
    """The lines of this package plainly on stderr; other libraries' from warnings on."""
    from absl import logging as absl_logging

    absl_logging.set_verbosity(absl_logging.WARNING)
    logger, handler = logging.getLogger("unireplknet_jax"), logging.StreamHandler()
    before = logger.level, logger.propagate
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before[0])
        logger.propagate = before[1]


@contextlib.contextmanager
def _one_line_about_the_cache():
    """Where jax cannot keep its compiled programs it warns of each: that is said once, and what to do."""
    before, told = warnings.showwarning, []

    def show(message, *where, **more):
        failed = re.match(r"Error (?:reading|writing) persistent compilation cache [^:]*: \w+: (.*)", str(message))
        if failed is None:
            before(message, *where, **more)
        elif not told:
            told.append(failed)
            logging.getLogger("unireplknet_jax").warning(
                "compiled programs are not kept, so the next start compiles them again: %s; "
                "JAX_COMPILATION_CACHE_DIR names a folder that can be written to",
                failed[1],
            )

    warnings.showwarning = show
    try:
        yield
    finally:
        warnings.showwarning = before


def _sentence(error):
    """An error's message on one line."""
    if isinstance(error, OSError) and error.strerror and error.filename:
        return f"{error.filename}: {error.strerror}"
    if isinstance(error, MemoryError):
        return f"the memory does not suffice{f' ({error})' if str(error) else ''}; give less at a time."
    return " ".join(str(error).split()) or type(error).__name__


if __name__ == "__main__":
    sys.exit(main())
