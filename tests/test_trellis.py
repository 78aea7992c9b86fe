"""Trellis-coded quantisation: what is written is read, the best path is the best, and files get shorter."""

import zlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import TINY, wake
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

import vitrail
from vitrail import codec, config, distributions, picture, trellis
from vitrail.coding import LIMIT, Estimator, RangeDecoder, RangeEncoder
from vitrail.distributions import LEVELS, OFFSET_UNITS
from vitrail.model import Latents, Model
from vitrail.trellis import FROM, HALF, Machine, Trellis

GAUSSIAN = distributions.Gaussian(centroid=True)


@pytest.fixture(scope="module")
def guessed() -> Trellis:
    own = Trellis(4, config.Trellis())
    own.guess()
    return own


def chosen(count: int, seed: int = 0) -> torch.Tensor:
    """Return what a distribution chooses for elements of all scales."""
    generator = torch.Generator().manual_seed(seed)
    parameters = torch.stack([torch.randn(count, generator=generator) * 2, torch.zeros(count)])
    return GAUSSIAN.choose(parameters, torch.rand(count, generator=generator) * 6)


@given(st.lists(st.one_of(st.integers(-3, 3), st.integers(-LIMIT, LIMIT)), max_size=700), st.integers(0, 9))
def test_symbols_return_at_the_counted_size(guessed: Trellis, symbols: list[int], seed: int) -> None:
    at, given_symbols = chosen(len(symbols), seed), np.array(symbols, np.int32)
    encoder, estimator = RangeEncoder(), Estimator()
    assert np.array_equal(guessed.code(encoder, GAUSSIAN, at, given_symbols), given_symbols)
    guessed.code(estimator, GAUSSIAN, at, given_symbols)
    data = encoder.finish()
    assert np.array_equal(guessed.code(RangeDecoder(data), GAUSSIAN, at, None), given_symbols)
    assert 8 * len(data) <= estimator.bits * 1.001 + 64


def test_counted_bits_are_those_of_the_coder(guessed: Trellis) -> None:
    at, estimator = chosen(3000), Estimator()
    _, means = GAUSSIAN.moments(at)
    symbols, _, _ = guessed.quantise(GAUSSIAN, at, means, np.full(3000, 8.0, np.float32), np.ones(LEVELS, np.float32))
    guessed.code(estimator, GAUSSIAN, at, symbols)
    assert guessed.count(GAUSSIAN, at, symbols).sum() == pytest.approx(estimator.bits, rel=1e-3)


def test_two_quantisers_share_zero_and_half_steps(guessed: Trellis) -> None:
    count = 64
    levels = np.full(count, FROM, np.int32)
    random = np.random.default_rng(0)
    symbols = random.integers(-3, 4, count).astype(np.int32)
    quantisers = guessed.machine.quantisers(symbols & 1)
    points, meant = guessed._values(levels, symbols, quantisers)
    assert set(quantisers) == {0, 1}
    halves = points / HALF
    assert np.array_equal(points, meant)  # no offsets yet
    assert np.array_equal(np.sign(halves), np.sign(symbols))
    assert (halves[(quantisers == 0)] % 2 == 0).all()
    assert (halves[(quantisers == 1) & (symbols != 0)] % 2 == 1).all()


def test_a_symbol_stands_for_its_offset_outwards() -> None:
    own = Trellis(1, config.Trellis())
    own.guess()
    own.table_offsets[own.start[0] + 1] = -OFFSET_UNITS // 8
    points, meant = own._values(np.full(2, FROM, np.int32), np.array([0, -1], np.int32), np.zeros(2, np.int32))
    assert (meant - points).tolist() == [0, 0.125]


@given(st.integers(0, 10**6), st.sampled_from(sorted(trellis._CHECKS)), st.sampled_from([0.0, 0.9, 1.0]))
def test_the_best_path_is_the_best(seed: int, registers: int, extreme: float) -> None:
    machine, random, shape = Machine(config.Trellis(registers)), np.random.default_rng(seed), (4, 40, 2)
    parts = np.where(random.random(shape) < extreme, random.choice([0, trellis._DEAREST], shape), random.random(shape))
    costs = ((parts * trellis._PARTS).round() / trellis._PARTS).astype(np.float32)
    path = machine.best(costs)
    starts = np.repeat(np.arange(machine.states), 2)
    for lane in range(shape[2]):
        state, loss, least = 0, 0.0, np.where(np.arange(machine.states), np.inf, 0)
        for step, kind in enumerate(path[:, lane]):
            assert kind >> 1 == state & 1
            loss, state = loss + costs[kind, step, lane], machine.after[2 * state + (kind & 1)]
            ways = least[starts] + costs[2 * (starts & 1) + np.arange(len(starts)) % 2, step, lane]
            least = np.full(machine.states, np.inf)
            np.minimum.at(least, machine.after, ways)
        assert loss == least.min()


@given(st.integers(0, 2000), st.sampled_from(sorted(trellis._CHECKS)), st.integers(1, 600))
def test_known_parities_give_the_quantisers_of_a_walk(count: int, registers: int, lane: int) -> None:
    machine = Machine(config.Trellis(registers, lane))
    parities = np.random.default_rng(count).integers(0, 2, count).astype(np.int32)
    walked, quantisers = machine.walk(count, lambda at, own: parities[at])
    assert np.array_equal(walked, parities)
    assert np.array_equal(machine.quantisers(parities), quantisers)


