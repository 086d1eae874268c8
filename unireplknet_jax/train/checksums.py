"""Checksums of the files of a checkpoint: a disk may give back other bytes than it was given."""

import json
import zlib

FILE = "checksums.json"


def write_checksums(folder):
    """Write folder/checksums.json, {relative path: CRC-32} of the files in the folders below it."""
    files = [path for item in folder.iterdir() if item.is_dir() for path in item.rglob("*") if path.is_file()]
    sums = {path.relative_to(folder).as_posix(): _crc32(path) for path in sorted(files)}
    (folder / FILE).write_text(json.dumps(sums, indent=1) + "\n")


def verify_checksums(folder, part=0, parts=1):
    """Raise ValueError if a file is not what it was; of `parts` readers, every one looks at its own share of them.

    A folder without checksums is not looked at.
    """
    if not (folder / FILE).exists():
        return
    sums = json.loads((folder / FILE).read_text())
    for name in sorted(sums)[part::parts]:
        if _crc32(folder / name) != sums[name]:
            raise ValueError(f"{name} has other bytes than were written")


def _crc32(path):
    value = 0
    with path.open("rb") as file:
        while block := file.read(2**22):
            value = zlib.crc32(block, value)
    return value
