"""Repositories of the hub, against a stand-in: what is fetched, what is pushed, and each wrong case as one sentence."""

import re
import sys
from types import SimpleNamespace

import huggingface_hub
import pytest
from hub_stand_in import response
from huggingface_hub import errors

from unireplknet_jax.models.hub import answers, fetch, push, reason

FILES = {"card.json": b"{}", "model.safetensors": b"tensors"}


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "folder"
    path.mkdir()
    for name, content in FILES.items():
        (path / name).write_bytes(content)
    return path


def told(action, *arguments):
    """The one sentence that an action ends with."""
    with pytest.raises((ValueError, OSError, ImportError)) as raised:
        action(*arguments)
    assert "\n" not in str(raised.value)
    return f"{type(raised.value).__name__}: {raised.value}"


def test_what_was_pushed_is_fetched(hub, folder):
    url = push(folder, "me/net")
    assert url == f"https://hub/me/net/{1:040x}"
    found = fetch("hf-hub:me/net")
    assert {path.name: path.read_bytes() for path in found.iterdir()} == FILES == hub.files("me/net")


def test_the_tensors_are_those_of_the_card_whatever_is_pushed_meanwhile(hub, folder):
    push(folder, "me/net")

    def push_another(name):
        hub.before = lambda name: None
        if name == "hf_hub_download":
            hub.before = push_again

    def push_again(name):
        hub.before = lambda name: None
        (folder / "model.safetensors").write_bytes(b"others")
        push(folder, "me/net", True)

    hub.before = push_another
    assert (fetch("hf-hub:me/net") / "model.safetensors").read_bytes() == b"tensors"
    assert (fetch("hf-hub:me/net") / "model.safetensors").read_bytes() == b"others"
    assert (fetch(f"hf-hub:me/net@{1:040x}") / "model.safetensors").read_bytes() == b"tensors"


def test_files_that_are_there_are_replaced_when_that_is_asked_for(hub, folder):
    (hub.folder / "me/net" / "0").mkdir(parents=True)
    (hub.folder / "me/net" / "0" / "notes.txt").write_bytes(b"mine")
    push(folder, "me/net")
    sentence = told(push, folder, "me/net")
    assert sentence == (
        "FileExistsError: me/net holds card.json, model.safetensors already; ask for that to be overwritten."
    )
    (folder / "card.json").write_bytes(b"[]")
    push(folder, "me/net", True)
    assert hub.files("me/net") == FILES | {"card.json": b"[]", "notes.txt": b"mine"}
    assert len(hub.commits("me/net")) == 3


def test_a_new_repository_is_private_where_that_is_asked_for_and_an_old_one_is_not_made_so(hub, folder):
    push(folder, "me/a", False, True)
    push(folder, "me/b")
    assert [kwargs["private"] for name, kwargs in hub.calls if name == "create_repo"] == [True, False]
    assert "me/b is there already, and its page says who may see it" in told(push, folder, "me/b", True, True)
    assert len(hub.commits("me/b")) == 1
    (hub.folder / "me/empty").mkdir()
    assert "me/empty is there already" in told(push, folder, "me/empty", False, True)


NO_NAMES = ["net", "hf-hub:", "hf-hub:net", "a/b/c", "a b/c", "hf-hub:a/b@"]
NO_NAMES += ["a/..", "-a/b", "a/b-", "a./b", "a/b.git", "a/b--c", "a/b..c"]  # which the hub refuses, reached or not


@pytest.mark.parametrize("name", NO_NAMES)
def test_what_is_no_name_of_a_repository_is_one_sentence(hub, folder, name):
    for action in (lambda: fetch(name), lambda: push(folder, name)):
        assert re.fullmatch(
            r"ValueError: .* is not the name of a repository; expected hf-hub:USER/REPO\.", told(action)
        )
    assert hub.calls == []


def test_a_push_names_no_revision(hub, folder):
    assert "leave out @v1" in told(push, folder, "me/net@v1")


def test_a_repository_that_is_not_there(hub):
    assert told(fetch, "hf-hub:me/net") == (
        "ConnectionError: the card.json of hf-hub:me/net could not be fetched (there is no such repository, or it is "
        "private and wants `hf auth login`): try again, or fetch it by other means, for example with a browser, and "
        "give its folder's path in place of the name."
    )


def test_a_revision_that_is_not_there(hub, folder):
    push(folder, "me/net")
    assert "(there is no such revision)" in told(fetch, "hf-hub:me/net@v2")


