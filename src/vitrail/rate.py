"""Rate control: one set of weights for all qualities.

Quality runs from 1 to 100 and stands for a Lagrangian multiplier, log-spaced between the config's two `lambdas`; the
loss is bits per pixel + lambda * 255^2 * MSE. Tables over the quality scale, interpolated between knots, scale the
latents (after the gain units of Cui et al., CVPR 2021) and hidden features, and hold the latents' usual scales.
"""

import operator

import torch
from torch import Tensor, nn

from vitrail.errors import UsageError

KNOTS = 8
QUALITIES = range(1, 101)


def check(quality: object) -> int:
    """Return the quality as an int. Raises `UsageError` if it is not a whole number of the scale."""
    try:
        whole = operator.index(quality)  # type: ignore[arg-type]
    except TypeError:
        whole = 0
    if whole not in QUALITIES:
        raise UsageError(f"quality is {quality!r}; give a whole number from 1 to 100")
    return whole


def position(quality: Tensor) -> Tensor:
    """Map qualities 1..100 to positions 0..1 on the scale."""
    return (quality - 1) / 99


class QualityTable(nn.Module):
    """One learned value a channel at each of `KNOTS` points of the quality scale, linear in between."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.zeros(KNOTS, channels))

    def forward(self, quality: Tensor) -> Tensor:
        """Map qualities (B,) in 1..100 to values (B, C, 1, 1)."""
        # Single elementwise steps: `lerp` may be fused, and then differs between machines.
        place = (quality.to(self.table.dtype) - 1) * ((KNOTS - 1) / 99)
        left = place.floor().clamp(0, KNOTS - 2)
        index = left.long()
        low, high = (self.table.index_select(0, each) for each in (index, index + 1))
        values = low + (high - low) * (place - left).unsqueeze(1)
        return values[:, :, None, None]
