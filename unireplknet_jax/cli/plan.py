"""`plan`: whether a recipe's training step fits a TPU slice, compiled for it on a machine without a TPU."""

import os
import pathlib

from unireplknet_jax.cli.output import print_json, print_table


def add_arguments(parser):
    parser.usage = "unireplknet plan --config FILE.py[:ARG] --topology NAME [--full] [--config.FIELD=VALUE ...]"
    parser.add_argument("--config", required=True, metavar="FILE.py[:ARG]", help="the recipe and its argument")
    parser.add_argument("--topology", required=True, metavar="NAME", help="the slice, for example v5e:4x4 or v6e:16x16")
    parser.add_argument("--full", action="store_true", help="compile as the run will, not with low effort (minutes)")
    parser.add_argument("--no-cache", action="store_true", help="compile even if the answer is known")
    parser.add_argument("--json", action="store_true", help="print a JSON document instead of a table")
    parser.set_defaults(overrides=[])


def run(args):
    from unireplknet_jax.cli.train import load_config
    from unireplknet_jax.train.plan import plan

    home = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache")
    cache = None if args.no_cache else home / "unireplknet_jax" / "plan"
    report = plan(load_config(args.config, args.overrides), args.topology, args.full, cache)
    if args.json:
        print_json(report)
        return
    print(f"{args.config} on {args.topology}: {report['chips']} chips, batch {report['batch_size']}")
    print_table(["", "value"], _rows(report))
    if not report["fits"]:
        print("It does not fit: lower batch_size, raise accumulate or mesh.fsdp, or set task.options.model.remat.")


def _rows(report):
    gib = 2**30
    collectives = [
        [f"{kind} per step", f"{entry['count']}, {entry['bytes'] / 1e6:.1f} MB"]
        for kind, entry in report.get("collectives", {}).items()
    ]
    confirmed = "compiled" if report["largest_batch_confirmed"] else "estimated"
    bound = max(report["step_bounds"], key=report["step_bounds"].get)
    epochs = report["epochs_per_day_at_most"]
    return [
        ["memory per chip", f"{report['memory'] / gib:.2f} of {report['chip_memory'] / gib:.2f} GiB"],
        ["fits", "yes" if report["fits"] else "NO"],
        ["largest batch that fits", f"{report['largest_batch']} ({confirmed})"],
        ["model FLOPs per step", f"{report['model_flops_per_step']:.3g}"],
        *collectives,
        ["step time", f"at least {1e3 * report['step_seconds_at_least']:.1f} ms ({bound})"],
        ["epochs per day", f"at most {epochs:.1f}" if epochs else "unknown: data.train_examples is 0"],
        [
            "compiler",
            f"{report['effort']} effort, jax {report['versions']['jax']}, libtpu {report['versions']['libtpu']}",
        ],
    ]
