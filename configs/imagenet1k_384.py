"""Fine-tuning of ImageNet-22K weights on ImageNet-1K at 384 pixels.

    unireplknet train --config imagenet1k_384.py:s --workdir gs://BUCKET/s384

| size | published top-1 | GPUs x batch x accumulation, as released | epochs | smoothing | drop path | moving average |
|---|---|---|---|---|---|---|
| s | 86.4 | 4 x 64 x 2 | 30 | 0.1 | 0.2 | no |
| b | 87.4 | 4 x 64 x 2 | 30 | 0.1 | 0.2 | no |
| l | 87.9 | 4 x 64 x 2 | 20 | 0.3 | 0.3 | 0.9999, evaluated |
| xl | 88.0 | 8 x 32 x 2 | 20 | 0.3 | 0.3 | 0.9999, evaluated |

Values: the released commands (Image/README.md of the original), which abort as they stand because layer decay asks for
names of another model; the layer ids are the original's. Option after the size:
- runlocal: a minute on a CPU, with a small network and the digits bundled with scikit-learn.

`init` is the published 22K file, downloaded if it is not there; its 21,841-class head is replaced by a fresh one,
scaled by 0.001. Images are resized to 384 x 384 as a whole for evaluation, without a crop.
Hardware: the batch is 512; xl splits its state over devices with --config.mesh.fsdp=8 (`unireplknet plan` tells what
fits). Computation is in bfloat16 where the release used float32. Nobody has trained this recipe with this code: the
accuracies are the published ones. Input: --config.data.workers=N, see configs/imagenet1k.py.
"""

from unireplknet_jax.configs.common import run_locally
from unireplknet_jax.data.label_names import read_labels
from unireplknet_jax.train.recipe import base_config, parse_argument

SIZES = {  # epochs, smoothing, drop path, decay of the moving average, examples that share batch statistics
    "s": (30, 0.1, 0.2, 0.0, 64),
    "b": (30, 0.1, 0.2, 0.0, 64),
    "l": (20, 0.3, 0.3, 0.9999, 64),
    "xl": (20, 0.3, 0.3, 0.9999, 32),
}
OPTIONS = ("runlocal",)


def get_config(arg="s"):
    """The recipe for "SIZE[,OPTION...]"."""
    size, options = parse_argument(arg, tuple(SIZES), OPTIONS, "configs/imagenet1k_384.py")
    epochs, smoothing, drop_path, ema_decay, bn_group = SIZES[size]
    config = base_config()
    config.init = f"unireplknet_{size}_in22k_pretrain.pth"
    config.task.labels = read_labels("imagenet1k")
    config.task.options = {
        "model": {
            "name": f"unireplknet_{size}",
            "num_classes": 1000,
            "drop_path_rate": drop_path,
            "head_init_scale": 0.001,
            "bn_group": bn_group,
            "dtype": "bfloat16",
            "impl": "auto",  # the form of depthwise convolution, as in ops.depthwise
            "remat": False,
        },
        "image_size": 384,
        "crop_scale": (0.08, 1.0),
        "flip": True,
        "rand_augment": "rand-m9-mstd0.5-inc1",
        "random_erasing": 0.25,
        "mixup": 0.0,
        "cutmix": 0.0,
        "label_smoothing": smoothing,
    }
    config.data.update({"name": "tfds:imagenet2012", "eval_split": "validation", "train_examples": 1_281_167})
    config.data.num_threads = 16
    config.batch_size = 512
    config.accumulate = 2
    config.eval_batch_size = 512
    config.epochs = epochs
    config.ema.decay = ema_decay
    config.optim.lr = 5e-5
    config.optim.weight_decay = 1e-8
    config.optim.layer_decay = 0.8
    return run_locally(config) if "runlocal" in options else config
