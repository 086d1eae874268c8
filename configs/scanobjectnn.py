"""ScanObjectNN, PB_T50_RS: 15 kinds of objects cut out of scans of rooms, 11,416 + 2,882 shapes of 2,048 points.

    unireplknet train --config configs/scanobjectnn.py --config.data.dir=/data/h5_files --workdir runs/scans

The folder holds main_split/training_objectdataset_augmentedrot_scale75.h5 and test_....
--config.data.name=scanobjectnn_objects takes the variant of whole objects. Arguments:
- distinct: three views along the axes; published: the original's four.
- runlocal: a minute on a CPU, on synthetic solids.

The original has no configuration of UniRepLKNet for this set, and its trainer reads 16 shapes of each class and no
more; the paper shows an accuracy in a plot without a number. Points and pixels are those of P2P's configurations (2,048
points on 192 of 224 pixels), all else is configs/modelnet40.py's. Nobody has trained distinct or published with this
code.
"""

import runpy
from pathlib import Path

from unireplknet_jax.data.label_names import read_labels

ARGUMENTS = ("distinct", "published", "runlocal")


def get_config(arg="distinct"):
    """The recipe for one of ARGUMENTS."""
    if arg not in ARGUMENTS:
        raise ValueError(f"configs/scanobjectnn.py takes one of {', '.join(ARGUMENTS)}, not {arg!r}.")
    config = runpy.run_path(str(Path(__file__).with_name("modelnet40.py")))["get_config"](arg)
    if arg == "runlocal":
        return config
    config.task.labels = read_labels("scanobjectnn")
    config.task.options.model.num_classes = 15
    config.task.options.update({"points": 2048, "raw_points": 2048, "object_size": 192, "unit_sphere": False})
    config.data.update({"name": "scanobjectnn", "train_examples": 11_416})
    return config
