"""One picture of a forecast: what was, what is expected, what the baselines say."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

from unireplknet_jax.data.series.windows import without_gaps
from unireplknet_jax.tasks.drawing import FULL, figure, printable, rendered, shortened

MOST_STATIONS = 4
_HEADER, _PANEL = 120, 190  # pixels
_STYLES: Mapping[str, Mapping[str, Any]] = {
    "measured": {"color": "black"},
    "forecast": {"color": "tab:red"},
    "persistence": {"color": "tab:gray", "linestyle": ":", "linewidth": 2},
    "climatology": {"color": "tab:blue", "linestyle": ":", "linewidth": 2},
    "a forecast begins": {"color": "lightgray", "zorder": 0},
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
    """A PIL image with a panel for each of the first few stations, under the file's name.

    record: as `Forecasting.combined` makes it. times (t,), values (t, stations) of the user's file; climatology
    (t + horizon, stations). Where the file is long enough, its last rows are shown beside the hindcast for them.
    """
    from matplotlib.dates import AutoDateLocator, ConciseDateFormatter

    shown = min(len(names), MOST_STATIONS)
    horizon = len(record["forecast"])
    first = max(len(times) - history - ("hindcast" in record) * horizon, 0)
    unit, title = printable(unit), record.get("id", "")
    if shown < len(names):
        title = f"{title} (the first {shown} of {len(names)} stations)"
    with figure(_HEADER + shown * _PANEL, texts=[title, unit, *names[:shown]]) as drawn:
        panels = np.atleast_1d(drawn.subplots(shown, 1, sharex=True))
        for index, axes in enumerate(panels):
            axes.plot(times[first:], values[first:, index], **_STYLES["measured"], label="measured")
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
                    axes.plot(ahead, line, **_STYLES[kind], label=_once(kind, name))
                axes.axvline(times[start - 1], **_STYLES["a forecast begins"], label=_once("a forecast begins", name))
            axes.set_title(shortened(names[index], FULL - 120), loc="left")
            axes.set_ylabel(unit)
            axes.margins(x=0.01)
        locator = AutoDateLocator(minticks=3, maxticks=7)
        formats = ["%Y", "%Y-%m", "%Y-%m-%d", "%H:%M", "%H:%M", "%H:%M:%S"]
        whole = ["", "%Y", "%Y-%m", "%Y-%m-%d", "%H:%M", "%H:%M:%S"]  # of the first tick of a year, a month, ...
        panels[-1].xaxis.set_major_locator(locator)
        formatter = ConciseDateFormatter(locator, formats=formats, zero_formats=whole, show_offset=False)
        panels[-1].xaxis.set_major_formatter(formatter)
        last = record["forecast"][-1]["time"] if horizon else str(times[-1])
        panels[-1].set_xlabel(f"time, from {_minutes(str(times[first]))} to {_minutes(last)}")
        drawn.suptitle(shortened(title, FULL - 40, keep="end"), fontsize="medium")
        handles, labels = panels[0].get_legend_handles_labels()
        drawn.legend(handles, labels, loc="outside lower center", ncols=len(labels))
        return rendered(drawn)


def _once(label: str, name: str) -> str | None:
    """The label of a line in the legend, which has each once: of the forecast, not of the hindcast."""
    return label if name == "forecast" else None


def _minutes(time: str) -> str:
    """A time of NumPy's as people write it, without seconds."""
    return time.replace("T", " ")[:16]
