"""A detector is measured alike on one device and on eight."""

import json

import box_files
import jax
import numpy as np
import pytest
from networks import lively
from small_tasks import make_task

from unireplknet_jax.train.evaluate import evaluate
from unireplknet_jax.train.sharding import make_mesh
from unireplknet_jax.train.step import make_eval_step

pytestmark = pytest.mark.usefixtures("quick_compilation")


@pytest.mark.slow  # two programs of a whole network
def test_one_device_and_eight_find_the_same(tmp_path):
    """Rows of a batch change what float32 rounds, and nothing else; half of what is found is then made the truth."""
    document = box_files.coco(polygons=True) | {"categories": [{"id": i + 1, "name": "abcdef"[i]} for i in range(6)]}
    box_files.write_coco(tmp_path, "val", document)
    task = make_task("detection", labels=tuple("abcdef"))
    variables, data = lively(task.abstract_variables()), {"name": "coco", "dir": str(tmp_path), "split": "val"}
    meshes = {count: make_mesh(devices=jax.devices()[:count]) for count in (1, 8)}
    steps = {count: make_eval_step(task, mesh, deploy=False) for count, mesh in meshes.items()}

    def evaluated(count):
        split, path = task.open(data, "val"), tmp_path / f"{count}.json"
        program = {"mesh": meshes[count], "eval_step": steps[count], "keys": task.shape_keys(split)}
        found = evaluate(task, variables, task.examples(split, train=False), 8, predictions=path, **program)
        return found, json.loads(path.read_text())

    _, found = evaluated(1)
    rows = [row | {"id": number, "iscrowd": 0} for number, row in enumerate(found[::2])]
    rows = [row | {"area": row["bbox"][2] * row["bbox"][3]} for row in rows]
    box_files.write_coco(tmp_path, "val", document | {"annotations": rows}, pictures=False)
    (one, ours), (eight, theirs) = evaluated(1), evaluated(8)
    assert len(ours) == len(found) == 15
    assert 30 < one["box_ap"] < 90
    assert 30 < one["mask_ap"] < 90
    assert eight == pytest.approx(one, rel=1e-9, nan_ok=True)
    for own, other in zip(ours, theirs, strict=True):
        assert (own["image_id"], own["category_id"]) == (other["image_id"], other["category_id"])
        np.testing.assert_allclose([*own["bbox"], own["score"]], [*other["bbox"], other["score"]], atol=1e-3)
