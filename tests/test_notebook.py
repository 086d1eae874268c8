"""The Colab notebook: it is committed clean, it runs from top to bottom, and its setup keeps the accelerator."""

import ast
import base64
import importlib.metadata
import io
import json
import re
import shutil
import urllib.request
from pathlib import Path
from types import SimpleNamespace

import nbformat
import numpy as np
import pytest
from nbclient import NotebookClient
from packaging.requirements import Requirement
from PIL import Image

from unireplknet_jax.data.label_names import read_labels

ROOT = Path(__file__).parents[1]
NOTEBOOK = ROOT / "launch" / "colab.ipynb"


def read_notebook():
    return nbformat.read(NOTEBOOK, as_version=4)


def cell(notebook, name):
    return next(cell for cell in notebook.cells if cell.id == name)


def test_notebook_is_committed_without_outputs():
    notebook = read_notebook()
    nbformat.validate(notebook)
    assert (notebook.nbformat, notebook.nbformat_minor) == (4, 5)
    assert notebook.metadata.accelerator == "GPU"
    assert notebook.metadata.kernelspec.name == "python3"
    for each in notebook.cells:
        assert not each.metadata, f"cell {each.id} carries metadata of an editor or a run"
        if each.cell_type == "code":
            assert each.outputs == []
            assert each.execution_count is None
            assert not re.search(r"^\s*[!%]", each.source, re.MULTILINE), f"cell {each.id} is not plain Python"


@pytest.fixture(scope="module")
def executed(tmp_path_factory):
    """The notebook after one run, offline and with small numbers."""
    folder = tmp_path_factory.mktemp("notebook")
    notebook = read_notebook()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JAX_PLATFORMS", "cpu")
        patch.setenv("HF_HUB_OFFLINE", "1")
        patch.setenv("HF_HOME", str(folder))
        patch.setenv("TMPDIR", str(folder))
        patch.setenv(
            "PIP_DRY_RUN", "1"
        )  # should a requirement be missing, the test fails without changing this environment
        patch.setenv("UNIREPLKNET_NOTEBOOK_FAST", "1")
        patch.delenv("MPLBACKEND", raising=False)
        resources = {"metadata": {"path": str(ROOT)}}
        NotebookClient(notebook, timeout=500, kernel_name="python3", resources=resources).execute()
    return notebook


