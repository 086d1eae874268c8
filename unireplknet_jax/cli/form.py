"""How a command applies a checkpoint: merged, unless the other form is asked for, and to inputs as they are wanted."""

import argparse

FORMS = ("merged", "training")
NAMES = "its path, a published name such as unireplknet_a, hf-hub:USER/REPO or gs://BUCKET/PATH"


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
