"""COCO: a box, a class and a mask for every object, by Cascade Mask R-CNN; and three sets for a laptop.

    unireplknet train --config coco.py:t --config.data.dir=/data/coco --workdir gs://BUCKET/coco_t
    unireplknet train --config coco.py:scenes --workdir runs/scenes

The folder holds train2017/*.jpg, val2017/*.jpg and annotations/instances_{train,val}2017.json. Arguments:

| argument | starts from | published AP of boxes, masks | ours | parameters, MACs |
|---|---|---|---|---|
| t | ImageNet-1K | 51.7, 44.9 | - | 89 M, 749 G |
| s | ImageNet-1K | 53.0, 45.9 | - | 113 M, 835 G |
| s,in22k | ImageNet-22K | 54.3, 47.1 | - | 113 M, 835 G |
| b | ImageNet-22K | 54.8, 47.4 | - | 155 M, 978 G |
| l | ImageNet-22K | 55.8, 48.4 | - | 276 M, 1385 G |
| xl | ImageNet-22K | 56.4, 49.0 | - | 443 M, 1952 G |
| scenes | nothing | none: synthetic pictures | 52.0, 54.9 | 2 M, - |
| hela | nothing | none: cells under a microscope, for which the masks were computed | 81.7, 86.5 | 2 M, - |
| trees | nothing | none: trees in aerial photographs, boxes alone | 0.3, - | - |
| runlocal | nothing | none: minutes on a CPU, with a small network and the pictures of scenes | - | - |

Parameters and multiply-accumulates, for 1280 x 800 pixels with 1,000 regions and 100 masks in each stage, are published
ones, too. Values: the released configurations (detection/configs of the original). They train for 36 epochs, the last
nine with a lower rate. They do not say which weights they start from; "ImageNet-22K" is here, as for ADE20K, the
classifier that was trained on it and then on ImageNet-1K at 384 pixels. From S on ImageNet-22K on, a moving average of
the weights is what is measured.

Pictures are resized to 480 to 800 pixels on the short side for training, half of them after a crop, and to 800 for the
test, with the long side at most 1333. What is trained with --config.task.options.scales=(0.75,1.0,1.25) and
--config.task.options.mirror=True is measured in six views by `evaluate` and `predict`, and in one in the evaluations of
the run. --config.task.options.tile=1024 looks at large pictures window by window.

Hardware: the batch is 16 for any number of devices, all of which share their statistics; on more than 16 devices raise
--config.batch_size (`unireplknet plan` tells what fits). Computation is in bfloat16 where the release used float32:
--config.task.options.model.dtype=float32 for that. Nobody has trained t to xl with this code: the numbers are published
ones. Input: --config.data.workers=N, see configs/imagenet1k.py.
"""

from ml_collections.config_dict import placeholder

from unireplknet_jax.configs.common import (
    BOX_HEADS,
    run_on_box_scenes,
    train_on_box_cells,
    train_on_box_scenes,
    train_on_trees,
)
from unireplknet_jax.models.zoo import find_weights
from unireplknet_jax.train.recipe import base_config

IN1K, IN22K = "in1k_224", "in22k_ft_in1k_384"
PUBLISHED = {  # weights to start from, drop path, layer decay, whether there is a moving average
    "t": (IN1K, 0.3, 0.8, False),
    "s": (IN1K, 0.5, 0.8, False),
    "s,in22k": (IN22K, 0.5, 0.8, True),
    "b": (IN22K, 0.6, 0.8, True),
    "l": (IN22K, 0.7, 0.7, True),
    "xl": (IN22K, 0.7, 0.7, True),
}
ARGUMENTS = ("t", "s", "s,in22k", "b", "l", "xl", "scenes", "hela", "trees", "runlocal")


def get_config(arg="t"):
    """The recipe for one of ARGUMENTS."""
    if arg not in ARGUMENTS:
        raise ValueError(f"configs/coco.py takes one of {'; '.join(ARGUMENTS)}, not {arg!r}.")
    weights, drop_path, layer_decay, averaged = PUBLISHED.get(arg, PUBLISHED["t"])
    name = f"unireplknet_{arg.partition(',')[0] if arg in PUBLISHED else 't'}"
    config = base_config()
    config.init = find_weights(name, weights).file
    config.task.name = "detection"
    config.task.options = {
        "model": BOX_HEADS
        | {
            "name": name,
            "num_classes": 80,
            "drop_path_rate": drop_path,
            "bn_group": placeholder(int),  # all pictures of the batch share statistics
            "dtype": "bfloat16",
            "impl": "auto",  # the form of depthwise convolution, as in ops.depthwise
            "remat": True,
        },
        "scale": (1333, 800),
        "short_sides": (480, 512, 544, 576, 608, 640, 672, 704, 736, 768, 800),
        "longest": 1333,
        "crop_sides": (400, 500, 600),
        "crop": (384, 600),
        "flip": True,
        "objects": 100,  # of which a picture has room in training
        "mask_bytes": 2**19,  # of their masks
        "scales": (1.0,),
        "mirror": False,
        "tile": 0,
        "buckets": ((800, 1344), (1344, 800), (800, 1088)),
        "evaluator": "pycocotools",
    }
    config.data.update({"name": "coco", "eval_split": "val", "train_examples": 117_266, "num_threads": 16})
    config.data.update({"keep_empty": False, "least_side": 32})
    config.eval.update({"scales": (1.0,), "mirror": False, "tile": 0})
    config.batch_size = 16
    config.eval_batch_size = 16
    config.epochs = 36.0
    config.optim.update({"lr": 1e-4, "schedule": "multistep", "milestones": (27, 33), "warmup_steps": 500})
    config.optim.update({"warmup_ratio": 1e-3, "layer_decay": layer_decay, "layer_groups": 12})
    if averaged:
        config.ema.update({"decay": 0.9999, "ramp": "exponential", "ramp_steps": 2000})
    changes = {
        "scenes": train_on_box_scenes,
        "hela": train_on_box_cells,
        "trees": train_on_trees,
        "runlocal": run_on_box_scenes,
    }
    return changes[arg](config) if arg in changes else config
