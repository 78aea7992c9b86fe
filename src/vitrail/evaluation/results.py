"""Several codecs on one folder of pictures: tables for a Markdown file, and a page with plots and pictures."""

import hashlib
import json
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import jinja2
import numpy as np
from PIL import Image

from vitrail.errors import UsageError
from vitrail.evaluation import plots
from vitrail.evaluation.bdrate import Curve, bd_rate_or_none
from vitrail.evaluation.bench import Row, growth_lines
from vitrail.evaluation.cache import digest
from vitrail.evaluation.codecs import Codec, nearest
from vitrail.evaluation.metrics import psnr
from vitrail.evaluation.sweep import Report, pictures, rgb
from vitrail.picture import save
from vitrail.storage import write_file

BEGIN, END = "<!-- begin: vitrail results -->", "<!-- end: vitrail results -->"
# Of what is shown: how many pictures, at which quality of the first codec, and pixels a side.
_SHOWN, _QUALITY, _SIDE = 4, 30, 384


@dataclass(frozen=True)
class Table:
    """A title, what the figures are, and rows of cells below a head."""

    title: str
    about: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]

    def markdown(self) -> str:
        """Return the table as Markdown."""
        lines = [self.head, ["---"] * len(self.head), *self.rows]
        return "\n".join([f"### {self.title}", self.about, "", *(f"| {' | '.join(line)} |" for line in lines)])


@dataclass(frozen=True)
class Shown:
    """The middle of a picture as a codec gave it back, from a file of nearly the first codec's size."""

    codec: str
    bytes: int
    psnr: float
    """dB, of the whole picture."""
    file: str
    """Lossless WebP, beside the page."""


@dataclass(frozen=True)
class Comparison:
    """A picture's name, its middle in a file beside the page, and what the codecs made of it."""

    name: str
    file: str
    shown: Sequence[Shown]


@dataclass(frozen=True)
class Results:
    """What tables and page are made of."""

    reports: Sequence[Report]
    weights: Sequence[str]
    """The id of each codec's weights; empty where it has none."""
    published: Sequence[Curve]
    """PSNR in dB that others measured on the same pictures."""
    published_ms_ssim: Sequence[Curve]
    """MS-SSIM in dB that others measured: -10 log10(1 - x)."""
    sizes: Sequence[Row]
    """What `vitrail bench` measured at several sizes; may be empty."""
    command: str

    @property
    def curves(self) -> list[Curve]:
        """The measured curves."""
        return [Curve(r.codec, tuple(p.bpp for p in r.points), tuple(p.psnr for p in r.points)) for r in self.reports]

    @property
    def about(self) -> str:
        """What was measured, on what."""
        first, machine = self.reports[0], self.reports[0].machine
        return (
            f"{first.pictures} pictures of {first.dataset}, real bytes; means over the pictures of bits per pixel, "
            f"PSNR and MS-SSIM, medians of the seconds. {machine['threads']} threads of {machine['cpu']}, "
            f"torch {machine['torch']}, Pillow {machine['pillow']}."
        )

    def tables(self) -> list[Table]:
        """Return all tables."""
        measured = self.curves
        names = [curve.name for curve in measured]
        rates = [
            [other.name, *("" if mine is other else _percent(other, mine) for mine in measured)]
            for other in (*measured, *self.published)
        ]
        seconds = [
            [
                report.codec,
                weights,
                f"{statistics.fmean(point.encode_s for point in report.points):.3f}",
                f"{statistics.fmean(point.decode_s for point in report.points):.3f}",
            ]
            for report, weights in zip(self.reports, self.weights, strict=True)
        ]
        points = [
            [
                report.codec,
                str(point.quality),
                f"{point.bpp:.4f}",
                f"{point.psnr:.2f}",
                "" if point.ms_ssim is None else f"{point.ms_ssim:.4f}",
            ]
            for report in self.reports
            for point in report.points
        ]
        found = [
            Table(
                "BD-rate",
                "Percent more bits at equal PSNR than the row's codec; negative is fewer.",
                ["", *names],
                rates,
            ),
            Table(
                "Speed",
                "Seconds a picture, mean over the qualities.",
                ["codec", "weights", "encode", "decode"],
                seconds,
            ),
            Table(
                "Points",
                "Qualities are in each codec's own scale.",
                ["codec", "quality", "bits per pixel", "PSNR, dB", "MS-SSIM"],
                points,
            ),
        ]
        if self.sizes:
            found.append(_growth_table(self.sizes))
        return found

    def markdown(self) -> str:
        """Return all tables as Markdown."""
        return "\n\n".join([f"{self.about}\n\n    {self.command}", *(table.markdown() for table in self.tables())])

    def page(self, comparisons: Sequence[Comparison]) -> str:
        """Return a page in HTML, whose pictures lie beside it and whose plots it holds."""
        measured = self.curves
        ms_ssim = [
            Curve(
                r.codec,
                *zip(
                    *((p.bpp, -10 * np.log10(max(1 - p.ms_ssim, 1e-10))) for p in r.points if p.ms_ssim is not None),
                    strict=True,
                ),
            )
            for r in self.reports
            if all(p.ms_ssim is not None for p in r.points)
        ]
        anchor = measured[0]
        speeds = {
            curve.name: (
                statistics.fmean(p.encode_s for p in report.points),
                statistics.fmean(p.decode_s for p in report.points),
                bd_rate_or_none(anchor, curve),
            )
            for curve, report in zip(measured, self.reports, strict=True)
        }
        drawn = [
            plots.curves(measured, self.published, "PSNR, dB"),
            *([plots.curves(ms_ssim, self.published_ms_ssim, "MS-SSIM, dB")] if ms_ssim else []),
            plots.speeds(speeds, anchor.name),
            *([plots.growth(self.sizes)] if self.sizes else []),
        ]
        environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
        template = environment.from_string(Path(__file__).with_name("results.html").read_text("utf-8"))
        return template.render(
            about=self.about, command=self.command, tables=self.tables(), plots=drawn, comparisons=comparisons
        )


