"""`vitrail ablate`: several configs, one budget, one table."""

import functools
import json
import sys
from pathlib import Path

import click

from vitrail.cli import budget
from vitrail.errors import UsageError


@click.command()
@click.argument("configs", metavar="CONFIG...", nargs=-1, required=True)
@budget.options
@click.option(
    "--out",
    required=True,
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder for the runs, the decoded photographs and table.md; what is finished there is not done again.",
)
@click.option("--repeat", is_flag=True, help="Train the first config with a second seed too: the noise of a run.")
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
    latents: str | None,
    as_json: bool,
) -> None:
    """Train each CONFIG with the same budget, and compare them with the first.

    A CONFIG is one of `vitrail models --configs`, or the name of a set: mcdh-ablations, the paper's, or
    econtextformer-ablations, to be run with --latents econtextformer-s.
    """
    from vitrail.config import ABLATIONS, named

    try:
        from tqdm import tqdm

        from vitrail.evaluation import ablation
        from vitrail.storage import write_file
        from vitrail.training.loop import with_latents_of
    except ImportError as error:
        raise UsageError(f"ablations need more packages ({error.name}); pip install 'vitrail[train,eval]'") from error

    chosen = [name for each in configs for name in ABLATIONS.get(each, (each,))]
    for name in chosen:
        config = named(name)
        if latents:
            with_latents_of(config, latents)
    if len(set(chosen)) < len(chosen):
        raise UsageError("a config is named twice; --repeat shows the noise of a repeated run")
    spent = ablation.Budget(str(data.resolve()), str(valid.resolve()), minutes, processes, batch, crop, _whole(latents))
    ablation.claim(out, spent)
    folders = [ablation.run(name, 0, spent, out) for name in chosen]
    if repeat:
        folders.insert(1, ablation.run(chosen[0], 1, spent, out))
    progress = functools.partial(tqdm, unit="picture", file=sys.stderr, leave=False)
    rows = [ablation.row(folder, folders[0], valid, progress) for folder in folders]
    write_file(out / "table.md", f"{ablation.table(rows)}\n".encode())
    click.echo(json.dumps([vars(row) for row in rows]) if as_json else ablation.table(rows))


def _whole(latents: str | None) -> str | None:
    """Return a weights file's whole path: runs are compared by it. A model's name stays."""
    return str(Path(latents).resolve()) if latents and Path(latents).is_file() else latents
