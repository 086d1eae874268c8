"""One picture of a forecast: what was, what is expected, what the baselines say."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

from unireplknet_jax.data.series.windows import without_gaps

MOST_STATIONS = 4
_STYLES = {
    "truth": {"color": "black"},
    "forecast": {"color": "tab:red"},
    "persistence": {"color": "tab:gray", "linestyle": ":"},
    "climatology": {"color": "tab:blue", "linestyle": ":"},
}


def draw_forecast(
    record: Mapping[str, Any],
    times: np.ndarray,
    values: np.ndarray,
    climatology: np.ndarray,
    names: Sequence[str],
    history: int,
    unit: str,
) -> Image.Image:
    """A PIL image with a panel for each of the first few stations.

    record: as `Forecasting.combined` makes it. times (t,), values (t, stations) of the user's file; climatology
    (t + horizon, stations). Where the file is long enough, its last rows are shown beside the hindcast for them.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    shown = min(len(names), MOST_STATIONS)
    figure = Figure(figsize=(9, 2.2 * shown), layout="constrained")
    canvas = FigureCanvasAgg(figure)
    horizon = len(record["forecast"])
    first = max(len(times) - history - ("hindcast" in record) * horizon, 0)
    for index, axes in enumerate(np.atleast_1d(figure.subplots(shown, 1, sharex=True))):
        axes.plot(times[first:], values[first:, index], **_STYLES["truth"], label="measured")
        starts = {"hindcast": len(times) - horizon, "forecast": len(times)}
        for name, start in starts.items():
            if name not in record or start < 1:
                continue
            ahead = np.array([row["time"] for row in record[name]], "datetime64[s]")
            lines = {
                "forecast": [row[names[index]] for row in record[name]],
                "persistence": np.full(horizon, without_gaps(values[:start, [index]], np.nan)[-1]),
                "climatology": climatology[start : start + horizon, index],
            }
            for kind, line in lines.items():
                label = kind if name == "forecast" else None
                axes.plot(ahead, line, **_STYLES[kind], label=label)
            axes.axvline(times[start - 1], color="lightgray")
        axes.set_ylabel(f"{names[index]} {unit}".strip())
    axes.tick_params(axis="x", labelrotation=20)
    figure.axes[0].legend(loc="upper left", ncols=4, fontsize=8)
    canvas.draw()
    return Image.fromarray(np.asarray(canvas.buffer_rgba())[..., :3].copy())
