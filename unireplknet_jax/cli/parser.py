"""The command line's words: which commands there are, their options, their examples, and what a wrong word may mean."""

import argparse
import importlib
import platform
import re
import textwrap

from unireplknet_jax.data.base import near, nearest

COMMANDS = {
    "models": "list the sizes, what they cost and the published weights",
    "recipes": "list the recipes that ship and their arguments",
    "train": "run a recipe",
    "plan": "compile a recipe's step for a TPU slice: does it fit, what does it cost",
    "evaluate": "measure a checkpoint on a data set",
    "predict": "apply a checkpoint to files",
    "embed": "write the pooled features of files, before the classifier",
    "see": "draw what a checkpoint looks at in files: its receptive field, and what speaks for a class",
    "serve": "answer requests with what checkpoints see in files, and show a page to try them",
    "convert": "rewrite a checkpoint: for PyTorch, or as a directory of this package",
    "export": "write a checkpoint as a file for another runtime: StableHLO, ONNX, OpenVINO, LiteRT; or as a page",
    "reparameterize": "merge a checkpoint into its inference form",
    "recalibrate": "estimate the statistics of a checkpoint's batch norms anew from training data",
    "push": "upload a checkpoint to the Hugging Face hub",
    "split": "divide a folder of class folders into train and val",
    "check-data": "list what is odd in pictures with boxes or masks, and draw these over the pictures",
    "stations": "order the stations of a table into a tree of neighbours",
    "shards": "write pictures as ArrayRecord shards, or check that all can be decoded",
    "benchmark": "measure how fast a part of the system is here",
    "completion": "print a script that lets a shell complete commands and options",
}


def parse(argv):
    """The arguments of a command and its `run`; None where there is no command and help was printed.

    A word that is unknown ends with the help of argparse: SystemExit, code 2.
    """
    # No option before the command takes a value, so the first word is the command; only its file is imported.
    chosen = next((word for word in argv if not word.startswith("-")), None)
    parser = make_parser((chosen,))
    if chosen is not None and chosen not in COMMANDS:
        hint = nearest(chosen, tuple(COMMANDS), "`unireplknet --help` lists them")
        parser.error(f"there is no command {chosen!r}; {hint}")
    args, rest = parser.parse_known_args(argv)
    if args.command is None and not rest:
        parser.print_help()
        return None
    if rest and "overrides" not in args:
        command = getattr(args, "command_parser", parser)
        flags = [flag for each in _parsers(command) for action in each._actions for flag in action.option_strings]
        unknown = next((word.partition("=")[0] for word in rest if word.startswith("-")), "")
        hint = nearest(unknown, flags, f"`{command.prog} --help` shows what there is")
        command.error(f"unrecognized arguments: {' '.join(rest)}; {hint}")
    args.overrides = rest
    return args


def make_parser(commands):
    """The whole parser; those commands whose names are given have their options, too."""
    parser = _Parser(prog="unireplknet", description="UniRepLKNet in JAX/Flax.", allow_abbrev=False)
    parser.add_argument("--version", nargs=0, action=_Version, help="print the versions of this package and of jax")
    parser.epilog = "`unireplknet COMMAND --help` shows the options of a command, and examples."
    names = parser.add_subparsers(dest="command", metavar="COMMAND")
    for name, summary in COMMANDS.items():
        command = names.add_parser(name, help=summary, description=f"{summary.capitalize()}.", allow_abbrev=False)
        if name in commands:
            module = importlib.import_module(f"unireplknet_jax.cli.{name.replace('-', '_')}")
            module.add_arguments(command)
            command.set_defaults(run=module.run, command_parser=command)
            for each in _parsers(command):
                _show_examples(each, module.EXAMPLES)
    return parser


def _parsers(parser):
    """A parser and those of what is below it."""
    yield parser
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for each in action.choices.values():
                yield from _parsers(each)


def _show_examples(parser, examples):
    """Add those examples to a command's help that begin with its name."""
    name = parser.prog.removeprefix("unireplknet ")
    own = [f"  unireplknet {line}" for line in examples if f"{line} ".startswith(f"{name} ")]
    text = [textwrap.fill(parser.epilog, 79)] if parser.epilog else []
    parser.epilog = "\n\n".join([*text, "\n".join(["examples:", *own])])
    parser.description = textwrap.fill(parser.description, 79)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter


class _Parser(argparse.ArgumentParser):
    """Says of a word that is none of the choices what it may be meant for; so do the commands below it."""

    def error(self, message):
        wrong = re.search(r"invalid choice: '(.*?)' \(choose from (.*)\)$", message)
        meant = near(wrong[1], re.findall(r"[^\s,']+", wrong[2]), most=1) if wrong else []
        super().error(message + "".join(f"; did you mean {word}?" for word in meant))


class _Version(argparse.Action):
    def __call__(self, parser, namespace, values, option_string=None):
        from importlib import metadata  # which takes longer than all the rest

        from unireplknet_jax import __version__

        found = f"unireplknet_jax {__version__}, jax {metadata.version('jax')}, Python {platform.python_version()}"
        print(found)
        parser.exit()
