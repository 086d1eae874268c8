"""Cascade Mask R-CNN on UniRepLKNet in PyTorch, for the benchmarks to compare with: inference, random weights.

Written from the descriptions in Cai and Vasconcelos, "Cascade R-CNN", and He et al., "Mask R-CNN", for this purpose.
What PyTorch has no operator for, RoIAlign and suppression, is the plainest code that gives the same numbers.
"""

import math

import torch
from torch import nn
from torch.nn import functional

from unireplknet_jax.benchmark.torch_network import ChannelNorm, batch_norm, stages
from unireplknet_jax.nn.cascade import OVERLAP, REGION_STRIDES, STAGES, STRIDES
from unireplknet_jax.nn.proposals import OVERLAP as RPN_OVERLAP
from unireplknet_jax.nn.proposals import RATIOS
from unireplknet_jax.nn.region_heads import BOX_BINS, CONVS, MASK_BINS, STDS

_LONGEST = math.log(1000 / 16)


class CascadeRCNN(nn.Module):
    """The network of `nn.cascade.CascadeRCNN`, whose fields `model` has; maps are (n, c, h, w).

    sure: how much larger than at the start of a training the weights of class scores are.
    """

    def __init__(self, model, sure=1.0):
        super().__init__()
        trunk, c, classes = model.backbone, model.channels, model.num_classes
        self.fields = model
        fields = trunk.depths, trunk.dims, trunk.kernel_sizes, trunk.in_chans, trunk.deploy
        self.stages = nn.ModuleList(stages(*fields))
        self.norms = nn.ModuleList(map(ChannelNorm, trunk.dims))
        self.laterals = nn.ModuleList(nn.Conv2d(dim, c, 1) for dim in trunk.dims)
        self.outputs = nn.ModuleList(nn.Conv2d(c, c, 3, padding=1) for _ in trunk.dims)
        self.rpn = nn.Conv2d(c, c, 3, padding=1)
        self.rpn_score, self.rpn_move = nn.Conv2d(c, len(RATIOS), 1), nn.Conv2d(c, 4 * len(RATIOS), 1)
        self.box_heads = nn.ModuleList(
            _BoxHead(c, model.box_channels, model.box_features, classes) for _ in range(STAGES)
        )
        self.mask_heads = nn.ModuleList(
            _mask_head(c, model.mask_channels, classes) for _ in range(STAGES * model.masks)
        )
        self._initialize(sure)

    def _initialize(self, sure):
        """Draw the weights of the heads as ours are drawn, as what they find decides how much there is to do."""
        for layer in (*self.laterals, *self.outputs, *(head.dense for head in self.box_heads)):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)
        for head in self.box_heads:
            for layer in head.convs[::3]:
                nn.init.kaiming_normal_(layer.weight, mode="fan_out")
        scores = [(head.logits, 0.01 * sure) for head in self.box_heads]
        moves = [(head.deltas, 0.001) for head in self.box_heads]
        for layer, spread in (*((each, 0.01) for each in (self.rpn, self.rpn_score, self.rpn_move)), *scores, *moves):
            nn.init.normal_(layer.weight, std=spread)
            nn.init.zeros_(layer.bias)

    def forward(self, images, size=None):
        """images: (n, in_chans, h, w), sides multiples of 32 -> for each (boxes (k, 4), scores (k,), labels, masks).

        size: the rows and columns that boxes are clipped to; None: those of the images.
        """
        maps = self._pyramid(images)
        size = size or images.shape[2:]
        candidates = [self._scored(x, stride) for x, stride in zip(maps, STRIDES, strict=True)]
        return [
            self._found([x[i : i + 1] for x in maps[: len(REGION_STRIDES)]], self._proposals(candidates, i, size), size)
            for i in range(len(images))
        ]

    def _pyramid(self, x):
        laterals = []
        for stage, norm, lateral in zip(self.stages, self.norms, self.laterals, strict=True):
            x = stage(x)
            laterals.append(lateral(norm(x)))
        for i in range(len(laterals) - 1, 0, -1):
            laterals[i - 1] = laterals[i - 1] + functional.interpolate(laterals[i], scale_factor=2, mode="nearest")
        maps = [conv(x) for conv, x in zip(self.outputs, laterals, strict=True)]
        return [*maps, maps[-1][:, :, ::2, ::2]]

    def _scored(self, x, stride):
        """(logits (n, h w a), deltas (n, h w a, 4), anchors (h w a, 4)) of a map."""
        y = functional.relu(self.rpn(x))
        logits, deltas = (layer(y).permute(0, 2, 3, 1).flatten(1) for layer in (self.rpn_score, self.rpn_move))
        return logits, deltas.unflatten(1, (-1, 4)), _anchors(x.shape[2:], stride, self.fields.anchor_scale).to(x)

    def _proposals(self, candidates, i, size):
        """The boxes of picture i where objects may be, best first."""
        of_level, most = self.fields.test_proposals
        found = []
        for logits, deltas, anchors in candidates:
            scores, best = logits[i].sigmoid().topk(min(of_level, logits.shape[1]))
            boxes = _decoded(anchors[best], deltas[i, best], (1.0,) * 4, size)
            some = (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])
            boxes, scores = boxes[some], scores[some]
            kept = nms(boxes, scores, RPN_OVERLAP)
            found.append((boxes[kept], scores[kept]))
        boxes, scores = (torch.cat(parts) for parts in zip(*found, strict=True))
        return boxes[scores.argsort(descending=True, stable=True)[:most]]

    def _found(self, maps, boxes, size):
        logits, rows = 0, torch.arange(len(boxes), device=boxes.device)
        for stage, head in enumerate(self.box_heads):
            own, deltas = head(roi_align(maps, boxes, BOX_BINS, self.fields.finest))
            logits = logits + own
            if stage < STAGES - 1:
                boxes = _decoded(boxes, deltas[rows, own[:, :-1].argmax(1)], STDS[stage], size)
        boxes = _decoded(boxes[:, None], deltas, STDS[-1], size)
        scores = (logits / STAGES).softmax(1)[:, :-1]
        places, labels = (scores > self.fields.min_score).nonzero(as_tuple=True)
        boxes, scores = boxes[places, labels], scores[places, labels]
        shifted = boxes + (labels * (boxes.max() + 1) if len(boxes) else labels)[:, None]
        best = nms(shifted, scores, OVERLAP, self.fields.max_detections)
        boxes, scores, labels = boxes[best], scores[best], labels[best]
        return boxes, scores, labels, self._masks(maps, boxes, labels) if len(self.mask_heads) else None

    def _masks(self, maps, boxes, labels):
        regions = roi_align(maps, boxes, MASK_BINS, self.fields.finest)
        rows = torch.arange(len(boxes), device=boxes.device)
        return sum(head(regions)[rows, labels].sigmoid() for head in self.mask_heads) / STAGES


