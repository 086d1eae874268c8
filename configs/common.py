"""What several recipes share: their small versions, which run anywhere, mostly on data that are made up. No recipe."""

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from unireplknet_jax.data.clips.moving_shapes import MOTIONS, PER_CLASS
from unireplknet_jax.data.pictures import scenes
from unireplknet_jax.data.shapes.solids import KINDS
from unireplknet_jax.models.variants import VARIANTS

# The network of every `small` recipe: 0.6 M parameters, from scratch.
SMALL = {
    "depths": (1, 1, 2, 1),
    "dims": (20, 40, 80, 160),
    "kernel_sizes": ((3,), (13,), (13, 3), (13,)),
    "layer_scale_init": 1.0,  # 1e-6 is for many thousands of steps
    "num_classes": 0,  # as many as the data has
    "drop_path_rate": 0.0,
    "bn_group": placeholder(int),  # all examples of the batch share statistics
    "dtype": "float32",
    "impl": "auto",
    "remat": False,
}
# What is added to it for a class of every pixel.
SMALL_HEADS = {"channels": 48, "auxiliary_channels": 32, "head_dropout": 0.1}

# What Cascade Mask R-CNN adds to it, as published,
BOX_HEADS = {
    "channels": 256,
    "box_channels": 256,
    "box_features": 1024,
    "mask_channels": 256,
    "masks": True,
    "anchor_scale": 8.0,
    "finest": 56.0,
    "train_proposals": (2000, 2000),
    "test_proposals": (1000, 1000),
    "anchor_counts": (256, 128),
    "region_counts": (512, 128),
    "min_score": 0.05,
    "max_detections": 100,
}
# and narrow ones for objects of 10 to 250 pixels, in small pictures.
SMALL_BOX_HEADS = BOX_HEADS | {
    **dict.fromkeys(("channels", "box_channels", "mask_channels"), 48),
    "box_features": 128,
    "anchor_scale": 4.0,
    "finest": 28.0,
    "train_proposals": (400, 200),
    "test_proposals": (400, 200),
    "region_counts": (64, 16),
}


