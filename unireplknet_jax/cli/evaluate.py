"""`evaluate`: the metrics of a checkpoint on a data set."""

import argparse
import pathlib
import sys

from unireplknet_jax.cli.data import add_data_arguments, check_data_arguments, data_of, threads_of
from unireplknet_jax.cli.form import NAMES, add_form_argument, add_views_arguments, in_form, views_of
from unireplknet_jax.cli.output import check_output, naming_remedy, print_json, print_notes, print_table

_MOST_CLASSES = 20  # that are printed one by one
_WORST = 10  # of more

EXAMPLES = (
    "evaluate runs/flowers/best",
    "evaluate runs/flowers/best --split test --confusion confusion.png",
    "evaluate unireplknet_a --data folder --data-dir imagenet --split val",
    "evaluate runs/streets/best --mode slide",
)


def add_arguments(parser):
    parser.add_argument("checkpoint", metavar="CHECKPOINT", help=f"any checkpoint with a classifier: {NAMES}")
    add_data_arguments(parser, "test")
    parser.add_argument(
        "--predictions",
        metavar="OUT.npz",
        help="save what is predicted for every example; of objects, as OUT.json in COCO's form of results",
    )
    parser.add_argument(
        "--confusion",
        action="append",
        default=[],
        metavar="OUT.csv",
        help="write how often each class was taken for each: a table, or as OUT.png a picture; may be given twice",
    )
    parser.add_argument("--json", action="store_true", help="print a JSON document instead of a table")
    add_views_arguments(parser)
    parser.add_argument(
        "--evaluator",
        type=lambda name: name.replace("-", "_"),
        metavar="NAME",
        help="of objects: who computes COCO's metrics, pycocotools (default) or faster-coco-eval, with equal numbers",
    )
    add_form_argument(parser)


def run(args):
    check_data_arguments(args)
    if args.predictions:
        path = pathlib.Path(args.predictions)
        if path.suffix not in (".npz", ".json") or not path.absolute().parent.is_dir():
            raise ValueError(
                f"--predictions {path} must be a name that ends in .npz or .json, in a folder that exists."
            )
        check_output("--predictions", path)
    for name in args.confusion:
        if pathlib.Path(name).suffix.lower() not in (".csv", ".png"):
            raise argparse.ArgumentError(None, f"--confusion is {name}; expected a name that ends in .csv or .png.")
        check_output("--confusion", name)

    import jax

    from unireplknet_jax.tasks.checkpoint import open_checkpoint
    from unireplknet_jax.tasks.predict import require_classifier, with_image_size, with_views
    from unireplknet_jax.train.confusion import Confusion
    from unireplknet_jax.train.distributed import join
    from unireplknet_jax.train.evaluate import evaluate
    from unireplknet_jax.train.sharding import make_mesh
    from unireplknet_jax.train.step import make_runtime_step

    join()
    checkpoint = open_checkpoint(args.checkpoint)
    require_classifier(checkpoint)
    if args.predictions and checkpoint.task.outcomes_of == "pixels":
        raise ValueError("leave out --predictions: maps of pixels are written by `unireplknet predict --save DIR`.")
    if args.predictions and path.suffix == ".json":
        checkpoint.task.results([])  # which refuses where there is no such form
    if args.confusion and not checkpoint.task.has_outcomes:
        name = checkpoint.task.name
        raise ValueError(f"leave out --confusion: the examples of the task {name} do not have one class each.")
    checkpoint = with_views(checkpoint, views_of(args))
    print_notes(with_image_size(checkpoint, checkpoint.path)[1])
    data = data_of(args, checkpoint.data, "eval_split", "test")
    split = checkpoint.task.open(data, data["split"])
    own = (checkpoint.data or {}).get("train_split", "train")
    split, notes = checkpoint.task.compared(split, lambda: checkpoint.task.open(data, own))
    print_notes(notes)
    examples, keys = checkpoint.task.examples(split, train=False), checkpoint.task.shape_keys(split)
    checkpoint = in_form(checkpoint, args.form)  # once the data are there: it takes a while
    outcomes = [] if checkpoint.task.has_outcomes else None
    batch_size = checkpoint.task.together * jax.device_count() if args.batch_size is None else args.batch_size
    mesh, step = make_mesh(), None
    if checkpoint.runtime is not None:
        step = make_runtime_step(checkpoint.task, mesh, checkpoint.runtime)
    with naming_remedy("--broken skip"):
        metrics = evaluate(
            checkpoint.task,
            checkpoint.variables,
            examples,
            batch_size,
            mesh=mesh,
            deploy=checkpoint.merged,
            eval_step=step,
            num_threads=threads_of(args),
            workers=args.workers,
            predictions=args.predictions,
            outcomes=outcomes,
            keys=keys,
        )
    if jax.process_index():  # what all processes would print process 0 prints
        return
    confusion, counted = None, checkpoint.task.outcomes_of
    if outcomes is not None:
        confusion = Confusion(outcomes, checkpoint.task.labels or split.source.labels)
    for name in args.confusion:
        (confusion.draw if name.lower().endswith(".png") else confusion.write_csv)(name)
    form = "merged" if checkpoint.merged else "training"
    if args.json:
        document = {"checkpoint": args.checkpoint, "form": form, "data": data, "metrics": metrics}
        rows = [row._asdict() for row in confusion.classes()] if confusion else []
        rows = [{counted if name == "examples" else name: value for name, value in row.items()} for row in rows]
        print_json(document | ({"classes": rows} if confusion else {}))
        return
    print(f"{args.checkpoint}, {form} form, on {data['name']}, split {data['split']}")
    units, whole = checkpoint.task.units, {name: value for name, value in metrics.items() if "/" not in name}
    print_table(["metric", "value", "unit"], [[name, f"{value:.6g}", units.get(name)] for name, value in whole.items()])
    parts = _parts(metrics)
    of_classes = _taken_out(parts, confusion.labels) if confusion else {}
    for columns, rows in parts.items():
        print()
        print_table(["of", *columns], [[part, *(f"{value:.4g}" for value in row)] for part, row in rows.items()])
    if confusion:
        _print_classes(confusion.classes(), counted, of_classes, units)
    for name in args.confusion:
        print(f"wrote {name}", file=sys.stderr)


