"""The density of the hyper-latents z, given those to the left and above.

In the papers it is the same everywhere. But some channels of z are smooth, as the mean of y's lowest frequency is, and
all are wider where their neighbours are; a decoder knows both (docs/design.md, "The prior of z").
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from vitrail.coding import LIMIT, SymbolCoder, Tables
from vitrail.distributions import LEAST, TOTAL, Integers, row_tables
from vitrail.straight import clamp_through

# Ends of the classes of activity.
ACTIVITIES = (8, 16, 32)
# The mass of a zero above which a channel counts as unused.
_UNUSED = TOTAL * 0.999


def suggested(z: Tensor) -> Tensor:
    """Return what the left and the upper neighbour suggest for each of z (N, a, b) or (B, N, a, b).

    That is the median of both and of their sum less the neighbour in the corner (the predictor of JPEG-LS).
    """
    left, above = functional.pad(z[..., :-1], (1, 0)), functional.pad(z[..., :-1, :], (0, 0, 1, 0))
    plane = left + above - functional.pad(z[..., :-1, :-1], (1, 0, 1, 0))
    return plane.maximum(left.minimum(above)).minimum(left.maximum(above))


def activity(sums: Tensor) -> Tensor:
    """Return how busy the left and the upper neighbour of each position are: a class of `ACTIVITIES` (…, a, b).

    `sums` (…, a, b) are those of the magnitudes of all channels; on a border the one neighbour counts twice.
    """
    left, above = functional.pad(sums[..., :-1], (1, 0)), functional.pad(sums[..., :-1, :], (0, 0, 1, 0))
    left[..., 0], above[..., 0, :] = above[..., 0], left[..., 0, :]
    both = left + above
    both[..., 0, 0] = ACTIVITIES[1]
    return torch.stack([both >= end for end in ACTIVITIES]).sum(0)


class Prior(nn.Module):
    """The density of z: for each channel a mixture of three logistics, wider where z's neighbours are busy.

    Of channels that are `predicted` it is that of the difference from what the neighbours suggest. Freshly built there
    are none, and all positions alike: what is smooth in z finds its channels in training. `freeze` turns the density
    into integer tables, which travel with the weights.
    """

    _REACH = 64

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.zeros(channels, 3))
        self.means = nn.Parameter(torch.tensor([-1.0, 0.0, 1.0]).repeat(channels, 1))
        self.log_scales = nn.Parameter(torch.full((channels, 3), -1.0))
        classes = len(ACTIVITIES) + 1
        self.log_widths = nn.Parameter(torch.zeros(classes, channels))
        self.register_buffer("predicted", torch.zeros(channels, dtype=torch.bool))
        self.predicted: Tensor
        shape = (classes * channels, 2 * self._REACH + 2)
        self.register_buffer("table_rows", torch.zeros(shape, dtype=torch.int32))
        self.table_rows: Tensor
        self._tables: Tables | None = None

    def masses(self, values: Tensor, widths: Tensor) -> Tensor:
        """Return the mass of [values - 1/2, values + 1/2] under densities of these widths, all (B, N, n)."""
        values, widths = values.unsqueeze(-1), widths.unsqueeze(-1)
        sharpness = torch.exp(-self.log_scales)[:, None] / widths
        # The distance from the mean, so that both sigmoids are taken in the tail that float32 resolves.
        distance = (values - self.means[:, None] * widths).abs()
        masses = torch.sigmoid((0.5 - distance) * sharpness) - torch.sigmoid((-0.5 - distance) * sharpness)
        return (masses * self.logits.softmax(-1)[:, None]).sum(-1)

    def rest(self, values: Tensor, rounded: Tensor) -> Tensor:
        """Return values (B, N, a, b) less what their neighbours suggest, which are rounded."""
        return values - suggested(rounded) * self.predicted[:, None, None]

    def bits(self, values: Tensor, rounded: Tensor) -> Tensor:
        """Return the cost in bits of values (B, N, a, b), whose neighbours are rounded."""
        rounded = rounded.float()
        classes = activity(self.rest(rounded, rounded).detach().abs().sum(1))
        widths = self.log_widths.exp().index_select(0, classes.flatten()).unflatten(0, classes.shape).movedim(-1, 1)
        masses = self.masses(self.rest(values, rounded).flatten(2), widths.flatten(2))
        return -torch.log2(clamp_through(masses, LEAST, 1.0)).view_as(values)

    def freeze(self) -> None:
        """Compute the integer tables from the density."""
        symbols = torch.arange(-self._REACH, self._REACH + 1, dtype=torch.float32)
        with torch.no_grad():
            widths = self.log_widths.exp()[..., None].expand(-1, -1, len(symbols))
            masses = self.masses(symbols.to(widths.device).expand_as(widths), widths).flatten(0, 1) * TOTAL
            self.table_rows[:, :-1] = masses.round().clamp(min=1).int()
            self.table_rows[:, -1] = 1
        self._tables = None

    def code(self, coder: SymbolCoder, shape: tuple[int, int], symbols: Integers | None) -> Integers:
        """Code z (N, a, b) of one picture, given for a decoder None, and its shape (a, b). Returns z."""
        if self._tables is None:
            self._tables = row_tables(self.table_rows, self._REACH)
        tables, predicted = self._tables, self.predicted.cpu().numpy()
        z, sums = np.zeros((len(predicted), *shape), np.int32), np.zeros(shape, np.int32)
        every = np.indices(shape).reshape(2, -1)

        def code(channels: NDArray[np.int64], places: NDArray[np.int64], base: Integers) -> None:
            at = (channels[:, None], *places)
            classes = activity(torch.from_numpy(sums)).numpy()[tuple(places)]
            index = (classes * len(predicted) + channels[:, None]).astype(np.int32).reshape(-1)
            given = None if symbols is None else (symbols[at] - base).reshape(-1)
            coded = coder.grouped(tables, index, given).reshape(base.shape)
            z[at] = (coded + base).clip(-LIMIT, LIMIT)
            sums[tuple(places)] += np.abs(coded).sum(0)

        zeros = self.table_rows.view(-1, len(predicted), 2 * self._REACH + 2)[..., self._REACH].amin(0).cpu().numpy()
        unused, used = np.flatnonzero(zeros > _UNUSED), np.flatnonzero(zeros <= _UNUSED)
        code(unused, every, np.zeros((len(unused), every.shape[1]), np.int32))
        # What lies on a diagonal has its neighbours on the two before.
        for diagonal in range(sum(shape) - 1):
            places = every[:, every.sum(0) == diagonal]
            base = np.zeros((len(used), places.shape[1]), np.int32)
            guess = suggested(torch.from_numpy(z[used[predicted[used]]]))
            base[predicted[used]] = guess.numpy()[:, places[0], places[1]]
            code(used, places, base)
        return z