def layer_groups(name):
    """How many groups of layers layer decay tells apart in a published size, for which dense tasks set it.

    Three blocks of the third stage are one; before them are three, and behind them the last stage.
    """
    return 3 + -(-VARIANTS[name].depths[2] // 3)


def train_small(config, epochs, **options):
    """Turn a recipe for one's own files into one from scratch, for a hundred to a few thousand files on a CPU.

    Reader, task, losses and loop stay those of the recipe. options: of the task, {name: value}; its augmentation has to
    leave alone what may tell classes apart: sides, directions, colours.
    """
    config.init = ""
    config.task.options.model = ConfigDict(SMALL)
    config.task.options.update(options)
    config.batch_size = 16
    config.eval_batch_size = 64
    config.epochs = epochs
    config.eval_every_epochs = epochs / 10
    config.log_every = 20
    config.recalibrate = 16
    config.optim.update({"lr": 2e-3, "warmup_epochs": 2.0, "weight_decay": 0.05, "layer_decay": 1.0})
    return config


def run_locally(config):
    """Shrink an image recipe to a minute on a CPU: a small network on the digits bundled with scikit-learn.

    Reader, augmentation, losses, optimizer, schedule and loop stay those of the recipe.
    """
    config.init = ""
    config.task.labels = tuple("0123456789")
    options = config.task.options
    options.image_size = 64
    options.model = ConfigDict(
        {
            **options.model.to_dict(),
            "depths": (1, 1, 1, 1),
            "dims": (16, 32, 64, 128),
            "kernel_sizes": ((3,), (13,), (13,), (13,)),
            "num_classes": 10,
            "dtype": "float32",
            "bn_group": 16,
            "layer_scale_init": 1.0,
        }
    )
    config.data.update({"name": "digits", "dir": "", "train_split": "train", "train_examples": 1437})
    config.data.eval_split = config.data.eval_split and "test"
    config.batch_size = 64
    config.accumulate = min(config.accumulate, 2)
    config.eval_batch_size = 120
    config.epochs = 2
    config.eval_every_epochs = 1
    config.log_every = 5
    config.mesh.fsdp = 1
    config.optim.lr = min(config.optim.lr, 1e-3)
    config.optim.warmup_epochs = min(config.optim.warmup_epochs, 0.5)
    config.ema.decay = min(config.ema.decay, 0.9)
    return config


def run_on_moving_shapes(config, epochs):
    """Shrink a recipe for clips to minutes on a CPU: a small network on rendered moving shapes.

    Reader, task, losses, optimizer, schedule and loop stay those of the recipe; what mirrors, erases or mixes motions
    is left out.
    """
    config.init = ""
    config.task.labels = tuple(MOTIONS)
    options = config.task.options
    options.model = ConfigDict(
        {
            **options.model.to_dict(),
            "depths": (1, 2, 1, 1),
            "dims": (16, 32, 64, 64),
            "kernel_sizes": ((3,), (13, 13), (13,), (13,)),
            "num_classes": len(MOTIONS),
            "drop_path_rate": 0.0,
            "dtype": "float32",
            "bn_group": 32,
            "remat": False,
            "layer_scale_init": 1.0,
        }
    )
    options.update({"frames": 8, "stride": 3, "segments": 2, "crops": 1, "image_size": 32, "crop_scale": None})
    options.update({"flip": False, "rand_augment": "", "random_erasing": 0.0, "mixup": 0.0, "cutmix": 0.0})
    examples = PER_CLASS["train"] * len(MOTIONS)
    config.data.update({"name": "moving_shapes", "dir": "", "eval_split": "test", "train_examples": examples})
    config.data.num_threads = 2
    config.batch_size = 32
    config.accumulate = 1
    config.eval_batch_size = 80
    config.epochs = epochs
    config.eval_every_epochs = min(2, epochs)
    config.log_every = 10
    config.optim.update({"lr": 3e-3, "warmup_epochs": epochs / 10, "layer_decay": 1.0, "weight_decay": 0.05})
    return config


def train_on_solids(config):
    """Make a recipe for shapes small enough for one core: a small network on synthetic solids.

    Task, losses, optimizer, schedule and loop stay those of the recipe.
    """
    config.task.labels = KINDS
    config.task.options.model = {
        "depths": (1, 1, 2, 1),
        "dims": (16, 32, 64, 128),
        "kernel_sizes": ((3,), (13,), (13, 3), (13,)),
        "layer_scale_init": 1.0,  # 1e-6 is for many thousands of steps
        "num_classes": 10,
        "graph_dim": 16,
        "drop_path_rate": 0.0,
        "bn_group": placeholder(int),
        "dtype": "float32",
        "impl": "auto",
        "remat": False,
    }
    config.task.options.update(
        {"points": 512, "raw_points": 1024, "view_size": 42, "object_size": 42, "neighbours": 16}
    )
    config.task.options.unit_sphere = True
    config.task.options.votes = 8
    config.data.update({"name": "solids", "dir": "", "train_examples": 600, "num_threads": 2})
    config.batch_size = 32
    config.eval_batch_size = 40
    config.epochs = 9
    config.eval_every_epochs = 9
    config.log_every = 18
    config.optim.update({"lr": 2e-3, "warmup_epochs": 1.0})
    return config


def run_on_solids(config):
    """Shrink a recipe for shapes to a minute on a CPU, on the solids of `train_on_solids`."""
    config = train_on_solids(config)
    config.batch_size = 8  # of larger batches there are too few for the running statistics: evaluation would be chance
    config.eval.votes = 1
    config.task.options.update({"view_size": 28, "object_size": 28, "points": 128, "raw_points": 256, "neighbours": 8})
    config.eval_every_epochs = 1
    config.epochs = 2
    config.log_every = 5
    config.optim.warmup_epochs = 0.5
    return config


def train_on_scenes(config):
    """Make a recipe for masks small enough for two cores: a small network on synthetic scenes of clothes.

    Task, losses, schedule and loop stay those of the recipe; the network starts from random numbers.
    """
    config.init = ""
    config.task.options.model = ConfigDict(SMALL | SMALL_HEADS | {"num_classes": len(scenes.LABELS)})
    size = scenes.SIZE
    # Scenes are drawn in any colours and light, and their items in any size: what is changed besides costs time alone.
    config.task.options.update({"scale": None, "crop": size, "ratio": (1.0, 1.0), "flip": True, "distortion": False})
    config.task.options.update({"stride": 85, "buckets": ((size, size),)})
    config.data.update({"name": "scenes", "dir": "", "train_split": "train", "eval_split": "test", "num_threads": 2})
    config.data.train_examples = scenes.COUNTS["train"]
    config.batch_size = 8
    config.eval_batch_size = 16
    config.epochs = 0.0
    config.steps = 6000
    config.eval_every_epochs = 0.0
    config.eval_every_steps = 1500
    config.checkpoint.every_steps = 1500
    config.log_every = 100
    config.optim.update({"lr": 6e-3, "warmup_epochs": 0.0, "warmup_steps": 100, "layer_decay": 1.0})
    return config


def run_on_scenes(config):
    """Shrink a recipe for masks to a minute on a CPU, on the scenes of `train_on_scenes`."""
    config = train_on_scenes(config)
    config.task.options.update({"crop": 48, "stride": 32, "ratio": (0.75, 1.5), "distortion": True})
    config.batch_size = 32
    config.steps = 0
    config.epochs = 2
    config.eval_every_steps = 0
    config.eval_every_epochs = 1
    config.log_every = 5
    config.optim.update({"lr": 2e-3, "warmup_steps": 0, "warmup_epochs": 0.5})
    return config


def train_on_cells(config):
    """Make a recipe for masks small enough for two cores: the network of `train_on_scenes` on cells in pictures.

    These are 16 pictures of 1100 x 700 pixels, so a step sees parts of half of them.
    """
    config = train_on_scenes(config)
    config.task.options.model.num_classes = 2
    config.task.options.update({"crop": 256, "stride": 170, "buckets": ((704, 1120),)})
    config.task.options.update({"ratio": (0.75, 1.5), "distortion": True})
    config.data.update({"name": "hela", "train_examples": 16})
    config.batch_size = 8
    config.eval_batch_size = 8
    config.steps = 600
    config.eval_every_steps = 100
    config.checkpoint.every_steps = 100
    config.log_every = 50
    config.optim.update({"lr": 2e-3, "warmup_steps": 30})
    return config


def train_on_box_scenes(config):
    """Make a recipe for boxes small enough for two cores: a small network on synthetic scenes of clothes.

    Task, losses and loop stay those of the recipe; the network starts from random numbers.
    """
    size = scenes.SIZE
    config.init = ""
    config.task.options.model = ConfigDict(SMALL | SMALL_BOX_HEADS | {"num_classes": len(scenes.LABELS) - 1})
    config.task.options.model.update({"box_channels": 32, "mask_channels": 32})
    config.task.options.model.update({"train_proposals": (200, 64), "region_counts": (32, 8)})
    config.task.options.update({"scale": None, "crop": None, "flip": True, "objects": 8, "mask_bytes": 2**12})
    config.task.options.update({"short_sides": (112, 120, 128), "longest": size, "buckets": ((size, size),)})
    config.data.update({"name": "scenes", "dir": "", "train_split": "train", "eval_split": "test", "num_threads": 2})
    config.data.train_examples = scenes.COUNTS["train"]
    config.batch_size = 8
    config.eval_batch_size = 16
    config.epochs = 0.0
    config.steps = 1500
    config.eval_every_epochs = 0.0
    config.eval_every_steps = 500
    config.checkpoint.every_steps = 500
    config.log_every = 50
    config.ema.update({"decay": 0.0, "ramp": "", "ramp_steps": 2000})
    config.optim.update({"lr": 2e-3, "schedule": "cosine", "milestones": (), "warmup_epochs": 0.0})
    config.optim.update({"warmup_steps": 100, "warmup_ratio": None, "layer_decay": 1.0})
    return config


def run_on_box_scenes(config):
    """Shrink a recipe for boxes to minutes on a CPU, on the scenes of `train_on_box_scenes`, with heads of a third."""
    config = train_on_box_scenes(config)
    config.task.options.model.update(dict.fromkeys(("channels", "box_channels", "mask_channels"), 16))
    config.task.options.model.update({"box_features": 32, "max_detections": 20, "region_counts": (32, 8)})
    config.task.options.model.update({"train_proposals": (100, 50), "test_proposals": (100, 50)})
    config.task.options.update({"scale": (64, 64), "short_sides": (64,), "longest": 64, "buckets": ((64, 64),)})
    config.batch_size = 32
    config.steps = 0
    config.epochs = 2
    config.eval_every_steps = 0
    config.eval_every_epochs = 1
    config.log_every = 5
    config.optim.update({"warmup_steps": 0, "warmup_epochs": 0.5})
    return config


def train_on_box_cells(config):
    """Make a recipe for boxes small enough for two cores: the network of `train_on_box_scenes` on cells in pictures.

    It learns from parts of 16 pictures, and is measured on four whole ones with some 190 cells each.
    """
    config = train_on_box_scenes(config)
    config.task.options.model.update({"num_classes": 1, "max_detections": 300, "test_proposals": (1000, 600)})
    config.task.options.model.update({"train_proposals": (200, 100), "region_counts": (64, 24)})
    config.task.options.update({"short_sides": (192, 224, 256), "longest": 256, "buckets": ((256, 256),)})
    config.task.options.update({"objects": 32, "mask_bytes": 2**14})
    config.data.update({"name": "hela", "train_examples": 640})
    config.batch_size = 4
    config.eval_batch_size = 2
    config.steps = 600
    config.eval_every_steps = 200
    config.checkpoint.every_steps = 200
    config.optim.warmup_steps = 50
    return config


def train_on_trees(config):
    """Make a recipe for boxes small enough for two cores: as `train_on_box_cells`, on trees from above, without masks.

    It learns from parts of one photograph, and is measured on another one, whole, with 279 trees.
    """
    config = train_on_box_cells(config)
    config.task.options.model.update({"masks": False, "max_detections": 400})
    config.task.options.update({"short_sides": (256, 288, 320), "longest": 320, "buckets": ((320, 320),)})
    config.task.options.objects = 48
    config.data.update({"name": "trees", "train_examples": 199})
    config.steps = 400
    return config
