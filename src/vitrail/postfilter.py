"""A picture's own filter behind the synthesis: what of its error 5 x 5 neighbours can mend.

One synthesis serves all pictures, and leaves what is particular to one: its sharpness, a shift between its colour
planes, its white. VVC's adaptive loop filter mends such things by coefficients in the file. Here the filter is a sum of
directions that travel with the weights, each times a whole number that the file holds: a few bytes. As in VVC it reads
neighbours' differences twice, as they are and clipped, so that it treats edges otherwise than what lies between them.
It works on decoded samples alone, so no table index follows from it.
"""

import math
from itertools import product

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from vitrail.coding import SymbolCoder
from vitrail.distributions import TOTAL, Integers, row_tables

_RADIUS = 2
# A sample of each plane and a constant; of each neighbour three differences, and these clipped.
READINGS = 4 + 6 * ((2 * _RADIUS + 1) ** 2 - 1)
# Where differences are clipped, in units of `_unit`.
_CLIP = 0.8
REACH = 64
# Pixels that a fit looks at, times a factor of 1/2 to 4; or all.
_LOOKED_AT = 1 << 15
# Pixels that are filtered at once: their readings stay in a processor's cache.
_STRIP = 1 << 13
# Directions have unit response, so a wrong number costs a Kodak picture about 6 bits: finer ones would not pay.
_STEP = 1 / 256
_PASSES = 4


class PostFilter(nn.Module):
    """Directions of filters, `taps` (K, 3, READINGS) from readings to planes: zero until fitted."""

    def __init__(self, directions: int) -> None:
        super().__init__()
        self.register_buffer("taps", torch.zeros(directions, 3, READINGS))
        self.register_buffer("table_rows", torch.full((directions, 2 * REACH + 2), TOTAL // (2 * REACH + 2)).int())
        self.taps: Tensor
        self.table_rows: Tensor

    def forward(self, x_hat: Tensor, numbers: Integers, multiplier: float) -> Tensor:
        """Filter x_hat (1, 3, H, W), about 0..1, by numbers (K,), at a Lagrangian multiplier (see `rate`)."""
        factors = torch.from_numpy(numbers.clip(-REACH, REACH)).to(x_hat.device) * _step(multiplier)
        padded = _padded(x_hat.float().clamp(0, 1))
        rows = -(-_STRIP // x_hat.shape[3])
        with torch.autocast(x_hat.device.type, enabled=False):
            weight = torch.tensordot(factors, self.taps, 1)
            tops = range(0, x_hat.shape[2], rows)
            strips = [_weighed(padded[:, :, top : top + rows + 2 * _RADIUS], weight, multiplier) for top in tops]
        return torch.cat(strips, 2)

    def loss(self, x: Tensor, x_hat: Tensor, multiplier: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return curve (K, K) and slope (K,): numbers n change the loss of x (1, 3, H, W) by n' curve n - 2 slope n.

        The loss is that of training, in bits of a whole picture. Of a large one a part of the pixels is looked at.
        """
        pixels = x.shape[2] * x.shape[3]
        # Odd, or it would see some places of the synthesis's blocks alone.
        stride = math.isqrt(pixels // _LOOKED_AT) | 1
        x_hat = x_hat.clamp(0, 1)
        responses = (self.taps.flatten(0, 1) @ readings(x_hat, multiplier, stride)).view(len(self.taps), -1)  # (K, 3 n)
        error = (x - x_hat)[0, :, ::stride, ::stride].flatten()
        scale = pixels * 255**2 * multiplier * _step(multiplier) / len(error)
        curve = (responses @ responses.T).cpu().double().numpy() * (scale * _step(multiplier))
        slope = (responses @ error).cpu().double().numpy() * scale
        return curve, slope

    def fit(self, curve: NDArray[np.float64], slope: NDArray[np.float64]) -> Integers:
        """Return the numbers (K,) of the least loss with their own bits, changed one by one until none gets better."""
        rows = self.table_rows.cpu().double().numpy()
        bits = -np.log2(rows[:, :-1] / rows.sum(1, keepdims=True))
        values = np.arange(-REACH, REACH + 1)
        solved = np.linalg.solve(curve + np.eye(len(curve)), slope)
        numbers = solved.round().clip(-REACH, REACH).astype(np.int32)
        for _ in range(_PASSES):
            before = numbers.copy()
            for index in range(len(numbers)):
                change = values - numbers[index]
                gradient = curve[index] @ numbers - slope[index]
                costs = curve[index, index] * change**2 + 2 * gradient * change + bits[index]
                numbers[index] = values[costs.argmin()]
            if (numbers == before).all():
                break
        return numbers

    def code(self, coder: SymbolCoder, numbers: Integers | None) -> Integers:
        """Code the numbers (K,); a decoder is given None for them."""
        tables = row_tables(self.table_rows, REACH)
        return coder.grouped(tables, np.arange(len(self.table_rows), dtype=np.int32), numbers)


def readings(x_hat: Tensor, multiplier: float, stride: int = 1) -> Tensor:
    """Return what filters read of every pixel of x_hat (1, 3, H, W), or of one in stride x stride: (READINGS, n).

    Samples less 0.5; ones; then for each neighbour its three differences from the pixel, and these clipped.
    """
    centre, differences = _differences(_padded(x_hat), stride)
    limit = _CLIP * _unit(multiplier)
    both = torch.stack([differences, differences.clamp(-limit, limit)], 1)
    return torch.cat([centre - 0.5, torch.ones_like(centre[:1]), both.flatten(0, 2)])


def _padded(x_hat: Tensor) -> Tensor:
    return functional.pad(x_hat, (_RADIUS,) * 4, mode="replicate")


def _differences(padded: Tensor, stride: int = 1) -> tuple[Tensor, Tensor]:
    """Return the pixels (3, n) that `padded` (1, 3, …) reaches _RADIUS beyond, and their neighbours' differences.

    These are (neighbours, 3, n).
    """
    height, width = (side - 2 * _RADIUS for side in padded.shape[2:])

    def moved(top: int, left: int) -> Tensor:
        return padded[0, :, top : top + height : stride, left : left + width : stride]

    centre = moved(_RADIUS, _RADIUS)
    places = [place for place in product(range(2 * _RADIUS + 1), repeat=2) if place != (_RADIUS, _RADIUS)]
    differences = torch.stack([moved(*place) for place in places]).sub_(centre)
    return centre.flatten(1), differences.flatten(2)


def _weighed(padded: Tensor, weight: Tensor, multiplier: float) -> Tensor:
    """Return the pixels (1, 3, H, W) that `padded` reaches _RADIUS beyond, and readings by weight (3, READINGS)."""
    (centre, differences), limit = _differences(padded), _CLIP * _unit(multiplier)
    differences = differences.flatten(0, 1)
    own, constant, rest = weight.split((3, 1, weight.shape[1] - 4), 1)
    plain, clipped = (each.flatten(1) for each in rest.unflatten(1, (-1, 2, 3)).unbind(2))
    total = (centre + constant).addmm_(own, centre - 0.5).addmm_(plain, differences)
    total = total.addmm_(clipped, differences.clamp_(-limit, limit))
    return total.view(1, 3, -1, padded.shape[3] - 2 * _RADIUS)


def _unit(multiplier: float) -> float:
    """Return the error of a sample that costs, squared, as much as one bit."""
    return 1 / (255 * multiplier**0.5)


def _step(multiplier: float) -> float:
    return _STEP * _unit(multiplier)
