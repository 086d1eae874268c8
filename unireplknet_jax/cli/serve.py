"""`serve`: a server that answers with what checkpoints see in files, and a page to try it."""

import argparse
import os
import pathlib
import re

from unireplknet_jax.cli.form import (
    NAMES,
    add_examples_argument,
    add_image_size_argument,
    add_objects_arguments,
    add_views_arguments,
    check_image_size,
    examples_of,
    views_of,
)
from unireplknet_jax.cli.output import print_notes

EXAMPLES = (
    "serve runs/flowers/best",
    "serve flowers=runs/flowers/best imagenet=unireplknet_t --port 9000",
    "serve runs/streets/best --examples pictures --batch 4",
    "serve unireplknet_a --host 0.0.0.0 --token-file token.txt",
)
TOKEN = "UNIREPLKNET_TOKEN"
_LOCAL = ("127.0.0.1", "::1", "localhost")


def add_arguments(parser):
    parser.add_argument(
        "checkpoints", nargs="+", metavar="[NAME=]CHECKPOINT", help=f"with a classifier: {NAMES}; NAME is its model's"
    )
    parser.add_argument("--host", default="127.0.0.1", help="the address to listen on (default: %(default)s)")
    parser.add_argument("--port", type=_count(0, 65535), default=8000, help="0: any free one (default: %(default)s)")
    parser.add_argument(
        "--batch",
        type=_count(1, 1024),
        default=8,
        metavar="N",
        help="examples at a time (default: %(default)s)",
    )
    parser.add_argument(
        "--delay", type=_number(0), default=5, metavar="MS", help="a batch waits for more (default: %(default)s)"
    )
    parser.add_argument("--body", type=_number(0), default=32, metavar="MIB", help="a request (default: %(default)s)")
    parser.add_argument(
        "--pixels", type=_number(0), default=50, metavar="MILLIONS", help="of a picture (default: %(default)s)"
    )
    parser.add_argument(
        "--seconds", type=_number(0), default=300, metavar="S", help="of a sound or clip (default: %(default)s)"
    )
    parser.add_argument(
        "--queue",
        type=_count(1, 100_000),
        default=64,
        metavar="N",
        help="files at a time (default: %(default)s)",
    )
    parser.add_argument(
        "--time", type=_number(0), default=60, metavar="S", help="that a request may take (default: %(default)s)"
    )
    parser.add_argument(
        "--token-file", metavar="FILE", help=f"holds the token that requests must bear (else: ${TOKEN}, if it is set)"
    )
    add_examples_argument(parser)
    parser.add_argument("--labels", metavar="FILE", help="the class names, one a line")
    add_image_size_argument(parser)
    add_views_arguments(parser)
    add_objects_arguments(parser)


def run(args):
    check_image_size(args.image_size)
    token = _token(args)
    try:
        from unireplknet_jax.serve import run as serving
        from unireplknet_jax.serve.app import Server
        from unireplknet_jax.serve.settings import Settings
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("unireplknet_jax"):
            raise
        raise ImportError(
            f'serving needs {error.name}, which is missing: pip install "unireplknet_jax[serve]"'
        ) from error
    settings = Settings(
        **{"batch": args.batch, "delay": args.delay / 1000, "body": int(args.body * 2**20)},
        **{"pixels": int(args.pixels * 1e6), "seconds": args.seconds, "queue": args.queue, "time": args.time},
        token=token,
    )
    checkpoints = {name: _opened(args, path) for name, path in _named(args.checkpoints).items()}
    listening = serving.listen(args.host, args.port)
    if args.host not in _LOCAL and token is None:
        print_notes([f"{args.host} may be reached by others, and no token is asked for; --token-file names one."])
    serving.run(Server(checkpoints, settings, examples_of(args.examples)), listening)


def _named(given):
    """{name of a model: its checkpoint}; ValueError for a name that is no name, or that two have."""
    from unireplknet_jax.tasks.checkpoint import short_name

    found = {}
    for text in given:
        name, equals, path = text.partition("=")
        if not equals or os.path.exists(text):
            name, path = short_name(text), text
        if not re.fullmatch(r"\w[\w.-]*", name) or not path:
            raise ValueError(f"{text} has no name for a model; give NAME=CHECKPOINT, of letters, digits, . _ and -.")
        if name in found:
            raise ValueError(f"two models would be called {name}; give them names as in a={found[name]} b={path}.")
        found[name] = path
    return found


def _opened(args, path):
    from unireplknet_jax.tasks.checkpoint import open_checkpoint
    from unireplknet_jax.tasks.predict import require_classifier, with_image_size, with_labels, with_views

    checkpoint = open_checkpoint(path)
    require_classifier(checkpoint)
    checkpoint = with_views(checkpoint, views_of(args))
    checkpoint, notes = with_image_size(checkpoint, checkpoint.path, args.image_size)
    checkpoint, more_notes = with_labels(checkpoint, checkpoint.path, args.labels)
    print_notes(notes + more_notes)
    return checkpoint.in_merged_form()


def _token(args):
    """The token of the file, or of the environment; ValueError for an empty one, OSError where it cannot be read."""
    if args.token_file is None and TOKEN not in os.environ:
        return None
    where = args.token_file or f"${TOKEN}"
    if args.token_file is None:
        token = os.environ.get(TOKEN, "")
    else:
        token = pathlib.Path(args.token_file).read_text(encoding="utf-8", errors="replace")
    if len(token.strip()) < 8 or not token.strip().isascii():
        raise ValueError(f"the token of {where} is too short, or not of ASCII letters; give 8 of them or more.")
    return token.strip()


def _count(least, most):
    def read(text):
        if not (text.isascii() and text.isdecimal() and least <= int(text) <= most):
            raise argparse.ArgumentTypeError(f"{text!r} must be a whole number from {least} to {most:,}")
        return int(text)

    return read


def _number(above):
    def read(text):
        try:
            value = float(text)
        except ValueError:
            value = float("nan")
        if not above <= value < float("inf"):
            raise argparse.ArgumentTypeError(f"{text!r} must be a number from {above} on")
        return value

    return read
