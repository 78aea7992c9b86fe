"""Square windows over a feature map, for attention."""

import torch
from torch import Tensor
from torch.nn import functional

# Far below any score, yet finite: a row without a single allowed key must not become NaN.
MASKED = -(2.0**16)


def relations(window: int) -> Tensor:
    """Return for each pair of a window's positions (w * w, w * w) the index of their offset, below (2 w - 1)^2."""
    place = torch.arange(window**2, device="cpu")
    row, column = place // window, place % window
    return (row[:, None] - row + window - 1) * (2 * window - 1) + column[:, None] - column + window - 1


def relative_bias(table: Tensor, relation: Tensor) -> Tensor:
    """Return the biases (heads, queries, keys) that relations (queries, keys) pick from a table (n, heads)."""
    # Not by indexing, whose gradient sorts the indices first; copied, or adding the biases would take twice the time.
    return table.index_select(0, relation.flatten()).T.contiguous().unflatten(1, relation.shape)


class Windows:
    """How an H x W map is cut into w x w windows: padded to whole ones, shifted by half or not.

    `mask` (windows, 1, w * w, w * w) is 0 where a query may see a key and `MASKED` where the key is padding or lies
    across the seam of a shifted map; None where everything may be seen.
    """

    def __init__(self, height: int, width: int, window: int, shift: bool, device: torch.device) -> None:
        self.window, self.size = window, (height, width)
        self.shift = window // 2 if shift else 0
        self.padded = tuple(-(-side // window) * window for side in self.size)
        self.mask = self._mask(device) if shift or self.padded != self.size else None

    def _mask(self, device: torch.device) -> Tensor:
        height, width = self.size
        inside = torch.zeros(1, *self.padded, 1, dtype=torch.float32, device=device)
        inside[:, :height, :width] = 1
        # Tokens on either side of a shifted map's seam are not neighbours.
        rows, columns = (torch.arange(side, device=device) >= side - self.shift for side in self.padded)
        region = (2 * rows[:, None] + columns.float())[None, :, :, None] if self.shift else torch.zeros_like(inside)
        valid, region = self._cut(self._roll(inside))[..., 0] > 0, self._cut(region)[..., 0]
        allowed = valid[:, None, :] & (region[:, :, None] == region[:, None, :])
        mask = torch.zeros(allowed.shape, dtype=torch.float32, device=device).masked_fill_(~allowed, MASKED)
        return mask[:, None]

    def _roll(self, x: Tensor) -> Tensor:
        return x.roll((-self.shift, -self.shift), (1, 2)) if self.shift else x

    def _cut(self, x: Tensor) -> Tensor:
        w = self.window
        x = x.unflatten(1, (-1, w)).unflatten(3, (-1, w)).permute(0, 1, 3, 2, 4, 5)
        return x.flatten(0, 2).flatten(1, 2)

    def cut(self, x: Tensor) -> Tensor:
        """Map (B, H, W, C) to windows (B * windows, w * w, C)."""
        bottom, right = (padded - side for padded, side in zip(self.padded, self.size, strict=True))
        return self._cut(self._roll(functional.pad(x, (0, 0, 0, right, 0, bottom))))

    def join(self, windows: Tensor) -> Tensor:
        """Invert `cut`."""
        w, (height, width) = self.window, self.padded
        x = windows.unflatten(1, (w, w)).unflatten(0, (-1, height // w, width // w))
        x = x.permute(0, 1, 3, 2, 4, 5).flatten(1, 2).flatten(2, 3)
        x = x.roll((self.shift, self.shift), (1, 2)) if self.shift else x
        return x[:, : self.size[0], : self.size[1]]
