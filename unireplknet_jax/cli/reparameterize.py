"""`reparameterize`: merge a checkpoint into its inference form, after checking that this changes nothing."""

from unireplknet_jax.cli.convert import destination_help, print_written

EXAMPLES = (
    "reparameterize runs/flowers/best merged",
    "reparameterize unireplknet_a.pth merged.pth --overwrite",
)


def add_arguments(parser):
    parser.add_argument("source", metavar="SRC", help="a checkpoint in training form, of any kind")
    parser.add_argument("destination", metavar="DST", help=destination_help)
    parser.add_argument("--overwrite", action="store_true", help="replace DST if it exists")
    parser.add_argument(
        "--tolerance",
        type=float,
        default=1e-4,
        metavar="X",
        help="refuse a merge that changes an output by more than this share of the largest one (default: %(default)g)",
    )


def run(args):
    from unireplknet_jax.tasks import convert
    from unireplknet_jax.tasks.checkpoint import open_checkpoint, require_weights

    convert.check_destination(args.source, args.destination, args.overwrite)
    checkpoint = open_checkpoint(args.source)
    require_weights(checkpoint)
    merged, error = convert.merge(checkpoint, args.tolerance)
    convert.write_checkpoint(args.destination, merged, args.overwrite)
    before, after = (convert.describe(each)["parameters"] for each in (checkpoint, merged))
    print(f"merged {args.source}: {before:,} parameters became {after:,}")
    print(
        f"largest difference on random input: {error:.2g} of the largest output (tolerance {args.tolerance:g}, float32)"
    )
    print_written(args.destination, merged)
