"""`split`: a folder of class folders becomes one with train and val, made of links to its files."""

from unireplknet_jax.cli.output import print_notes, print_table

EXAMPLES = (
    "split photos flowers --val 0.2",
    "split photos flowers --val 0.15 --test 0.15 --seed 1 --copy",
    "split clips birds --val 0.2 --group '^[^_]+'",
)


def add_arguments(parser):
    parser.add_argument("source", metavar="SRC", help="a folder with one folder for each class; it stays as it is")
    parser.add_argument("destination", metavar="DST", help="the folder to write: DST/train/CLASS, DST/val/CLASS")
    parser.add_argument("--val", type=float, default=0.2, metavar="X", help="this share of each class (default: 0.2)")
    parser.add_argument("--test", type=float, metavar="X", help="this share of each class for DST/test (default: none)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="chooses which files go where (default: 0)")
    parser.add_argument("--copy", action="store_true", help="copy the files; otherwise links to them are made")
    parser.add_argument(
        "--group",
        metavar="REGEX",
        help="keep files of a class together whose names hold the same text here, as parts of one recording do",
    )


def run(args):
    import argparse

    from unireplknet_jax.data.split import split_folder
    from unireplknet_jax.tasks.base import TASKS, task_class
    from unireplknet_jax.tasks.labelled import Labelled

    if args.seed < 0:
        raise argparse.ArgumentError(None, f"--seed is {args.seed}; expected 0 or more.")
    shares = {"val": args.val} | ({} if args.test is None else {"test": args.test})
    kinds = [task_class(name).suffixes for name in TASKS if issubclass(task_class(name), Labelled)]
    division = split_folder(args.source, args.destination, shares, kinds, args.seed, args.group, args.copy)
    if division.passed_over:
        from unireplknet_jax.data.base import listed

        print_notes([f"{len(division.passed_over):,} passed over: {listed(division.passed_over)}."])
    names = [*division.counts["train"]]
    if len(names) <= 20:
        print_table(
            ["class", *division.counts], [[name, *(own[name] for own in division.counts.values())] for name in names]
        )
    totals = ", ".join(f"{sum(own.values()):,} in {split}" for split, own in division.counts.items())
    print(f"wrote {args.destination}: {len(names):,} classes, {totals}, as {division.how}")
    print(f"a recipe for such folders is trained on it with --config.data.dir={args.destination}")
