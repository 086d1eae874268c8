"""`export`: a checkpoint as a file for another runtime, compared with the checkpoint before it is kept."""

from unireplknet_jax.cli.data import check_least
from unireplknet_jax.cli.form import (
    NAMES,
    add_examples_argument,
    add_image_size_argument,
    check_image_size,
    examples_of,
)
from unireplknet_jax.cli.output import print_table

_FORMATS = ("stablehlo", "onnx", "openvino", "litert", "web")

EXAMPLES = (
    "export runs/flowers/best flowers.onnx",
    "export unireplknet_a a.stablehlo --image-size 288",
    "export runs/flowers/best flowers.xml --format openvino --half",
    "export runs/flowers/best flowers.tflite --batch 4",
    "export runs/flowers/best flowers-page --format web --examples pictures",
)


def add_arguments(parser):
    parser.add_argument("source", metavar="SRC", help=f"any checkpoint: {NAMES}")
    parser.add_argument(
        "destination", metavar="DST", help="ends in .stablehlo, .onnx, .xml (OpenVINO) or .tflite; of web a folder"
    )
    parser.add_argument("--format", choices=_FORMATS, help="default: by the ending of DST")
    add_image_size_argument(parser)
    parser.add_argument("--half", action="store_true", help="store large weights as float16: half of the size")
    parser.add_argument("--batch", type=int, metavar="N", help="take N examples at a time (default: any number)")
    parser.add_argument("--opset", type=int, metavar="N", help="of ONNX (default: 20, the first that has all)")
    add_examples_argument(parser)
    parser.add_argument(
        "--onnxruntime-web", metavar="FILE", help="what `npm pack onnxruntime-web` makes (default: it is fetched once)"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace DST if it exists")


def run(args):
    from unireplknet_jax.tasks import artefact, export
    from unireplknet_jax.tasks.checkpoint import open_checkpoint

    check_image_size(args.image_size)
    check_least("--batch", args.batch, 1)
    form = export.format_for(args.destination, args.format)
    export.check_destination(args.destination, form, args.overwrite)
    artefact.module_of(form, "write")
    found = export.export(
        open_checkpoint(args.source),
        args.destination,
        form,
        image_size=args.image_size,
        half=args.half,
        batch=args.batch,
        opset=args.opset,
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
