"""How long a recipe's run, its warm-up and the time between its evaluations take, each in one of several units."""

UNITS = ("epochs", "steps", "examples", "percent")
RUN = UNITS[:3]
EVAL_EVERY = tuple(f"eval_every_{unit}" for unit in UNITS)
WARMUP = tuple(f"optim.warmup_{unit}" for unit in UNITS)
DURATIONS = (RUN, EVAL_EVERY, WARMUP)  # the fields of each, of which a recipe gives one


def given(fields):
    """The one (field, value) of a duration's {field: value} that is not 0; None if all are.

    Raises ValueError if there are several.
    """
    found = [(field, value) for field, value in fields.items() if value]
    if len(found) > 1:
        both = " and ".join(f"{field}={value:g}" for field, value in found)
        raise ValueError(f"{both} say the same thing in different units; set all but one of them to 0.")
    return found[0] if found else None


def steps_of(fields, batch_size, examples, total=None):
    """The steps that a duration takes, a number that is not rounded; 0 if it is given in no unit.

    fields: {"optim.warmup_epochs": 0.5, "optim.warmup_steps": 0, ...}, where a name ends in its unit and all values but
    one are 0. batch_size: examples of a step. examples: of the training set; an epoch is as many whole batches as they
    make. total: the steps of the run, which percent are of.
    Raises ValueError as `given` does.
    """
    field, value = given(fields) or ("steps", 0)
    unit = field.rpartition("_")[2]
    if unit == "epochs":
        return value * (examples // batch_size)
    if unit == "examples":
        return value / batch_size
    return value * total / 100 if unit == "percent" else value
