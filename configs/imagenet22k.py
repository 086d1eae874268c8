"""ImageNet-22K pre-training: 90 epochs, 21,841 classes, no evaluation.

    unireplknet train --config imagenet22k.py:s --config.data.dir=/data/imagenet22k --workdir gs://BUCKET/s22k

| size | pixels | nodes x GPUs x batch x accumulation, as released | lr | drop path | top-1 after imagenet1k_384.py |
|---|---|---|---|---|---|
| s | 224 | 2 x 8 x 32 x 8 | 4e-3 | 0.1 | 86.4 |
| b | 224 | 2 x 8 x 32 x 8 | 4e-3 | 0.1 | 87.4 |
| l | 192 | 2 x 8 x 64 x 4 | 1e-3 | 0.1 | 87.9 |
| xl | 192 | 4 x 8 x 32 x 4 | 1e-3 | 0.2 | 88.0 |

Values: the released commands (Image/README.md of the original). Options after the size:
- paper: a learning rate of 4e-3 for every size, as table 17 of the journal version says.
- runlocal: a minute on a CPU, with a small network and the digits bundled with scikit-learn.

Data: shards that `unireplknet shards` made, or --config.data.name=folder; a class per folder, in the order of
unireplknet_jax/data/labels/imagenet22k.txt.
Hardware: as in configs/imagenet1k.py; the batch is 4096. l and xl split their state over devices with
--config.mesh.fsdp=8 (`unireplknet plan` tells what fits). Computation is in bfloat16 where the release used float32.
Nobody has trained this recipe with this code: the accuracies are the published ones.
Input: --config.data.workers=N, see configs/imagenet1k.py; a bucket's shards are read from a mounted folder
(launch/tpu.sh --bucket: /mnt/data).
"""

from unireplknet_jax.configs.common import run_locally
from unireplknet_jax.data.label_names import read_labels
from unireplknet_jax.train.recipe import base_config, parse_argument

SIZES = {  # pixels, learning rate, drop path, examples that share batch statistics, accumulation
    "s": (224, 4e-3, 0.1, 32, 8),
    "b": (224, 4e-3, 0.1, 32, 8),
    "l": (192, 1e-3, 0.1, 64, 4),
    "xl": (192, 1e-3, 0.2, 32, 4),
}
OPTIONS = ("paper", "runlocal")


def get_config(arg="s"):
    """The recipe for "SIZE[,OPTION...]"."""
    size, options = parse_argument(arg, tuple(SIZES), OPTIONS, "configs/imagenet22k.py")
    image_size, lr, drop_path, bn_group, accumulate = SIZES[size]
    config = base_config()
    config.task.labels = read_labels("imagenet22k")
    config.task.options = {
        "model": {
            "name": f"unireplknet_{size}",
            "num_classes": 21841,
            "drop_path_rate": drop_path,
            "bn_group": bn_group,
            "dtype": "bfloat16",
            "impl": "auto",  # the form of depthwise convolution, as in ops.depthwise
            "remat": False,
        },
        "image_size": image_size,
        "crop_scale": (0.08, 1.0),
        "flip": True,
        "rand_augment": "rand-m9-mstd0.5-inc1",
        "random_erasing": 0.25,
        "mixup": 0.8,
        "cutmix": 1.0,
        "label_smoothing": 0.1,
    }
    config.data.update({"name": "array_record", "eval_split": "", "train_examples": 14_197_122, "num_threads": 16})
    config.batch_size = 4096
    config.accumulate = accumulate
    config.eval_batch_size = 1024
    config.epochs = 90
    config.optim.lr = 4e-3 if "paper" in options else lr
    config.optim.warmup_epochs = 5
    return run_locally(config) if "runlocal" in options else config
