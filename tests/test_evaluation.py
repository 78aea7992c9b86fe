import json
import warnings
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from vitrail.cli.eval import eval_
from vitrail.errors import UsageError, VitrailError
from vitrail.evaluation.bdrate import Curve, bd_rate, bd_rate_or_none, load_curve
from vitrail.evaluation.codecs import PEERS, codec
from vitrail.evaluation.metrics import MS_SSIM_MIN_SIDE, PSNR_CAP, ms_ssim, psnr
from vitrail.evaluation.sweep import Point, evaluate

CURVES = Path(__file__).parents[1] / "benchmarks" / "kodak_psnr.json"
ANCHOR = Curve("anchor", (0.1, 0.2, 0.4, 0.8), (28.0, 30.5, 33.0, 36.0))


def photo(height: int, width: int) -> np.ndarray:
    """Something like a photograph: smooth colours, an edge, a little grain."""
    y, x = np.mgrid[:height, :width]
    waves = np.stack([np.sin(x / 9 + y / 23), np.cos(y / 7), np.sin((x + y) / 31)], axis=-1)
    grain = np.random.default_rng(0).normal(0, 4, (height, width, 3))
    return (120 + 60 * waves + 40 * (x > width / 2)[..., None] + grain).clip(0, 255).astype(np.uint8)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    Image.fromarray(photo(48, 64)).save(pictures / "b.png")
    Image.fromarray(photo(64, 40)).convert("L").save(pictures / "a.webp", lossless=True)
    (pictures / "notes.txt").write_text("not a picture")
    return pictures


def test_psnr_is_that_of_the_mean_square_over_all_samples():
    a = photo(20, 30)
    b = a.copy()
    b[:10] ^= 1  # half of all samples off by one
    assert psnr(a, b) == pytest.approx(10 * np.log10(255**2 / 0.5), abs=1e-6)
    assert psnr(a, a) == PSNR_CAP


def test_ms_ssim_falls_with_noise_and_needs_five_scales():
    a = photo(MS_SSIM_MIN_SIDE, 170)
    noise = np.random.default_rng(1).integers(-40, 40, a.shape)
    b = (a + noise).clip(0, 255).astype(np.uint8)
    assert ms_ssim(a, a) == pytest.approx(1)
    assert 0 < ms_ssim(a, b) < 0.99
    assert ms_ssim(a[1:], a[1:]) is None


@pytest.mark.parametrize("name", PEERS)
def test_the_sweep_of_a_peer_rises_in_bytes_and_psnr(name):
    image = Image.fromarray(photo(64, 96))
    peer = codec(name)
    files = [peer.encode(image, quality)[0] for quality in peer.qualities]
    psnrs = [psnr(np.asarray(image), np.asarray(peer.decode(file)[0])) for file in files]
    assert len(files) >= 6
    assert np.all(np.diff([len(file) for file in files]) > 0)
    assert np.all(np.diff(psnrs) > 0)


def test_a_peer_says_which_qualities_it_takes():
    with pytest.raises(UsageError, match=r"quality 101 .* webp takes 0 to 100"):
        codec("webp").encode(Image.new("RGB", (8, 8)), 101)


def test_a_report_counts_the_bytes_of_every_picture(folder):
    report = evaluate(codec("jpeg"), folder, [20, 80])
    assert [(image.file, image.quality) for image in report.images] == [
        ("a.webp", 20),
        ("a.webp", 80),
        ("b.png", 20),
        ("b.png", 80),
    ]
    pixels = 64 * 40, 48 * 64
    low = report.images[0], report.images[2]
    point = report.points[0]
    assert point.bpp == pytest.approx(np.mean([8 * m.bytes / n for m, n in zip(low, pixels, strict=True)]))
    assert point.psnr == pytest.approx(np.mean([m.psnr for m in low]))
    assert point.decode_s == pytest.approx(np.median([m.decode_s for m in low]))
    assert report.points[1].psnr > point.psnr

    content = json.loads(report.to_json())
    assert (content["codec"], content["dataset"], content["pictures"]) == ("jpeg", "pictures", 2)
    assert content["identity"] == codec("jpeg").identity
    assert content["machine"]["matmul_gmacs"] > 0
    assert content["points"][0].keys() == {"quality", "bpp", "psnr", "encode_s", "decode_s"}


def test_coder_seconds_and_ms_ssim_are_averaged_where_all_pictures_have_them(tmp_path):
    class Timed:
        identity = "timed"
        name = "timed"
        qualities = (50,)

        def encode(self, image, quality):
            return codec("webp").encode(image, quality)[0], 0.25

        def decode(self, data):
            return codec("webp").decode(data)[0], 0.5

    for name in "ab":
        Image.fromarray(photo(MS_SSIM_MIN_SIDE, 200)).save(tmp_path / f"{name}.png")
    [point] = evaluate(Timed(), tmp_path, [50]).points
    assert isinstance(point, Point)
    assert (point.encode_coder_s, point.decode_coder_s) == (0.25, 0.5)
    assert 0.8 < point.ms_ssim < 1


def test_metadata_counts_for_no_codec(tmp_path):
    exif = Image.Exif()
    exif[0x010E] = "a long description " * 50
    image = Image.fromarray(photo(40, 40))
    sizes = []
    for name, options in ("plain", {}), ("tagged", {"exif": exif, "icc_profile": bytes(2000)}):
        (tmp_path / name).mkdir()
        image.save(tmp_path / name / "x.png", **options)
        sizes.append([evaluate(codec(peer), tmp_path / name, [40]).images[0].bytes for peer in PEERS])
    assert sizes[0] == sizes[1]


