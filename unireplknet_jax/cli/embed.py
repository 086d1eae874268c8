"""`embed`: the pooled features of files in front of the classifier, as one .npz."""

import argparse
import pathlib
import sys

from unireplknet_jax.cli.form import NAMES, add_form_argument, add_image_size_argument, check_image_size, in_form
from unireplknet_jax.cli.output import check_output, print_file_error, print_notes
from unireplknet_jax.cli.predict import inputs_help

EXAMPLES = ("embed unireplknet_a photos --out features.npz",)


def add_arguments(parser):
    parser.add_argument(
        "checkpoint", metavar="CHECKPOINT", help=f"any checkpoint, with or without a classifier: {NAMES}"
    )
    parser.add_argument("inputs", nargs="+", metavar="INPUT", help=inputs_help)
    parser.add_argument(
        "--out", required=True, metavar="OUT.npz", help='where "embeddings", (files, channels), and "files" are written'
    )
    add_image_size_argument(parser)
    add_form_argument(parser)


def run(args):
    from unireplknet_jax.tasks.checkpoint import open_checkpoint
    from unireplknet_jax.tasks.embed import embed_files, write_embeddings
    from unireplknet_jax.tasks.predict import with_image_size
    from unireplknet_jax.tasks.sources import files_of

    _check(args)
    checkpoint = open_checkpoint(args.checkpoint)
    checkpoint, notes = with_image_size(checkpoint, checkpoint.path, args.image_size)
    inputs, passed_over = files_of(checkpoint.task, args.inputs)
    print_notes(notes + passed_over)
    files, vectors, failed = [], [], 0
    for embedding in embed_files(in_form(checkpoint, args.form), inputs):
        if embedding.error:
            failed += 1
            print_file_error("embed", embedding)
            continue
        files.append(embedding.source)
        vectors.append(embedding.vector)
    if vectors:
        write_embeddings(args.out, files, vectors)
        print(f"wrote {args.out}: {len(vectors)} x {len(vectors[0])}", file=sys.stderr)
    return 1 if failed else 0


def _check(args):
    check_image_size(args.image_size)
    path = pathlib.Path(args.out)
    if path.suffix != ".npz":
        raise argparse.ArgumentError(None, f"--out is {args.out}; expected a name that ends in .npz.")
    check_output("--out", path, args.inputs)
