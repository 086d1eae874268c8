"""`stations`: put the stations of a table into an order in which neighbours follow each other."""

import argparse

EXAMPLES = ("stations airports ordered --tree 4,5",)


def add_arguments(parser):
    parser.add_argument("source", metavar="SRC", help="a folder with series.csv and stations.csv")
    parser.add_argument("destination", metavar="DST", help="the folder to write the same to, its columns in order")
    parser.add_argument(
        "--tree", required=True, metavar="N,N,...", help="children on every level; leaves are equally large"
    )


def run(args):
    from unireplknet_jax.data.series.sets import write_ordered

    words = args.tree.split(",")
    if not all(word.strip().isdigit() and int(word) for word in words):
        raise argparse.ArgumentError(None, f"--tree is {args.tree}; expected whole numbers such as 7,50.")
    tree = tuple(map(int, words))
    names = write_ordered(args.source, args.destination, tree)
    print(f"wrote {len(names)} stations in the order of the tree {' x '.join(map(str, tree))} to {args.destination}")
