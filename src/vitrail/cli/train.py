"""`vitrail train`: photographs to weights."""

from pathlib import Path

import click


@click.command()
@click.argument("config")
@click.option(
    "--data",
    required=True,
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Folder of photographs, or of tar archives of them.",
)
@click.option(
    "--valid",
    required=True,
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Folder of pictures to validate on.",
)
@click.option("--minutes", required=True, type=click.FloatRange(min=0.1), help="Time budget; the schedule follows it.")
@click.option(
    "--out",
    required=True,
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder for weights, checkpoint, log and data store.",
)
@click.option("--resume", is_flag=True, help="Go on from the checkpoint in --out.")
@click.option("--batch", default=8, show_default=True, type=click.IntRange(min=1), help="Crops a step and process.")
@click.option(
    "--crop",
    default=256,
    show_default=True,
    type=click.IntRange(min=64),
    help="Side of a crop in pixels, a multiple of 64.",
)
@click.option(
    "--processes",
    default=1,
    show_default=True,
    type=click.IntRange(min=1),
    help="Processes (one a GPU, or sharing the CPU's cores).",
)
@click.option("--seed", default=0, show_default=True)
def train(
    config: str,
    data: Path,
    valid: Path,
    minutes: float,
    out: Path,
    resume: bool,
    batch: int,
    crop: int,
    processes: int,
    seed: int,
) -> None:
    """Train CONFIG (see `vitrail models --configs`) within a time budget.

    OUT receives weights.safetensors, which --model of the other commands accepts.
    """
    from vitrail.config import named
    from vitrail.errors import UsageError

    try:
        from vitrail.training import loop, store
    except ImportError as error:
        raise UsageError(f"training needs more packages ({error.name}); pip install 'vitrail[train]'") from error
    if crop % 64:
        raise UsageError(f"--crop is {crop}; give a multiple of 64")
    if resume and not (out / "checkpoint.pt").is_file():
        raise UsageError(f"{out} holds no checkpoint to resume from; leave --resume away")
    settings = loop.Settings(minutes=minutes, batch=batch, crop=crop, processes=processes, seed=seed)
    chosen = named(config)
    decoded = out / "store"
    if not (decoded / "index.json").is_file():
        store.build(data, decoded)
    loop.train(chosen, decoded, valid, out, settings, resume)
