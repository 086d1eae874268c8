"""Semantic segmentation of one's own pictures, with masks, from published ImageNet weights.

    unireplknet train --config finetune_masks.py:a --config.data.dir=streets --workdir runs/streets

The folder holds streets/train/images/*.jpg and streets/train/masks/*.png of the same names, the same for val, and
optionally classes.csv: in each line a class, its value in the masks and its colour (road,0,#804080). Without a list the
values in the training masks are the classes. Masks are grey, 16-bit or palette PNG, or in the colours of the list.
Pixels of the value --config.data.ignore=255 count nowhere; where 0 is no class either,
--config.data.reduce_zero_label=True. Files that cannot be read end the run, or are passed over with
--config.data.broken=skip.

Sizes a f p n t start from the ImageNet-1K weights at 224 pixels, s b l xl from those of ImageNet-22K that were trained
on ImageNet-1K at 384. Instead of a size:
- small: a network of 0.9 M parameters from scratch on 128 pixels, for ten to a few thousand pictures on a CPU. Pictures
  are cropped and resized a little and no more, as mirroring or other colours may make another class of a pixel; where
  they do not, --config.task.options.flip=True and --config.task.options.distortion=True help.
Option after the size:
- runlocal: a minute on a CPU, with a small network and made-up scenes of clothes.

Pictures are resized to 512 pixels on the short side, or where small things are to be found to more, for example with
--config.task.options.scale=(4096,1024). In windows of the size `crop` they are measured with
--config.task.options.mode=slide.

There is no published recipe for this: augmentation, losses, optimizer and schedule are those of configs/ade20k.py;
epochs, batch, drop path and the layer decay of all sizes are ours. With fewer than a few hundred pictures lengthen
`epochs`. Not trained by us yet. Hardware: one GPU or TPU chip; size a also on a CPU with patience, small on any laptop.
"""

from ml_collections.config_dict import placeholder

from unireplknet_jax.configs.common import SMALL_HEADS, layer_groups, run_on_scenes, train_small
from unireplknet_jax.models.zoo import find_weights
from unireplknet_jax.train.recipe import base_config, parse_argument

SIZES = ("a", "f", "p", "n", "t", "s", "b", "l", "xl", "small")
TAGS = dict.fromkeys(("s", "b", "l", "xl"), "in22k_ft_in1k_384")
OPTIONS = ("runlocal",)


def get_config(arg="a"):
    """The recipe for "SIZE[,OPTION...]"."""
    size, options = parse_argument(arg, SIZES, OPTIONS, "configs/finetune_masks.py")
    name = f"unireplknet_{size}"
    config = base_config()
    config.task.name = "segmentation"
    config.task.options = {
        "model": {
            "name": name,
            "num_classes": 0,  # 0: as many as the data has
            "channels": 512,
            "auxiliary_channels": 256,
            "head_dropout": 0.1,
            "drop_path_rate": 0.1,
            "bn_group": placeholder(int),  # all examples of the batch share statistics
            "dtype": "float32",
            "impl": "auto",  # the form of depthwise convolution, as in ops.depthwise
            "remat": False,
        },
        "scale": (2048, 512),
        "crop": 512,
        "ratio": (0.5, 2.0),
        "cat_max_ratio": 0.75,
        "flip": True,
        "distortion": True,
        "loss_average": "all",
        "auxiliary_weight": 0.4,
        "mode": "whole",
        "stride": 341,
        "scales": (1.0,),
        "mirror": False,
        "buckets": ((512, 704), (704, 512), (512, 1024)),
        "white": 0,  # of pictures deeper than 8 bits; 0: what their files say
    }
    config.data.update({"name": "mask_folder", "eval_split": "val", "train_examples": 0})
    config.data.update({"reduce_zero_label": False, "ignore": 255, "classes": ""})
    config.eval.update({"scales": (1.0,), "mirror": False})
    config.batch_size = 8
    config.eval_batch_size = 8
    config.epochs = 50
    config.eval_every_epochs = 5
    config.log_every = 10
    config.optim.update({"lr": 1e-4, "schedule": "polynomial", "min_lr": 0.0, "warmup_epochs": 1.0})
    config.optim.warmup_ratio = 1e-6
    if size == "small":
        mild = {"ratio": (0.75, 1.5), "flip": False, "distortion": False}
        place = {"scale": (512, 128), "crop": 128, "stride": 85, "buckets": ((128, 192), (192, 128), (128, 256))}
        config = train_small(config, 100, **place, **mild)
        config.task.options.model.update(SMALL_HEADS)
    else:
        config.init = find_weights(name, TAGS.get(size, "in1k_224")).file
        config.optim.update({"layer_decay": 0.9, "layer_groups": layer_groups(name)})
    return run_on_scenes(config) if "runlocal" in options else config
