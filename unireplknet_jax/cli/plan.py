"""`plan`: whether a recipe's training step fits a TPU slice, compiled for it on a machine without a TPU."""

import math
import os
import pathlib

from unireplknet_jax.cli.output import print_json, print_notes, print_table
from unireplknet_jax.cli.train import add_config_argument, load_config

_BOUNDS = {
    "arithmetic": "matrix units at their peak",
    "memory": "state once through the memory",
    "links": "collectives at the links' peak",
}

EXAMPLES = (
    "plan --config imagenet1k.py:s --topology v5e:4x4",
    "plan --config imagenet1k.py:s --topology v5e:4x4 --config.batch_size=2048 --json",
)


def add_arguments(parser):
    parser.usage = "unireplknet plan --config FILE.py[:ARG] --topology NAME [--full] [--config.FIELD=VALUE ...]"
    add_config_argument(parser)
    parser.add_argument("--topology", required=True, metavar="NAME", help="the slice, for example v5e:4x4 or v6e:16x16")
    parser.add_argument("--full", action="store_true", help="compile as the run will, not with low effort (minutes)")
    parser.add_argument("--no-cache", action="store_true", help="compile even if the answer is known")
    parser.add_argument("--json", action="store_true", help="print a JSON document instead of a table")
    parser.epilog = (
        "It compiles the step and an evaluation for every shape that examples have, and at most two more steps: for "
        "another batch, and for the largest that then should fit."
    )
    parser.set_defaults(overrides=[])


def run(args):
    from unireplknet_jax.train.plan import plan

    home = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache")
    cache = None if args.no_cache else home / "unireplknet_jax" / "plan"
    report = plan(load_config(args.config, args.overrides), args.topology, args.full, cache)
    if args.json:
        print_json(report)
        return
    verdict = "FITS" if report["fits"] else "DOES NOT FIT"
    print(f"{args.config} on {args.topology}, batch {report['batch_size']:,}: {verdict}")
    print_table(["", "value"], _rows(report))
    print_notes(report["notes"])


def _rows(report):
    devices, accumulate = report["devices"], report["accumulate"]
    batch = f"{devices} device{'s' * (devices > 1)} x {report['examples_per_device']} examples"
    bound = max(report["step_bounds"], key=report["step_bounds"].get)
    epochs = report["epochs_per_day_at_most"]
    versions = report["versions"]
    return [
        ["batch", batch + (f" x {accumulate} micro-batches" if accumulate > 1 else "")],
        ["memory per device", f"{_gib(report['memory'])} of {_gib(report['device_memory'])} GiB"],
        *[[f"  {part}", f"{_gib(size)} GiB"] for part, size in report.get("memory_of", {}).items()],
        ["programs for its shapes", _programs(report)],
        *[[f"  {_program(program)}", f"{_gib(program['memory'])} GiB"] for program in report["programs"]],
        ["largest batch that fits", _largest(report)],
        ["model FLOPs per step", f"{report['model_flops_per_step']:.3g}, {_tera(report)} T per device"],
        *[
            [f"{kind} per step", f"{entry['count']}, {entry['bytes'] / 1e6:,.1f} MB per device"]
            for kind, entry in report.get("collectives", {}).items()
        ],
        ["step time, a lower bound", f"{1e3 * report['step_seconds_at_least']:.3g} ms ({_BOUNDS[bound]})"],
        ["epochs per day, at most", f"{epochs:,.1f}" if epochs else "unknown: data.train_examples is too small"],
        ["compiler", f"{report['effort']} effort, jax {versions['jax']}, libtpu {versions['libtpu']}"],
    ]


def _gib(size):
    return f"{size / 2**30:.2f}"


def _programs(report):
    programs = report["programs"]
    return f"{len(programs)}, the largest: {_program(max(programs, key=lambda program: program['memory']))}"


def _program(program):
    """What a program does, and the largest array of an example of its shapes: "evaluation, image 512x704x3"."""
    name, shape = max(program["shapes"].items(), key=lambda item: math.prod(item[1]))
    return f"{program['what']}, {name} {'x'.join(map(str, shape))}"


def _tera(report):
    return f"{report['model_flops_per_device'] / 1e12:.3g}"


def _largest(report):
    if not report["largest_batch"]:
        return "none"
    return f"{report['largest_batch']:,} ({'compiled' if report['largest_batch_compiled'] else 'estimated'})"
