"""Repositories of the Hugging Face hub: a checkpoint in one, and a folder that becomes one commit to one."""

import os
import re
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from unireplknet_jax.models.directory import CARD, TENSORS

PREFIX = "hf-hub:"
_PART = r"(?![.-])[\w.-]+(?<![.-])"
_NAME = re.compile(rf"({_PART}/{_PART})(?:@([\w./-]+))?")
_NEVER = re.compile(r"--|\.\.|\.git$")  # what the hub does not take in the name of a repository
_COMMIT = re.compile(r"[0-9a-f]{40}")
_PATIENCE = 5.0  # seconds for the server's first answer


def library(purpose: str, otherwise: str = "") -> ModuleType:
    """The module huggingface_hub; ImportError, one sentence, where it is not installed.

    purpose: what needs it, as in "fetching a.pth". otherwise: the end of the sentence, what else there is to do.
    """
    try:
        import huggingface_hub
    except ImportError as error:
        raise ImportError(
            f"{purpose} needs huggingface_hub, which is not installed: pip install huggingface_hub{otherwise}."
        ) from error
    return huggingface_hub


def file_of(hub: ModuleType, **what: Any) -> Path:
    """Where a file of a repository lies in the cache, fetched if the server answers; `what` as of `hf_hub_download`.

    Where it does not answer, the library would try again and again for half a minute before it says so.
    """
    offline = {} if answers(hub) else {"local_files_only": True}
    return Path(hub.hf_hub_download(**what, **offline))


def answers(hub: ModuleType) -> bool:
    """Whether the server is there; asked once, as the library would ask, through proxies, say."""
    try:
        hub.utils.get_session().head(hub.constants.ENDPOINT, timeout=_PATIENCE)
    except Exception:  # which there are depends on the HTTP library that this version of huggingface_hub uses
        return False
    return True


def fetch(name: str) -> Path:
    """The folder of the checkpoint that "hf-hub:USER/REPO" names, or "hf-hub:USER/REPO@REVISION"; fetched once.

    Raises ValueError for another name and for a repository without a checkpoint of ours, ConnectionError where a file
    is not in the cache and could not be fetched, ImportError without huggingface_hub.
    """
    repository, revision = _parts(name)
    hub = library(f"fetching {name}")
    card = _fetched(hub, name, repository, CARD, revision)
    if _COMMIT.fullmatch(card.parent.name):  # the tensors that belong to this card, whatever is pushed meanwhile
        revision = card.parent.name
    _fetched(hub, name, repository, TENSORS, revision)
    return card.parent


def writable(name: str) -> str:
    """The repository "USER/REPO" that a name to push to stands for; ValueError for no such name."""
    repository, revision = _parts(name)
    if revision:
        raise ValueError(f"files are pushed to the main revision of {repository}: leave out @{revision}.")
    return repository


def push(folder: Path, repository: str, overwrite: bool = False, private: bool = False) -> str:
    """Upload the files of a folder to "USER/REPO", as one commit; its URL. The repository is made if it is not there.

    Raises ValueError for another name, and with `private` for a repository that is there, FileExistsError where it
    holds such files already, unless `overwrite`, ConnectionError where nothing was uploaded for another reason.
    """
    repository = writable(repository)
    hub = library(f"pushing to {repository}")
    if not answers(hub):
        why = "HF_HUB_OFFLINE is set" if _is_offline() else "the server cannot be reached"
        raise ConnectionError(f"nothing was uploaded to {repository} ({why}).")
    there = _asked(repository, lambda: _files(hub, repository))
    taken = [path.name for path in sorted(folder.iterdir()) if path.name in (there or ())]
    if taken and not overwrite:
        raise FileExistsError(f"{repository} holds {', '.join(taken)} already; ask for that to be overwritten.")
    if private and there is not None:
        raise ValueError(f"{repository} is there already, and its page says who may see it: leave out private.")
    if there is None:
        _asked(repository, lambda: hub.create_repo(repository, private=private, exist_ok=True))
    what = {"folder_path": str(folder), "commit_message": "A checkpoint of unireplknet_jax"}
    commit = _asked(repository, lambda: hub.upload_folder(repo_id=repository, **what))
    return str(getattr(commit, "commit_url", commit))


def _parts(name: str) -> tuple[str, str | None]:
    found = _NAME.fullmatch(name.removeprefix(PREFIX))
    if not found or _NEVER.search(found[1]):
        raise ValueError(f"{name} is not the name of a repository; expected {PREFIX}USER/REPO.")
    return found[1], found[2]


def _asked(repository: str, ask: Callable[[], Any]) -> Any:
    """What the hub answers; ConnectionError, one sentence, if it does not."""
    try:
        return ask()
    # Which exceptions there are depends on the HTTP library that this version of huggingface_hub uses.
    except Exception as error:
        raise ConnectionError(f"nothing was uploaded to {repository} ({reason(error, '')}).") from error


def _files(hub: ModuleType, repository: str) -> list[str] | None:
    """The names of a repository's files; None where there is no such repository."""
    try:
        return hub.list_repo_files(repository)
    except hub.errors.GatedRepoError:
        raise
    except hub.errors.RepositoryNotFoundError:
        return None


def _fetched(hub: ModuleType, name: str, repository: str, file: str, revision: str | None) -> Path:
    try:
        return file_of(hub, repo_id=repository, filename=file, revision=revision)
    except Exception as error:
        errors = hub.errors
        if isinstance(error, errors.EntryNotFoundError) and not isinstance(error, errors.LocalEntryNotFoundError):
            raise ValueError(
                f"{name} has no {file}, so it is no checkpoint that `unireplknet push` wrote; fetch a file of it by "
                "other means, and open that."
            ) from error
        raise ConnectionError(
            f"the {file} of {name} could not be fetched ({reason(error)}): try again, or fetch it by other means, for "
            "example with a browser, and give its folder's path in place of the name."
        ) from error


def _is_offline() -> bool:
    return os.environ.get("HF_HUB_OFFLINE", "").upper() in {"1", "ON", "YES", "TRUE"}


def reason(error: Exception, missing: str = " and the file is not in the cache") -> str:
    """Why something that was asked of the hub failed, in a few words.

    missing: what is added where the hub was not reached, "" where no cache would have helped.
    """
    errors = library("the hub").errors
    if _is_offline():
        return f"HF_HUB_OFFLINE is set{missing}"
    if isinstance(error, errors.LocalEntryNotFoundError):
        return f"the server cannot be reached{missing}"
    if isinstance(error, errors.EntryNotFoundError):
        return "the server has no such file"
    if isinstance(error, errors.GatedRepoError):
        return "its page asks for an agreement first, and for `hf auth login`"
    if isinstance(error, errors.RepositoryNotFoundError):
        return "there is no such repository, or it is private and wants `hf auth login`"
    if isinstance(error, errors.RevisionNotFoundError):
        return "there is no such revision"
    status = getattr(getattr(error, "response", None), "status_code", None)
    if isinstance(error, errors.LocalTokenNotFoundError) or status in (401, 403):
        return f"the server wants `hf auth login` with an account that may {'read it' if missing else 'write there'}"
    if isinstance(error, OSError) and error.errno:
        return os.strerror(error.errno).lower()
    return f"the server's answer was {status}" if status else "the transfer failed"
