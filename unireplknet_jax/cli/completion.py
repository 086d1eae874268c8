"""`completion`: a script with which a shell completes commands, options, files, recipes and published names."""

import argparse
import sys

SHELLS = ("bash", "zsh")
EXAMPLES = ("completion bash", "completion zsh")
_FILES = ("FILE", "INPUT", "CHECKPOINT", "SRC", "DST", "OUT", "OUT.npz", "OUT.csv", "OUT.png", "FILE.png", "PATH")
_FOLDERS = ("DIR",)
# A word of some that are known, or a file.
_PREAMBLE = {
    "bash": '{name}() {{ compgen -W "{words}" -- "$1"; compgen -f -- "$1"; }}\n',
    "zsh": "{name}() {{ _alternative 'names:name:({words})' 'files:file:_files' }}\n",
}


def add_arguments(parser):
    parser.add_argument("shell", choices=SHELLS, help="the shell that is to complete")
    parser.epilog = 'The line for ~/.bashrc or ~/.zshrc: eval "$(unireplknet completion bash)"'


def run(args):
    try:
        import shtab
    except ImportError as error:
        raise ImportError(
            "completion is made by shtab, which is not installed: pip install 'unireplknet_jax[completion]'."
        ) from error
    from unireplknet_jax.cli.parser import COMMANDS, make_parser
    from unireplknet_jax.models import zoo
    from unireplknet_jax.train.shipped import shipped_recipes

    words = {"_unireplknet_recipes": [*shipped_recipes()], "_unireplknet_names": zoo.names()}
    parser = make_parser(COMMANDS)
    for action in _actions(parser):
        metavar = action.metavar or ""
        if "--config" in action.option_strings:
            action.complete = dict.fromkeys(SHELLS, "_unireplknet_recipes")
        elif metavar == "CHECKPOINT" or (action.dest == "source" and metavar == "SRC"):
            action.complete = dict.fromkeys(SHELLS, "_unireplknet_names")
        elif metavar in _FILES:
            action.complete = shtab.FILE
        elif metavar in _FOLDERS:
            action.complete = shtab.DIRECTORY
    preamble = {
        shell: "".join(_PREAMBLE[shell].format(name=name, words=" ".join(own)) for name, own in words.items())
        for shell in SHELLS
    }
    sys.stdout.write(shtab.complete(parser, args.shell, preamble=preamble))


def _actions(parser):
    for action in parser._actions:
        yield action
        if isinstance(action, argparse._SubParsersAction):
            for each in action.choices.values():
                yield from _actions(each)
