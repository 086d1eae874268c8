"""The numbers of the recipes for other data than ImageNet, each as its source has it. Those of ImageNet, of ADE20K, of
COCO, of spoken words, of global weather and of ModelNet40 are in test_recipes.py."""

import runpy

import numpy as np
import pytest
from recipes import CONFIGS, load

from unireplknet_jax.configs.common import layer_groups
from unireplknet_jax.models.variants import VARIANTS
from unireplknet_jax.train.optimizer import layer_id, make_schedule
from unireplknet_jax.train.recipe import base_config

# What every recipe starts from: the original's main.py, and settings of this program.
DEFAULTS = {
    "seed": 0,
    "accumulate": 1,
    "eval_every_epochs": 1.0,
    "data.train_split": "train",
    "data.eval_split": "test",
    "data.broken": "refuse",
    "ema.decay": 0.0,
    "stop.patience": 0,
    "optim.name": "adamw",
    "optim.decay_rule": "matrices",
    "optim.lr": 4e-3,
    "optim.schedule": "cosine",
    "optim.min_lr": 1e-6,
    "optim.weight_decay": 0.05,
    "optim.weight_decay_end": None,
    "optim.layer_decay": 1.0,
    "optim.clip_norm": 0.0,
    "optim.b1": 0.9,
    "optim.b2": 0.999,
    "optim.eps": 1e-8,
}
FLOAT32 = {"dtype": "float32", "impl": "auto"}
BFLOAT16 = {"dtype": "bfloat16", "impl": "auto"}
UNMIXED = {"mixup": 0.0, "cutmix": 0.0, "label_smoothing": 0.1}
MIXED = {"mixup": 0.8, "cutmix": 1.0, "label_smoothing": 0.1}
PICTURES = {"flip": True, "rand_augment": "rand-m9-mstd0.5-inc1", "random_erasing": 0.25}
# Video/ of the original: the script's arguments, and the defaults of what it does not set.
CLIPS = {
    **{"frames": 16, "stride": 4, "segments": 5, "crops": 3, "sampling": "dense", "layout": "grid"},
    **{"image_size": 224, "crop_scale": (0.08, 1.0), "flip": True},
    **{"rand_augment": "rand-m7-n4-mstd0.5-inc1", "random_erasing": 0.25},
}
# What fine-tuning at 384 pixels (Image/README.md of the original) has in common with that on other data.
FINE = {"optim.weight_decay": 1e-8, "optim.layer_decay": 0.8}
FRESH_HEAD = {"drop_path_rate": 0.1, "head_init_scale": 0.001}
# AST, egs/audioset: the optimizer, and the halving of the learning rate.
AST = {
    **{"optim.name": "adam", "optim.b1": 0.95, "optim.weight_decay": 5e-7, "optim.decay_rule": "all"},
    **{"optim.schedule": "multistep", "optim.milestone_factor": 0.5},
    **{"task.name": "audio", "data.name": "csv", "data.eval_split": "eval_segments", "data.num_threads": 16},
    **{"batch_size": 12, "eval_batch_size": 48, "init": "unireplknet_s_in1k_224_acc83.91.pth"},
}
SOUNDS = {
    **{"frames": 1024, "mels": 128, "mean": -4.2677393, "std": 4.5689974, "seconds": 0.0},
    **{"freq_mask": 48, "time_mask": 192, "mixup": 0.5, "noise": 0.0, "roll": 0},
    **{"loss_kind": "bce", "multilabel": True},
    "model": BFLOAT16
    | {"name": "unireplknet_s", "num_classes": 527, "drop_path_rate": 0.4, "bn_group": None, "remat": False},
}
# Ours: what the accuracies in the recipes' tables were measured with.
SMALL_NETWORK = FLOAT32 | {
    **{"depths": (1, 1, 2, 1), "kernel_sizes": ((3,), (13,), (13, 3), (13,))},
    **{"drop_path_rate": 0.0, "bn_group": None, "layer_scale_init": 1.0},
}
SMALL = {
    "model": SMALL_NETWORK | {"dims": (16, 32, 64, 128), "num_classes": 10, "in_chans": 1},
    **{"image_size": 32, "mean": (0.5,), "std": (0.5,), "crop_padding": 4, "flip": False},
    **{"rand_augment": "", "random_erasing": 0.0, **UNMIXED},
}
FASHION = SMALL | {"crop_padding": 2, "flip": True}
STATIONS = {
    "model": SMALL_NETWORK | {"dims": (8, 16, 24, 32)},
    "decoder": {
        **{"width": 32, "heads": 4, "hidden": 64, "layers": 1},
        **{"moving_average": 25, "dropout": 0.1, "readout": "tokens", "normalization": "window"},
    },
    **{"tree": (3,), "stations": 0, "history": 48, "label": 24, "horizon": 24, "scaling": "station", "start": "none"},
}
FROM_REGRESSION = STATIONS | {
    **{"start": "regression", "label": 12},
    "decoder": STATIONS["decoder"] | {"width": 20, "hidden": 40, "dropout": 0.2},
}
WEATHER = {
    **{"task.name": "forecasting", "data.eval_split": "val", "batch_size": 32, "eval_batch_size": 64},
    **{"log_every": 50, "epochs": 6, "stop.patience": 3, "optim.lr": 2e-3},
}
SMALL_WEATHER = WEATHER | {
    **{"batch_size": 64, "eval_batch_size": 256, "log_every": 20, "epochs": 3, "eval_every_epochs": 0.5},
    **{"optim.lr": 1e-3, "eval_first": True},
}
# segmentation/configs of the original, but for the sizes of what is seen.
MASKS = {
    **{"ratio": (0.5, 2.0), "cat_max_ratio": 0.75, "flip": True, "distortion": True, "loss_average": "all"},
    **{"auxiliary_weight": 0.4, "mode": "whole", "scales": (1.0,), "mirror": False},
}
HEADS = {"channels": 512, "auxiliary_channels": 256, "head_dropout": 0.1}
POLYNOMIAL = {"task.name": "segmentation", "optim.schedule": "polynomial", "optim.min_lr": 0.0}
# Ours: what is small enough for two cores.
SMALL_MASKS = SMALL_NETWORK | {"dims": (20, 40, 80, 160), "channels": 48, "auxiliary_channels": 32, "head_dropout": 0.1}
SMALL_MASKS |= {"num_classes": 0, "remat": False}
SCENES = {
    **{"data.name": "scenes", "data.train_examples": 4000, "data.reduce_zero_label": True, "data.ignore": 255},
    **{"batch_size": 8, "eval_batch_size": 16, "steps": 6000, "eval_every_epochs": 0, "eval_every_steps": 1500},
    **{"checkpoint.every_steps": 1500, "optim.lr": 6e-3, "optim.layer_groups": 9},
}
# detection/configs of the original.
BOX_HEADS = {
    **{"channels": 256, "box_channels": 256, "box_features": 1024, "mask_channels": 256, "masks": True},
    **{"anchor_scale": 8.0, "finest": 56.0, "train_proposals": (2000, 2000), "test_proposals": (1000, 1000)},
    **{"anchor_counts": (256, 128), "region_counts": (512, 128), "min_score": 0.05, "max_detections": 100},
}
BOXES = {
    **{"scale": (1333, 800), "short_sides": tuple(range(480, 801, 32)), "longest": 1333, "flip": True, "objects": 100},
    **{"crop_sides": (400, 500, 600), "crop": (384, 600), "mask_bytes": 2**19, "scales": (1.0,), "mirror": False},
    **{"tile": 0, "buckets": ((800, 1344), (1344, 800), (800, 1088)), "evaluator": "pycocotools"},
}
OWN_BOXES = {
    **{"task.name": "detection", "data.name": "boxes", "data.eval_split": "val", "data.annotations": ""},
    **{"data.pictures": "", "data.classes": "", "data.keep_empty": False, "data.least_side": 32},
}
# Ours: what is small enough for two cores.
SMALL_BOXES = SMALL_NETWORK | BOX_HEADS
SMALL_BOXES |= {"dims": (20, 40, 80, 160), "remat": False, "num_classes": 0, "anchor_scale": 4.0, "finest": 28.0}
SMALL_BOXES |= {"channels": 48, "box_channels": 48, "mask_channels": 48, "box_features": 128}
SMALL_BOXES |= {"train_proposals": (400, 200), "test_proposals": (400, 200), "region_counts": (64, 16)}
ON_SCENES = {"box_channels": 32, "mask_channels": 32, "train_proposals": (200, 64), "region_counts": (32, 8)}
BOX_SCENES = {
    **{"task.name": "detection", "data.name": "scenes", "data.train_examples": 4000, "data.keep_empty": False},
    **{"data.least_side": 32, "batch_size": 8, "eval_batch_size": 16, "steps": 1500, "eval_every_epochs": 0},
    **{"eval_every_steps": 500, "checkpoint.every_steps": 500, "log_every": 50, "optim.lr": 2e-3},
}
BOX_PARTS = BOX_SCENES | {"batch_size": 4, "eval_batch_size": 2, "steps": 600}
BOX_PARTS |= {"eval_every_steps": 200, "checkpoint.every_steps": 200}
ON_PARTS = ON_SCENES | {"num_classes": 1, "test_proposals": (1000, 600), "region_counts": (64, 24)}
ON_PARTS |= {"train_proposals": (200, 100)}
# Of every recipe the options of its task, and all other fields that it changes but labels, views and warm-up.
RECIPES = {
    "kinetics400:s": (
        CLIPS
        | MIXED
        | {
            "model": BFLOAT16
            | {"name": "unireplknet_s", "num_classes": 400, "drop_path_rate": 0.4, "bn_group": 8, "remat": True}
        },
        {
            **{"task.name": "video", "data.name": "video_csv", "data.eval_split": "val"},
            **{"data.train_examples": 240_436, "data.num_threads": 16},
            # 64 videos a step, each augmented twice, for 90 epochs: as many clips, and as many steps.
            **{"batch_size": 128, "accumulate": 2, "epochs": 180, "eval_batch_size": 64, "eval_every_epochs": 2},
            **{"optim.lr": 4e-3 * 64 / 256, "optim.min_lr": 1e-6 * 64 / 256},
        },
    ),
    "audioset:full": (
        SOUNDS | {"balance": True},
        AST
        | {
            **{"data.train_split": "unbalanced_train_segments", "data.train_examples": 2_041_789},
            **{"epochs": 5, "eval_every_epochs": 0.5, "optim.lr": 1e-5, "optim.milestones": (2, 3, 4, 5)},
        },
    ),
    "audioset:balanced": (
        SOUNDS | {"balance": False},
        AST
        | {
            **{"data.train_split": "balanced_train_segments", "data.train_examples": 22_160},
            **{"epochs": 25, "optim.lr": 5e-5, "optim.milestones": (10, 15, 20, 25)},
        },
    ),
    "cifar100:scratch": (
        PICTURES
        | MIXED
        | {
            "model": FLOAT32
            | {
                **{"depths": (2, 2, 6, 2), "dims": (32, 64, 128, 256), "num_classes": 100, "bn_group": 128},
                **{"kernel_sizes": ((3,) * 2, (13,) * 2, (13,) * 6, (13,) * 2)},
                **{"drop_path_rate": 0.1, "layer_scale_init": 1.0},
            },
            **{"image_size": 32, "crop_padding": 4},
        },
        {
            **{"data.name": "cifar100", "data.train_examples": 50_000, "batch_size": 128, "eval_batch_size": 256},
            **{"epochs": 200, "optim.lr": 2e-3},
        },
    ),
    "cifar100:s": (
        PICTURES
        | UNMIXED
        | {
            "model": FLOAT32
            | FRESH_HEAD
            | {"name": "unireplknet_s", "num_classes": 100, "bn_group": 128, "remat": False},
            **{"image_size": 224, "crop_scale": (0.08, 1.0)},
        },
        FINE
        | {
            **{"data.name": "cifar100", "data.train_examples": 50_000, "batch_size": 128, "eval_batch_size": 256},
            **{"epochs": 30, "optim.lr": 1e-4, "init": "unireplknet_s_in1k_224_acc83.91.pth"},
        },
    ),
    "finetune:xl": (
        PICTURES
        | UNMIXED
        | {
            "model": FLOAT32
            | FRESH_HEAD
            | {"name": "unireplknet_xl", "num_classes": 0, "bn_group": None, "remat": False},
            **{"image_size": 224, "crop_scale": (0.08, 1.0), "balance": False, "white": 0},
        },
        FINE
        | {
            **{"data.name": "folder", "data.eval_split": "val", "batch_size": 64, "eval_batch_size": 64},
            **{"epochs": 20, "log_every": 10, "optim.lr": 1e-4, "init": "unireplknet_xl_in22k_pretrain.pth"},
        },
    ),
    "finetune_masks:n": (
        MASKS
        | {
            "model": FLOAT32
            | HEADS
            | {"name": "unireplknet_n", "num_classes": 0, "drop_path_rate": 0.1, "bn_group": None, "remat": False},
            **{"scale": (2048, 512), "crop": 512, "stride": 341, "buckets": ((512, 704), (704, 512), (512, 1024))},
            "white": 0,
        },
        POLYNOMIAL
        | {
            **{"data.name": "mask_folder", "data.eval_split": "val", "data.reduce_zero_label": False},
            **{"data.ignore": 255, "data.classes": "", "init": "unireplknet_n_in1k_224_acc81.64.pth"},
            **{"batch_size": 8, "eval_batch_size": 8, "epochs": 50, "eval_every_epochs": 5, "log_every": 10},
            **{"optim.lr": 1e-4, "optim.layer_decay": 0.9, "optim.layer_groups": 6},
        },
    ),
    "finetune_masks:small": (
        MASKS
        | {"model": SMALL_MASKS, "ratio": (0.75, 1.5), "flip": False, "distortion": False}
        | {"scale": (512, 128), "crop": 128, "stride": 85, "buckets": ((128, 192), (192, 128), (128, 256))}
        | {"white": 0},
        POLYNOMIAL
        | {
            **{"data.name": "mask_folder", "data.eval_split": "val", "data.reduce_zero_label": False},
            **{"data.ignore": 255, "data.classes": "", "recalibrate": 16},
            **{"batch_size": 16, "eval_batch_size": 64, "epochs": 100, "eval_every_epochs": 10, "log_every": 20},
            "optim.lr": 2e-3,
        },
    ),
    "ade20k:scenes": (
        MASKS
        | {"model": SMALL_MASKS | {"num_classes": 8}, "ratio": (1.0, 1.0), "distortion": False}
        | {"scale": None, "crop": 128, "stride": 85, "buckets": ((128, 128),)},
        POLYNOMIAL | SCENES,
    ),
    "ade20k:hela": (
        MASKS
        | {"model": SMALL_MASKS | {"num_classes": 2}, "ratio": (0.75, 1.5)}
        | {"scale": None, "crop": 256, "stride": 170, "buckets": ((704, 1120),)},
        POLYNOMIAL
        | SCENES
        | {
            **{"data.name": "hela", "data.train_examples": 16, "batch_size": 8, "eval_batch_size": 8, "steps": 600},
            **{"eval_every_steps": 100, "checkpoint.every_steps": 100, "log_every": 50, "optim.lr": 2e-3},
        },
    ),
    "finetune_boxes:n": (
        BOXES
        | {
            "model": FLOAT32
            | BOX_HEADS
            | {"name": "unireplknet_n", "num_classes": 0, "drop_path_rate": 0.1, "bn_group": None, "remat": False},
            "white": 0,
        },
        OWN_BOXES
        | {
            **{"batch_size": 8, "eval_batch_size": 8, "epochs": 50, "eval_every_epochs": 5, "log_every": 10},
            **{"optim.lr": 1e-4, "optim.layer_decay": 0.8, "optim.layer_groups": 6},
            "init": "unireplknet_n_in1k_224_acc81.64.pth",
        },
    ),
    "finetune_boxes:small": (
        BOXES
        | {"model": SMALL_BOXES, "scale": (352, 256), "short_sides": (192, 224, 256), "longest": 352, "crop": None}
        | {"flip": False, "buckets": ((256, 352), (352, 256)), "mask_bytes": 2**17, "white": 0},
        OWN_BOXES
        | {
            **{"batch_size": 16, "eval_batch_size": 64, "epochs": 100, "eval_every_epochs": 10, "log_every": 20},
            **{"optim.lr": 2e-3, "recalibrate": 16},
        },
    ),
    "coco:scenes": (
        BOXES
        | {
            "model": SMALL_BOXES | ON_SCENES | {"num_classes": 7},
            "scale": None,
            "crop": None,
            "objects": 8,
            "mask_bytes": 2**12,
        }
        | {"short_sides": (112, 120, 128), "longest": 128, "buckets": ((128, 128),)},
        BOX_SCENES,
    ),
    "coco:hela": (
        BOXES
        | {"model": SMALL_BOXES | ON_PARTS | {"max_detections": 300}, "scale": None, "crop": None, "objects": 32}
        | {"short_sides": (192, 224, 256), "longest": 256, "buckets": ((256, 256),), "mask_bytes": 2**14},
        BOX_PARTS | {"data.name": "hela", "data.train_examples": 640},
    ),
    "coco:trees": (
        BOXES
        | {"model": SMALL_BOXES | ON_PARTS | {"max_detections": 400, "masks": False}, "scale": None, "crop": None}
        | {"short_sides": (256, 288, 320), "longest": 320, "buckets": ((320, 320),), "mask_bytes": 2**14}
        | {"objects": 48},
        BOX_PARTS | {"data.name": "trees", "data.train_examples": 199, "steps": 400},
    ),
    "finetune_sounds:n": (
        {
            # Statistics, noise and roll as for Speech Commands (Audio/egs of the original), masks half as wide.
            **{"frames": 128, "mels": 128, "mean": -6.845978, "std": 5.5654526, "seconds": 0.0},
            **{"freq_mask": 24, "time_mask": 24, "mixup": 0.0, "noise": 0.1, "roll": 10},
            **{"loss_kind": "ce", "multilabel": False, "balance": False, "channels": "mean", "scale": 1.0},
            "model": FLOAT32
            | {"name": "unireplknet_n", "num_classes": 0, "drop_path_rate": 0.1, "bn_group": None, "remat": False},
        },
        FINE
        | {
            **{"task.name": "audio", "data.name": "folder", "data.eval_split": "val"},
            **{"batch_size": 32, "eval_batch_size": 32, "epochs": 20, "log_every": 10},
            **{"optim.lr": 1e-4, "init": "unireplknet_n_in1k_224_acc81.64.pth"},
        },
    ),
    "finetune_video:b": (
        CLIPS
        | UNMIXED
        | {
            "model": FLOAT32
            | FRESH_HEAD
            | {"name": "unireplknet_b", "num_classes": 0, "bn_group": None, "remat": True},
            "balance": False,
        },
        FINE
        | {
            **{"task.name": "video", "data.name": "video_folder", "data.eval_split": "val"},
            **{"batch_size": 16, "eval_batch_size": 16, "epochs": 20, "log_every": 10},
            **{"optim.lr": 5e-5, "init": "unireplknet_b_in22k_pretrain.pth"},
        },
    ),
    "small_images:digits": (
        SMALL,
        {
            **{"data.name": "digits", "data.train_examples": 1437, "batch_size": 64, "eval_batch_size": 256},
            **{"epochs": 40, "eval_every_epochs": 5, "log_every": 20, "optim.lr": 2e-3},
        },
    ),
    "small_images:fashion_mnist": (
        FASHION,
        {
            **{"data.name": "fashion_mnist", "data.train_examples": 60_000, "batch_size": 64, "eval_batch_size": 256},
            **{"epochs": 14, "optim.lr": 2e-3},
        },
    ),
    "small_images:fashion_mnist_full": (
        FASHION | {"rand_augment": "rand-m3-n1-mstd0.5-inc1", "mixup": 0.1},
        {
            **{"data.name": "fashion_mnist", "data.train_examples": 60_000, "batch_size": 256, "eval_batch_size": 256},
            **{"epochs": 40, "eval_every_epochs": 2, "ema.decay": 0.998},
        },
    ),
    "station_weather:airports": (
        FROM_REGRESSION,
        SMALL_WEATHER | {"data.name": "airports", "data.train_examples": 6040},
    ),
    "station_weather:irish_wind": (
        FROM_REGRESSION
        | {
            **{"tree": (2, 2), "history": 14, "label": 7, "horizon": 2},
            "decoder": FROM_REGRESSION["decoder"] | {"moving_average": 5},
        },
        SMALL_WEATHER | {"data.name": "irish_wind", "data.train_examples": 4586},
    ),
    "station_weather:small": (FROM_REGRESSION | {"tree": (1,)}, SMALL_WEATHER | {"data.name": "csv"}),
    "station_weather:csv": (STATIONS | {"tree": (1,)}, WEATHER | {"data.name": "csv"}),
    "station_weather:runlocal": (
        STATIONS | {"tree": (2, 3), "label": 10, "horizon": 6},
        WEATHER | {"data.name": "waves", "data.train_examples": 997, "batch_size": 16, "epochs": 2, "log_every": 20},
    ),
    "kinetics400:synthetic": (
        CLIPS
        | UNMIXED
        | {
            "model": SMALL_NETWORK
            | {"name": "unireplknet_s", "depths": (1, 2, 1, 1), "dims": (16, 32, 64, 64), "num_classes": 8}
            | {"kernel_sizes": ((3,), (13, 13), (13,), (13,)), "bn_group": 32, "remat": False},
            **{"frames": 8, "stride": 3, "segments": 2, "crops": 1, "image_size": 32, "crop_scale": None},
            **{"flip": False, "rand_augment": "", "random_erasing": 0.0},
        },
        {
            **{"task.name": "video", "data.name": "moving_shapes", "data.train_examples": 960, "log_every": 10},
            **{"batch_size": 32, "eval_batch_size": 80, "epochs": 10, "eval_every_epochs": 2},
            **{"optim.lr": 3e-3, "optim.min_lr": 2.5e-7},
        },
    ),
    "speech_commands:synthetic": (
        {
            "model": SMALL_NETWORK | {"dims": (16, 32, 64, 128), "num_classes": 35},
            **{"frames": 64, "mels": 64, "shift": 15.5, "seconds": 1.0, "mean": -6.845978, "std": 5.5654526},
            **{"freq_mask": 12, "time_mask": 12, "mixup": 0.0, "noise": 0.1, "roll": 5, "fill": 0.0, "loss_kind": "ce"},
        },
        {
            **{"task.name": "audio", "data.name": "synthetic_commands", "data.train_examples": 6160, "log_every": 70},
            **{"batch_size": 40, "eval_batch_size": 56, "epochs": 18, "eval_every_epochs": 3},
            **{"optim.name": "adam", "optim.lr": 3e-3, "optim.weight_decay": 5e-7, "optim.decay_rule": "all"},
        },
    ),
    "modelnet40:solids": (
        {
            "model": SMALL_NETWORK | {"dims": (16, 32, 64, 128), "num_classes": 10, "graph_dim": 16, "remat": False},
            **{"points": 512, "raw_points": 1024, "view_size": 42, "object_size": 42, "neighbours": 16},
            **{"views": (0, 1, 8), "unit_sphere": True, "votes": 8, "label_smoothing": 0.2, "scale": (2 / 3, 3 / 2)},
        },
        {
            **{"task.name": "points", "data.name": "solids", "data.train_examples": 600, "log_every": 18},
            **{"batch_size": 32, "eval_batch_size": 40, "epochs": 9, "eval_every_epochs": 9},
            **{"optim.lr": 2e-3, "optim.decay_rule": "all"},
        },
    ),
}
# Steps of a linear rise; of a run on 6,400 examples where the recipe does not know how many there are.
WARM_UP = {
    "kinetics400:s": 18_780,  # 5 of 90 epochs of 240,436 // 64 steps
    "audioset:full": 1000,
    "audioset:balanced": 1000,
    "cifar100:scratch": 10 * 390,
    "cifar100:s": 390,
    "finetune:xl": 100,
    "finetune_masks:n": 800,
    "finetune_masks:small": 800,
    "finetune_boxes:n": 800,
    "finetune_boxes:small": 800,
    "coco:scenes": 100,
    "coco:hela": 50,
    "coco:trees": 50,
    "ade20k:scenes": 100,
    "ade20k:hela": 30,
    "finetune_sounds:n": 200,
    "finetune_video:b": 400,
    "small_images:digits": 2 * 22,
    "small_images:fashion_mnist": 937,
    "small_images:fashion_mnist_full": 2 * 234,
    "station_weather:airports": 47,
    "station_weather:irish_wind": 36,
    "station_weather:csv": 100,
    "station_weather:small": 50,
    "station_weather:runlocal": 31,
    "kinetics400:synthetic": 30,
    "speech_commands:synthetic": 154,
    "modelnet40:solids": 18,
}