def test_a_codec_that_changes_the_size_is_refused(folder):
    class Cropping:
        name = "cropping"
        qualities = (50,)

        def encode(self, image, quality):
            return codec("jpeg").encode(image.crop((0, 0, 8, 8)), quality)

        def decode(self, data):
            return codec("jpeg").decode(data)

    with pytest.raises(VitrailError, match=r"cropping gave a\.webp back as \(8, 8\)"):
        evaluate(Cropping(), folder, [50])


def test_a_folder_without_pictures_is_refused(tmp_path):
    with pytest.raises(UsageError, match="no pictures"):
        evaluate(codec("jpeg"), tmp_path, [50])


@pytest.mark.parametrize(("factor", "percent"), [(1, 0), (0.5, -50), (2, 100)])
def test_bd_rate_of_scaled_rates(factor, percent):
    test = Curve("test", tuple(factor * bpp for bpp in reversed(ANCHOR.bpp)), tuple(reversed(ANCHOR.psnr)))
    assert bd_rate(ANCHOR, test) == pytest.approx(percent, abs=1e-9)


def test_bd_rate_reproduces_a_published_figure():
    # The README of sjtu-medialab/RwkvCompress (LALIC) prints -15.26 % against VTM-9.1, which made this curve.
    vtm, measured = load_curve(f"{CURVES}:compressai/vtm"), load_curve(f"{CURVES}:LALIC")
    assert bd_rate(vtm, measured) == pytest.approx(-15.26, abs=0.01)


def test_bd_rate_drops_points_that_are_no_better_than_cheaper_ones():
    test = Curve("test", (*ANCHOR.bpp, 0.3), (*ANCHOR.psnr, 29.0))
    with pytest.warns(UserWarning, match="test: 1 of 5 points dropped"):
        assert bd_rate(ANCHOR, test) == pytest.approx(0, abs=1e-9)


def test_bd_rate_needs_two_points_and_an_overlap():
    with pytest.raises(UsageError, match="too few points"):
        bd_rate(ANCHOR, Curve("test", (0.1,), (30.0,)))
    far = ANCHOR._replace(name="far", psnr=tuple(psnr + 10 for psnr in ANCHOR.psnr))
    with pytest.raises(UsageError, match=r"anchor \(28\.00 to 36\.00 dB\) and far"):
        bd_rate(ANCHOR, far)
    assert bd_rate_or_none(ANCHOR, far) is None


def test_the_published_curves_are_named_sourced_and_fit_for_bd_rates():
    curves = json.loads(CURVES.read_text())["curves"]
    anchor = load_curve(f"{CURVES}:compressai/vtm")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for curve in curves:
            assert curve["source"]
            bd_rate(anchor, load_curve(f"{CURVES}:{curve['name']}"))


def test_load_curve_helps_with_names_and_files(tmp_path):
    with pytest.raises(UsageError, match=r"no curve 'vtm' in .*compressai/vtm"):
        load_curve(f"{CURVES}:vtm")
    with pytest.raises(UsageError, match=r"several curves: write .*:NAME with one of: .*MLIC"):
        load_curve(str(CURVES))
    with pytest.raises(UsageError, match=r"cannot read the curve .*missing\.json"):
        load_curve(str(tmp_path / "missing.json"))
    for text in "not JSON", "[1, 2]", '{"metric": "ms_ssim_db"}', '{"curves": [{"name": "x", "bpp": [1]}]}':
        (tmp_path / "bad.json").write_text(text)
        with pytest.raises(UsageError, match=r"bad\.json"):
            load_curve(str(tmp_path / "bad.json"))


def test_command_prints_a_table_and_a_report_that_later_runs_compare_with(folder, tmp_path):
    report = tmp_path / "report.json"
    arguments = [str(folder), "--model", "jpeg", "--quality", "80,20,50"]
    first = CliRunner().invoke(eval_, [*arguments, "--json", str(report)], catch_exceptions=False)
    lines = first.stdout.splitlines()
    assert lines[0] == "jpeg, 2 pictures of pictures"
    assert [line.split()[0] for line in lines[1:]] == ["quality", "20", "50", "80"]
    assert list(tmp_path.glob("*report*")) == [report]

    points = json.loads(report.read_text())["points"]
    curve = load_curve(str(report))
    assert curve == Curve("jpeg", tuple(p["bpp"] for p in points), tuple(p["psnr"] for p in points))
    second = CliRunner().invoke(eval_, [*arguments, "--against", str(report)], catch_exceptions=False)
    assert second.stdout.splitlines()[-1] in ("BD-rate against jpeg: +0.0 %", "BD-rate against jpeg: -0.0 %")


def test_command_writes_nothing_but_json_to_standard_output_when_asked(folder):
    arguments = [str(folder), "--model", "jpeg", "--quality", "20,50", "--json", "-", "--against"]
    result = CliRunner().invoke(eval_, [*arguments, f"{CURVES}:compressai/av1"], catch_exceptions=False)
    assert [point["quality"] for point in json.loads(result.stdout)["points"]] == [20, 50]
    assert "BD-rate against compressai/av1" in result.stderr


@pytest.mark.parametrize(
    "extra",
    [["--against", f"{CURVES}:vtm"], ["--json", "/no/such/folder/report.json"]],
    ids=["curve", "json"],
)
def test_command_finds_faults_before_it_measures(folder, extra, monkeypatch):
    monkeypatch.setattr("vitrail.evaluation.sweep.evaluate", lambda *_: pytest.fail("measured"))
    result = CliRunner().invoke(eval_, [str(folder), "--model", "jpeg", *extra])
    assert isinstance(result.exception, UsageError)


def test_command_refuses_qualities_that_are_no_numbers(folder):
    result = CliRunner().invoke(eval_, [str(folder), "--model", "jpeg", "--quality", "high"])
    assert result.exit_code == 2
    assert "whole numbers such as 10,30,50" in result.stderr
