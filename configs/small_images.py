"""Small pictures, trained from scratch on one laptop: a UniRepLKNet with 13x13 kernels in its three upper stages.

    unireplknet train --config small_images.py:digits --workdir runs/digits
    unireplknet train --config small_images.py:fashion_mnist --workdir runs/fashion_mnist

| argument | data | examples | test accuracy | CPU time, 2 cores |
|---|---|---|---|---|
| digits | handwritten digits bundled with scikit-learn | 1,437 + 360 | 99.0 % (mean of 3 seeds) | 2 min |
| fashion_mnist | Debian package dataset-fashion-mnist, or TFDS | 60,000 + 10,000 | 91.2 % | 15 min |
| fashion_mnist_full | with RandAugment, mixup and a moving average | 60,000 + 10,000 | 92.2 % | 35 min |
| runlocal | digits, 2 epochs | 1,437 + 360 | - | 1 min |

No published UniRepLKNet recipe exists for sets of this size; optimizer, schedule, decay rule and the padded crop are
those of the published ImageNet recipe (the original's Image/README.md), epochs, width and depth are ours.
fashion_mnist_full ran on 8 CPU devices (XLA_FLAGS=--xla_force_host_platform_device_count=8); its moving average
reaches 92.1 %.
"""

from ml_collections.config_dict import placeholder

from unireplknet_jax.data.pictures.fashion_mnist import FASHION_LABELS
from unireplknet_jax.train.recipe import base_config

ARGUMENTS = ("digits", "fashion_mnist", "fashion_mnist_full", "runlocal")


def get_config(arg="digits"):
    """The recipe for one of ARGUMENTS."""
    if arg not in ARGUMENTS:
        raise ValueError(f"configs/small_images.py takes one of {', '.join(ARGUMENTS)}, not {arg!r}.")
    config = base_config()
    config.task.labels = FASHION_LABELS if arg.startswith("fashion_mnist") else tuple("0123456789")
    config.task.options = {
        "model": {
            "depths": (1, 1, 2, 1),
            "dims": (16, 32, 64, 128),
            "kernel_sizes": ((3,), (13,), (13, 3), (13,)),
            "num_classes": 10,
            "in_chans": 1,
            "drop_path_rate": 0.0,
            "bn_group": placeholder(int),  # all examples of the batch share statistics
            "dtype": "float32",
            "impl": "auto",  # the form of depthwise convolution, as in ops.depthwise
            "layer_scale_init": 1.0,  # 1e-6 is for hundreds of epochs: here it would cost the first few
        },
        "image_size": 32,
        "mean": (0.5,),
        "std": (0.5,),
        "crop_padding": 4,
        "flip": False,
        "rand_augment": "",
        "random_erasing": 0.0,
        "mixup": 0.0,
        "cutmix": 0.0,
        "label_smoothing": 0.1,
    }
    config.data.update({"name": "digits", "train_examples": 1437})
    config.batch_size = 64
    config.eval_batch_size = 256
    config.epochs = 40
    config.eval_every_epochs = 5
    config.log_every = 20
    config.optim.lr = 2e-3
    config.optim.warmup_epochs = 2
    if arg == "runlocal":
        config.epochs = 2
        config.eval_every_epochs = config.optim.warmup_epochs = 1
    if arg.startswith("fashion_mnist"):
        config.data.update({"name": "fashion_mnist", "train_examples": 60_000})
        config.task.options.flip = True
        config.task.options.crop_padding = 2
        config.epochs = 14
        config.eval_every_epochs = 1
        config.log_every = 100
        config.optim.warmup_epochs = 1
    if arg == "fashion_mnist_full":
        # One operation of small magnitude: this small network underfits under the two of the ImageNet recipe.
        config.task.options.update({"rand_augment": "rand-m3-n1-mstd0.5-inc1", "mixup": 0.1})
        config.batch_size = 256  # shared over 8 CPU devices, of which 64 would leave every one with 8 examples
        config.optim.lr = 4e-3
        config.epochs = 40
        config.optim.warmup_epochs = 2
        config.eval_every_epochs = 2
        config.ema.decay = 0.998  # an average over the last 500 of 9,360 steps
    return config
