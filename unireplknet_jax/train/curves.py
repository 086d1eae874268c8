"""The curves of a run as a picture."""

import pathlib

from unireplknet_jax.train.metrics import FILE, read_metrics


def draw_curves(workdir):
    """Draw workdir/curves.png from workdir/metrics.jsonl: whatever changes over a run, against the step."""
    from matplotlib.figure import Figure

    rows = read_metrics(pathlib.Path(workdir) / FILE)
    names = sorted({name for row in rows for name in row} - {"step"})
    names = [name for name in names if len({row[name] for row in rows if name in row}) > 1]
    if not names:
        return
    panels = {}  # "train/loss" and "eval/loss" share a panel
    for name in names:
        panels.setdefault(name.split("/")[-1], []).append(name)
    figure = Figure(figsize=(3.6 * len(panels), 3), layout="constrained")
    for axes, (title, members) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True):
        for name in members:
            points = [(row["step"], row[name]) for row in rows if name in row]
            axes.plot(*zip(*points, strict=True), marker="." if name.startswith("eval/") else None, label=name)
        axes.set(title=title, xlabel="step", yscale="log" if title == "loss" else "linear")
        axes.grid(alpha=0.3)
        axes.legend(fontsize=7)
    figure.savefig(pathlib.Path(workdir) / "curves.png", dpi=120)
