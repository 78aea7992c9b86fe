"""Coding orders as data: which elements of the latent are coded together, and after which others.

An element belongs to a channel segment (contiguous channels) and a phase (a class of positions). A group is one
segment at the positions of one phase; its elements are coded at once, given all earlier groups.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from vitrail.errors import ModelError


@dataclass(frozen=True)
class Group:
    """One step: the channels of `segment` at the positions of `phase`."""

    segment: int
    phase: int


@dataclass(frozen=True)
class Order:
    """Groups in the sequence in which they are coded; `phases` is 1 (all positions) or 2 (checkerboard)."""

    segments: int
    phases: int
    groups: tuple[Group, ...]

    def sequence(self, height: int, width: int) -> tuple[Group, ...]:
        """Return the groups of a height x width latent."""
        return self.groups

    def positions(self, height: int, width: int) -> list[Tensor]:
        """Return for every phase the row-major indices (int64) of its positions in a height x width map.

        On a checkerboard phase 0 holds the positions whose row + column is even (eContextformer, section III-B).
        """
        rows = torch.arange(height, device="cpu").unsqueeze(1)
        columns = torch.arange(width, device="cpu").unsqueeze(0)
        phase = ((rows + columns) % self.phases).flatten()
        return [torch.nonzero(phase == index).flatten() for index in range(self.phases)]


@dataclass(frozen=True)
class Serial(Order):
    """One position of one segment after another, positions in row-major order; how many depends on the latent's size.

    `sfo`: all positions of a segment, then the next segment; else all segments at a position (cfo).
    """

    phases: int = 0
    groups: tuple[Group, ...] = ()
    sfo: bool = True

    def sequence(self, height: int, width: int) -> tuple[Group, ...]:
        """See `Order`."""
        places, segments = range(height * width), range(self.segments)
        if self.sfo:
            return tuple(Group(segment, place) for segment in segments for place in places)
        return tuple(Group(segment, place) for place in places for segment in segments)

    def positions(self, height: int, width: int) -> list[Tensor]:
        """See `Order`."""
        return list(torch.arange(height * width, device="cpu").split(1))


def sfo(segments: int) -> Order:
    """Spatial first: both phases of a segment, then the next segment."""
    return Order(segments, 2, tuple(Group(s, p) for s in range(segments) for p in range(2)))


def cfo(segments: int) -> Order:
    """Channel first: all segments at one phase, then all at the other."""
    return Order(segments, 2, tuple(Group(s, p) for p in range(2) for s in range(segments)))


def whole(segments: int = 1) -> Order:
    """All positions of a segment at once; one segment is everything in one group."""
    return Order(segments, 1, tuple(Group(segment, 0) for segment in range(segments)))


def checkered(name: str, segments: int) -> Order:
    """Return the order called `sfo` or `cfo`. Raises `ModelError` for another name."""
    orders = {"sfo": sfo, "cfo": cfo}
    if name not in orders:
        raise ModelError(f"no coding order is called {name!r}; there are {', '.join(orders)}")
    return orders[name](segments)
