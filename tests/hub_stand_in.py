"""The Hugging Face hub as a local folder: repositories are folders of commits, each a folder of files."""

import shutil
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import pytest
from huggingface_hub import errors

FUNCTIONS = ("hf_hub_download", "list_repo_files", "create_repo", "upload_folder")


def response(status):
    return SimpleNamespace(status_code=status, headers={}, request=None)


class Hub:
    """folder/USER/REPO/COMMIT/file. `before`: called with the name of each function before it does anything."""

    def __init__(self, folder: Path):
        self.folder, self.before, self.calls = folder, lambda name: None, []
        self.reachable = True
        self.cache = folder.with_name(f"{folder.name}-cache")

    def commits(self, repository):
        place = self.folder / repository
        if not place.is_dir():
            raise errors.RepositoryNotFoundError("404 Client Error.\nRepository Not Found", response=response(404))
        return sorted(place.iterdir())

    def files(self, repository):
        """{name: bytes} of the last commit."""
        return {path.name: path.read_bytes() for path in self.commits(repository)[-1].iterdir()}

    def hf_hub_download(self, repo_id, filename, revision=None, local_files_only=False):
        commits = self.commits(repo_id)
        found = [commit for commit in commits if revision in (None, commit.name)]
        if not found:
            raise errors.RevisionNotFoundError("404 Client Error.", response=response(404))
        if not (found[-1] / filename).is_file():
            raise errors.EntryNotFoundError("404 Client Error.")
        cached = self.cache / repo_id / found[-1].name / filename  # beside it lies what else was fetched of that commit
        cached.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(found[-1] / filename, cached)
        return str(cached)

    def list_repo_files(self, repo_id):
        return [*self.files(repo_id)] if self.commits(repo_id) else []

    def create_repo(self, repo_id, private, exist_ok):
        (self.folder / repo_id).mkdir(parents=True, exist_ok=exist_ok)

    def upload_folder(self, repo_id, folder_path, commit_message):
        assert commit_message
        commits = self.commits(repo_id)
        new = self.folder / repo_id / f"{len(commits) + 1:040x}"
        if commits:
            shutil.copytree(commits[-1], new)
        shutil.copytree(folder_path, new, dirs_exist_ok=True)
        return SimpleNamespace(commit_url=f"https://hub/{repo_id}/{new.name}")


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """The stand-in in place of the functions of huggingface_hub; without a network, nothing else is there."""
    stand_in = Hub(tmp_path / "hub")
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)

    def standing_in(name):
        def call(*args, **kwargs):
            stand_in.calls.append((name, kwargs))
            stand_in.before(name)
            return getattr(stand_in, name)(*args, **kwargs)

        return call

    monkeypatch.setattr("unireplknet_jax.models.hub.answers", lambda module: stand_in.reachable)
    for name in FUNCTIONS:
        monkeypatch.setattr(huggingface_hub, name, standing_in(name))
    return stand_in
