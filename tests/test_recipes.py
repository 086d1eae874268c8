"""The recipes in configs/: every argument resolves to a run that can start, with the published values."""

import argparse
import itertools
import math
import runpy

import jax
import numpy as np
import pytest
from PIL import Image
from recipes import CONFIGS, FILES, MADE_UP, load
from splits import examples_of, fitted_to

from unireplknet_jax.cli.train import load_config
from unireplknet_jax.models.complexity import count_parameters
from unireplknet_jax.train.optimizer import make_schedule
from unireplknet_jax.train.recipe import value_of
from unireplknet_jax.train.setup import make_task, set_up
from unireplknet_jax.train.sharding import make_mesh

STARTED = ("ade20k", "audioset", "cifar100", "coco", "finetune", "finetune_boxes", "finetune_masks", "finetune_sounds")
STARTED += ("finetune_video", "imagenet1k_384")
SCRATCH = ("scratch", "small", "scenes", "hela", "trees")
QUICK = (
    "ade20k:runlocal",
    "coco:runlocal",
    "finetune:runlocal",
    "imagenet1k:a,runlocal",
    "modelnet40:solids",
    "small_images:digits",
    "station_weather:runlocal",
)


def arguments(name):
    """Every argument of a recipe: a size, an option, a size with an option; "" is the default."""
    recipe = runpy.run_path(str(CONFIGS / f"{name}.py"))
    if "ARGUMENTS" in recipe:
        return ["", *recipe["ARGUMENTS"]]
    sizes, options = list(recipe["SIZES"]), list(recipe["OPTIONS"])
    return ["", *sizes, *options, *map(",".join, itertools.product(sizes, options))]


ALL = [f"{name}:{arg}".rstrip(":") for name in FILES for arg in arguments(name)]


@pytest.mark.parametrize("recipe", ALL)
def test_every_argument_resolves_and_states_what_a_plan_needs(recipe):
    config = load(recipe)
    assert config.batch_size > 0
    assert config.batch_size % config.accumulate == 0
    assert config.eval_batch_size > 0
    if config.steps:
        assert (config.epochs, config.eval_every_epochs, config.optim.warmup_epochs) == (0, 0, 0)
        assert config.steps > config.eval_every_steps > config.optim.warmup_steps > 0
    else:
        assert config.epochs > config.optim.warmup_epochs
    if recipe in ("station_weather:csv", "station_weather:small"):
        assert (config.data.train_examples, config.task.options.stations) == (0, 0)
    elif recipe.startswith(("finetune", "modelnet40:folder", "modelnet40:small")) and "runlocal" not in recipe:
        assert config.data.train_examples == 0
        assert config.task.options.model.num_classes == 0
    else:
        assert config.data.train_examples > config.batch_size
        assert len(config.task.labels) in (0, config.task.options.model.get("num_classes"))
    if "runlocal" in recipe:
        assert (config.data.name, config.data.dir, config.init) == (MADE_UP[config.task.name][0], "", "")
        assert config.epochs == 2
        assert (config.batch_size % 8, config.eval_batch_size % 8) == (0, 0)  # as many devices as the tests have


# As published, or as counted by whoever made them up; the last word of an argument that stands here decides.
TRAIN_EXAMPLES = {
    "ade20k": 20_210,
    "ade20k:hela": 16,
    "ade20k:scenes": 4000,
    "ade20k:runlocal": 4000,
    "audioset": 2_041_789,
    "audioset:balanced": 22_160,
    "audioset:runlocal": 400,
    "cifar100": 50_000,
    "cifar100:runlocal": 1437,
    "coco": 117_266,
    "coco:hela": 640,
    "coco:scenes": 4000,
    "coco:trees": 199,
    "coco:runlocal": 4000,
    "finetune": 0,
    "finetune:runlocal": 1437,
    "finetune_boxes": 0,
    "finetune_boxes:runlocal": 4000,
    "finetune_masks": 0,
    "finetune_masks:runlocal": 4000,
    "finetune_sounds": 0,
    "finetune_sounds:runlocal": 400,
    "finetune_video": 0,
    "finetune_video:runlocal": 960,
    "global_weather": 12_209,
    "global_weather:runlocal": 1015,
    "imagenet1k": 1_281_167,
    "imagenet1k:runlocal": 1437,
    "imagenet1k_384": 1_281_167,
    "imagenet1k_384:runlocal": 1437,
    "imagenet22k": 14_197_122,
    "imagenet22k:runlocal": 1437,
    "kinetics400": 240_436,
    "kinetics400:synthetic": 960,
    "kinetics400:runlocal": 960,
    "modelnet40": 9843,
    "modelnet40:folder": 0,
    "modelnet40:small": 0,
    "modelnet40:solids": 600,
    "modelnet40:runlocal": 600,
    "scanobjectnn": 11_416,
    "scanobjectnn:runlocal": 600,
    "small_images": 1437,
    "small_images:fashion_mnist": 60_000,
    "small_images:fashion_mnist_full": 60_000,
    "speech_commands": 84_843,
    "speech_commands:synthetic": 6160,
    "speech_commands:runlocal": 400,
    "station_weather": 6040,
    "station_weather:irish_wind": 4586,
    "station_weather:csv": 0,
    "station_weather:small": 0,
    "station_weather:runlocal": 997,
}


