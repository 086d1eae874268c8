"""`recipes`: the recipes that ship, what each is for and which arguments it takes."""

from unireplknet_jax.cli.output import print_json, print_table

EXAMPLES = (
    "recipes",
    "recipes finetune.py",
    "recipes --json",
)


def add_arguments(parser):
    parser.add_argument("names", nargs="*", metavar="NAME", help="print all that these say, for example imagenet1k.py")
    parser.add_argument("--json", action="store_true", help="print a JSON document instead of a table")
    parser.epilog = "Each is run by `unireplknet train --config NAME[:ARGUMENT[,OPTION...]] --workdir DIR`."


def run(args):
    from unireplknet_jax.train.shipped import find_shipped, shipped_recipes

    recipes = [find_shipped(name) for name in args.names] or [*shipped_recipes().values()]
    if args.json:
        print_json([_describe(recipe) for recipe in recipes])
    elif args.names:
        print("\n\n".join(f"{recipe.path}\n\n{recipe.text}" for recipe in recipes))
    else:
        rows = [
            [recipe.name, " ".join(recipe.arguments), " ".join(recipe.options), recipe.summary] for recipe in recipes
        ]
        print_table(["recipe", "arguments", "options", "what"], rows)
        print("\nOf the arguments the first is taken where none is given. All about one: unireplknet recipes NAME")


def _describe(recipe):
    return recipe._asdict() | {"summary": recipe.summary, "path": str(recipe.path)}