class _BoxHead(nn.Module):
    def __init__(self, width, channels, features, classes):
        super().__init__()
        layers = []
        for i in range(CONVS):
            conv = nn.Conv2d(channels if i else width, channels, 3, padding=1, bias=False)
            layers += [conv, batch_norm(channels), nn.ReLU()]
        self.convs = nn.Sequential(*layers)
        self.dense = nn.Linear(channels * BOX_BINS**2, features)
        self.logits, self.deltas = nn.Linear(features, classes + 1), nn.Linear(features, 4 * classes)

    def forward(self, x):
        """(r, c, 7, 7) -> logits (r, classes + 1), deltas (r, classes, 4)."""
        x = functional.relu(self.dense(self.convs(x).flatten(1)))
        return self.logits(x), self.deltas(x).unflatten(1, (-1, 4))


def _mask_head(width, channels, classes):
    """(r, c, 14, 14) -> logits (r, classes, 28, 28)."""
    layers = []
    for i in range(CONVS):
        layers += [nn.Conv2d(channels if i else width, channels, 3, padding=1), nn.ReLU()]
    layers += [nn.ConvTranspose2d(channels, channels, 2, stride=2), nn.ReLU(), nn.Conv2d(channels, classes, 1)]
    return nn.Sequential(*layers)


def _anchors(shape, stride, scale):
    ratios = torch.tensor(RATIOS).sqrt()
    half = stride * scale / 2 * torch.stack([-1 / ratios, -ratios, 1 / ratios, ratios], dim=1)
    y, x = torch.meshgrid(*(stride * torch.arange(length) for length in shape), indexing="ij")
    return (torch.stack([x, y, x, y], dim=-1)[:, :, None] + half).reshape(-1, 4)


def _decoded(boxes, deltas, stds, size):
    """Boxes (..., 4) moved by deltas (..., 4), clipped to a picture of `size` rows and columns."""
    deltas = deltas * deltas.new_tensor([float(value) for value in stds])
    low, high = boxes[..., :2], boxes[..., 2:]
    centre = (low + high) / 2 + (high - low) * deltas[..., :2]
    half = (high - low) * deltas[..., 2:].clamp(-_LONGEST, _LONGEST).exp() / 2
    rows, columns = size
    most = boxes.new_tensor([columns, rows] * 2)
    return torch.minimum(torch.cat([centre - half, centre + half], dim=-1).clamp(min=0), most)


def roi_align(maps, boxes, bins, finest=56):
    """Boxes (r, 4) in pixels, each on its own of the maps (1, c, h, w) of REGION_STRIDES -> (r, c, bins, bins)."""
    sides = (boxes[:, 2:] - boxes[:, :2]).clamp(min=0)
    levels = (sides.prod(1).sqrt() / finest + 1e-6).log2().floor().clamp(0, len(maps) - 1).long()
    found = []
    for box, level in zip(boxes, levels.tolist(), strict=True):
        x = maps[level]
        axes = [_samples(box[i::2] / REGION_STRIDES[level], x.shape[3 - i], bins) for i in (1, 0)]
        (down, rows), (across, columns) = axes
        grid = torch.stack(torch.broadcast_tensors(across[None], down[:, None]), dim=-1)[None]
        samples = functional.grid_sample(x, grid, padding_mode="border", align_corners=False)
        found.append(functional.avg_pool2d(samples, (rows, columns)))
    return torch.cat(found) if found else maps[0].new_zeros((0, maps[0].shape[1], bins, bins))


def _samples(ends, length, bins):
    """(where samples are along an axis, from -1 to 1, and how many a bin has) of a region from ends (2,) in cells."""
    low, high = ends.tolist()
    step = (high - low) / bins
    count = max(math.ceil(step), 1)
    places = low - 0.5 + (torch.arange(bins)[:, None] + (torch.arange(count) + 0.5) / count) * step
    return (2 * places.reshape(-1) + 1).to(ends) / length - 1, count


def nms(boxes, scores, threshold, most=None):
    """The places of the boxes (n, 4) that stay, best first, the first `most` of them."""
    left = scores.argsort(descending=True, stable=True)
    areas, kept = (boxes[:, 2:] - boxes[:, :2]).prod(1), []
    while len(left) and len(kept) != most:
        best, left = left[0], left[1:]
        kept.append(best)
        low = torch.maximum(boxes[best, :2], boxes[left, :2])
        shared = (torch.minimum(boxes[best, 2:], boxes[left, 2:]) - low).clamp(min=0).prod(1)
        left = left[shared <= threshold * (areas[best] + areas[left] - shared)]
    return torch.stack(kept) if kept else scores.new_zeros(0, dtype=torch.long)
