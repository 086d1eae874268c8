"""Detection of the objects in one's own pictures, with boxes or masks, from published ImageNet weights.

    unireplknet train --config finetune_boxes.py:a --config.data.dir=birds --workdir runs/birds

The folder holds pictures and annotations of the splits train and val in one of five forms: COCO's JSON, YOLO's texts,
Pascal VOC's XML, LabelMe's JSON, or a table of boxes as CSV; docs/detection.md says where each is looked for, and
`unireplknet check-data birds` what is odd in them. Where objects have masks these are learned, too. Files that cannot
be read end the run, or are passed over with --config.data.broken=skip.

Sizes a f p n t start from the ImageNet-1K weights at 224 pixels, s b l xl from those of ImageNet-22K that were trained
on ImageNet-1K at 384. Instead of a size:
- small: a network of 2.1 M parameters from scratch on 256 pixels, for ten to a few thousand pictures on a CPU. Pictures
  are resized a little and no more, as mirroring may make another class of an object; where it does not,
  --config.task.options.flip=True helps. It finds objects of 10 to 250 pixels.
Option after the size:
- runlocal: minutes on a CPU, with a small network and made-up scenes of clothes.

Pictures are resized to 800 pixels on the short side for the test. Small objects in large pictures are found with
--config.task.options.tile=1024, which looks at windows of the picture as it is; more than 100 objects in a picture with
--config.task.options.objects=400 --config.task.options.model.max_detections=400.

There is no published recipe for this: augmentation, losses and optimizer are those of configs/coco.py; schedule,
epochs, batch, drop path and the layer decay of a f p n are ours. With fewer than a few hundred pictures lengthen
`epochs`. Not trained by us yet. Hardware: one GPU or TPU chip; small on any laptop.
"""

from ml_collections.config_dict import placeholder

from unireplknet_jax.configs.common import (
    BOX_HEADS,
    SMALL_BOX_HEADS,
    layer_groups,
    run_on_box_scenes,
    train_small,
)
from unireplknet_jax.models.zoo import find_weights
from unireplknet_jax.train.recipe import base_config, parse_argument

SIZES = ("a", "f", "p", "n", "t", "s", "b", "l", "xl", "small")
TAGS = dict.fromkeys(("s", "b", "l", "xl"), "in22k_ft_in1k_384")
OPTIONS = ("runlocal",)


def get_config(arg="a"):
    """The recipe for "SIZE[,OPTION...]"."""
    size, options = parse_argument(arg, SIZES, OPTIONS, "configs/finetune_boxes.py")
    name = f"unireplknet_{size}"
    config = base_config()
    config.task.name = "detection"
    config.task.options = {
        "model": BOX_HEADS
        | {
            "name": name,
            "num_classes": 0,  # 0: as many as the data has
            "drop_path_rate": 0.1,
            "bn_group": placeholder(int),  # all pictures of the batch share statistics
            "dtype": "float32",
            "impl": "auto",  # the form of depthwise convolution, as in ops.depthwise
            "remat": False,
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
        "white": 0,  # of pictures deeper than 8 bits; 0: what their files say
    }
    config.data.update({"name": "boxes", "eval_split": "val", "train_examples": 0})
    config.data.update({"annotations": "", "pictures": "", "classes": ""})
    config.data.update({"first_pixel": placeholder(int), "keep_empty": False, "least_side": 32})
    config.eval.update({"scales": (1.0,), "mirror": False, "tile": 0})
    config.batch_size = 8
    config.eval_batch_size = 8
    config.epochs = 50
    config.eval_every_epochs = 5
    config.log_every = 10
    config.optim.update({"lr": 1e-4, "warmup_epochs": 1.0})
    if size == "small":
        sides = {"short_sides": (192, 224, 256), "longest": 352, "crop": None, "flip": False}
        place = {"scale": (352, 256), "buckets": ((256, 352), (352, 256)), "mask_bytes": 2**17}
        config = train_small(config, 100, **sides, **place)
        config.task.options.model.update(SMALL_BOX_HEADS)
    else:
        config.init = find_weights(name, TAGS.get(size, "in1k_224")).file
        config.optim.update({"layer_decay": 0.8, "layer_groups": layer_groups(name)})
    return run_on_box_scenes(config) if "runlocal" in options else config
