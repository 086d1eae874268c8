"""ScanObjectNN, PB_T50_RS: 15 kinds of objects cut out of scans of rooms, 11,416 + 2,882 shapes of 2,048 points.

    unireplknet train --config scanobjectnn.py --config.data.dir=/data/h5_files --workdir runs/scans

The folder holds main_split/training_objectdataset_augmentedrot_scale75.h5 and test_....
--config.data.name=scanobjectnn_objects takes the variant of whole objects. Arguments:
- distinct: three views along the axes; published: the original's four.
- runlocal: a minute on a CPU, on synthetic solids.

The original has no configuration of UniRepLKNet for this set, and its trainer reads 16 shapes of each class and no
more; the paper shows an accuracy in a plot without a number. Points and pixels are those of P2P's configurations (2,048
points on 192 of 224 pixels), all else is configs/modelnet40.py's. Nobody has trained distinct or published with this
code.
"""

from ml_collections.config_dict import placeholder

from unireplknet_jax.configs.common import run_on_solids
from unireplknet_jax.data.label_names import read_labels
from unireplknet_jax.nn.projection import DISTINCT, ORIGINAL
from unireplknet_jax.train.recipe import base_config

ARGUMENTS = ("distinct", "published", "runlocal")


def get_config(arg="distinct"):
    """The recipe for one of ARGUMENTS."""
    if arg not in ARGUMENTS:
        raise ValueError(f"configs/scanobjectnn.py takes one of {', '.join(ARGUMENTS)}, not {arg!r}.")
    config = base_config()
    config.task.name = "points"
    config.task.labels = read_labels("scanobjectnn")
    config.task.options = {
        "model": {
            "name": "unireplknet_s",
            "num_classes": 15,
            "trans_dim": 8,
            "graph_dim": 64,
            "drop_path_rate": 0.4,
            "bn_group": placeholder(int),  # all shapes of the batch share statistics
            "dtype": "bfloat16",
            "impl": "auto",  # the form of depthwise convolution, as in ops.depthwise
            "remat": True,
        },
        "points": 2048,
        "raw_points": 2048,
        "views": ORIGINAL if arg == "published" else DISTINCT,
        "view_size": 224,
        "object_size": 192,
        "neighbours": 32,
        "unit_sphere": False,
        "votes": 40,
        "label_smoothing": 0.2,
        "scale": (2 / 3, 3 / 2),
    }
    config.data.update({"name": "scanobjectnn", "train_examples": 11_416, "num_threads": 8})
    config.eval.votes = 8  # in the evaluations of a run
    config.batch_size = 16
    config.eval_batch_size = 16
    config.epochs = 300
    config.eval_every_epochs = 5
    config.optim.update({"lr": 5e-4, "decay_rule": "all"})
    return run_on_solids(config) if arg == "runlocal" else config
