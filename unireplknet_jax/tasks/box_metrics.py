"""COCO's metrics of boxes and masks, as pycocotools computes them, from the records of an evaluation.

A record of a picture has its "id", its "size" [h, w], and two lists. "truth" has a dict for each object: "label", "box"
[x1, y1, x2, y2], "area", "crowd" and, where the data have masks, "mask", run lengths as pycocotools packs them or None.
"found" has a dict for each detection: "label", "box", "score" and, where the network has masks, "mask"; for `results`
"category_id", too, what stands for the class in the files of the data.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from unireplknet_jax.data.pictures.instance_masks import Piece, bitmap, coco_masks, piece_runs

EVALUATORS = {  # {module: the modules and classes of the data and of the evaluation}
    "pycocotools": ("pycocotools.coco:COCO", "pycocotools.cocoeval:COCOeval"),
    "faster_coco_eval": ("faster_coco_eval:COCO", "faster_coco_eval:COCOeval_faster"),
}
MOST = (100, 300, 1000)  # detections of a picture that count, as in mmdetection
_SIZES = ("small", "medium", "large")  # up to 32x32 pixels, up to 96x96, and above
NAMES = (  # of the metrics, behind "box_" and "mask_"
    *("ap", "ap50", "ap75", *(f"ap_{size}" for size in _SIZES)),
    *(*(f"ar{most}" for most in MOST), *(f"ar_{size}" for size in _SIZES)),
)
Row = dict[str, Any]


def truth_of(example: Mapping[str, Any]) -> list[Row]:
    """The "truth" of a record, of an example of a source of boxes (`data.pictures.box_sets`).

    Raises ValueError for a broken mask, and ImportError where masks need pycocotools and it is missing.
    """
    rows = []
    masks = example["masks"] or [None] * len(example["unrounded"])
    size = example["image"].shape[:2]
    for box, label, area, crowd, mask in zip(
        *(example[name].tolist() for name in ("unrounded", "labels", "areas", "crowd")), masks, strict=True
    ):
        row = {"label": label, "box": box, "area": area, "crowd": crowd}
        if example["masks"]:
            row["mask"] = None if mask is None else packed(bitmap(mask, size, example.get("orientation", 1)))
        rows.append(row)
    return rows


def packed(found: np.ndarray) -> Row:
    """A bitmap (h, w) as run lengths {"size", "counts": a text}, as results of COCO have them."""
    runs = coco_masks().encode(np.asfortranarray(found, np.uint8))
    return {"size": [*map(int, runs["size"])], "counts": runs["counts"].decode()}


def packed_piece(piece: Piece, size: Sequence[int]) -> Row:
    """As `packed`, of a part of the bitmap of a picture of `size` (h, w)."""
    runs = coco_masks().frPyObjects(piece_runs(piece, (size[0], size[1])), *size)
    return {"size": [*size], "counts": runs["counts"].decode()}


def results(records: Iterable[Mapping[str, Any]]) -> list[Row]:
    """The detections in COCO's format of results, but for those of classes that nothing stands for, a None."""
    rows = []
    for record in records:
        for each in record["found"]:
            if each["category_id"] is None:
                continue
            row = {
                "image_id": record["id"],
                "category_id": each["category_id"],
                "bbox": _corner_and_size(each["box"]),
                "score": each["score"],
            }
            rows.append(row | ({"segmentation": each["mask"]} if "mask" in each else {}))
    return rows


def metrics(
    records: Sequence[Mapping[str, Any]], labels: Sequence[str], masks: bool, evaluator: str = "pycocotools"
) -> dict[str, float]:
    """{"box_ap", "box_ap50", "box_ap75", "box_ap_small", ..., "box_ar100", ..., "box_ap/LABEL"}, in percent.

    AP is the mean over the classes and over the IoU thresholds 0.50, 0.55, ..., 0.95 of the precision at 101 values of
    recall; "ap50" and "ap75" are at one threshold, "ap_small" and the others of objects of some sizes. "ar100" is the
    mean recall of the 100 best detections of a picture; everything else counts 1,000. What has no object is NaN.
    masks: the same of masks, "mask_ap" and so on, where sizes are those of masks. An object without a mask counts there
    neither as found nor as missed. evaluator: one of EVALUATORS, which give the same numbers.

    Pictures are ordered by their ids, as pycocotools does it. Ids of objects begin at 1, because pycocotools takes an
    object with the id 0 for none.
    Raises ValueError where there is no object at all, and ImportError where the evaluator is missing.
    """
    data_class, evaluation_class = evaluator_classes(evaluator)
    if not any(record["truth"] for record in records):
        raise ValueError("there is nothing to evaluate: no picture of the data set has an object.")
    records = sorted(records, key=lambda record: (isinstance(record["id"], str), record["id"]))
    names = labels or [f"class {number}" for number in range(1 + max(_labels(records)))]
    found: dict[str, float] = {}
    for kind in ("box", "mask")[: 1 + masks]:
        with contextlib.redirect_stdout(io.StringIO()):
            truth = _data(data_class, records, "truth", len(names), kind)
            said = _data(data_class, records, "found", len(names), kind)
            evaluation = evaluation_class(truth, said, "bbox" if kind == "box" else "segm")
            evaluation.params.maxDets = [*MOST]
            evaluation.evaluate()
            evaluation.accumulate()
        found |= _summary(evaluation, names, kind)
    return found


