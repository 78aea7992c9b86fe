"""Straight-through functions: steps forward, slopes backward."""

import torch
from torch import Tensor


class _Round(torch.autograd.Function):
    @staticmethod
    def forward(ctx: object, x: Tensor) -> Tensor:
        return x.round()

    @staticmethod
    def backward(ctx: object, *gradients: Tensor) -> Tensor:
        return gradients[0]


class _Clamp(torch.autograd.Function):
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
    return _Round.apply(x)


def clamp_through(x: Tensor, low: float, high: float) -> Tensor:
    """Clamp to [low, high]; outside, the gradient passes where it leads back inside."""
    return _Clamp.apply(x, low, high)
