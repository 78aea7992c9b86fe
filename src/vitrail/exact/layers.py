"""Layers on grids; the package's text says why they are exact."""

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from vitrail.exact.grid import WEIGHT_LEVELS, Grid, levels, rows

# Of an attention weight.
LARGEST_WEIGHT = 255


class OnGrids(nn.Module):
    """A layer whose weight is used as a matrix (outputs, inputs), each row of it on a grid."""

    weight: Tensor
    _state: tuple[object, ...] | None = None
    _kept: Tensor

    def as_matrix(self, weight: Tensor) -> Tensor:
        """Return the weight as the matrix."""
        raise NotImplementedError

    def from_matrix(self, matrix: Tensor) -> Tensor:
        """Invert `as_matrix`."""
        raise NotImplementedError

    def matrix(self) -> Tensor:
        """Return the matrix on its grids; outside training it is computed once for as long as the weight stays."""
        weight = self.weight
        if self.training:
            return rows(self.as_matrix(weight))
        state = (weight.data_ptr(), weight._version, weight.device, weight.dtype)
        if state != self._state:
            self._kept = rows(self.as_matrix(weight.detach())).contiguous()
            self._state = state
        return self._kept


class Linear(OnGrids, nn.Linear):
    """A linear layer on one or more inputs, whose products are added; each input has a grid of its own."""

    def __init__(self, inputs: Sequence[int], outputs: int) -> None:
        super().__init__(sum(inputs), outputs)
        self.inputs = list(inputs)
        self.grids = nn.ModuleList(Grid(levels(count, WEIGHT_LEVELS)) for count in inputs)

    def as_matrix(self, weight: Tensor) -> Tensor:
        """See `OnGrids`."""
        return weight

    def from_matrix(self, matrix: Tensor) -> Tensor:
        """See `OnGrids`."""
        return matrix

    def forward(self, *inputs: Tensor) -> Tensor:
        """Map inputs (…, inputs[i]) to (…, outputs)."""
        weights = self.matrix().split(self.inputs, 1)
        total, *others = (
            functional.linear(grid(x), weight) for x, grid, weight in zip(inputs, self.grids, weights, strict=True)
        )
        for other in (*others, self.bias):
            total += other
        return total


class Conv2d(OnGrids, nn.Conv2d):
    """A convolution of stride 1 that keeps the size: a product for each place of the kernel, added up in order."""

    def __init__(self, inputs: int, outputs: int, kernel: int) -> None:
        super().__init__(inputs, outputs, kernel, padding=kernel // 2)
        self.grid = Grid(levels(inputs, WEIGHT_LEVELS))

    def as_matrix(self, weight: Tensor) -> Tensor:
        """See `OnGrids`."""
        return weight.permute(0, 2, 3, 1).flatten(1)

    def from_matrix(self, matrix: Tensor) -> Tensor:
        """See `OnGrids`."""
        return matrix.unflatten(1, (*self.kernel_size, -1)).permute(0, 3, 1, 2)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, I, H, W) to (B, O, H, W)."""
        (height, width), (k, _) = x.shape[2:], self.kernel_size
        x = functional.pad(self.grid(x), (k // 2,) * 4).permute(0, 2, 3, 1)
        # Copied, so that rows of a single picture lie one after another: one product, and not one for each row.
        shifted = [x[:, :, column : column + width].contiguous() for column in range(k)]
        assert self.bias is not None
        products = (
            functional.linear(shifted[place % k][:, place // k : place // k + height].flatten(0, 2), weight)
            for place, weight in enumerate(self.matrix().unflatten(1, (k * k, -1)).unbind(1))
        )
        result = next(products) + self.bias
        for product in products:
            result += product
        return result.unflatten(0, (-1, height, width)).permute(0, 3, 1, 2)


class Up2x2(OnGrids, nn.ConvTranspose2d):
    """A transposed 2x2 convolution of stride 2."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, 2, 2)
        self.grid = Grid(levels(inputs, WEIGHT_LEVELS))

    def as_matrix(self, weight: Tensor) -> Tensor:
        """See `OnGrids`."""
        return weight.permute(1, 2, 3, 0).flatten(0, 2)

    def from_matrix(self, matrix: Tensor) -> Tensor:
        """See `OnGrids`."""
        return matrix.unflatten(0, (-1, 2, 2)).permute(3, 0, 1, 2)

    def forward(self, x: Tensor, output_size: list[int] | None = None) -> Tensor:
        """Map (B, I, H, W) to (B, O, 2 H, 2 W)."""
        product = functional.linear(self.grid(x).permute(0, 2, 3, 1), self.matrix())
        product = product.unflatten(-1, (-1, 2, 2)).permute(0, 3, 1, 4, 2, 5).flatten(4, 5).flatten(2, 3)
        assert self.bias is not None
        return product + self.bias[:, None, None]


class L1Norm(nn.Module):
    """Divide the last dimension by its mean magnitude, then scale."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.grid = Grid(levels(channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Normalise x (…, C)."""
        total = self.grid(x).abs().sum(-1, keepdim=True)
        return x / (total * (1.0 / x.shape[-1]) + 1e-3) * self.weight


class _Weigh(torch.autograd.Function):
    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, scores: Tensor) -> Tensor:
        sixteenths = scores.mul(16).round_()
        # As a float's bits, n + f octaves above the bias of 127 read 2^n (1 + f): straight between powers of two.
        lowered = sixteenths.sub_(sixteenths.amax(-1, keepdim=True) - 127 * 16)
        bits = lowered.clamp_(min=(127 - 64) * 16).mul_(2**23 / 16)
        weights = bits.to(torch.int32).view(torch.float32).mul_(LARGEST_WEIGHT).floor_()
        ctx.save_for_backward(weights)
        return weights

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, *gradients: Tensor) -> Tensor:
        (weights,) = ctx.saved_tensors  # type: ignore[attr-defined]
        return gradients[0] * weights * 0.6931


def weigh(scores: Tensor) -> Tensor:
    """Return soft-max weights of scores in octaves (…, keys), not yet divided by their sum: 0..LARGEST_WEIGHT."""
    return _Weigh.apply(scores)


def mix(weights: Tensor, values: Tensor) -> Tensor:
    """Return weights @ values, summed in float64: exact below 2^53, where float32 would allow too few levels."""
    return (weights.double() @ values.double()).to(values.dtype)


_LOCK = threading.RLock()


@contextmanager
def guard() -> Iterator[None]:
    """Switch off what would make products inexact: autocast, and float32 products in fewer bits.

    These are settings of the process, so that one thread at a time can be inside.
    """
    backends: tuple[Any, ...] = (torch.backends.mkldnn.matmul, torch.backends.cuda.matmul)  # type: ignore[attr-defined]
    with _LOCK, torch.autocast("cpu", enabled=False), torch.autocast("cuda", enabled=False):
        precisions = [backend.fp32_precision for backend in backends]
        try:
            for backend in backends:
                backend.fp32_precision = "ieee"
            yield
        finally:
            for backend, precision in zip(backends, precisions, strict=True):
                backend.fp32_precision = precision
