"""A picture's own filter: what it mends, what it costs, and that decoders see the same one."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import TINY, wake
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from vitrail import codec, picture, weights
from vitrail.coding import RangeDecoder, RangeEncoder
from vitrail.distributions import TOTAL
from vitrail.model import Model
from vitrail.postfilter import REACH, PostFilter

DIRECTIONS = 5


def _reading(row: int, column: int) -> int:
    """Return the first of the readings of a neighbour."""
    place = row * 5 + column
    return 4 + 6 * (place - (place > 12))


def fitted() -> PostFilter:
    """Return a filter that can move each colour plane sideways, lighten all of them, and smooth small differences."""
    built = PostFilter(DIRECTIONS)
    for plane in range(3):
        built.taps[plane, plane, _reading(2, 1) + plane], built.taps[plane, plane, _reading(2, 3) + plane] = -20.0, 20.0
    built.taps[3, :, 3] = 1.0
    for plane in range(3):
        built.taps[4, plane, 7 + plane :: 6] = 20.0
    masses = torch.exp(-torch.arange(-REACH, REACH + 1).abs() / 6)
    built.table_rows[:, :-1] = (masses / masses.sum() * TOTAL).round().clamp(min=1).int()
    built.table_rows[:, -1] = 1
    return built


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory, photo: Image.Image) -> tuple[Model, Model]:
    """Two models of the same parameters, with a filter and without."""
    folder = tmp_path_factory.mktemp("postfilter")
    torch.manual_seed(0)
    plain = Model(TINY)
    pixels = torch.from_numpy(np.array(photo)).permute(2, 0, 1).float() / 255
    plain.fit(pixels.unfold(1, 16, 16).unfold(2, 16, 16).permute(1, 2, 0, 3, 4).reshape(-1, 3, 16, 16))
    wake(plain)
    filtering = Model(replace(TINY, post_filters=DIRECTIONS))
    filtering.load_state_dict(plain.state_dict(), strict=False)
    filtering.post_filter = fitted()
    loaded = []
    for name, model in (("with", filtering), ("without", plain)):
        weights.save(model, folder / name, {})
        loaded.append(weights.load(folder / name))
    return loaded[0], loaded[1]


def test_it_mends_what_directions_can(models: tuple[Model, Model], photo: Image.Image) -> None:
    source = picture.read(photo.crop((0, 0, 250, 170)))
    errors, sizes = [], []
    for model in models:
        data = codec.encode(source, model, 50).data
        decoded = np.asarray(codec.decode(data, model).image, np.float64)
        errors.append(np.square(decoded - source.pixels).mean())
        sizes.append(len(data))
    assert errors[0] < errors[1]
    assert sizes[1] <= sizes[0] <= sizes[1] + 8


def test_a_moved_plane_and_a_lighter_picture_are_found(photo: Image.Image) -> None:
    clean = torch.from_numpy(np.array(photo.resize((192, 128)))).permute(2, 0, 1)[None].float() / 255
    numbers = np.array([20, 0, -12, 8, 5], np.int32)
    own, multiplier = fitted(), 0.01
    wanted = own(clean, numbers, multiplier)
    found = own.fit(*own.loss(wanted, clean, multiplier))
    assert np.abs(found - numbers).max() <= 1  # smaller ones take fewer bits
    assert found[1] == 0
    assert not own.fit(*own.loss(clean, clean, multiplier)).any()


def test_clipped_differences_leave_edges_and_mend_noise() -> None:
    multiplier, numbers = 0.01, np.array([0, 0, 0, 0, 5], np.int32)
    edge = torch.full((1, 3, 16, 16), 0.2)
    edge[..., 8:] = 0.8
    noisy = edge + 0.01 * torch.randn(edge.shape, generator=torch.Generator().manual_seed(0))
    mended = fitted()(noisy, numbers, multiplier)
    flat = torch.ones(16, dtype=torch.bool)
    flat[6:10] = False
    assert (mended - edge)[..., flat].square().mean() < 0.5 * (noisy - edge)[..., flat].square().mean()
    moved = (fitted()(edge, numbers, multiplier) - edge).abs().max()
    assert 0 < moved < 0.05  # as much at an edge of any height


def test_without_directions_files_are_as_without_a_filter(
    models: tuple[Model, Model], photo: Image.Image, tmp_path: Path
) -> None:
    model = Model(replace(TINY, post_filters=DIRECTIONS))
    model.load_state_dict(models[1].state_dict(), strict=False)
    weights.save(model, tmp_path / "w", {})
    source = picture.read(photo.crop((0, 0, 70, 40)))
    data = codec.encode(source, weights.load(tmp_path / "w"), 50).data
    assert len(data) == len(codec.encode(source, models[1], 50).data)


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (640, 500)])
def test_any_size(models: tuple[Model, Model], photo: Image.Image, size: tuple[int, int]) -> None:
    source = picture.read(photo.crop((0, 0, *size)))
    latents = models[0].latents(torch.zeros(1, 3, size[1], size[0]), 50)
    assert latents.filter is None
    data = codec.encode(source, models[0], 90).data
    assert codec.decode(data, models[0]).image.size == size


def test_an_encoder_without_numbers_writes_zeros(models: tuple[Model, Model]) -> None:
    model = models[0]
    latents = model.latents(torch.rand(1, 3, 32, 32), 50)
    encoder = RangeEncoder()
    model.traverse(encoder, (32, 32), 50, latents)
    decoded = model.traverse(RangeDecoder(encoder.finish()), (32, 32), 50)
    assert decoded.filter is not None
    assert not decoded.filter.any()


@given(st.lists(st.integers(-(2**15), 2**15 - 1), min_size=DIRECTIONS, max_size=DIRECTIONS))
def test_numbers_return_and_none_is_too_large(numbers: list[int]) -> None:
    own, encoder = fitted(), RangeEncoder()
    own.code(encoder, np.array(numbers, np.int32))
    found = own.code(RangeDecoder(encoder.finish()), None)
    assert found.tolist() == numbers
    assert bool(own(torch.rand(1, 3, 8, 8), found, 1e-4).isfinite().all())
