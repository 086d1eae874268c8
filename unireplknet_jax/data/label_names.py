"""Class names that ship with the package, in class-index order."""

from __future__ import annotations

from importlib import resources

LABEL_SETS = ("imagenet1k", "imagenet22k", "kinetics400")


def read_labels(name: str) -> tuple[str, ...]:
    """The class names of "imagenet1k" (1000), "imagenet22k" (21,841) or "kinetics400" (400); entry i names class i.

    The order is that of an ImageFolder: synset folders sorted by name. The 22K names are not unique ("crane" is a bird
    and a machine); their synsets stand in the first column of labels/imagenet22k.txt. The first line of each file
    states where it comes from.

    Raises ValueError for another name.
    """
    if name not in LABEL_SETS:
        raise ValueError(f"there is no label set {name!r}; expected one of {', '.join(LABEL_SETS)}")
    text = resources.files(__package__).joinpath("labels", f"{name}.txt").read_text(encoding="utf-8")
    return tuple(line.rpartition("\t")[2] for line in text.splitlines() if not line.startswith("#"))
