"""One process that evaluates a small detector: python detect_in_process.py FOLDER OUT.

Prints the metrics on the pictures of the folder; process 0 writes what was found into OUT, in COCO's form of results.
A folder without annotations is made first: every second object that the network finds is then one that is there.
"""

import dataclasses
import json
import sys
from pathlib import Path
from typing import ClassVar

import box_files
import jax
from networks import lively
from small_tasks import MODEL, OPTIONS

from unireplknet_jax.tasks.detection import Detection
from unireplknet_jax.train.distributed import join
from unireplknet_jax.train.evaluate import evaluate

# Two canvases, of which neither fills its batches of four.
SIZES = {f"{i}.jpg": (40, 60) if i < 3 else (60, 40) for i in range(5)}
CLASSES = [{"id": number, "name": name} for number, name in enumerate("abcdef", 1)]


@dataclasses.dataclass(frozen=True)
class Recorded(Detection):
    out: ClassVar[Path]

    def metrics(self, totals, records):
        self.out.write_text(json.dumps(self.results(records)))
        return super().metrics(totals, records)


def evaluated(folder, out):
    task = Recorded(**OPTIONS["detection"] | {"model": MODEL | OPTIONS["detection"]["model"]}, labels=tuple("abcdef"))
    Recorded.out = out
    split = task.open({"name": "coco", "dir": str(folder)}, "val")
    variables, keys = lively(task.abstract_variables()), task.shape_keys(split)
    return evaluate(task, variables, task.examples(split, train=False), 4, keys=keys)


def annotate(folder, out):
    """Make what the network finds the truth, or half of it."""
    whole = {name: [("cat", (0, 0, size[1], size[0]))] for name, size in SIZES.items()}
    document = box_files.coco(whole, SIZES) | {"categories": CLASSES}
    box_files.write_pictures(folder / "val", SIZES)
    box_files.write_coco(folder, "val", document, pictures=False)
    evaluated(folder, out)
    found = json.loads(out.read_text())[::2]
    rows = [row | {"id": i, "iscrowd": 0, "area": row["bbox"][2] * row["bbox"][3]} for i, row in enumerate(found, 1)]
    box_files.write_coco(folder, "val", document | {"annotations": rows}, pictures=False)


def main(folder, out):
    join()
    folder, out = Path(folder), Path(out)
    if not folder.is_dir():
        annotate(folder, out)
    print(json.dumps(evaluated(folder, out) | {"process": jax.process_index()}))


if __name__ == "__main__":
    main(*sys.argv[1:])
