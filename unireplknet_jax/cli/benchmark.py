"""`benchmark WHAT`: how fast a part of the system is on this machine."""

import argparse
import dataclasses
import functools
import os
import pathlib
import tempfile

from unireplknet_jax.cli.benchmark_tables import report, report_classes, report_static, report_static_network
from unireplknet_jax.cli.data import check_least
from unireplknet_jax.cli.output import check_output, print_json, print_notes, print_table

_ROUNDS = 9
_TASK = "classification"

EXAMPLES = (
    "benchmark input --pictures 200",
    "benchmark startup --only picture",
    'benchmark depthwise --case "8x14x14x320 k13"',
    "benchmark block --static v5e",
    "benchmark model unireplknet_t --batch 8",
    "benchmark model unireplknet_t --task segmentation",
    "benchmark model unireplknet_t --task detection --rounds 3",
    "benchmark model --against openvino,onnxruntime",
    "benchmark model flowers.onnx --batch 1",
    "benchmark train --dtype bfloat16 --json",
    "benchmark serve http://127.0.0.1:8000 rose.jpg --clients 1,8",
)


def add_arguments(parser):
    parts = parser.add_subparsers(dest="part", metavar="WHAT", required=True)
    for name, (summary, add_part_arguments, run_part) in PARTS.items():
        part = parts.add_parser(name, help=summary, description=f"{summary.capitalize()}.", allow_abbrev=False)
        add_part_arguments(part)
        part.add_argument("--json", action="store_true", help="print a JSON document instead of a table")
        part.set_defaults(run_part=run_part, command_parser=part)


def run(args):
    check_least("--rounds", args.rounds, 1)
    if hasattr(args, "static"):
        _check_static(args)
        args.dtype = args.dtype or ("float32" if args.static is None else "bfloat16")
    if getattr(args, "plot", None) is not None:
        if pathlib.Path(args.plot).suffix.lower() != ".png":
            raise argparse.ArgumentError(None, f"--plot is {args.plot}; expected a name that ends in .png.")
        check_output("--plot", args.plot)
    args.rounds = _ROUNDS if args.rounds is None else args.rounds
    return args.run_part(args)


def _check_static(args):
    """Raise ValueError for an option that means nothing with --static, or nothing without."""
    without = [name for name in ("rounds", "against", "xla") if getattr(args, name, None) not in (None, False)]
    if args.static is not None and without:
        raise ValueError(f"--static counts, so --{without[0]} has no meaning with it; leave one of the two out.")
    if args.static == "h100" and getattr(args, "task", _TASK) != _TASK:
        raise ValueError(f"--static h100 counts classifiers alone; leave it or --task {args.task} out.")
    if getattr(args, "task", _TASK) == "detection" and (args.static is not None or args.part == "train"):
        raise ValueError("--task detection is timed by `benchmark model` alone, without --static; leave it out.")
    if args.static in (None, "h100") and getattr(args, "only", None) is not None:
        raise ValueError("--only chooses among the parts that --static v5e counts; leave it out for anything else.")


def _add_timing_arguments(parser):
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), help="default: float32, with --static bfloat16")
    parser.add_argument("--rounds", type=int, metavar="N", help=f"runs of each (default: {_ROUNDS})")
    parser.add_argument("--plot", metavar="FILE.png", help="draw the medians")


def _add_static_argument(parser, chips="a TPU (v5e, v6e, v5p, v4)"):
    parser.add_argument("--static", metavar="CHIP", help=f"count the cost on {chips} instead, without one")


# ---- depthwise


def _add_depthwise_arguments(parser):
    parser.add_argument("--case", action="append", metavar="SHAPE", help='as "8x14x14x320 k13" or "8x14x14x160 k3 d5"')
    parser.add_argument("--form", action="append", metavar="NAME", help="an implementation (default: all)")
    _add_timing_arguments(parser)
    _add_static_argument(parser)


def _run_depthwise(args):
    from unireplknet_jax.benchmark import depthwise

    cases = [depthwise.parse_case(text) for text in args.case or ()]
    depthwise.check_forms(args.form or ())
    if args.static is not None:
        from unireplknet_jax.benchmark.static_cost import depthwise_rows

        rows = depthwise_rows(args.static, args.case, args.form, args.dtype)
        report_static(args, rows, ["case", "pass", "form"], "times xla")
        return
    cases = cases or depthwise.CASES
    rows = [row for case in cases for row in depthwise.measure_case(case, args.dtype, args.rounds, args.form)]
    report(args, rows, ["case", "pass", "form"], ["auto", "times xla", "roofline"])