# Recipes with sizes.
SIZED = ("cifar100", "finetune", "finetune_boxes", "finetune_masks", "finetune_sounds", "finetune_video")
SIZED += ("kinetics400",)


def flat(fields, prefix=""):
    """{"optim.lr": 4e-3, ...}."""
    found = {}
    for name, value in fields.items():
        found |= flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return found


def changed(config):
    """The fields that differ from those of every recipe, but for options, labels, warm-up, how many views and votes.

    Those of a schedule that a recipe does not use are left out, too.
    """
    fields, base = config.to_dict(), flat(base_config().to_dict())
    del fields["task"]["options"]
    unused = ("optim.milestone",) if config.optim.schedule == "cosine" else ()
    others = ("task.labels", "optim.warmup", "data.views", "data.votes", "eval.", *unused)
    return {
        name: value for name, value in flat(fields).items() if base.get(name) != value and not name.startswith(others)
    }


def rates(config):
    """(learning rate of every step, steps of an epoch)."""
    steps = (config.data.train_examples or 6400) // config.batch_size
    return make_schedule(config.optim, config.steps / steps if config.steps else config.epochs, steps), steps


@pytest.mark.parametrize(("recipe", "decay"), [("imagenet1k:t", 0.0), ("imagenet1k_384:l", 0.9)])
def test_small_versions_have_a_moving_average_where_the_recipe_has_one(recipe, decay):
    assert load(f"{recipe},runlocal").ema.decay == decay  # a minute has few steps to average over


