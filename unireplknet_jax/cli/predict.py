"""`predict`: what a checkpoint sees in files, as text, as JSON, as a table and as one picture."""

import argparse
import contextlib
import csv
import os
import pathlib
import sys

from unireplknet_jax.cli.form import (
    NAMES,
    add_form_argument,
    add_image_size_argument,
    add_objects_arguments,
    add_views_arguments,
    check_image_size,
    in_form,
    views_of,
)
from unireplknet_jax.cli.output import Progress, check_output, print_file_error, print_json, print_notes, print_table

EXAMPLES = (
    "predict runs/flowers/best rose.jpg",
    "predict unireplknet_a photos --csv found.csv --top 1",
    "predict runs/birds/best 'recordings/**/*.wav' --json",
    "predict runs/flowers/best photos --draw found.png",
    "predict runs/streets/best photos --save masks --scales 0.5,1.0,1.5 --mirror",
    "predict runs/trees/best aerial.tif --draw found.png --tile 1024 --score 0.5",
    "predict runs/trees/best flight.mp4 --draw found.mp4 --csv found.csv",
)


def add_arguments(parser):
    parser.add_argument("checkpoint", metavar="CHECKPOINT", help=f"any checkpoint with a classifier: {NAMES}")
    parser.add_argument("inputs", nargs="+", metavar="INPUT", help=inputs_help)
    parser.add_argument("--top", type=int, default=5, metavar="N", help="show the N best (default: %(default)s)")
    parser.add_argument("--json", action="store_true", help="print one JSON document instead of text")
    parser.add_argument("--csv", metavar="OUT.csv", help="write a table instead of text, a row for each file")
    parser.add_argument(
        "--draw",
        metavar="OUT.png",
        help="draw inputs and predictions into one picture; the frames of one file as OUT.mp4",
    )
    parser.add_argument(
        "--save",
        metavar="DIR",
        help="write the mask that is found in each file, by its name, as PNG; of frames in a folder of the file's name",
    )
    add_image_size_argument(parser)
    add_views_arguments(parser)
    add_objects_arguments(parser)
    parser.add_argument("--labels", metavar="FILE", help="the class names, one a line")
    add_form_argument(parser)


_MOST_DRAWN = 400  # in one picture, which is as large as a screen can show and memory hold
_DRAWN = (".png", ".mp4")
inputs_help = 'files, folders with all that is below them, and patterns in quotes such as "photos/**/*.jpg"'


def run(args):
    from unireplknet_jax.tasks.predict import predict_files, shown
    from unireplknet_jax.tasks.sources import has_parts

    _check(args, args.inputs)
    checkpoint, files = _opened(args)
    task, results, errors, count, last = checkpoint.task, [], [], 0, None
    in_parts = [has_parts(task, file) for file in files]
    _check_drawing(args.draw, files, in_parts)
    masks = _mask_files(args.save, task, files, in_parts)
    checkpoint = in_form(checkpoint, args.form)
    speaks = not (args.json or args.csv)
    progress = None if speaks else Progress(*((None, "frames") if any(in_parts) else (len(files), "files")))
    with _table(args.csv, task, args.top, any(in_parts)) as table, _drawing(args.draw, task) as draw:
        for done, prediction in enumerate(predict_files(checkpoint, files), 1):
            table(prediction)
            if progress:
                progress(done)
            if prediction.error:
                errors.append({"file": prediction.source, "error": prediction.error})
                print_file_error("predict", prediction)
                continue
            if masks:
                count += _save_mask(masks[prediction.place], in_parts[prediction.place], task, prediction)
            draw(prediction)
            if args.csv and not args.json:
                continue  # there may be a million of them
            records = _printable(shown(task, prediction.records, args.top))
            if not args.json:
                _print_result(None if prediction.place == last else prediction.source, records)
            elif prediction.place == last:
                results[-1]["records"] += records
            else:
                results.append({"file": prediction.source, "records": records})
            last = prediction.place
    if args.json:
        print_json({"checkpoint": args.checkpoint, "task": task.name, "results": results, "errors": errors})
    if args.csv:
        given = "1 file" if len(files) == 1 else f"{len(files):,} files"
        without = "with an error" if any(in_parts) else "without a result"
        print(f"wrote {args.csv}: {given}, {len(errors):,} {without}", file=sys.stderr)
    if masks:
        print(f"wrote {count:,} masks below {args.save}", file=sys.stderr)
    return 1 if errors else 0


def _opened(args):
    """(the checkpoint, for inputs as they are wanted, and the files)."""
    from unireplknet_jax.tasks.checkpoint import open_checkpoint
    from unireplknet_jax.tasks.predict import require_classifier, with_image_size, with_labels, with_views
    from unireplknet_jax.tasks.sources import files_of

    checkpoint = open_checkpoint(args.checkpoint)
    require_classifier(checkpoint)
    checkpoint = with_views(checkpoint, views_of(args))
    checkpoint, notes = with_image_size(checkpoint, checkpoint.path, args.image_size)
    checkpoint, more_notes = with_labels(checkpoint, checkpoint.path, args.labels)
    files, passed_over = files_of(checkpoint.task, args.inputs)
    _check(args, files)
    print_notes(notes + more_notes + passed_over)
    return checkpoint, files


@contextlib.contextmanager
def _drawing(path, task):
    """A function that draws a prediction: frame by frame, where the path is that of such a file, or on one sheet."""
    if path is None:
        yield lambda prediction: None
        return
    pictures = []

    def drawn(prediction):
        return task.draw(prediction.examples, prediction.records)

    if path.lower().endswith(_DRAWN[1]):
        from unireplknet_jax.data.clips.writing import frame_file

        with frame_file(path) as append:
            yield lambda prediction: append(drawn(prediction), prediction.records[0]["time"])
    else:
        from unireplknet_jax.data.files import whole_file
        from unireplknet_jax.tasks.drawing import tile

        yield lambda prediction: pictures.append(drawn(prediction))
        pictures = [picture for picture in pictures if picture is not None]
        if not pictures:
            return
        with whole_file(path) as part:
            tile(pictures).save(part)
    print(f"drew {path}", file=sys.stderr)


