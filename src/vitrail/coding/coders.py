"""Three symbol coders with one interface, over constriction's range coder (docs.rs/constriction).

`grouped(tables, index, symbols)`, `rows(masses, first, symbols)` and `binary(chances, symbols)` return the symbols: an
encoder and an estimator are given them, a decoder is given None. So one traversal of a model serves all three.

A table's last entry is the escape: a symbol outside a table is coded as the escape, and its value follows after the
call's other symbols, as a bit length and that many bits (Exp-Golomb).
"""

import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import constriction
import numpy as np
from numpy.typing import NDArray

from vitrail.errors import FormatError

Integers = NDArray[np.int32]
# Larger symbols never occur: the model clamps latents to this.
LIMIT = 2**15 - 1
_BITS = 17
_BERNOULLI = constriction.stream.model.Bernoulli(perfect=False)


def _categorical(masses: Integers) -> object:
    # `perfect` has changed its default, and float64 masses give other bytes: both are part of the format.
    return constriction.stream.model.Categorical(np.ascontiguousarray(masses, np.float32), perfect=False)


def pick(table: NDArray[Any], index: NDArray[Any]) -> NDArray[Any]:
    """Return table[index]; no index may lie outside, so that numpy need not look, which takes twice the time."""
    return table.take(index, mode="clip")


class Tables:
    """Integer masses of all tables one after another; a table covers consecutive symbols, its last entry escapes.

    `first` is each table's first symbol, `lengths` its entries with the escape; `total` the sum of its masses.
    """

    def __init__(self, masses: Integers, first: Integers, lengths: Integers) -> None:
        self.masses, self.first = masses, first
        self.escape = (lengths - 1).astype(np.int32)
        self.start = np.cumsum(lengths) - lengths
        self.total = np.add.reduceat(masses, self.start, dtype=np.int64)
        self._models: dict[int, object] = {}

    def row(self, row: int) -> Integers:
        """Return the masses of a table."""
        return self.masses[self.start[row] : self.start[row] + self.escape[row] + 1]

    def model(self, row: int) -> object:
        """Return constriction's model of a table, built on first use."""
        if row not in self._models:
            self._models[row] = _categorical(self.row(row))
        return self._models[row]


