"""What the evaluations of a run have said: how metrics are called in its rows, which was the best, how long ago.

A form of the network is "" (as it is trained), "ema" (the moving average) or "merged".
"""

import math

from unireplknet_jax.train.distributed import from_first_process
from unireplknet_jax.train.metrics import FILE, read_metrics

_PREFIXES = {"merged": "eval/merged/", "ema": "eval/ema/", "": "eval/"}  # the longest first
LOSSES = ("loss", "mse", "mae", "rmse")  # smaller is better, should stop.metric name one


def named(found):
    """{form: {metric: value}} as one {"top1": ..., "ema/top1": ...}."""
    return {f"{form}/{name}" if form else name: value for form, own in found.items() for name, value in own.items()}


def columns(found):
    """{form: {metric: value}} as a row of metrics.jsonl, {"eval/top1": ..., "eval/ema/top1": ...}."""
    return {_PREFIXES[form] + name: value for form, own in found.items() for name, value in own.items()}


def listed(found):
    """{form: {metric: value}} on one line; parts of a metric ("rmse/lead 1"), which may be thousands, are left out."""
    whole = {form: {name: value for name, value in own.items() if "/" not in name} for form, own in found.items()}
    return "  ".join(f"{name} {value:.5g}" for name, value in named(whole).items())


def is_part(column):
    """Whether a column holds a part of a metric."""
    form_and_metric = split_column(column)
    return form_and_metric is not None and "/" in form_and_metric[1]


def split_column(column):
    """(form, metric) of a column; None for one that is of no evaluation."""
    return next(((form, column.removeprefix(p)) for form, p in _PREFIXES.items() if column.startswith(p)), None)


class History:
    """The evaluations up to a step, the same on every process.

    folder: with metrics.jsonl. metric: as the recipe's `stop.metric`, "" for the first of the task. higher_is_better:
    of the task's first metric.
    """

    def __init__(self, folder, step, metric="", higher_is_better=True):
        self._metric, self._sign = metric, 1 if higher_is_better else -1
        # [(step, {form: {metric: value}})]; process 0 has the rows
        self._rows = from_first_process(lambda: _evaluations(read_metrics(folder / FILE), step))

    def has(self, step, form):
        """Whether a form was evaluated at a step."""
        return any(at == step and form in found for at, found in self._rows)

    def add(self, step, found):
        """found: {form: {metric: value}}."""
        self._rows.append((step, found))

    def is_best(self, form, found):
        """Whether metrics beat all earlier ones of a form by the first of them or, where it ties, by the loss."""
        earlier = [self._value(own[form]) for _, own in self._rows if own.get(form)]
        value = self._value(found)
        return value[0] > -math.inf and all(value > other for other in earlier)

    def _value(self, found):
        """What is compared, larger is better; NaN is worse than anything."""
        return _or_worst(self._sign * next(iter(found.values()))), _or_worst(-found.get("loss", 0.0))

    def since_best(self):
        """How many evaluations came after the best one by `metric`; ValueError if there are some, and none has it.

        The first metric of a form is told apart by the loss where it ties, as in `is_best`.
        """
        since, best = 0, (-math.inf, math.inf)
        for _, found in self._rows:
            known = named({form: own for form, own in found.items() if form != "merged"})
            if not known:
                continue
            name = self._metric or next(iter(known))
            if name not in known:
                raise ValueError(f"stop.metric={name} is not measured; choose one of {', '.join(list(known)[:20])}.")
            form = "ema" if name.startswith("ema/") else ""
            is_first = form in found and name == next(iter(named({form: found[form]})))
            value = self._value(found[form]) if is_first else (self._direction(name, known) * known[name],)
            since, best = (0, value) if value > best else (since + 1, best)
        return since

    def _direction(self, name, known):
        plain = name.removeprefix("ema/")
        return self._sign if plain == next(iter(known)) else -1 if plain.split("/")[0] in LOSSES else 1


def _or_worst(value):
    return -math.inf if math.isnan(value) else value


def _evaluations(rows, step):
    found = []
    for row in rows:
        own = {}
        for column, value in row.items():
            form, metric = split_column(column) or (None, None)
            if metric is not None and row["step"] <= step:
                own.setdefault(form, {})[metric] = value
        if own:
            found.append((row["step"], own))
    return found