@pytest.mark.parametrize("recipe", ALL)
def test_the_training_examples_are_those_of_the_data(recipe):
    name, _, arg = recipe.partition(":")
    stated = [key for key in (f"{name}:{word}" for word in arg.split(",")) if key in TRAIN_EXAMPLES]
    assert load(recipe).data.train_examples == TRAIN_EXAMPLES[[name, *stated][-1]]


@pytest.mark.parametrize(
    "recipe", [pytest.param(recipe, marks=() if recipe in QUICK else pytest.mark.slow) for recipe in ALL]
)
def test_every_argument_makes_a_network_and_its_state(recipe):
    config = load(recipe)
    options = config.task.options
    if options.model.get("num_classes") == 0:
        options.model.num_classes = 17
    if options.get("stations") == 0:
        options.stations = 12
    examples = config.data.train_examples or 10_000
    task = make_task(config)
    # Some recipes are for one device as released.
    devices = math.gcd(8, config.batch_size // config.accumulate, config.eval_batch_size)
    run = set_up(config, task, make_mesh(devices=jax.devices()[:devices]), examples)
    assert run.steps == (config.steps or math.floor(examples // config.batch_size * config.epochs))
    highest = config.optim.lr
    if config.optim.schedule == "polynomial":  # which falls from the first step on, where it is warmed up to 1 - t / T
        highest *= 1 - np.argmax(run.schedule) / run.steps
    assert run.schedule.max() == pytest.approx(highest)
    assert ("ema" in run.state) == (config.ema.decay > 0)
    module = task.module()
    if config.task.name == "forecasting":
        kernel = run.state["params"]["decoder"]["projection"]["kernel"]
        assert kernel.shape == (module.width, options.stations // math.prod(module.tree))
        return
    if config.task.name == "detection":
        shapes = [run.state["params"][f"bbox_head_{stage}"]["fc_cls"]["kernel"].shape for stage in range(3)]
        assert shapes == [(options.model.box_features, module.num_classes + 1)] * 3
        assert ("mask_head_0" in run.state["params"]) == options.model.masks
        return
    if config.task.name == "segmentation":
        for head, width in (("decode", options.model.channels), ("auxiliary", options.model.auxiliary_channels)):
            assert run.state["params"][f"{head}_head"]["conv_seg"]["kernel"].shape == (1, 1, width, module.num_classes)
        return
    kernel = run.state["params"]["head"]["kernel"]
    assert isinstance(kernel, jax.ShapeDtypeStruct)
    maps = len(getattr(module, "views", (0,)))
    assert kernel.shape == (maps * getattr(module, "backbone", module).dims[-1], module.num_classes)


@pytest.mark.parametrize("recipe", ["global_weather:runlocal", "station_weather:runlocal"])
def test_a_recipe_of_made_up_weather_states_how_many_windows_there_are(recipe):
    config = load(recipe)
    data = {**config.data.to_dict(), "seed": 0}
    task = fitted_to(make_task(config), data)
    assert len(examples_of(task, data, data["train_split"], train=False)) == config.data.train_examples


# The released commands; the journal's tables where the options say so.
COMMON = {"weight_decay": 0.05, "layer_decay": 1.0, "smoothing": 0.1, "ema": 0.0, "head_init_scale": None}
FINE = {"lr": 5e-5, "weight_decay": 1e-8, "layer_decay": 0.8, "head_init_scale": 0.001, "mixup": 0.0, "cutmix": 0.0}
K1 = COMMON | {"classes": 1000, "lr": 4e-3, "epochs": 300, "warmup": 20, "pixels": 224, "batch": 4096}
K22 = COMMON | {"classes": 21841, "epochs": 90, "warmup": 5, "mixup": 0.8, "cutmix": 1.0, "batch": 4096}
K384 = COMMON | FINE | {"classes": 1000, "warmup": 0, "pixels": 384, "batch": 512}
PUBLISHED = {
    "imagenet1k:a": K1 | {"gpus": (4, 128, 8), "drop_path": 0.0, "mixup": 0.3, "cutmix": 0.3},
    "imagenet1k:f": K1 | {"gpus": (4, 128, 8), "drop_path": 0.0, "mixup": 0.3, "cutmix": 0.3},
    "imagenet1k:p": K1 | {"gpus": (4, 128, 8), "drop_path": 0.1, "mixup": 0.3, "cutmix": 0.3},
    "imagenet1k:n": K1 | {"gpus": (4, 128, 8), "drop_path": 0.1, "mixup": 0.5, "cutmix": 0.5},
    "imagenet1k:t": K1 | {"gpus": (4, 128, 8), "drop_path": 0.2, "mixup": 0.8, "cutmix": 1.0},
    "imagenet1k:s": K1 | {"gpus": (8, 64, 8), "drop_path": 0.4, "mixup": 0.8, "cutmix": 1.0},
    "imagenet22k:s": K22 | {"gpus": (16, 32, 8), "lr": 4e-3, "pixels": 224, "drop_path": 0.1},
    "imagenet22k:b": K22 | {"gpus": (16, 32, 8), "lr": 4e-3, "pixels": 224, "drop_path": 0.1},
    "imagenet22k:l": K22 | {"gpus": (16, 64, 4), "lr": 1e-3, "pixels": 192, "drop_path": 0.1},
    "imagenet22k:xl": K22 | {"gpus": (32, 32, 4), "lr": 1e-3, "pixels": 192, "drop_path": 0.2},
    "imagenet1k_384:s": K384 | {"gpus": (4, 64, 2), "epochs": 30, "drop_path": 0.2},
    "imagenet1k_384:b": K384 | {"gpus": (4, 64, 2), "epochs": 30, "drop_path": 0.2},
    "imagenet1k_384:l": K384 | {"gpus": (4, 64, 2), "epochs": 20, "drop_path": 0.3, "smoothing": 0.3, "ema": 0.9999},
    "imagenet1k_384:xl": K384 | {"gpus": (8, 32, 2), "epochs": 20, "drop_path": 0.3, "smoothing": 0.3, "ema": 0.9999},
}


def values(config):
    """The fields of a recipe that `PUBLISHED` has, but for its GPUs."""
    options = config.task.options
    return {
        "classes": options.model.num_classes,
        "drop_path": options.model.drop_path_rate,
        "head_init_scale": options.model.get("head_init_scale"),
        "pixels": options.image_size,
        "mixup": options.mixup,
        "cutmix": options.cutmix,
        "smoothing": options.label_smoothing,
        "lr": config.optim.lr,
        "weight_decay": config.optim.weight_decay,
        "layer_decay": config.optim.layer_decay,
        "warmup": config.optim.warmup_epochs,
        "epochs": config.epochs,
        "batch": config.batch_size,
        "ema": config.ema.decay,
    }


@pytest.mark.parametrize("recipe", PUBLISHED)
def test_the_values_are_the_published_ones(recipe):
    config, published = load(recipe), dict(PUBLISHED[recipe])
    gpus, bn_group, accumulate = published.pop("gpus")
    assert values(config) == published
    assert (config.task.options.model.bn_group, config.accumulate) == (bn_group, accumulate)
    assert gpus * bn_group * accumulate == config.batch_size
    model, options = config.task.options.model, config.task.options
    assert model.name == "unireplknet_" + recipe.partition(":")[2]
    assert (options.random_erasing, options.rand_augment) == (0.25, "rand-m9-mstd0.5-inc1")
    assert (options.crop_scale, options.flip) == ((0.08, 1.0), True)
    assert (config.optim.name, config.optim.b1, config.optim.b2, config.optim.eps) == ("adamw", 0.9, 0.999, 1e-8)
    assert (config.optim.min_lr, config.optim.clip_norm) == (1e-6, 0.0)
    assert config.optim.weight_decay_end in (None, config.optim.weight_decay)


def test_the_recipe_for_spoken_words_is_the_released_one():
    """Audio/egs/speechcommands/run_sc.sh of the original."""
    config = load("speech_commands")
    options, optim = config.task.options, config.optim
    assert (options.model.name, options.model.num_classes, options.model.drop_path_rate) == ("unireplknet_s", 35, 0.4)
    assert (options.frames, options.mels, options.mean, options.std) == (128, 128, -6.845978, 5.5654526)
    assert (options.mixup, options.freq_mask, options.time_mask, options.noise, options.roll) == (0.6, 48, 48, 0.1, 10)
    assert (options.loss_kind, options.fill, config.batch_size, config.epochs) == ("bce", 0.0, 128, 100)
    assert (optim.name, optim.lr, optim.b1, optim.b2, optim.eps) == ("adam", 2.5e-4, 0.95, 0.999, 1e-8)
    assert (optim.weight_decay, optim.decay_rule, optim.warmup_epochs) == (5e-7, "all", 0.0)
    rates = make_schedule(optim, config.epochs, 1)
    np.testing.assert_allclose(rates, [2.5e-4 * 0.85 ** max(0, epoch - 5) for epoch in range(1, 101)], rtol=1e-12)
    better = load("speech_commands:cosine")
    assert make_schedule(better.optim, better.epochs, 1)[50] > 1e-4
    assert better.task.to_dict() == config.task.to_dict()


def test_the_recipe_for_global_weather_is_the_released_one():
    """Time-Series/scripts of the original; one step an epoch shows the schedule."""
    for variable in ("temp", "wind"):
        config = load(f"global_weather:{variable}")
        options, optim = config.task.options, config.optim
        decoder, model = options.decoder, options.model
        assert (options.tree, options.stations, options.scaling) == ((7, 50), 3850, "none")
        assert (options.history, options.label, options.horizon) == (48, 24, 24)
        assert (decoder.width, decoder.heads, decoder.hidden, decoder.layers) == (768, 16, 2048, 1)
        assert (decoder.moving_average, decoder.dropout, model.drop_path_rate, model.bn_group) == (25, 0.05, 0.4, 350)
        assert model.kernel_sizes == ((3,) * 3, (13,) * 3, (13, 3, 3) * 9, (11,) * 3)
        assert (config.data.name, config.batch_size, config.epochs) == (f"global_{variable}", 1, 10)
        assert (config.seed, config.stop.patience, config.stop.metric) == (2021, 3, "")
        assert (optim.name, optim.weight_decay, optim.b1, optim.b2, optim.eps) == ("adam", 0.0, 0.9, 0.999, 1e-8)
        rates = make_schedule(optim, config.epochs, 1)
        np.testing.assert_allclose(rates, [1e-4 * 0.5 ** max(0, epoch - 2) for epoch in range(1, 11)], rtol=1e-12)


@pytest.mark.parametrize(("arg", "rate", "epochs", "steps"), [("balanced", 5e-5, 25, 1846), ("full", 1e-5, 5, 170_149)])
def test_audioset_is_warmed_up_for_a_thousand_steps_as_in_ast(arg, rate, epochs, steps):
    config = load(f"audioset:{arg}")
    assert config.epochs == epochs
    rates = make_schedule(config.optim, epochs, steps, config.batch_size)
    np.testing.assert_array_equal(rates[:1001], [*np.linspace(0, rate, 1000), rate])


# segmentation/configs of the original: weights to start from, crop, drop path, layer decay, groups of layers.
IN22K = "in22k_to_in1k_384_acc"
ADE20K = {
    "t": ("t_in1k_224_acc83.21", 512, 0.2, 1.0, 9),
    "s": ("s_in1k_224_acc83.91", 512, 0.3, 0.9, 12),
    "s,in22k": (f"s_{IN22K}86.44", 512, 0.3, 0.9, 12),
    "s,in22k,640": (f"s_{IN22K}86.44", 640, 0.3, 0.9, 12),
    "b": (f"b_{IN22K}87.40", 640, 0.3, 0.9, 12),
    "l": (f"l_{IN22K}87.88", 640, 0.4, 0.85, 12),
    "xl": (f"xl_{IN22K}87.96", 640, 0.4, 0.85, 12),  # not released: as L
}


@pytest.mark.parametrize("arg", ADE20K)
def test_ade20k_is_the_released_configuration(arg):
    weights, crop, drop_path, decay, groups = ADE20K[arg]
    config = load(f"ade20k:{arg}")
    options, optim = config.task.options.to_dict(), config.optim
    assert config.init == f"unireplknet_{weights}.pth"
    assert options.pop("model") == {
        **{"name": f"unireplknet_{arg.partition(',')[0]}", "num_classes": 150, "drop_path_rate": drop_path},
        **{"channels": 512, "auxiliary_channels": 256, "head_dropout": 0.1, "bn_group": 16},
        **{"dtype": "bfloat16", "impl": "auto", "remat": arg != "t"},
    }
    wide = {512: (704, 1024), 640: (864, 1280)}[crop]  # 683 and 853 up to multiples of 32, and twice the short side
    assert options == {
        **{"scale": (4 * crop, crop), "crop": crop, "ratio": (0.5, 2.0), "cat_max_ratio": 0.75, "flip": True},
        **{"distortion": True, "loss_average": "all", "auxiliary_weight": 0.4, "mode": "whole"},
        **{"stride": {512: 341, 640: 426}[crop], "scales": (1.0,), "mirror": False},
        "buckets": ((crop, wide[0]), (wide[0], crop), (crop, wide[1])),
    }
    assert (config.data.name, config.data.reduce_zero_label, config.data.ignore) == ("ade20k", True, 255)
    assert (config.batch_size, config.steps, config.eval_every_steps) == (16, 160_000, 4000)
    assert (config.checkpoint.every_steps, config.ema.decay) == (4000, 0.0)
    assert (optim.name, optim.lr, optim.b1, optim.b2, optim.eps) == ("adamw", 1e-4, 0.9, 0.999, 1e-8)
    assert (optim.weight_decay, optim.decay_rule, optim.clip_norm) == (0.05, "matrices", 0.0)
    assert (optim.layer_decay, optim.layer_groups) == (decay, groups)
    rates = make_schedule(optim, 160_000 / 1263, 1263, config.batch_size)
    t = np.array([0, 1, 750, 1499, 1500, 80_000, 159_999])
    warm_up = np.where(t < 1500, 1 - (1 - t / 1500) * (1 - 1e-6), 1)
    # The two differences lose six digits of the first factor, which is 1e-6.
    np.testing.assert_allclose(rates[t], 1e-4 * (1 - t / 160_000) * warm_up, rtol=1e-9)


# detection/configs of the original: weights to start from, drop path, layer decay, whether there is a moving average.
COCO = {
    "t": ("t_in1k_224_acc83.21", 0.3, 0.8, False),
    "s": ("s_in1k_224_acc83.91", 0.5, 0.8, False),
    "s,in22k": (f"s_{IN22K}86.44", 0.5, 0.8, True),
    "b": (f"b_{IN22K}87.40", 0.6, 0.8, True),
    "l": (f"l_{IN22K}87.88", 0.7, 0.7, True),
    "xl": (f"xl_{IN22K}87.96", 0.7, 0.7, True),
}


@pytest.mark.parametrize("arg", COCO)
def test_coco_is_the_released_configuration(arg):
    weights, drop_path, decay, averaged = COCO[arg]
    config = load(f"coco:{arg}")
    options, optim = config.task.options.to_dict(), config.optim
    assert config.init == f"unireplknet_{weights}.pth"
    assert options.pop("model") == {
        **{"name": f"unireplknet_{arg.partition(',')[0]}", "num_classes": 80, "drop_path_rate": drop_path},
        **{"channels": 256, "box_channels": 256, "box_features": 1024, "mask_channels": 256, "masks": True},
        **{"anchor_scale": 8.0, "finest": 56.0, "train_proposals": (2000, 2000), "test_proposals": (1000, 1000)},
        **{"anchor_counts": (256, 128), "region_counts": (512, 128), "min_score": 0.05, "max_detections": 100},
        **{"bn_group": None, "dtype": "bfloat16", "impl": "auto", "remat": True},
    }
    assert options == {
        **{"scale": (1333, 800), "short_sides": tuple(range(480, 801, 32)), "longest": 1333, "flip": True},
        **{"crop_sides": (400, 500, 600), "crop": (384, 600), "scales": (1.0,), "mirror": False, "tile": 0},
        **{"objects": 100, "mask_bytes": 2**19, "buckets": ((800, 1344), (1344, 800), (800, 1088))},
        "evaluator": "pycocotools",
    }
    assert (config.data.name, config.data.eval_split, config.data.keep_empty) == ("coco", "val", False)
    assert (config.data.least_side, config.batch_size, config.epochs, config.eval_every_epochs) == (32, 16, 36, 1)
    assert config.ema.to_dict() == {
        **{"decay": 0.9999 if averaged else 0.0, "ramp": "exponential" if averaged else "", "ramp_steps": 2000}
    }
    assert (optim.name, optim.lr, optim.b1, optim.b2, optim.eps) == ("adamw", 1e-4, 0.9, 0.999, 1e-8)
    assert (optim.weight_decay, optim.decay_rule, optim.clip_norm) == (0.05, "matrices", 0.0)
    assert (optim.layer_decay, optim.layer_groups) == (decay, 12)  # of T as well, whose last group but one is empty
    steps = 117_266 // 16
    rates = make_schedule(optim, 36, steps, config.batch_size)
    t = np.array([0, 1, 250, 500, 27 * steps - 1, 27 * steps, 33 * steps - 1, 33 * steps, 36 * steps - 1])
    warm_up = 1 - (1 - np.minimum(t / 500, 1)) * (1 - 1e-3)
    slower = np.where(t < 27 * steps, 1, np.where(t < 33 * steps, 0.1, 0.01))
    np.testing.assert_allclose(rates[t], 1e-4 * slower * warm_up, rtol=1e-12)


def test_a_detector_of_the_published_size_is_made():
    """The numbers of parameters in training form, counted of the original's network."""
    found = {arg: count_parameters(make_task(load(f"coco:{arg}")).abstract_variables()) for arg in ("t", "xl")}
    assert found == {"t": 89_101_206, "xl": 445_369_074}


def test_modelnet_is_the_released_configuration():
    """Point/config/ModelNet40/multiview_UniRepLKNet-S.yaml of the original."""
    config = load("modelnet40:published")
    options, optim = config.task.options, config.optim
    assert (options.model.name, options.model.num_classes, options.model.drop_path_rate) == ("unireplknet_s", 40, 0.4)
    assert (options.points, options.raw_points, options.neighbours, options.views) == (4096, 8192, 32, (0, 1, 2, 3))
    assert (options.view_size, options.object_size, options.label_smoothing) == (224, 224, 0.2)
    assert (options.model.trans_dim, options.model.graph_dim, options.unit_sphere) == (8, 64, True)
    assert (config.batch_size, config.epochs, config.eval_every_epochs, config.eval.votes) == (16, 300, 5, 8)
    assert (optim.name, optim.lr, optim.min_lr, optim.weight_decay) == ("adamw", 5e-4, 1e-6, 0.05)
    assert (optim.decay_rule, optim.warmup_epochs, optim.b2, optim.eps) == ("all", 0.0, 0.999, 1e-8)
    distinct, scans = load("modelnet40"), load("scanobjectnn:published").task.options
    assert distinct.task.options.views == (0, 1, 8)
    assert (scans.points, scans.object_size, scans.view_size, scans.unit_sphere) == (2048, 192, 224, False)
    local = load("modelnet40:runlocal")
    steps = local.epochs * local.data.train_examples / local.batch_size
    assert 0.9**steps < 1e-6  # what is left of running variances of 1, where the network's are 1e-4


@pytest.mark.parametrize("arg", ["distinct", "published"])
def test_scanobjectnn_is_modelnet_but_for_its_data_and_sizes(arg):
    scans, models = load(f"scanobjectnn:{arg}"), load(f"modelnet40:{arg}")
    assert len(scans.task.labels) == scans.task.options.model.num_classes == 15
    scans.task.labels, scans.task.options.model.num_classes = models.task.labels, 40
    scans.task.options.update({"points": 4096, "raw_points": 8192, "object_size": 224, "unit_sphere": True})
    assert scans.data.train_examples == 11_416
    scans.data.update({"name": "modelnet40", "train_examples": 9843})
    assert scans.to_dict() == models.to_dict()


def test_every_published_recipe_is_here():
    names = {recipe.partition(":")[0] for recipe in PUBLISHED}
    sizes = {f"{name}:{size}" for name in names for size in runpy.run_path(str(CONFIGS / f"{name}.py"))["SIZES"]}
    assert sizes == set(PUBLISHED)


@pytest.mark.parametrize(
    ("recipe", "size", "changes"),
    [
        ("imagenet1k", "s", {"paper": {"warmup": 5}, "ablation": {"epochs": 100, "drop_path": 0.1}}),
        ("imagenet1k", "a", {"paper": {"warmup": 5}, "ablation": {"epochs": 100, "drop_path": 0.1}}),
        ("imagenet22k", "xl", {"paper": {"lr": 4e-3}}),
        ("imagenet22k", "s", {"paper": {}}),
    ],
)
def test_options_change_what_they_say_and_nothing_else(recipe, size, changes):
    plain = load(f"{recipe}:{size}").to_dict()
    for option, fields in changes.items():
        config = load(f"{recipe}:{size},{option}")
        assert values(config) == values(load(f"{recipe}:{size}")) | fields
        config.optim.update(plain["optim"])
        config.epochs = plain["epochs"]
        config.task.options.model.drop_path_rate = plain["task"]["options"]["model"]["drop_path_rate"]
        assert config.to_dict() == plain
    both = load(f"{recipe}:{size},{','.join(changes)}")
    merged = {name: value for fields in changes.values() for name, value in fields.items()}
    assert values(both) == values(load(f"{recipe}:{size}")) | merged


@pytest.mark.parametrize("name", FILES)
def test_a_wrong_argument_is_one_sentence(name):
    with pytest.raises(argparse.ArgumentError) as caught:
        load(f"{name}:nope")
    message = str(caught.value)
    assert f"configs/{name}.py takes" in message
    assert "not 'nope'." in message
    assert "\n" not in message
    assert all(word in message for word in arguments(name) if "," not in word)


def test_two_sizes_are_one_too_many():
    with pytest.raises(argparse.ArgumentError, match=r"configs/imagenet1k\.py takes one size, not a and t\.$"):
        load("imagenet1k:a,t")


@pytest.mark.parametrize("recipe", [recipe for recipe in ALL if "runlocal" not in recipe])
def test_starting_weights_are_published_ones_of_the_same_size(recipe):
    config = load(recipe)
    name, _, size = recipe.partition(":")
    if name not in STARTED or size.split(",")[0] in SCRATCH or recipe == "cifar100":
        assert config.init == ""
        return
    model = config.task.options.model.name
    large = size.split(",")[0] in ("b", "l", "xl") or (name in ("finetune_boxes", "finetune_masks") and size == "s")
    expected = "in22k" if name == "imagenet1k_384" or large or "in22k" in size else "in1k"
    assert config.init.startswith(f"{model}_{expected}")
    assert config.init.endswith(".pth")


@pytest.fixture
def flowers(tmp_path):
    """A folder of two classes."""
    for split, kind in itertools.product(("train", "val"), ("rose", "tulip")):
        (tmp_path / split / kind).mkdir(parents=True)
        for i in range(2):
            Image.fromarray(np.full((9, 9, 3), 40 * i, np.uint8)).save(tmp_path / split / kind / f"{i}.png")
    return tmp_path


def test_fine_tuning_takes_the_classes_of_the_data(flowers):
    config = load("finetune:a", f"--config.data.dir={flowers}")
    task = make_task(config)
    with pytest.raises(ValueError, match=r"the number of classes is left to the data; give model\.num_classes"):
        task.module()
    fitted = fitted_to(task, config.data.to_dict())
    assert fitted.labels == ("rose", "tulip")
    assert fitted.module().num_classes == 2
    assert fitted.module().dims[0] == 40
    assert len(examples_of(fitted, {**config.data.to_dict(), "seed": 0}, "train", train=False)) == 4


def test_fine_tuning_refuses_other_classes_for_evaluation(flowers):
    (flowers / "val" / "tulip").rename(flowers / "val" / "violet")
    config = load("finetune:a", f"--config.data.dir={flowers}")
    with pytest.raises(ValueError, match="it lacks tulip and also has violet"):
        fitted_to(make_task(config), config.data.to_dict())


@pytest.mark.parametrize(
    ("recipe", "word"),
    [
        ("finetune.py", "task.options.white=4095"),
        ("finetune.py", "data.class_order=texts"),
        ("finetune_sounds.py", "task.options.scale=32768"),
        ("finetune_sounds.py", "task.options.channels=first"),
    ],
)
@pytest.mark.parametrize("size", ["a", "small"])
def test_what_notes_on_odd_files_name_is_a_field_of_the_recipes_for_such_files(recipe, size, word):
    config = load_config(f"{recipe}:{size}", [f"--config.{word}"])
    field, _, value = word.partition("=")
    assert f"{value_of(config, field)}".removesuffix(".0") == value
    make_task(config)