def check_evaluator(name: str) -> None:
    """Raise ValueError for a name that is none of EVALUATORS."""
    if name not in EVALUATORS:
        raise ValueError(f"there is no evaluator {name!r}; expected {' or '.join(EVALUATORS)}.")


def evaluator_classes(evaluator: str) -> tuple[Any, Any]:
    """The classes of the data and of the evaluation; ImportError where the evaluator is missing."""
    check_evaluator(evaluator)
    try:
        data_class, evaluation_class = (
            getattr(importlib.import_module(place.split(":")[0]), place.split(":")[1])
            for place in EVALUATORS[evaluator]
        )
    except ImportError:
        extra = "'unireplknet_jax[boxes]'" if evaluator == "pycocotools" else "faster-coco-eval"
        raise ImportError(f"COCO's metrics need {evaluator}, which is missing: pip install {extra}") from None
    return data_class, evaluation_class


def _labels(records: Sequence[Mapping[str, Any]]) -> Iterator[int]:
    for record in records:
        yield from (each["label"] for part in ("truth", "found") for each in record[part])


def _data(data_class: Any, records: Sequence[Mapping[str, Any]], part: str, classes: int, kind: str) -> Any:
    """One part of the records, numbered anew, as the evaluator's class has it."""
    rows: list[Row] = []
    for number, record in enumerate(records, 1):
        for each in record[part]:
            row: Row = {"id": len(rows) + 1, "image_id": number, "category_id": each["label"] + 1}
            row |= {"iscrowd": int(each.get("crowd", False)), "score": each.get("score", 0.0)}
            bbox = _corner_and_size(each["box"])
            if kind == "box":
                row |= {"bbox": bbox, "area": each.get("area", bbox[2] * bbox[3])}
            else:
                mask = each.get("mask")
                if mask is None:
                    row["iscrowd"], mask = 1, _whole_box(each["box"], record["size"])
                row |= {"segmentation": mask, "area": each.get("area", float(coco_masks().area(mask)))}
            rows.append(row)
    data = data_class()
    data.dataset = {
        "images": [
            {"id": number, "height": record["size"][0], "width": record["size"][1]}
            for number, record in enumerate(records, 1)
        ],
        "categories": [{"id": number + 1, "name": str(number)} for number in range(classes)],
        "annotations": rows,
    }
    data.createIndex()
    return data


def _whole_box(box: Sequence[float], size: Sequence[int]) -> Row:
    left, top, right, bottom = (max(0, value) for value in (*map(math.floor, box[:2]), *map(math.ceil, box[2:])))
    found = np.zeros(size, bool)
    found[top:bottom, left:right] = True
    return packed(found)


def _summary(evaluation: Any, names: Sequence[str], kind: str) -> dict[str, float]:
    """The numbers of an evaluation, whose arrays are -1 where there is nothing."""
    precision = np.asarray(evaluation.eval["precision"])[..., -1]  # (thresholds, recalls, classes, sizes)
    recall = np.asarray(evaluation.eval["recall"])  # (thresholds, classes, sizes, numbers of detections)
    at = {value: int(place) for place, value in enumerate(np.rint(100 * evaluation.params.iouThrs).tolist())}
    found = {"ap": _mean(precision[..., 0])}
    found |= {f"ap{value}": _mean(precision[at[value], ..., 0]) for value in (50, 75)}
    found |= {f"ap_{name}": _mean(precision[..., 1 + i]) for i, name in enumerate(_SIZES)}
    found |= {f"ar{most}": _mean(recall[..., 0, i]) for i, most in enumerate(MOST)}
    found |= {f"ar_{name}": _mean(recall[..., 1 + i, -1]) for i, name in enumerate(_SIZES)}
    found |= {f"ap/{name}": _mean(precision[:, :, i, 0]) for i, name in enumerate(names)}
    return {f"{kind}_{name}": value for name, value in found.items()}


def _mean(values: np.ndarray) -> float:
    known = values[values > -1]
    return 100 * float(np.mean(known)) if known.size else math.nan


def _corner_and_size(box: Sequence[float]) -> list[float]:
    left, top, right, bottom = box
    return [left, top, right - left, bottom - top]
