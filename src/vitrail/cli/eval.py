"""`vitrail eval`: what a codec costs and gives on a folder of pictures."""

import functools
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from vitrail.errors import UsageError

if TYPE_CHECKING:
    from vitrail.evaluation.sweep import Report


def _whole_numbers(_: click.Context, __: click.Parameter, value: str | None) -> list[int] | None:
    try:
        return None if value is None else sorted({int(number) for number in value.split(",")})
    except ValueError as error:
        raise click.BadParameter(f"{value!r} is not a list of whole numbers such as 10,30,50") from error


@click.command("eval")
@click.argument("folder", metavar="DIR", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option(
    "--model",
    default="econtextformer-s",
    show_default=True,
    help="A Vitrail model's name or path; or jpeg, jpeg2000, webp, avif, jxl.",
)
@click.option(
    "--quality",
    metavar="Q,Q,...",
    callback=_whole_numbers,
    help="Qualities to measure; by default a sweep that suits the codec.",
)
@click.option("--effort", default=0, show_default=True, type=click.IntRange(0, 9), help="As of `vitrail compress`.")
@click.option(
    "--json",
    metavar="FILE",
    type=click.Path(dir_okay=False, allow_dash=True, path_type=Path),
    help="Write the whole report there; - writes it to standard output in place of the table.",
)
@click.option(
    "--against",
    metavar="CURVE",
    multiple=True,
    type=click.Path(),
    help="Print the BD-rate against a curve: FILE.json of an earlier report, or FILE.json:NAME. Repeatable.",
)
def eval_(
    folder: Path, model: str, quality: list[int] | None, effort: int, json: Path | None, against: tuple[str, ...]
) -> None:
    """Measure a codec on the pictures of DIR: bits, PSNR, MS-SSIM, seconds.

    Every picture is coded at every quality, and the real files are counted. The table gives means over the
    pictures, and medians of the seconds.
    """
    try:
        from tqdm import tqdm

        from vitrail.evaluation.bdrate import Curve, bd_rate, load_curve
        from vitrail.evaluation.codecs import codec
        from vitrail.evaluation.sweep import evaluate
        from vitrail.storage import write_file
    except ModuleNotFoundError as error:
        raise UsageError(f"vitrail eval needs {error.name}: pip install 'vitrail[eval]'") from error

    # Whatever can go wrong does so before the long sweep.
    anchors = [load_curve(spec) for spec in against]
    if json and not json.parent.is_dir():
        raise UsageError(f"cannot write {json}: make the folder {json.parent} first")
    to_stdout = json == Path("-")

    chosen = codec(model, effort)
    progress = functools.partial(tqdm, desc=chosen.name, unit="picture", file=sys.stderr, leave=False)
    report = evaluate(chosen, folder, quality or chosen.qualities, progress)
    if json and not to_stdout:
        write_file(json, f"{report.to_json()}\n".encode())
    click.echo(report.to_json() if to_stdout else _table(report))
    test = Curve(report.codec, tuple(p.bpp for p in report.points), tuple(p.psnr for p in report.points))
    for anchor in anchors:
        click.echo(f"BD-rate against {anchor.name}: {bd_rate(anchor, test):+.1f} %", err=to_stdout)


def _table(report: "Report") -> str:
    rows = [
        f"{report.codec}, {report.pictures} pictures of {report.dataset}",
        "quality     bpp    PSNR  MS-SSIM  encode s  decode s",
    ]
    for p in report.points:
        similarity = "-" if p.ms_ssim is None else f"{p.ms_ssim:.4f}"
        rows.append(f"{p.quality:7d} {p.bpp:7.4f} {p.psnr:7.3f} {similarity:>8} {p.encode_s:9.3f} {p.decode_s:9.3f}")
    return "\n".join(rows)
