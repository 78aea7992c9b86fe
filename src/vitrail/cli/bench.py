"""`vitrail bench`: what models take."""

import json
import re
from dataclasses import asdict
from pathlib import Path

import click

from vitrail.errors import UsageError


def _sizes(_: click.Context, __: click.Parameter, values: tuple[str, ...]) -> list[tuple[int, int]]:
    sizes = []
    for value in values:
        found = re.fullmatch(r"(\d{1,5})x(\d{1,5})", value)
        size = (int(found[1]), int(found[2])) if found else (0, 0)
        if min(size) < 16:
            raise UsageError(f"--size is {value!r}; give width x height of at least 16 pixels, such as 768x512")
        sizes.append(size)
    return sizes


@click.command()
@click.argument("names", metavar="NAME...", nargs=-1, required=True)
@click.option(
    "--size",
    "sizes",
    multiple=True,
    default=["768x512"],
    show_default=True,
    callback=_sizes,
    help="Width x height of the picture. Repeatable: the growth with size is then told.",
)
@click.option(
    "--photo",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Take the middle of this picture, mirrored where it is smaller, in place of a generated one.",
)
@click.option("--device", default="cpu", show_default=True, type=click.Choice(["cpu", "cuda"]))
@click.option("--runs", default=4, show_default=True, type=click.IntRange(min=1), help="The first of several warms up.")
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
def bench(
    names: tuple[str, ...], sizes: list[tuple[int, int]], photo: Path | None, device: str, runs: int, as_json: bool
) -> None:
    """Show what coding a picture takes: multiply-accumulates by part, seconds, memory.

    A NAME is a model of the package, a weights file, or a config, which is then measured untrained.
    """
    from vitrail.container import size_fault
    from vitrail.evaluation import bench as benches

    for size in sizes:
        if fault := size_fault(*size):
            raise UsageError(f"--size: {fault}; give a smaller one")
    rows = [benches.run(name, size, device, runs, photo) for name in names for size in sizes]
    if as_json:
        click.echo(json.dumps([asdict(row) for row in rows]))
        return
    click.echo("\n".join([benches.table(rows), *benches.growth_lines(rows)]))
