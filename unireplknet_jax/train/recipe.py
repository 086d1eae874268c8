"""The fields that every recipe has, and the arguments of recipes."""

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder


def base_config():
    """The ConfigDict that a recipe fills in: batch sizes and epochs, which are 0 here, have to be stated."""
    config = ConfigDict()
    config.seed = 0
    config.init = ""  # a checkpoint to start from; its classifier and input channels may differ
    config.task = ConfigDict({"name": "classification", "labels": (), "options": {}})
    config.data = ConfigDict(
        {
            "name": "",  # as data.pictures.sets.open_source takes it
            "dir": "",  # a folder, where the source needs one; for tfds:NAME an address such as gs://B/F, too
            "train_split": "train",
            "eval_split": "test",  # "": no evaluation
            "train_examples": 0,  # for `plan`, which has no data; training counts them
            "broken": "refuse",  # broken pictures end the run; "skip": training takes the next, evaluation none
            "num_threads": 2,  # batches that are built at the same time in each process, whose threads share one GIL
            "workers": 0,  # processes that build batches, each with num_threads, for hosts with many cores
        }
    )
    config.eval = ConfigDict()  # options of the task that have another value in the run's evaluations
    config.batch_size = 0  # examples of one optimizer step, over all devices
    config.accumulate = 1  # micro-batches that a step is made of
    config.eval_batch_size = 0
    config.epochs = 0.0
    config.eval_every_epochs = 1.0
    config.log_every = 100  # steps
    config.checkpoint = ConfigDict({"every_steps": 1000, "keep": 3})  # besides those after each evaluation
    config.mesh = ConfigDict({"fsdp": 1})  # over how many devices parameters and moments are split
    config.ema = ConfigDict({"decay": 0.0})  # 0: no moving average
    config.stop = ConfigDict(
        {
            "metric": "",  # of the evaluations, "ema/..." of the moving average's; "": the task's first
            "patience": 0,  # end after so many evaluations in a row that are not better than the best; 0: never
        }
    )
    config.optim = ConfigDict(
        {
            "name": "adamw",  # or "adam", whose weight decay is a part of the gradient
            "decay_rule": "matrices",  # all but norms and biases, or "all"
            "lr": 4e-3,  # for this batch_size; scale it by hand for another
            "schedule": "cosine",  # to min_lr, or "multistep": times milestone_factor after each epoch in milestones
            "milestones": (),
            "milestone_factor": 0.1,
            "min_lr": 1e-6,
            "warmup_epochs": 0.0,
            "weight_decay": 0.05,
            "weight_decay_end": placeholder(float),  # what it approaches on a cosine; None: constant
            "layer_decay": 1.0,  # factor on the learning rate from each of 13 layers to the one below
            "clip_norm": 0.0,  # 0: gradients are not clipped
            "b1": 0.9,
            "b2": 0.999,
            "eps": 1e-8,
        }
    )
    return config


def completed(config):
    """A recipe with `base_config`'s values for the fields it does not have.

    Raises ValueError for a field of another type.
    """
    whole = base_config()
    try:
        whole.update(config.to_dict())
    except (TypeError, ValueError) as error:
        raise ValueError(f"the recipe has a field of the wrong type: {str(error).splitlines()[0]}") from None
    return whole


def evaluation_options(config):
    """The options of the task that hold in the evaluations of a run, {name: value}."""
    options, data = config.eval.to_dict(), config.data.to_dict()
    if data.get("votes"):
        options["votes"] = data["votes"]
    if data.get("views"):
        options["segments"], options["crops"] = data["views"]
    return options


def parse_argument(arg, sizes, options, recipe):
    """(size, set of options) of a recipe's argument "SIZE[,OPTION...]"; the size may be left out beside an option.

    Raises ValueError for a word that is neither.
    """
    words = [word for word in arg.split(",") if word]
    for word in words:
        if word not in (*sizes, *options):
            choices = " or ".join(filter(None, [", ".join(sizes), ", ".join(options)]))
            raise ValueError(f"{recipe} takes SIZE[,OPTION]: one of {choices}, not {word!r}.")
    chosen = [word for word in words if word in sizes]
    if len(chosen) > 1:
        raise ValueError(f"{recipe} takes one size, not {' and '.join(chosen)}.")
    return (chosen or [sizes[0]])[0], set(words) - set(chosen)
