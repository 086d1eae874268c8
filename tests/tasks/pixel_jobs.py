"""Pictures that JavaScript and Python prepare for a network, and the SHA-256 of what Python makes of them."""

import hashlib

import numpy as np
import PIL
from PIL import Image

from unireplknet_jax.data.pictures.mask_transforms import prepared
from unireplknet_jax.data.pictures.transforms import eval_transform

# (height, width), pixels of the network's picture, rule
_FOR_CLASSIFIERS = [
    ((375, 500), 224, "crop"),
    ((341, 257), 224, "crop"),  # an odd number of pixels to cut off, in the middle of which Python rounds to even
    ((61, 37), 32, "warp"),
    ((64, 64), 64, "warp"),
    ((30, 40), 224, "crop"),  # enlarged
    ((1, 1), 32, "crop"),
    ((7, 2000), 64, "crop"),  # so wide that only what is kept is resized
]
# Taller pictures are resized down their columns first since Pillow 13.
_TALL = [((900, 300), 224, "crop"), ((377, 300), 224, "warp"), ((376, 300), 224, "warp"), ((2000, 7), 64, "crop")]
# (height, width), scale
_FOR_MASKS = [((40, 64), (64, 64)), ((100, 90), (64, 64)), ((375, 500), (128, 96)), ((20, 21), None)]


def made_up(height, width):
    """(h, w, 3) uint8, the picture that `pixelHashes` makes."""
    once = np.arange(3 * height * width, dtype=np.uint32) * np.uint32(2654435761)
    twice = (once ^ (once >> np.uint32(15))) * np.uint32(2246822519)
    return (twice >> np.uint32(24)).astype(np.uint8).reshape(height, width, 3)


def jobs_and_hashes():
    """(what `pixelHashes` is to do, what it should find)."""
    tall = _TALL if int(PIL.__version__.split(".")[0]) >= 13 else []
    jobs, expected = [], []
    for size, side, rule in _FOR_CLASSIFIERS + tall:
        jobs.append(_job(size, "forClassifier", side, rule))
        expected.append(eval_transform(made_up(*size), side, rule))
    for size, scale in _FOR_MASKS:
        jobs.append(_job(size, "forMasks", scale))
        expected.append(prepared(made_up(*size), scale))
    picture = made_up(121, 170)
    for channels, own in ((3, picture), (1, np.asarray(Image.fromarray(picture).convert("L"))[..., None])):
        jobs.append(_job((121, 170), "planes", channels, 128, 192))
        expected.append(np.moveaxis(np.pad(own, [(0, 7), (0, 22), (0, 0)]), -1, 0))
    return jobs, [hashlib.sha256(np.ascontiguousarray(one).tobytes()).hexdigest() for one in expected]


def _job(size, call, *given):
    return {"height": size[0], "width": size[1], "call": call, "given": given}
