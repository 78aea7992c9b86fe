"""`vitrail train`: photographs to weights."""

import json
import math
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
@click.option(
    "--minutes",
    required=True,
    type=click.FloatRange(min=0.1),
    help="Total time to spend in steps; the schedule follows it.",
)
@click.option(
    "--out",
    required=True,
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder for weights, checkpoint and log.",
)
@click.option(
    "--store",
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder for the decoded photographs, to share among runs; by default OUT/store.",
)
@click.option("--resume", is_flag=True, help="Go on from the checkpoint in --out.")
@click.option("--batch", default=4, show_default=True, type=click.IntRange(min=1), help="Crops a step and process.")
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
@click.option("--json", "as_json", is_flag=True, help="Print the validation points as JSON at the end.")
def train(
    config: str,
    data: Path,
    valid: Path,
    minutes: float,
    out: Path,
    store: Path | None,
    resume: bool,
    batch: int,
    crop: int,
    processes: int,
    seed: int,
    as_json: bool,
) -> None:
    """Train CONFIG (see `vitrail models --configs`) within a time budget.

    OUT receives weights.safetensors, which --model of the other commands accepts.
    """
    from vitrail.config import named
    from vitrail.errors import UsageError

    try:
        from vitrail.training import loop
        from vitrail.training import store as stores
    except ImportError as error:
        raise UsageError(f"training needs more packages ({error.name}); pip install 'vitrail[train]'") from error
    if crop % 64:
        raise UsageError(f"--crop is {crop}; give a multiple of 64")
    if not math.isfinite(minutes):
        raise UsageError("--minutes must be a number; give for example 60")
    found = (out / loop.CHECKPOINT).is_file()
    if resume and not found:
        raise UsageError(f"{out} holds no checkpoint to resume from; leave --resume away")
    if found and not resume:
        raise UsageError(f"{out} holds a run already; add --resume to go on with it, or give another --out")
    settings = loop.Settings(minutes=minutes, batch=batch, crop=crop, processes=processes, seed=seed)
    chosen = named(config)
    store = store or out / "store"
    stores.build(data, store)
    points = loop.train(chosen, store, valid, out, settings, resume)
    if as_json:
        click.echo(json.dumps({"weights": str(out / "weights.safetensors"), "valid": [p._asdict() for p in points]}))
