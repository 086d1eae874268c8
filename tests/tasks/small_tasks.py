"""A small task of every kind, with a checkpoint of random numbers and files that it reads."""

import numpy as np
import pytest
from networks import lively

from unireplknet_jax.tasks import made_up
from unireplknet_jax.tasks.base import get_task
from unireplknet_jax.tasks.checkpoint import Checkpoint

TRUNK = {"depths": (1, 1, 0, 0), "dims": (8, 16, 24, 32), "kernel_sizes": ((3,), (7,), (), ())}
# In official names the tensors of its blocks tell the depth of a stage, which is 1 or more.
NAMED = TRUNK | {"depths": (1, 1, 1, 1), "kernel_sizes": ((3,), (7,), (0,), (3,))}
MODEL = {**TRUNK, "num_classes": 6}
HEADS = {  # of the networks for masks and for boxes
    "segmentation": {"channels": 8, "auxiliary_channels": 4},
    "detection": {
        **{"channels": 8, "box_channels": 4, "box_features": 8, "mask_channels": 4, "anchor_scale": 2.0},
        **{"finest": 14.0, "test_proposals": (40, 20), "min_score": 0.0, "max_detections": 5},
    },
}
OPTIONS = {
    "classification": {"image_size": 32},
    "segmentation": {
        "model": {**MODEL, **HEADS["segmentation"]},
        **{"scale": (64, 32), "crop": 32, "buckets": ((32, 64), (64, 32))},
    },
    "detection": {
        "model": {**MODEL, **HEADS["detection"]},
        **{"scale": (64, 32), "short_sides": (32,), "longest": 64, "crop": None, "buckets": ((32, 64), (64, 32))},
        "score": 0.0,
    },
    "audio": {"frames": 64, "seconds": 0},
    "video": {"image_size": 16, "frames": 4, "segments": 2, "crops": 3},
    "points": {"points": 32, "raw_points": 48, "view_size": 28, "neighbours": 4, "votes": 8},
    "forecasting": {
        "model": TRUNK,
        "decoder": {"width": 16, "heads": 2, "hidden": 32, "layers": 1, "moving_average": 5},
        **{"tree": (3,), "history": 24, "label": 12, "horizon": 6, "stations": 3, "unit": "degrees"},
        **{"labels": ("north", "east", "west"), "mean": (10.0,) * 3, "std": (5.0,) * 3},
    },
}
FILES = {
    "classification": "picture.jpg",
    "segmentation": "picture.jpg",
    "detection": "picture.jpg",
    "audio": "sound.wav",
    "video": "clip.avi",
    "points": "shape.xyz",
    "forecasting": "table.csv",
}
# As parameters of tests that compile the network. Those with more than a trunk and a classifier compile for long.
SLOW = ("detection", "segmentation", "points", "forecasting")
KINDS = [pytest.param(name, marks=pytest.mark.slow) if name in SLOW else name for name in FILES]


def make_task(name, **options):
    return get_task(name, **{"model": MODEL, **OPTIONS[name], **options})


def make_checkpoint(name, **options):
    task = make_task(name, **options)
    return Checkpoint(task, lively(task.abstract_variables()), merged=False)


def write_files(folder, name):
    """Two different files that a task reads, as paths; the second is the first one changed."""
    made_up.write(folder, [FILES[name]])
    first = folder / FILES[name]
    second = folder / f"other{first.suffix}"
    if name == "audio":
        import soundfile

        soundfile.write(second, np.sin(np.arange(24_000) ** 1.3 * 0.01), 16_000)
    elif name == "points":
        np.savetxt(second, np.loadtxt(first)[:500] ** 3)
    elif name == "forecasting":
        second.write_text("\n".join(first.read_text().splitlines()[:60]) + "\n")
    elif name in ("classification", "segmentation", "detection"):
        made_up.write(folder, ["flowers"])
        second = folder / "flowers" / "val" / "tulip" / "7.jpg"
    else:
        from unireplknet_jax.data.clips.moving_shapes import write_video

        write_video(second, np.random.default_rng(1).integers(0, 256, (20, 90, 60, 3), np.uint8))
    return [str(first), str(second)]


def with_lists(records):
    """The records of several files with their arrays as lists, which can be compared."""
    return [
        [
            {name: getattr(value, "tolist", lambda own=value: own)() for name, value in record.items()}
            for record in found
        ]
        for found in records
    ]
