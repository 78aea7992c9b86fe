"""The range coder over integer tables, escapes included."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vitrail import config, distributions
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
        distribution.code(encoder, parameters, usual, given_symbols)
        distribution.code(estimator, parameters, usual, given_symbols)
        data = encoder.finish()
        assert np.array_equal(distribution.code(RangeDecoder(data), parameters, usual, None), given_symbols)
        assert 8 * len(data) <= estimator.bits * 1.001 + 64


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


def test_tables_of_older_weights_are_used_and_renewed_when_saved() -> None:
    distribution = distributions.build(config.Mixture(3))
    fresh = distribution.table_masses.clone()
    distribution.table_masses.copy_((fresh / 4).ceil())
    parameters, symbols = torch.rand(9, 200), np.zeros(200, np.int32)
    usual = torch.full((200,), 4.0)  # scales of 3: nothing escapes
    older, renewed = Estimator(), Estimator()
    distribution.code(older, parameters, usual, symbols)
    distribution.freeze()
    assert torch.equal(distribution.table_masses, fresh)
    distribution.code(renewed, parameters, usual, symbols)
    assert older.bits == pytest.approx(renewed.bits, rel=0.01)


def test_mixture_of_one_is_the_gaussian() -> None:
    values = torch.randint(-9, 9, (2, 50)).float()
    moments = torch.randn(2, 2, 50)
    usual = torch.rand(2, 50) * 4
    one = torch.cat([torch.randn(2, 1, 50), moments], 1)
    gaussian = distributions.build(config.Gaussian()).bits(values, moments, usual)
    assert torch.allclose(gaussian, distributions.build(config.Mixture(1)).bits(values, one, usual), atol=1e-4)


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
