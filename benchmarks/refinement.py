"""What efforts give and take: `python benchmarks/refinement.py FOLDER [--pictures N] [--side PIXELS] [--model NAME]`.

Codes the centres of a folder's first pictures at four qualities, plainly and by each plan, and prints BD-rates of real
bytes against effort 0, and seconds. Plans that end in "straight" round straight through with the paper's decaying
step; 0.062 and 0.59 are its numbers for high rates. With `--steps` it prints instead which first step and decay of
26 straight steps suit which picture and quality, by the loss (bits per pixel + lambda 255^2 MSE) of real bytes.
"""

import argparse
import statistics
import time
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

import vitrail
from vitrail import codec, picture
from vitrail.evaluation.bdrate import Curve, bd_rate
from vitrail.evaluation.metrics import psnr
from vitrail.model import Model
from vitrail.refinement import EFFORTS, Plan, effort_plan

QUALITIES = (10, 35, 60, 85)
PLANS = {f"effort {effort}": effort_plan(effort) for effort in EFFORTS} | {
    "26 x 0.062 * 0.59^n, straight": Plan(26, 0.062, 0.59, straight=True),
    "26 x 0.006 * 0.9^n, straight": Plan(26, 0.006, 0.9, straight=True),
    "100 x 0.006 * 0.977^n, straight": Plan(100, 0.006, 0.977, straight=True),
}


FIRST_STEPS = (0.003, 0.006, 0.012, 0.03, 0.062)
DECAYS = (0.59, 0.8, 0.9, 0.97)


def centres(folder: Path, pictures: int, side: int) -> list[picture.Picture]:
    """Return the centres of a folder's first pictures."""
    files = sorted(path for path in folder.iterdir() if path.suffix in (".png", ".webp"))[:pictures]
    sources = []
    for file in files:
        pixels = picture.read(file).pixels
        top, left = ((length - side) // 2 if length > side else 0 for length in pixels.shape[:2])
        sources.append(picture.read(np.ascontiguousarray(pixels[top : top + side, left : left + side])))
    return sources


def step_table(sources: list[picture.Picture], model: Model) -> None:
    """Print the gains of each first step and decay by quality, and the best of them for each picture."""
    grid = [(first, decay) for first in FIRST_STEPS for decay in DECAYS]
    gains: dict[tuple[int, int], dict[tuple[float, float], float]] = {}
    for quality in tqdm(QUALITIES, leave=False):
        weight = float(model.lambdas(torch.tensor([float(quality)]))) * 255**2
        for number, source in enumerate(sources):

            def loss(plan: Plan, source: picture.Picture = source, at: int = quality, weight: float = weight) -> float:
                data = codec.encode(source, model, at, plan).data
                decoded = np.asarray(codec.decode(data, model).image) / 255
                mse = float(np.mean((decoded - source.pixels / 255) ** 2))
                return 8 * len(data) / source.pixels[..., 0].size + weight * mse

            plain = loss(Plan(0))
            gains[quality, number] = {each: 100 * (loss(Plan(26, *each, straight=True)) / plain - 1) for each in grid}
    print(f"| quality | {' | '.join(f'{first} {decay}^n' for first, decay in grid)} |\n|{'---|' * (len(grid) + 1)}")
    for quality in QUALITIES:
        means = [statistics.fmean(gains[quality, number][each] for number in range(len(sources))) for each in grid]
        print(f"| {quality} | {' | '.join(f'{mean:+.1f}' for mean in means)} |")
    print(
        f"\n| picture | {' | '.join(f'quality {quality}' for quality in QUALITIES)} |\n|{'---|' * (len(QUALITIES) + 1)}"
    )
    for number in range(len(sources)):
        best = [min(gains[quality, number].items(), key=lambda item: item[1]) for quality in QUALITIES]
        print(f"| {number} | {' | '.join(f'{first} {decay}^n: {gain:+.1f}' for (first, decay), gain in best)} |")


def effort_table(sources: list[picture.Picture], loaded: Model) -> None:
    """Print BD-rates and seconds of all plans."""
    anchor = None
    print("| plan | steps | BD-rate, % | s |\n|---|---|---|---|")
    for name, plan in PLANS.items():
        torch.manual_seed(0)
        points, seconds = [], []
        for quality in tqdm(QUALITIES, desc=name, leave=False):
            bpp, decibels = [], []
            for source in sources:
                began = time.perf_counter()
                data = codec.encode(source, loaded, quality, plan).data
                seconds.append(time.perf_counter() - began)
                bpp.append(8 * len(data) / source.pixels[..., 0].size)
                decibels.append(psnr(source.pixels, np.asarray(codec.decode(data, loaded).image)))
            points.append((statistics.fmean(bpp), statistics.fmean(decibels)))
        curve = Curve(name, *(tuple(each) for each in zip(*points, strict=True)))
        anchor = anchor or curve
        print(
            f"| {name} | {plan.steps} | {bd_rate(anchor, curve):+.1f} | {statistics.median(seconds):.2f} |", flush=True
        )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--pictures", type=int, default=24)
    parser.add_argument("--side", type=int, default=10**6)
    parser.add_argument("--steps", action="store_true")
    parser.add_argument("--model", default=vitrail.DEFAULT)
    arguments = parser.parse_args()
    make = step_table if arguments.steps else effort_table
    make(centres(arguments.folder, arguments.pictures, arguments.side), vitrail.load_model(arguments.model))
