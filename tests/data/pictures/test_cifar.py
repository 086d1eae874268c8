"""CIFAR from its binary version: an archive or a folder of the published layout, generated here."""

import io
import tarfile

import numpy as np
import pytest

from unireplknet_jax.data.pictures import cifar
from unireplknet_jax.data.pictures.sets import open_source

NAMES = {"cifar10": [f"thing {i}".replace(" ", "_") for i in range(10)], "cifar100": [f"fine_{i}" for i in range(100)]}


def rows(name, count, seed):
    """(bytes of a file, labels, images (n, 32, 32, 3)); the coarse label of CIFAR-100 is never the fine one."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, len(NAMES[name]), count, np.uint8)
    images = rng.integers(0, 256, (count, 32, 32, 3), np.uint8)
    data = b""
    for label, image in zip(labels, images, strict=True):
        coarse = b"" if name == "cifar10" else bytes([(label + 1) % 20])
        data += coarse + bytes([label]) + b"".join(image[:, :, channel].tobytes() for channel in range(3))
    return data, labels, images


def write_folder(root, name, **changed):
    version = cifar.VERSIONS[name]
    folder = root / version.folder
    folder.mkdir()
    files = [file for split in version.files.values() for file in split]
    content = {file: rows(name, 3 + seed, seed)[0] for seed, file in enumerate(files)}
    # The published file of CIFAR-10 ends with an empty line.
    content[version.names] = "\n".join([*NAMES[name], "", ""]).encode()
    for file, data in {**content, **changed}.items():
        (folder / file).write_bytes(data)
    return folder


def write_archive(root, name, **changed):
    folder = write_folder(root, name, **changed)
    with tarfile.open(root / cifar.VERSIONS[name].archive, "w:gz") as tar:
        tar.add(folder, folder.name)
    for path in folder.iterdir():
        path.unlink()
    folder.rmdir()
    return root / cifar.VERSIONS[name].archive


@pytest.fixture
def offline(monkeypatch):
    def fail(*args):
        raise OSError("no network")

    monkeypatch.setattr(cifar, "_from_tfds", fail)


@pytest.mark.parametrize("write", [write_folder, write_archive])
@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_planes_become_pictures_in_the_order_of_the_files(tmp_path, offline, name, write):
    write(tmp_path, name)
    first = 0
    for split, files in cifar.VERSIONS[name].files.items():
        source = open_source(name, split, tmp_path)
        assert source.labels == tuple(NAMES[name])
        seeds = range(first, first + len(files))
        first += len(files)
        labels = np.concatenate([rows(name, 3 + seed, seed)[1] for seed in seeds])
        images = np.concatenate([rows(name, 3 + seed, seed)[2] for seed in seeds])
        assert [source[i]["label"] for i in range(len(source))] == labels.tolist()
        assert [source[i]["id"] for i in range(len(source))] == list(range(len(labels)))
        np.testing.assert_array_equal(np.stack([source[i]["image"] for i in range(len(source))]), images)


def test_the_unpacked_folder_itself_may_be_given(tmp_path, offline):
    assert len(open_source("cifar100", "test", write_folder(tmp_path, "cifar100"))) == 4


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"train.bin": bytes(3073)}, r"train\.bin in .* has 3,073 bytes; expected rows of 3,074"),
        ({"train.bin": b""}, r"train\.bin in .* has 0 bytes"),
        ({"train.bin": bytes([0, 100]) + bytes(3072)}, r"has the label 100; expected 0 to 99"),
        ({"fine_label_names.txt": b"apple\n"}, r"fine_label_names\.txt in .* has 1 names; expected 100"),
    ],
)
def test_damaged_files_are_named(tmp_path, offline, changed, message):
    write_folder(tmp_path, "cifar100", **changed)
    with pytest.raises(ValueError, match=message):
        open_source("cifar100", "train", tmp_path)


def test_a_missing_file_is_named(tmp_path, offline):
    (write_folder(tmp_path, "cifar10") / "data_batch_4.bin").unlink()
    with pytest.raises(FileNotFoundError, match=r"data_batch_4\.bin is missing; unpack cifar-10-binary\.tar\.gz again"):
        open_source("cifar10", "train", tmp_path)


def test_damaged_archives_are_named(tmp_path, offline):
    archive = write_archive(tmp_path, "cifar100")
    whole = archive.read_bytes()
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 1  # noise is stored uncompressed: nothing but the checksum notices
    for part in (whole[: len(whole) // 2], b"no archive", b"", bytes(flipped)):
        archive.write_bytes(part)
        with pytest.raises(ValueError, match=r"100-binary\.tar\.gz is not a whole \.tar\.gz file; fetch it") as raised:
            open_source("cifar100", "train", tmp_path)
        assert "\n" not in str(raised.value)
    with tarfile.open(archive, "w:gz") as tar:
        tar.addfile(tarfile.TarInfo("cifar-100-python/train"), io.BytesIO())
    with pytest.raises(ValueError, match=r"has no fine_label_names\.txt, train\.bin; expected the binary version"):
        open_source("cifar100", "train", tmp_path)


def test_the_places_looked_at_are_listed(tmp_path, offline):
    with pytest.raises(FileNotFoundError) as raised:
        open_source("cifar100", "train", tmp_path)
    message = str(raised.value)
    for part in (f"{tmp_path} has neither cifar-100-binary.tar.gz nor", "TFDS failed (no network)", "cs.toronto.edu"):
        assert part in message
    with pytest.raises(FileNotFoundError, match=r"data_dir \(not given\) has neither"):
        open_source("cifar100", "train")


def test_an_unknown_split_is_answered(tmp_path):
    with pytest.raises(ValueError, match="cifar100 has no split 'val'; expected one of train, test"):
        open_source("cifar100", "val", tmp_path)


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_tfds_downloads_the_archive_that_is_read_here(tmp_path, monkeypatch, name):
    archive, asked = write_archive(tmp_path, name), []
    monkeypatch.setattr(cifar, "download", lambda builder, urls: asked.append(urls) or [archive])
    source = open_source(name, "test", tmp_path / "tfds")
    assert source.labels == tuple(NAMES[name])
    assert asked == [[f"https://www.cs.toronto.edu/~kriz/{cifar.VERSIONS[name].archive}"]]
