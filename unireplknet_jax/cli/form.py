"""The form in which a command applies a checkpoint: merged, unless the other one is asked for."""

FORMS = ("merged", "training")


def add_form_argument(parser):
    parser.add_argument(
        "--form",
        choices=FORMS,
        default="merged",
        help="the form to compute in: merged gives the same to rounding, sooner and faster (default: %(default)s)",
    )


def in_form(checkpoint, form):
    """A checkpoint in the form of `--form`; ValueError for a merged one that is wanted as it was trained."""
    if form == "merged":
        return checkpoint.in_merged_form()
    if checkpoint.merged:
        raise ValueError(
            "this checkpoint is merged, and what its branches were can no longer be told: give --form merged."
        )
    return checkpoint
