"""Distributions of latent elements: differentiable bits for training, frozen integer tables for coding.

Symbols are integers. A Gaussian with mean m and scale s gives the symbol k the mass of [k - 1/2, k + 1/2]. Scales are
powers of a fixed ratio; the network gives the exponent, relative to the usual one of a channel and quality, so that
coding only has to round it: a table is chosen by
the rounded exponent and by the fraction of the mean, in steps that are finer for narrow Gaussians; the mean's whole
part shifts the symbol. The tables are integers that travel with the weights: where a file is read, those are used, and
never others computed there.

What a symbol stands for is the mean of all that is rounded to it, as far as its distribution knows: most symbols are
zeros of narrow Gaussians, whose means lie anywhere in the interval. (Minnen & Singh, ICIP 2020, let a network learn
this, the latent residual prediction.) For files it comes from a table too.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from vitrail import config
from vitrail.coding import SymbolCoder, Tables, pick
from vitrail.straight import clamp_through

LEVELS = 64
SMALLEST, LARGEST = 0.11, 64.0
# Steps of the mean between two integers, for the narrow levels (scales up to 0.5) and the others. With 8 for all, files
# of low rates were 1.6 % longer.
NARROW, FINE, COARSE = 16, 32, 8
# No symbol has less than one of these: with 2^16 the zeros of a smooth picture's many channels cost 0.5 % at low rates.
TOTAL = 1 << 18
OFFSET_UNITS = 1 << 15
# Shares and relative scales of Gaussians that add up, and such a shape for each scale exponent. Latents are more peaked
# and have longer tails than one Gaussian: with its tables files were 0.5 to 1 % longer (docs/training.md, "Tables").
Shape = Sequence[tuple[float | Tensor, float | Tensor]]
Shapes = Callable[[Tensor], Shape]
_PEAKED = ((0.6, 0.72), (0.4, 1.29))
# What is narrower than the narrowest level is coded by it too: with tables as wide as its scale files of low rates were
# up to 0.7 % longer, and with peaked ones at the next three levels 0.1 %.
_NARROWEST, _NARROWER = ((0.74, 0.24), (0.26, 0.55)), ((0.7, 0.5), (0.3, 1.4))
# Exponents come in units of this many levels, so that the network moves fast on their scale.
_UNIT = 8.0
# The least likelihood that is estimated, and the end of its gradient in training.
LEAST = 2.0**-16

Integers = NDArray[np.int32]


def _log_step() -> float:
    return float(np.log(LARGEST / SMALLEST) / (LEVELS - 1))


def scales(exponent: Tensor) -> Tensor:
    """Map exponents 0..(LEVELS - 1) / _UNIT to scales SMALLEST..LARGEST."""
    return SMALLEST * torch.exp(exponent * (_log_step() * _UNIT))


def exponents(scale: Tensor) -> Tensor:
    """Invert `scales`, in the units of a distribution's parameters; scales outside the range are clamped."""
    return (scale.clamp(SMALLEST, LARGEST) / SMALLEST).log() / (_log_step() * _UNIT)


def gaussian(exponent: Tensor) -> Shape:
    """Return the shape of one Gaussian, at all scales."""
    return ((1.0, 1.0),)


def peaked(exponent: Tensor) -> Shape:
    """Return the shape at scale exponents: that of level 0, of 1 to 3, of 4 and above, or linear in between."""
    level = exponent * _UNIT
    up, on = level.clamp(0, 1), (level - 3).clamp(0, 1)

    def between(narrowest: float, narrower: float, other: float) -> Tensor:
        return narrowest + (narrower - narrowest) * up + (other - narrower) * on

    parts = zip(_NARROWEST, _NARROWER, _PEAKED, strict=True)
    return [(between(*shares), between(*widths)) for shares, widths in (zip(*part, strict=True) for part in parts)]


def mass(values: Tensor, mean: Tensor, scale: Tensor, shape: Shape) -> Tensor:
    """Return the probability of [values - 1/2, values + 1/2] under densities of a shape."""
    distance = (values - mean).abs()
    total = torch.zeros_like(distance)
    for share, width in shape:
        factor = 0.5**0.5 / width / scale
        # In the left tail, where float32 keeps its precision.
        tails = torch.erfc((distance - 0.5) * factor) - torch.erfc((distance + 0.5) * factor)
        total = total + 0.5 * share * tails
    return total


