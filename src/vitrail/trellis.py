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

from vitrail import config, rate
from vitrail.coding import LIMIT, SymbolCoder, Tables, pick
from vitrail.distributions import LEVELS, OFFSET_UNITS, TOTAL, Gaussian, Integers, level_reaches, level_scales, peaked
from vitrail.errors import ModelError

Floats = NDArray[np.float32]

# Chances of odd symbols are whole numbers of one in so many.
_ODDS = 1 << 16
# Half a gap, in steps of rounding; sums of its multiples and of means are exact. From 0.5 to 0.6 all is alike.
HALF = 0.5625
# The narrowest level of the trellis: scales of 0.29 and above.
FROM = 10
# Parity checks by registers: those that Ungerboeck found (1982, table I); of 10 and 12 the best of some tried.
_CHECKS = {5: (0o45, 0o10), 8: (0o515, 0o362), 10: (0o3531, 0o1046), 12: (0o16025, 0o7464)}
# An encoder counts in these parts of a bit, and cuts the dearest of a step's four choices to so many bits more: its
# sums over as many steps as registers, which no state is dearer than another by, and over those from one time that the
# first state's are taken off to the next, then stay within 16 bits.
_PARTS, _DEAREST, _LOOK = 32, 24, 8
# States of all lanes that are sought at once: they stay in the cache, and a large picture needs no more memory. Rows of
# so many sums are added to in no more time than shorter ones.
_AT_ONCE, _ROW = 1 << 17, 1024


