"""Two hyperpriors side by side: channel-aware and spatial-aware (MCDH, arXiv 2309.10799).

The paper's figures are not public; this is an interpretation. Each half has its own analysis, z and synthesis, at
half the features; attention stands between its two strides, and mirrored between its two up-samplings:

    channel-aware    a gate for each channel from the means over all positions
    spatial-aware    attention among the positions of 4 x 4 windows

Both have exact forms: a mean is a sum on a grid, the gate's sigmoid is a clamp.
"""

import math
from typing import cast

import torch
from torch import Tensor, nn

from vitrail import config
from vitrail.errors import ModelError
from vitrail.exact import LARGEST_WEIGHT, levels
from vitrail.hyperpriors.base import Hyperprior
from vitrail.layers import FLOAT, Kit
from vitrail.windows import Windows, relations, relative_bias

HALVES = ("channel", "spatial")
_WINDOW = 4
_HEAD = 32
# Positions at 1/32 of the largest picture, with room for padding.
_POSITIONS = 2**17


class ChannelAttention(nn.Module):
    """x * gate, one gate a channel, from the channels' means (squeeze and excitation, CVPR 2018)."""

    def __init__(self, width: int, kit: Kit) -> None:
        super().__init__()
        self.grid = kit.grid(levels(_POSITIONS, 1))
        self.squeeze = kit.linear([width], width // 2)
        self.excite = kit.linear([width // 2], width)

    def forward(self, x: Tensor) -> Tensor:
        """Map x (B, C, H, W) to the same shape."""
        if x.shape[2] * x.shape[3] > _POSITIONS:
            raise ModelError("the picture is too large for a channel-aware hyperprior; cut it into parts")
        means = self.grid(x).sum((2, 3)) * (1.0 / (x.shape[2] * x.shape[3]))
        gate = self.excite(torch.relu(self.squeeze(means))) * 0.25 + 1
        return x * gate.clamp(0, 2)[:, :, None, None]


class SpatialAttention(nn.Module):
    """x + attention among the positions of each 4 x 4 window, with a learned relative bias."""

    def __init__(self, width: int, kit: Kit) -> None:
        super().__init__()
        if width % _HEAD:
            raise ModelError(f"a spatial-aware hyperprior's width must be a multiple of {_HEAD}")
        self.heads = width // _HEAD
        self.weigh = kit.weigh
        self.scale = 1 / math.sqrt(_HEAD)
        self.norm = kit.norm(width)
        self.qkv = kit.linear([width], 3 * width)
        self.project = kit.linear([width], width)
        self.bias = nn.Parameter(torch.zeros((2 * _WINDOW - 1) ** 2, self.heads))
        self.register_buffer("relation", relations(_WINDOW), persistent=False)
        self.relation: Tensor
        query_levels = math.isqrt(levels(_HEAD, 1))
        value_levels = levels(_WINDOW**2, LARGEST_WEIGHT)
        self.grids = nn.ModuleList(kit.grid(count) for count in (query_levels, query_levels, value_levels))

    def forward(self, x: Tensor) -> Tensor:
        """Map x (B, C, H, W) to the same shape."""
        windows = Windows(x.shape[2], x.shape[3], _WINDOW, False, x.device)
        tokens = windows.cut(self.norm(x.permute(0, 2, 3, 1)))
        parts = self.qkv(tokens).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        q, k, v = (grid(part) for grid, part in zip(self.grids, parts, strict=True))
        scores = (q @ k.transpose(-1, -2)) * self.scale + relative_bias(self.bias, self.relation)
        if windows.mask is not None:
            scores = (scores.unflatten(0, (-1, len(windows.mask))) + windows.mask).flatten(0, 1)
        weights = self.weigh(scores)
        attended = (weights.to(v.dtype) @ v) / weights.sum(-1, keepdim=True)
        joined = windows.join(self.project(attended.transpose(1, 2).flatten(2)))
        return x + joined.permute(0, 3, 1, 2)


class _Half(nn.Module):
    def __init__(self, kind: str, latents: int, width: int, features: int, kit: Kit) -> None:
        super().__init__()
        if kind not in HALVES:
            raise ModelError(f"no half of a hyperprior is called {kind!r}; there are {', '.join(HALVES)}")
        attention = ChannelAttention if kind == "channel" else SpatialAttention
        self.encoder = nn.Sequential(
            nn.Conv2d(latents, width, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(width, width, 5, 2, 2),
            attention(width, FLOAT),
            nn.ReLU(),
            nn.Conv2d(width, width, 5, 2, 2),
        )
        self.decoder = nn.Sequential(
            kit.up(width, width),
            attention(width, kit),
            nn.ReLU(),
            kit.up(width, width),
            nn.ReLU(),
            kit.conv(width, features, 3),
        )


class DualHyperprior(Hyperprior):
    """See the module's text; z and the features are the halves' one after another, in the config's order."""

    def __init__(self, part: config.DualHyperprior, latents: int, kit: Kit) -> None:
        super().__init__()
        count = len(part.halves)
        if not count or part.features % count:
            raise ModelError("a dual hyperprior needs at least one half, and features that the halves can share")
        self.channels, self.features = part.width * count, part.features
        share = part.features // count
        self.halves = nn.ModuleList(_Half(kind, latents, part.width, share, kit) for kind in part.halves)
        with torch.no_grad():
            for index, half in enumerate(self.halves):
                for parameter in cast(_Half, half).decoder[-1].parameters():
                    parameter[: max(0, latents - index * share)] = 0  # the mean of y

    def analysis(self, y: Tensor) -> Tensor:
        """See `Hyperprior`."""
        return torch.cat([cast(_Half, half).encoder(y) for half in self.halves], 1)

    def synthesis(self, z_hat: Tensor) -> Tensor:
        """See `Hyperprior`."""
        parts = z_hat.chunk(len(self.halves), 1)
        return torch.cat([cast(_Half, half).decoder(z) for half, z in zip(self.halves, parts, strict=True)], 1)
