"""`evaluate`: the metrics of a checkpoint on a data set."""

import pathlib

from unireplknet_jax.cli.data import add_data_arguments, check_data_arguments, data_of, threads_of
from unireplknet_jax.cli.form import NAMES, add_form_argument, in_form
from unireplknet_jax.cli.output import check_output, naming_remedy, print_json, print_notes, print_table


def add_arguments(parser):
    parser.add_argument("checkpoint", metavar="CHECKPOINT", help=f"any checkpoint with a classifier: {NAMES}")
    add_data_arguments(parser, "test")
    parser.add_argument("--predictions", metavar="OUT.npz", help="save what is predicted for every example")
    parser.add_argument("--json", action="store_true", help="print a JSON document instead of a table")
    add_form_argument(parser)


def run(args):
    check_data_arguments(args)
    if args.predictions:
        path = pathlib.Path(args.predictions)
        if path.suffix != ".npz" or not path.absolute().parent.is_dir():
            raise ValueError(f"--predictions {path} must be a name that ends in .npz, in a folder that exists.")
        check_output("--predictions", path)

    import jax

    from unireplknet_jax.tasks.checkpoint import open_checkpoint
    from unireplknet_jax.tasks.predict import require_classifier, with_image_size
    from unireplknet_jax.train.distributed import join
    from unireplknet_jax.train.evaluate import evaluate

    join()
    checkpoint = in_form(open_checkpoint(args.checkpoint), args.form)
    require_classifier(checkpoint)
    print_notes(with_image_size(checkpoint, checkpoint.path)[1])
    data = data_of(args, checkpoint.data, "eval_split", "test")
    split = checkpoint.task.open(data, data["split"])
    batch_size = 32 * jax.device_count() if args.batch_size is None else args.batch_size
    with naming_remedy("--broken skip"):
        metrics = evaluate(
            checkpoint.task,
            checkpoint.variables,
            checkpoint.task.examples(split, train=False),
            batch_size,
            deploy=checkpoint.merged,
            num_threads=threads_of(args),
            workers=args.workers,
            predictions=args.predictions,
            keys=checkpoint.task.shape_keys(split),
        )
    if jax.process_index():  # what all processes would print process 0 prints
        return
    form = "merged" if checkpoint.merged else "training"
    if args.json:
        print_json({"checkpoint": args.checkpoint, "form": form, "data": data, "metrics": metrics})
        return
    print(f"{args.checkpoint}, {form} form, on {data['name']}, split {data['split']}")
    units = checkpoint.task.units
    print_table(
        ["metric", "value", "unit"], [[name, f"{value:.6g}", units.get(name)] for name, value in metrics.items()]
    )
