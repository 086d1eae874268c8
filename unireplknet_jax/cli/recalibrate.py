"""`recalibrate`: write a checkpoint whose batch norms have the statistics of training batches, averaged."""

from unireplknet_jax.cli.convert import destination_help, print_written
from unireplknet_jax.cli.data import add_data_arguments, check_data_arguments, check_least, data_of, threads_of
from unireplknet_jax.cli.form import NAMES
from unireplknet_jax.cli.output import naming_remedy, print_notes

EXAMPLES = (
    "recalibrate runs/birds/model runs/birds/recalibrated",
    "recalibrate mine.pth mine_recalibrated --data folder --data-dir flowers --batches 20",
)


def add_arguments(parser):
    parser.add_argument("checkpoint", metavar="CHECKPOINT", help=f"one in training form: {NAMES}")
    parser.add_argument("destination", metavar="DST", help=destination_help)
    parser.add_argument("--batches", type=int, metavar="N", help="training batches (default: an epoch, at most 64)")
    add_data_arguments(parser, "train")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of order and augmentation (default: 0)")
    parser.add_argument("--overwrite", action="store_true", help="replace DST if it exists")


def run(args):
    check_data_arguments(args)
    check_least("--batches", args.batches, 1)

    from unireplknet_jax.tasks import convert
    from unireplknet_jax.tasks.checkpoint import open_checkpoint, require_weights
    from unireplknet_jax.tasks.predict import require_classifier, with_image_size
    from unireplknet_jax.train.recalibrate import recalibrate_checkpoint

    convert.check_destination(args.checkpoint, args.destination, args.overwrite)
    checkpoint = open_checkpoint(args.checkpoint)
    require_weights(checkpoint)
    require_classifier(checkpoint)
    print_notes(with_image_size(checkpoint, checkpoint.path)[1])
    data = data_of(args, checkpoint.data, "train_split", "train")
    with naming_remedy("--broken skip"):
        checkpoint, batches, batch_size = recalibrate_checkpoint(
            checkpoint,
            data,
            args.batch_size,
            args.batches,
            seed=args.seed,
            num_threads=threads_of(args),
            workers=args.workers,
        )
    convert.write_checkpoint(args.destination, checkpoint, args.overwrite)
    print(
        f"recalibrated {args.checkpoint}: batch norms have the statistics of {batches:,} batches of {batch_size:,} "
        f"from {data['name']}, split {data['split']}"
    )
    print_written(args.destination, checkpoint)