def level_scales() -> tuple[Tensor, Tensor]:
    """Return each level's exponent and scale (LEVELS,), float64."""
    exponent = torch.arange(LEVELS, dtype=torch.float64) / _UNIT
    return exponent, scales(exponent)


def level_reaches() -> Tensor:
    """Return up to which distance from its mean a level has masses of its own (LEVELS,), int32."""
    # Somewhat less than 6, so that no machine rounds the widest, 6 x 64, to either side.
    return (6 * level_scales()[1] - 1e-6).ceil().int()


class _Entries(NamedTuple):
    """Of all tables' entries (n,): symbol, mean's fraction, scale, shape; of each table: reach, place of its escape."""

    symbols: Tensor
    means: Tensor
    scale: Tensor
    shape: Shape
    reach: Tensor
    escapes: Tensor


def _entries(shapes: Shapes) -> _Entries:
    levels, fractions = (torch.from_numpy(each) for each in _places())
    reach = level_reaches()[levels] + 2
    lengths = 2 * reach + 3
    ends = lengths.cumsum(0)
    table = torch.arange(len(levels)).repeat_interleave(lengths)
    symbols = torch.arange(len(table)) - (ends - lengths + reach)[table]
    exponent, scale = (each[levels[table]] for each in level_scales())
    return _Entries(symbols, fractions.double()[table], scale, shapes(exponent), reach, ends - 1)


def frozen_tables(shapes: Shapes = gaussian) -> tuple[Tensor, Tensor]:
    """Return integer masses (int32, all tables one after another) and each table's reach (int32).

    Tables follow by level, then by fraction of the mean. A table holds the masses of the symbols -reach .. reach + 1,
    then that of the escape, and sums to about TOTAL.
    """
    symbols, means, scale, shape, reach, escapes = _entries(shapes)
    masses = (mass(symbols, means, scale, shape) * TOTAL).round().clamp(min=1).int()
    masses[escapes] = 1
    return masses, reach


def centroids(values: Tensor, mean: Tensor, scale: Tensor, shape: Shape) -> Tensor:
    """Return the mean of [values - 1/2, values + 1/2] under densities of a shape."""
    away = values - mean
    distance, moment = away.abs(), torch.zeros_like(away)
    for share, width in shape:
        near, far = (distance - 0.5) / (width * scale), (distance + 0.5) / (width * scale)
        moment = moment + share * width * (torch.exp(-0.5 * near.square()) - torch.exp(-0.5 * far.square()))
    moment = away.sign() * scale * moment * (2 * math.pi) ** -0.5
    inside = moment / mass(values, mean, scale, shape).clamp(min=1e-12) - away
    # Where the mass is too small to divide by, also in the gradient, it lies at the nearer edge.
    offset = torch.where(distance - 0.5 > 6 * scale, -0.5 * away.sign(), inside)
    return values + offset.clamp(-0.5, 0.5)


def frozen_offsets(shapes: Shapes = gaussian) -> Tensor:
    """Return how far from each symbol of `frozen_tables` its centroid lies (int32, in units of 1 / OFFSET_UNITS).

    The escape has the offset of the last symbol.
    """
    symbols, means, scale, shape, _, escapes = _entries(shapes)
    offsets = ((centroids(symbols, means, scale, shape) - symbols) * OFFSET_UNITS).round().int()
    offsets[escapes] = offsets[escapes - 1]
    return offsets


