"""Fine-tuning of published weights on one's own pictures.

    unireplknet train --config finetune.py:a --config.data.dir=flowers --workdir runs/flowers

The folder holds a class per folder below train/ and val/ (flowers/train/rose/1.jpg, ...); its classes become those of
the model. Pictures that cannot be decoded end the run, or are passed over with --config.data.broken=skip. Any other
labelled set works alike: --config.data.name=tfds:oxford_flowers102 --config.data.eval_split=test.

Sizes a f p n t s start from the ImageNet-1K weights at 224 pixels, b l xl from ImageNet-22K. Instead of a size:
- small: a network of 0.6 M parameters from scratch on 64 pixels, for a hundred to a few thousand pictures on a CPU.
  Pictures are cropped and no more, as mirroring or other colours may make another class of them; where they do not,
  --config.task.options.flip=True helps.
Option after the size:
- runlocal: a minute on a CPU, with a small network and the digits bundled with scikit-learn.

There is no published recipe for this; optimizer, layer decay, RandAugment and the scaled new head are those of the
published fine-tuning at 384 pixels (configs/imagenet1k_384.py); learning rate, warm-up, epochs and batch are ours. With
fewer than a few thousand pictures lengthen `epochs`. Hardware: one GPU or TPU chip; size a also on a CPU with patience,
small on any laptop.
"""

from ml_collections.config_dict import placeholder

from unireplknet_jax.configs.common import run_locally, train_small
from unireplknet_jax.models.zoo import find_weights
from unireplknet_jax.train.recipe import base_config, parse_argument

SIZES = ("a", "f", "p", "n", "t", "s", "b", "l", "xl", "small")
TAGS = {"b": "in22k_224", "l": "in22k_192", "xl": "in22k_192"}
OPTIONS = ("runlocal",)


def get_config(arg="a"):
    """The recipe for "SIZE[,OPTION...]"."""
    size, options = parse_argument(arg, SIZES, OPTIONS, "configs/finetune.py")
    config = base_config()
    if size != "small":
        config.init = find_weights(f"unireplknet_{size}", TAGS.get(size, "in1k_224")).file
    config.task.options = {
        "model": {
            "name": f"unireplknet_{size}",
            "num_classes": 0,  # 0: as many as the data has
            "drop_path_rate": 0.1,
            "head_init_scale": 0.001,
            "bn_group": placeholder(int),  # all examples of the batch share statistics
            "dtype": "float32",
            "impl": "auto",  # the form of depthwise convolution, as in ops.depthwise
            "remat": False,
        },
        "image_size": 224,
        "white": 0,  # of pictures deeper than 8 bits; 0: what their files say
        "crop_scale": (0.08, 1.0),
        "flip": True,
        "rand_augment": "rand-m9-mstd0.5-inc1",
        "random_erasing": 0.25,
        "mixup": 0.0,
        "cutmix": 0.0,
        "label_smoothing": 0.1,
        "balance": False,  # True: rare classes are drawn as often as others
    }
    config.data.update({"name": "folder", "eval_split": "val", "train_examples": 0})
    config.batch_size = 64
    config.eval_batch_size = 64
    config.epochs = 20
    config.log_every = 10
    config.optim.lr = 1e-4
    config.optim.warmup_epochs = 1
    config.optim.weight_decay = 1e-8
    config.optim.layer_decay = 0.8
    if size == "small":
        mild = {"crop_scale": (0.5, 1.0), "flip": False, "rand_augment": "", "random_erasing": 0.0}
        config = train_small(config, 200, image_size=64, resize="warp", **mild)
        config.optim.warmup_epochs = 10.0  # 5 % of the run
    return run_locally(config) if "runlocal" in options else config
