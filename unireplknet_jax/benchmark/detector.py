"""What a detector does between its layers, RoIAlign and suppression, beside plain PyTorch on the same numbers."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from unireplknet_jax.benchmark.timing import jax_program, measure, torch_and_device, torch_program
from unireplknet_jax.nn.cascade import OVERLAP, REGION_STRIDES
from unireplknet_jax.nn.proposals import OVERLAP as RPN_OVERLAP
from unireplknet_jax.nn.region_heads import BOX_BINS
from unireplknet_jax.ops.boxes import nms, shifted
from unireplknet_jax.ops.roi_align import roi_align_pyramid

SURE = 300.0  # how much larger than at the start the weights of class scores are, for there to be detections
_CLASSES_OF_A_BOX = 4  # that exceed the least score


def surer(variables):
    """The variables of a network that finds something, as random ones are sure of nothing."""
    params = dict(variables["params"])
    for name in (name for name in params if name.startswith("bbox_head")):
        scores = params[name]["fc_cls"]
        params[name] = params[name] | {"fc_cls": scores | {"kernel": SURE * scores["kernel"]}}
    return {**variables, "params": params}


def part_rows(name, model, size, rounds, with_torch):
    """Rows {"model", "batch", "form", "seconds", ..., "times torch"} of a `CascadeRCNN` for one picture of `size`.

    RoIAlign of its proposals; suppression of the proposals of one map; of detections, over classes.
    """
    rng = np.random.default_rng(0)
    maps = [
        jnp.asarray(rng.standard_normal((-(-size // stride), -(-size // stride), model.channels), np.float32))
        for stride in REGION_STRIDES
    ]
    of_map, kept = model.test_proposals
    boxes = _boxes(rng, kept, size)
    near = _boxes(rng, of_map // 4, size)[rng.integers(of_map // 4, size=of_map)]
    near = near + rng.normal(0, size / 200, near.shape).astype(np.float32)
    many = np.repeat(boxes, _CLASSES_OF_A_BOX, axis=0)
    labels = rng.integers(model.num_classes, size=len(many))
    scores = rng.uniform(size=len(many)).astype(np.float32)
    moved = np.asarray(shifted(many, labels))
    ours = {
        f"RoIAlign of {kept:,}": (lambda maps, boxes: roi_align_pyramid(maps, boxes, BOX_BINS), maps, boxes),
        f"suppression of {of_map:,}": (lambda *given: nms(*given, RPN_OVERLAP, of_map), near, scores[:of_map]),
        f"detections of {len(many):,}": (lambda *given: nms(*given, OVERLAP, model.max_detections), moved, scores),
    }
    rows = []
    for number, (part, (function, *arrays)) in enumerate(ours.items()):
        programs = {part: jax_program(function, *jax.tree.map(jnp.asarray, arrays))}
        if with_torch:
            programs[f"torch, {part}"] = _torch_part(number, model, arrays)
        timings = measure(programs, rounds)
        theirs = timings.get(f"torch, {part}")
        rows += [
            {"model": name, "batch": 1, "form": form, **timing._asdict()}
            | {"times torch": timing.median / theirs.median if theirs else None}
            for form, timing in timings.items()
        ]
    return rows


def _torch_part(number, model, arrays):
    """The `Program` that does the same in PyTorch."""
    torch, device = torch_and_device()
    tensors = (jax.tree.map(lambda leaf: torch.tensor(np.array(leaf), device=device), each) for each in arrays)
    work = torch_work(number, model, *tensors)

    def run():
        with torch.inference_mode():
            work()

    return torch_program(run, torch, device)


def torch_work(number, model, first, second):
    """A function of tensors for a part by its number: RoIAlign, suppression of proposals, of detections."""
    from unireplknet_jax.benchmark import torch_cascade

    if number == 0:
        maps = [x.permute(2, 0, 1)[None].contiguous() for x in first]
        return functools.partial(torch_cascade.roi_align, maps, second, BOX_BINS)
    limits = (RPN_OVERLAP, None) if number == 1 else (OVERLAP, model.max_detections)
    return functools.partial(torch_cascade.nms, first, second, *limits)


def _boxes(rng, count, size):
    """(count, 4) float32: boxes of 16 pixels to most of a picture, in it."""
    side = np.exp(rng.uniform(np.log(16), np.log(0.75 * size), count))
    shape = np.exp(rng.normal(0, 0.4, count))
    centre = rng.uniform(0, size, (count, 2))
    half = np.stack([side * shape, side / shape], axis=-1) / 2
    return np.clip(np.concatenate([centre - half, centre + half], axis=-1), 0, size).astype(np.float32)
