"""ADE20K: each pixel of 20,210 + 2,000 pictures in one of 150 classes, by UPerNet; and two sets for a laptop.

    unireplknet train --config ade20k.py:t --config.data.dir=/data/ADEChallengeData2016 --workdir gs://BUCKET/ade_t
    unireplknet train --config ade20k.py:scenes --workdir runs/scenes

The folder holds images/{training,validation}/*.jpg and annotations/{training,validation}/*.png. A pixel of value 0 is
no class; it and those of value 255 count nowhere but in the average of the loss. Arguments:

| argument | crop | starts from | published mIoU, one scale and six with mirroring | ours | parameters, MACs |
|---|---|---|---|---|---|
| t | 512 | ImageNet-1K | 48.6, 49.1 | - | 61 M, 946 G |
| s | 512 | ImageNet-1K | 50.5, 51.0 | - | 86 M, 1036 G |
| s,in22k | 512 | ImageNet-22K | 51.9, 52.7 | - | 86 M, 1036 G |
| s,in22k,640 | 640 | ImageNet-22K | 52.3, 52.7 | - | 86 M, 1618 G |
| b | 640 | ImageNet-22K | 53.5, 53.9 | - | 130 M, 1850 G |
| l | 640 | ImageNet-22K | 54.5, 55.0 | - | 254 M, 2507 G |
| xl | 640 | ImageNet-22K | 55.2, 55.6 | - | 425 M, 3420 G |
| scenes | 128 | nothing | none: synthetic pictures | 76.6 | 0.9 M, - |
| hela | 256 | nothing | none: cells under a microscope, for which the masks were computed | 93.3 | 0.9 M, - |
| runlocal | 48 | nothing | none: a minute on a CPU, with a small network and the pictures of scenes | - | - |

Parameters and multiply-accumulates, for 512 x 2048 or 640 x 2560 pixels, are published, too; they are those of the
merged form without the auxiliary head. Values: the released configurations (segmentation/configs of the original). For
XL none was released: drop path and layer decay are those of L. "ImageNet-22K" is the classifier that was trained on it
and then on ImageNet-1K at 384 pixels. Of S with 51.9 and 52.7 the paper's table says 640 pixels, the release 512.

All pictures are resized to 512 (640) pixels on the short side, unless the long one would pass four times that. As
released, they are measured as a whole at this scale, every 4,000 of 160,000 steps. What is trained with
--config.task.options.scales=(0.5,0.75,1.0,1.25,1.5,1.75) and --config.task.options.mirror=True is measured in twelve
views by `evaluate` and `predict`, and in one in the evaluations of the run; these commands have flags for it, too.

Hardware: the batch is 16 for any number of devices, all of which share their statistics; on more than 16 devices raise
--config.batch_size (`unireplknet plan` tells what fits). Computation is in bfloat16 where the release used float32:
--config.task.options.model.dtype=float32 for that. Nobody has trained t to xl with this code: the numbers are published
ones. Input: --config.data.workers=N, see configs/imagenet1k.py.
"""

from unireplknet_jax.configs.common import layer_groups, run_on_scenes, train_on_cells, train_on_scenes
from unireplknet_jax.models.zoo import find_weights
from unireplknet_jax.tasks.segmentation_names import sizes_for
from unireplknet_jax.train.recipe import base_config

IN1K, IN22K = "in1k_224", "in22k_ft_in1k_384"
PUBLISHED = {  # weights to start from, crop, drop path, layer decay
    "t": (IN1K, 512, 0.2, 1.0),
    "s": (IN1K, 512, 0.3, 0.9),
    "s,in22k": (IN22K, 512, 0.3, 0.9),
    "s,in22k,640": (IN22K, 640, 0.3, 0.9),
    "b": (IN22K, 640, 0.3, 0.9),
    "l": (IN22K, 640, 0.4, 0.85),
    "xl": (IN22K, 640, 0.4, 0.85),  # ours
}
ARGUMENTS = ("t", "s", "s,in22k", "s,in22k,640", "b", "l", "xl", "scenes", "hela", "runlocal")


def get_config(arg="t"):
    """The recipe for one of ARGUMENTS."""
    if arg not in ARGUMENTS:
        raise ValueError(f"configs/ade20k.py takes one of {'; '.join(ARGUMENTS)}, not {arg!r}.")
    weights, crop, drop_path, layer_decay = PUBLISHED.get(arg, PUBLISHED["t"])
    name = f"unireplknet_{arg.partition(',')[0] if arg in PUBLISHED else 't'}"
    config = base_config()
    config.init = find_weights(name, weights).file
    config.task.name = "segmentation"
    config.task.options = {
        "model": {
            "name": name,
            "num_classes": 150,
            "channels": 512,
            "auxiliary_channels": 256,
            "head_dropout": 0.1,
            "drop_path_rate": drop_path,
            "bn_group": 16,
            "dtype": "bfloat16",
            "impl": "auto",  # the form of depthwise convolution, as in ops.depthwise
            "remat": name != "unireplknet_t",
        },
        **sizes_for(crop),  # scale, crop, stride and the canvases of an evaluation
        "ratio": (0.5, 2.0),
        "cat_max_ratio": 0.75,
        "flip": True,
        "distortion": True,
        "loss_average": "all",
        "auxiliary_weight": 0.4,
        "mode": "whole",
        "scales": (1.0,),
        "mirror": False,
    }
    config.data.update({"name": "ade20k", "eval_split": "val", "train_examples": 20_210, "num_threads": 16})
    config.data.update({"reduce_zero_label": True, "ignore": 255})
    config.eval.update({"scales": (1.0,), "mirror": False})
    config.batch_size = 16
    config.eval_batch_size = 16
    config.steps = 160_000
    config.eval_every_epochs = 0.0
    config.eval_every_steps = 4000
    config.checkpoint.every_steps = 4000
    config.optim.update({"lr": 1e-4, "schedule": "polynomial", "min_lr": 0.0, "warmup_steps": 1500})
    config.optim.update({"warmup_ratio": 1e-6, "layer_decay": layer_decay, "layer_groups": layer_groups(name)})
    changes = {"scenes": train_on_scenes, "hela": train_on_cells, "runlocal": run_on_scenes}
    return changes[arg](config) if arg in changes else config
