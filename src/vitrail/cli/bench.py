"""`vitrail bench`: what models take."""

import json
import re
from dataclasses import asdict

import click

from vitrail.errors import UsageError


def _size(_: click.Context, __: click.Parameter, value: str) -> tuple[int, int]:
    found = re.fullmatch(r"(\d{1,5})x(\d{1,5})", value)
    size = (int(found[1]), int(found[2])) if found else (0, 0)
    if min(size) < 16:
        raise UsageError(f"--size is {value!r}; give width x height of at least 16 pixels, such as 768x512")
    return size


@click.command()
@click.argument("names", metavar="NAME...", nargs=-1, required=True)
@click.option("--size", default="768x512", show_default=True, callback=_size, help="Width x height of the picture.")
@click.option("--device", default="cpu", show_default=True, type=click.Choice(["cpu", "cuda"]))
@click.option("--runs", default=4, show_default=True, type=click.IntRange(min=1), help="The first of several warms up.")
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
def bench(names: tuple[str, ...], size: tuple[int, int], device: str, runs: int, as_json: bool) -> None:
    """Show what coding a picture takes: multiply-accumulates by part, seconds, memory.

    A NAME is a model of the package, a weights file, or a config, which is then measured untrained.
    """
    from vitrail.container import size_fault
    from vitrail.evaluation import bench as benches

    if fault := size_fault(*size):
        raise UsageError(f"--size: {fault}; give a smaller one")
    rows = [benches.run(name, size, device, runs) for name in names]
    click.echo(json.dumps([asdict(row) for row in rows]) if as_json else benches.table(rows))
