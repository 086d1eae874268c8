"""`predict`: what a checkpoint sees in files, as tables, as JSON and as one picture."""

import argparse
import pathlib
import sys

from unireplknet_jax.cli.form import NAMES, add_form_argument, add_image_size_argument, check_image_size, in_form
from unireplknet_jax.cli.output import check_output, print_file_error, print_json, print_notes, print_table


def add_arguments(parser):
    parser.add_argument("checkpoint", metavar="CHECKPOINT", help=f"any checkpoint with a classifier: {NAMES}")
    parser.add_argument("inputs", nargs="+", metavar="INPUT", help="files, for example images of any format")
    parser.add_argument("--top", type=int, default=5, metavar="N", help="show the N best (default: %(default)s)")
    parser.add_argument("--json", action="store_true", help="print one JSON document instead of tables")
    parser.add_argument("--draw", metavar="OUT.png", help="draw inputs and predictions into one picture")
    add_image_size_argument(parser)
    parser.add_argument("--labels", metavar="FILE", help="the class names, one a line")
    add_form_argument(parser)


def run(args):
    from unireplknet_jax.tasks.checkpoint import open_checkpoint
    from unireplknet_jax.tasks.predict import predict_files, require_classifier, shown, with_image_size, with_labels

    _check(args)
    checkpoint = open_checkpoint(args.checkpoint)
    require_classifier(checkpoint)
    checkpoint, notes = with_image_size(checkpoint, checkpoint.path, args.image_size)
    checkpoint, more_notes = with_labels(checkpoint, checkpoint.path, args.labels)
    print_notes(notes + more_notes)
    checkpoint = in_form(checkpoint, args.form)
    results, errors, pictures = [], [], []
    for prediction in predict_files(checkpoint, args.inputs):
        if prediction.error:
            errors.append({"file": prediction.source, "error": prediction.error})
            print_file_error("predict", prediction)
            continue
        if args.draw:
            pictures.append(checkpoint.task.draw(prediction.examples, prediction.records))
        result = {"file": prediction.source, "records": shown(checkpoint.task, prediction.records, args.top)}
        results.append(result)
        if not args.json:
            _print_result(result)
    if args.json:
        print_json({"checkpoint": args.checkpoint, "task": checkpoint.task.name, "results": results, "errors": errors})
    pictures = [picture for picture in pictures if picture is not None]
    if pictures:
        _write_sheet(args.draw, pictures)
    return 1 if errors else 0


def _write_sheet(path, pictures):
    from unireplknet_jax.data.files import whole_file
    from unireplknet_jax.tasks.drawing import tile

    with whole_file(path) as part:
        tile(pictures).save(part)
    print(f"drew {path}", file=sys.stderr)


def _check(args):
    if args.top < 1:
        raise argparse.ArgumentError(None, f"--top is {args.top}; expected 1 or more.")
    check_image_size(args.image_size)
    if args.draw:
        path = pathlib.Path(args.draw)
        if path.suffix.lower() != ".png":
            raise argparse.ArgumentError(None, f"--draw is {args.draw}; expected a name that ends in .png.")
        check_output("--draw", path, args.inputs)


def _print_result(result):
    print(result["file"])
    for record in result["records"]:
        tables = [name for name, value in record.items() if isinstance(value, list)]
        for name, value in record.items():
            if isinstance(value, list) and value and isinstance(value[0], dict):
                if len(tables) > 1:
                    print(f"{name}:")
                print_table(list(value[0]), [list(row.values()) for row in value])
            else:
                print(f"{name}: {value}")
    print(flush=True)