class Distribution(nn.Module, ABC):
    """`per_element` numbers describe an element; they come as (B, per_element, …)."""

    per_element: int
    shapes: Shapes = staticmethod(gaussian)

    def __init__(self, centroid: bool) -> None:
        super().__init__()
        masses, reach = frozen_tables(self.shapes)
        self.register_buffer("table_masses", masses)
        self.register_buffer("table_reach", reach)
        self.table_masses: Tensor
        self.table_reach: Tensor
        self.table_offsets: Tensor | None
        self.register_buffer("table_offsets", frozen_offsets(self.shapes) if centroid else None)
        self._tables: Tables | None = None

    def freeze(self) -> None:
        """Take this version's tables in place of those that came with other weights."""
        masses, reach = frozen_tables(self.shapes)
        self.table_masses.copy_(masses)
        self.table_reach.copy_(reach)
        if self.table_offsets is not None:
            self.table_offsets.copy_(frozen_offsets(self.shapes))
        self._tables = None

    def tables(self) -> Tables:
        """Return the coder's form of the frozen tables."""
        if self._tables is None:
            reach = self.table_reach.cpu().numpy()
            self._tables = Tables(self.table_masses.cpu().numpy(), -reach, 2 * reach + 3)
        return self._tables

    def least_bits(self) -> float:
        """Return the cost in bits of the most likely symbol of the narrowest table."""
        row = self.tables().row(0)
        return float(np.log2(row.sum() / row.max()))

    @abstractmethod
    def bits(self, values: Tensor, parameters: Tensor, usual: Tensor) -> Tensor:
        """Return the cost in bits (B, …) of values (B, …), which may lie between integers (training).

        `usual`, of as many dimensions, is added to the scale exponents.
        """

    @abstractmethod
    def choose(self, parameters: Tensor, usual: Tensor) -> Tensor:
        """Return what `code` and `reconstruct` need of parameters (per_element, n), and `usual` (n,): (…, n)."""

    @abstractmethod
    def code(self, coder: SymbolCoder, chosen: Tensor, symbols: Integers | None) -> Integers:
        """Code n symbols; a decoder is given None for them. Returns the symbols."""

    @abstractmethod
    def centroids(self, values: Tensor, parameters: Tensor, usual: Tensor) -> Tensor:
        """Return the mean (B, …) of what lies within 1/2 of values (B, …); parameters and `usual` as in `bits`."""

    @abstractmethod
    def count(self, chosen: Tensor, symbols: Integers) -> NDArray[np.float32]:
        """Return the bits that `code` spends on each of n symbols, but for what follows an escape."""

    @abstractmethod
    def reconstruct(self, chosen: Tensor, symbols: Integers) -> NDArray[np.float32]:
        """Return what n coded symbols stand for."""

    def reconstruct_through(self, symbols: Tensor, unrounded: Tensor, parameters: Tensor, usual: Tensor) -> Tensor:
        """Return what symbols (B, …) stand for, with the gradient to parameters, and to what was rounded.

        That is the slope of `centroids` over the interval around it, the mean of what noise would give: passed straight
        through, the gradient would tell that zeros of narrow Gaussians follow their values.
        """
        if self.table_offsets is None:
            return symbols
        values = self.centroids(symbols.detach(), parameters, usual)
        if not unrounded.requires_grad:
            return values
        with torch.no_grad():
            above, below = (self.centroids(unrounded + side, parameters, usual) for side in (0.5, -0.5))
        return values + (above - below) * (unrounded - unrounded.detach())


def _moments(mean: Tensor, exponent: Tensor) -> tuple[Tensor, Tensor]:
    return mean, clamp_through(exponent, 0.0, (LEVELS - 1) / _UNIT)


def _places() -> tuple[Integers, NDArray[np.float32]]:
    """Return each table's level, and its fraction of the mean."""
    counts = np.where(np.arange(LEVELS) < NARROW, FINE, COARSE)
    levels = np.repeat(np.arange(LEVELS, dtype=np.int32), counts)
    fractions = np.concatenate([np.arange(count, dtype=np.float32) / np.float32(count) for count in counts])
    return levels, fractions


def _indices(mean: Tensor, exponent: Tensor) -> tuple[Tensor, Tensor]:
    """Return the table index and the whole part of the mean, int32."""
    mean, exponent = _moments(mean, exponent)
    # Whole numbers below 2^24 and powers of two: all of it is exact in float32, and faster than in integers.
    level = (exponent * _UNIT).round_()
    narrow = (NARROW - level).clamp_(0, 1)  # level < NARROW, in a third of the time
    count = narrow.mul_(FINE - COARSE).add_(COARSE)
    steps = (mean * count).round_().clamp_(-(2**17), 2**17)
    whole = (steps / count).floor_()
    index = steps.sub_(count.mul_(whole)).add_(level, alpha=COARSE).add_(level.clamp_(max=NARROW), alpha=FINE - COARSE)
    return index.to(torch.int32), whole.to(torch.int32)


