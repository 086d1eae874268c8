"""The citation, the workflow and the hooks: they can be read, and they say what the package and launch/test.sh say."""

import ast
import importlib
import re
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.version import Version
from pages import README, ROOT

import unireplknet_jax

CONFIGURATION = tomllib.loads((ROOT / "pyproject.toml").read_text())
PROJECT = CONFIGURATION["project"]
WORKFLOW = yaml.safe_load((ROOT / ".github/workflows/test.yml").read_text())
JOB = WORKFLOW["jobs"]["test"]


def requirement(name):
    """The specifier of a library in requirements.txt."""
    lines = (line.partition("#")[0].strip() for line in (ROOT / "requirements.txt").read_text().splitlines())
    return next(known.specifier for known in map(Requirement, filter(None, lines)) if known.name == name)


def test_what_others_use_without_declaring_it_is_declared_here():
    assert requirement("flatbuffers").contains("25.12.19")  # jax.export, which programs of StableHLO go through
    assert requirement("importlib_resources").contains("6.5")  # tensorflow-datasets


def test_the_citation_names_the_paper_and_this_version():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert {"cff-version", "title", "message", "authors"} <= set(citation)  # what the format requires
    assert (citation["cff-version"], citation["type"]) == ("1.2.0", "software")
    assert citation["version"] == PROJECT["version"] == unireplknet_jax.__version__
    assert citation["license"] == PROJECT["license"]
    paper, journal, _ = citation["preferred-citation"], *citation["references"]
    names = [f"{author['given-names']} {author['family-names']}" for author in paper["authors"]]
    assert names[0] == "Xiaohan Ding"
    assert names[1:] == ["Yiyuan Zhang", "Yixiao Ge", "Sijie Zhao", "Lin Song", "Xiangyu Yue", "Ying Shan"]
    assert (paper["type"], paper["year"], journal["type"], journal["year"]) == (
        "conference-paper",
        2024,
        "article",
        2025,
    )
    for source in (paper, journal):
        assert source["url"] in README.read_text()


def test_the_workflow_runs_launch_test_on_every_python_it_names():
    assert set(WORKFLOW[True]) == {"push", "pull_request"}  # YAML 1.1 reads the key `on` as true
    assert [step["run"] for step in JOB["steps"] if "run" in step][-1] == "bash launch/test.sh"
    python = next(step["with"]["python-version"] for step in JOB["steps"] if "setup-python" in step.get("uses", ""))
    assert python == "${{ matrix.python }}"


def test_the_versions_of_python_are_those_that_the_package_allows():
    versions, allowed = JOB["strategy"]["matrix"]["python"], SpecifierSet(PROJECT["requires-python"])
    assert all(isinstance(version, str) for version in versions)  # YAML would read 3.10 as 3.1
    assert all(version in allowed for version in versions)
    least = next(Version(one.version) for one in allowed if one.operator == ">=")
    assert min(map(Version, versions)) == least
    assert f"{least} to {max(versions, key=Version)}" in README.read_text()


def test_the_versions_of_jax_are_the_oldest_that_the_package_allows_and_the_newest():
    oldest, newest = map(Requirement, JOB["strategy"]["matrix"]["jax"])
    least = next(Version(one.version) for one in requirement("jax") if one.operator == ">=")
    assert oldest.specifier == SpecifierSet(f"=={least}.*")
    assert str(newest) == "jax"
    for combination in JOB["strategy"]["matrix"]["exclude"]:
        assert combination["python"] in JOB["strategy"]["matrix"]["python"]
        assert combination["jax"] in JOB["strategy"]["matrix"]["jax"]
    constraint = next(step["run"] for step in JOB["steps"] if "PIP_CONSTRAINT" in step.get("run", ""))
    assert 'echo "${{ matrix.jax }}" >' in constraint


def test_the_hooks_are_the_checks_of_launch_test():
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    assert [repository["repo"] for repository in hooks] == ["local"]
    script = (ROOT / "launch/test.sh").read_text()
    checks = {" ".join(line.split()[:2]) for line in script.splitlines() if re.match("ruff|mypy|shellcheck", line)}
    entries = {" ".join(hook["entry"].split()[:2]) for hook in hooks[0]["hooks"]}
    assert checks == entries == {"ruff check", "ruff format", "mypy", "shellcheck --external-sources"}


def test_the_types_of_the_floors_and_of_the_public_names_are_checked():
    checked = {path.removeprefix("unireplknet_jax/") for path in CONFIGURATION["tool"]["mypy"]["files"]}
    assert checked >= {"__init__.py", "ops", "nn", "models", "tasks"}
    assert CONFIGURATION["tool"]["mypy"]["strict"]


def test_checkers_see_the_names_that_the_package_imports_on_first_use():
    (block,) = (node for node in ast.parse(Path(unireplknet_jax.__file__).read_text()).body if isinstance(node, ast.If))
    seen = {alias.asname: (node.module, alias.name) for node in block.body for alias in node.names}
    assert ast.unparse(block.test) == "TYPE_CHECKING"
    assert {*seen, "__version__"} == {*unireplknet_jax.__all__}
    for name, (module, attribute) in seen.items():
        assert getattr(unireplknet_jax, name) is getattr(importlib.import_module(module), attribute)


@pytest.mark.parametrize(
    ("path", "checked"),
    [
        ("launch/test.sh", True),
        ("launch/slurm.sbatch", True),
        (".ci/run", True),
        ("launch/colab.ipynb", False),
        ("README.md", False),
    ],
)
def test_shellcheck_looks_at_the_files_that_launch_test_names(path, checked):
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"][0]["hooks"]
    pattern = next(hook["files"] for hook in hooks if hook["id"] == "shellcheck")
    assert (ROOT / path).is_file()
    assert bool(re.search(pattern, path)) == checked
