"""Fine-tuning of published image weights on one's own videos.

    unireplknet train --config finetune_video.py:a --config.data.dir=sports --workdir runs/sports

The folder holds a class per folder below train/ and val/ (sports/train/jump/1.mp4, ...); its classes become those of
the model. With --config.data.name=video_csv it holds train.csv and val.csv instead, a path and a label in each line.
Videos that cannot be decoded end the run, or are passed over with --config.data.broken=skip. Needs PyAV:
pip install 'unireplknet_jax[video]'.

Sizes a f p n t s start from the ImageNet-1K weights, b from ImageNet-22K. Instead of a size:
- small: a network of 0.6 M parameters from scratch on 8 frames of 32 pixels, for a hundred to a few thousand videos on
  a CPU. Clips are cropped and no more: mirrored, a motion is another one.
Options after the size:
- uniform: the frames of a clip spread over the whole video (for Something-Something; there not mirrored either, so add
  --config.task.options.flip=False).
- runlocal: a minute on a CPU, with a small network and videos of moving shapes.

There is no published recipe for this: the original always starts from scratch. Clips, RandAugment and views are those
of configs/kinetics400.py, optimizer and layer decay those of configs/finetune.py; learning rate, warm-up, epochs and
batch are ours. Not trained by us yet. Hardware: one GPU or TPU chip; a clip costs 16 times a picture, so on less lower
--config.task.options.image_size to 112.
"""

from ml_collections.config_dict import placeholder

from unireplknet_jax.configs.common import run_on_moving_shapes, train_small
from unireplknet_jax.models.zoo import find_weights
from unireplknet_jax.train.recipe import base_config, parse_argument

SIZES = ("a", "f", "p", "n", "t", "s", "b", "small")
OPTIONS = ("uniform", "runlocal")


def get_config(arg="a"):
    """The recipe for "SIZE[,OPTION...]"."""
    size, options = parse_argument(arg, SIZES, OPTIONS, "configs/finetune_video.py")
    config = base_config()
    if size != "small":
        config.init = find_weights(f"unireplknet_{size}", "in22k_224" if size == "b" else "in1k_224").file
    config.task.name = "video"
    config.task.options = {
        "model": {
            "name": f"unireplknet_{size}",
            "num_classes": 0,  # 0: as many as the data has
            "drop_path_rate": 0.1,
            "head_init_scale": 0.001,
            "bn_group": placeholder(int),  # all examples of the batch share statistics
            "dtype": "float32",
            "impl": "auto",  # the form of depthwise convolution, as in ops.depthwise
            "remat": True,
        },
        "frames": 16,
        "stride": 4,
        "sampling": "uniform" if "uniform" in options else "dense",
        "segments": 5,
        "crops": 3,
        "layout": "grid",
        "image_size": 224,  # of a frame
        "crop_scale": (0.08, 1.0),
        "flip": True,
        "rand_augment": "rand-m7-n4-mstd0.5-inc1",
        "random_erasing": 0.25,
        "mixup": 0.0,
        "cutmix": 0.0,
        "label_smoothing": 0.1,
        "balance": False,  # True: rare classes are drawn as often as others
    }
    config.data.update({"name": "video_folder", "eval_split": "val", "train_examples": 0})
    config.eval.update({"segments": 1, "crops": 1})
    config.batch_size = 16
    config.eval_batch_size = 16
    config.epochs = 20
    config.log_every = 10
    config.optim.lr = 5e-5
    config.optim.warmup_epochs = 1
    config.optim.weight_decay = 1e-8
    config.optim.layer_decay = 0.8
    if size == "small":
        mild = {"crop_scale": (0.8, 1.0), "flip": False, "rand_augment": "", "random_erasing": 0.0}
        config = train_small(config, 100, frames=8, image_size=32, segments=2, crops=1, **mild)
        config.optim.warmup_epochs = 5.0  # 5 % of the run
    return run_on_moving_shapes(config, epochs=2) if "runlocal" in options else config
