"""Multiply-accumulates against the closed formulas, and the command that shows what coding takes."""

import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
from click.testing import CliRunner
from PIL import Image

from vitrail import postfilter
from vitrail.cli import main
from vitrail.config import named
from vitrail.evaluation import bench, cost


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


def test_the_filters_count() -> None:
    """Products of all that a filter reads of a pixel, into three samples."""
    counted = cost.count(named("econtextformer-s"), (64, 64))
    assert counted.post_filter == pytest.approx(3 * postfilter.READINGS / 1000, rel=0.02)


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


def test_growth_with_size(tmp_path: Path, photo: Image.Image) -> None:
    photo.crop((0, 0, 80, 60)).save(tmp_path / "photo.png")
    sizes = [text for side in (32, 64, 128) for text in ("--size", f"{side}x{side}")]
    arguments = ["bench", "hyperprior-s", "--runs", "1", "--photo", str(tmp_path / "photo.png"), *sizes]
    lines = CliRunner().invoke(main, arguments).stdout.splitlines()
    assert [line.split(" | ")[1] for line in lines[2:5]] == ["32 x 32, cpu", "64 x 64, cpu", "128 x 128, cpu"]
    assert lines[5].startswith("hyperprior-s: encode ~ pixels^")
    (tmp_path / "rows.json").write_text(CliRunner().invoke(main, [*arguments, "--json"]).stdout)
    rows = bench.load(tmp_path / "rows.json")
    measured = [replace(row, encode_s=3 * row.megapixels**0.8, bpp=1.5) for row in rows]
    assert bench.growth(measured)["hyperprior-s"]["encode"] == pytest.approx(0.8)
    assert bench.growth(measured)["hyperprior-s"]["bits per pixel"] == pytest.approx(0, abs=1e-9)
    assert bench.growth(measured[:1]) == {}


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
