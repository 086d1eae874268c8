"""The synthetic recipe learns motions from files, by the loop; a single frame tells it nothing."""

from pathlib import Path

import numpy as np
import pytest
from splits import examples_of

from unireplknet_jax.cli.train import load_config
from unireplknet_jax.tasks.checkpoint import open_checkpoint
from unireplknet_jax.train.evaluate import evaluate
from unireplknet_jax.train.loop import train

RECIPE = Path(__file__).parents[2] / "configs" / "kinetics400.py"


class Frozen:
    """The examples of a set whose clips show their first frame all the time."""

    def __init__(self, examples):
        self.examples = examples

    def __len__(self):
        return len(self.examples)

    def __getitem__(self, index):
        example = self.examples[index]
        return {**example, "views": np.repeat(example["views"][:, :1], example["views"].shape[1], axis=1)}


@pytest.mark.slow
def test_motions_are_learnt_and_a_single_frame_gives_chance(tmp_path):
    config = load_config(f"{RECIPE}:synthetic", [f"--config.data.dir={tmp_path / 'shapes'}", "--config.epochs=8"])
    config.optim.warmup_epochs = 1
    metrics = train(config, tmp_path / "run")
    assert metrics["top1"] >= 90
    checkpoint = open_checkpoint(tmp_path / "run" / "model")
    examples = examples_of(checkpoint.task, {**config.data.to_dict()}, "test", train=False)
    frozen = evaluate(checkpoint.task, checkpoint.variables, Frozen(examples), 80)
    assert frozen["top1"] < 12.5 + 3 * 2.2  # chance of 8 classes and three deviations of a mean of 240
