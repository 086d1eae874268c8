"""Files like those of Fashion-MNIST, made up."""

import gzip

import numpy as np


def idx_bytes(array):
    header = bytes([0, 0, 8, array.ndim]) + np.asarray(array.shape, ">u4").tobytes()
    return header + array.astype(np.uint8).tobytes()


def write_fashion(folder, count=6, prefix="t10k"):
    images = np.random.default_rng(0).integers(0, 256, (count, 28, 28), np.uint8)
    targets = np.arange(count) % 10
    for part, array in (("images-idx3", images), ("labels-idx1", targets)):
        (folder / f"{prefix}-{part}-ubyte.gz").write_bytes(gzip.compress(idx_bytes(array)))
    return images, targets
