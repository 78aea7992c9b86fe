"""`vitrail compress`: pictures to `.vtl` files."""

import threading
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import click

from vitrail import zoo
from vitrail.cli import files


@click.command()
@click.argument("inputs", nargs=-1, required=True, metavar="IN...", type=click.Path(path_type=Path, allow_dash=True))
@click.option("-o", "--output", type=click.Path(path_type=Path, allow_dash=True), help="File, existing folder, or - .")
@click.option("-q", "--quality", default=50, show_default=True, type=click.IntRange(1, 100))
@click.option(
    "--model", default=zoo.DEFAULT, show_default=True, help="A name (see `vitrail models`) or a weights file."
)
@click.option(
    "--effort",
    default=0,
    show_default=True,
    type=click.IntRange(0, 9),
    help="Above 0, spend time (9: some 60 times as much) on a smaller file; Ctrl-C ends it early.",
)
@click.option("-f", "--force", is_flag=True, help="Replace files that exist.")
@click.option("--json", "as_json", is_flag=True, help="Print results as JSON.")
def compress(
    inputs: tuple[Path, ...],
    output: Path | None,
    quality: int,
    model: str,
    effort: int,
    force: bool,
    as_json: bool,
) -> None:
    """Compress pictures IN... (any kind that Pillow opens, - for standard input) to .vtl files."""
    targets = files.destinations(inputs, output, ".vtl", force)
    from vitrail import codec, picture, refinement, weights

    loaded = weights.load(model)
    plan = refinement.effort_plan(effort)
    interrupted = threading.Event()

    def work(source: Path, target: Path) -> dict[str, Any]:
        began = time.perf_counter()
        taken = picture.read(files.read(source) if source == files.STREAM else source)
        files.warn(source, taken.warnings)
        with files.share_of_one(source.name, effort > 0) as tell:

            def advance(share: float) -> bool:
                tell(share)
                return not interrupted.is_set()

            data = codec.encode(taken, loaded, quality, plan, advance).data
        files.write(target, data)
        height, width = taken.pixels.shape[:2]
        return {
            "input": str(source),
            "output": str(target),
            "width": width,
            "height": height,
            "bytes": len(data),
            "bpp": round(8 * len(data) / (width * height), 5),
            "seconds": round(time.perf_counter() - began, 3),
        }

    line = "{output}: {bytes} bytes, {bpp:.3f} bpp, {seconds:.2f} s"
    with files.first_interrupt(interrupted) if effort else nullcontext():
        files.process(inputs, targets, work, as_json, line, interrupted)
