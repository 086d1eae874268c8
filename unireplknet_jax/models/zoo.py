"""The weight files the authors published, their published numbers, and how to get a file."""

import difflib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from unireplknet_jax.models import bucket, hub

REPOSITORY = "DingXiaoH/UniRepLKNet"
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Weights:
    """One published file: what is in it and how its images were prepared.

    `file` is in training form. `top1` is the percentage on the 50,000 ImageNet-1K validation images that the file's
    name states, None for a file with the 21,841 classes of ImageNet-22K. `resize` is "warp" (the whole image becomes
    image_size x image_size) or "crop" (the shorter side becomes int(image_size / 0.875), then the centre is cut out),
    both bicubic; `mean` and `std` are of RGB in 0..1. `note` is what the authors' README adds.
    """

    model: str
    tag: str
    file: str
    num_classes: int
    image_size: int
    top1: float | None
    resize: str
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    label_names: str = "imagenet1k"
    note: str = ""


@dataclass(frozen=True)
class Published:
    """What the authors publish of one size, in inference form with 1000 classes.

    `params` in millions; `macs`, by image size, are billions of multiply-accumulates, called FLOPs in the original.
    """

    params: float
    macs: Mapping[int, float]


PUBLISHED: dict[str, Published] = {
    "unireplknet_a": Published(4.4, {224: 0.6}),
    "unireplknet_f": Published(6.2, {224: 0.9}),
    "unireplknet_p": Published(10.7, {224: 1.6}),
    "unireplknet_n": Published(18.3, {224: 2.8}),
    "unireplknet_t": Published(31.0, {224: 4.9}),
    "unireplknet_s": Published(56.0, {224: 9.1, 384: 26.7}),
    "unireplknet_b": Published(98.0, {384: 47.2}),
    "unireplknet_l": Published(218.0, {384: 105.4}),
    "unireplknet_xl": Published(386.0, {384: 187.0}),
}


def _in1k(size: str, top1: float) -> Weights:
    model = f"unireplknet_{size}"
    return Weights(model, "in1k_224", f"{model}_in1k_224_acc{top1:.2f}.pth", 1000, 224, top1, "crop")


def _in22k(size: str, image_size: int, note: str = "") -> Weights:
    model = f"unireplknet_{size}"
    file = f"{model}_in22k_pretrain.pth"
    return Weights(
        model, f"in22k_{image_size}", file, 21841, image_size, None, "crop", label_names="imagenet22k", note=note
    )


def _fine_tuned(size: str, top1: float, note: str = "") -> Weights:
    model = f"unireplknet_{size}"
    file = f"{model}_in22k_to_in1k_384_acc{top1:.2f}.pth"
    return Weights(model, "in22k_ft_in1k_384", file, 1000, 384, top1, "warp", note=note)


_RETRAINED = "trained again after the original weights were lost: not the file behind the paper's number"
_ROWS = (
    _in1k("a", 77.03),
    _in1k("f", 78.58),
    _in1k("p", 80.23),
    _in1k("n", 81.64),
    _in1k("t", 83.21),
    _in1k("s", 83.91),
    _in22k("s", 224, _RETRAINED),
    _fine_tuned("s", 86.44),
    _in22k("b", 224),
    _fine_tuned("b", 87.40),
    _in22k("l", 192),
    _fine_tuned("l", 87.88),
    _in22k("xl", 192),
    _fine_tuned("xl", 87.96, _RETRAINED),
)
ZOO: dict[tuple[str, str], Weights] = {(row.model, row.tag): row for row in _ROWS}


def find_weights(model: str, tag: str) -> Weights:
    """Return the row of `ZOO`; ValueError names the near matches and the tags this model has."""
    if (model, tag) in ZOO:
        return ZOO[model, tag]
    tags = _tags(model)
    if not tags:
        models = list(dict.fromkeys(row.model for row in _ROWS))
        raise ValueError(f"no weights were published for {model!r}{_suggest(model, models)}.")
    raise ValueError(f"no weights {tag!r} were published for {model}{_suggest(tag, tags)}.")


def _suggest(name: str, known: list[str]) -> str:
    near = difflib.get_close_matches(str(name), known)
    hint = f", perhaps you mean {' or '.join(near)}" if near else ""
    return f"{hint}; published are {', '.join(known)}"


def weights_of_file(path: str | os.PathLike[str]) -> Weights | None:
    """Return the row of a published file by its exact name, whatever folder it is in, or None."""
    name = Path(path).name
    return next((row for row in _ROWS if row.file == name), None)


def download(weights: Weights) -> Path:
    """Return where the file lies in Hugging Face's cache, after fetching it if it is not there yet.

    Raises:
      ImportError: huggingface_hub is not installed.
      ConnectionError: the file is not in the cache and could not be fetched.
    """
    elsewhere = (
        f"download https://huggingface.co/{REPOSITORY}/resolve/main/{weights.file} by other means, for example with a "
        "browser, and give its path in place of the name"
    )
    library = hub.library(f"fetching {weights.file}", f", or {elsewhere}")
    try:
        kept = library.try_to_load_from_cache(REPOSITORY, weights.file)  # published files do not change
        return Path(kept) if isinstance(kept, str) else hub.file_of(library, repo_id=REPOSITORY, filename=weights.file)
    # Which exceptions a failed transfer raises depends on the HTTP library that this version of huggingface_hub uses.
    except Exception as error:
        raise ConnectionError(
            f"{weights.file} could not be fetched from the Hugging Face repository {REPOSITORY} ({hub.reason(error)}): "
            f"try again, or {elsewhere}."
        ) from error


def located(name: str | os.PathLike[str]) -> Path:
    """Where a checkpoint lies that is given as a path, as a published name or file, or as "hf-hub:USER/REPO" or
    "gs://BUCKET/PATH".

    A published name is "unireplknet_s.in22k_ft_in1k_384", a row of `ZOO`; where a size has one file, "unireplknet_a".
    What is not there is fetched. Raises ValueError for what names nothing; see `download`, `hub.fetch` and
    `bucket.fetch`.
    """
    text = os.fspath(name)
    if not text:  # Path("") is the current folder
        raise ValueError("the checkpoint's name is empty; expected a path, a published name or hf-hub:USER/REPO.")
    if text.startswith(hub.PREFIX):
        return hub.fetch(text)
    if bucket.is_address(text):
        return bucket.fetch(text)
    path = Path(text)
    if path.exists():
        return path
    weights = weights_of_file(path) or _weights_of_name(text)
    if weights:
        return download(weights)
    if path.name != text:
        raise ValueError(f"{text} does not exist.")
    near = difflib.get_close_matches(text, names())
    hint = f"did you mean {' or '.join(near)}?" if near else "published names begin with unireplknet_."
    raise ValueError(f"{text} does not exist, and is no published name; {hint}")


def names() -> list[str]:
    """All published names, those that need no tag the shorter way, too."""
    short = [model for model in PUBLISHED if len(_tags(model)) == 1]
    return short + [f"{row.model}.{row.tag}" for row in _ROWS]


def _tags(model: str) -> list[str]:
    return [row.tag for row in _ROWS if row.model == model]


def _weights_of_name(name: str) -> Weights | None:
    """The row of a published name, None for another; ValueError for a size of which there are several files."""
    model, _, tag = name.partition(".")
    tags = _tags(model)
    if not tag and len(tags) > 1:
        raise ValueError(f"of {model} there are {len(tags)} files: give {' or '.join(f'{model}.{t}' for t in tags)}.")
    return ZOO.get((model, tag or "".join(tags)))
