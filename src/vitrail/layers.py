"""Layers that several parts share."""

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {"relu": nn.ReLU, "gelu": nn.GELU}


class L1Norm(nn.Module):
    """Divide the last dimension by its mean magnitude, then scale: a layer norm with an exact integer form."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        """Normalise x (..., C)."""
        return x / (x.abs().mean(-1, keepdim=True) + 1e-3) * self.weight


NORMS: dict[str, Callable[[int], nn.Module]] = {"layer": nn.LayerNorm, "l1": L1Norm}


class ResidualBlock(nn.Module):
    """x + conv3(relu(conv3(x))), channels unchanged."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, C, H, W)."""
        y: Tensor = self.conv2(torch.relu(self.conv1(x)))
        return x + y


def mlp(widths: Sequence[int], activation: str) -> nn.Sequential:
    """Return linear layers of the given widths, input and output included, with the activation between."""
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(widths):
        layers += [ACTIVATIONS[activation](), nn.Linear(inputs, outputs)]
    return nn.Sequential(*layers[1:])


class _RoundThrough(torch.autograd.Function):
    @staticmethod
    def forward(ctx: object, x: Tensor) -> Tensor:
        return x.round()

    @staticmethod
    def backward(ctx: object, *gradients: Tensor) -> Tensor:
        return gradients[0]


class _ClampThrough(torch.autograd.Function):
    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, x: Tensor, low: float, high: float) -> Tensor:
        ctx.save_for_backward(x)
        ctx.low, ctx.high = low, high  # type: ignore[attr-defined]
        return x.clamp(low, high)

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (x,) = ctx.saved_tensors  # type: ignore[attr-defined]
        (gradient,) = gradients
        # A step goes against the gradient: only steps that lead further out are stopped.
        outward = ((x < ctx.low) & (gradient > 0)) | ((x > ctx.high) & (gradient < 0))  # type: ignore[attr-defined]
        return gradient.masked_fill(outward, 0), None, None


def round_through(x: Tensor) -> Tensor:
    """Round; the gradient passes unchanged."""
    return _RoundThrough.apply(x)


def clamp_through(x: Tensor, low: float, high: float) -> Tensor:
    """Clamp to [low, high]; outside, the gradient passes where it leads back inside."""
    return _ClampThrough.apply(x, low, high)
