"""The published recipes, as tests load them."""

from pathlib import Path

from unireplknet_jax.cli.train import load_config
from unireplknet_jax.data.audio_sets import TONES
from unireplknet_jax.data.moving_shapes import MOTIONS
from unireplknet_jax.data.solids import KINDS
from unireplknet_jax.train.recipe import completed

CONFIGS = Path(__file__).parents[1] / "configs"
FILES = sorted(path.stem for path in CONFIGS.glob("*.py"))
# Of every task: the data of `:runlocal`, and what they are labelled with.
MADE_UP = {
    "audio": ("tones", TONES),
    "classification": ("digits", tuple("0123456789")),
    "forecasting": ("waves", tuple(f"buoy {index}" for index in range(12))),
    "points": ("solids", KINDS),
    "video": ("moving_shapes", tuple(MOTIONS)),
}


def load(recipe, *overrides):
    """The recipe "NAME[:ARG]" as the command reads it."""
    name, colon, arg = recipe.partition(":")
    return completed(load_config(f"{CONFIGS / name}.py{colon}{arg}", list(overrides)))
