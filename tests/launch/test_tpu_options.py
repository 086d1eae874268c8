"""What launch/tpu.sh makes of its options, and what it refuses before it calls gcloud."""

import re
import shlex
import shutil
from pathlib import Path

import pytest
from cloud import PLACE, READS, TRAIN, check_error


@pytest.mark.parametrize(
    ("kind", "version"),
    [
        ("v2-8", "tpu-ubuntu2204-base"),
        ("v4-32", "tpu-ubuntu2204-base"),
        ("v5p-8", "v2-alpha-tpuv5"),
        ("v5litepod-8", "v2-alpha-tpuv5-lite"),
        ("v6e-16", "v2-alpha-tpuv6e"),
    ],
)
def test_software_version_fits_the_type(cloud, kind, version):
    out = cloud.run("run", *PLACE, "--type", kind, "--dry-run", "--", *TRAIN).stdout
    assert f" --version={version} " in out


@pytest.mark.parametrize(
    ("words", "part"),
    [
        ([], "write "),
        (["begin"], "got 'begin'"),
        (["run", "--zone", "z"], "--name"),
        (["run", "--name", "n"], "--zone"),
        (["run", *PLACE], "--type"),
        (["run", *PLACE, "--type"], "--type needs a value"),
        (["run", *PLACE, "--type", "--", "train"], "--type needs a value"),
        (["run", *PLACE, "--type", "v5p-8"], "-- train"),
        (["run", *PLACE, "--type", "v5p-8", "--", "python"], "-- train"),
        (["run", *PLACE, "--type", "v99-8", "--", *TRAIN], "--version"),
        (["run", *PLACE, "--type", "v5p-8", "--bucket", "b", "--", *TRAIN], "gs://"),
        (["run", *PLACE, "--type", "v5p-8", "--wait", "6h", "--", *TRAIN], "--queued"),
        (["run", *PLACE, "--type", "v5p-8", "--max-restarts", "x", "--", *TRAIN], "--max-restarts"),
        (["run", *PLACE, "--typ", "v5p-8"], "unknown option '--typ'"),
        (["ssh", *PLACE], "no command"),
    ],
)
def test_wrong_usage_is_one_sentence(cloud, words, part):
    done = cloud.run(*words)
    check_error(done, part)
    assert len(done.stderr.splitlines()) == 1
    assert cloud.calls == []


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "no folder"),
        (["--config.data.dir=/data/imagenet"], "/data/imagenet"),
        (["--config.data.dir=/mnt/data2"], "/mnt/data2"),
        ([*READS, "--config.data.dir", "gs://b"], "gs://b"),
    ],
)
def test_a_bucket_that_the_run_does_not_read_is_refused(cloud, words, said):
    done = cloud.run_training("--bucket", "gs://b/birds", arguments=[*TRAIN, *words])
    check_error(
        done, f"gs://b/birds is mounted at /mnt/data, but the run reads {said}: add --config.data.dir=/mnt/data"
    )
    assert cloud.calls == []


@pytest.mark.parametrize("words", [READS, ["--config.data.dir", "/mnt/data/birds"], []])
def test_a_bucket_that_the_run_reads_is_mounted(cloud, words):
    if not words:
        recipe = cloud.repository / "configs" / "recipe.py"
        recipe.write_text(recipe.read_text() + '\nconfig.data.update({"dir": "/mnt/data/birds"})\n')
    assert cloud.run_training("--dry-run", "--bucket", "gs://b", arguments=[*TRAIN, *words]).returncode == 0


def test_documented_runs_are_not_refused(cloud):
    """Every `tpu.sh run` that a page shows, on the real recipes."""
    root = Path(__file__).parents[2]
    text = "".join(page.read_text().replace("\\\n", " ") for page in [root / "README.md", *root.glob("docs/*.md")])
    shown = [words for words in re.findall(r"launch/tpu\.sh (run .* -- train .*)", text) if " ... " not in words]
    assert len(shown) >= 2
    shutil.copytree(root / "configs", cloud.repository / "configs", dirs_exist_ok=True)
    for words in shown:
        done = cloud.run(*shlex.split(words.replace(" --", " --dry-run --", 1)))
        assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("keep", [[], ["--keep"]])
@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "missing"),
        (["--workdir"], "missing"),
        (["--workdir", "runs/s"], "runs/s"),
        (["--workdir=/mnt/data/s"], "/mnt/data/s"),
        (["--workdir", "gs://"], "gs://"),
        (["--workdir", "gs:///s"], "gs:///s"),
        (["--workdir", "gs://b/s", "--workdir", "runs/s"], "runs/s"),
    ],
)
def test_a_workdir_that_would_go_with_the_slice_is_refused(cloud, words, said, keep):
    done = cloud.run_training(*keep, arguments=[*TRAIN[:3], *words])
    check_error(done, f"--workdir of the run is {said}; expected a bucket", "gs://BUCKET/s")
    assert cloud.calls == []


@pytest.mark.parametrize("workdir", [["--workdir", "gs://b"], ["--workdir=gs://b/run"]])
@pytest.mark.parametrize(
    "config", [["--config", "configs/recipe.py"], ["--config=not added.py:a:b"], ["--config", "recipe.py:s"]]
)
def test_both_spellings_of_an_option_are_read(cloud, workdir, config):
    done = cloud.run_training("--dry-run", arguments=["train", *workdir, *config])
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "--config of the run is missing"),
        (["--config"], "--config of the run is missing"),
        (["--config", "configs/recip.py:s"], "there is no recipe configs/recip.py among the files that are copied"),
        (["--config=big.ignored"], "there is no recipe big.ignored among"),
        (["--config=recip.py"], "there is no recipe recip.py among"),
        (["--config", "configs"], "there is no recipe configs among"),
        (["--config", "../outside.py"], "there is no recipe ../outside.py among"),
        (["--config", "c*/recipe.py"], "there is no recipe c*/recipe.py among"),
    ],
)
def test_a_recipe_that_is_not_copied_is_refused(cloud, words, said):
    (cloud.repository.parent / "outside.py").touch()
    done = cloud.run_training(arguments=["train", "--workdir", "gs://b/run", *words])
    check_error(done, said)
    assert cloud.calls == []


def test_the_absolute_path_of_a_recipe_is_refused(cloud):
    recipe = cloud.repository / "configs" / "recipe.py"
    check_error(cloud.run_training(arguments=["train", *TRAIN[3:], "--config", str(recipe)]), f"no recipe {recipe}")


def test_without_gcloud_it_says_where_to_get_it(cloud):
    (cloud.tools / "gcloud").unlink()
    check_error(cloud.run_training(), "gcloud was not found", "https://cloud.google.com/sdk")
