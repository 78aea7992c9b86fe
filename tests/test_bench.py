"""Multiply-accumulates against the closed formulas, and the command that shows what coding takes."""

import json
from itertools import pairwise

import pytest
from click.testing import CliRunner

from vitrail.cli import main
from vitrail.config import named
from vitrail.evaluation import cost


def test_the_papers_count() -> None:
    """The formulas for M = N = 192, Ncs = 4, K = 8, L = 8, 384 channels, on whole windows; in kMAC/px."""
    m, segments, k, layers, d = 192, 4, 8, 8, 384
    linear = 12 * layers * d**2 * segments / 256 * 7 / 8
    attention = 2 * layers * d * (k**2 / 2) * 28 / 512
    embedding = m / segments * d * segments / 256 * 7 / 8
    widths = [2 * m + d, 704, 640, 9 * m // segments]
    networks = segments / 256 * sum(a * b for a, b in pairwise(widths))
    counted = cost.count(named("econtextformer"), (128, 128))
    assert counted.context_decode == pytest.approx((linear + attention + embedding + networks) / 1000, rel=0.02)
    assert counted.hyper_analysis == pytest.approx(9.22, rel=0.02)
    assert counted.hyper_synthesis == pytest.approx(13.50, rel=0.02)


def test_bench() -> None:
    result = CliRunner().invoke(main, ["bench", "mcdh-s", "hyperprior-s", "--size", "100x64", "--runs", "1", "--json"])
    assert result.exit_code == 0, result.output
    shipped, untrained = json.loads(result.stdout)
    assert (shipped["trained"], untrained["trained"]) == (True, False)
    for row in (shipped, untrained):
        assert 0 < row["encode_coder_s"] < row["encode_s"]
        assert 0 < row["decode_coder_s"] < row["decode_s"]
        assert row["peak_mib"] > 50
        assert row["kmac"]["decode"] > row["kmac"]["synthesis"] > 1
    table = CliRunner().invoke(main, ["bench", "hyperprior-s", "--size", "64x64", "--runs", "1"]).stdout
    assert "hyperprior-s, untrained | 64 x 64, cpu" in table


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nothing"], "nothing"),
        (["mcdh-s", "--size", "8x8"], "768x512"),
        (["mcdh-s", "--size", "large"], "768x512"),
        (["mcdh-s", "--size", "99999x99999"], "smaller"),
    ],
)
def test_bench_says_what_is_wrong(arguments: list[str], message: str) -> None:
    result = CliRunner().invoke(main, ["bench", *arguments])
    assert result.exit_code == 1
    assert message in result.stderr
    assert "Traceback" not in result.stderr
