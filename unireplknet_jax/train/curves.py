"""The curves of a run as a picture."""

import math
import pathlib
import textwrap

import jax

from unireplknet_jax.data.files import whole_file
from unireplknet_jax.tasks.drawing import WIDTH, figure, printable, rendered
from unireplknet_jax.train.finite import GROUP
from unireplknet_jax.train.history import LOSSES, is_part, split_column
from unireplknet_jax.train.metrics import FILE, read_metrics

_PANEL, _LEGEND = 270, 24  # pixels: the height of a row of panels, and of a line of the legend
_TITLES = {"lr": "learning rate", "grad_norm": "norm of the gradient"}
_KINDS = {  # what a curve is of, and how it is drawn everywhere
    "training": {"color": "tab:green"},
    "": {"color": "tab:blue", "marker": "o", "markersize": 4},
    "ema": {"color": "tab:orange", "marker": "o", "markersize": 4},
    "merged": {"color": "tab:red", "marker": "x", "linestyle": "none"},
    "other": {"color": "tab:gray"},
}
_RATIO = 5  # of the largest loss to the smallest, from which on a logarithmic axis tells more


def draw_curves(workdir, task=None, steps_per_epoch=None):
    """Draw workdir/curves.png from workdir/metrics.jsonl: evaluations, and what changes over a run, against the step.

    task: whose units are written, and what its training loss has that an evaluation has not. steps_per_epoch: of the
    second axis; None: there is none. Numbers that are not finite are marked at the bottom of their panel.

    Except the norms of single groups of gradients and the parts of a metric ("eval/rmse/lead 1"), of which there may be
    thousands: they are in TensorBoard. So are seconds per step, which the examples per second tell, too.
    """
    if jax.process_index() != 0:  # which alone has the rows
        return
    rows = sorted(read_metrics(pathlib.Path(workdir) / FILE), key=lambda row: row["step"])
    panels = _panels(rows)
    if not panels:
        return
    units = {} if task is None else task.units
    kinds = [kind for kind in _KINDS if any(_kind(name) == kind for names in panels.values() for name in names)]
    legend = {kind: textwrap.wrap(text, 84) for kind in kinds if (text := _described(kind, task))}
    columns = min(2, len(panels))
    lines = math.ceil(len(panels) / columns)
    height = lines * _PANEL + _LEGEND * (1 + sum(map(len, legend.values())))
    with figure(height, WIDTH, texts=[*panels, *units.values()]) as drawn:
        grid = drawn.subplots(lines, columns, squeeze=False).ravel()
        for axes in grid[len(panels) :]:
            axes.remove()
        for axes, (title, names) in zip(grid, panels.items(), strict=False):
            _draw_panel(axes, title, names, rows, units.get(title, ""), steps_per_epoch)
        handles = [drawn.axes[0].plot([], [], **_KINDS[kind])[0] for kind in legend]
        if handles:
            drawn.legend(handles, ["\n".join(text) for text in legend.values()], loc="outside lower left")
        with whole_file(pathlib.Path(workdir) / "curves.png") as part:
            rendered(drawn).save(part)


def _panels(rows):
    """{title: columns}, "train/loss" and "eval/loss" together: losses, metrics, and then what is of training alone."""
    values = {}
    for row in rows:
        for name in row.keys() - {"step"}:
            values.setdefault(name, set()).add(row[name])
    # A run of one evaluation has a point of each metric; what never changes otherwise (a count, say) is no curve.
    names = [name for name in values if not (GROUP in name or is_part(name) or name.endswith("/seconds_per_step"))]
    names = [name for name in names if len(values[name]) > 1 or (split_column(name) and not name.endswith("/count"))]
    first = {name: index for index, name in reversed([*enumerate(name for row in rows for name in row)])}
    panels = {}
    for name in sorted(names, key=lambda name: (name.split("/")[-1] != "loss", not split_column(name), first[name])):
        panels.setdefault(name.split("/")[-1], []).append(name)
    return panels


def _kind(name):
    found = split_column(name)
    return found[0] if found else "training" if name.startswith("train/") else "other"


def _described(kind, task):
    """What the legend says of a kind of curve; "" for what needs no word."""
    if kind != "training":
        return {"": "evaluation", "ema": "evaluation, moving average", "merged": "evaluation, merged form"}.get(
            kind, ""
        )
    differences = [] if task is None else task.training_only
    means = "training batches, mean since the point before"
    return f"{means}; other than an evaluation's: {', '.join(differences)}" if differences else means


def _draw_panel(axes, title, names, rows, unit, steps_per_epoch):
    from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

    finite = []
    for name in names:
        points = [(row["step"], row[name]) for row in rows if name in row]
        good = [(step, value) for step, value in points if _is_number(value)]
        finite += [value for _, value in good]
        style = _KINDS[_kind(name)]
        if good:
            axes.plot(*zip(*good, strict=True), **({"marker": "o"} if len(good) == 1 else {}) | style)
        bad = [step for step, value in points if not _is_number(value)]
        if bad:
            mark = axes.get_xaxis_transform()
            axes.plot(bad, [0.04] * len(bad), transform=mark, color="red", marker="X", linestyle="none")
            axes.text(0.02, 0.09, "not finite", color="red", transform=axes.transAxes)
    axes.set_title(f"{printable(_TITLES.get(title, title.replace('_', ' ')))}{f', {printable(unit)}' if unit else ''}")
    if title in (*LOSSES, "grad_norm") and finite and 0 < min(finite) * _RATIO <= max(finite):
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_formatter(NullFormatter())
    axes.grid(alpha=0.3)
    axes.set(xlabel="step", xlim=(0, 1.03 * max(rows[-1]["step"], 1)))
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    if steps_per_epoch:
        above = axes.secondary_xaxis(
            "top", (lambda step: step / steps_per_epoch, lambda epoch: epoch * steps_per_epoch)
        )
        above.set_xlabel("epoch")
        above.xaxis.set_major_locator(MaxNLocator(6))


def _is_number(value):
    return isinstance(value, int | float) and math.isfinite(value)
