"""`vitrail results`: what it writes, and that it measures nothing twice."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from PIL import Image

from vitrail.cli import main
from vitrail.evaluation import cache
from vitrail.evaluation.cache import Cache
from vitrail.evaluation.codecs import codec, nearest

CURVES = Path(__file__).parents[1] / "benchmarks" / "kodak_psnr.json"
MARKED = "above\n<!-- begin: vitrail results -->\nold\n<!-- end: vitrail results -->\nbelow\n"


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["results", *map(str, arguments)])


@pytest.fixture
def folder(tmp_path: Path, photo: Image.Image) -> Path:
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for name, left in ("a", 100), ("b", 400):
        photo.crop((left, 100, left + 180, 270)).save(pictures / f"{name}.png")
    return pictures


def test_tables_plots_and_pictures(folder: Path, tmp_path: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out, markdown = tmp_path / "out", tmp_path / "page.md"
    markdown.write_text(MARKED)
    sizes = tmp_path / "sizes.json"
    row = {"name": "m", "trained": True, "device": "cpu", "photo": "p.png", "parameters": 1, "kmac": {}, "bpp": 1.0}
    row |= {"encode_s": 1.0, "encode_coder_s": 0.1, "decode_s": 1.0, "decode_coder_s": 0.1, "peak_mib": 9.0}
    sizes.write_text(json.dumps([row | {"width": side, "height": side} for side in (10, 100)]))
    arguments = [folder, "--out", out, "--model", tiny, "--model", "jpeg", "--published", CURVES, "--sizes", sizes]
    assert run(*arguments, "--markdown", markdown).exit_code == 0
    page, tables = (out / "index.html").read_text(), markdown.read_text()
    assert page.count("<svg") == 4  # PSNR, MS-SSIM, seconds, growth
    assert "encode ~ pixels^" in tables
    assert tables.startswith("above\n<!-- begin")
    assert tables.endswith("end: vitrail results -->\nbelow\n")
    assert "\nold\n" not in tables
    assert "| compressai/vtm | " in tables
    assert "compressai/vtm" in page
    for picture in (out / "pictures").glob("*.webp"):
        assert picture.name in page
    assert len(list((out / "pictures").glob("*.webp"))) == 6
    report = json.loads((out / "reports" / "jpeg.json").read_text())
    assert report["pictures"] == 2
    assert "| jpeg | " in tables.split("### Speed")[0]
    assert "+0.0" not in tables
    assert f"| jpeg | 5 | {report['points'][0]['bpp']:.4f} |" in tables

    monkeypatch.setattr(cache, "measure", lambda *_: pytest.fail("measured again"))
    assert run(*arguments, "--markdown", markdown).exit_code == 0
    assert markdown.read_text() == tables
    assert (out / "index.html").read_text().count("<svg") == 4


def test_a_cache_knows_pixels_settings_and_damage(tmp_path: Path, photo: Image.Image) -> None:
    kept, image = Cache(tmp_path), photo.crop((0, 0, 64, 48))
    first = kept.measure(codec("jpeg"), "a", image, 30)
    assert kept.measure(codec("jpeg"), "b", image, 30).file == "b"
    assert len(list(tmp_path.iterdir())) == 1
    kept.measure(codec("jpeg"), "a", photo.crop((0, 0, 48, 64)), 30)
    kept.measure(codec("jpeg"), "a", image, 31)
    kept.measure(codec("webp"), "a", image, 30)
    assert len(list(tmp_path.iterdir())) == 4
    for file in tmp_path.iterdir():
        file.write_text("{")
    again = kept.measure(codec("jpeg"), "a", image, 30)
    assert (again.bytes, again.psnr) == (first.bytes, first.psnr)


def test_faults_are_found_before_anything_is_measured(folder: Path, tmp_path: Path) -> None:
    markdown = tmp_path / "page.md"
    markdown.write_text("no marks")
    uneven = tmp_path / "uneven.json"
    uneven.write_text('{"metric": "psnr", "curves": [{"name": "x", "bpp": [1], "psnr": [1, 2]}]}')
    for extra, said in (
        (["--markdown", markdown], "write the lines"),
        (["--published", markdown], "curves"),
        (["--published", uneven], "more rates"),
        (["--sizes", markdown], "vitrail bench"),
        (["--model", "jpeg", "--model", "jpeg"], "named twice"),
        (["--model", "nothing"], "nothing"),
    ):
        result = run(folder, "--out", tmp_path / "out", *extra)
        assert result.exit_code == 1
        assert said in result.stderr
    assert not (tmp_path / "out").exists()


def test_the_nearest_size_is_found_and_the_ends_of_the_scale_hold() -> None:
    class Linear:
        name = identity = "linear"
        qualities = (50,)
        lowest = 0

        def encode(self, image: Image.Image, quality: int) -> tuple[bytes, None]:
            return bytes(100 + 10 * quality), None

        def decode(self, data: bytes) -> tuple[Image.Image, None]:
            raise NotImplementedError

    sizes = {5: 0, 100: 0, 154: 5, 156: 6, 1096: 100, 9999: 100}
    image = Image.new("RGB", (64, 64))
    assert {size: nearest(Linear(), image, size) for size in sizes} == sizes
    assert nearest(codec("econtextformer-s"), image, 1) == 1