class Gaussian(Distribution):
    """Parameters: mean, scale exponent. Two Gaussians of the same mean add up to the shape."""

    per_element = 2
    shapes = staticmethod(peaked)
    _places = _places()

    def bits(self, values: Tensor, parameters: Tensor, usual: Tensor) -> Tensor:
        """See `Distribution`."""
        mean, exponent = parameters.unbind(1)
        mean, exponent = _moments(mean, exponent + usual)
        return -torch.log2(clamp_through(mass(values, mean, scales(exponent), self.shapes(exponent)), LEAST, 1.0))

    def choose(self, parameters: Tensor, usual: Tensor) -> Tensor:
        """See `Distribution`: the table's number and the whole part of the mean."""
        mean, exponent = parameters
        return torch.stack(_indices(mean, exponent + usual))

    def code(self, coder: SymbolCoder, chosen: Tensor, symbols: Integers | None) -> Integers:
        """See `Distribution`."""
        index, whole = chosen.cpu().numpy()
        return coder.grouped(self.tables(), index, None if symbols is None else symbols - whole) + whole

    def moments(self, chosen: Tensor) -> tuple[Integers, NDArray[np.float32]]:
        """Return the level and the mean of n elements, as coded."""
        index, whole = chosen.cpu().numpy()
        levels, fractions = self._places
        index = index.astype(np.intp)
        return pick(levels, index), pick(fractions, index) + whole.astype(np.float32)

    def centroids(self, values: Tensor, parameters: Tensor, usual: Tensor) -> Tensor:
        """See `Distribution`."""
        mean, exponent = parameters.unbind(1)
        mean, exponent = _moments(mean, exponent + usual)
        return centroids(values, mean, scales(exponent), self.shapes(exponent))

    def _entries(self, chosen: Tensor, symbols: Integers) -> NDArray[np.int64]:
        """Return where in all tables the symbols lie; outside of its table a symbol takes the first or last entry."""
        index, whole = chosen.cpu().numpy()
        tables = self.tables()
        index = index.astype(np.intp)
        entries = symbols - whole - pick(tables.first, index)
        np.clip(entries, 0, pick(tables.escape, index), out=entries)
        found: NDArray[np.int64] = pick(tables.start, index) + entries
        return found

    def count(self, chosen: Tensor, symbols: Integers) -> NDArray[np.float32]:
        """See `Distribution`."""
        tables = self.tables()
        shares = tables.masses[self._entries(chosen, symbols)] / tables.total[chosen[0].cpu().numpy()]
        return (-np.log2(shares)).astype(np.float32)

    def reconstruct(self, chosen: Tensor, symbols: Integers) -> NDArray[np.float32]:
        """See `Distribution`."""
        if self.table_offsets is None:
            return symbols.astype(np.float32)
        offsets = pick(self.table_offsets.cpu().numpy(), self._entries(chosen, symbols))
        return symbols.astype(np.float32) + offsets.astype(np.float32) * np.float32(1 / OFFSET_UNITS)


