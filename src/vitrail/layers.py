"""Layers that several parts share."""

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn

from vitrail import exact

# What a negative value keeps. By a power of two no float loses a bit, so that exact layers stay exact.
_LEAK = 0.0625


def leaky() -> nn.Module:
    """Return a ReLU that keeps a sixteenth of negative values: with none, whole layers died (docs/training.md).

    It overwrites what it is given.
    """
    return nn.LeakyReLU(_LEAK, inplace=True)


ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {"relu": nn.ReLU, "leaky": leaky, "gelu": nn.GELU}


def add(x: Tensor, y: Tensor) -> Tensor:
    """Return x + y, in the place of x where no gradient is asked for: features of a large picture fill the memory."""
    return x + y if torch.is_grad_enabled() else x.add_(y)


class L1Norm(nn.Module):
    """Divide the last dimension by its mean magnitude, then scale: a layer norm with an exact integer form."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        """Normalise x (..., C)."""
        return x / (x.abs().mean(-1, keepdim=True) + 1e-3) * self.weight


class Linear(nn.Linear):
    """A linear layer on one or more inputs, concatenated."""

    def __init__(self, inputs: Sequence[int], outputs: int) -> None:
        super().__init__(sum(inputs), outputs)

    def forward(self, *inputs: Tensor) -> Tensor:
        """Map inputs (…, inputs[i]) to (…, outputs)."""
        return super().forward(torch.cat(inputs, -1))


def _conv(inputs: int, outputs: int, kernel: int) -> nn.Module:
    return nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2)


def _up(inputs: int, outputs: int) -> nn.Module:
    return nn.ConvTranspose2d(inputs, outputs, 2, 2)


def _weigh(scores: Tensor) -> Tensor:
    return torch.softmax(scores * math.log(2), -1)


class Kit(NamedTuple):
    """The layers of an entropy path: in floating point, or exact (`vitrail.exact`); their parameters are the same.

    `linear(inputs, outputs)`, `conv(inputs, outputs, kernel)`, `up(inputs, outputs)`, `norm(channels)`;
    `weigh(scores)` is a soft-max to base 2, up to a factor of each row; `grid(levels)` rounds what enters a product;
    `mix(weights, values)` is a product whose sums may be long.
    """

    linear: Callable[[Sequence[int], int], nn.Module]
    conv: Callable[[int, int, int], nn.Module]
    up: Callable[[int, int], nn.Module]
    norm: Callable[[int], nn.Module]
    weigh: Callable[[Tensor], Tensor]
    grid: Callable[[int], nn.Module]
    mix: Callable[[Tensor, Tensor], Tensor]


FLOAT = Kit(Linear, _conv, _up, L1Norm, _weigh, lambda levels: nn.Identity(), torch.matmul)
EXACT = Kit(exact.Linear, exact.Conv2d, exact.Up2x2, exact.L1Norm, exact.weigh, exact.Grid, exact.mix)


class ResidualBlock(nn.Module):
    """x + conv3(leaky(conv3(x))), channels unchanged; it overwrites x where no gradient is asked for."""

    def __init__(self, channels: int, kit: Kit = FLOAT) -> None:
        super().__init__()
        self.conv1 = kit.conv(channels, channels, 3)
        self.activation = leaky()
        self.conv2 = kit.conv(channels, channels, 3)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, C, H, W)."""
        y: Tensor = self.conv2(self.activation(self.conv1(x)))
        return add(x, y)


def mlp(inputs: Sequence[int], widths: Sequence[int], activation: str, kit: Kit) -> nn.Sequential:
    """Return linear layers with the activation between; the first takes several inputs, `widths` are the outputs."""
    layers: list[nn.Module] = [kit.linear(inputs, widths[0])]
    for before, after in pairwise(widths):
        layers += [ACTIVATIONS[activation](), kit.linear([before], after)]
    return nn.Sequential(*layers)
