"""Small pictures, trained from scratch on one laptop: a UniRepLKNet with 13x13 kernels in its three upper stages.

    unireplknet train --config configs/small_images.py:digits --workdir runs/digits
    unireplknet train --config configs/small_images.py:fashion_mnist --workdir runs/fashion_mnist

| argument | data | examples | parameters | test accuracy | CPU time, 2 cores |
|---|---|---|---|---|---|
| digits | handwritten digits bundled with scikit-learn | 1,437 + 360 | 0.39 M | 98.9 % (3 seeds) | 2 min |
| fashion_mnist | Debian package dataset-fashion-mnist, or TFDS | 60,000 + 10,000 | 0.39 M | 91.2 % | 15 min |

No published UniRepLKNet recipe exists for sets of this size; optimizer, schedule, decay rule and the padded crop are
those of the published ImageNet recipe (the original's Image/README.md), epochs, width and depth are ours.
"""

from ml_collections import ConfigDict

from unireplknet_jax.data.sources import FASHION_LABELS

ARGUMENTS = ("digits", "fashion_mnist")


def get_config(arg="digits"):
    """The recipe for one of ARGUMENTS."""
    if arg not in ARGUMENTS:
        raise ValueError(f"configs/small_images.py takes one of {', '.join(ARGUMENTS)}, not {arg!r}.")
    config = ConfigDict()
    config.seed = 0
    config.init = ""  # a checkpoint to fine-tune, of the network in task.options.model; its classifier may differ
    config.task = ConfigDict({"name": "classification"})
    config.task.labels = FASHION_LABELS if arg == "fashion_mnist" else tuple("0123456789")
    config.task.options = ConfigDict(
        {
            "model": {
                "depths": (1, 1, 2, 1),
                "dims": (16, 32, 64, 128),
                "kernel_sizes": ((3,), (13,), (13, 3), (13,)),
                "num_classes": 10,
                "in_chans": 1,
                "layer_scale_init": 1.0,  # 1e-6 is for hundreds of epochs: here it would cost the first few
            },
            "image_size": 32,
            "mean": (0.5,),
            "std": (0.5,),
            "label_smoothing": 0.1,
            "crop_padding": 4,
        }
    )
    config.data = ConfigDict({"name": arg, "dir": "", "train_split": "train", "eval_split": "test"})
    config.batch_size = 64
    config.eval_batch_size = 256
    config.epochs = 40
    config.eval_every_epochs = 5
    config.log_every = 20
    config.mesh = ConfigDict({"fsdp": 1})
    config.optim = ConfigDict(
        {
            "name": "adamw",
            "lr": 2e-3,
            "min_lr": 1e-6,
            "warmup_epochs": 2,
            "weight_decay": 0.05,
            "b1": 0.9,
            "b2": 0.999,
            "eps": 1e-8,
        }
    )
    if arg == "fashion_mnist":
        config.task.options.flip = True
        config.task.options.crop_padding = 2
        config.epochs = 14
        config.eval_every_epochs = 1
        config.log_every = 100
        config.optim.warmup_epochs = 1
    return config