class Mixture(Distribution):
    """Parameters: a logit, a mean and a scale exponent for each component."""

    _WEIGHT = 63  # even when rounded ones sum to somewhat more, times TOTAL below 2^24: a float32 still counts it
    _REACH = 256
    _CHUNK = 4096

    def __init__(self, components: int, centroid: bool) -> None:
        super().__init__(centroid)
        self.per_element = 3 * components

    def bits(self, values: Tensor, parameters: Tensor, usual: Tensor) -> Tensor:
        """See `Distribution`."""
        logits, means, exponent = parameters.unflatten(1, (3, -1)).unbind(1)
        means, exponent = _moments(means, exponent + usual.unsqueeze(1))
        masses = mass(values.unsqueeze(1), means, scales(exponent), self.shapes(exponent))
        return -torch.log2(clamp_through((logits.softmax(1) * masses).sum(1), LEAST, 1.0))

    def choose(self, parameters: Tensor, usual: Tensor) -> Tensor:
        """See `Distribution`: the parameters (3, components, n)."""
        logits, means, exponent = parameters.unflatten(0, (3, -1)).unbind(0)
        return torch.stack([logits, means, exponent + usual])

    def code(self, coder: SymbolCoder, chosen: Tensor, symbols: Integers | None) -> Integers:
        """See `Distribution`."""
        chunks = [
            self._code(coder, chunk, None if symbols is None else symbols[start : start + self._CHUNK])
            for start, chunk in _chunks(chosen, self._CHUNK)
        ]
        return np.concatenate([np.zeros(0, np.int32), *chunks])

    def centroids(self, values: Tensor, parameters: Tensor, usual: Tensor) -> Tensor:
        """See `Distribution`."""
        logits, means, exponent = parameters.unflatten(1, (3, -1)).unbind(1)
        means, exponent = _moments(means, exponent + usual.unsqueeze(1))
        values = values.unsqueeze(1)
        shares = logits.softmax(1) * mass(values, means, scales(exponent), self.shapes(exponent)).clamp(min=1e-12)
        return (shares * centroids(values, means, scales(exponent), self.shapes(exponent))).sum(1) / shares.sum(1)

    def count(self, chosen: Tensor, symbols: Integers) -> NDArray[np.float32]:
        """See `Distribution`."""
        values = torch.from_numpy(symbols).to(chosen.device).float().unsqueeze(0)
        return self.bits(values, chosen.flatten(0, 1).unsqueeze(0), torch.zeros_like(values))[0].cpu().numpy()

    def reconstruct(self, chosen: Tensor, symbols: Integers) -> NDArray[np.float32]:
        """See `Distribution`."""
        if self.table_offsets is None:
            return symbols.astype(np.float32)
        values = torch.from_numpy(symbols).to(chosen.device).float().unsqueeze(0)
        return self.centroids(values, chosen.flatten(0, 1).unsqueeze(0), torch.zeros_like(values))[0].cpu().numpy()

    def _code(self, coder: SymbolCoder, chosen: Tensor, symbols: Integers | None) -> Integers:
        tables = self.tables()
        logits, means, exponent = chosen
        weights = (logits.softmax(0) * self._WEIGHT).round().to(torch.int64).cpu().numpy()
        index, whole = (each.cpu().numpy() for each in _indices(means, exponent))
        first, escape = whole + tables.first[index], tables.escape[index]
        low = first.min(0)
        reach = min(int(((first + escape).max(0) - low).max()), 2 * self._REACH)
        places = low + np.arange(reach)[:, None]
        masses = np.ones(places.shape, np.int64)
        for weight, start, end, row in zip(weights, first, escape, index, strict=True):
            offset = places - start
            inside = (offset >= 0) & (offset < end)
            masses += weight * inside * tables.masses[tables.start[row] + np.where(inside, offset, 0)]
        rest = np.maximum((weights * tables.total[index]).sum(0) - masses.sum(0), 1)
        return coder.rows(np.vstack([masses, rest]).T.astype(np.float32), low.astype(np.int32), symbols)


def _chunks(parameters: Tensor, size: int) -> list[tuple[int, Tensor]]:
    """Cut (…, n) into pieces of at most `size` along the last dimension, each with its start."""
    return [(start, parameters[..., start : start + size]) for start in range(0, parameters.shape[-1], size)]


def row_tables(rows: Tensor, reach: int) -> Tables:
    """Return the coder's form of tables (n, 2 reach + 2), each the masses of -reach .. reach and of the escape."""
    count, length = rows.shape
    first, lengths = np.full(count, -reach, np.int32), np.full(count, length, np.int32)
    return Tables(rows.cpu().numpy().reshape(-1), first, lengths)


def build(part: config.Distribution, centroid: bool = False) -> Distribution:
    """Return the distribution that a config names; with `centroid`, symbols stand for their centroids."""
    return Mixture(part.components, centroid) if isinstance(part, config.Mixture) else Gaussian(centroid)
