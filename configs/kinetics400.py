"""Kinetics-400: 16 frames of a video laid out as one picture of 896 x 896 pixels, classified.

    unireplknet train --config kinetics400.py:s --config.data.dir=/data/k400 --workdir gs://BUCKET/k400
    unireplknet train --config kinetics400.py:synthetic --workdir runs/motion
    unireplknet evaluate runs/motion/best

The folder holds train.csv and val.csv, in each line the path of a video and its class (0 to 399, in alphabetical order;
unireplknet_jax/data/labels/kinetics400.txt). Videos that cannot be decoded end the run, or are passed over with
--config.data.broken=skip. Needs PyAV: pip install 'unireplknet_jax[video]'.

| argument | what | published top-1 |
|---|---|---|
| s | the network of the paper's table, UniRepLKNet-S on a grid of frames | 54.8 (5 x 3 views or not is not stated) |
| b | the same with the width of B | - |
| b,script | the released script's network: B with 11 x 11 kernels in the last stage, layout reshape | - |
| s,reshape | the layout of the released code alone | - |
| synthetic | videos of moving shapes, rendered on first use; a small network; minutes on a CPU | - (ours: 99.6) |
| runlocal | the same for a minute on a CPU | - |

Values: the released script and its defaults (Video/ of the original, which trains with --layer_decay 1.0 alone). It
takes 64 videos a step and augments each twice, 8 on a GPU at once; here a step takes 128 videos, augmented once, and
180 such epochs are the same 338,040 steps. Training is evaluated on one view of each video, `evaluate` averages 5 x 3.
Starting from an image model instead of from scratch: --config.init=unireplknet_s_in1k_224_acc83.91.pth.

Hardware: a clip costs 16 times a picture of 224 pixels (`unireplknet plan` tells what fits). Computation is in
bfloat16, as in the release. Nobody has trained this recipe with this code.
"""

from unireplknet_jax.configs.common import run_on_moving_shapes
from unireplknet_jax.data.label_names import read_labels
from unireplknet_jax.models.variants import VARIANTS
from unireplknet_jax.train.recipe import base_config, parse_argument

SIZES = ("s", "b")
OPTIONS = ("reshape", "script", "synthetic", "runlocal")


def get_config(arg="s"):
    """The recipe for "SIZE[,OPTION...]"."""
    size, options = parse_argument(arg, SIZES, OPTIONS, "configs/kinetics400.py")
    config = base_config()
    config.task.name = "video"
    config.task.labels = read_labels("kinetics400")
    config.task.options = {
        "model": {
            "name": f"unireplknet_{size}",
            "num_classes": 400,
            "drop_path_rate": 0.4,
            "bn_group": 8,
            "dtype": "bfloat16",
            "impl": "auto",  # the form of depthwise convolution, as in ops.depthwise
            "remat": True,
        },
        "frames": 16,
        "stride": 4,
        "sampling": "dense",
        "segments": 5,
        "crops": 3,
        "layout": "reshape" if options & {"reshape", "script"} else "grid",
        "image_size": 224,  # of a frame
        "crop_scale": (0.08, 1.0),
        "flip": True,
        "rand_augment": "rand-m7-n4-mstd0.5-inc1",
        "random_erasing": 0.25,
        "mixup": 0.8,
        "cutmix": 1.0,
        "label_smoothing": 0.1,
    }
    if "script" in options:
        first, second, third, last = VARIANTS[f"unireplknet_{size}"].kernel_sizes
        config.task.options.model.kernel_sizes = (first, second, third, (11,) * len(last))
    config.data.update({"name": "video_csv", "eval_split": "val", "train_examples": 240_436, "num_threads": 16})
    config.eval.update({"segments": 1, "crops": 1})
    config.batch_size = 128
    config.accumulate = 2
    config.eval_batch_size = 64
    config.epochs = 180
    config.eval_every_epochs = 2
    config.optim.lr = 1e-3
    config.optim.min_lr = 2.5e-7
    config.optim.warmup_epochs = 10
    if options & {"synthetic", "runlocal"}:
        return run_on_moving_shapes(config, epochs=2 if "runlocal" in options else 10)
    return config
