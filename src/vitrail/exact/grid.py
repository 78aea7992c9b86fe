"""Grids: multiples of a power of two."""

import torch
from torch import Tensor, nn

from vitrail.errors import ModelError
from vitrail.straight import clamp_through, round_through

WEIGHT_LEVELS = 127
_SMALLEST = 2.0**-30
_BIAS = 127  # of a float32's exponent
_FORGET = 0.999
# Levels of a grid: so many, and steps beside, can be rounded by adding and taking off a number.
_MOST = 2**22 - 1


def power_of_two(x: Tensor) -> Tensor:
    """Return the smallest power of two that is at least x > 0."""
    mantissa, _ = torch.frexp(x)
    # x is mantissa * 2^n with a mantissa in [1/2, 1): the division is exact.
    return torch.where(mantissa == 0.5, x, x / mantissa)


def levels(terms: int, other: int) -> int:
    """Return the most levels, one less than a power of two, at which sums of products stay exact in float32.

    A sum has `terms` products, with integers of at most `other`. Raises `ModelError` if not even one level is.
    """
    most = (2**24 - 1) // (terms * other)
    if most < 1:
        raise ModelError(f"sums of {terms} products with integers up to {other} are not exact in float32")
    return int(2 ** ((most + 1).bit_length() - 1) - 1)


def row_steps(matrix: Tensor) -> Tensor:
    """Return the step (R, 1) of each row of a matrix: the smallest power of two that holds it in `WEIGHT_LEVELS`."""
    return power_of_two((matrix.abs().amax(1, keepdim=True) * (1.0 / WEIGHT_LEVELS)).clamp(min=_SMALLEST))


def pack(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Return the whole numbers (R, C) of a matrix on its rows' grids, and the steps' exponents (R,); both int8."""
    step = row_steps(matrix)
    exponents = step.view(torch.int32) // 2**23 - _BIAS
    return (matrix / step).to(torch.int8), exponents[:, 0].to(torch.int8)


def unpack(numbers: Tensor, exponents: Tensor) -> Tensor:
    """Invert `pack`. Raises `ValueError` for what it cannot have given."""
    if {numbers.dtype, exponents.dtype} != {torch.int8} or exponents.shape != numbers.shape[:1]:
        raise ValueError("numbers and exponents must be of 8 bits, and as many exponents as rows")
    bits = (exponents.to(torch.int32) + _BIAS) * 2**23
    return numbers.float() * bits.view(torch.float32)[:, None]


def rows(weight: Tensor) -> Tensor:
    """Round every row of a matrix to `WEIGHT_LEVELS` multiples, each way, of the smallest step that holds it."""
    step = row_steps(weight.detach())
    return clamp_through(round_through(weight / step), -WEIGHT_LEVELS, WEIGHT_LEVELS) * step


class Grid(nn.Module):
    """Round a tensor to at most `levels` multiples, each way, of a power of two; the rest is clamped.

    The power follows the running maximum of |x| in training and is fixed otherwise.
    """

    def __init__(self, levels: int) -> None:
        super().__init__()
        self.levels = min(levels, _MOST)
        self.register_buffer("largest", torch.zeros(()))
        self.largest: Tensor
        self._kept: tuple[object, float] = (None, 1.0)

    def forward(self, x: Tensor) -> Tensor:
        """Round x, any shape."""
        if torch.is_grad_enabled() or self.training:
            if self.training:
                with torch.no_grad():
                    self.largest.copy_(torch.maximum(x.abs().amax().float(), self.largest * _FORGET))
            step = self._step()
            return clamp_through(round_through(x / step), -self.levels, self.levels) * step
        # The same in fewer passes: floats as large as this are whole steps apart, so that adding it rounds, to even.
        fixed = self._fixed_step()
        end, large = self.levels * fixed, 1.5 * 2**23 * fixed
        return x.clamp(-end, end).add_(large).sub_(large)

    def _step(self) -> Tensor:
        return power_of_two((self.largest * (1.0 / self.levels)).clamp(min=_SMALLEST))

    def _fixed_step(self) -> float:
        state = (self.largest.data_ptr(), self.largest._version)
        if self._kept[0] != state:
            self._kept = (state, float(self._step()))
        return self._kept[1]