class SymbolCoder(ABC):
    """See the module's text; `seconds` is the time spent in the coder so far."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def grouped(self, tables: Tables, index: Integers, symbols: Integers | None) -> Integers:
        """Code n symbols, symbol i by row index[i] of the tables."""
        began = time.perf_counter()
        first, escape = pick(tables.first, index), pick(tables.escape, index)
        entries = None if symbols is None else _entries(symbols - first, escape)
        # Sorted by table, so that each table is handed to the coder once; 16 bits are sorted three times as fast.
        sequence = np.argsort(index.astype(np.min_scalar_type(len(tables.first))), kind="stable")
        counts = np.bincount(index)
        present = np.flatnonzero(counts)
        ends = np.cumsum(counts)[present]
        starts = ends - counts[present]
        given = None if entries is None else pick(entries, sequence)
        coded, found = np.empty(len(index), np.int32), np.empty(len(index), np.int32)
        for row, start, end in zip(present.tolist(), starts.tolist(), ends.tolist(), strict=True):
            found[start:end] = self._run(tables, row, end - start, None if given is None else given[start:end])
        coded[sequence] = found
        result = self._finish(coded, first, escape, symbols)
        self.seconds += time.perf_counter() - began
        return result

    def rows(self, masses: NDArray[np.float32], first: Integers, symbols: Integers | None) -> Integers:
        """Code n symbols, symbol i by its own masses (n, L): consecutive symbols from first[i], then the escape."""
        began = time.perf_counter()
        masses = np.ascontiguousarray(masses)
        escape = np.full(len(first), masses.shape[1] - 1, np.int32)
        entries = None if symbols is None else _entries(symbols - first, escape)
        result = self._finish(self._run_rows(masses, entries), first, escape, symbols)
        self.seconds += time.perf_counter() - began
        return result

    def binary(self, chances: NDArray[np.float32], symbols: Integers | None) -> Integers:
        """Code n bits, of which bit i is a one with the probability chances[i]: within 0..1, the same everywhere."""
        began = time.perf_counter()
        result = self._binary(chances, symbols)
        self.seconds += time.perf_counter() - began
        return result

    def _finish(self, coded: Integers, first: Integers, escape: Integers, symbols: Integers | None) -> Integers:
        escaped = np.flatnonzero(coded == escape)
        result = coded + first
        if len(escaped):
            result[escaped] = self._escaped(len(escaped), None if symbols is None else symbols[escaped])
        return result

    def _escaped(self, count: int, symbols: Integers | None) -> Integers:
        # Zigzag plus one, so that every value has a leading one bit, which its length already tells.
        values = None if symbols is None else np.where(symbols < 0, -2 * symbols - 1, 2 * symbols) + 1
        lengths = None if values is None else (np.frexp(values)[1] - 1).astype(np.int32)
        lengths = self._uniform(_BITS, count, lengths)
        result = (1 << lengths).astype(np.int32)
        for length in range(1, _BITS):
            at = np.flatnonzero(lengths == length)
            if len(at):
                rest = None if values is None else (values[at] - (1 << length)).astype(np.int32)
                result[at] += self._uniform(1 << length, len(at), rest)
        result -= 1
        return np.where(result % 2, -(result + 1) // 2, result // 2).astype(np.int32)

    @abstractmethod
    def _run(self, tables: Tables, row: int, count: int, entries: Integers | None) -> Integers: ...

    @abstractmethod
    def _run_rows(self, masses: NDArray[np.float32], entries: Integers | None) -> Integers: ...

    @abstractmethod
    def _binary(self, chances: NDArray[np.float32], symbols: Integers | None) -> Integers: ...

    @abstractmethod
    def _uniform(self, size: int, count: int, entries: Integers | None) -> Integers: ...


def _entries(offset: Integers, escape: Integers) -> Integers:
    return np.where((offset < 0) | (offset > escape), escape, offset).astype(np.int32)


def _given(entries: Integers | None) -> Integers:
    assert entries is not None, "an encoder needs the symbols"
    return entries


class RangeEncoder(SymbolCoder):
    """Collects symbols; `finish` returns the bytes."""

    def __init__(self) -> None:
        super().__init__()
        self._encoder = constriction.stream.queue.RangeEncoder()

    def finish(self) -> bytes:
        """Return the compressed words, little-endian."""
        words: bytes = self._encoder.get_compressed().astype("<u4").tobytes()
        return words

    def _run(self, tables: Tables, row: int, count: int, entries: Integers | None) -> Integers:
        self._encoder.encode(_given(entries), tables.model(row))
        return _given(entries)

    def _run_rows(self, masses: NDArray[np.float32], entries: Integers | None) -> Integers:
        family = constriction.stream.model.Categorical(perfect=False)
        self._encoder.encode(_given(entries), family, masses)
        return _given(entries)

    def _binary(self, chances: NDArray[np.float32], symbols: Integers | None) -> Integers:
        self._encoder.encode(_given(symbols), _BERNOULLI, chances)
        return _given(symbols)

    def _uniform(self, size: int, count: int, entries: Integers | None) -> Integers:
        self._encoder.encode(_given(entries), constriction.stream.model.Uniform(size))
        return _given(entries)


class RangeDecoder(SymbolCoder):
    """Reads symbols from bytes that a `RangeEncoder` wrote. Raises `FormatError` for bytes that cannot be decoded."""

    def __init__(self, data: bytes) -> None:
        super().__init__()
        if len(data) % 4:
            raise FormatError("the latents are damaged: their length is not a whole number of words")
        self._decoder = constriction.stream.queue.RangeDecoder(np.frombuffer(data, "<u4").astype(np.uint32))

    def _decode(self, call: Callable[[], Integers]) -> Integers:
        try:
            return call().astype(np.int32, copy=False)
        except (AssertionError, ValueError) as error:
            raise FormatError("the latents are damaged: they do not decode with this model") from error

    def _run(self, tables: Tables, row: int, count: int, entries: Integers | None) -> Integers:
        return self._decode(lambda: self._decoder.decode(tables.model(row), count))

    def _run_rows(self, masses: NDArray[np.float32], entries: Integers | None) -> Integers:
        family = constriction.stream.model.Categorical(perfect=False)
        return self._decode(lambda: self._decoder.decode(family, masses))

    def _binary(self, chances: NDArray[np.float32], symbols: Integers | None) -> Integers:
        return self._decode(lambda: self._decoder.decode(_BERNOULLI, chances))

    def _uniform(self, size: int, count: int, entries: Integers | None) -> Integers:
        return self._decode(lambda: self._decoder.decode(constriction.stream.model.Uniform(size), count))


class Estimator(SymbolCoder):
    """Writes nothing and adds up what the tables say: `bits`."""

    def __init__(self) -> None:
        super().__init__()
        self.bits = 0.0

    def _run(self, tables: Tables, row: int, count: int, entries: Integers | None) -> Integers:
        masses = tables.row(row)
        self.bits -= float(np.log2(masses[_given(entries)] / masses.sum()).sum())
        return _given(entries)

    def _run_rows(self, masses: NDArray[np.float32], entries: Integers | None) -> Integers:
        picked = np.take_along_axis(masses, _given(entries)[:, None], 1)[:, 0]
        self.bits -= float(np.log2(picked / masses.sum(1)).sum())
        return _given(entries)

    def _binary(self, chances: NDArray[np.float32], symbols: Integers | None) -> Integers:
        self.bits -= float(np.log2(np.where(_given(symbols) == 1, chances, 1 - chances)).sum())
        return _given(symbols)

    def _uniform(self, size: int, count: int, entries: Integers | None) -> Integers:
        self.bits += count * float(np.log2(size))
        return _given(entries)