def show(
    codecs: Sequence[Codec],
    folder: Path,
    out: Path,
    progress: Callable[[Sequence[Path]], Iterable[Path]] = iter,
) -> list[Comparison]:
    """Write the middles of some pictures as each codec gives them back, for equal bytes, into the folder `out`.

    What is there is not made again.
    """
    paths = pictures(folder)
    chosen = [paths[index] for index in sorted({len(paths) * step // _SHOWN for step in range(_SHOWN)})]
    found = []
    for path in progress(chosen):
        image = rgb(path)
        original = f"{digest(image)[:16]}.webp"
        if not (out / original).is_file():
            save(_middle(image), out / original)
        shown: list[Shown] = []
        for codec in codecs:
            shown.append(_shown(codec, image, shown[0].bytes if shown else None, out))
        found.append(Comparison(path.name, original, shown))
    return found


def _shown(codec: Codec, image: Image.Image, size: int | None, out: Path) -> Shown:
    parts = f"{codec.identity} {digest(image)} {size} {_QUALITY} {_SIDE}"
    stem = hashlib.sha256(parts.encode()).hexdigest()[:16]
    note = out / f"{stem}.json"
    try:
        found = Shown(**json.loads(note.read_text()))
        if (out / found.file).is_file():
            return found
    except (OSError, ValueError, TypeError):
        pass
    quality = _QUALITY if size is None else nearest(codec, image, size)
    data, _ = codec.encode(image, quality)
    decoded, _ = codec.decode(data)
    save(_middle(decoded), out / f"{stem}.webp")
    found = Shown(codec.name, len(data), psnr(np.asarray(image), np.asarray(decoded)), f"{stem}.webp")
    write_file(note, json.dumps(asdict(found)).encode())
    return found


def _middle(image: Image.Image) -> Image.Image:
    left, top = (max(0, side - _SIDE) // 2 for side in image.size)
    return image.crop((left, top, min(image.width, left + _SIDE), min(image.height, top + _SIDE)))


def around(file: Path) -> tuple[str, str]:
    """Return what stands before and after the tables in a Markdown file. Raises `UsageError` without marks."""
    before, begin, rest = file.read_text("utf-8").partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise UsageError(f"{file} has no place for the tables; write the lines {BEGIN} and {END} where they should be")
    return before + begin, end + after


def _percent(anchor: Curve, test: Curve) -> str:
    rate = bd_rate_or_none(anchor, test)
    return "" if rate is None else f"{rate:+.1f}"


def _growth_table(sizes: Sequence[Row]) -> Table:
    rows = [
        [
            row.name,
            f"{row.width} x {row.height}",
            f"{row.megapixels:.2f}",
            f"{row.encode_s:.2f}",
            f"{row.decode_s:.2f}",
            f"{row.peak_mib:.0f}",
            f"{row.bpp:.3f}",
        ]
        for row in sizes
    ]
    photos = ", ".join(dict.fromkeys(Path(row.photo).name if row.photo else "a generated picture" for row in sizes))
    return Table(
        "Growth with size",
        " ".join(
            [
                f"The middle of {photos}, mirrored where it is smaller, quality 50.",
                *(f"{line}." for line in growth_lines(sizes)),
            ]
        ),
        ["model", "picture", "megapixels", "encode, s", "decode, s", "peak, MiB", "bits per pixel"],
        rows,
    )
