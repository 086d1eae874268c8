"""UPerNet on UniRepLKNet in PyTorch, for the benchmarks to compare with: the original's operations, random weights.

Written from the description in Xiao et al., "Unified Perceptual Parsing for Scene Understanding", for this purpose.
"""

import torch
from torch import nn
from torch.nn import functional

from unireplknet_jax.benchmark.torch_network import ChannelNorm, batch_norm, stages
from unireplknet_jax.nn.upernet import AUXILIARY_WEIGHT, POOL_SCALES


class UPerNet(nn.Module):
    """The network that `nn.upernet.UPerNet` builds around a trunk of the same fields; maps are (n, c, h, w)."""

    def __init__(
        self,
        depths,
        dims,
        kernel_sizes,
        num_classes=150,
        in_chans=3,
        deploy=False,
        channels=512,
        auxiliary_channels=256,
        dropout=0.1,
    ):
        super().__init__()
        *finer, last = dims
        self.stages = nn.ModuleList(stages(depths, dims, kernel_sizes, in_chans, deploy))
        self.norms = nn.ModuleList(map(ChannelNorm, dims))
        self.pooled = nn.ModuleList(
            nn.Sequential(nn.AdaptiveAvgPool2d(bins), _conv_norm_relu(last, channels, 1)) for bins in POOL_SCALES
        )
        self.bottleneck = _conv_norm_relu(last + len(POOL_SCALES) * channels, channels, 3)
        self.laterals = nn.ModuleList(_conv_norm_relu(dim, channels, 1) for dim in finer)
        self.outputs = nn.ModuleList(_conv_norm_relu(channels, channels, 3) for _ in finer)
        self.fusion = _conv_norm_relu(len(dims) * channels, channels, 3)
        self.classifier = _classifier(channels, num_classes, dropout)
        self.auxiliary = nn.Sequential(
            _conv_norm_relu(dims[2], auxiliary_channels, 3), _classifier(auxiliary_channels, num_classes, dropout)
        )

    def forward(self, images):
        """images: (n, in_chans, h, w) -> logits (n, num_classes, h/4, w/4)."""
        return self._decoded(self._maps(images))

    def with_auxiliary(self, images):
        """The logits, and those of the auxiliary head, (n, num_classes, h/16, w/16)."""
        maps = self._maps(images)
        return self._decoded(maps), self.auxiliary(maps[2])

    def loss(self, images, label_map):
        """The cross-entropies of both heads, of every pixel of label_map (n, h, w)."""
        logits, auxiliary = (_resized(each, images) for each in self.with_auxiliary(images))
        of = functional.cross_entropy
        return of(logits, label_map) + AUXILIARY_WEIGHT * of(auxiliary, label_map)

    def _maps(self, x):
        maps = []
        for stage, norm in zip(self.stages, self.norms, strict=True):
            x = stage(x)
            maps.append(norm(x))
        return maps

    def _decoded(self, maps):
        *finer, last = maps
        pooled = [_resized(pool(last), last) for pool in self.pooled]
        maps = [lateral(x) for lateral, x in zip(self.laterals, finer, strict=True)]
        maps.append(self.bottleneck(torch.cat([last, *pooled], dim=1)))
        for i in range(len(maps) - 1, 0, -1):
            maps[i - 1] = maps[i - 1] + _resized(maps[i], maps[i - 1])
        outputs = [conv(x) for conv, x in zip(self.outputs, maps[:-1], strict=True)] + maps[-1:]
        return self.classifier(self.fusion(torch.cat([_resized(x, outputs[0]) for x in outputs], dim=1)))


def _resized(x, other):
    """A map at the size of another; as it is, where it has that size."""
    if x.shape[2:] == other.shape[2:]:
        return x
    return functional.interpolate(x, size=other.shape[2:], mode="bilinear", align_corners=False)


def _conv_norm_relu(width, features, kernel_size):
    conv = nn.Conv2d(width, features, kernel_size, padding=kernel_size // 2, bias=False)
    return nn.Sequential(conv, batch_norm(features), nn.ReLU(inplace=True))


def _classifier(width, num_classes, dropout):
    return nn.Sequential(nn.Dropout2d(dropout), nn.Conv2d(width, num_classes, 1))
