"""`vitrail ablate`: several configs, one budget, one table."""

import functools
import json
import sys
from pathlib import Path

import click

from vitrail.errors import UsageError


@click.command()
@click.argument("configs", metavar="CONFIG...", nargs=-1, required=True)
@click.option(
    "--data",
    required=True,
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Folder of photographs to train on.",
)
@click.option(
    "--valid",
    required=True,
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Folder of pictures to compare on, by the real bytes of their files.",
)
@click.option("--minutes", required=True, type=click.FloatRange(min=0.1), help="Training time of each run.")
@click.option(
    "--out",
    required=True,
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder for the runs, the decoded photographs and table.md; what is finished there is not done again.",
)
@click.option("--repeat", is_flag=True, help="Train the first config with a second seed too: the noise of a run.")
@click.option("--batch", default=4, show_default=True, type=click.IntRange(min=1), help="Crops a step and process.")
@click.option("--crop", default=256, show_default=True, type=click.IntRange(min=64), help="Side of a crop in pixels.")
@click.option("--processes", default=1, show_default=True, type=click.IntRange(min=1))
@click.option("--json", "as_json", is_flag=True, help="Print the rows as JSON.")
def ablate(
    configs: tuple[str, ...],
    data: Path,
    valid: Path,
    minutes: float,
    out: Path,
    repeat: bool,
    batch: int,
    crop: int,
    processes: int,
    as_json: bool,
) -> None:
    """Train each CONFIG with the same budget, and compare them with the first.

    A CONFIG is one of `vitrail models --configs`, or the name of a set: mcdh, the paper's ablations.
    """
    from vitrail.config import ABLATIONS, named

    try:
        from tqdm import tqdm

        from vitrail.evaluation import ablation
        from vitrail.storage import write_file
    except ImportError as error:
        raise UsageError(f"ablations need more packages ({error.name}); pip install 'vitrail[train,eval]'") from error

    chosen = [name for each in configs for name in ABLATIONS.get(each, (each,))]
    for name in chosen:
        named(name)
    if len(set(chosen)) < len(chosen):
        raise UsageError("a config is named twice; --repeat shows the noise of a repeated run")
    budget = ablation.Budget(data, valid, minutes, processes, batch, crop)
    folders = [ablation.run(name, 0, budget, out) for name in chosen]
    if repeat:
        folders.insert(1, ablation.run(chosen[0], 1, budget, out))
    progress = functools.partial(tqdm, unit="picture", file=sys.stderr, leave=False)
    rows = [ablation.row(folder, folders[0], valid, progress) for folder in folders]
    write_file(out / "table.md", f"{ablation.table(rows)}\n".encode())
    click.echo(json.dumps([vars(row) for row in rows]) if as_json else ablation.table(rows))
