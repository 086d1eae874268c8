import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import huggingface_hub
import pytest
from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

from unireplknet_jax.models.complexity import costs
from unireplknet_jax.models.variants import VARIANTS, create_model
from unireplknet_jax.models.zoo import (
    PUBLISHED,
    ZOO,
    download,
    find_weights,
    located,
    names,
    weights_of_file,
)

FILES = {
    ("unireplknet_a", "in1k_224"): "unireplknet_a_in1k_224_acc77.03.pth",
    ("unireplknet_f", "in1k_224"): "unireplknet_f_in1k_224_acc78.58.pth",
    ("unireplknet_p", "in1k_224"): "unireplknet_p_in1k_224_acc80.23.pth",
    ("unireplknet_n", "in1k_224"): "unireplknet_n_in1k_224_acc81.64.pth",
    ("unireplknet_t", "in1k_224"): "unireplknet_t_in1k_224_acc83.21.pth",
    ("unireplknet_s", "in1k_224"): "unireplknet_s_in1k_224_acc83.91.pth",
    ("unireplknet_s", "in22k_224"): "unireplknet_s_in22k_pretrain.pth",
    ("unireplknet_s", "in22k_ft_in1k_384"): "unireplknet_s_in22k_to_in1k_384_acc86.44.pth",
    ("unireplknet_b", "in22k_224"): "unireplknet_b_in22k_pretrain.pth",
    ("unireplknet_b", "in22k_ft_in1k_384"): "unireplknet_b_in22k_to_in1k_384_acc87.40.pth",
    ("unireplknet_l", "in22k_192"): "unireplknet_l_in22k_pretrain.pth",
    ("unireplknet_l", "in22k_ft_in1k_384"): "unireplknet_l_in22k_to_in1k_384_acc87.88.pth",
    ("unireplknet_xl", "in22k_192"): "unireplknet_xl_in22k_pretrain.pth",
    ("unireplknet_xl", "in22k_ft_in1k_384"): "unireplknet_xl_in22k_to_in1k_384_acc87.96.pth",
}
# Parameters (millions) and multiply-accumulates (billions, by image size) as the original's README prints them.
PRINTED = {
    "unireplknet_a": ("4.4", {224: "0.6"}),
    "unireplknet_f": ("6.2", {224: "0.9"}),
    "unireplknet_p": ("10.7", {224: "1.6"}),
    "unireplknet_n": ("18.3", {224: "2.8"}),
    "unireplknet_t": ("31", {224: "4.9"}),
    "unireplknet_s": ("56", {224: "9.1", 384: "26.7"}),
    "unireplknet_b": ("98", {384: "47.2"}),
    "unireplknet_l": ("218", {384: "105.4"}),
    "unireplknet_xl": ("386", {384: "187"}),
}
TRUNCATED = {("unireplknet_xl", "386")}  # of 386.53 million parameters: the one number that is not rounded
S = ZOO["unireplknet_s", "in22k_ft_in1k_384"]


def test_the_zoo_is_the_published_list():
    assert {key: row.file for key, row in ZOO.items()} == FILES
    assert all((row.model, row.tag) == key for key, row in ZOO.items())
    assert {row.model for row in ZOO.values()} <= set(VARIANTS)


@pytest.mark.parametrize("key", ZOO, ids="-".join)
def test_a_row_agrees_with_its_tag_and_file_name(key):
    row = ZOO[key]
    assert row.tag.endswith(f"_{row.image_size}")
    assert row.resize == ("warp" if row.image_size >= 384 else "crop")
    assert (row.mean, row.std) == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    if "in1k" in row.tag:
        assert row.file.endswith(f"_acc{row.top1:.2f}.pth")
        assert (row.num_classes, row.label_names) == (1000, "imagenet1k")
    else:
        assert (row.top1, row.num_classes, row.label_names) == (None, 21841, "imagenet22k")


def test_retrained_files_say_so():
    noted = {key for key, row in ZOO.items() if row.note}
    assert noted == {("unireplknet_s", "in22k_224"), ("unireplknet_xl", "in22k_ft_in1k_384")}


def test_the_published_numbers_are_the_printed_ones():
    assert PUBLISHED.keys() == PRINTED.keys()
    for name, (params, macs) in PRINTED.items():
        assert PUBLISHED[name].params == float(params), name
        assert PUBLISHED[name].macs == {size: float(printed) for size, printed in macs.items()}, name


@pytest.mark.parametrize("name", PRINTED)
def test_the_merged_architecture_has_the_printed_numbers_to_their_last_digit(name):
    params, macs = PRINTED[name]
    model = create_model(name, deploy=True)
    numbers = [(params, costs(model, 224)[0] / 1e6)]
    numbers += [(printed, costs(model, size)[1] / 1e9) for size, printed in macs.items()]
    for printed, counted in numbers:
        decimals = len(printed.partition(".")[2])
        rounded = f"{counted:.{decimals}f}"
        assert (rounded == printed) != ((name, printed) in TRUNCATED), (printed, counted)
        assert abs(counted - float(printed)) < 10**-decimals


def test_find_weights():
    assert find_weights("unireplknet_l", "in22k_192").file == "unireplknet_l_in22k_pretrain.pth"


def test_an_unknown_model_lists_near_ones():
    with pytest.raises(ValueError, match=r"'unireplnet_s', perhaps you mean unireplknet_s or .*; .* unireplknet_xl\.$"):
        find_weights("unireplnet_s", "in1k_224")


def test_an_unknown_tag_lists_near_ones_and_all_of_this_model():
    with pytest.raises(ValueError, match=r"'in22k_224' were published for unireplknet_l, .* mean in22k_192") as error:
        find_weights("unireplknet_l", "in22k_224")
    assert str(error.value).endswith("; published are in22k_192, in22k_ft_in1k_384.")


