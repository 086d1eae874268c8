"""`train`: run a recipe, a Python file whose `get_config` returns an `ml_collections.ConfigDict`."""

import argparse
import contextlib
import logging
import pathlib
import re
import signal
import sys
import threading
import traceback

from unireplknet_jax.cli.output import naming_file, naming_remedy
from unireplknet_jax.data.base import listed, near

AGAIN = 75  # EX_TEMPFAIL of sysexits.h: saved after SIGTERM, the same command goes on; launch/*.sh know it

EXAMPLES = (
    "train --config finetune.py:a --config.data.dir=flowers --workdir runs/flowers",
    "train --config small_images.py:digits --workdir runs/digits",
    "train --config small_images.py:digits --workdir runs/quick --config.epochs=2 --config.optim.lr=1e-3",
)


def add_arguments(parser):
    parser.usage = "unireplknet train --config FILE.py[:ARG] [--config.FIELD=VALUE ...] --workdir DIR"
    add_config_argument(parser)
    parser.add_argument("--workdir", required=True, metavar="DIR", help="where everything is written; resumes from it")
    parser.add_argument("--profile", action="store_true", help="write a trace of five steps to DIR/profile")
    parser.epilog = "--config.FIELD=VALUE overrides a field of the recipe, for example --config.optim.lr=1e-3."
    parser.set_defaults(overrides=[])


def add_config_argument(parser):
    about = "the recipe, a file of yours or one of `unireplknet recipes`, and its argument"
    parser.add_argument("--config", required=True, metavar="FILE.py[:ARG]", help=about)


def run(args):
    with _stopping_at_once():
        return _run(args)


@contextlib.contextmanager
def _stopping_at_once():
    """SIGTERM ends the command with `AGAIN` until training takes the signal: nothing has been done yet."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, _stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _stop(*_):
    print("unireplknet train: told to stop while it did not train; nothing was lost.", file=sys.stderr)
    raise SystemExit(AGAIN)


def _run(args):
    config = load_config(args.config, args.overrides)

    import jax

    from unireplknet_jax.train.checkpoint import saved_so_far
    from unireplknet_jax.train.distributed import Preempted, join
    from unireplknet_jax.train.loop import train

    join()
    if jax.process_index():  # what all processes would say process 0 says
        logging.getLogger("unireplknet_jax").setLevel(logging.WARNING)
    try:
        with naming_remedy("--config.data.broken=skip"), naming_file("--config.init"):
            train(config, args.workdir, args.profile, _words(args))
    except Preempted as notice:
        print(f"unireplknet train: {notice}", file=sys.stderr)
        return AGAIN
    except KeyboardInterrupt:
        raise KeyboardInterrupt(saved_so_far(args.workdir)) from None
    return 0


def _words(args):
    """The command, as it can be typed again."""
    profile = ["--profile"] if args.profile else []
    return ["unireplknet", "train", "--config", args.config, *args.overrides, "--workdir", args.workdir, *profile]


def load_config(recipe, overrides):
    """The locked ConfigDict of a recipe "FILE.py[:ARG]" with overrides ["--config.FIELD=VALUE", ...].

    The file is one of that path, or one that ships. An override of a duration counts in its own unit, whatever the
    recipe's.
    Raises argparse.ArgumentError for a recipe or a field that does not work.
    """
    from unireplknet_jax.train.recipe import keep_units
    from unireplknet_jax.train.shipped import find_recipe

    name, colon, arg = recipe.partition(":")
    try:
        path = str(find_recipe(name))
    except ValueError as error:
        raise argparse.ArgumentError(None, str(error)) from None
    for word in overrides:
        if word.startswith("--") and not word.startswith(("--config.", "--noconfig.")):
            raise argparse.ArgumentError(
                None, f"unknown option {word}; fields are overridden with --config.FIELD=VALUE."
            )
    try:
        config, _ = _parse_flags(f"{path}{colon}{arg}", [])
    except Exception as error:  # a recipe is a program
        raise argparse.ArgumentError(None, _recipe_failure(path, error) + _hint(path, arg)) from error
    if not hasattr(config, "to_dict"):
        kind = type(config).__name__
        raise argparse.ArgumentError(
            None, f"get_config of {path} returned a {kind}; expected an ml_collections.ConfigDict."
        )
    overrides = [_in_new_place(config, word) for word in overrides]
    for word in overrides:
        _check_field(config, word, recipe)
    config = _parse_overrides(config, f"{path}{colon}{arg}", overrides)
    keep_units(config, {_field(word) for word in overrides if word.startswith("--")})
    return config


def _field(word):
    """The field "optim.lr" of an override "--config.optim.lr=1"."""
    return word.partition("=")[0].partition(".")[2]


def _in_new_place(config, word):
    """An override "--config.FIELD=VALUE" with the field's present name."""
    from unireplknet_jax.train.recipe import present_field

    field = _field(word)
    return word.replace(field, present_field(config, field), 1) if word.startswith("--") and field else word