def test_it_beats_rounding_alone(guessed: Trellis) -> None:
    count, weight = 20000, 8.66  # where a step of one is best
    random = np.random.default_rng(0)
    at = GAUSSIAN.choose(torch.zeros(2, count), torch.full((count,), float(distributions.exponents(torch.tensor(1.5)))))
    values = random.normal(0, 1.5, count).astype(np.float32)
    weights, by_level = np.full(count, weight, np.float32), np.ones(LEVELS, np.float32)

    def loss(bits: NDArray[np.float32], meant: NDArray[np.float32]) -> float:
        return float(bits.sum() + weight * np.square(meant - values).sum()) / count

    rounded = values.round().astype(np.int32)
    plain = loss(GAUSSIAN.count(at, rounded), GAUSSIAN.reconstruct(at, rounded))
    symbols, points, meant = guessed.quantise(GAUSSIAN, at, values, weights, by_level)
    assert all(map(np.array_equal, guessed.meant(GAUSSIAN, at, symbols), (points, meant)))
    followed = loss(guessed.count(GAUSSIAN, at, symbols), meant)
    assert followed < plain - 0.1  # bits a symbol, of the quarter that there is


@pytest.mark.parametrize("name", ["econtextformer-s", "econtextformer-m", "mcdh-s"])
def test_the_package_gains_by_it(name: str, photo: Image.Image) -> None:
    model = vitrail.load_model(name)
    assert model.own_trellis is not None
    assert model.config.trellis == config.named(name).trellis
    without = Model(replace(model.config, trellis=None)).eval()
    without.load_state_dict(model.state_dict(), strict=False)
    source = picture.read(photo.crop((100, 100, 356, 356)))
    x = torch.from_numpy(source.pixels).permute(2, 0, 1)[None].float() / 255
    losses = []
    for each in (model, without):
        with torch.no_grad():
            output = each(x, 50)
        bits = float(output.y_bits.sum() + output.z_bits.sum())
        mse = float((output.x_hat - x).square().mean())
        losses.append(bits + model.multiplier(50) * 255**2 * mse * 256**2)
    assert losses[0] < 0.985 * losses[1]


def test_models_code_with_it_once_it_has_tables(photo: Image.Image) -> None:
    torch.manual_seed(0)
    model = Model(replace(TINY, exact=True, trellis=config.Trellis(5))).eval()
    wake(model)
    model.freeze()
    x = torch.from_numpy(np.array(photo.crop((200, 100, 340, 190)))).permute(2, 0, 1)[None].float() / 255
    strings = []
    for fitted in (False, True):
        assert (model.own_trellis is not None) == fitted
        compressed = model.compress(x, 80)
        with torch.no_grad():
            assert torch.equal(model.decompress(**compressed)["x_hat"], model(x, 80).x_hat.clamp(0, 1))
        strings.append(compressed["strings"][0])
        assert model.trellis is not None
        model.trellis.guess()
    assert strings[0] != strings[1]
    assert model.in_floats().own_trellis is None


def test_symbols_beyond_all_tables_keep_their_path(guessed: Trellis) -> None:
    count = 300
    parameters = torch.stack([torch.full((count,), -16384.0), torch.zeros(count)])
    at = GAUSSIAN.choose(parameters, torch.full((count,), 3.0))
    values = np.where(np.arange(count) % 2, LIMIT, -LIMIT).astype(np.float32)
    weights, by_level = np.full(count, 8.0, np.float32), np.ones(LEVELS, np.float32)
    symbols, points, meant = guessed.quantise(GAUSSIAN, at, values, weights, by_level)
    assert np.abs(symbols).max() <= LIMIT
    assert all(map(np.array_equal, guessed.meant(GAUSSIAN, at, symbols), (points, meant)))


def test_threads_encode_and_decode_at_once(photo: Image.Image) -> None:
    model, source = vitrail.load_model(), picture.read(photo.crop((0, 0, 64, 64)))
    data = codec.encode(source, model, 50).data

    def work(number: int) -> bytes:
        if number % 2:
            return codec.encode(source, model, 50).data
        return codec.decode(data, model).image.tobytes()

    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(work, range(8), timeout=60))
    assert len(set(found)) == 2


def test_levels_are_those_that_were_coded(photo: Image.Image) -> None:
    model = vitrail.load_model()
    x = torch.from_numpy(np.array(photo.crop((0, 0, 64, 64)))).permute(2, 0, 1)[None].float() / 255
    latents = model.latents(x, 50)
    levels = model.levels(latents, 50)
    assert (levels >= FROM).any()
    assert np.array_equal(levels, model.levels(Latents(latents.y, latents.z), 50))


def test_it_needs_gaussians_with_centroids() -> None:
    for settings in ({"distribution": config.Mixture(), "exact": False}, {"centroid": False}):
        with pytest.raises(vitrail.ModelError, match="trellis"):
            Model(replace(config.named("econtextformer-s"), **settings))


def test_damaged_bytes_are_refused(photo: Image.Image) -> None:
    model = vitrail.load_model()
    data = bytearray(codec.encode(picture.read(photo.crop((0, 0, 64, 64))), model, 50).data)
    data[30] ^= 64
    data[-4:] = zlib.crc32(data[:-4]).to_bytes(4, "little")
    with pytest.raises(vitrail.FormatError):
        codec.decode(bytes(data), model)
