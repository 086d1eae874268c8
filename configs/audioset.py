"""AudioSet: 527 kinds of sound, several to a clip of ten seconds.

    unireplknet train --config audioset.py:balanced --config.data.dir=/data/audioset --workdir runs/audioset

The folder holds class_labels_indices.csv, AudioSet's CSV file of each split, and beside it a folder of that name with
the clips, YTID.wav or .flac: unbalanced_train_segments.csv, unbalanced_train_segments/..., and the same for
balanced_train_segments and eval_segments. Clips that are gone from YouTube are counted in the log. Arguments:
- full: 2,041,789 clips, drawn by the inverse frequency of their classes, 5 epochs (AST's list has the
  balanced ones, too).
- balanced: 22,160 clips, 25 epochs.
- runlocal: a minute on a CPU: ten tones in noise, made up on the spot.

The journal version reports 48.5 mAP for UniRepLKNet-S on the full set, without a word or a line of code on how:
learning rate, epochs, augmentation and starting weights are unpublished. The values are those of AST for this set (its
egs/audioset: Adam, learning rates, halving, mixup, masks, statistics of the features, start from ImageNet), which has
45.9; the batch of 12 is theirs, too. Not trained by us: the clips cannot be had here. AST's average of
the last checkpoints is not made; --config.ema.decay=0.999 is the nearest thing.
"""

from ml_collections.config_dict import placeholder

from unireplknet_jax.data.sounds.sets import TONES
from unireplknet_jax.models.zoo import find_weights
from unireplknet_jax.train.recipe import base_config

ARGUMENTS = ("full", "balanced", "runlocal")


def get_config(arg="full"):
    """The recipe for one of ARGUMENTS."""
    if arg not in ARGUMENTS:
        raise ValueError(f"configs/audioset.py takes one of {', '.join(ARGUMENTS)}, not {arg!r}.")
    config = base_config()
    config.init = find_weights("unireplknet_s", "in1k_224").file
    config.task.name = "audio"
    config.task.options = {
        "model": {
            "name": "unireplknet_s",
            "num_classes": 527,
            "drop_path_rate": 0.4,
            "bn_group": placeholder(int),  # all examples of the batch share statistics
            "dtype": "bfloat16",
            "impl": "auto",  # the form of depthwise convolution, as in ops.depthwise
            "remat": False,
        },
        "frames": 1024,
        "mels": 128,
        "mean": -4.2677393,
        "std": 4.5689974,
        "seconds": 0.0,
        "loss_kind": "bce",
        "multilabel": True,
        "balance": arg != "balanced",
        "mixup": 0.5,
        "freq_mask": 48,
        "time_mask": 192,
        "noise": 0.0,
        "roll": 0,
    }
    config.data.update({"name": "csv", "eval_split": "eval_segments", "num_threads": 16})
    config.data.train_split = f"{'balanced' if arg == 'balanced' else 'unbalanced'}_train_segments"
    config.batch_size = 12
    config.eval_batch_size = 48
    config.optim.update({"name": "adam", "b1": 0.95, "weight_decay": 5e-7, "decay_rule": "all"})
    config.optim.update({"schedule": "multistep", "milestone_factor": 0.5, "warmup_steps": 1000})
    if arg == "balanced":
        config.data.train_examples = 22_160
        config.epochs = 25
        config.optim.update({"lr": 5e-5, "milestones": (10, 15, 20, 25)})
    else:
        config.data.train_examples = 2_041_789
        config.epochs = 5
        config.eval_every_epochs = 0.5
        config.optim.update({"lr": 1e-5, "milestones": (2, 3, 4, 5)})
    return _run_locally(config) if arg == "runlocal" else config


def _run_locally(config):
    config.init = ""
    config.task.labels = TONES
    config.task.options.update({"frames": 64, "mels": 64, "time_mask": 12, "freq_mask": 12})
    config.task.options.model = {
        "depths": (1, 1, 1, 1),
        "dims": (16, 32, 64, 128),
        "kernel_sizes": ((3,), (13,), (13,), (13,)),
        "num_classes": 10,
        "layer_scale_init": 1.0,
    }
    config.data.update({"name": "tones", "train_split": "train", "eval_split": "test", "train_examples": 400})
    config.batch_size = 40
    config.eval_batch_size = 40
    config.epochs = 2
    config.eval_every_epochs = 1
    config.log_every = 5
    config.optim.update({"lr": 1e-3, "warmup_epochs": 0.5, "warmup_steps": 0})
    return config