def test_what_every_recipe_starts_from():
    assert flat(base_config().to_dict()).items() >= DEFAULTS.items()


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_recipe_has_the_numbers_of_its_source(recipe):
    options, fields = RECIPES[recipe]
    config = load(recipe)
    assert config.task.options.to_dict() == options
    assert changed(config) == fields


@pytest.mark.parametrize("recipe", RECIPES)
def test_the_learning_rate_rises_for_as_many_steps_as_the_source_says(recipe):
    config, warm_up = load(recipe), WARM_UP[recipe]
    rate, _ = rates(config)
    if config.optim.warmup_ratio is not None:  # the rise is a factor on a schedule that begins at once
        config.optim.warmup_ratio, ratio = 1.0, config.optim.warmup_ratio
        rise = ratio + (1 - ratio) * np.minimum(np.arange(len(rate)) / warm_up, 1)
        np.testing.assert_allclose(rate, rise * rates(config)[0], rtol=1e-12)
        return
    assert (rate[0], np.argmax(rate)) == (0.0, warm_up - 1)
    assert rate[warm_up // 2] == pytest.approx(rate.max() * (warm_up // 2) / (warm_up - 1))


def test_a_run_on_videos_has_the_steps_of_the_released_one():
    config = load("kinetics400")
    assert len(rates(config)[0]) == 90 * (240_436 // 64) == 338_040
    assert config.eval.to_dict() == {"segments": 1, "crops": 1}


@pytest.mark.parametrize(
    ("recipe", "lr", "factors"),
    [
        ("audioset:full", 1e-5, [1, 1, 0.5, 0.25, 0.125]),
        ("audioset:balanced", 5e-5, [1] * 10 + [0.5] * 5 + [0.25] * 5 + [0.125] * 5),
    ],
)
def test_the_learning_rate_for_audioset_is_halved_after_the_epochs_of_ast(recipe, lr, factors):
    rate, steps = rates(load(recipe))
    np.testing.assert_allclose(rate[steps - 1 :: steps], lr * np.array(factors), rtol=1e-12)


def test_the_network_of_the_released_script_for_videos():
    plain, script, reshape = (load(f"kinetics400:b{option}") for option in ("", ",script", ",reshape"))
    expected = plain.task.options.to_dict() | {"layout": "reshape"}
    assert expected["model"]["name"] == "unireplknet_b"
    assert reshape.task.options.to_dict() == expected
    expected["model"]["kernel_sizes"] = ((3,) * 3, (13,) * 3, (13, 3, 3) * 9, (11,) * 3)
    assert script.task.options.to_dict() == expected
    assert changed(script) == changed(reshape) == changed(plain) == changed(load("kinetics400:s"))


def test_clips_of_whole_videos_differ_in_how_frames_are_chosen_alone():
    dense, uniform = load("finetune_video:b"), load("finetune_video:b,uniform")
    assert uniform.task.options.to_dict() == dense.task.options.to_dict() | {"sampling": "uniform"}
    assert changed(uniform) == changed(dense)
    assert dense.eval.to_dict() == {"segments": 1, "crops": 1}


@pytest.mark.parametrize("name", SIZED)
def test_sizes_differ_in_their_network_and_where_it_starts_alone(name):
    rows = []
    for size in runpy.run_path(str(CONFIGS / f"{name}.py"))["SIZES"]:
        if size not in ("scratch", "small"):  # recipes of their own
            config = load(f"{name}:{size}")
            options = config.task.options.to_dict()
            assert options["model"].pop("name") == f"unireplknet_{size}"
            rows.append((options, changed(config) | {"init": "", "optim.layer_groups": 0}))  # which a depth decides
    assert rows.count(rows[0]) == len(rows) > 1


def test_dense_recipes_have_a_group_of_layers_for_every_three_blocks_of_a_size():
    """12 for 27 blocks and 9 for 18, as released; the last stage is behind those, and no group is empty."""
    for name, variant in VARIANTS.items():
        groups = layer_groups(name)
        last, behind = (layer_id(f"{at}/kernel", groups) for at in (f"stages_2_{variant.depths[2] - 1}", "stages_3_0"))
        assert (last, behind) == (groups - 1, groups), name
    found = {size: load(f"finetune_masks:{size}").optim.layer_groups for size in ("a", "n", "t", "s", "xl", "small")}
    assert found == {"a": 5, "n": 6, "t": 9, "s": 12, "xl": 12, "small": 12}
