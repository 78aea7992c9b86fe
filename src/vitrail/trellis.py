"""Trellis-coded quantisation: what y is rounded to follows from the symbols before it.

A value that is rounded alone loses a quarter of a bit to what many values could have together. Here they share that:
there are two quantisers, one of even and one of odd multiples of half a gap (and zero); which of them an element has is
told by a state, which the parities of all symbols before it drive. So a decoder reads on one path, and an encoder
chooses among very many paths, by Viterbi's algorithm, the one of the least bits + lambda error. (Marcellin & Fischer
1990; entropy-coded: Fischer & Wang 1992; VVC calls it dependent quantisation. Neither of this package's two papers has
it.)

Elements whose scale is small hardly gain and are rounded as ever. The others of a group lie in lanes, each a path of
its own: all lanes take a step at once, so that time grows slowly with the picture.

A symbol is a whole number k of gaps from the mean, which is the context's, of the quantiser that its state names:
2 k half gaps in the one, 2 k - sign(k) in the other.
"""

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from vitrail import rate
from vitrail.coding import LIMIT, ODDS, SymbolCoder, Tables
from vitrail.distributions import LEVELS, OFFSET_UNITS, TOTAL, Gaussian, Integers, gaussian, peaked, table_levels

Floats = NDArray[np.float32]

# Half a gap, in steps of rounding; sums of its multiples and of means are exact. From 0.5 to 0.6 all is alike.
HALF = 0.5625
# The narrowest level of the trellis: scales of 0.29 and above.
FROM = 10
# Elements of a lane: a path begins in a state that nobody chose, so that short ones gain less.
_LANE = 256
_REGISTERS = 5
_STATES = 1 << _REGISTERS
# Of the code that Ungerboeck found for as many registers (1982, table I).
_CHECKS = (0o45, 0o10)