class Machine:
    """A convolutional code of 2^registers states S, whose lowest bit is an element's quantiser.

    `after` (2 S): the state that follows each (state, parity). `origins` (2, S): the states before each one, by the
    parity between them; they have quantiser 0 before the first half of all states, and 1 before the second. A path
    begins in a state that nobody chose, so that short lanes gain less.
    """

    def __init__(self, settings: config.Trellis) -> None:
        self.registers, self.lane = settings.registers, settings.lane
        if self.registers not in _CHECKS:
            known = ", ".join(map(str, _CHECKS))
            raise ModelError(f"no trellis of {self.registers} registers is known; choose from {known}")
        self.states = 1 << self.registers
        own, fed = _CHECKS[self.registers]
        state, parity = np.arange(self.states), np.arange(2)
        self.after = ((state[:, None] ^ own * (state[:, None] & 1) ^ fed * parity) >> 1).reshape(-1)
        quantiser = state >= self.states // 2
        self.origins = (state << 1 ^ own * quantiser ^ fed * parity[:, None]) & (self.states - 1)

    def lanes(self, count: int) -> int:
        """Return how many lanes n elements make."""
        return -(-count // self.lane)

    def walk(self, count: int, read: Callable[[slice, Integers], Integers]) -> tuple[Integers, Integers]:
        """Walk along all lanes of n symbols at once: return their parities, which `read` gives, and quantisers."""
        lanes = max(1, self.lanes(count))
        states = np.zeros(lanes, np.intp)
        parities, quantisers = np.zeros(count, np.int32), np.zeros(count, np.int32)
        for start in range(0, count, lanes):
            at = slice(start, start + lanes)
            states = states[: count - start]
            own = quantisers[at] = states & 1
            odd = parities[at] = read(at, own)
            states = pick(self.after, 2 * states + odd)
        return parities, quantisers

    def quantisers(self, parities: Integers) -> Integers:
        """Return the quantiser, 0 or 1, that each of n symbols in a row has, given all parities (n,).

        As polynomials over GF(2), own * quantisers = fed * parities; and own(x) own(x^2) own(x^4) ... inverts own, as
        the square of own(x) is own(x^2).
        """
        lanes = max(1, self.lanes(len(parities)))
        steps = -(-len(parities) // lanes)
        bits = np.zeros(steps * lanes, np.uint8)
        bits[: len(parities)] = parities
        own, fed = _CHECKS[self.registers]
        found = _times(fed, bits.reshape(steps, lanes), 1)
        apart = 1
        while apart < steps:
            found = _times(own, found, apart)
            apart *= 2
        return found.reshape(-1)[: len(parities)].astype(np.int32)

    def best(self, costs: Floats) -> NDArray[np.intp]:
        """Return which costs (2 quantisers x 2 parities, steps, lanes) the best path takes at each step (steps, lanes).

        Costs are in bits; those of a step that are beyond all reason count as less.
        """
        above = (costs - costs.min(0)).clip(max=_DEAREST) * _PARTS
        whole = above.round().astype(np.int16).transpose(1, 0, 2)
        path = np.zeros((len(whole), whole.shape[2]), np.intp)
        lanes = _AT_ONCE // self.states
        for start in range(0, path.shape[1], lanes):
            part = slice(start, start + lanes)
            path[:, part] = self._best(whole[:, :, part])
        return path

    def _best(self, costs: NDArray[np.int16]) -> NDArray[np.intp]:
        """Do as `best` with costs (steps, 4, lanes)."""
        steps, _, lanes = costs.shape
        half, origins = self.states // 2, self.origins.reshape(-1)
        # As the ways to all states lie: by parity, then by quantiser; of some states at once, as short rows add slowly.
        several = min(half, 1 << max(0, (_ROW // lanes).bit_length() - 1))
        costs = np.tile(costs.reshape(steps, 2, 2, 1, lanes).transpose(0, 2, 1, 3, 4), several)
        totals = np.full((self.states, lanes), self.registers * _DEAREST * _PARTS, np.int16)
        totals[0] = 0
        ways = np.empty((2, *totals.shape), np.int16)
        flat, split = ways.reshape(-1, lanes), ways.reshape(2, 2, -1, several * lanes)
        odd = np.empty((steps, *totals.shape), bool)
        for step in range(steps):
            totals.take(origins, 0, out=flat, mode="clip")  # faster than indexing
            split += costs[step]
            np.less(ways[1], ways[0], out=odd[step])
            np.minimum(ways[0], ways[1], out=totals)
            if step % _LOOK == 0:
                totals -= totals[0]
        states, lane = totals.argmin(0), np.arange(lanes)
        path = np.empty((steps, lanes), np.intp)
        for step in range(steps - 1, -1, -1):
            parities = pick(odd[step].reshape(-1), states * lanes + lane).astype(np.intp)
            path[step] = 2 * (states >= half) + parities
            states = pick(origins, parities * self.states + states)
        return path


class Trellis(nn.Module):
    """The trellis of a model: its tables, and what an encoder knows of errors; all zero until they are fitted.

    For each level and quantiser there are masses of the magnitudes 0.. of symbols, and how far from its point the mean
    of what is quantised to it lies (outwards, in units of 1 / OFFSET_UNITS). `log_weight` and `log_level`: the log of
    what the loss of a squared error of 1 is, in bits, in each channel, and how much more or less at each level.
    """

    def __init__(self, latents: int, settings: config.Trellis) -> None:
        super().__init__()
        self.machine = Machine(settings)
        self.reach = np.repeat(level_reaches()[FROM:].cpu().numpy() + 3, 2)
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
        scales = [(scale, peaked(exponent)) for exponent, scale in zip(*level_scales(), strict=True)][FROM:]
        for row, (start, reach) in enumerate(zip(self.start, self.reach, strict=True)):
            sigma, shape = scales[row // 2]
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
        alone, result = np.flatnonzero(levels < FROM), np.zeros(len(levels), np.int32)
        given = (None, None) if symbols is None else (symbols[alone], symbols[inside])
        narrow = torch.from_numpy(chosen.cpu().numpy().take(alone, 1, mode="clip"))
        result[alone] = distribution.code(coder, narrow, given[0])
        result[inside] = self._code(coder, levels[inside], given[1])
        return result

    def count(self, distribution: Gaussian, chosen: Tensor, symbols: Integers) -> Floats:
        """Do as `Distribution.count`."""
        levels, _, inside = _split(distribution, chosen)
        bits = distribution.count(chosen, symbols)
        own = symbols[inside]
        rows = 2 * (levels[inside] - FROM) + self.machine.quantisers(own & 1)
        bits[inside] = pick(self._coded().bits, self._entries(rows, np.abs(own)))
        return bits

    def meant(self, distribution: Gaussian, chosen: Tensor, symbols: Integers) -> tuple[Floats, Floats]:
        """Return the points that n symbols name, which a context sees, and what they stand for."""
        levels, means, inside = _split(distribution, chosen)
        points, values = symbols.astype(np.float32), distribution.reconstruct(chosen, symbols)
        own = symbols[inside]
        own_points, own_values = self._values(levels[inside], own, self.machine.quantisers(own & 1))
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
        own, quantisers = self._quantise(values[inside] - means, levels, weights[inside] * pick(by_level, levels))
        own_points, own_values = self._values(levels, own, quantisers)
        symbols[inside], points[inside], stood[inside] = own, means + own_points, means + own_values
        return symbols, points, stood

    def _code(self, coder: SymbolCoder, levels: Integers, symbols: Integers | None) -> Integers:
        """Code n symbols, at levels FROM and above; a decoder is given None for them. Returns the symbols."""
        tables, rows = self._coded(), 2 * (levels - FROM)
        if symbols is None:
            first, second = pick(tables.odd, rows), pick(tables.odd, rows + 1)
            parities, quantisers = self.machine.walk(
                len(levels), lambda at, own: coder.binary(np.where(own, second[at], first[at]), None)
            )
        else:
            parities, quantisers = symbols & 1, self.machine.quantisers(symbols & 1)
            coder.binary(pick(tables.odd, rows + quantisers), parities)
        halves = None if symbols is None else symbols >> 1
        return 2 * coder.grouped(tables.halves, 2 * (rows + quantisers) + parities, halves) + parities

    def _values(self, levels: Integers, symbols: Integers, quantisers: Integers) -> tuple[Floats, Floats]:
        """Return the points that n symbols name, and what they stand for; both relative to the means."""
        signs, magnitudes = np.sign(symbols), np.abs(symbols)
        points = ((2 * symbols - signs * quantisers) * HALF).astype(np.float32)
        offsets = pick(self._coded().offsets, self._entries(2 * (levels - FROM) + quantisers, magnitudes))
        return points, points + signs.astype(np.float32) * offsets

    def _entries(self, rows: Integers, magnitudes: Integers) -> NDArray[np.intp]:
        return pick(self.start, rows) + np.minimum(magnitudes, pick(self.reach, rows))

    def _quantise(self, values: Floats, levels: Integers, weights: Floats) -> tuple[Integers, Integers]:
        """Return the symbols (n,) that are best for values less their means, and the quantisers that they have.

        Best is the least bits + weights * squared error.
        """
        count = len(values)
        lanes = self.machine.lanes(count)
        steps = -(-count // max(1, lanes))
        costs = np.zeros((2, 2, steps * lanes), np.float32)  # by quantiser and parity
        choices = np.zeros(costs.shape, np.int32)
        bits, offsets = self._coded().bits, self._coded().offsets
        distances = np.abs(values).clip(max=2 * HALF * (LIMIT - 2))
        for quantiser in (0, 1):
            rows = 2 * (levels - FROM) + quantiser

            def loss(magnitudes: Integers, quantiser: int = quantiser, rows: Integers = rows) -> Floats:
                entries = self._entries(rows, magnitudes)
                points = HALF * (2 * magnitudes - quantiser * (magnitudes > 0)) + pick(offsets, entries)
                found: Floats = pick(bits, entries) + weights * (distances - points) ** 2
                return found

            below = ((distances + quantiser * HALF) * (0.5 / HALF)).astype(np.int32)
            farther, nearer = below + 1, np.abs(below - 1)  # of the other parity
            losses = loss(farther), loss(nearer)
            other, least = np.where(losses[0] < losses[1], farther, nearer), np.minimum(*losses)
            even, own = below & 1 == 0, loss(below)
            costs[quantiser, :, :count] = np.where(even, (own, least), (least, own))
            choices[quantiser, :, :count] = np.where(even, (below, other), (other, below))
        path = self.machine.best(costs.reshape(4, steps, lanes)).reshape(-1)[:count]
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
            odd.append((odds * _ODDS // total).clip(1, _ODDS - 1))
            bits.append(-np.log2(own / total))
            for parity in (0, 1):
                halves = np.arange(-((reach + parity) // 2), (reach - parity) // 2 + 1)
                rows.append(np.append(own[np.abs(2 * halves + parity)], 1).astype(np.int32))
                firsts.append(halves[0])
        lengths = np.array([len(row) for row in rows], np.int32)
        self.halves = Tables(np.concatenate(rows), np.array(firsts, np.int32), lengths)
        self.odd = (np.array(odd) / _ODDS).astype(np.float32)
        self.bits = np.concatenate(bits).astype(np.float32)
        self.offsets = offsets.astype(np.float32) * np.float32(1 / OFFSET_UNITS)


def _split(distribution: Gaussian, chosen: Tensor) -> tuple[Integers, Floats, NDArray[np.intp]]:
    """Return all levels and means, and where the trellis's elements are.

    They follow by channel: sorted by level, either way, or in any order, they took up to 1 % more.
    """
    levels, means = distribution.moments(chosen)
    return levels, means, np.flatnonzero(levels >= FROM)


def _times(polynomial: int, bits: NDArray[np.uint8], apart: int) -> NDArray[np.uint8]:
    """Return bits (steps, lanes) times polynomial(x^apart) over GF(2)."""
    product = np.zeros_like(bits)
    for power in range(polynomial.bit_length()):
        if polynomial >> power & 1 and power * apart < len(bits):
            product[power * apart :] ^= bits[: len(bits) - power * apart]
    return product
