"""`benchmark WHAT`: how fast a part of the system is on this machine."""

import dataclasses

from unireplknet_jax.cli.output import print_json, print_notes, print_table


def add_arguments(parser):
    parts = parser.add_subparsers(dest="part", metavar="WHAT", required=True)
    for name, (summary, add_part_arguments, run_part) in PARTS.items():
        part = parts.add_parser(name, help=summary, description=f"{summary.capitalize()}.", allow_abbrev=False)
        add_part_arguments(part)
        part.add_argument("--json", action="store_true", help="print a JSON document instead of a table")
        part.set_defaults(run_part=run_part)


def run(args):
    return args.run_part(args)


def _add_input_arguments(parser):
    parser.add_argument("--data-dir", metavar="DIR", help="a folder of pictures (default: synthetic ones are made)")
    parser.add_argument("--pictures", type=int, default=100, metavar="N", help="how many pictures (default: 100)")
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="passes over them (default: 5)")
    parser.add_argument("--size", type=int, default=224, metavar="S", help="pixels of the result (default: 224)")


def _run_input(args):
    from unireplknet_jax.data.image import TrainTransform
    from unireplknet_jax.data.throughput import measure, our_steps, pictures_in, synthetic_jpegs, torchvision_steps

    transform = TrainTransform(args.size)
    pipelines, notes = {"unireplknet_jax": our_steps(transform)}, []
    try:
        pipelines = {"torchvision": torchvision_steps(transform), **pipelines}
    except ImportError as error:
        notes.append(str(error))
    if args.data_dir:
        pictures, source = pictures_in(args.data_dir, args.pictures), f"pictures in {args.data_dir}"
    else:
        pictures, source = synthetic_jpegs(args.pictures), "synthetic JPEG files of 500 x 375 pixels"
    print_notes(notes)
    speeds = measure(pipelines, pictures, args.rounds)
    if args.json:
        header = {"source": source, "pictures": len(pictures), "rounds": args.rounds, "size": args.size}
        rows = [dataclasses.asdict(speed) for speed in speeds]
        print_json({**header, "unit": "pictures per CPU second of one thread", "speeds": rows, "notes": notes})
        return
    first = next(iter(pipelines))
    print(f"{len(pictures)} {source} to {args.size} x {args.size}, {args.rounds} rounds; pictures per second and core")
    print_table(
        ["step", "pipeline", "median", "slowest", "fastest", f"times {first}"],
        [
            [speed.step, speed.pipeline]
            + [f"{rate:.0f}" for rate in (speed.median, speed.slowest, speed.fastest)]
            + [f"{speed.ratio:.2f}"]
            for speed in sorted(speeds, key=lambda speed: len(speed.step))
        ],
    )


# What can be measured: name -> (summary, its arguments, its run).
PARTS = {"input": ("the pictures that one core prepares for training in a second", _add_input_arguments, _run_input)}
