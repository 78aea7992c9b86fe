"""Coding orders and the rearrangement into slots."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vitrail import orders
from vitrail.config import EContextformer
from vitrail.contexts.econtextformer import _Geometry
from vitrail.errors import ModelError

sides = st.integers(1, 40)


@given(sides, sides)
def test_phases_part_the_positions(height: int, width: int) -> None:
    phases = orders.sfo(4).positions(height, width)
    assert sorted(torch.cat(phases).tolist()) == list(range(height * width))
    assert 0 <= len(phases[0]) - len(phases[1]) <= 1
    assert orders.whole().positions(height, width)[0].tolist() == list(range(height * width))


def test_orders_hold_the_same_groups() -> None:
    sfo, cfo = orders.sfo(4), orders.cfo(4)
    assert set(sfo.groups) == set(cfo.groups)
    assert len(sfo.groups) == 8
    assert [(g.segment, g.phase) for g in sfo.groups[:3]] == [(0, 0), (0, 1), (1, 0)]
    assert [(g.segment, g.phase) for g in cfo.groups[:3]] == [(0, 0), (1, 0), (2, 0)]


def test_unknown_order() -> None:
    with pytest.raises(ModelError, match="zigzag"):
        orders.checkered("zigzag", 4)


@given(sides, sides, st.sampled_from([4, 8]), st.booleans(), st.sampled_from([orders.sfo(1), orders.whole()]))
def test_windows_invert(height: int, width: int, window: int, shift: bool, order: orders.Order) -> None:
    geometry = _Geometry(order, height, width, EContextformer(window=window), torch.device("cpu"))
    x = torch.rand(2, 3, *geometry.size, 5)
    windows = geometry.partition(x, shift)
    assert windows.shape[1:] == (3 * window * window // order.phases, 5)
    assert torch.equal(geometry.merge(windows, 3, shift), x)


@given(sides, sides)
def test_slots_are_the_positions_of_their_phase(height: int, width: int) -> None:
    geometry = _Geometry(orders.sfo(1), height, width, EContextformer(window=4), torch.device("cpu"))
    row, column = torch.arange(geometry.size[0])[:, None], torch.arange(geometry.size[1])
    for phase, positions in enumerate(orders.sfo(1).positions(height, width)):
        place = row * width + 2 * column + (row + phase) % 2
        assert torch.equal(place.flatten()[geometry.slots[phase]], positions)
