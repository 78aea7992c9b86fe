"""`vitrail info`: what a `.vtl` file says of itself."""

import json
from pathlib import Path

import click

from vitrail import zoo
from vitrail.cli import files


@click.command()
@click.argument("file", type=click.Path(path_type=Path, allow_dash=True))
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
def info(file: Path, as_json: bool) -> None:
    """Show what a .vtl FILE holds, without decoding it."""
    from vitrail import container

    data = files.read(file)
    said = container.read(data)
    alpha = said.alpha is not None
    values = {
        "file": str(file),
        "bytes": len(data),
        "bpp": round(8 * len(data) / (said.width * said.height), 5),
        "width": said.width,
        "height": said.height,
        "mode": ("LA" if alpha else "L") if said.gray else ("RGBA" if alpha else "RGB"),
        "quality": said.quality,
        "model": zoo.find(said.model_id),
        "model_id": said.model_id.hex(),
        "research": said.research,
        "latent_bytes": len(said.latents),
        "icc_bytes": len(said.icc or b""),
        "exif_bytes": len(said.exif or b""),
        "xmp_bytes": len(said.xmp or b""),
    }
    if as_json:
        click.echo(json.dumps(values))
        return
    values["model"] = values["model"] or "not in this package"
    values["research"] = "yes: decodes where the arithmetic is the writer's" if said.research else "no"
    for name, value in values.items():
        click.echo(f"{name.replace('_', ' '):<14}{value}")