# ---- block


def _add_block_arguments(parser):
    parser.add_argument("--case", action="append", metavar="SHAPE", help='as "8x14x14x160 k13"')
    _add_timing_arguments(parser)
    _add_static_argument(parser)


def _run_block(args):
    from unireplknet_jax.benchmark import block, depthwise

    cases = [depthwise.parse_case(text) for text in args.case or ()]
    for case in cases:
        block.check_case(case)
    if args.static is not None:
        from unireplknet_jax.benchmark.static_cost import block_rows

        report_static(args, block_rows(args.static, args.case, args.dtype), ["case", "form"], "times one kernel, xla")
        return
    rows = [row for case in cases or block.CASES for row in block.measure_case(case, args.dtype, args.rounds)]
    report(args, rows, ["case", "form"], ["times one kernel"])


# ---- model, train


models_help = "a size (default: unireplknet_a unireplknet_t), or with `model` what `export` wrote"


def _add_network_arguments(parser):
    parser.add_argument("models", nargs="*", metavar="MODEL", help=models_help)
    parser.add_argument(
        "--batch",
        action="append",
        type=int,
        metavar="N",
        help="default: 1 and 8, in training 8; of segmentation 1 and 2; of detection 1",
    )
    parser.add_argument("--task", default=_TASK, metavar="NAME", help=f"{_TASK} (default), segmentation or detection")
    parser.add_argument(
        "--size", type=int, metavar="S", help="pixels (default: 224, of segmentation 512, of detection 800)"
    )
    parser.add_argument("--xla", action="store_true", help="time XLA's own convolution, too (slow on CPU)")
    parser.add_argument(
        "--only", metavar="TEXT", help='with --static: the parts whose name holds this, as in "block 2 k13"'
    )
    _add_timing_arguments(parser)
    _add_static_argument(parser, "a TPU (v5e) or a GPU (h100)")


def _add_model_arguments(parser):
    _add_network_arguments(parser)
    parser.add_argument(
        "--against",
        metavar="NAMES",
        help="what else is timed, of torch, inductor (torch.compile), openvino, onnxruntime and litert "
        "(default: torch where it is installed)",
    )


def _run_model(args):
    if args.static is not None:
        _run_static_network(args, train=False)
        return
    from unireplknet_jax.tasks.artefact import format_of

    if any(map(format_of, args.models)):
        _run_artefacts(args)
        return
    from unireplknet_jax.benchmark.network import measure_inference

    against = None if args.against is None else tuple(dict.fromkeys(map(str.strip, args.against.split(","))))
    measure = functools.partial(measure_inference, against=against)
    ratios = [f"times {name}" for name in against or ("torch",)]
    batches = (1, 8) if args.task == _TASK else (1,)
    _run_network(args, measure, batches, ("unireplknet_a", "unireplknet_t"), ratios)


def _run_artefacts(args):
    """Time what `export` wrote, each file in its own runtime; nothing but their batches can be chosen."""
    from unireplknet_jax.benchmark.runtimes import artefact_rows

    others = {"--against": args.against, "--xla": args.xla or None, "--size": args.size}
    given = next((name for name, value in others.items() if value is not None), None)
    if given or args.dtype != "float32":
        raise ValueError(f"what was exported is timed as it is; leave out {given or '--dtype'}.")
    for batch in args.batch or ():
        check_least("--batch", batch, 1)
    rows = [
        row for path in args.models for batch in args.batch or (1, 8) for row in artefact_rows(path, batch, args.rounds)
    ]
    report(args, rows, ["model", "batch", "form"], [])


def _run_train(args):
    if args.static is not None:
        _run_static_network(args, train=True)
        return
    from unireplknet_jax.benchmark.network import measure_training

    batches = (8,) if args.task == _TASK else (2,)
    _run_network(args, measure_training, batches, ("unireplknet_a",), ["times torch"])


def _check_network(args):
    """Raise ValueError for what cannot be measured; choose the size that is not given."""
    from unireplknet_jax.benchmark.network import TASKS, network_of

    for batch in args.batch or ():
        check_least("--batch", batch, 1)
    check_least("--size", args.size, 32)
    for name in args.models or ("unireplknet_a",):
        network_of(args.task, name)
    args.size = args.size or TASKS[args.task][0]


