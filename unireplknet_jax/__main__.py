"""The command line: `unireplknet COMMAND ...`, or `python -m unireplknet_jax COMMAND ...`."""

import argparse
import contextlib
import importlib
import logging
import os
import pathlib
import platform
import sys

COMMANDS = {
    "models": "list the sizes, what they cost and the published weights",
    "recipes": "list the recipes that ship and their arguments",
    "train": "run a recipe",
    "plan": "compile a recipe's step for a TPU slice: does it fit, what does it cost",
    "evaluate": "measure a checkpoint on a data set",
    "predict": "apply a checkpoint to files",
    "embed": "write the pooled features of files, before the classifier",
    "convert": "rewrite a checkpoint: for PyTorch, or as a directory of this package",
    "reparameterize": "merge a checkpoint into its inference form",
    "recalibrate": "estimate the statistics of a checkpoint's batch norms anew from training data",
    "push": "upload a checkpoint to the Hugging Face hub",
    "stations": "order the stations of a table into a tree of neighbours",
    "shards": "write pictures as ArrayRecord shards, or check that all can be decoded",
    "benchmark": "measure how fast a part of the system is here",
}
_USER_ERRORS = (ValueError, OSError, ImportError, FloatingPointError, MemoryError)


def main(argv=None):
    """Run a command; returns the exit code, see `_run`, unless the compiler still works at what nobody waits for."""
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
    try:
        args = _parse(sys.argv[1:] if argv is None else list(argv))
        if args is None:
            return 0
        prog = f"unireplknet {args.command}"
        _keep_compiled_programs()
        with _plain_logging():
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


def _parse(argv):
    """The arguments of a command and its `run`; None where there is no command and help was printed."""
    parser = argparse.ArgumentParser(prog="unireplknet", description="UniRepLKNet in JAX/Flax.", allow_abbrev=False)
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    # No option before the command takes a value, so the first word is the command; only its file is imported.
    chosen = next((word for word in argv if not word.startswith("-")), None)
    for name, summary in COMMANDS.items():
        command = commands.add_parser(name, help=summary, description=f"{summary.capitalize()}.", allow_abbrev=False)
        if name == chosen:
            module = importlib.import_module(f"unireplknet_jax.cli.{name}")
            module.add_arguments(command)
            command.set_defaults(run=module.run, command_parser=command)
    args, rest = parser.parse_known_args(argv)
    if args.command is None and not rest:
        parser.print_help()
        return None
    if rest and "overrides" not in args:
        getattr(args, "command_parser", parser).error(f"unrecognized arguments: {' '.join(rest)}")
    args.overrides = rest
    return args


def _keep_compiled_programs():
    """Let jax, which is not imported yet, keep what it compiles; a program fits the machine it was compiled on."""
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.2")
    # A program that takes minutes to compile is announced by us; XLA would print a banner that asks to report a bug.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    home = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache")
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(home / "unireplknet_jax" / "xla" / platform.node()))


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


def _sentence(error):
    """An error's message on one line."""
    if isinstance(error, OSError) and error.strerror and error.filename:
        return f"{error.filename}: {error.strerror}"
    if isinstance(error, MemoryError):
        return f"the memory does not suffice{f' ({error})' if str(error) else ''}; give less at a time."
    return " ".join(str(error).split()) or type(error).__name__


if __name__ == "__main__":
    sys.exit(main())
