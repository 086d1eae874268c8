"""The fields that every recipe has, and the arguments of recipes."""

import functools

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from unireplknet_jax.train.durations import DURATIONS

SHORT_RUN = 500  # steps, below which running statistics of batch norm are not to be trusted
RECALIBRATION = 16  # training batches, at most those of an epoch, that a short run takes them from instead
# Fields of older recipes, and where the same is now.
MOVED = {"data.votes": ("eval.votes",), "data.views": ("eval.segments", "eval.crops")}


def base_config():
    """The ConfigDict that a recipe fills in: batch sizes and the length of the run, 0 here, have to be stated.

    A duration has a field for each unit, of which one is given; 0 in the others says: not in this unit.
    """
    config = ConfigDict()
    config.seed = 0
    config.init = ""  # a checkpoint to start from; its classifier and input channels may differ
    config.task = ConfigDict({"name": "classification", "labels": (), "options": {}})
    config.data = ConfigDict(
        {
            "name": "",  # as the task's `open` takes it
            "dir": "",  # a folder, where the source needs one; for tfds:NAME an address such as gs://B/F, too
            "train_split": "train",
            "eval_split": "test",  # "": no evaluation
            "train_examples": 0,  # for `plan`, which has no data; training counts them
            "broken": "refuse",  # a broken file ends the run; "skip": training takes the next, evaluation none
            "class_order": "numbers",  # of classes that are whole numbers: 2 before 10, or "texts": 10 before 2
            "missing": "auto",  # of tables, what stands for no value besides empty cells and NA: see docs/files.md
            "num_threads": 2,  # batches that are built at the same time in each process, whose threads share one GIL
            "workers": 0,  # processes that build batches, each with num_threads, for hosts with many cores
        }
    )
    config.eval = ConfigDict()  # options of the task that have another value in the run's evaluations
    config.batch_size = 0  # examples of one optimizer step, over all devices
    config.accumulate = 1  # micro-batches that a step is made of
    config.eval_batch_size = 0
    config.epochs = 0.0  # the length of the run: in epochs, of whole batches,
    config.steps = 0  # or in optimizer steps,
    config.examples = 0  # or in training examples
    config.eval_every_epochs = 1.0  # the time between evaluations
    config.eval_every_steps = 0
    config.eval_every_examples = 0
    config.eval_every_percent = 0.0  # of the run
    config.eval_first = False  # before the first step, too: best/ is then at least as good as what a run starts from
    config.log_every = 100  # steps
    config.checkpoint = ConfigDict({"every_steps": 1000, "keep": 3})  # besides those after each evaluation
    # Evaluations, best/ and model/ have statistics of batch norm that are estimated from so many training batches with
    # the weights as they are; 0: the running ones of the training; None: `recalibration` decides.
    config.recalibrate = placeholder(int)
    config.mesh = ConfigDict({"fsdp": 1})  # over how many devices parameters and moments are split
    config.ema = ConfigDict(
        {
            "decay": 0.0,  # 0: no moving average
            # After t steps "count": (1 + t) / (10 + t), while that is less; "exponential": times
            # 1 - exp(-(1 + t) / ramp_steps); "": the same decay from the start.
            "ramp": "",
            "ramp_steps": 2000,
        }
    )
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
            # "cosine": to min_lr; "polynomial": to min_lr with `power`; "multistep": times milestone_factor after each
            # epoch in milestones.
            "schedule": "cosine",
            "milestones": (),
            "milestone_factor": 0.1,
            "power": 1.0,
            "min_lr": 1e-6,
            "warmup_epochs": 0.0,
            "warmup_steps": 0,
            "warmup_examples": 0,
            "warmup_percent": 0.0,  # of the run
            # None: the rate rises from 0 to lr, and the schedule follows. A number: the schedule begins at once, but is
            # multiplied by a factor that rises from this number to 1.
            "warmup_ratio": placeholder(float),
            "weight_decay": 0.05,
            "weight_decay_end": placeholder(float),  # what it approaches on a cosine; None: constant
            "layer_decay": 1.0,  # factor on the learning rate from each group of layers to the one below
            "layer_groups": 12,  # of the trunk's layers; stem and head are two more
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
    keep_units(whole, {field for fields in DURATIONS for field in fields if has_field(config, field)})
    return whole


def evaluation_options(config):
    """The options of the task that hold in the evaluations of a run, {name: value}.

    They are what `config.eval` states; votes and views in `config.data`, where older recipes have them, give way to it.
    """
    options, data = {}, config.data.to_dict()
    if data.get("votes"):
        options["votes"] = data["votes"]
    if data.get("views"):
        options["segments"], options["crops"] = data["views"]
    return options | config.eval.to_dict()


def recalibration(config, steps, steps_per_epoch):
    """(batches, why): how many training batches give evaluations the statistics of batch norm, and by which rule."""
    if config.recalibrate is not None:
        return config.recalibrate, "as the recipe says"
    if steps >= SHORT_RUN:
        return 0, f"as the run has {SHORT_RUN} steps or more"
    batches = min(RECALIBRATION, steps_per_epoch * config.accumulate)
    return batches, f"as the run has fewer than {SHORT_RUN} steps"


def value_of(config, field):
    """The value of a field "optim.lr"; KeyError or AttributeError if there is none."""
    return functools.reduce(lambda node, name: node[name], field.split("."), config)


def kind_of(config, field):
    """The type of a field "optim.lr", which a field that holds None has, too; errors as `value_of`."""
    section, _, name = field.rpartition(".")
    return (value_of(config, section) if section else config).get_type(name)


def has_field(config, field):
    """Whether a recipe has a field "optim.lr"."""
    for name in field.split("."):
        if not hasattr(config, "keys") or name not in config:
            return False
        config = config[name]
    return True


def set_field(config, field, value):
    """Set a field "optim.lr"."""
    section, _, name = field.rpartition(".")
    (value_of(config, section) if section else config)[name] = value


def present_field(config, field):
    """Where a recipe has what older ones have in this field, if it is one field there, too."""
    now = MOVED.get(field, ())
    moved = len(now) == 1 and has_field(config, now[0]) and not has_field(config, field)
    return now[0] if moved else field


def keep_units(config, fields):
    """Set durations to 0 in all units but those of these fields, where one of them gives the duration."""
    for duration in DURATIONS:
        for field in {*duration} - fields if fields & {*duration} else ():
            if has_field(config, field):
                set_field(config, field, 0)


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
