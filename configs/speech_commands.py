"""Speech Commands V2: 35 spoken words, 84,843 + 9,981 + 11,005 sounds of a second.

    unireplknet train --config speech_commands.py --config.data.dir=/data/speech_commands --workdir runs/words
    unireplknet train --config speech_commands.py:synthetic --workdir runs/spoken

The folder holds speech_commands_v0.02.tar.gz (download.tensorflow.org/data), or what it unpacks to. Arguments:
- published: the released script (Audio/egs/speechcommands/run_sc.sh): UniRepLKNet-S from scratch, 100 epochs, Adam with
  a learning rate that falls by 0.85 after every epoch from the fifth on. Published test accuracy: 98.5 %.
- cosine: the same with a cosine schedule after five epochs of warm-up. In the published one the rate is below a
  hundredth of the first from epoch 34 on, and below a thousandth from 48 on: half of the run changes nothing.
- synthetic: the same 35 words spoken by espeak-ng in 44 voices (6,160 sounds), tested on 10 voices never heard before
  (350 sounds), with a network of 0.4 M parameters on 64 x 64 spectrograms: 92.3 % after 6 minutes of CPU time (18
  epochs, seed 0). Made-up speech: a check of the pipeline, not a result to compare.
- runlocal: a minute on a CPU: ten tones in noise, made up on the spot.

As released, except: the network is the one that the paper describes (the released script's ends in 1000 logits and
crashes), the validation loss is taken of logits, half precision is bfloat16, the last, partial batch of an epoch is
dropped. `best/` is chosen by the validation split, as the original chooses its epoch; measure it once on the test:

    unireplknet evaluate runs/words/best --split test

Nobody has trained :published with this code. Hardware: one GPU, as released (all 128 examples of a step share the
statistics of batch norm), or a TPU slice.
"""

from ml_collections.config_dict import placeholder

from unireplknet_jax.data.sounds.sets import COMMANDS, TONES
from unireplknet_jax.train.recipe import base_config

ARGUMENTS = ("published", "cosine", "synthetic", "runlocal")
SMALL = {
    "depths": (1, 1, 2, 1),
    "dims": (16, 32, 64, 128),
    "kernel_sizes": ((3,), (13,), (13, 3), (13,)),
    "layer_scale_init": 1.0,  # 1e-6 is for many thousands of steps
    "drop_path_rate": 0.0,
    "dtype": "float32",
}


def get_config(arg="published"):
    """The recipe for one of ARGUMENTS."""
    if arg not in ARGUMENTS:
        raise ValueError(f"configs/speech_commands.py takes one of {', '.join(ARGUMENTS)}, not {arg!r}.")
    config = base_config()
    config.task.name = "audio"
    config.task.labels = COMMANDS
    config.task.options = {
        "model": {
            "name": "unireplknet_s",
            "num_classes": 35,
            "drop_path_rate": 0.4,
            "bn_group": placeholder(int),  # all examples of the batch share statistics
            "dtype": "bfloat16",
            "impl": "auto",  # the form of depthwise convolution, as in ops.depthwise
            "remat": False,
        },
        "frames": 128,
        "mels": 128,
        "shift": 10.0,
        "mean": -6.845978,
        "std": 5.5654526,
        "fill": 0.0,
        "seconds": 1.0,
        "loss_kind": "bce",
        "mixup": 0.6,
        "freq_mask": 48,
        "time_mask": 48,
        "noise": 0.1,
        "roll": 10,
    }
    config.data.update({"name": "speech_commands", "eval_split": "validation", "train_examples": 84_843})
    config.data.num_threads = 16
    config.batch_size = 128
    config.eval_batch_size = 256
    config.epochs = 100
    config.optim.update({"name": "adam", "lr": 2.5e-4, "b1": 0.95, "weight_decay": 5e-7, "decay_rule": "all"})
    if arg == "cosine":
        config.optim.warmup_epochs = 5
    else:
        config.optim.update({"schedule": "multistep", "milestones": tuple(range(5, 100)), "milestone_factor": 0.85})
    return {"synthetic": _synthetic, "runlocal": _run_locally}.get(arg, lambda config: config)(config)


def _synthetic(config):
    """Small enough for one core: frames every 15.5 ms, so that a second fills 63 of 64."""
    config.task.options.model = {**SMALL, "num_classes": 35, "bn_group": placeholder(int), "impl": "auto"}
    config.task.options.update({"frames": 64, "mels": 64, "shift": 15.5, "freq_mask": 12, "time_mask": 12, "roll": 5})
    # The mean of 35 sigmoids' losses rests at their base rate for hundreds of steps.
    config.task.options.update({"loss_kind": "ce", "mixup": 0.0})
    config.data.update({"name": "synthetic_commands", "eval_split": "test", "train_examples": 6160, "num_threads": 2})
    config.batch_size = 40
    config.eval_batch_size = 56
    config.epochs = 18
    config.eval_every_epochs = 3
    config.log_every = 70
    config.optim.update({"schedule": "cosine", "lr": 3e-3, "b1": 0.9, "warmup_epochs": 1.0})
    return config


def _run_locally(config):
    """The recipe's own schedule, on tones."""
    config = _synthetic(config)
    config.task.labels = TONES
    config.task.options.model.num_classes = 10
    config.data.update({"name": "tones", "eval_split": "test", "train_examples": 400})
    config.batch_size = 40
    config.epochs = 2
    config.eval_every_epochs = 1
    config.log_every = 5
    config.optim.warmup_epochs = 0.5
    return config
