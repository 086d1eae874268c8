"""The curves of a run as a picture."""

import math
import pathlib

import jax

from unireplknet_jax.train.finite import GROUP
from unireplknet_jax.train.history import is_part
from unireplknet_jax.train.metrics import FILE, read_metrics

_COLUMNS = 4


def draw_curves(workdir):
    """Draw workdir/curves.png from workdir/metrics.jsonl: whatever changes over a run, against the step.

    Except the norms of single groups of gradients and the parts of a metric ("eval/rmse/lead 1"), of which there may be
    thousands: they are in TensorBoard.
    """
    from matplotlib.figure import Figure

    if jax.process_index() != 0:  # which alone has the rows
        return
    rows = read_metrics(pathlib.Path(workdir) / FILE)
    names = sorted({name for row in rows for name in row} - {"step"})
    names = [name for name in names if not (GROUP in name or is_part(name))]
    names = [name for name in names if len({row[name] for row in rows if name in row}) > 1]
    if not names:
        return
    panels = {}  # "train/loss" and "eval/loss" share a panel
    for name in names:
        panels.setdefault(name.split("/")[-1], []).append(name)
    columns = min(len(panels), _COLUMNS)
    rows_of_panels = math.ceil(len(panels) / columns)
    figure = Figure(figsize=(3.6 * columns, 3 * rows_of_panels), layout="constrained")
    grid = figure.subplots(rows_of_panels, columns, squeeze=False).ravel()
    for axes in grid[len(panels) :]:
        axes.remove()
    for axes, (title, members) in zip(grid, panels.items(), strict=False):
        for name in members:
            points = [(row["step"], row[name]) for row in rows if name in row]
            axes.plot(*zip(*points, strict=True), marker="." if name.startswith("eval/") else None, label=name)
        axes.set(title=title, xlabel="step", yscale="log" if title == "loss" else "linear")
        axes.grid(alpha=0.3)
        axes.legend(fontsize=7)
    figure.savefig(pathlib.Path(workdir) / "curves.png", dpi=120)
