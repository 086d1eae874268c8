"""Cascade Mask R-CNN: proposals, three stages that each find the boxes anew with more exactness, and their masks.

Paper: Cai and Vasconcelos, "Cascade R-CNN", 2018. Original: CascadeRCNN of mmdetection 2.28 with the heads of
UniRepLKNet's detection/configs. Boxes are (x1, y1, x2, y2) in pixels of the network's input.
"""

from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

from unireplknet_jax.nn.cascade_losses import (
    OVERLAPS,
    STAGE_WEIGHTS,
    Truth,
    at_rows,
    box_loss,
    boxes_between,
    class_loss,
    mask_loss,
    proposal_losses,
    sample_anchors,
    sample_regions,
)
from unireplknet_jax.nn.feature_pyramid import FRAME, FeaturePyramid, frames
from unireplknet_jax.nn.proposals import Proposals, RPNHead, Scored, propose
from unireplknet_jax.nn.region_heads import BOX_BINS, MASK_BINS, STDS, BoxHead, MaskHead, refined
from unireplknet_jax.ops.assignment import Sample
from unireplknet_jax.ops.batch import of_examples
from unireplknet_jax.ops.boxes import anchors, decode, nms
from unireplknet_jax.ops.roi_align import roi_align_pyramid
from unireplknet_jax.ops.valid import only_valid, sizes_of_maps, valid_mask

STAGES = 3
STRIDES = (4, 8, 16, 32, 64)
REGION_STRIDES = STRIDES[:4]  # of the maps that regions are taken from
OVERLAP = 0.5  # of detections of one class, above which the one with the lower score goes


