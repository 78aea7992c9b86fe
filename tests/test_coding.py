"""The range coder over integer tables, escapes included."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vitrail import config, distributions, prior
from vitrail.coding import Estimator, RangeDecoder, RangeEncoder, Tables
from vitrail.coding.coders import LIMIT
from vitrail.errors import FormatError

symbols_lists = st.lists(st.one_of(st.integers(-5, 5), st.integers(-LIMIT, LIMIT)), max_size=60)


def tables() -> Tables:
    masses, reach = distributions.frozen_tables()
    first = -reach.numpy()
    return Tables(masses.numpy(), first, 2 * reach.numpy() + 3)


TABLES = tables()


@given(symbols_lists, st.randoms(use_true_random=False))
def test_grouped_symbols_return(symbols: list[int], random: st.DataObject) -> None:
    index = np.array([random.randrange(len(TABLES.first)) for _ in symbols], np.int32)  # type: ignore[attr-defined]
    given_symbols = np.array(symbols, np.int32)
    encoder = RangeEncoder()
    assert np.array_equal(encoder.grouped(TABLES, index, given_symbols), given_symbols)
    assert np.array_equal(RangeDecoder(encoder.finish()).grouped(TABLES, index, None), given_symbols)


@given(symbols_lists, st.integers(1, 3))
def test_a_distribution_returns_its_symbols_at_the_estimated_size(symbols: list[int], components: int) -> None:
    torch.manual_seed(len(symbols))
    for part in (config.Gaussian(), config.Mixture(components)):
        distribution = distributions.build(part)
        parameters = torch.randn(distribution.per_element, len(symbols)) * 3
        usual = torch.rand(len(symbols)) * 4
        given_symbols = np.array(symbols, np.int32)
        encoder, estimator = RangeEncoder(), Estimator()
        chosen = distribution.choose(parameters, usual)
        distribution.code(encoder, chosen, given_symbols)
        distribution.code(estimator, chosen, given_symbols)
        data = encoder.finish()
        assert np.array_equal(distribution.code(RangeDecoder(data), chosen, None), given_symbols)
        assert 8 * len(data) <= estimator.bits * 1.001 + 64


@given(st.lists(st.floats(-9, 9), max_size=50))
def test_counted_bits_are_those_of_the_tables(means: list[float]) -> None:
    torch.manual_seed(len(means))
    distribution = distributions.build(config.Gaussian())
    parameters = torch.stack([torch.tensor(means), torch.rand(len(means))])
    chosen, near = distribution.choose(parameters, torch.rand(len(means)) * 6), parameters[0].round().int().numpy()
    estimator = Estimator()
    distribution.code(estimator, chosen, near)
    assert distribution.count(chosen, near).sum() == pytest.approx(estimator.bits, rel=1e-5)


@pytest.mark.parametrize(("widest", "off"), [(0.6, 0.005), (6.0, 0.001)])
def test_training_counts_the_bits_of_the_tables(widest: float, off: float) -> None:
    torch.manual_seed(0)
    distribution = distributions.build(config.Gaussian())
    parameters, usual = torch.stack([torch.randn(20000) * 3, torch.rand(20000)]), torch.rand(20000) * widest
    scale = distributions.scales((parameters[1] + usual).clamp(0, 63 / 8))
    symbols = (parameters[0] + scale * torch.randn(20000)).round()
    bits = distribution.bits(symbols[None], parameters[None], usual[None]).sum()
    counted = distribution.count(distribution.choose(parameters, usual), symbols.int().numpy()).sum()
    assert counted == pytest.approx(float(bits), rel=off)


@given(st.lists(st.booleans(), min_size=3, max_size=3), st.integers(1, 5), st.integers(1, 6), st.integers(1, LIMIT))
def test_hyper_latents_return_at_the_estimated_size(
    predicted: list[bool], height: int, width: int, largest: int
) -> None:
    random = np.random.default_rng(largest)
    z = random.integers(-largest, largest + 1, (3, height, width), np.int32)
    density = prior.Prior(3)
    density.predicted.copy_(torch.tensor(predicted))
    torch.nn.init.normal_(density.log_widths, std=0.3)
    density.freeze()
    encoder, estimator = RangeEncoder(), Estimator()
    assert np.array_equal(density.code(encoder, (height, width), z), z)
    density.code(estimator, (height, width), z)
    data = encoder.finish()
    assert np.array_equal(density.code(RangeDecoder(data), (height, width), None), z)
    assert 8 * len(data) <= estimator.bits * 1.001 + 64
    if largest == 1:  # no table ends so near
        given = torch.from_numpy(z).float()[None]
        assert density.bits(given, given).sum().item() == pytest.approx(estimator.bits, rel=0.01)


def test_what_neighbours_suggest() -> None:
    z = torch.tensor([[[3, 5, 4], [2, 9, 9], [2, 7, 9]]])
    assert prior.suggested(z).tolist() == [[[0, 3, 5], [3, 4, 8], [2, 9, 7]]]


def test_how_busy_neighbours_are() -> None:
    sums = torch.tensor([[3, 5, 4], [8, 9, 9], [20, 13, 9]])
    # Of one on a border twice: 6, 10; 6, 13, 13; 16, 29, 22; at the corner nothing is known.
    assert prior.activity(sums).tolist() == [[2, 0, 1], [0, 1, 1], [2, 2, 2]]


def test_tables_are_whole_distributions() -> None:
    for row in range(len(TABLES.first)):
        masses = TABLES.row(row)
        assert masses.min() >= 1
        assert abs(masses.sum() / distributions.TOTAL - 1) < 0.01


def test_golden_words() -> None:
    """The coder's bytes are part of the format: other bytes from another version of the library must be noticed."""
    random = np.random.default_rng(0)
    index = random.integers(0, len(TABLES.first), 300).astype(np.int32)
    symbols = np.rint(random.normal(0, 3, 300)).astype(np.int32)
    symbols[::50] = 3000
    encoder = RangeEncoder()
    encoder.grouped(TABLES, index, symbols)
    assert encoder.finish()[:16].hex() == GOLDEN


