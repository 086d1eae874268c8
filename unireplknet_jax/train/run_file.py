"""run.json in the workdir: the whole recipe of a run, and every start of it with its command, versions and devices."""

import datetime
import importlib.metadata
import json
import os
import pathlib
import platform
import shlex
import socket
import subprocess

import jax

from unireplknet_jax.data.files import whole_file

FILE = "run.json"
_PACKAGES = ("unireplknet_jax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy")


def write_run(folder, config, step, command=()):
    """Write down in folder/run.json that a recipe starts at a step, or goes on there; on process 0.

    config: the recipe as it is run, overrides in it. command: the words that a user typed, if there are any.
    "recipe" is that of the last start, "starts" has one entry for each, with the fields that it "changed".
    """
    if jax.process_index() != 0:
        return
    recipe = json.loads(json.dumps(config.to_dict(), default=str))
    path = folder / FILE
    starts, before = _earlier(path)
    start = {
        "time": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "step": step,
        "command": shlex.join(command),
        "host": socket.gethostname(),
        "process": os.getpid(),
        "devices": f"{jax.device_count()} {jax.devices()[0].device_kind} in {jax.process_count()} process(es)",
        "versions": _versions(),
    }
    if before is not None:
        start["changed"] = {field: [*values] for field, values in _differences(before, recipe)}
    with whole_file(path) as part:
        part.write_text(json.dumps({"recipe": recipe, "starts": [*starts, start]}, indent=1) + "\n")


def last_start(text):
    """The last entry of the "starts" in the text of a run.json; an empty one where it has none."""
    try:
        return json.loads(text)["starts"][-1]
    except (ValueError, LookupError, TypeError):
        return {}


def _earlier(path):
    """(starts, recipe or None) of a run.json; one that is not there or damaged has none."""
    try:
        found = json.loads(path.read_text())
        return list(found["starts"]), dict(found["recipe"])
    except (OSError, ValueError, LookupError, TypeError):
        return [], None


def _differences(before, now, prefix=""):
    """Yield ("optim.lr", (value before, value now)) for every field that differs; None is one that is not there."""
    for name in dict.fromkeys([*before, *now]):
        was, has = before.get(name), now.get(name)
        if isinstance(was, dict) and isinstance(has, dict):
            yield from _differences(was, has, f"{prefix}{name}.")
        elif was != has:
            yield f"{prefix}{name}", (was, has)


def _versions():
    versions = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    commit = _commit(pathlib.Path(__file__).parents[2])
    return versions | ({"commit": commit} if commit else {})


def _commit(folder):
    """The commit of a git checkout, with + where files that git knows were changed; "" where there is none."""
    if not (folder / ".git").exists():
        return ""
    command = ["git", "-C", str(folder), "describe", "--always", "--abbrev=40", "--exclude=*", "--dirty=+"]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""
