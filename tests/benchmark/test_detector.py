"""A detector is timed beside PyTorch as a whole and in its parts, and finds something to work on."""

import jax
import numpy as np
import pytest
from networks import lively
from small_tasks import make_task

from unireplknet_jax.benchmark import detector, network
from unireplknet_jax.benchmark.timing import Program
from unireplknet_jax.models.reparameterize import reparameterize

PARTS = ["RoIAlign of 20", "suppression of 40", "detections of 80"]


@pytest.fixture
def programs(monkeypatch):
    """{form: arguments} of our programs, which are not compiled; a small network takes the place of the published."""
    seen = []

    def jax_program(function, *arguments):
        seen.append((function, arguments))
        return Program(lambda: None)

    task = make_task("detection")
    variables = lively(task.abstract_variables())
    monkeypatch.setattr(network, "network_of", lambda *_: task.module())
    drawn = variables, jax.tree.map(np.asarray, reparameterize(variables))
    monkeypatch.setattr(network, "compile_program", lambda *_, **__: lambda: drawn)
    for module in (network, detector):
        monkeypatch.setattr(module, "jax_program", jax_program)
    return seen


@pytest.mark.slow  # seven programs, of which PyTorch runs four
def test_a_detector_and_its_parts_are_timed_beside_pytorch(programs):
    pytest.importorskip("torch")
    rows = network.measure_inference("x", 1, 64, rounds=1, with_xla=False, task="detection")
    forms = [row["form"] for row in rows]
    theirs = ["torch", "torch, channels last"]
    ours = ["prepared", "merged", "no depthwise", "training form"]
    assert forms[:8] == [*ours, *theirs, *(f"{name}, training form" for name in theirs)]
    assert forms[8:] == [name for part in PARTS for name in (part, f"torch, {part}")]
    assert all(row["times torch"] > 0 for row in rows)
    assert [row["times torch"] for row in rows[9::2]] == [1] * 3


@pytest.mark.slow  # three programs
def test_the_parts_have_work_to_do_and_do_the_same(programs):
    torch = pytest.importorskip("torch")
    model = make_task("detection").module()
    detector.part_rows("x", model, 64, 1, with_torch=False)
    for number, (function, arrays) in enumerate(programs):
        found = jax.jit(function)(*arrays)
        first, second = (jax.tree.map(lambda leaf: torch.tensor(np.array(leaf)), each) for each in arrays)
        expected = detector.torch_work(number, model, first, second)()
        if number == 0:
            expected = expected.permute(0, 2, 3, 1)
            np.testing.assert_allclose(found, expected, rtol=0, atol=2e-5)  # sums of normal numbers
        else:
            index, valid = (np.asarray(each) for each in found)
            assert index[valid].tolist() == expected.tolist()
            assert 1 < len(expected) < len(second) / 2


def test_a_network_that_is_sure_finds_as_much_as_there_is_room_for():
    torch = pytest.importorskip("torch")
    from unireplknet_jax.benchmark.torch_cascade import CascadeRCNN

    model = make_task("detection").module().clone(min_score=0.3)  # of 6 classes
    images = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    torch.manual_seed(0)
    counts = []
    for sure in (1.0, detector.SURE):
        with torch.inference_mode():
            ((_, scores, *_),) = CascadeRCNN(model, sure).eval()(images)
        counts.append(len(scores))
    assert counts == [0, model.max_detections]
    variables = {"params": {"bbox_head_1": {"fc_cls": {"kernel": 2.0, "bias": 1.0}}, "neck": 3.0}, "batch_stats": 4}
    head = {"fc_cls": {"kernel": 2 * detector.SURE, "bias": 1.0}}
    assert detector.surer(variables) == {"params": {"bbox_head_1": head, "neck": 3.0}, "batch_stats": 4}