GOLDEN = "003dffff0000423062ffcefa30aa4300"


@given(st.integers(-4000, 4000), st.integers(0, distributions.LEVELS - 1))
def test_a_table_is_chosen_by_the_fraction_of_the_mean(steps: int, level: int) -> None:
    count = distributions.FINE if level < distributions.NARROW else distributions.COARSE
    exponent = torch.tensor([level / 8.0])
    index, whole = distributions._indices(torch.tensor([steps / count]), exponent)
    start = sum(distributions.FINE if each < distributions.NARROW else distributions.COARSE for each in range(level))
    assert (int(whole[0]), int(index[0])) == (steps // count, start + steps % count)


SHAPES = st.sampled_from([distributions.gaussian, distributions.peaked])


@given(st.integers(-20, 20), st.floats(-3, 3), st.floats(0.11, 64), SHAPES, st.floats(0, 1))
def test_a_symbol_stands_for_the_mean_of_its_interval(
    symbol: int, mean: float, scale: float, shapes: distributions.Shapes, exponent: float
) -> None:
    values = torch.tensor([float(symbol)])
    shape = [tuple(map(float, part)) for part in shapes(torch.tensor(exponent))]
    found = float(distributions.centroids(values, torch.tensor([mean]), torch.tensor([scale]), shape))
    points = symbol + np.linspace(-0.5, 0.5, 20001)
    exponents = np.stack([-0.5 * ((points - mean) / (scale * width)) ** 2 for _, width in shape])
    shares = np.array([[share / width] for share, width in shape])
    weights = (shares * np.exp(exponents - exponents.max())).sum(0)
    assert abs(found - symbol) <= 0.5
    widest = max(width for _, width in shape)
    if abs(symbol - mean) - 0.5 < 6 * scale * min(1.0, widest):  # else the nearer edge is near enough
        assert found == pytest.approx(float((points * weights).sum() / weights.sum()), abs=0.01)


@given(symbols_lists)
def test_files_give_what_training_saw(symbols: list[int]) -> None:
    torch.manual_seed(len(symbols))
    distribution = distributions.build(config.Gaussian(), centroid=True)
    parameters, usual = torch.randn(2, len(symbols)) * 2, torch.rand(len(symbols)) * 6
    given_symbols = np.array(symbols, np.int32)
    seen = distribution.centroids(torch.from_numpy(given_symbols).float()[None], parameters[None], usual[None])[0]
    chosen = distribution.choose(parameters, usual)
    found = distribution.reconstruct(chosen, given_symbols)
    assert found.dtype == np.float32
    difference = np.abs(found - seen.numpy())
    assert (difference <= 0.5 + 1e-3).all()
    near = np.abs(given_symbols - parameters[0].numpy()) < 4 * distributions.scales(parameters[1] + usual).numpy()
    assert (difference[near] < 0.12).all()
    assert difference[near].sum() < 0.03 * near.sum() + 0.1
    plain = distributions.build(config.Gaussian())
    assert np.array_equal(plain.reconstruct(chosen, given_symbols), given_symbols)


@pytest.mark.parametrize("part", [config.Gaussian(), config.Mixture(3)])
def test_gradients_of_what_symbols_stand_for(part: config.Distribution) -> None:
    torch.manual_seed(0)
    distribution = distributions.build(part, centroid=True)
    parameters = (torch.randn(1, distribution.per_element, 999) * 3).requires_grad_()
    residual = (torch.randn(1, 999) * torch.logspace(-1, 3, 999)).requires_grad_()
    symbols = residual.detach().round()
    found = distribution.reconstruct_through(symbols, residual, parameters, torch.ones(1, 999))
    with torch.no_grad():
        assert torch.allclose(found, distribution.centroids(symbols, parameters, torch.ones(1, 999)), atol=1e-3)
    found.sum().backward()
    for each in (residual, parameters):
        assert each.grad is not None
        assert bool(each.grad.isfinite().all())


def test_what_a_narrow_zero_stands_for_is_the_parameters_to_say() -> None:
    distribution = distributions.build(config.Gaussian(), centroid=True)
    parameters = torch.tensor([[[0.2], [0.0]]], requires_grad=True)
    residual = torch.zeros(1, 1, requires_grad=True)
    distribution.reconstruct_through(residual.round(), residual, parameters, torch.zeros(1, 1)).sum().backward()
    assert residual.grad is not None
    assert parameters.grad is not None
    assert float(residual.grad) < 0.5
    assert float(parameters.grad[0, 0]) > 0.8


def test_tables_of_older_weights_are_used_and_renewed_when_saved() -> None:
    distribution = distributions.build(config.Mixture(3))
    fresh = distribution.table_masses.clone()
    distribution.table_masses.copy_((fresh / 4).ceil())
    parameters, symbols = torch.rand(9, 200), np.zeros(200, np.int32)
    usual = torch.full((200,), 4.0)  # scales of 3: nothing escapes
    older, renewed = Estimator(), Estimator()
    distribution.code(older, distribution.choose(parameters, usual), symbols)
    distribution.freeze()
    assert torch.equal(distribution.table_masses, fresh)
    distribution.code(renewed, distribution.choose(parameters, usual), symbols)
    assert older.bits == pytest.approx(renewed.bits, rel=0.01)


def test_narrowest_tables_are_of_what_is_narrower_too() -> None:
    narrowest, next_to_it = (distributions.build(config.Gaussian()).tables().row(at) for at in (8, 40))
    widest_of_both = distributions.frozen_tables(lambda exponent: ((1.0, 0.7),))[0][8 * 9 : 8 * 9 + 9].numpy()
    zero, one = 3, 4  # of -3 .. 4, and a mean of 1/4
    assert narrowest[one] < widest_of_both[one] < next_to_it[one]
    assert narrowest[zero] + 9 >= distributions.TOTAL


def test_a_mixture_can_have_the_peaked_shape() -> None:
    values = torch.randint(-9, 9, (2, 50)).float()
    mean, usual = torch.randn(2, 1, 50), 1 + torch.rand(2, 50) * 4
    shares, widths = torch.tensor(distributions.peaked(torch.tensor(9.0))).T
    wider = distributions.exponents(distributions.SMALLEST * 2 * widths) - distributions.exponents(
        torch.tensor(distributions.SMALLEST * 2)
    )
    mixed = torch.cat([each.expand(2, 2, 50) for each in (shares.log()[:, None], mean, wider[:, None])], 1)
    peaked = distributions.build(config.Gaussian()).bits(values, torch.cat([mean, 0 * mean], 1), usual)
    assert torch.allclose(peaked, distributions.build(config.Mixture(2)).bits(values, mixed, usual), atol=1e-4)


def test_components_may_change_places() -> None:
    mixture = distributions.build(config.Mixture(3))
    values, parameters = torch.randint(-9, 9, (1, 50)).float(), torch.randn(1, 9, 50)
    turned = parameters.unflatten(1, (3, 3)).roll(1, 2).flatten(1, 2)
    usual = torch.rand(1, 50) * 4
    assert torch.allclose(mixture.bits(values, parameters, usual), mixture.bits(values, turned, usual), atol=1e-4)


@pytest.mark.parametrize("part", [config.Gaussian(), config.Mixture(3)])
def test_probabilities_sum_to_one(part: config.Distribution) -> None:
    distribution = distributions.build(part)
    parameters = torch.randn(1, distribution.per_element, 1).expand(-1, -1, 201)
    bits = distribution.bits(torch.arange(-100.0, 101.0)[None], parameters, torch.full((1, 201), 3.0))
    assert (
        abs(float(torch.exp2(-bits.double()).sum()) - 1) < 5e-3
    )  # every symbol has at least the least mass of a table


def test_truncated_words() -> None:
    with pytest.raises(FormatError, match="damaged"):
        RangeDecoder(b"abc")
