"""Checkpoints of ours: a directory with `card.json` and the variables as an Orbax tree."""

import contextlib
import json
import os
import pathlib
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np

CARD = "card.json"
VARIABLES = "variables"
TENSORS = "model.safetensors"  # in place of the variables where others than this package are to read them
STATES = "checkpoints"  # in the workdir of a training: what it resumes from


def is_directory(path: str | os.PathLike[str]) -> bool:
    """Whether a path holds a checkpoint of ours."""
    return (pathlib.Path(path) / CARD).is_file()


def write_directory(
    path: str | os.PathLike[str], variables: Mapping[str, Any], card: Mapping[str, Any], overwrite: bool = False
) -> None:
    """Write variables and their card (a JSON-able dict) to a directory, whole or not at all.

    Raises FileExistsError if the path exists, unless `overwrite`; even then only a checkpoint of ours is replaced.
    """
    import orbax.checkpoint as ocp

    path = pathlib.Path(path).absolute()
    check_destination(path, overwrite)
    with staging(path) as staged:
        with ocp.StandardCheckpointer(multiprocessing_options=this_process()) as checkpointer:
            checkpointer.save(staged / VARIABLES, variables)
        (staged / CARD).write_text(json.dumps(card, indent=2) + "\n")


def this_process() -> Any:
    """Orbax options under which one process of several reads or writes alone."""
    import orbax.checkpoint as ocp

    if jax.process_count() == 1:
        return ocp.options.MultiprocessingOptions()
    index = jax.process_index()
    return ocp.options.MultiprocessingOptions(
        primary_host=index, active_processes={index}, barrier_sync_key_prefix=f"process_{index}"
    )


def check_destination(path: str | os.PathLike[str], overwrite: bool = False) -> None:
    """Raise FileExistsError if a checkpoint may not be written to `path`: see `write_directory`."""
    path = pathlib.Path(path).absolute()
    if path.exists() and not overwrite:
        raise FileExistsError(
            f"{path} exists already; remove it, choose another name, or ask for it to be overwritten."
        )
    if path.exists() and not is_directory(path) and not (path.is_dir() and not any(path.iterdir())):
        raise FileExistsError(f"{path} is not a checkpoint of ours (it has no {CARD}), so it is not overwritten.")


@contextlib.contextmanager
def staging(path: pathlib.Path) -> Iterator[pathlib.Path]:
    """A fresh directory beside `path` that takes its place if the block succeeds and vanishes if it does not."""
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = pathlib.Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    try:
        staged = scratch / "new"
        staged.mkdir()
        yield staged
        old = scratch / "old"
        if path.exists():
            os.replace(path, old)
        try:
            os.replace(staged, path)
        except BaseException:
            if old.exists():
                os.replace(old, path)
            raise
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _of_a_run(path: pathlib.Path) -> str:
    """The end of a sentence about a directory that is no checkpoint: where those are, if it belongs to a training."""
    workdir = next((place.parent for place in (path, *path.parents) if place.name == STATES), path)
    if not (workdir / STATES).is_dir():
        return ""
    found = [str(workdir / name) for name in ("model", "model_ema", "best", "best_ema") if is_directory(workdir / name)]
    where = f"give {' or '.join(found)}" if found else "best/ comes with its first evaluation, model/ at its end"
    return f"; {workdir} is the workdir of a training: {where}"


def _instead(path: pathlib.Path) -> str:
    """The end of a sentence about a directory that is no checkpoint: what in it may be one."""
    if any((child / "data.pkl").is_file() for child in path.iterdir()):
        return "; it holds an unzipped file of PyTorch: open the file itself, or zip this folder again"
    suffixes = (".pth", ".safetensors", ".bin", ".ckpt")
    files = [child.name for child in sorted(path.iterdir()) if child.suffix in suffixes]
    if any("-of-" in name for name in files):
        return f"; it holds pieces of one file, {', '.join(files[:3])}: save their tensors as one"
    return f"; it holds {', '.join(files[:5])}: open one of its files" if files else ""


def read_card(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The card of a checkpoint of ours; ValueError if the directory is damaged or not one of ours."""
    path = pathlib.Path(path).absolute()
    if (path / "data.pkl").is_file():
        raise ValueError(f"{path} is an unzipped file of PyTorch: open the file itself, or zip this folder again.")
    if path.is_dir() and not is_directory(path):
        raise ValueError(f"{path} is not a checkpoint of ours: it has no {CARD}{_of_a_run(path) or _instead(path)}.")
    try:
        return json.loads((path / CARD).read_text())
    except RecursionError:
        raise ValueError(f"{path} is not a checkpoint of ours: its {CARD} is nested too deeply.") from None
    except (OSError, ValueError) as error:  # no JSON, no text
        why = getattr(error, "strerror", None) or "it is no JSON"
        raise ValueError(f"{path} is not a checkpoint of ours: its {CARD} cannot be read ({why}).") from error


def read_directory(path: str | os.PathLike[str]) -> tuple[dict[str, Any] | None, dict[str, Any]]:
    """(variables as NumPy arrays, card) of a checkpoint of ours, whatever devices wrote it.

    The variables are None where the tensors lie in a file of their own, `TENSORS`.
    Raises ValueError if the directory is damaged or not one of ours.
    """
    path, card = pathlib.Path(path).absolute(), read_card(path)
    if not (path / VARIABLES).exists() and (path / TENSORS).is_file():
        return None, card
    if not (path / VARIABLES).is_dir():
        raise ValueError(f"the checkpoint {path} is damaged: its folder {VARIABLES} is not there.")
    import orbax.checkpoint as ocp

    try:
        with ocp.StandardCheckpointer() as checkpointer:
            metadata = checkpointer.metadata(path / VARIABLES).item_metadata.tree
            like = jax.tree.map(lambda leaf: np.empty(leaf.shape, leaf.dtype), metadata)
            return checkpointer.restore(path / VARIABLES, like), card
    except Exception as error:  # Orbax raises many kinds for missing and damaged files
        raise ValueError(f"the checkpoint {path} is damaged: its variables cannot be read.") from error
