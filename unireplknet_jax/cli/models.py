"""`models`: every size, its parameters and multiply-accumulates in both forms, and the published weights."""

import dataclasses

from unireplknet_jax.cli.output import print_json, print_table

_SIZE_COLUMNS = (
    *("model", "training parameters", "merged parameters", "published", "image"),
    *("training GMACs", "merged GMACs", "published"),
)
_WEIGHT_COLUMNS = ("model", "tag", "classes", "image", "top-1 %", "file")

EXAMPLES = (
    "models",
    "models unireplknet_a unireplknet_s",
    "models --json",
)


def add_arguments(parser):
    parser.add_argument("names", nargs="*", metavar="NAME", help="only these sizes, for example unireplknet_s")
    parser.add_argument("--json", action="store_true", help="print a JSON document instead of tables")


def run(args):
    from unireplknet_jax.models.variants import create_model, list_models
    from unireplknet_jax.models.zoo import REPOSITORY

    models = {name: create_model(name) for name in args.names or list_models()}
    if args.json:
        print_json([_describe(name, model) for name, model in models.items()])
        return
    print("Sizes, with 1000 classes. GMACs: billions of multiply-accumulates for one image (published as FLOPs).")
    print("Published numbers are those of the merged form.", flush=True)
    rows = [_describe(name, model) for name, model in models.items()]
    print_table(_SIZE_COLUMNS, [line for row in rows for line in _size_lines(row)])
    weights = [(row["name"], weights) for row in rows for weights in row["weights"]]
    if weights:
        print(
            f"\nWeights, in training form: load_pretrained(model, tag), or the file from huggingface.co/{REPOSITORY}."
        )
        print_table(_WEIGHT_COLUMNS, [_weight_line(*pair) for pair in weights])
        for file, note in [(weight["file"], weight["note"]) for _, weight in weights if weight["note"]]:
            print(f"* {file}: {note}")


def _describe(name, model):
    from unireplknet_jax.models.complexity import costs
    from unireplknet_jax.models.zoo import PUBLISHED, ZOO

    published = PUBLISHED.get(name)
    image_sizes = sorted({224, *(published.macs if published else ())})
    forms = {"training": model, "merged": model.clone(deploy=True)}
    counted = {form: {size: costs(module, size) for size in image_sizes} for form, module in forms.items()}
    return {
        "name": name,
        "depths": model.depths,
        "dims": model.dims,
        "parameters": {form: by_size[224][0] for form, by_size in counted.items()},
        "macs": {size: {form: by_size[size][1] for form, by_size in counted.items()} for size in image_sizes},
        "published": published and {"parameters_millions": published.params, "gmacs": published.macs},
        "weights": [dataclasses.asdict(weights) for weights in ZOO.values() if weights.model == name],
    }


def _size_lines(row):
    """One line for each image size; what does not depend on it stands in the first."""
    published = row["published"]
    start = [
        *(row["name"], *row["parameters"].values()),
        f"{published['parameters_millions']:g}M" if published else None,
    ]
    for size, macs in row["macs"].items():
        gmacs = published and published["gmacs"].get(size)
        yield [*start, size, *(f"{count / 1e9:.2f}" for count in macs.values()), gmacs and f"{gmacs:.1f}"]
        start = [None] * len(start)


def _weight_line(model, weight):
    top1 = weight["top1"] and f"{weight['top1']:.2f}"
    file = weight["file"] + (" *" if weight["note"] else "")
    return [model, weight["tag"], weight["num_classes"], weight["image_size"], top1, file]
