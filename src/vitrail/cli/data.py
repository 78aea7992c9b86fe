"""`vitrail data`: stores of photographs to train on."""

from pathlib import Path

import click


@click.group()
def data() -> None:
    """Make stores of photographs to train on."""


@data.command()
@click.argument("sources", nargs=-1, required=True, metavar="SOURCE...", type=click.Path(exists=True, path_type=Path))
@click.option("--out", required=True, type=click.Path(file_okay=False, path_type=Path), help="The store's folder.")
@click.option(
    "--without",
    multiple=True,
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Folder of test pictures, of nothing else: nothing close to them is taken. Repeatable.",
)
@click.option("--longest", type=click.IntRange(min=256), help="Scale pictures down to at most so many pixels a side.")
def build(sources: tuple[Path, ...], out: Path, without: tuple[Path, ...], longest: int | None) -> None:
    """Make a store for `vitrail train --data` of photographs worth training on.

    A SOURCE is a folder, a tar archive or a WebDataset shard. JPEGs and soft pictures are scaled down; blurred, flat
    and near-duplicate ones are dropped. The store takes 3 bytes a pixel. A command that was cut off goes on.
    """
    from vitrail import picture
    from vitrail.errors import UsageError

    try:
        from vitrail.training import curation, store
    except ImportError as error:
        raise UsageError(f"training needs more packages ({error.name}); pip install 'vitrail[train]'") from error
    tests = [path for folder in without for path in sorted(folder.iterdir()) if path.is_file()]
    if without and not tests:
        raise UsageError(f"{', '.join(map(str, without))}: no pictures to keep away from; leave --without away")
    curator = curation.Curator((picture.read(path).pixels for path in tests), longest)
    for reason, count in store.build(sources, out, curator).most_common():
        click.echo(f"{count:8} {reason}")
