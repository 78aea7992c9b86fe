"""Compress a photograph with Vitrail, JPEG, WebP and AVIF into files of one size; compare them on a page.

Needs `pip install 'vitrail[eval]'`. Run `python examples/demo.py`, then open `demo/index.html` in a browser.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont, ImageOps

from vitrail import picture, zoo
from vitrail.errors import VitrailError
from vitrail.evaluation.codecs import Codec, codec, nearest
from vitrail.evaluation.sweep import measure

HERE = Path(__file__).parent
CODECS = {"Vitrail": zoo.DEFAULT, "JPEG": "jpeg", "WebP": "webp", "AVIF": "avif"}
QUALITIES = (20, 50, 80)


@dataclass(frozen=True)
class Row:
    """What one file costs and gives."""

    codec: str
    quality: int
    """In the codec's own scale."""
    bytes: int
    bpp: float
    psnr: float
    ms_ssim: float | None
    encode_s: float
    decode_s: float
    picture: str
    """File name of what the decoder gave, beside the page."""
    note: str


def main(source: Path, out: Path, qualities: Sequence[int] = QUALITIES) -> None:
    """Print the table, and write the page, the decoded pictures and the `.vtl` files into the folder `out`.

    `out`/comparison.webp shows all codecs at the first quality.

    Raises `VitrailError` for a picture that cannot be read, `OSError` for a folder that cannot be written.
    """
    image = _upright(source)
    out.mkdir(parents=True, exist_ok=True)
    picture.save(image, out / "original.webp")
    coders = {label: codec(name) for label, name in CODECS.items()}
    for coder in coders.values():
        coder.decode(coder.encode(image, 50)[0])  # not timed: a first call also loads and allocates

    print(f"{source.name}, {image.width} x {image.height} pixels")
    groups = []
    for quality in qualities:
        print("\ncodec    quality      bytes     bpp  PSNR dB  MS-SSIM  encode s  decode s")
        group: list[Row] = []
        for label, coder in coders.items():
            target = group[0].bytes if group else None
            setting = quality if target is None else nearest(coder, image, target)
            data, decoded, row = _measure(label, coder, image, setting, target, f"{label.lower()}-{quality}")
            if target is None:
                (out / f"vitrail-{quality}.vtl").write_bytes(data)
            picture.save(decoded, out / row.picture)
            print(_line(row))
            group.append(row)
        groups.append([asdict(row) for row in group])

    picture.save(strip(out, groups[0]), out / "comparison.webp")
    content = {"name": source.name, "width": image.width, "height": image.height, "groups": groups}
    # Escaped, for a file's name may hold "</script>".
    data_block = json.dumps(content).replace("<", r"\u003c")
    page = (HERE / "demo.html").read_text("utf-8").replace("{{data}}", data_block)
    (out / "index.html").write_text(page, "utf-8")
    print(f"\nOpen {out / 'index.html'} to compare the pictures.")


def strip(out: Path, rows: Sequence[dict[str, Any]]) -> Image.Image:
    """Return the middles of the decoded pictures side by side, each above its codec's name, bytes and PSNR."""
    width, height, text_height = 288, 320, 28
    sheet = Image.new("RGB", (width * len(rows), height + text_height), "white")
    for index, row in enumerate(rows):
        with Image.open(out / row["picture"]) as decoded:
            left, top = (decoded.width - width) // 2, (decoded.height - height) // 2
            sheet.paste(decoded.crop((left, top, left + width, top + height)), (width * index, 0))
        label = f"{row['codec']}  {row['bytes']:,} bytes  {row['psnr']:.1f} dB"
        ImageDraw.Draw(sheet).text((width * index + 8, height + 5), label, "black", ImageFont.load_default(15))
    return sheet


def _upright(source: Path) -> Image.Image:
    """Return the pixels alone, as metadata would count in some codecs' files."""
    image = ImageOps.exif_transpose(picture.to_image(picture.read(source)))
    return Image.fromarray(np.asarray(image.convert("RGB")))


def _measure(
    label: str, coder: Codec, image: Image.Image, quality: int, target: int | None, stem: str
) -> tuple[bytes, Image.Image, Row]:
    measured, data, decoded = measure(coder, label, image, quality)
    too_large = target is not None and quality == 0 and len(data) > target
    row = Row(
        codec=label,
        quality=quality,
        bytes=measured.bytes,
        bpp=measured.bpp,
        psnr=measured.psnr,
        ms_ssim=measured.ms_ssim,
        encode_s=measured.encode_s,
        decode_s=measured.decode_s,
        picture=f"{stem}.webp",
        note="larger even at its lowest quality" if too_large else "",
    )
    return data, decoded, row


def _line(row: Row) -> str:
    similarity = "-" if row.ms_ssim is None else f"{row.ms_ssim:.4f}"
    return (
        f"{row.codec:8} {row.quality:7} {row.bytes:10,} {row.bpp:7.3f} {row.psnr:8.2f} {similarity:>8} "
        f"{row.encode_s:9.3f} {row.decode_s:9.3f}  {row.note}"
    ).rstrip()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Compare Vitrail with JPEG, WebP and AVIF on a photograph.")
    parser.add_argument("picture", metavar="PICTURE", nargs="?", type=Path, default=HERE / "photo.webp")
    parser.add_argument("--out", type=Path, default=Path("demo"), help="folder to write (%(default)s)")
    arguments = parser.parse_args()
    try:
        main(arguments.picture, arguments.out)
    except (VitrailError, OSError) as error:
        sys.exit(f"demo: {error}")
