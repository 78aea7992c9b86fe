"""`vitrail train`: photographs to weights."""

import json
from pathlib import Path

import click

from vitrail.cli import budget


@click.command()
@click.argument("config")
@budget.options
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
@click.option(
    "--resume",
    is_flag=True,
    help="Go on from the checkpoint in --out, or, with a new warm-up, from the flat.safetensors that was put there.",
)
@click.option(
    "--start", help="Begin with these weights of the same config: a model's name, or a file such as flat.safetensors."
)
@click.option(
    "--rates",
    nargs=2,
    type=click.FloatRange(0, 4),
    default=(1.0, 0.0),
    show_default=True,
    metavar="HIGHEST LOWEST",
    help="Factors on the learning rates, after the warm-up and at the end: so a run can be left to another to finish.",
)
@click.option(
    "--early",
    type=click.FloatRange(0, 1),
    default=0.6,
    show_default=True,
    help="Share of the run with crops of half the side; 0 for one that begins with trained weights.",
)
@click.option(
    "--generated",
    type=click.FloatRange(0, 1),
    default=0.0,
    show_default=True,
    help="Share of crops that are drawn by the program: text, screens, flat graphics, gratings, noise.",
)
@click.option(
    "--compile",
    "compiled",
    is_flag=True,
    help="Make kernels by torch.compile, for one GPU: half the time a step, after a minute or more.",
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
    start: str | None,
    latents: str | None,
    batch: int,
    crop: int,
    processes: int,
    rates: tuple[float, float],
    early: float,
    generated: float,
    compiled: bool,
    seed: int,
    as_json: bool,
) -> None:
    """Train CONFIG (see `vitrail models --configs`) within a time budget.

    OUT receives weights.safetensors, which --model of the other commands accepts, and flat.safetensors, the weights
    before the learning rates fell: to begin a longer run with.
    """
    from torch.distributed import is_torchelastic_launched

    from vitrail.config import named
    from vitrail.errors import UsageError

    try:
        from vitrail.training import loop
        from vitrail.training import store as stores
    except ImportError as error:
        raise UsageError(f"training needs more packages ({error.name}); pip install 'vitrail[train]'") from error
    torchrun = is_torchelastic_launched()
    if torchrun and processes > 1:
        raise UsageError("torchrun says how many processes there are; leave --processes away")
    if torchrun and not stores.is_store(data):
        raise UsageError(f"torchrun's processes cannot all decode {data}; give them a store of it (vitrail data build)")
    if compiled and (torchrun or processes > 1):
        raise UsageError("--compile is for one process; leave --processes and torchrun away, or --compile")
    found = (out / loop.CHECKPOINT).is_file()
    if resume and start:
        raise UsageError("--resume goes on from what --out holds, --start begins anew; leave one of them away")
    if resume and not found:
        if not (out / loop.FLAT).is_file():
            raise UsageError(f"{out} holds no {loop.CHECKPOINT} or {loop.FLAT} to resume from; leave --resume away")
        resume, start = False, str(out / loop.FLAT)
    if start and latents:
        raise UsageError(f"--start, or {loop.FLAT}, and --latents both say what to begin with; leave one of them away")
    if found and not resume:
        raise UsageError(f"{out} holds a run already; add --resume to go on with it, or give another --out")
    highest, lowest = rates
    settings = loop.Settings(
        minutes=minutes,
        batch=batch,
        crop=crop,
        processes=processes,
        highest=highest,
        lowest=lowest,
        early=early,
        generated=generated,
        compile=compiled,
        seed=seed,
    )
    chosen = named(config)
    if latents:
        loop.with_latents_of(chosen, latents)  # fails before the photographs are decoded
    if stores.is_store(data):
        if store:
            raise UsageError(f"{data} is a store already; leave --store away")
        store = data
    else:
        store = store or out / "store"
        counts = stores.build([data], store, stores.Everything())
        for reason, count in counts.most_common():
            if reason != stores.KEPT:
                click.echo(f"{count} files left out: {reason}", err=True)
    points = loop.train(chosen, store, valid, out, settings, resume, start, latents)
    if as_json:
        click.echo(json.dumps({"weights": str(out / loop.WEIGHTS), "valid": [p._asdict() for p in points]}))
