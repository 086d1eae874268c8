"""How `benchmark` prints what it measured or counted, as tables or JSON, and draws it."""

from unireplknet_jax.cli.output import print_json, print_table


def report(args, rows, keys, extras):
    """Print rows of timings, and draw them."""
    from unireplknet_jax.benchmark.plot import draw_rows
    from unireplknet_jax.benchmark.timing import environment

    chosen = {name: value for name in ("task", "size") if (value := getattr(args, name, None)) is not None}
    facts = {**environment(), **chosen, "dtype": args.dtype, "rounds": args.rounds}
    if args.plot:
        draw_rows(args.plot, rows, keys, "median")
    if _said_as_json(args, facts, rows):
        return
    columns = [*keys, "median ms", "fastest", "slowest", *extras, "temporary MB", "compile s"]
    print_table(
        columns,
        [[*_cells(row, keys), *_times(row), *_cells(row, extras), _temporary(row), _seconds(row)] for row in rows],
    )


def report_static(args, rows, keys, ratio):
    """Print rows of static costs, and draw them."""
    from unireplknet_jax.benchmark.plot import draw_rows
    from unireplknet_jax.train.slices import libtpu_version

    facts = {"chip": args.static, "dtype": args.dtype, "libtpu": libtpu_version()}
    if args.plot:
        draw_rows(args.plot, rows, keys, "seconds")
    if _said_as_json(args, facts, rows, "; counted, not measured"):
        return
    columns = [*keys, "static ms", "long loops", "unknown loops", "memory ms", ratio, "scratch MB", "compile s"]
    cells = [
        [f"{1e3 * row[name]:.3f}" for name in ("seconds", "seconds_if_long")]
        + [row["unknown_loops"], f"{1e3 * row['memory_seconds']:.3f}"]
        + [f"{row[ratio]:.2f}" if row[ratio] else None, f"{row['scratch_bytes'] / 1e6:.0f}", _seconds(row)]
        for row in rows
    ]
    print_table(columns, [[*_cells(row, keys), *rest] for row, rest in zip(rows, cells, strict=True)])


def report_classes(args, rows):
    """Print rows of kernels, bytes and bounds by class, and draw them."""
    from unireplknet_jax.benchmark.gpu_cost import plugin_version
    from unireplknet_jax.benchmark.plot import draw_rows

    keys, facts = ["model", "batch", "form", "class"], {"chip": args.static, "dtype": args.dtype, **plugin_version()}
    if args.plot:
        draw_rows(args.plot, rows, keys, "seconds")
    if _said_as_json(args, facts, rows, "; counted, not measured"):
        return
    print_table(
        [*keys, "kernels", "GB moved", "GB turned", "TFLOP of products", "bound ms", "temporary MB", "compile s"],
        [
            [*_cells(row, keys), row["kernels"]]
            + [f"{row[name] / scale:.2f}" for name, scale in (("bytes", 1e9), ("turned_bytes", 1e9), ("flops", 1e12))]
            + [f"{1e3 * row['seconds']:.2f}", _temporary(row), _seconds(row)]
            for row in rows
        ],
    )


def report_static_network(args, rows):
    """Print rows of the static costs of a network's parts, and draw the whole parts."""
    from unireplknet_jax.benchmark.plot import draw_rows
    from unireplknet_jax.benchmark.static_network import times_floor
    from unireplknet_jax.train.slices import libtpu_version

    facts = {"chip": args.static, "dtype": args.dtype, "libtpu": libtpu_version()}
    if args.plot:
        draw_rows(args.plot, [row for row in rows if row["class"] == "all"], ["model", "batch", "part"], "seconds")
    if _said_as_json(args, facts, rows, "; counted, not measured"):
        return
    print('Each part was compiled by itself; part "all" is their sum, each as often as the network has it.')
    units = ("seconds", "seconds_if_long", "matrix_seconds", "vector_seconds", "memory_seconds")
    cells = [
        [row["model"], row["batch"], row["part"], row.get("times"), row["class"]]
        + [f"{1e3 * row[unit]:.3f}" if unit in row else None for unit in units]
        + [f"{ratio:.2f}" if (ratio := times_floor(row)) else None]
        + [f"{row['scratch_bytes'] / 1e6:.0f}" if "scratch_bytes" in row else None]
        + [f"{row['compile_seconds']:.0f}" if "compile_seconds" in row else None]
        for row in rows
    ]
    names = ["static ms", "long loops", "matrix ms", "vector ms", "memory ms", "times floor", "scratch MB", "compile s"]
    print_table(["model", "batch", "part", "times", "class", *names], cells)


def _said_as_json(args, facts, rows, remark=""):
    """Print rows of seconds and the facts about them as JSON, or the facts alone, in front of a table; which it was."""
    if args.json:
        print_json({**facts, "unit": "seconds", "rows": rows})
    else:
        print(", ".join(f"{name} {value}" for name, value in facts.items()) + remark)
    return args.json


def _cells(row, names):
    return [f"{value:.2f}" if isinstance(value := row[name], float) else value for name in names]


def _times(row):
    return [f"{1e3 * row[name]:.2f}" for name in ("median", "fastest", "slowest")]


def _temporary(row):
    return None if row.get("temporary_bytes") is None else f"{row['temporary_bytes'] / 1e6:.1f}"


def _seconds(row):
    return None if row.get("compile_seconds") is None else f"{row['compile_seconds']:.1f}"