def test_a_file_is_known_by_its_exact_name(tmp_path):
    assert weights_of_file(f"some/dir/{S.file}") is S
    assert weights_of_file(tmp_path / S.file) is S
    assert weights_of_file(f"some/dir/my_{S.file}") is None
    assert weights_of_file(S.file.replace(".pth", ".safetensors")) is None


@pytest.fixture(autouse=True)
def server(monkeypatch, tmp_path):
    """A server that answers, and nothing in the cache."""
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda repository, file: None)
    monkeypatch.setattr("unireplknet_jax.models.hub.answers", lambda hub: True)


def test_a_file_that_is_in_the_cache_needs_no_server(monkeypatch, tmp_path):
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda repository, file: f"/{repository}/{file}")
    monkeypatch.setattr("unireplknet_jax.models.hub.answers", None)
    assert download(S) == Path(f"/DingXiaoH/UniRepLKNet/{S.file}")


def test_download_asks_for_the_file_of_the_repository(monkeypatch, tmp_path):
    asked = []

    def hf_hub_download(**what):
        asked.append(what)
        return str(tmp_path / what["filename"])

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", hf_hub_download)
    assert download(S) == tmp_path / S.file
    assert asked == [{"repo_id": "DingXiaoH/UniRepLKNet", "filename": S.file}]


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (
            LocalEntryNotFoundError("An error happened. Please check."),
            "the server cannot be reached and the file is not",
        ),
        (EntryNotFoundError("404 Client Error."), "the server has no such file"),
        (OSError(28, "No space left on device"), "no space left on device"),
        (RuntimeError(), "the transfer failed"),
    ],
)
def test_a_failed_download_is_one_sentence(monkeypatch, error, reason):
    def hf_hub_download(**_):
        raise error

    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", hf_hub_download)
    with pytest.raises(
        ConnectionError, match=rf"^{S.file} could not .* DingXiaoH/UniRepLKNet \({reason}.*\): "
    ) as told:
        download(S)
    assert "https://huggingface.co/DingXiaoH/UniRepLKNet/resolve/main/" + S.file in str(told.value)
    assert str(told.value).endswith("give its path in place of the name.")
    assert told.value.__cause__ is error


def test_without_the_library_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ImportError, match=r"needs huggingface_hub, .*: pip install huggingface_hub, or download https"):
        download(S)


def test_offline_with_the_real_library(tmp_path):
    code = "from unireplknet_jax.models.zoo import ZOO, download\ndownload(ZOO['unireplknet_a', 'in1k_224'])"
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("ConnectionError: unireplknet_a_in1k_224_acc77.03.pth could not be fetched"), done.stderr
    assert "HF_HUB_OFFLINE is set and the file is not in the cache" in last


def test_rows_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        S.file = "other.pth"


def published(monkeypatch, tmp_path):
    """Let `hf_hub_download` give paths that do not exist; the names of the files that were asked for."""
    asked = []

    def hf_hub_download(repo_id, filename):
        asked.append(filename)
        return str(tmp_path / filename)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", hf_hub_download)
    return asked


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("unireplknet_a", ("unireplknet_a", "in1k_224")),
        ("unireplknet_a.in1k_224", ("unireplknet_a", "in1k_224")),
        ("unireplknet_s.in22k_ft_in1k_384", ("unireplknet_s", "in22k_ft_in1k_384")),
        ("unireplknet_l.in22k_192", ("unireplknet_l", "in22k_192")),
        (S.file, ("unireplknet_s", "in22k_ft_in1k_384")),
    ],
)
def test_a_published_name_is_fetched(name, key, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    asked = published(monkeypatch, tmp_path)
    assert located(name) == tmp_path / FILES[key]
    assert asked == [FILES[key]]


def test_what_lies_there_is_not_fetched(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    asked = published(monkeypatch, tmp_path)
    for name in ("unireplknet_a", S.file):
        Path(name).touch()
        assert located(name) == Path(name)
        assert located(tmp_path / name) == tmp_path / name
    assert asked == []


def test_a_size_with_several_files_needs_its_tag(monkeypatch, tmp_path):
    asked = published(monkeypatch, tmp_path)
    sentence = "^of unireplknet_s there are 3 files: give unireplknet_s.in1k_224 or unireplknet_s.in22k_224 or unirepl"
    with pytest.raises(ValueError, match=sentence):
        located("unireplknet_s")
    assert asked == []


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("unireplnet_a", r"did you mean unireplknet_a.*\?"),
        ("unireplknet_s.in22k_ft_in1k", r"did you mean unireplknet_s\.in22k_ft_in1k_384 .*\?"),
        ("unireplknet_h", r"did you mean unireplknet_.*\?"),
        ("picture", r"published names begin with unireplknet_\."),
    ],
)
def test_an_unknown_name_lists_near_ones(name, hint):
    with pytest.raises(ValueError, match=rf"^{name} does not exist, and is no published name; {hint}$"):
        located(name)


def test_a_path_that_is_not_there_is_no_name(tmp_path):
    with pytest.raises(ValueError, match=r"unireplnet_a does not exist\.$"):
        located(tmp_path / "unireplnet_a")


def test_every_name_that_may_be_meant_is_one(monkeypatch, tmp_path):
    published(monkeypatch, tmp_path)
    assert len(names()) == len(ZOO) + 5  # a, f, p, n and t have one file each
    assert {located(name).name for name in names()} == {*FILES.values()}


def test_an_empty_name_is_not_the_current_folder():
    with pytest.raises(ValueError, match="the checkpoint's name is empty"):
        located("")
