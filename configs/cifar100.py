"""CIFAR-100: 50,000 + 10,000 colour pictures of 32 x 32 pixels.

    unireplknet train --config cifar100.py:a --config.data.dir=/data/cifar --workdir runs/cifar100

The folder holds cifar-100-binary.tar.gz, or what it unpacks to; without one TFDS downloads the set.

- a f p n t s: the published ImageNet-1K weights, fine-tuned at 224 pixels, to which the pictures are enlarged.
- scratch: a network of 3 M parameters trained from scratch at 32 pixels.
- runlocal, after a size or scratch: a minute on a CPU, with a small network and the digits bundled with scikit-learn.

The original can read CIFAR-100 (main.py --data_set CIFAR) but publishes neither a recipe nor an accuracy; optimizer,
augmentation and layer decay are those of its published recipes, learning rate, epochs and batch are ours. Not trained
by us yet. Hardware: one GPU or TPU chip.
"""

from unireplknet_jax.configs.common import run_locally
from unireplknet_jax.models.zoo import find_weights
from unireplknet_jax.train.recipe import base_config, parse_argument

SIZES = ("scratch", "a", "f", "p", "n", "t", "s")
OPTIONS = ("runlocal",)


def get_config(arg="scratch"):
    """The recipe for "SIZE[,OPTION...]"."""
    size, options = parse_argument(arg, SIZES, OPTIONS, "configs/cifar100.py")
    config = base_config()
    config.task.options = {
        "model": {
            "num_classes": 100,
            "bn_group": 128,
            "dtype": "float32",
            "impl": "auto",  # the form of depthwise convolution, as in ops.depthwise
        },
        "flip": True,
        "rand_augment": "rand-m9-mstd0.5-inc1",
        "random_erasing": 0.25,
        "mixup": 0.0,
        "cutmix": 0.0,
        "label_smoothing": 0.1,
    }
    config.data.update({"name": "cifar100", "train_examples": 50_000})
    config.batch_size = 128
    config.eval_batch_size = 256
    if size == "scratch":
        _from_scratch(config)
    else:
        _fine_tuned(config, size)
    return run_locally(config) if "runlocal" in options else config


def _from_scratch(config):
    config.task.options.image_size = 32
    config.task.options.crop_padding = 4
    config.task.options.update({"mixup": 0.8, "cutmix": 1.0})
    config.task.options.model.update(
        {
            "depths": (2, 2, 6, 2),
            "dims": (32, 64, 128, 256),
            "kernel_sizes": ((3,) * 2, (13,) * 2, (13,) * 6, (13,) * 2),
            "drop_path_rate": 0.1,
            "layer_scale_init": 1.0,
        }
    )
    config.epochs = 200
    config.optim.lr = 2e-3
    config.optim.warmup_epochs = 10


def _fine_tuned(config, size):
    config.init = find_weights(f"unireplknet_{size}", "in1k_224").file
    config.task.options.image_size = 224
    config.task.options.crop_scale = (0.08, 1.0)
    config.task.options.model.update(
        {"name": f"unireplknet_{size}", "drop_path_rate": 0.1, "head_init_scale": 0.001, "remat": False}
    )
    config.epochs = 30
    config.optim.lr = 1e-4
    config.optim.warmup_epochs = 1
    config.optim.weight_decay = 1e-8
    config.optim.layer_decay = 0.8