@pytest.mark.parametrize("missing", FILES)
def test_a_repository_without_a_checkpoint_of_ours(hub, folder, missing):
    (folder / missing).unlink()
    push(folder, "me/net")
    assert told(fetch, "hf-hub:me/net").startswith(
        f"ValueError: hf-hub:me/net has no {missing}, so it is no checkpoint that `unireplknet push` wrote;"
    )


def no_network(name):
    raise errors.LocalEntryNotFoundError("An error happened.\nCheck your connection.")


def refused(name):
    if name == "upload_folder":
        raise errors.HfHubHTTPError("403 Forbidden\nmore", response=response(403))


def cut_off(name):
    if name == "upload_folder":
        raise OSError(110, "Connection timed out")


def gated(name):
    if name == "list_repo_files":
        raise errors.GatedRepoError("403 Forbidden\nmore", response=response(403))


@pytest.mark.parametrize(
    ("before", "why"),
    [
        (no_network, "the server cannot be reached"),
        (refused, "the server wants `hf auth login` with an account that may write there"),
        (gated, "its page asks for an agreement first, and for `hf auth login`"),
        (cut_off, "connection timed out"),
    ],
)
def test_a_push_that_fails_leaves_nothing_in_the_repository(hub, folder, before, why):
    hub.before = before
    assert told(push, folder, "me/net") == f"ConnectionError: nothing was uploaded to me/net ({why})."
    assert not (hub.folder / "me/net").exists() or hub.commits("me/net") == []
    assert not [name for name, _ in hub.calls if name == "upload_folder"][1:]


def test_a_push_without_a_network_is_refused_at_once(hub, folder, monkeypatch):
    hub.reachable = False
    assert told(push, folder, "me/net") == (
        "ConnectionError: nothing was uploaded to me/net (the server cannot be reached)."
    )
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert told(push, folder, "me/net") == "ConnectionError: nothing was uploaded to me/net (HF_HUB_OFFLINE is set)."
    assert hub.calls == []


def test_a_push_offline_speaks_of_no_cache(hub, folder, monkeypatch):
    hub.before = no_network
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert told(push, folder, "me/net") == "ConnectionError: nothing was uploaded to me/net (HF_HUB_OFFLINE is set)."


def test_without_a_network_nothing_is_fetched(hub, folder):
    push(folder, "me/net")
    hub.before, hub.reachable = no_network, False
    assert told(fetch, "hf-hub:me/net") == (
        "ConnectionError: the card.json of hf-hub:me/net could not be fetched (the server cannot be reached and the "
        "file is not in the cache): try again, or fetch it by other means, for example with a browser, and give its "
        "folder's path in place of the name."
    )
    assert hub.calls[-1][1]["local_files_only"]  # or the library would try again and again


@pytest.mark.parametrize("fails", [False, True])
def test_the_server_is_asked_once_and_not_for_long(fails, monkeypatch):
    def head(url, timeout):
        asked.append((url, timeout))
        if fails:
            raise RuntimeError("no network")

    asked = []
    monkeypatch.setattr(huggingface_hub.utils, "get_session", lambda: SimpleNamespace(head=head))
    assert answers(huggingface_hub) is not fails
    assert asked == [(huggingface_hub.constants.ENDPOINT, 5.0)]


def test_without_the_library_both_say_what_to_install(monkeypatch, folder):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    end = "needs huggingface_hub, which is not installed: pip install huggingface_hub."
    assert told(fetch, "hf-hub:me/net") == f"ImportError: fetching hf-hub:me/net {end}"
    assert told(push, folder, "me/net") == f"ImportError: pushing to me/net {end}"


def test_reasons(monkeypatch):
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    assert "agreement" in reason(errors.GatedRepoError("403", response=response(403)))
    assert "hf auth login" in reason(errors.LocalTokenNotFoundError("no token"))
    assert reason(errors.HfHubHTTPError("500 Server Error.\nmore", response=response(500))) == (
        "the server's answer was 500"
    )
    unauthorised = errors.HfHubHTTPError("401 Unauthorized", response=response(401))
    assert reason(unauthorised) == "the server wants `hf auth login` with an account that may read it"
    assert reason(unauthorised, "") == "the server wants `hf auth login` with an account that may write there"
    assert reason(RuntimeError("a text of a library")) == "the transfer failed"
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert reason(RuntimeError()).startswith("HF_HUB_OFFLINE is set")
