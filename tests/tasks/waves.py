"""A small forecaster of the made-up waves over twelve stations."""

from unireplknet_jax.tasks.forecasting import Forecasting

MODEL = {
    "depths": (0, 1, 0, 1),
    "dims": (4, 4, 4, 8),
    "kernel_sizes": ((), (7,), (), (3,)),
    "layer_scale_init": 1.0,
}
DECODER = {"width": 8, "heads": 2, "hidden": 16, "moving_average": 5}
DATA = {"name": "waves", "dir": "", "train_split": "train", "eval_split": "val", "seed": 0}
SIZES = {"tree": (2, 3), "decoder": DECODER, "history": 12, "label": 6, "horizon": 4}


def make_task(**options):
    """As a recipe states it: what only the data knows is missing."""
    return Forecasting(**{"model": MODEL, **SIZES, **options})
