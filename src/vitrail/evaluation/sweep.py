"""Measure a codec on a folder of pictures: real bytes, quality and seconds, for every picture and quality."""

import json
import platform
import shlex
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import PIL
import torch
from PIL import Image

from vitrail.errors import UsageError, VitrailError
from vitrail.evaluation.codecs import Codec
from vitrail.evaluation.metrics import ms_ssim, psnr
from vitrail.picture import read

SUFFIXES = (".png", ".webp", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".ppm")


@dataclass(frozen=True)
class Point:
    """What a quality costs and gives, for one picture or as the average over several."""

    quality: int
    bpp: float
    """Bits of the whole file per pixel."""
    psnr: float
    """dB, over RGB, at most 100."""
    ms_ssim: float | None
    """0 to 1; None where a picture is too small for it."""
    encode_s: float
    """Seconds of wall clock, as `decode_s`: picture in memory to file in memory, and back."""
    decode_s: float
    encode_coder_s: float | None
    """Seconds of `encode_s` spent on entropy coding, as `decode_coder_s`; None where the codec can't tell."""
    decode_coder_s: float | None


@dataclass(frozen=True)
class Measurement(Point):
    """A point of one picture."""

    file: str
    bytes: int


@dataclass(frozen=True)
class Report:
    """All that a sweep measured, and on what."""

    codec: str
    identity: str
    """As of `Codec`: weights and code, or libraries."""
    dataset: str
    pictures: int
    machine: dict[str, Any]
    command: str
    points: list[Point]
    """One a quality: means over the pictures of bpp, PSNR in dB and MS-SSIM; medians of the seconds."""
    images: list[Measurement]

    def to_json(self) -> str:
        """Write the report as JSON: numbers rounded to six decimals, keys without a value left out."""
        report = asdict(self)
        for rows in ("points", "images"):
            report[rows] = [_tidy(row) for row in report[rows]]
        return json.dumps(report, indent=1)


def _tidy(row: dict[str, Any]) -> dict[str, Any]:
    return {k: round(v, 6) if isinstance(v, float) else v for k, v in row.items() if v is not None}


def evaluate(
    codec: Codec,
    folder: Path,
    qualities: Sequence[int],
    progress: Callable[[Sequence[Path]], Iterable[Path]] = iter,
    measured: Callable[[Codec, str, Image.Image, int], Measurement] | None = None,
) -> Report:
    """Encode and decode every picture of a folder at every quality.

    Pictures are the files in the folder with one of `SUFFIXES`, in the order of their names. They are taken
    as RGB without alpha and metadata, so that all codecs code the same. Qualities are in the codec's own
    scale. Each call is timed once, after a warm-up on the first picture. `progress` wraps the pictures while
    they are coded, as `tqdm` does. `measured` replaces `measure`, such as by what a cache remembers; the warm-up
    is then its affair.

    Raises `UsageError` for a folder without pictures or a quality that the codec does not know,
    `PictureError` for a picture that cannot be read, and `VitrailError` where a picture comes back in another
    size.
    """
    paths = pictures(folder)
    about = machine()
    if measured is None:
        codec.decode(codec.encode(rgb(paths[0]), qualities[0])[0])
        about["matmul_gmacs"] = _matmul()
        measured = _measured
    images = []
    for path in progress(paths):
        image = rgb(path)
        images += [measured(codec, path.name, image, quality) for quality in qualities]
    return Report(
        codec=codec.name,
        identity=codec.identity,
        dataset=folder.resolve().name,
        pictures=len(paths),
        machine=about,
        command=shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        points=[_average([m for m in images if m.quality == quality]) for quality in qualities],
        images=images,
    )


def pictures(folder: Path) -> list[Path]:
    """Return the files in a folder with one of `SUFFIXES`, by name. Raises `UsageError` where there are none."""
    paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES)
    if not paths:
        raise UsageError(f"no pictures in {folder}: give a folder that holds {', '.join(SUFFIXES)} files")
    return paths


def rgb(path: Path) -> Image.Image:
    """Return a picture as RGB without alpha and metadata. Raises `PictureError`."""
    return Image.fromarray(read(path).pixels)


def _measured(codec: Codec, file: str, image: Image.Image, quality: int) -> Measurement:
    return measure(codec, file, image, quality)[0]


def measure(codec: Codec, file: str, image: Image.Image, quality: int) -> tuple[Measurement, bytes, Image.Image]:
    """Encode and decode one picture; returns also the file's bytes and the decoded picture."""
    start = time.perf_counter()
    data, encode_coder_s = codec.encode(image, quality)
    encoded = time.perf_counter()
    decoded, decode_coder_s = codec.decode(data)
    end = time.perf_counter()
    if decoded.size != image.size:
        raise VitrailError(f"{codec.name} gave {file} back as {decoded.size}, not {image.size}: do not use it")
    a, b = np.asarray(image), np.asarray(decoded)
    measured = Measurement(
        file=file,
        quality=quality,
        bytes=len(data),
        bpp=8 * len(data) / (image.width * image.height),
        psnr=psnr(a, b),
        ms_ssim=ms_ssim(a, b),
        encode_s=encoded - start,
        decode_s=end - encoded,
        encode_coder_s=encode_coder_s,
        decode_coder_s=decode_coder_s,
    )
    return measured, data, decoded


def _average(images: Sequence[Measurement]) -> Point:
    return Point(
        quality=images[0].quality,
        bpp=statistics.fmean(image.bpp for image in images),
        psnr=statistics.fmean(image.psnr for image in images),
        ms_ssim=_unless_none(statistics.fmean, [image.ms_ssim for image in images]),
        encode_s=statistics.median(image.encode_s for image in images),
        decode_s=statistics.median(image.decode_s for image in images),
        encode_coder_s=_unless_none(statistics.median, [image.encode_coder_s for image in images]),
        decode_coder_s=_unless_none(statistics.median, [image.decode_coder_s for image in images]),
    )


def _unless_none(average: Callable[[list[float]], float], values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return average(known) if len(known) == len(values) else None


def machine() -> dict[str, Any]:
    """Return what the seconds depend on, but for what else the machine does."""
    return {
        "cpu": _cpu(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "pillow": PIL.__version__,
    }


def _matmul() -> float:
    """Return how fast this machine is, now, for networks: a matrix product's multiply-accumulates in 10^9 a second."""
    a = torch.rand(1024, 1024)
    seconds = []
    for _ in range(5):
        start = time.perf_counter()
        a @ a
        seconds.append(time.perf_counter() - start)
    return round(1024**3 / min(seconds) / 1e9, 1)


def _cpu() -> str:
    try:  # Linux: platform.processor() is empty there
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
