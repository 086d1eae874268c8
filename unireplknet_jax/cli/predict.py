"""`predict`: what a checkpoint sees in files, as tables, as JSON and as one picture."""

import argparse
import pathlib
import sys

from unireplknet_jax.cli.form import add_form_argument, in_form
from unireplknet_jax.cli.output import print_json, print_notes, print_table


def add_arguments(parser):
    parser.add_argument("checkpoint", metavar="CHECKPOINT", help="any checkpoint with a classifier, in either form")
    parser.add_argument("inputs", nargs="+", metavar="INPUT", help="files, for example images of any format")
    parser.add_argument("--top", type=int, default=5, metavar="N", help="show the N best (default: %(default)s)")
    parser.add_argument("--json", action="store_true", help="print one JSON document instead of tables")
    parser.add_argument("--draw", metavar="OUT.png", help="draw inputs and predictions into one picture")
    parser.add_argument("--image-size", type=int, metavar="N", help="prepare images at N x N pixels")
    parser.add_argument("--labels", metavar="FILE", help="the class names, one a line")
    add_form_argument(parser)


def run(args):
    from unireplknet_jax.tasks.checkpoint import open_checkpoint
    from unireplknet_jax.tasks.predict import predict_files, require_classifier, tile, with_image_size, with_labels

    _check(args)
    checkpoint = open_checkpoint(args.checkpoint)
    require_classifier(checkpoint)
    checkpoint, notes = with_image_size(checkpoint, args.checkpoint, args.image_size)
    checkpoint, more_notes = with_labels(checkpoint, args.checkpoint, args.labels)
    print_notes(notes + more_notes)
    checkpoint = in_form(checkpoint, args.form)
    results, errors, pictures = [], [], []
    for prediction in predict_files(checkpoint, args.inputs):
        if prediction.error:
            errors.append({"file": prediction.source, "error": prediction.error})
            print(f"unireplknet predict: error: {_naming(prediction)}", file=sys.stderr)
            continue
        if args.draw:
            pictures.append(checkpoint.task.draw(prediction.examples, prediction.records))
        top = args.top if checkpoint.task.ranked else None
        result = {"file": prediction.source, "records": [_top(record, top) for record in prediction.records]}
        results.append(result)
        if not args.json:
            _print_result(result)
    if args.json:
        print_json({"checkpoint": args.checkpoint, "task": checkpoint.task.name, "results": results, "errors": errors})
    sheet = tile([picture for picture in pictures if picture is not None])
    if sheet:
        sheet.save(args.draw)
        print(f"drew {args.draw}", file=sys.stderr)
    return 1 if errors else 0


def _check(args):
    if args.top < 1:
        raise argparse.ArgumentError(None, f"--top is {args.top}; expected 1 or more.")
    if args.image_size is not None and args.image_size < 1:
        raise argparse.ArgumentError(None, f"--image-size is {args.image_size}; expected a positive number of pixels.")
    if args.draw:
        path = pathlib.Path(args.draw)
        if path.suffix.lower() != ".png":
            raise argparse.ArgumentError(None, f"--draw is {args.draw}; expected a name that ends in .png.")
        if path.resolve() in [pathlib.Path(source).resolve() for source in args.inputs]:
            raise ValueError(f"--draw {args.draw} would overwrite an input; choose another name.")
        if not path.absolute().parent.is_dir():
            raise FileNotFoundError(f"the folder of --draw {args.draw} does not exist; create it first.")


def _naming(prediction):
    return prediction.error if prediction.source in prediction.error else f"{prediction.source}: {prediction.error}"


def _top(record, count):
    """A record whose lists, best first, hold at most `count` entries; None: all."""
    return {name: value[:count] if isinstance(value, list) else value for name, value in record.items() if name != "id"}


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
