"""UniRepLKNet in PyTorch, for the benchmarks to compare with: the same operations in the same order, random weights.

Written from the description in the paper (section 3.1) for this purpose; it neither loads nor writes checkpoints.
"""

import torch
from torch import nn
from torch.nn import functional

from unireplknet_jax.nn.block import BRANCHES
from unireplknet_jax.ops.layers import BATCH_NORM_EPS, LAYER_NORM_EPS
from unireplknet_jax.ops.response_norm import GRN_EPS


def in_precision(device, dtype):
    """The context in which PyTorch computes in "float32", or in "bfloat16" by its automatic mixed precision."""
    return torch.autocast(device, getattr(torch, dtype), enabled=dtype != "float32")


class Network(nn.Module):
    """The classifier that `models.unireplknet.UniRepLKNet` builds from the same fields; maps are (n, c, h, w)."""

    def __init__(self, depths, dims, kernel_sizes, num_classes=1000, in_chans=3, deploy=False):
        super().__init__()
        self.body = nn.Sequential(*stages(depths, dims, kernel_sizes, in_chans, deploy))
        self.norm = nn.LayerNorm(dims[-1], eps=LAYER_NORM_EPS)
        self.head = nn.Linear(dims[-1], num_classes)

    def forward(self, images):
        """images: (n, in_chans, h, w) -> logits (n, num_classes)."""
        return self.head(self.norm(self.body(images).mean((2, 3))))

    def loss(self, images, labels):
        """The cross-entropy of labels (n,)."""
        return functional.cross_entropy(self(images), labels)


def stages(depths, dims, kernel_sizes, in_chans, deploy):
    """The four stages, each a downsampler and its blocks."""
    found, width = [], in_chans
    for stage, (depth, dim) in enumerate(zip(depths, dims, strict=True)):
        if stage == 0:
            layers = [_strided(width, dim // 2), ChannelNorm(dim // 2), nn.GELU(), _strided(dim // 2, dim)]
        else:
            layers = [_strided(width, dim)]
        layers.append(ChannelNorm(dim))
        layers += [Block(dim, kernel_sizes[stage][block], deploy) for block in range(depth)]
        found.append(nn.Sequential(*layers))
        width = dim
    return found


class Block(nn.Module):
    """Depthwise convolution, batch norm, squeeze-and-excitation, inverted bottleneck with GRN; residual."""

    def __init__(self, dim, kernel_size, deploy):
        super().__init__()
        spatial = [DepthwiseBranches(dim, kernel_size, deploy)]
        if not deploy:
            spatial.append(batch_norm(dim))
        self.spatial = nn.Sequential(*spatial)
        self.down, self.up = nn.Conv2d(dim, dim // 4, 1), nn.Conv2d(dim // 4, dim, 1)
        self.pwconv1 = nn.Linear(dim, 4 * dim)
        self.gamma = nn.Parameter(torch.zeros(4 * dim))
        self.beta = None if deploy else nn.Parameter(torch.zeros(4 * dim))
        self.pwconv2 = nn.Linear(4 * dim, dim, bias=deploy)
        self.out_norm = nn.Identity() if deploy else batch_norm(dim)
        self.scale = None if deploy else nn.Parameter(1e-6 * torch.ones(dim, 1, 1))

    def forward(self, x):
        y = self.spatial(x)
        gate = self.up(functional.relu(self.down(y.mean((2, 3), keepdim=True))))
        y = (y * torch.sigmoid(gate)).permute(0, 2, 3, 1)
        y = functional.gelu(self.pwconv1(y))
        norm = torch.linalg.vector_norm(y, dim=(1, 2), keepdim=True)
        y = y * (self.gamma * norm / (norm.mean(-1, keepdim=True) + GRN_EPS) + 1)
        if self.beta is not None:
            y = y + self.beta
        y = self.out_norm(self.pwconv2(y).permute(0, 3, 1, 2))
        return x + (y if self.scale is None else self.scale * y)


class DepthwiseBranches(nn.Module):
    """A large depthwise kernel and its dilated branches, each with a batch norm; one convolution when merged."""

    def __init__(self, dim, kernel_size, deploy):
        super().__init__()
        branches = () if deploy else BRANCHES.get(kernel_size, ())
        self.convs = nn.ModuleList(
            nn.Conv2d(dim, dim, k, padding=k // 2 * r, dilation=r, groups=dim, bias=deploy)
            for k, r in ((kernel_size, 1), *branches)
        )
        self.norms = nn.ModuleList(batch_norm(dim) if branches else nn.Identity() for _ in self.convs)

    def forward(self, x):
        return sum(norm(conv(x)) for conv, norm in zip(self.convs, self.norms, strict=True))


class ChannelNorm(nn.LayerNorm):
    """LayerNorm over the channels of (n, c, h, w)."""

    def __init__(self, dim):
        super().__init__(dim, eps=LAYER_NORM_EPS)

    def forward(self, x):
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


def _strided(width, dim):
    return nn.Conv2d(width, dim, 3, stride=2, padding=1)


def batch_norm(dim):
    """Batch norm of (n, c, h, w)."""
    return nn.BatchNorm2d(dim, eps=BATCH_NORM_EPS)
