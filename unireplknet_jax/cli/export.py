"""`export`: a checkpoint as a file for another runtime, compared with the checkpoint before it is kept."""

from unireplknet_jax.cli.data import add_data_set_arguments, check_least, data_of
from unireplknet_jax.cli.form import (
    NAMES,
    add_examples_argument,
    add_image_size_argument,
    check_image_size,
    examples_of,
)
from unireplknet_jax.cli.output import print_notes, print_table

_FORMATS = ("stablehlo", "onnx", "openvino", "litert", "web", "triton")

EXAMPLES = (
    "export runs/flowers/best flowers.onnx",
    "export unireplknet_a a.stablehlo --image-size 288",
    "export runs/flowers/best flowers.xml --format openvino --half",
    "export runs/flowers/best flowers.tflite --batch 4",
    "export runs/flowers/best flowers.onnx --int8 --calibrate flowers/train",
    "export runs/flowers/best flowers-page --format web --examples pictures",
    "export runs/flowers/best models/flowers --format triton",
)


def add_arguments(parser):
    parser.add_argument("checkpoint", metavar="SRC", help=f"any checkpoint: {NAMES}")
    parser.add_argument(
        "destination",
        metavar="DST",
        help="ends in .stablehlo, .onnx, .xml (OpenVINO) or .tflite; of web and triton a folder",
    )
    parser.add_argument("--format", choices=_FORMATS, help="default: by the ending of DST")
    add_image_size_argument(parser)
    parser.add_argument("--half", action="store_true", help="store large weights as float16: half of the size")
    parser.add_argument("--batch", type=int, metavar="N", help="take N examples at a time (default: any number)")
    parser.add_argument("--opset", type=int, metavar="N", help="of ONNX (default: 20, the first that has all)")
    parser.add_argument(
        "--int8", action="store_true", help="convolutions of ONNX in integers, as far as the accuracy on --data bears"
    )
    parser.add_argument("--calibrate", metavar="DIR", help="pictures that tell --int8 how large values are")
    add_data_set_arguments(parser, "test")
    parser.set_defaults(broken=None, class_order=None)
    add_examples_argument(parser)
    parser.add_argument(
        "--onnxruntime-web", metavar="FILE", help="what `npm pack onnxruntime-web` makes (default: it is fetched once)"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace DST if it exists")


def run(args):
    from unireplknet_jax.tasks import export
    from unireplknet_jax.tasks.checkpoint import open_checkpoint
    from unireplknet_jax.tasks.sources import files_of

    check_image_size(args.image_size)
    check_least("--batch", args.batch, 1)
    form = export.format_for(args.destination, args.format)
    export.check_destination(args.destination, form, args.overwrite)
    if args.int8 != bool(args.calibrate):
        raise ValueError("--int8 and --calibrate DIR belong together: a folder of pictures like those to come.")
    checkpoint = open_checkpoint(args.checkpoint)
    calibrate, notes = files_of(checkpoint.task, [args.calibrate]) if args.int8 else (None, [])
    print_notes(notes)
    found = export.export(
        checkpoint,
        args.destination,
        form,
        image_size=args.image_size,
        half=args.half,
        batch=args.batch,
        opset=args.opset,
        calibrate=calibrate,
        data=data_of(args, checkpoint.data, "eval_split", "test") if args.data or checkpoint.data else None,
        overwrite=args.overwrite,
        examples=examples_of(args.examples),
        onnxruntime_web=args.onnxruntime_web,
    )
    print(f"wrote {args.destination}; compared on {found.examples}")
    kept = None if found.kept is None else f"{100 * found.kept:.4g} %"
    print_table(
        ["format", "size", "largest difference", "top-1 kept", "runtime"],
        [[found.format, f"{found.size / 1e6:.2f} MB", f"{found.difference:.2g}", kept, found.runtime]],
    )
    if found.integers:
        integers = found.integers
        print()
        print_table(
            ["in integers", "calibrated on", "top-1 before", "after", "of examples"],
            [
                [
                    *(", ".join(integers.layers), f"{integers.calibrated:,} pictures"),
                    *(f"{integers.before:.2f} %", f"{integers.after:.2f} %", f"{integers.examples:,}"),
                ]
            ],
        )