def _parts(metrics):
    """{("mse", "rmse"): {"lead 1": (1.0, 1.0), ...}, ...}: the metrics of parts, "mse/lead 1", as tables."""
    parts, tables = {}, {}
    for name, value in metrics.items():
        metric, _, part = name.partition("/")
        if part:
            parts.setdefault(part, {})[metric] = value
    for part, own in parts.items():
        tables.setdefault(tuple(own), {})[part] = tuple(own.values())
    return tables


def _taken_out(parts, labels):
    """{metric: {label: value}}: what stands in the tables of `_parts` that are of classes; they are taken out."""
    found = {}
    for columns in [columns for columns, rows in parts.items() if {*rows} <= {*labels}]:
        for label, row in parts.pop(columns).items():
            for metric, value in zip(columns, row, strict=True):
                found.setdefault(metric, {})[label] = value
    return found


def _print_classes(classes, counted, of_classes, units):
    """The accuracy and other metrics of each class; of many, those that fared worst by the first, the worst first."""
    of_classes = {metric: values for metric, values in of_classes.items() if metric != "acc"}  # which is the accuracy
    shown = classes
    if len(classes) > _MOST_CLASSES:
        first = next(iter(of_classes.values()), {})
        shown = sorted(classes, key=lambda row: (first.get(row.label, row.accuracy), -row.examples))[:_WORST]
        print(f"\nThe {_WORST} classes of {len(classes):,} that fared worst; --json has all, --confusion all mistakes.")
    else:
        print()
    print_table(
        [
            *("class", counted),
            *(" ".join([metric, units.get(metric, "")]).strip() for metric in of_classes),
            *("accuracy %", "most often taken for"),
        ],
        [
            [
                row.label,
                row.examples,
                *(f"{values[row.label]:.1f}" for values in of_classes.values()),
                f"{row.accuracy:.1f}",
                row.mistaken_for and f"{row.mistaken_for} ({row.mistakes:,})",
            ]
            for row in shown
        ],
    )
    present = {row.label for row in classes}
    for metric, values in of_classes.items():
        absent = [label for label, value in values.items() if label not in present and value == value]
        if absent:
            print(f"\nFound, but not in the data, with an {metric} of 0, which is in the mean: {', '.join(absent)}")
