"""Bar charts of benchmark rows."""

from unireplknet_jax.data.files import whole_file
from unireplknet_jax.tasks.drawing import FULL, figure, rendered, shortened

_BAR, _AROUND = 26, 96  # pixels: a bar, and what a panel has above and below its bars


def draw_rows(path, rows, keys, value):
    """Write a PNG: one panel for each value of the first keys, one bar for each of the last; `value` is in seconds."""
    panels = {}
    for row in rows:
        panels.setdefault(", ".join(_named(key, row[key]) for key in keys[:-1]), []).append(row)
    columns = min(2, len(panels))
    lines = -(-len(panels) // columns)
    height = lines * (_AROUND + _BAR * max(map(len, panels.values())))
    with figure(height, texts=panels) as drawn:
        grid = drawn.subplots(lines, columns, squeeze=False).flat
        for axes in [*grid][len(panels) :]:
            axes.remove()
        for axes, (title, group) in zip(drawn.axes, panels.items(), strict=True):
            milliseconds = [1e3 * row[value] for row in group]
            bars = axes.barh([str(row[keys[-1]]) for row in group], milliseconds, color="tab:blue")
            axes.bar_label(bars, [f"{number:.3g}" for number in milliseconds], padding=3)
            axes.set_xlim(0, 1.2 * max(milliseconds))
            axes.set_title(shortened(title, FULL / columns - 20))
            axes.set_xlabel("milliseconds")
            axes.invert_yaxis()
        with whole_file(path) as part:
            rendered(drawn).save(part)


def _named(key, value):
    """A value with its key where it does not speak for itself."""
    return f"{key} {value}" if isinstance(value, int | float) else str(value)
