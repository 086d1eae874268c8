"""Which examples a command reads for a checkpoint, and how: what `evaluate` and `recalibrate` share."""

import argparse
import os

_OF_THE_RUN = ("train_examples", "eval_split", "num_threads", "workers", "missing")  # or kept in the task, as the last


def add_data_set_arguments(parser, split):
    """split: where the checkpoint says none."""
    parser.add_argument("--data", metavar="NAME", help="the data set (default: the one the checkpoint was trained on)")
    parser.add_argument("--data-dir", metavar="DIR", help="where the data set is")
    parser.add_argument("--split", metavar="S", help=f"the split (default: the checkpoint's own, else {split})")


def add_data_arguments(parser, split):
    """The data set and how it is read; split: as of `add_data_set_arguments`."""
    add_data_set_arguments(parser, split)
    parser.add_argument(
        "--batch-size",
        type=int,
        metavar="N",
        help="examples at a time (default: 32 for each device, fewer of large pictures)",
    )
    parser.add_argument("--broken", choices=("refuse", "skip"), help="what to do with broken files (default: refuse)")
    parser.add_argument("--class-order", choices=("numbers", "texts"), help="of classes that are whole numbers")
    parser.add_argument("--threads", type=int, metavar="N", help="that read (default: one a processor, at most 16)")
    parser.add_argument("--workers", type=int, metavar="N", default=0, help="processes that read (default: only this)")


def check_data_arguments(args):
    """Raise argparse.ArgumentError for a number that cannot be."""
    for flag, least in (("batch_size", 1), ("threads", 1), ("workers", 0)):
        check_least(f"--{flag.replace('_', '-')}", getattr(args, flag), least)


def check_least(flag, value, least):
    """Raise argparse.ArgumentError for a number below `least`; None is none."""
    if value is not None and value < least:
        raise argparse.ArgumentError(None, f"{flag} must be {least} or more, not {value}.")


def threads_of(args):
    """How many threads read."""
    return args.threads or min(os.cpu_count() or 1, 16)


def data_of(args, own, field, split):
    """{"name", "dir", "split", "broken", "class_order", ...}: the flags, else what the checkpoint says of its data.

    field: where the checkpoint says its split. What else it says of how its files are read, such as the value of
    masks that is ignored, follows, also for another folder of the same source.
    Raises ValueError where neither names the data.
    """
    if not (args.data or own):
        raise ValueError(
            f"{args.checkpoint} does not say which data it belongs to; name it, for example --data fashion_mnist."
        )
    own = own if own and args.data in (None, own["name"]) else {}
    others = {name: value for name, value in own.items() if name not in _OF_THE_RUN}
    return others | {
        "name": args.data or own["name"],
        "dir": args.data_dir or own.get("dir") or None,
        "split": args.split or own.get(field, split),
        "broken": args.broken or own.get("broken", "refuse"),
        "class_order": args.class_order or own.get("class_order", "numbers"),
    }
