"""`check-data`: what is odd in pictures with boxes or masks, and how these lie on the pictures."""

from unireplknet_jax.cli.output import Progress, check_output, print_json, print_table

EXAMPLES = (
    "check-data birds",
    "check-data birds --split val --draw seen.png",
    "check-data streets --data mask_folder --json",
)
_MOST_NAMED = 5  # of each kind
_MOST_CLASSES = 40  # in the table


def add_arguments(parser):
    parser.add_argument("folder", metavar="DIR", help="where the data lie, as data.dir of a recipe")
    parser.add_argument(
        "--data",
        default="boxes",
        metavar="NAME",
        help="how they are annotated: coco, yolo, voc, labelme, csv or mask_folder (default: boxes, which looks)",
    )
    parser.add_argument("--split", default="train", metavar="S", help="default: train")
    parser.add_argument("--annotations", metavar="PATH", help="the file or folder of annotations, below DIR")
    parser.add_argument("--pictures", metavar="PATH", help="the folder of the pictures, below DIR")
    parser.add_argument("--classes", metavar="FILE", help="a list of the classes that are used, one a line")
    parser.add_argument("--draw", metavar="OUT.png", help="draw the annotations over some pictures, odd ones first")
    parser.add_argument("--most", type=int, default=16, metavar="N", help="pictures that are drawn (default: 16)")
    parser.add_argument("--json", action="store_true", help="print one JSON document with all that is odd")
    parser.add_argument("--threads", type=int, metavar="N", help="that read (default: one for each processor)")


def run(args):
    import argparse

    from unireplknet_jax.data.base import nearest
    from unireplknet_jax.tasks.data_checks import SOURCES, check

    for flag in ("most", "threads"):
        value = getattr(args, flag)
        if value is not None and value < 1:
            raise argparse.ArgumentError(None, f"--{flag} is {value}; expected 1 or more.")
    if args.data not in SOURCES:
        raise argparse.ArgumentError(None, f"--data is {args.data!r}; {nearest(args.data, SOURCES)}")
    if args.draw:
        if not args.draw.lower().endswith(".png"):
            raise argparse.ArgumentError(None, f"--draw is {args.draw}; expected a name that ends in .png.")
        check_output("--draw", args.draw)
    data = {"name": args.data, "dir": args.folder}
    data |= {name: getattr(args, name) for name in ("annotations", "pictures", "classes") if getattr(args, name)}
    lines = []

    def progress(done, total):
        lines[:] = lines or [Progress(total, "pictures")]
        lines[0](done)

    found = check(data, args.split, args.threads, progress)
    if args.json:
        rows = [dict(zip(found.columns, row, strict=True)) for row in found.rows]
        print_json({"summary": found.summary, "classes": rows, "odd": found.odd})
    else:
        _print(found)
    if args.draw:
        _draw(found, args.draw, args.most)
    return 1 if found.broken else 0


def _print(found):
    from unireplknet_jax.data.base import listed

    print_table(found.columns, found.rows[:_MOST_CLASSES])
    if len(found.rows) > _MOST_CLASSES:
        print(f"... ({len(found.rows):,} classes in all)")
    print(f"\n{found.summary}\n")
    for what, where in found.odd.items():
        print(f"{what} ({len(where):,}): {listed(where, _MOST_NAMED)}")
    if not found.odd:
        print("nothing odd")


def _draw(found, path, most):
    import sys

    from unireplknet_jax.data.files import whole_file
    from unireplknet_jax.tasks.data_checks import to_draw
    from unireplknet_jax.tasks.drawing import tile

    pictures = [picture for picture in map(found.draw, to_draw(found, most)) if picture is not None]
    if not pictures:
        print("no picture can be drawn", file=sys.stderr)
        return
    with whole_file(path) as part:
        tile(pictures).save(part)
    print(f"drew {path}", file=sys.stderr)