def _printable(records):
    """Records without their arrays, maps of a picture's size."""
    return [{name: value for name, value in record.items() if not hasattr(value, "dtype")} for record in records]


def _mask_files(folder, task, files, in_parts):
    """The PNG file for the mask of each input, in folders as the inputs are below the one they share; None: none.

    For an input with parts it is the folder of their files, which is called as the input is.
    Raises ValueError for a task without masks, for two inputs whose masks would have one name, and for masks that would
    overwrite inputs.
    """
    if folder is None:
        return None
    if not task.has_masks:
        raise ValueError(f"the task {task.name} finds no masks; leave out --save.")
    paths = [pathlib.Path(file).absolute() for file in files]
    shared = pathlib.Path(os.path.commonpath([path.parent for path in paths]))
    masks = [pathlib.Path(folder) / path.relative_to(shared) for path in paths]
    masks = [mask if parts else mask.with_suffix(".png") for mask, parts in zip(masks, in_parts, strict=True)]
    first = {}
    for file, mask in zip(files, masks, strict=True):
        if first.setdefault(mask, file) != file:
            raise ValueError(f"the masks of {first[mask]} and {file} would both be {mask}; predict them one by one.")
    taken = {path.resolve() for path in paths} & {mask.resolve() for mask in masks}
    if taken:
        raise ValueError(f"--save {folder} would overwrite the input {min(taken)}; choose another folder.")
    if pathlib.Path(folder).exists() and not pathlib.Path(folder).is_dir():
        raise NotADirectoryError(f"--save {folder} is a file; give a folder.")
    return masks


def _save_mask(path, in_parts, task, prediction):
    """Write the mask of a prediction, of a part below the path by its number; returns how many files that are."""
    (record,) = prediction.records
    path = path / f"{record['frame']:06d}.png" if in_parts else path
    path.parent.mkdir(parents=True, exist_ok=True)
    task.save_mask(path, record)
    return 1


def _check(args, inputs):
    if args.top < 1:
        raise argparse.ArgumentError(None, f"--top is {args.top}; expected 1 or more.")
    check_image_size(args.image_size)
    for flag, name, endings in (("--draw", args.draw, _DRAWN), ("--csv", args.csv, (".csv",))):
        if name:
            path = pathlib.Path(name)
            if path.suffix.lower() not in endings:
                expected = " or ".join(endings)
                raise argparse.ArgumentError(None, f"{flag} is {name}; expected a name that ends in {expected}.")
            if flag == "--draw" and len(inputs) > _MOST_DRAWN:
                raise ValueError(f"--draw takes {_MOST_DRAWN} files at most, not {len(inputs):,}; give fewer of them.")
            check_output(flag, path, [each for each in inputs if pathlib.Path(each).name == path.name])


def _check_drawing(path, files, in_parts):
    """Raise ValueError where a name of --draw is of another kind than what the files need."""
    if path is None:
        return
    frames = [file for file, parts in zip(files, in_parts, strict=True) if parts]
    if path.lower().endswith(_DRAWN[1]):
        if len(files) > 1 or not frames:
            raise ValueError(f"--draw {path} takes one file of frames; give it alone, or a name that ends in .png.")
    elif frames:
        raise ValueError(f"--draw {path} is one picture; for the frames of {frames[0]} give a name that ends in .mp4.")


@contextlib.contextmanager
def _table(path, task, top, in_parts):
    """A function that writes the rows of a prediction to a CSV file, which appears whole or not at all; None: none.

    in_parts: whether there are inputs with parts, whose rows begin with their numbers and times.
    """
    if path is None:
        yield lambda prediction: None
        return
    from unireplknet_jax.data.files import whole_file

    columns = task.table_columns(top)
    with (
        whole_file(path) as part,
        part.open("w", encoding="utf-8", errors="surrogateescape", newline="") as file,  # names of files are bytes
    ):
        writer = csv.writer(file, lineterminator="\n")
        places = ("frame", "time") if in_parts else ()
        writer.writerow(["file", *places, *columns, "error"])

        def write(prediction):
            rows = [] if prediction.error else task.table_rows(prediction.records, top)
            first = prediction.records[0] if prediction.records else {}
            place = [_cell(first.get(name, "")) for name in places]
            for row in rows or [("",) * len(columns)]:
                writer.writerow([prediction.source, *place, *map(_cell, row), prediction.error or ""])

        yield write


def _cell(value):
    """Six digits of a number, which is more than any network knows, nothing for none."""
    if isinstance(value, float):
        return "" if value != value else f"{value:.6g}"
    return value


def _in_line(value):
    """A cell, a list of numbers as a short text."""
    return " ".join(f"{number:.1f}" for number in value) if isinstance(value, list) else value


def _print_result(file, records):
    """Print records below the name of their file; None: it stands there already."""
    if file is not None:
        print(file)
    for record in records:
        tables = [name for name, value in record.items() if isinstance(value, list)]
        for name, value in record.items():
            if isinstance(value, list) and value and isinstance(value[0], dict):
                if len(tables) > 1:
                    print(f"{name}:")
                columns = [column for column, cell in value[0].items() if not isinstance(cell, dict)]  # masks
                print_table(columns, [[_in_line(row[column]) for column in columns] for row in value])
            else:
                print(f"{name}: {value}")
    print(flush=True)
