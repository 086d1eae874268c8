"""Trees from above: aerial photographs with a box around each tree, read from the wheel of the package deepforest.

The photographs are of the National Ecological Observatory Network, a pixel is 10 cm wide, and the boxes were drawn by
hand (Weinstein et al., "Individual tree-crown detection in RGB imagery using semi-supervised deep learning neural
networks", 2019). The package has the MIT licence. "train" is a part of Yellowstone with 574 trees, cut into overlapping
parts of 320x320 pixels; "test" another part of it, 13 km away, with 279; "elsewhere" has a forest in Florida and one in
California, of 61 and 37 trees, of which nothing in training tells.
"""

from __future__ import annotations

import io
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
from PIL import Image

from unireplknet_jax.data.base import check_split
from unireplknet_jax.data.pictures.box_annotations import Thing
from unireplknet_jax.data.pictures.box_arrays import BoxArrays, parts, with_box
from unireplknet_jax.data.wheels import find_wheel, read_member

PACKAGE = "deepforest==2.1.0"
LABELS = ("tree",)
SIDE, STRIDE = 320, 160  # pixels of a part for training, and between two neighbours at most
_FOLDER = "deepforest/data/"
_FILES = {  # of each split (name, the CRC-32 of the PNG and of the XML in the wheel)
    "train": (("2019_YELL_2_528000_4978000_image_crop2", 0xA017E40F, 0x330E6A22),),
    "test": (("2019_YELL_2_541000_4977000_image_crop", 0xB2B7199D, 0x2CAFAE0F),),
    "elsewhere": (("OSBS_029", 0x7AED3B66, 0x2561CDEA), ("SOAP_061", 0x7EC0B963, 0xBFB6EB1A)),
}
_CORNERS = ("xmin", "ymin", "xmax", "ymax")


def open_trees(split: str, place: Path | None) -> BoxArrays:
    """The photographs of a split. place: as of `wheels.find_wheel`; the wheel has 20 MB.

    Dead trees are trees. Columns and rows are counted from 1 in the XMLs, as Pascal VOC does it.
    Raises FileNotFoundError where there is no wheel and none can be fetched, ValueError for an unknown split and for
    another file than this wheel.
    """
    check_split("trees", split, _FILES)
    wheel = find_wheel(PACKAGE, "trees", 20, place)
    found = [_photograph(wheel, *each) for each in _FILES[split]]
    if split == "train":
        found = [part for each in found for part in parts(*each, SIDE, STRIDE)]
    images, things = zip(*found, strict=True)
    return BoxArrays(images, things, tuple(range(len(found))), LABELS, f"the trees of {PACKAGE}")


def _photograph(wheel: Path, name: str, *checksums: int) -> tuple[np.ndarray, list[Thing]]:
    picture, boxes = (
        read_member(wheel, PACKAGE, f"{_FOLDER}{name}{ending}", checksum)
        for ending, checksum in zip((".png", ".xml"), checksums, strict=True)
    )
    things = []
    for entry in ElementTree.fromstring(boxes).iterfind("object/bndbox"):
        left, top, right, bottom = (float(entry.findtext(corner) or "") for corner in _CORNERS)
        things.append(with_box((left - 1, top - 1, right, bottom), 0))
    with Image.open(io.BytesIO(picture)) as image:
        return np.asarray(image), things
