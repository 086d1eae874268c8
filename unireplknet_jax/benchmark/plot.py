"""Bar charts of benchmark rows."""


def draw_rows(path, rows, keys, value):
    """Write a PNG: one panel for each value of the first keys, one bar for each of the last; `value` is in seconds."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    panels = {}
    for row in rows:
        panels.setdefault(", ".join(str(row[key]) for key in keys[:-1]), []).append(row)
    columns = min(3, len(panels))
    lines = -(-len(panels) // columns)
    figure, axes = pyplot.subplots(lines, columns, figsize=(4.2 * columns, 2.4 * lines), squeeze=False)
    for axis in axes.flat[len(panels) :]:
        axis.remove()
    for axis, (title, group) in zip(axes.flat, panels.items(), strict=False):
        axis.barh([str(row[keys[-1]]) for row in group], [1e3 * row[value] for row in group], color="tab:blue")
        axis.set_title(title, fontsize=9)
        axis.set_xlabel("ms", fontsize=8)
        axis.tick_params(labelsize=8)
        axis.invert_yaxis()
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    pyplot.close(figure)