def _run_static_network(args, train):
    _check_network(args)
    cases = [
        (args.static, model, batch, args.size, args.dtype)
        for model in args.models or ("unireplknet_t",)
        for batch in args.batch or (128 if args.task == _TASK else 16,)
    ]
    if args.static == "h100":
        from unireplknet_jax.benchmark.gpu_cost import inference_rows, training_rows

        measure = training_rows if train else inference_rows
        report_classes(args, [row for case in cases for row in measure(*case)])
        return
    from unireplknet_jax.benchmark.static_network import network_rows

    report_static_network(args, [row for case in cases for row in network_rows(*case, train, args.only, args.task)])


def _run_network(args, measure, batches, models, ratios):
    _check_network(args)
    rows = [
        row
        for model in args.models or models
        for batch in args.batch or batches
        for row in measure(model, batch, args.size, args.dtype, args.rounds, args.xla, task=args.task)
    ]
    report(args, rows, ["model", "batch", "form"], ratios)


# ---- input


def _add_input_arguments(parser):
    parser.add_argument("--data-dir", metavar="DIR", help="a folder of pictures (default: synthetic ones are made)")
    parser.add_argument("--pictures", type=int, default=100, metavar="N", help="how many pictures (default: 100)")
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="passes over them (default: 5)")
    parser.add_argument("--size", type=int, default=224, metavar="S", help="pixels of the result (default: 224)")


def _run_input(args):
    from unireplknet_jax.benchmark.throughput import measure, our_steps, pictures_in, synthetic_jpegs, torchvision_steps
    from unireplknet_jax.data.pictures.transforms import TrainTransform

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


# ---- startup


def _add_startup_arguments(parser):
    parser.add_argument("--only", metavar="TEXT", help="the rows whose name holds this")
    parser.add_argument("--rounds", type=int, default=3, metavar="N", help="processes of each (default: 3)")
    parser.add_argument("--folder", metavar="DIR", help="a folder that keeps the made-up files (default: nowhere)")


def _run_startup(args):
    from unireplknet_jax.benchmark import startup
    from unireplknet_jax.tasks import made_up

    if args.folder and not pathlib.Path(args.folder).is_dir():
        raise ValueError(f"--folder {args.folder} is not a folder; create it first.")
    rows, left_out = [], []
    with tempfile.TemporaryDirectory() as temporary:
        for case in startup.cases(args.folder or temporary, args.only):
            try:
                made_up.write(args.folder or temporary, case.files)
                rows += startup.measure(case, args.rounds)
            except (ImportError, ValueError) as error:
                left_out.append(f"{case.name}: {error}")
    print_notes([f"left out, {reason}" for reason in left_out])
    if args.json:
        print_json({"unit": "seconds", "rounds": args.rounds, "rows": rows, "left_out": left_out})
        return
    names = ("wall", "fastest", "slowest", "cpu")
    print_table(
        ["row", "cache", *names], [[row["row"], row["cache"], *(f"{row[name]:.2f}" for name in names)] for row in rows]
    )


# ---- serve


def _add_serve_arguments(parser):
    parser.add_argument("address", metavar="ADDRESS", help="of a server that runs, as http://127.0.0.1:8000")
    parser.add_argument("files", nargs="+", metavar="FILE", help="what its clients send, one after the other")
    parser.add_argument("--clients", default="1,8", metavar="N,...", help="at once (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=200, metavar="N", help="requests of each row (default: 200)")


def _run_serve(args):
    from unireplknet_jax.benchmark.requests import measure_clients

    counts = args.clients.split(",")
    if not all(count.isdecimal() and int(count) > 0 for count in counts):
        raise argparse.ArgumentError(None, f"--clients is {args.clients}; expected numbers of 1 and more, as in 1,8.")
    token = os.environ.get("UNIREPLKNET_TOKEN")
    rows = [measure_clients(args.address, args.files, int(count), args.rounds, token) for count in counts]
    if args.json:
        print_json({"address": args.address, "rows": rows})
        return
    print_table(
        list(rows[0]), [[f"{cell:.1f}" if isinstance(cell, float) else cell for cell in row.values()] for row in rows]
    )


# What can be measured: name -> (summary, its arguments, its run).
PARTS = {
    "input": ("the pictures that one core prepares for training in a second", _add_input_arguments, _run_input),
    "startup": ("how long the first result takes in a fresh process", _add_startup_arguments, _run_startup),
    "depthwise": ("the depthwise convolution, form by form", _add_depthwise_arguments, _run_depthwise),
    "block": ("a training block beside one large kernel", _add_block_arguments, _run_block),
    "model": ("merged inference beside equal networks of other runtimes", _add_model_arguments, _run_model),
    "train": ("a training step beside an equal PyTorch network", _add_network_arguments, _run_train),
    "serve": ("the answers of a server to several clients at once", _add_serve_arguments, _run_serve),
}