@pytest.mark.slow
class TestRun:
    """What the notebook printed and drew."""

    @staticmethod
    def text(notebook, name):
        return "".join(out.text for out in cell(notebook, name).outputs if out.output_type == "stream")

    @staticmethod
    def pictures(notebook, name):
        data = [out.data for out in cell(notebook, name).outputs if "data" in out]
        return [Image.open(io.BytesIO(base64.b64decode(d["image/png"]))) for d in data if "image/png" in d]

    def number(self, notebook, name, pattern):
        found = re.search(pattern, self.text(notebook, name))
        assert found, f"{pattern!r} is not in what the cell {name} printed:\n{self.text(notebook, name)}"
        return float(found[1])

    def test_setup_keeps_what_is_there(self, executed):
        assert "Installing" not in self.text(executed, "packages")
        assert f"jax {importlib.metadata.version('jax')} uses the CPU" in self.text(executed, "packages")

    def test_offline_it_says_that_weights_are_random(self, executed):
        assert "unireplknet_a with random weights" in self.text(executed, "load_checkpoint")
        assert self.number(executed, "load_checkpoint", r"([\d.]+) million") == 4.65  # 4.4 when merged, as published

    def test_five_classes_are_named(self, executed):
        rows = re.findall(r"^ *([\d.]+) %  (.+)$", self.text(executed, "classify_picture"), re.MULTILINE)
        shares = [float(share) for share, _ in rows]
        assert len(rows) == len({name for _, name in rows}) == 5
        assert {name for _, name in rows} <= set(read_labels("imagenet1k"))
        assert shares == sorted(shares, reverse=True)
        assert 0.1 < shares[0] < 100  # above the mean of 1000 classes
        assert len(self.pictures(executed, "classify_picture")) == 1

    def test_merged_form_computes_the_same(self, executed):
        difference = self.number(executed, "merge_and_time", r"largest difference: (\S+) of")
        # The two forms add the same float32 numbers in another order (3e-7); exactly 0 would be one form run twice.
        assert 0 < difference < 3e-6
        training = self.number(executed, "merge_and_time", r"training form: +([\d.]+) ms")
        merged = self.number(executed, "merge_and_time", r"merged form: +([\d.]+) ms")
        ratio = self.number(executed, "merge_and_time", r"is ([\d.]+) times as fast on cpu")
        assert ratio == pytest.approx(training / merged, rel=0.05)  # both are printed rounded

    def test_receptive_field_is_drawn(self, executed):
        side = self.number(executed, "receptive_field", r"central (\d+) x")
        # Even the downsampling layers by themselves see 63 pixels; half of a uniform field of 128 would be 91 wide.
        assert 20 < side < 85
        (picture,) = self.pictures(executed, "receptive_field")
        heat = np.asarray(picture.convert("L"), np.float32)[40:-20, 25:-100]  # without title, frame and colour bar
        middle = heat[heat.shape[0] // 2 - 20 :][:40, heat.shape[1] // 2 - 20 :][:, :40]
        assert middle.mean() > 1.2 * heat[:40, :40].mean()

    def test_training_learns(self, executed):
        assert self.number(executed, "train_digits", r"Test accuracy: ([\d.]+) % of 360") > 70  # chance is 10, seen 89
        (curves,) = self.pictures(executed, "train_digits")
        assert min(curves.size) > 100


LINES = [line.partition("#")[0].strip() for line in (ROOT / "requirements.txt").read_text().splitlines()]
REQUIREMENTS = [Requirement(line) for line in LINES if line]
OTHERS = {requirement.name: "99.0" for requirement in REQUIREMENTS if requirement.name not in ("jax", "numpy")}


def with_jax(number, plugin=None):
    """A runtime's packages, all requirements met, with this jax and plugin."""
    plugins = {f"{plugin}-plugin": number, f"{plugin}-pjrt": number} if plugin else {}
    return {"jax": number, "jaxlib": number, "numpy": "2.0.2", **plugins, **OTHERS}


class Runtime:
    """A made-up runtime for the setup cell: its accelerator, its packages, and a pip that changes them."""

    def __init__(self, packages, has="cpu", driver_works=True):
        self.packages, self.has, self.driver_works = dict(packages), has, driver_works
        self.environment = {"COLAB_TPU_1VM": "1" if has == "tpu" else ""}
        self.loaded, self.calls = {}, []

    def platform(self):
        plugins = {"gpu": ("jax-cuda12-plugin", "jax-cuda13-plugin"), "tpu": ("libtpu",), "cpu": ()}[self.has]
        fits = any(self.packages.get(name) == self.packages["jaxlib"] for name in plugins)
        return self.has if fits and self.driver_works else "cpu"

    def run(self, command, **_):
        if command[-1] == "-L":
            return SimpleNamespace(returncode=0 if self.has == "gpu" else 9)
        if command[1] == "-c":
            return SimpleNamespace(returncode=0, stdout=f"{self.platform()}|some device\n")
        assert command[:4] == ["python", "-m", "pip", "install"]
        hold = Path(command[command.index("--constraint") + 1]).read_text().split()
        self.calls.append((command[-1], hold))
        self.pip(command[-1], dict(line.split("==") for line in hold))
        return SimpleNamespace(returncode=0)

    def pip(self, what, hold):
        if what.startswith("jax["):
            extra, number = re.fullmatch(r"jax\[(\w+)\][>=]=([\d.]+)", what).groups()
            names = {"tpu": ["libtpu"], "cpu": []}.get(extra, [f"jax-{extra}-plugin", f"jax-{extra}-pjrt"])
            self.packages.update(dict.fromkeys(["jax", "jaxlib", *names], number))
        else:
            # Unless it is held, pip brings a newer jax without the plugin, and a newer numpy.
            newest = {"jax": "99.0", "jaxlib": "99.0", "numpy": "99.0", **OTHERS}
            self.packages.update({name: hold.get(name, number) for name, number in newest.items()})

    def version(self, name):
        if name not in self.packages:
            raise importlib.metadata.PackageNotFoundError(name)
        return self.packages[name]

    def set_up(self, monkeypatch):
        """Run the setup cell here; returns what it printed last."""
        distributions = lambda: [SimpleNamespace(name=n, version=v) for n, v in self.packages.items()]  # noqa: E731
        monkeypatch.setattr(importlib.metadata, "version", self.version)
        monkeypatch.setattr(importlib.metadata, "distributions", distributions)
        monkeypatch.setattr(shutil, "which", lambda name: name)
        monkeypatch.chdir(ROOT)
        printed = []
        names = {
            "os": SimpleNamespace(environ=self.environment),
            "sys": SimpleNamespace(executable="python", modules=self.loaded),
            "subprocess": SimpleNamespace(run=self.run),
            "Path": Path,
            "print": lambda *words: printed.append(" ".join(words)),
        }
        exec(cell(read_notebook(), "packages").source, names)
        return printed[-1]


@pytest.mark.parametrize(
    ("has", "packages", "installed", "hold"),
    [
        # As Colab's GPU runtime of June 2026: jax is too old for us.
        ("gpu", with_jax("0.7.2", "jax-cuda12"), ["jax[cuda12]>=0.10"], ["numpy==2.0.2"]),
        ("gpu", with_jax("0.10", "jax-cuda13"), [], None),
        ("gpu", with_jax("0.7.2", "jax-cuda13"), ["jax[cuda13]>=0.10"], ["numpy==2.0.2"]),
        ("gpu", with_jax("0.10.1"), ["jax[cuda12]==0.10.1"], ["numpy==2.0.2"]),
        ("gpu", {"numpy": "1.26"}, ["jax[cuda12]>=0.10", "requirements.txt"], []),
        ("tpu", with_jax("0.7.2") | {"libtpu": "0.7.2"}, ["jax[tpu]>=0.10"], ["numpy==2.0.2"]),
        ("cpu", with_jax("0.10.2"), [], None),
        ("cpu", {}, ["jax[cpu]>=0.10", "requirements.txt"], []),
    ],
)
def test_setup_installs_the_jax_of_the_accelerator(monkeypatch, has, packages, installed, hold):
    runtime = Runtime(packages, has)
    last = runtime.set_up(monkeypatch)
    assert [what for what, _ in runtime.calls] == installed
    assert hold is None or runtime.calls[0][1] == hold
    assert f"jax {runtime.packages['jax']} uses the {has.upper()} (some device)." == last
    assert all(runtime.packages[r.name] in r.specifier for r in REQUIREMENTS)


def test_setup_holds_jax_and_its_plugin_while_installing_the_rest(monkeypatch):
    packages = {name: v for name, v in with_jax("0.10.2", "jax-cuda12").items() if name != "flax"}
    runtime = Runtime(packages, "gpu")
    assert "uses the GPU" in runtime.set_up(monkeypatch)
    pins = [f"{name}==0.10.2" for name in ("jax", "jax-cuda12-pjrt", "jax-cuda12-plugin", "jaxlib")]
    assert runtime.calls == [("requirements.txt", [*pins, "numpy==2.0.2"])]


def test_setup_says_when_the_accelerator_is_not_seen(monkeypatch):
    runtime = Runtime(with_jax("0.10.2", "jax-cuda12"), "gpu", driver_works=False)
    assert "jax 0.10.2 does not see the GPU of this runtime" in runtime.set_up(monkeypatch)


def test_setup_asks_for_a_restart_when_a_loaded_package_changed(monkeypatch):
    runtime = Runtime(with_jax("0.10.2"))
    runtime.loaded["PIL"] = SimpleNamespace(__version__="10.0")
    with pytest.raises(RuntimeError, match=r"PIL changed on disk: choose Runtime > Restart session"):
        runtime.set_up(monkeypatch)


def test_setup_leaves_a_gpu_alone_where_the_cpu_is_asked_for(monkeypatch):
    runtime = Runtime(with_jax("0.10.2"), "gpu")
    runtime.environment["JAX_PLATFORMS"] = "cpu"
    assert "uses the CPU" in runtime.set_up(monkeypatch)
    assert runtime.calls == []


def test_setup_reports_what_pip_said(monkeypatch):
    runtime = Runtime({})
    fails = lambda command, **_: SimpleNamespace(returncode=1, stdout="", stderr="no route to host")  # noqa: E731
    monkeypatch.setattr(runtime, "run", fails)
    with pytest.raises(RuntimeError, match=r"pip could not install jax(.|\n)*no route to host"):
        runtime.set_up(monkeypatch)


def definitions(name):
    """The functions of a code cell, without what the cell does."""
    tree = ast.parse(cell(read_notebook(), name).source)
    tree.body = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom | ast.FunctionDef)]
    scope = {}
    exec(compile(tree, name, "exec"), scope)
    return scope


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        (
            "fileId=https%3A//github.com/someone/fork/blob/wide/kernels/launch/colab.ipynb",
            ("https://github.com/someone/fork", "wide/kernels"),
        ),
        ("fileId=https%3A//github.com/someone/fork/blob/main/mine.ipynb", ("https://github.com/someone/fork", "")),
        ("fileId=1ZAqQEIxR08eODSPEHvKPwbZoioVdV8L9", ("", "")),  # a copy in Google Drive
        (None, ("", "")),  # no server: not in Colab
    ],
)
def test_a_fork_is_cloned_from_where_its_notebook_was_opened(monkeypatch, path, expected):
    def urlopen(address, timeout):
        assert address == "http://10.0.0.9:9001/api/sessions"
        if path is None:
            raise OSError("no route to host")
        return io.BytesIO(json.dumps([{"path": path, "name": "colab.ipynb"}]).encode())

    monkeypatch.setenv("COLAB_JUPYTER_IP", "10.0.0.9")
    monkeypatch.setenv("KMP_TARGET_PORT", "9001")
    monkeypatch.setattr(urllib.request, "urlopen", urlopen)
    assert definitions("repository")["origin"]() == expected
