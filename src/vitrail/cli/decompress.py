"""`vitrail decompress`: `.vtl` files to pictures."""

import io
import time
from pathlib import Path
from typing import Any

import click

from vitrail.cli import files


@click.command()
@click.argument("inputs", nargs=-1, required=True, metavar="IN...", type=click.Path(path_type=Path, allow_dash=True))
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, allow_dash=True),
    help="File (the extension says the format), existing folder, or - .",
)
@click.option("--model", help="Weights file, for files of a model that is not in the package.")
@click.option("-f", "--force", is_flag=True, help="Replace files that exist.")
@click.option("--json", "as_json", is_flag=True, help="Print results as JSON.")
def decompress(inputs: tuple[Path, ...], output: Path | None, model: str | None, force: bool, as_json: bool) -> None:
    """Decompress .vtl files IN... (- for standard input) to PNG, or to another format by OUT's extension."""
    targets = files.destinations(inputs, output, ".png", force)
    from vitrail import codec, picture, weights

    loaded = weights.load(model) if model else None

    def work(source: Path, target: Path) -> dict[str, Any]:
        began = time.perf_counter()
        image = codec.decode(files.read(source), loaded).image
        if target == files.STREAM:
            buffer = io.BytesIO()
            lost = picture.save(image, buffer, "PNG")
            files.write(target, buffer.getvalue())
        else:
            lost = picture.save(image, target)
        files.warn(source, lost)
        return {
            "input": str(source),
            "output": str(target),
            "width": image.width,
            "height": image.height,
            "mode": image.mode,
            "seconds": round(time.perf_counter() - began, 3),
        }

    files.process(inputs, targets, work, as_json, "{output}: {width} x {height} {mode}, {seconds:.2f} s")
