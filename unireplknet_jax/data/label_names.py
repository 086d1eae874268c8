"""Class names that ship with the package, in class-index order."""

from __future__ import annotations

from importlib import resources

LABEL_SETS = ("imagenet1k", "imagenet22k", "kinetics400", "modelnet40", "scanobjectnn", "speech_commands")


def read_labels(name: str) -> tuple[str, ...]:
    """The class names of one of LABEL_SETS (1000, 21,841, 400, 40, 15 and 35 of them); entry i names class i.

    The words' order is that of the label file that the original takes from AST; torchaudio and TFDS have others. Of
    ImageNet the order is that of an ImageFolder: synset folders sorted by name. The 22K names are not unique ("crane"
    is a bird and a machine); their synsets stand in the first column of labels/imagenet22k.txt. The first line of each
    file states where it comes from.

    Raises ValueError for another name.
    """
    if name not in LABEL_SETS:
        raise ValueError(f"there is no label set {name!r}; expected one of {', '.join(LABEL_SETS)}")
    text = resources.files(__package__).joinpath("labels", f"{name}.txt").read_text(encoding="utf-8")
    return tuple(line.rpartition("\t")[2] for line in text.splitlines() if not line.startswith("#"))
