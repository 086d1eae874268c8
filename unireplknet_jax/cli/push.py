"""`push`: a checkpoint to the Hugging Face hub, with a card for programs and one for people."""

EXAMPLES = ("push runs/flowers/best me/flowers --private",)


def add_arguments(parser):
    parser.add_argument("source", metavar="DIR", help="a directory of this package, as train and convert write it")
    parser.add_argument("repository", metavar="USER/REPO", help="the repository, which is made if it is not there")
    parser.add_argument("--private", action="store_true", help="make a new repository that only its owner sees")
    parser.add_argument("--overwrite", action="store_true", help="replace the checkpoint and README.md that are there")
    parser.epilog = (
        "One commit holds model.safetensors, card.json and a README.md written from it. "
        'urk.open_checkpoint("hf-hub:USER/REPO") opens what was pushed, and so does every command.'
    )


def run(args):
    from unireplknet_jax.tasks.push import push

    print(f"pushed {args.source}: {push(args.source, args.repository, args.overwrite, args.private)}")
