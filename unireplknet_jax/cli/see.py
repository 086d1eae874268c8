"""`see`: what a checkpoint looks at, drawn: its effective receptive field, and what in a picture is for a class."""

import contextlib
import pathlib
import sys

from unireplknet_jax.cli.form import NAMES, add_form_argument, add_image_size_argument, check_image_size, in_form
from unireplknet_jax.cli.output import check_output, print_file_error, print_json, print_notes, print_table
from unireplknet_jax.cli.predict import inputs_help

EXAMPLES = (
    "see unireplknet_a photos --output seen.png",
    "see runs/flowers/best rose.jpg --class tulip",
    "see runs/birds/best 'recordings/**/*.wav' --output seen",
)

_NUMBERS = "receptive_field.npy"  # by which a folder is known to be of this command
_EXPLAINED = "what the network saw, and in colour, red most, what of it speaks for the class (Grad-CAM)"
_MOST_DRAWN = 100  # in one picture: all of them have to be in memory


def add_arguments(parser):
    parser.add_argument(
        "checkpoint", metavar="CHECKPOINT", help=f"any checkpoint whose network sees an input as one picture: {NAMES}"
    )
    parser.add_argument("inputs", nargs="+", metavar="INPUT", help=inputs_help)
    parser.add_argument(
        "--output",
        default="see.png",
        metavar="OUT",
        help="ends in .png: one picture; anything else: a folder, a picture for each file (default: %(default)s)",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace a folder that this command wrote")
    parser.add_argument(
        "--class", dest="label", metavar="NAME", help="what speaks for this class (default: the likeliest of each file)"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON document instead of tables")
    add_image_size_argument(parser)
    parser.add_argument("--labels", metavar="FILE", help="the class names, one a line")
    add_form_argument(parser)


def run(args):
    from unireplknet_jax.tasks.checkpoint import open_checkpoint
    from unireplknet_jax.tasks.predict import with_image_size, with_labels
    from unireplknet_jax.tasks.see import ReceptiveField, looker, see_files
    from unireplknet_jax.tasks.sources import files_of

    check_image_size(args.image_size)
    _check_output(args, args.inputs)
    checkpoint = open_checkpoint(args.checkpoint)
    checkpoint, notes = with_image_size(checkpoint, checkpoint.path, args.image_size)
    checkpoint, more_notes = with_labels(checkpoint, checkpoint.path, args.labels)
    files, passed_over = files_of(checkpoint.task, args.inputs)
    _check_output(args, files)
    print_notes(notes + more_notes + passed_over)
    checkpoint = in_form(checkpoint, args.form)
    network = looker(checkpoint, args.label)
    field, results, errors, undrawn, sample = ReceptiveField(), [], [], 0, None
    with _drawings(args, len(files)) as draw:
        for sight in see_files(checkpoint, files, args.label, network):
            if sight.error:
                errors.append({"file": sight.source, "error": sight.error})
                print_file_error("see", sight)
                continue
            field.add(sight)
            sample = sample or sight
            undrawn += sight.activation is None and sight.label is not None
            results.append({"file": sight.source, "class": sight.label, "index": sight.index, "score": sight.score})
            draw.sight(sight)
        if field.count:
            draw.field(field, args.checkpoint, sample.seen.axes)
    if undrawn:
        height, width = field.values.shape
        print_notes(
            [
                f"inputs of {width} x {height} pixels leave one position in the last map, so nothing tells where the "
                "evidence for a class is; a larger --image-size does."
            ]
        )
    _report(args, checkpoint, field, results, errors)
    return 1 if errors else 0


def _check_output(args, inputs):
    path = pathlib.Path(args.output)
    if path.suffix.lower() == ".png":
        check_output("--output", path, [each for each in inputs if pathlib.Path(each).name == path.name])
        return
    if path.is_file():
        raise FileExistsError(f"--output {path} is a file; give the name of a folder, or one that ends in .png.")
    if path.is_dir() and any(path.iterdir()):
        if not (path / _NUMBERS).exists():
            raise FileExistsError(f"--output {path} exists and holds other things; choose another folder.")
        if not args.overwrite:
            raise FileExistsError(f"--output {path} exists; choose another folder, or give --overwrite.")
    if path.resolve() in [parent for source in inputs for parent in pathlib.Path(source).resolve().parents]:
        raise ValueError(f"--output {path} is a folder of an input; choose another name.")
    if not path.absolute().parent.is_dir():
        raise FileNotFoundError(f"the folder of --output {path} does not exist; create it first.")


@contextlib.contextmanager
def _drawings(args, count):
    """What takes drawings one after the other and writes them, all or none."""
    from unireplknet_jax.data.files import staging, whole_file

    path = pathlib.Path(args.output)
    if path.suffix.lower() == ".png":
        sheet = _Sheet(count)
        yield sheet
        if sheet.pictures:
            with whole_file(path) as part:
                sheet.write(part)
    else:  # which is made when there is something to put into it
        with contextlib.ExitStack() as stack:
            yield _Folder(lambda: stack.enter_context(staging(path, replace=args.overwrite)))


class _Sheet:
    """One picture: the receptive field, and below it the inputs."""

    def __init__(self, count):
        self.pictures, self._count, self._first = [], count, []

    def sight(self, sight):
        from unireplknet_jax.tasks.drawing import FULL, WIDE
        from unireplknet_jax.tasks.see_plot import draw_sight

        if sight.label is not None and len(self.pictures) < _MOST_DRAWN:
            self.pictures.append(draw_sight(sight, FULL if self._count == 1 else WIDE))

    def field(self, field, name, axes):
        from unireplknet_jax.tasks.drawing import heading, tile
        from unireplknet_jax.tasks.see_plot import draw_field

        drawn = [heading(_EXPLAINED), tile(self.pictures)] if self.pictures else []
        self.pictures = [draw_field(field, name, axes), *drawn]
        if field.count > _MOST_DRAWN:
            print_notes([f"the first {_MOST_DRAWN} of {field.count:,} inputs are drawn; a folder takes all of them."])

    def write(self, path):
        from PIL import Image

        width = max(picture.width for picture in self.pictures)
        sheet = Image.new("RGB", (width, sum(picture.height for picture in self.pictures)), "white")
        top = 0
        for picture in self.pictures:
            sheet.paste(picture, ((width - picture.width) // 2, top))
            top += picture.height
        sheet.save(path)


class _Folder:
    """A folder: receptive_field.png, its numbers, and a picture of each input."""

    def __init__(self, make):
        self._make, self._folder, self._count = make, None, 0

    def _path(self, name):
        self._folder = self._folder or self._make()
        return self._folder / name

    def sight(self, sight):
        from unireplknet_jax.tasks.drawing import FULL
        from unireplknet_jax.tasks.see_plot import draw_sight

        self._count += 1
        if sight.label is not None:
            stem = pathlib.Path(sight.source).stem.encode("utf-8", "replace").decode()[:60]
            draw_sight(sight, FULL).save(self._path(f"{self._count:04d}_{stem}.png"))

    def field(self, field, name, axes):
        import numpy as np

        from unireplknet_jax.tasks.see_plot import draw_field

        draw_field(field, name, axes).save(self._path("receptive_field.png"))
        np.save(self._path(_NUMBERS), field.values)


def _report(args, checkpoint, field, results, errors):
    squares = field.squares() if field.count else []
    if args.json:
        height, width = field.values.shape
        facts = {"inputs": field.count, "size": [height, width], "middle": field.middle, "squares": squares}
        print_json(
            {
                **{"checkpoint": args.checkpoint, "task": checkpoint.task.name},
                **{"receptive_field": facts if field.count else None, "results": results, "errors": errors},
            }
        )
    elif field.count:
        height, width = field.values.shape
        inputs = "1 input" if field.count == 1 else f"{field.count:,} inputs"
        print(f"Effective receptive field over {inputs} of {width} x {height} pixels: the squares around the pixel")
        print(f"{field.middle[1]}, {field.middle[0]} that hold a share of the contribution.")
        columns = ["share", "side in pixels", "of the area", "side by RepLKNet's script"]
        print_table(columns, [_cells(row) for row in squares])
        if results[0]["class"] is not None:
            print()
            print_table(["file", "class", "score"], [[row["file"], row["class"], row["score"]] for row in results])
    if field.count:
        print(f"drew {args.output}", file=sys.stderr)


def _cells(row):
    area = row["area"] and f"{100 * row['area']:.1f} %"
    return [f"{100 * row['share']:.0f} %", row["side"], area, row["side_of_logarithm"]]
