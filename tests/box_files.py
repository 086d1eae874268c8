"""The same few pictures with the same boxes, written in every form of annotations that is read."""

import json

import numpy as np
from PIL import Image

LABELS = ("cat", "dog")
SIZES = {"2.jpg": (40, 60), "10.jpg": (50, 40), "b/1.png": (36, 36)}  # (height, width), in the order of the files
OBJECTS = {  # of each picture (label, box), all in whole pixels
    "2.jpg": [("dog", (10, 4, 30, 24)), ("cat", (30, 20, 60, 40))],
    "10.jpg": [("cat", (1, 1, 20, 41))],
    "b/1.png": [],
}
FORMS = ("coco", "yolo", "voc", "labelme", "csv")


def picture(name, size):
    rng = np.random.default_rng(len(name))
    return Image.fromarray(rng.integers(0, 256, (*size, 3), np.uint8))


def write_pictures(folder, sizes=SIZES, **options):
    for name, size in sizes.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        picture(name, size).save(path, **options)


def corners(box):
    left, top, right, bottom = box
    return [left, top, right, top, right, bottom, left, bottom]


def coco(objects=OBJECTS, sizes=SIZES, ids=(1, 2), polygons=False):
    """COCO's document; ids: of the categories."""
    annotations = []
    for number, own in enumerate(objects.values()):
        for label, box in own:
            left, top, right, bottom = box
            entry = {"id": len(annotations) + 1, "image_id": 10 + number, "category_id": ids[LABELS.index(label)]}
            entry |= {"bbox": [left, top, right - left, bottom - top], "area": (right - left) * (bottom - top)}
            entry |= {"iscrowd": 0} | ({"segmentation": [corners(box)]} if polygons else {})
            annotations.append(entry)
    return {
        "images": [
            {"id": 10 + number, "file_name": name, "height": sizes[name][0], "width": sizes[name][1]}
            for number, name in enumerate(objects)
        ],
        "annotations": annotations,
        "categories": [{"id": number, "name": label} for number, label in zip(ids, LABELS, strict=True)],
    }


def write_coco(folder, split="train", document=None, pictures=True, **options):
    (folder / "annotations").mkdir(parents=True, exist_ok=True)
    (folder / f"annotations/{split}.json").write_text(json.dumps(document or coco(**options)))
    if pictures:
        write_pictures(folder / split)
    return folder


def write_yolo(folder, split="train", polygons=False):
    write_pictures(folder / "images" / split)
    (folder / "data.yaml").write_text("train: images/train\nval: images/val\nnames:\n  0: cat\n  1: dog\n")
    for name, own in OBJECTS.items():
        height, width = SIZES[name]
        lines = []
        for label, (left, top, right, bottom) in own:
            values = [(left + right) / 2 / width, (top + bottom) / 2 / height]
            values += [(right - left) / width, (bottom - top) / height]
            if polygons:
                values = [
                    value / (height if i % 2 else width) for i, value in enumerate(corners((left, top, right, bottom)))
                ]
            lines.append(" ".join([str(LABELS.index(label)), *map(repr, values)]))
        path = (folder / "labels" / split / name).with_suffix(".txt")
        path.parent.mkdir(parents=True, exist_ok=True)
        if own:
            path.write_text("\n".join(lines) + "\n")
    return folder


def voc_object(label, box, first=1, difficult=0):
    texts = zip(("xmin", "ymin", "xmax", "ymax"), (box[0] + first, box[1] + first, *box[2:]), strict=True)
    bndbox = "".join(f"<{name}>{value}</{name}>" for name, value in texts)
    return f"<object><name>{label}</name><difficult>{difficult}</difficult><bndbox>{bndbox}</bndbox></object>"


def write_voc(folder, split="train", objects=OBJECTS, first=1):
    write_pictures(folder / "images" / split)
    for name, own in objects.items():
        path = (folder / "annotations" / split / name).with_suffix(".xml")
        path.parent.mkdir(parents=True, exist_ok=True)
        height, width = SIZES[name]
        size = f"<size><width>{width}</width><height>{height}</height><depth>3</depth></size>"
        things = "".join(voc_object(label, box, first) for label, box in own)
        path.write_text(f"<annotation><filename>{name}</filename>{size}{things}</annotation>")
    return folder


def write_labelme(folder, split="train", polygons=False):
    write_pictures(folder / split)
    for name, own in OBJECTS.items():
        shapes = []
        for label, box in own:
            points = np.array(corners(box)).reshape(-1, 2).tolist()
            kind = "polygon" if polygons else "rectangle"
            shapes.append({"label": label, "points": points if polygons else points[::2], "shape_type": kind})
        height, width = SIZES[name]
        document = {"shapes": shapes, "imagePath": name, "imageHeight": height, "imageWidth": width}
        (folder / split / name).with_suffix(".json").write_text(json.dumps(document))
    return folder


def write_csv(folder, split="train"):
    write_pictures(folder / split)
    rows = ["label,xmax,ymax,Image_Path,xmin,ymin,score"]
    for name, own in OBJECTS.items():
        for label, (left, top, right, bottom) in own:
            rows.append(f"{label},{right},{bottom},{name},{left},{top},1")
        rows += [] if own else [f",,,{name},,,"]
    (folder / f"{split}.csv").write_text("\n".join(rows) + "\n")
    return folder


WRITERS = dict(zip(FORMS, (write_coco, write_yolo, write_voc, write_labelme, write_csv), strict=True))


def from_bits(found, size):
    """The bitmaps (objects, h, w) bool behind `instance_masks.as_bits`, in pictures of that size."""
    again = np.zeros((len(found["mask_crops"]), *size), bool)
    for bitmap, (first, top, left, height, width) in zip(again, found["mask_crops"].tolist(), strict=True):
        rows = found["mask_bits"][first : first + height * -(-width // 8)].reshape(height, -(-width // 8))
        bitmap[top : top + height, left : left + width] = np.unpackbits(rows, axis=1, count=width)
    return again