class CascadeRCNN(nn.Module):
    """A backbone with its four output norms, a feature pyramid, and the heads.

    masks: False leaves the mask heads out, for data without masks.
    channels: of the pyramid; box_channels, box_features and mask_channels: inside the heads.
    bn_group: pictures whose regions share batch statistics in training; None: all.
    anchor_scale: sides of the square anchors in strides of their map. finest: the side of the box, in pixels, from
    twice which on regions come from the second map of the pyramid, from four times which on from the third, and so on:
    small objects in small pictures ask for smaller values of both.
    train_proposals, test_proposals: how many of a map come before they are thinned out, and how many of a picture stay.
    anchor_counts, region_counts: how many anchors and regions of a picture count for the losses, and how many of these
    are on objects at most.
    min_score: which detections must exceed; max_detections: of a picture.
    The merged form is that of the backbone, `model.clone(backbone=model.backbone.clone(deploy=True))`.
    """

    backbone: nn.Module
    num_classes: int
    channels: int = 256
    box_channels: int = 256
    box_features: int = 1024
    mask_channels: int = 256
    masks: bool = True
    bn_group: int | None = None
    anchor_scale: float = 8.0
    finest: float = 56.0
    train_proposals: tuple[int, int] = (2000, 2000)
    test_proposals: tuple[int, int] = (1000, 1000)
    anchor_counts: tuple[int, int] = (256, 128)
    region_counts: tuple[int, int] = (512, 128)
    min_score: float = 0.05
    max_detections: int = 100

    def setup(self) -> None:
        dtype = self.backbone.dtype
        self.neck = FeaturePyramid(self.channels, dtype)
        self.rpn_head = RPNHead(self.channels, dtype)
        self.bbox_head = [
            BoxHead(self.num_classes, self.box_channels, self.box_features, dtype, self.bn_group) for _ in range(STAGES)
        ]
        self.mask_head = [MaskHead(self.num_classes, self.mask_channels, dtype) for _ in range(STAGES * self.masks)]

    def __call__(self, x: jax.Array, train: bool = False, sizes: jax.Array | None = None) -> dict[str, jax.Array]:
        """x: (n, h, w, in_chans) -> what is found in each picture, best first, in `max_detections` rows.

        "boxes" (n, k, 4), "scores" (n, k) above `min_score`, "labels" (n, k), "valid" (n, k), False for rows that hold
        nothing, "sources" (n, k), which of the proposals each box came from, and with masks "masks" (n, k, 28, 28), the
        probabilities inside the box.
        sizes: (n, 2), the rows and columns of each picture, which lies in the upper left of x: it gives what it gives
        alone, padded to multiples of 32, whatever the rest of x holds. (In training the original pads both pictures of
        a GPU to the size of the larger one.) None: all of x.
        """
        maps, sizes = self.pyramid(x, train, sizes)
        if self.is_initializing():
            return self._initialized(maps)
        return self.detect(maps, sizes, train)

    def detect(self, maps: Sequence[jax.Array], sizes: jax.Array, train: bool = False) -> dict[str, jax.Array]:
        """What `__call__` gives, of what `pyramid` gives."""
        scored = self.rpn_head(maps, frames(sizes))
        proposals = self.proposals(scored, maps, sizes, self.test_proposals)
        regions = bordered(maps[: len(REGION_STRIDES)], sizes)
        logits, deltas, rois = self.stages(regions, proposals, sizes, train)
        found = self.final(logits, deltas[-1], rois[-1], proposals.valid, sizes)
        if self.masks:
            found["masks"] = self.mask_probabilities(regions, found["boxes"], found["labels"])
        return found

    def pyramid(
        self, x: jax.Array, train: bool = False, sizes: jax.Array | None = None
    ) -> tuple[tuple[jax.Array, ...], jax.Array]:
        """(the 5 maps of the pyramid, zeros beyond the frames of the pictures; the sizes of the pictures (n, 2))."""
        n, *canvas, _ = x.shape
        framed = None if sizes is None else frames(sizes)
        if sizes is None:
            sizes = jnp.broadcast_to(jnp.array(canvas), (n, 2))
        else:
            x = only_valid(x, valid_mask(sizes, (canvas[0], canvas[1])))
        x = jnp.pad(x, [(0, 0), *((0, -side % FRAME) for side in canvas), (0, 0)])
        return self.neck(self.backbone.features(x, train, framed), framed), sizes

    def _initialized(self, maps: Sequence[jax.Array]) -> dict[str, jax.Array]:
        """Nothing is found, but each head has met maps or as many regions as in training, and has its variables."""
        self.rpn_head(maps)
        n, c = maps[0].shape[0], maps[0].shape[-1]
        for boxes in self.bbox_head:
            boxes(jnp.zeros((n, self.region_counts[0], BOX_BINS, BOX_BINS, c)))
        most = self.region_counts[1]
        for masks in self.mask_head:
            masks(jnp.zeros((n, most, MASK_BINS, MASK_BINS, c)), jnp.zeros((n, most), jnp.int32))
        return {}

    def anchors(self, maps: Sequence[jax.Array]) -> tuple[jax.Array, ...]:
        """Those of every map, (h w 3, 4)."""
        return anchors([(x.shape[1], x.shape[2]) for x in maps], STRIDES, self.anchor_scale)

    def proposals(
        self, scored: Sequence[Scored], maps: Sequence[jax.Array], sizes: jax.Array, counts: tuple[int, int]
    ) -> Proposals:
        """Where objects may be; counts: as `test_proposals`. No gradient goes through them."""
        return jax.lax.stop_gradient(propose(scored, self.anchors(maps), sizes, *counts))

    def features_of(self, maps: Sequence[jax.Array], rois: jax.Array, bins: int) -> jax.Array:
        """The regions of boxes (n, r, 4) in maps at strides 4 to 32 -> (n, r, bins, bins, c)."""
        finest = self.finest
        return of_examples(
            lambda maps, rois: roi_align_pyramid(maps, rois, bins, REGION_STRIDES, finest), (tuple(maps), rois)
        )

    def stages(
        self, maps: Sequence[jax.Array], proposals: Proposals, sizes: jax.Array, train: bool = False
    ) -> tuple[list[jax.Array], list[jax.Array], list[jax.Array]]:
        """(logits (n, r, classes + 1), deltas (n, r, classes, 4) and boxes that came in, (n, r, 4), of every stage)."""
        all_logits, all_deltas, rois = [], [], [proposals.boxes]
        for stage, head in enumerate(self.bbox_head):
            logits, deltas = head(self.features_of(maps, rois[-1], BOX_BINS), train, proposals.valid)
            all_logits.append(logits)
            all_deltas.append(deltas)
            if stage < STAGES - 1:
                rois.append(refined(rois[-1], deltas, jnp.argmax(logits[..., :-1], axis=-1), STDS[stage], sizes))
        return all_logits, all_deltas, rois

    def final(
        self, logits: Sequence[jax.Array], deltas: jax.Array, rois: jax.Array, valid: jax.Array, sizes: jax.Array
    ) -> dict[str, jax.Array]:
        """The detections without masks: scores from the mean of the stages' logits, boxes from the last stage.

        logits: (n, r, classes + 1) of each stage; deltas: (n, r, classes, 4), rois: (n, r, 4) and valid: (n, r) of the
        last.
        """
        n, r, classes, _ = deltas.shape
        boxes = decode(rois[:, :, None], deltas, STDS[-1], sizes[:, None, None])
        scores = jax.nn.softmax(sum(logits[1:], start=logits[0]) / STAGES)[..., :classes]
        most = self.max_detections

        def of_picture(boxes: jax.Array, scores: jax.Array, valid: jax.Array) -> dict[str, jax.Array]:
            labels = jnp.broadcast_to(jnp.arange(classes), (r, classes)).reshape(-1)
            best, kept = nms(boxes, scores, OVERLAP, most, labels, valid)
            return {
                "boxes": boxes[best],
                "scores": jnp.where(kept, scores[best], 0),
                "labels": labels[best],
                "valid": kept,
                "sources": best // classes,
            }

        above = (scores > self.min_score) & valid[..., None]
        return of_examples(of_picture, (boxes.reshape(n, -1, 4), scores.reshape(n, -1), above.reshape(n, -1)))

    def mask_probabilities(self, maps: Sequence[jax.Array], boxes: jax.Array, labels: jax.Array) -> jax.Array:
        """(n, k, 28, 28): the means of what the three mask heads say of boxes (n, k, 4) with labels (n, k)."""
        regions = self.features_of(maps, boxes, MASK_BINS)
        found = [jax.nn.sigmoid(head(regions, labels)) for head in self.mask_head]
        return sum(found[1:], start=found[0]) / STAGES

    def losses(
        self, x: jax.Array, truth: Truth, key: jax.Array, sizes: jax.Array | None = None
    ) -> dict[str, jax.Array]:
        """The losses of a training batch by the original's names, weighted, and the accuracies of the stages, "s0.acc".

        x, sizes: as of `__call__`; key: of the draws of anchors and regions. Where `truth` has no masks, there are no
        losses of masks.
        """
        maps, sizes = self.pyramid(x, True, sizes)
        scored = self.rpn_head(maps, frames(sizes))
        key, own_key = jax.random.split(key)
        every = jnp.concatenate(self.anchors(maps))
        chosen = sample_anchors(own_key, every, truth, sizes, self.anchor_counts)
        found = dict(zip(("loss_rpn_cls", "loss_rpn_bbox"), proposal_losses(scored, every, chosen, truth), strict=True))
        proposals = self.proposals(scored, maps, sizes, self.train_proposals)
        return found | self.region_losses(maps, proposals.boxes, proposals.valid, truth, key, sizes)

    def region_losses(
        self,
        maps: Sequence[jax.Array],
        boxes: jax.Array,
        valid: jax.Array,
        truth: Truth,
        key: jax.Array,
        sizes: jax.Array,
    ) -> dict[str, jax.Array]:
        """Those of the three stages, for proposals (n, r, 4), of which valid (n, r) are some."""
        maps, found = bordered(maps[: len(REGION_STRIDES)], sizes), dict[str, jax.Array]()
        for stage in range(STAGES):
            own_key = jax.random.fold_in(key, stage)
            chosen, rois = sample_regions(own_key, boxes, valid, truth, OVERLAPS[stage], self.region_counts)
            losses, logits, deltas = self.stage_losses(stage, maps, chosen, rois, truth, sizes)
            found |= losses
            if stage < STAGES - 1:
                boxes, valid = boxes_between(chosen, rois, logits, deltas, truth, STDS[stage], sizes)
        return found

    def stage_losses(
        self,
        stage: int,
        maps: Sequence[jax.Array],
        chosen: Sample,
        rois: jax.Array,
        truth: Truth,
        sizes: jax.Array,
    ) -> tuple[dict[str, jax.Array], jax.Array, jax.Array]:
        """(those of one stage; its logits (n, r, classes + 1); its deltas (n, r, classes, 4)) on regions (n, r, 4).

        maps: those of `bordered`.
        """
        weight = STAGE_WEIGHTS[stage]
        labels = jnp.where(chosen.positive, at_rows(truth.labels, chosen.truth), self.num_classes)
        logits, deltas = self.bbox_head[stage](self.features_of(maps, rois, BOX_BINS), True, chosen.valid)
        loss, accuracy = class_loss(logits, labels, chosen.valid)
        found = {f"s{stage}.loss_cls": weight * loss, f"s{stage}.acc": accuracy}
        found[f"s{stage}.loss_bbox"] = weight * box_loss(deltas, rois, chosen, truth, STDS[stage])
        if self.masks and truth.masks is not None:
            first = slice(self.region_counts[1])  # regions on objects come first
            own, own_rois = Sample(*(field[:, first] for field in chosen)), rois[:, first]
            cells = self.features_of(maps, own_rois, MASK_BINS)
            masks = self.mask_head[stage](cells, at_rows(truth.labels, own.truth))
            loss = mask_loss(masks, own_rois, own, truth.masks, frames(sizes))
            found[f"s{stage}.loss_mask"] = weight * loss
        return found, logits, deltas

    @property
    def in_chans(self) -> int:
        return self.backbone.in_chans


def bordered(maps: Sequence[jax.Array], sizes: jax.Array) -> list[jax.Array]:
    """Maps (n, h, w, c) with one more row and column behind each picture's frame, which repeat its last ones.

    A region that ends at the border of a picture reads half a position beyond it: there the original, whose map ends,
    repeats the border, and a canvas that goes on holds zeros.
    """
    found = []
    for x, (rows, columns) in zip(maps, (own.T for own in sizes_of_maps(frames(sizes), len(maps)) or []), strict=True):
        for axis, last in ((1, rows), (2, columns)):
            place = jnp.arange(x.shape[axis]).reshape([-1 if i == axis else 1 for i in range(4)])
            x = jnp.where(place == last.reshape(-1, 1, 1, 1), jnp.roll(x, 1, axis), x)
        found.append(x)
    return found
