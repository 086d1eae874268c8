"""`shards`: write a source of pictures as ArrayRecord shards, or only check that every picture can be decoded."""

from unireplknet_jax.cli.output import Progress, naming_remedy

EXAMPLES = (
    "shards --data folder --data-dir imagenet --split train --shards 128 imagenet_shards",
    "shards --data-dir flowers --check",
)


def add_arguments(parser):
    parser.add_argument("destination", metavar="OUT", nargs="?", help="OUT/SPLIT is written: shards and a card")
    parser.add_argument("--data", default="folder", metavar="NAME", help="the source (default: folder)")
    parser.add_argument("--data-dir", metavar="DIR", help="where the source lies; of a folder: DIR/SPLIT/CLASS/PICTURE")
    parser.add_argument("--split", default="train", help="default: train")
    parser.add_argument("--shards", type=int, default=16, metavar="N", help="number of files (default: 16)")
    parser.add_argument(
        "--broken", choices=("refuse", "skip"), default="refuse", help="what to do with pictures that cannot be decoded"
    )
    parser.add_argument("--check", action="store_true", help="write nothing, list the pictures that cannot be decoded")
    parser.add_argument("--overwrite", action="store_true", help="replace OUT/SPLIT if it exists")
    parser.add_argument("--threads", type=int, metavar="N", help="default: one for each processor")


def run(args):
    import argparse

    if (args.destination is None) != args.check:
        raise argparse.ArgumentError(None, "give either OUT or --check.")
    if args.threads is not None and args.threads < 1:
        raise argparse.ArgumentError(None, f"--threads is {args.threads}; expected 1 or more.")
    from unireplknet_jax.data.pictures.sets import open_source

    source = open_source(args.data, args.split, args.data_dir)
    return _check(source, args) if args.check else _write(source, args)


def _check(source, args):
    from unireplknet_jax.data.broken import find_broken
    from unireplknet_jax.data.pictures.decode import why_broken

    found = find_broken(source, why_broken, args.threads, Progress(len(source), "pictures"))
    for picture in found:
        print(picture.reason)
    print(f"{len(source):,} pictures of {len(source.labels):,} classes, {len(found):,} of them broken")
    return 1 if found else 0


def _write(source, args):
    from unireplknet_jax.data.pictures.array_records import write_array_records

    with naming_remedy("--broken skip"):
        card = write_array_records(
            source,
            args.destination,
            args.split,
            args.shards,
            broken=args.broken,
            overwrite=args.overwrite,
            threads=args.threads,
            progress=Progress(len(source), "pictures"),
        )
    for name in card["left_out"]:
        print(f"left out: {name}")
    print(
        f"wrote {args.destination}/{args.split}: {sum(card['records']):,} pictures of {len(card['labels']):,} classes, "
        f"{sum(card['bytes']) / 1e6:,.1f} MB in {len(card['records']):,} shards, {len(card['left_out']):,} left out"
    )
