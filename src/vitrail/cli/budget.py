"""The options that say what a model is trained on and for how long: those of `train` and `ablate`."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from vitrail.errors import UsageError


def _finite(_: click.Context, __: click.Parameter, minutes: float) -> float:
    if not math.isfinite(minutes):
        raise UsageError("--minutes must be a number; give for example 60")
    return minutes


def _multiple(_: click.Context, __: click.Parameter, crop: int) -> int:
    if crop % 64:
        raise UsageError(f"--crop is {crop}; give a multiple of 64")
    return crop


_FOLDER = click.Path(exists=True, file_okay=False, path_type=Path)
_OPTIONS = (
    click.option(
        "--data",
        required=True,
        type=_FOLDER,
        help="Folder of photographs, or of tar archives of them; or a store (vitrail data build).",
    ),
    click.option("--valid", required=True, type=_FOLDER, help="Folder of pictures to measure on."),
    click.option(
        "--minutes",
        required=True,
        type=click.FloatRange(min=0.1),
        callback=_finite,
        help="Total time to spend in a run's steps; the schedule follows it.",
    ),
    click.option(
        "--batch",
        default=4,
        show_default=True,
        type=click.IntRange(min=1),
        help="Crops a step and process; at first four times as many, of half the side.",
    ),
    click.option(
        "--crop",
        default=256,
        show_default=True,
        type=click.IntRange(min=64),
        callback=_multiple,
        help="Side of a crop in pixels, a multiple of 64.",
    ),
    click.option(
        "--processes",
        default=1,
        show_default=True,
        type=click.IntRange(min=1),
        help="Processes (one a GPU, or sharing the CPU's cores); for many machines, `train` is torchrun's to start.",
    ),
    click.option(
        "--latents",
        metavar="MODEL",
        help="Take all but the context model from MODEL, a name or a file, and train the context model alone.",
    ),
)


def options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options to a command."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command