def _machine() -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Return the state after each (state, parity), (S, 2), and the two (state, parity) before each, (S, 2, 2).

    A state's lowest bit is its quantiser.
    """
    after = np.zeros((_STATES, 2), np.intp)
    before: list[list[tuple[int, int]]] = [[] for _ in range(_STATES)]
    for state in range(_STATES):
        for parity in (0, 1):
            fed = (_CHECKS[0] * (state & 1)) ^ (_CHECKS[1] * parity)
            after[state, parity] = (state ^ fed) >> 1
            before[after[state, parity]].append((state, parity))
    return after, np.array(before, np.intp)


_AFTER, _BEFORE = _machine()


class Trellis(nn.Module):
    """The trellis of a model: its tables, and what an encoder knows of errors; all zero until they are fitted.

    For each level and quantiser there are masses of the magnitudes 0.. of symbols, and how far from its point the mean
    of what is quantised to it lies (outwards, in units of 1 / OFFSET_UNITS). `log_weight` and `log_level`: the log of
    what the loss of a squared error of 1 is, in bits, in each channel, and how much more or less at each level.
    """

    def __init__(self, latents: int) -> None:
        super().__init__()
        scale = torch.stack([sigma for _, _, sigma, _ in table_levels(gaussian)])[FROM:]
        # Somewhat less than 6, so that no machine rounds the widest, 6 x 64, to either side.
        self.reach = np.repeat((6 * scale - 1e-6).ceil().int().cpu().numpy() + 3, 2)
        self.start = np.cumsum(self.reach + 1) - self.reach - 1
        self.register_buffer("table_masses", torch.zeros(int((self.reach + 1).sum()), dtype=torch.int32))
        self.register_buffer("table_offsets", torch.zeros_like(self.table_masses))
        self.table_masses: Tensor
        self.table_offsets: Tensor
        self.log_weight, self.log_level = rate.QualityTable(latents), rate.QualityTable(LEVELS)
        self.requires_grad_(False)
        self._kept: tuple[object, _Coded] | None = None

    def guess(self) -> None:
        """Take for masses those of the cells around points, under the distribution's shapes."""
        shapes = [(sigma, shape) for _, _, sigma, shape in table_levels(peaked)][FROM:]
        for row, (start, reach) in enumerate(zip(self.start, self.reach, strict=True)):
            sigma, shape = shapes[row // 2]
            magnitudes = torch.arange(reach + 2, dtype=torch.float64)
            points = HALF * (2 * magnitudes - row % 2 * (magnitudes > 0))
            edges = (points[1:] + points[:-1]) / 2
            parts = [share * torch.erfc(edges / (2**0.5 * width * sigma)) for share, width in shape]
            masses = -torch.diff(torch.stack(parts).sum(0), prepend=torch.ones(1, dtype=torch.float64))
            masses[1:] /= 2
            self.table_masses[start : start + reach + 1] = (masses * TOTAL).round().clamp(min=1).int()

    @torch.no_grad()
    def weights(self, quality: Tensor) -> tuple[Floats, Floats]:
        """Return the weights of channels (M,) and those of levels (LEVELS,) at a quality (1,)."""
        channels, levels = (each(quality).exp().flatten().cpu().numpy() for each in (self.log_weight, self.log_level))
        return channels, levels

    def _coded(self) -> "_Coded":
        state = tuple((table.data_ptr(), table._version) for table in (self.table_masses, self.table_offsets))
        if self._kept is None or self._kept[0] != state:
            masses, offsets = (each.cpu().numpy() for each in (self.table_masses, self.table_offsets))
            self._kept = (state, _Coded(masses, offsets, self.start, self.reach))
        return self._kept[1]

    def code(self, coder: SymbolCoder, distribution: Gaussian, chosen: Tensor, symbols: Integers | None) -> Integers:
        """Do as `Distribution.code`."""
        levels, _, inside = _split(distribution, chosen)
        alone, result = ~inside, np.zeros(len(levels), np.int32)
        given = (None, None) if symbols is None else (symbols[alone], symbols[inside])
        result[alone] = distribution.code(coder, chosen[:, torch.from_numpy(alone)], given[0])
        result[inside] = self._code(coder, levels[inside], given[1])
        return result

    def count(self, distribution: Gaussian, chosen: Tensor, symbols: Integers) -> Floats:
        """Do as `Distribution.count`."""
        levels, _, inside = _split(distribution, chosen)
        bits = distribution.count(chosen, symbols)
        own = symbols[inside]
        rows = 2 * (levels[inside] - FROM) + self._quantisers(own)
        bits[inside] = self._coded().bits.take(self._entries(rows, np.abs(own)))
        return bits

    def meant(self, distribution: Gaussian, chosen: Tensor, symbols: Integers) -> tuple[Floats, Floats]:
        """Return the points that n symbols name, which a context sees, and what they stand for."""
        levels, means, inside = _split(distribution, chosen)
        points, values = symbols.astype(np.float32), distribution.reconstruct(chosen, symbols)
        own = symbols[inside]
        own_points, own_values = self._values(levels[inside], own, self._quantisers(own))
        points[inside], values[inside] = means[inside] + own_points, means[inside] + own_values
        return points, values

    def quantise(
        self, distribution: Gaussian, chosen: Tensor, values: Floats, weights: Floats, by_level: Floats
    ) -> tuple[Integers, Floats, Floats]:
        """Return the symbols of n values, and as `meant`; `weights` (n,) and `by_level` as `weights` gives them."""
        levels, means, inside = _split(distribution, chosen)
        values = values.clip(-LIMIT, LIMIT)
        symbols = values.round().astype(np.int32)
        points, stood = symbols.astype(np.float32), distribution.reconstruct(chosen, symbols)
        levels, means = levels[inside], means[inside]
        own, quantisers = self._quantise(values[inside] - means, levels, weights[inside] * by_level.take(levels))
        own_points, own_values = self._values(levels, own, quantisers)
        symbols[inside], points[inside], stood[inside] = own, means + own_points, means + own_values
        return symbols, points, stood

    def _code(self, coder: SymbolCoder, levels: Integers, symbols: Integers | None) -> Integers:
        """Code n symbols, at levels FROM and above; a decoder is given None for them. Returns the symbols."""
        tables, rows = self._coded(), 2 * (levels - FROM)
        if symbols is None:
            parities, quantisers = _follow(
                len(levels), lambda at, own: coder.binary(tables.odd.take(rows[at] + own), None)
            )
        else:
            parities, quantisers = symbols & 1, self._quantisers(symbols)
            coder.binary(tables.odd.take(rows + quantisers), parities)
        halves = None if symbols is None else symbols >> 1
        return 2 * coder.grouped(tables.halves, 2 * (rows + quantisers) + parities, halves) + parities

    def _quantisers(self, symbols: Integers) -> Integers:
        """Return the quantiser, 0 or 1, that each of n symbols in a row has."""
        return _follow(len(symbols), lambda at, own: symbols[at] & 1)[1]

    def _values(self, levels: Integers, symbols: Integers, quantisers: Integers) -> tuple[Floats, Floats]:
        """Return the points that n symbols name, and what they stand for; both relative to the means."""
        signs, magnitudes = np.sign(symbols), np.abs(symbols)
        points = ((2 * symbols - signs * quantisers) * HALF).astype(np.float32)
        offsets = self._coded().offsets.take(self._entries(2 * (levels - FROM) + quantisers, magnitudes))
        return points, points + signs.astype(np.float32) * offsets

    def _entries(self, rows: Integers, magnitudes: Integers) -> NDArray[np.intp]:
        return self.start.take(rows) + np.minimum(magnitudes, self.reach.take(rows))

    def _quantise(self, values: Floats, levels: Integers, weights: Floats) -> tuple[Integers, Integers]:
        """Return the symbols (n,) that are best for values less their means, and the quantisers that they have.

        Best is the least bits + weights * squared error.
        """
        count = len(values)
        lanes = -(-count // _LANE)
        steps = -(-count // max(1, lanes))
        costs = np.zeros((2, 2, steps * lanes), np.float32)  # by quantiser and parity
        choices = np.zeros(costs.shape, np.int32)
        bits, offsets = self._coded().bits, self._coded().offsets
        distances = np.abs(values).clip(max=2 * HALF * (LIMIT - 2))
        for quantiser in (0, 1):
            below = ((distances + quantiser * HALF) * (0.5 / HALF)).astype(np.int32)
            least = np.full((2, count), np.inf, np.float32)
            chosen = np.zeros((2, count), np.int32)
            rows = 2 * (levels - FROM) + quantiser
            for magnitudes in (below, below + 1, np.maximum(below - 1, 0)):
                entries = self._entries(rows, magnitudes)
                points = HALF * (2 * magnitudes - quantiser * (magnitudes > 0)) + offsets.take(entries)
                loss = bits.take(entries) + weights * (distances - points) ** 2
                for parity in (0, 1):
                    better = (magnitudes & 1 == parity) & (loss < least[parity])
                    least[parity][better], chosen[parity][better] = loss[better], magnitudes[better]
            costs[quantiser, :, :count], choices[quantiser, :, :count] = least, chosen
        path = _best(costs.reshape(4, steps, lanes)).reshape(-1)[:count]
        magnitudes = choices.reshape(4, -1)[path, np.arange(count)]
        return np.where(values < 0, -magnitudes, magnitudes), (path >> 1).astype(np.int32)


class _Coded:
    """What follows from the tables: those of a coder, bits, and offsets in steps."""

    def __init__(self, masses: Integers, offsets: Integers, starts: NDArray[np.int64], reaches: Integers) -> None:
        rows: list[Integers] = []
        firsts, odd, bits = [], [], []
        for start, reach in zip(starts, reaches, strict=True):
            own = masses[start : start + reach + 1].astype(np.int64)
            every = np.abs(np.arange(-reach, reach + 1))
            total = own[every].sum()
            odds = own[every[every % 2 == 1]].sum()
            odd.append((odds * ODDS // total).clip(1, ODDS - 1))
            bits.append(-np.log2(own / total))
            for parity in (0, 1):
                halves = np.arange(-((reach + parity) // 2), (reach - parity) // 2 + 1)
                rows.append(np.append(own[np.abs(2 * halves + parity)], 1).astype(np.int32))
                firsts.append(halves[0])
        lengths = np.array([len(row) for row in rows], np.int32)
        self.halves = Tables(np.concatenate(rows), np.array(firsts, np.int32), lengths)
        self.odd = np.array(odd, np.int32)
        self.bits = np.concatenate(bits).astype(np.float32)
        self.offsets = offsets.astype(np.float32) * np.float32(1 / OFFSET_UNITS)


def _split(distribution: Gaussian, chosen: Tensor) -> tuple[Integers, Floats, NDArray[np.bool_]]:
    levels, means = distribution.moments(chosen)
    return levels, means, levels >= FROM


def _follow(count: int, read: Callable[[slice, Integers], Integers]) -> tuple[Integers, Integers]:
    """Walk along all lanes of n symbols at once: return their parities, which `read` gives, and quantisers."""
    lanes = -(-count // _LANE)
    states, after = np.zeros(lanes, np.intp), _AFTER.reshape(-1)
    parities, quantisers = np.zeros(count, np.int32), np.zeros(count, np.int32)
    for start in range(0, count, max(1, lanes)):
        at = slice(start, min(start + lanes, count))
        here = states[: at.stop - start]
        quantisers[at] = here & 1
        parities[at] = read(at, quantisers[at])
        states[: len(here)] = after.take(2 * here + parities[at])
    return parities, quantisers


def _best(costs: Floats) -> NDArray[np.intp]:
    """Return which costs (2 quantisers x 2 parities, steps, lanes) the best path takes at each step (steps, lanes)."""
    _, steps, lanes = costs.shape
    costs = np.ascontiguousarray(costs.transpose(1, 0, 2))
    # First of all states' first branches, then of their second ones.
    origins, parities = _BEFORE.transpose(2, 1, 0).reshape(2, -1)
    kinds = 2 * (origins & 1) + parities
    totals = np.full((_STATES, lanes), np.inf, np.float32)
    totals[0] = 0
    seconds = np.zeros((steps, _STATES, lanes), bool)
    for step in range(steps):  # `take` is faster than indexing
        both = totals.take(origins, 0)
        both += costs[step].take(kinds, 0)
        np.less(both[_STATES:], both[:_STATES], out=seconds[step])
        np.minimum(both[:_STATES], both[_STATES:], out=totals)
    states, lane = totals.argmin(0), np.arange(lanes)
    path = np.zeros((steps, lanes), np.intp)
    for step in range(steps - 1, -1, -1):
        branches = states + _STATES * seconds[step].reshape(-1).take(states * lanes + lane)
        path[step], states = kinds.take(branches), origins.take(branches)
    return path
