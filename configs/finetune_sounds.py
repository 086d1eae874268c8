"""Fine-tuning of published ImageNet weights on one's own sounds.

    unireplknet train --config finetune_sounds.py:a --config.data.dir=birds --workdir runs/birds

The folder holds a class per folder below train/ and val/ (birds/train/wren/1.wav, ...), files of any rate and number
of channels; its classes become those of the model. The stem's three input channels are summed, the head is new. A file
is cut, or filled up, to `frames` frames of 10 ms: --config.task.options.frames=512 for five seconds. Files that cannot
be read end the run, or are passed over with --config.data.broken=skip. Starting from a network for sounds instead:
--config.init=runs/words/best, if its sizes are the same.

Sizes a f p n t s. Instead of a size:
- small: a network of 0.6 M parameters from scratch on 64 mels, for a hundred to a few thousand sounds on a CPU.
Option after the size:
- runlocal: a minute on a CPU: a small network and ten tones in noise, made up on the spot.

There is no published recipe for this: augmentation as for Speech Commands without mixup, optimizer and layer decay as
in configs/finetune.py. Statistics of the features are those of Speech Commands; others, for example of AudioSet
(-4.2677393, 4.5689974), are --config.task.options.mean and .std. Hardware: one GPU or TPU chip; size a also on a CPU.
"""

from ml_collections.config_dict import placeholder

from unireplknet_jax.configs.common import train_small
from unireplknet_jax.models.zoo import find_weights
from unireplknet_jax.train.recipe import base_config, parse_argument

SIZES = ("a", "f", "p", "n", "t", "s", "small")
OPTIONS = ("runlocal",)


def get_config(arg="a"):
    """The recipe for "SIZE[,OPTION...]"."""
    size, options = parse_argument(arg, SIZES, OPTIONS, "configs/finetune_sounds.py")
    config = base_config()
    if size != "small":
        config.init = find_weights(f"unireplknet_{size}", "in1k_224").file
    config.task.name = "audio"
    config.task.options = {
        "model": {
            "name": f"unireplknet_{size}",
            "num_classes": 0,  # 0: as many as the data has
            "drop_path_rate": 0.1,
            "bn_group": placeholder(int),  # all examples of the batch share statistics
            "dtype": "float32",
            "impl": "auto",  # the form of depthwise convolution, as in ops.depthwise
            "remat": False,
        },
        "frames": 128,
        "mels": 128,
        "mean": -6.845978,
        "std": 5.5654526,
        "seconds": 0.0,
        "channels": "mean",  # what becomes of several; or "first", "loudest"
        "scale": 1.0,  # what files of floats are divided by: 32768 where they hold 16-bit numbers
        "loss_kind": "ce",
        "multilabel": False,
        "balance": False,  # True: rare classes are drawn as often as others
        "mixup": 0.0,
        "freq_mask": 24,
        "time_mask": 24,
        "noise": 0.1,
        "roll": 10,
    }
    config.data.update({"name": "folder", "eval_split": "val", "train_examples": 0})
    config.batch_size = 32
    config.eval_batch_size = 32
    config.epochs = 20
    config.log_every = 10
    config.optim.update({"lr": 1e-4, "warmup_epochs": 1.0, "weight_decay": 1e-8, "layer_decay": 0.8})
    if size == "small":
        config = train_small(config, 60, mels=64, freq_mask=8, time_mask=16)
    return _run_locally(config) if "runlocal" in options else config


def _run_locally(config):
    config.init = ""
    config.task.options.update({"frames": 64, "mels": 64, "time_mask": 12, "freq_mask": 12})
    config.task.options.model = {
        "depths": (1, 1, 1, 1),
        "dims": (16, 32, 64, 128),
        "kernel_sizes": ((3,), (13,), (13,), (13,)),
        "num_classes": 0,
        "layer_scale_init": 1.0,
    }
    config.data.update({"name": "tones", "eval_split": "test", "train_examples": 400})
    config.batch_size = 40
    config.eval_batch_size = 40
    config.epochs = 2
    config.log_every = 5
    config.optim.update({"lr": 1e-3, "warmup_epochs": 0.5, "layer_decay": 1.0})
    return config
