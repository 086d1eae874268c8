"""ImageNet-1K from scratch: 300 epochs at 224 pixels.

    unireplknet train --config imagenet1k.py:t --workdir gs://BUCKET/t
    unireplknet train --config imagenet1k.py:t --config.data.name=folder --config.data.dir=/data/imagenet \
        --config.data.eval_split=val --workdir runs/t

| size | published top-1 | GPUs x batch x accumulation, as released | drop path | mixup | cutmix |
|---|---|---|---|---|---|
| a | 77.0 | 4 x 128 x 8 | 0.0 | 0.3 | 0.3 |
| f | 78.6 | 4 x 128 x 8 | 0.0 | 0.3 | 0.3 |
| p | 80.2 | 4 x 128 x 8 | 0.1 | 0.3 | 0.3 |
| n | 81.6 | 4 x 128 x 8 | 0.1 | 0.5 | 0.5 |
| t | 83.2 | 4 x 128 x 8 | 0.2 | 0.8 | 1.0 |
| s | 83.9 | 8 x 64 x 8 | 0.4 | 0.8 | 1.0 |

Values: the released commands (Image/README.md of the original). Options after the size:
- paper: a warm-up of 5 epochs, as table 16 of the journal version says; the commands leave it at the default of 20.
- ablation: 100 epochs and drop path 0.1, as in the paper's ablations.
- runlocal: a minute on a CPU, with a small network and the digits bundled with scikit-learn.

Hardware: the batch is 4096 for any number of devices; statistics are shared by 128 (s: 64) examples as on one GPU of
the original, mixup draws once for as many. `accumulate` is the released one; on more devices lower it, on a pod to 1
(`unireplknet plan` tells what fits). Computation is in bfloat16 where the release used float32:
--config.task.options.model.dtype=float32 for that. Nobody has trained this recipe with this code: the accuracies are
the published ones.

Input: the 16 threads of a host's one process share its GIL. On a host with many cores let --config.data.workers=N
processes of --config.data.num_threads=M threads each build the batches, N x M about the cores. The best N depends on
host and storage and has not been measured on a TPU host, so the recipe starts none; `unireplknet benchmark input` tells
what a core prepares.
"""

from unireplknet_jax.configs.common import run_locally
from unireplknet_jax.data.label_names import read_labels
from unireplknet_jax.train.recipe import base_config, parse_argument

SIZES = {  # drop path, mixup, cutmix, examples that share batch statistics
    "t": (0.2, 0.8, 1.0, 128),
    "a": (0.0, 0.3, 0.3, 128),
    "f": (0.0, 0.3, 0.3, 128),
    "p": (0.1, 0.3, 0.3, 128),
    "n": (0.1, 0.5, 0.5, 128),
    "s": (0.4, 0.8, 1.0, 64),
}
OPTIONS = ("paper", "ablation", "runlocal")


def get_config(arg="t"):
    """The recipe for "SIZE[,OPTION...]"."""
    size, options = parse_argument(arg, tuple(SIZES), OPTIONS, "configs/imagenet1k.py")
    drop_path, mixup, cutmix, bn_group = SIZES[size]
    config = base_config()
    config.task.labels = read_labels("imagenet1k")
    config.task.options = {
        "model": {
            "name": f"unireplknet_{size}",
            "num_classes": 1000,
            "drop_path_rate": 0.1 if "ablation" in options else drop_path,
            "bn_group": bn_group,
            "dtype": "bfloat16",
            "impl": "auto",  # the form of depthwise convolution, as in ops.depthwise
            "remat": False,
        },
        "image_size": 224,
        "crop_scale": (0.08, 1.0),
        "flip": True,
        "rand_augment": "rand-m9-mstd0.5-inc1",
        "random_erasing": 0.25,
        "mixup": mixup,
        "cutmix": cutmix,
        "label_smoothing": 0.1,
    }
    config.data.update({"name": "tfds:imagenet2012", "eval_split": "validation", "train_examples": 1_281_167})
    config.data.num_threads = 16
    config.batch_size = 4096
    config.accumulate = 8
    config.eval_batch_size = 1024
    config.epochs = 100 if "ablation" in options else 300
    config.optim.lr = 4e-3
    config.optim.warmup_epochs = 5 if "paper" in options else 20
    return run_locally(config) if "runlocal" in options else config