def _parse_flags(recipe, overrides):
    """(config, words that belong to no flag)."""
    from absl import flags
    from ml_collections import config_flags

    words = ["unireplknet train", f"--config={recipe}", *overrides]
    values = flags.FlagValues()
    sys.modules.pop("config_config", None)  # or the names of a recipe that was read before would stay
    holder = config_flags.DEFINE_config_file("config", flag_values=values, sys_argv=words)
    rest = values(words)[1:]
    return holder.value, rest


def _parse_overrides(before, recipe, overrides):
    from absl import flags

    try:
        config, rest = _parse_flags(recipe, overrides)
    except (flags.Error, ValueError, TypeError, LookupError, AttributeError) as error:
        raise argparse.ArgumentError(None, _override_failure(before, error)) from error
    if rest:
        raise argparse.ArgumentError(None, f"unexpected {rest[0]!r}; fields are overridden with --config.FIELD=VALUE.")
    return config


def _override_failure(config, error):
    """One sentence about a value that does not fit its field."""
    text = " ".join(str(error).split())
    illegal = re.match(r"flag (--config\.([\w.]+)=.*?): ", text)
    if not illegal:
        return text.rstrip(".") + "."
    from unireplknet_jax.train.recipe import kind_of, value_of

    word, field = illegal.groups()
    value = value_of(config, field)
    kind = kind_of(config, field).__name__
    example = "a group of fields" if hasattr(value, "keys") else f"of type {kind}, in the recipe {value!r}"
    return f"{word} does not fit: {field} is {example}; give a value of that kind."


def _check_field(config, word, recipe):
    """Raise ArgumentError if an override "--config.FIELD=VALUE" names a field that the recipe does not have."""
    from unireplknet_jax.train.recipe import MOVED

    if not word.startswith("--"):
        return
    path = _field(word)
    node = config
    for name in path.split("."):
        name = name.partition("[")[0]
        fields = list(node) if hasattr(node, "keys") else []
        if name not in fields:
            meant = [" and ".join(MOVED[path])] if path in MOVED else _meant(path, _fields(config))
            hint = (
                f"did you mean {' or '.join(meant)}?"
                if meant
                else f"its fields there are {listed(fields, 20) or 'none'}."
            )
            raise argparse.ArgumentError(None, f"the recipe {recipe} has no field {path}; {hint}")
        node = node[name]


def _fields(node, before=""):
    """The fields and groups of fields of a config, "optim" and "optim.lr"."""
    for name, value in node.items(preserve_field_references=True):
        yield f"{before}{name}"
        if hasattr(value, "keys"):
            yield from _fields(value, f"{before}{name}.")


def _meant(path, fields):
    """The fields that an unknown one may be meant for: those that end like it, or else those that are written alike."""
    fields = [*fields]
    last_names = [field.rpartition(".")[2] for field in fields]

    def called(names):
        return [field for field, name in zip(fields, last_names, strict=True) if name in names]

    last = path.rpartition(".")[2]
    same = called([last])
    ends = [field for field in same if field.endswith(f".{path}")]
    found = ends or near(path, same, 1) or same or near(path, fields, 1) or called(near(last, last_names, 1))
    return found[:3]


def _hint(path, arg):
    """What a word of a recipe's argument that it does not know may be meant for, as the end of a sentence."""
    from unireplknet_jax.train.shipped import read_recipe

    try:
        found = read_recipe(pathlib.Path(path))
    except (SyntaxError, ValueError):
        return ""
    known = (*found.arguments, *found.options) if found else ()
    meant = [near(word, known, most=1) for word in arg.split(",") if known and word not in known]
    return "".join(f" Did you mean {word}?" for words in meant for word in words)


def _recipe_failure(path, error):
    """One sentence about what went wrong in a recipe, with its line."""
    while error.__cause__ or error.__context__:
        error = error.__cause__ or error.__context__
    if isinstance(error, ValueError):
        return str(error)
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == path]
    where = f" in line {lines[-1]}" if lines else ""
    return f"the recipe {path} failed{where}: {type(error).__name__}: {error}."
