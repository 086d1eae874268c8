"""`convert`: any checkpoint in, a file for the original PyTorch code or a directory of ours out."""

import argparse

EXAMPLES = (
    "convert runs/flowers/best flowers.pth",
    "convert unireplknet_a_in1k_224_acc77.03.pth unireplknet_a",
    "convert runs/flowers/best trunk.safetensors --num-classes none",
)


def add_arguments(parser):
    parser.add_argument(
        "source", metavar="SRC", help="a .pth or .safetensors file, a directory of this package, or a name"
    )
    parser.add_argument("destination", metavar="DST", help=destination_help)
    parser.add_argument("--overwrite", action="store_true", help="replace DST if it exists")
    parser.add_argument("--ema", action="store_true", help="take the averaged weights (model_ema) of a .pth file")
    parser.add_argument("--prefix", default="", metavar="P", help="take what lies below P in a .pth, as in teacher")
    parser.add_argument("--dtype", choices=("float32", "bfloat16", "float16"), help="store the tensors as this")
    parser.add_argument("--num-classes", type=_classes, metavar="N", help="fit to N classes; none: drop the classifier")
    parser.add_argument("--task", metavar="NAME", help="what a .pth file is for, where its tensors do not tell")
    parser.add_argument("--in-chans", type=int, metavar="N", help="fit to N input channels")


destination_help = "ends in .pth or .safetensors: a file for PyTorch; anything else: a directory of this package"


def _classes(text):
    if text == "none" or text.isdecimal():
        return text
    raise argparse.ArgumentTypeError(f"{text!r} is not a number of classes; expected a positive integer or none")


def run(args):
    from unireplknet_jax.tasks import convert
    from unireplknet_jax.tasks.checkpoint import open_checkpoint, require_weights

    convert.check_destination(args.source, args.destination, args.overwrite)
    options = {}
    if args.num_classes is not None:
        options["num_classes"] = None if args.num_classes == "none" else int(args.num_classes)
    if args.in_chans is not None:
        options["in_chans"] = args.in_chans
    checkpoint = open_checkpoint(args.source, ema=args.ema, prefix=args.prefix, task=args.task, **options)
    require_weights(checkpoint)
    if args.dtype:
        checkpoint = convert.cast(checkpoint, args.dtype)
    convert.write_checkpoint(args.destination, checkpoint, args.overwrite)
    print_written(args.destination, checkpoint)


def print_written(destination, checkpoint):
    """One line on what is in a checkpoint that was just written."""
    from unireplknet_jax.tasks import convert

    facts = convert.describe(checkpoint)
    classes = "no classifier" if facts["classes"] is None else f"{facts['classes']} classes"
    counters = f" and {facts['counters']} batch counters" if convert.is_torch(destination) and facts["counters"] else ""
    print(
        f"wrote {destination}: {facts['form']} form, {facts['model']}, depths {facts['depths']}, dims {facts['dims']}, "
        f"{classes}, input channels {facts['channels']}; {facts['tensors']} tensors{counters}, "
        f"{facts['parameters']:,} parameters, {facts['dtype']}"
    )
