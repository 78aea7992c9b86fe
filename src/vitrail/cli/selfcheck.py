"""`vitrail selfcheck`: whether a model is exact on this machine."""

import functools
import json
import sys
from dataclasses import asdict
from pathlib import Path

import click

from vitrail import zoo


@click.command()
@click.argument("pictures", nargs=-1, type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--model", default=zoo.DEFAULT, show_default=True, help="A name or a weights file.")
@click.option("--short", is_flag=True, help="Six settings that differ most, instead of about forty.")
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
def selfcheck(pictures: tuple[Path, ...], model: str, short: bool, as_json: bool) -> None:
    """Check that files mean the same under every setting of this machine.

    Instruction sets, thread counts, libraries and precisions are set in child processes, which encode and decode
    PICTURES, by default generated ones. The exit status is 1 if anything differs.
    """
    from PIL import Image
    from tqdm import tqdm

    from vitrail import picture
    from vitrail.evaluation import selfcheck as check

    images = [Image.fromarray(picture.read(path).pixels) for path in pictures] or check.generated_pictures()
    progress = functools.partial(tqdm, unit="setting", file=sys.stderr, leave=False)
    outcomes = check.run(model, images, check.settings(short), progress)
    failed = [outcome for outcome in outcomes if outcome.differences]
    if as_json:
        click.echo(json.dumps([asdict(outcome) for outcome in outcomes]))
    else:
        for outcome in outcomes:
            said = f"differs: {', '.join(outcome.differences[:3])}" if outcome.differences else "equal"
            click.echo(f"{outcome.setting} ({outcome.kernels}): {said}")
        click.echo(f"{len(outcomes) - len(failed)} of {len(outcomes)} settings compute the same")
    if failed:
        sys.exit(1)
