"""Hourly weather of 3,850 stations: 48 hours of history, the next 24 hours, one network for each variable.

    unireplknet train --config global_weather.py:temp --config.data.dir=/data/global_temp --workdir runs/temp
    unireplknet evaluate runs/temp/best --split test --predictions runs/temp/test.npz

The folder holds the files of Corrformer's capsule (Code Ocean 0341365): temp_global_hourly_{train,val,test}.npy,
data_time_{train,val,test}.npy, stations_sorted.npy. Arguments:
- temp, wind: the released script. Published: MSE 7.602, MAE 1.832 (degrees) and MSE 3.865, MAE 1.301 (metres a second).
- runlocal: a minute on a CPU: waves over 12 stations, made up on the spot.

As released: UniRepLKNet-S with kernels of 11 in its last stage, Adam, a rate that halves after every epoch from the
second on, 10 epochs, stopping after three without a better validation MSE, batches of one window, whose 350 nodes share
batch statistics. Otherwise: the trunk's last map is read out as tokens (the released code crashes there; also "pool"),
the trunk computes in bfloat16, blocks are recomputed in the backward pass, metrics are in degrees and metres a second
(the original's logs are of tenths), `best/` is kept and NaN never is the best.

Nobody has trained temp or wind with this code: the data are not at hand. A step takes 9.6 GiB of a TPU v5e
(docs/forecasting.md).
"""

from ml_collections.config_dict import placeholder

from unireplknet_jax.train.recipe import base_config

ARGUMENTS = ("temp", "wind", "runlocal")


def get_config(arg="temp"):
    """The recipe for one of ARGUMENTS."""
    if arg not in ARGUMENTS:
        raise ValueError(f"configs/global_weather.py takes one of {', '.join(ARGUMENTS)}, not {arg!r}.")
    config = base_config()
    config.seed = 2021
    config.task.name = "forecasting"
    config.task.options = {
        "model": {
            "name": "unireplknet_s",
            "kernel_sizes": ((3,) * 3, (13,) * 3, (13, 3, 3) * 9, (11,) * 3),
            "drop_path_rate": 0.4,
            "bn_group": 350,  # the nodes of one window
            "dtype": "bfloat16",
            "impl": "auto",  # the form of depthwise convolution, as in ops.depthwise
            "remat": True,
        },
        "decoder": {
            "width": 768,
            "heads": 16,
            "hidden": 2048,
            "layers": 1,
            "moving_average": 25,
            "dropout": 0.05,
            "readout": "tokens",
        },
        "tree": (7, 50),
        "stations": 3850,
        "history": 48,
        "label": 24,
        "horizon": 24,
        "scaling": "none",
    }
    config.data.update({"name": f"global_{arg}", "eval_split": "val", "train_examples": 12_209})
    config.batch_size = 1
    config.eval_batch_size = 1
    config.epochs = 10
    config.stop.patience = 3
    config.optim.update({"name": "adam", "decay_rule": "all", "lr": 1e-4, "weight_decay": 0.0})
    config.optim.update({"schedule": "multistep", "milestones": tuple(range(2, 10)), "milestone_factor": 0.5})
    return _run_locally(config) if arg == "runlocal" else config


def _run_locally(config):
    """The recipe's own tree, readout, optimizer and stopping, small."""
    config.task.options.model = {
        "depths": (1, 1, 1, 1),
        "dims": (8, 16, 24, 32),
        "kernel_sizes": ((3,), (13,), (13,), (11,)),
        "layer_scale_init": 1.0,
        "bn_group": placeholder(int),
    }
    config.task.options.decoder.update({"width": 32, "heads": 4, "hidden": 64})
    config.task.options.update({"tree": (2, 3), "stations": 12, "history": 24, "label": 12, "horizon": 12})
    config.data.update({"name": "waves", "train_examples": 1015})
    config.batch_size = 16
    config.eval_batch_size = 16
    config.epochs = 2
    config.log_every = 20
    config.optim.lr = 2e-3
    return config
