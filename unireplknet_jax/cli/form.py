"""How a command applies a checkpoint: merged, unless the other form is asked for, and to inputs as they are wanted."""

import argparse
import pathlib

FORMS = ("merged", "training")
NAMES = "its path, a published name such as unireplknet_a, hf-hub:USER/REPO or gs://BUCKET/PATH"
_MOST_EXAMPLES, _MOST_BYTES = 24, 4 * 2**20


def add_form_argument(parser):
    parser.add_argument(
        "--form",
        choices=FORMS,
        default="merged",
        help="the form to compute in: merged gives the same to rounding, sooner and faster (default: %(default)s)",
    )


def add_image_size_argument(parser):
    parser.add_argument("--image-size", type=int, metavar="N", help="prepare images at N x N pixels")


def check_image_size(size):
    """Raise argparse.ArgumentError for a size that is not positive; None is the checkpoint's own."""
    if size is not None and size < 1:
        raise argparse.ArgumentError(None, f"--image-size is {size}; expected a positive number of pixels.")


def add_examples_argument(parser):
    parser.add_argument("--examples", metavar="DIR", help="a folder of pictures that the page offers")


def examples_of(folder):
    """The pictures of a folder that a page is to offer, in memory; () for None, ValueError where it has none."""
    if folder is None:
        return ()
    from unireplknet_jax.data.files import EncodedFile, natural_key
    from unireplknet_jax.data.pictures.decode import SUFFIXES

    paths = [path for path in pathlib.Path(folder).iterdir() if path.name.lower().endswith(SUFFIXES)]
    paths = [path for path in sorted(paths, key=lambda path: natural_key(path.name)) if path.is_file()]
    small = [path for path in paths if path.stat().st_size <= _MOST_BYTES][:_MOST_EXAMPLES]
    if not small:
        raise ValueError(f"--examples {folder} holds no picture of up to {_MOST_BYTES // 2**20} MiB; choose another.")
    return tuple(EncodedFile(path.read_bytes(), path.name) for path in small)


def add_views_arguments(parser):
    parser.add_argument(
        "--scales", type=_numbers, metavar="S,...", help="see each input at these shares of its size, as 0.5,1.0,1.5"
    )
    parser.add_argument("--mirror", action=argparse.BooleanOptionalAction, help="see each input mirrored, too, or not")
    parser.add_argument("--mode", metavar="NAME", help="see each input as a whole (whole) or in windows (slide)")
    parser.add_argument("--tile", type=int, metavar="N", help="find objects in windows of N pixels, at full size")


def add_objects_arguments(parser):
    parser.add_argument("--score", type=float, metavar="S", help="show objects with a higher score (default: 0.3)")
    parser.add_argument("--classes", type=_names, dest="only", metavar="NAME,...", help="show objects of these classes")


def views_of(args):
    """{option of a task: value} of those flags that are given that say how inputs are seen, shown and measured."""
    names = ("scales", "mirror", "mode", "tile", "score", "only", "evaluator")
    given = {name: getattr(args, name, None) for name in names}
    return {name: value for name, value in given.items() if value is not None}


def _numbers(text):
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} must be numbers with commas between them") from None


def _names(text):
    return tuple(name.strip() for name in text.split(",") if name.strip())


def in_form(checkpoint, form):
    """A checkpoint in the form of `--form`; ValueError for a merged one that is wanted as it was trained."""
    if form == "merged":
        return checkpoint.in_merged_form()
    if checkpoint.merged:
        raise ValueError(
            "this checkpoint is merged, and what its branches were can no longer be told: give --form merged."
        )
    return checkpoint
