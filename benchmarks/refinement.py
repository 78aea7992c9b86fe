"""What efforts give and take: `python benchmarks/refinement.py FOLDER [--pictures N] [--side PIXELS] [--model NAME]`.

Codes the centres of a folder's first pictures at four qualities, plainly and by each plan, and prints BD-rates of real
bytes against effort 0, and seconds. Plans that end in "straight" round straight through with the paper's decaying
step; 0.062 and 0.59 are its numbers for high rates.
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
from vitrail.refinement import EFFORTS, Plan, effort_plan

QUALITIES = (10, 35, 60, 85)
PLANS = {f"effort {effort}": effort_plan(effort) for effort in EFFORTS} | {
    "26 x 0.062 * 0.59^n, straight": Plan(26, 0.062, 0.59, annealing=False),
    "26 x 0.006 * 0.9^n, straight": Plan(26, 0.006, 0.9, annealing=False),
    "100 x 0.006 * 0.977^n, straight": Plan(100, 0.006, 0.977, annealing=False),
}


def main(folder: Path, pictures: int, side: int, model: str) -> None:
    """Print the table."""
    loaded = vitrail.load_model(model)
    files = sorted(path for path in folder.iterdir() if path.suffix in (".png", ".webp"))[:pictures]
    sources = []
    for file in files:
        pixels = picture.read(file).pixels
        top, left = ((length - side) // 2 if length > side else 0 for length in pixels.shape[:2])
        sources.append(picture.read(np.ascontiguousarray(pixels[top : top + side, left : left + side])))
    anchor = None
    print(
        f"{len(sources)} pictures, at most {side} pixels a side\n| plan | steps | BD-rate, % | s |\n|---|---|---|---|"
    )
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
    parser.add_argument("--model", default=vitrail.DEFAULT)
    arguments = parser.parse_args()
    main(arguments.folder, arguments.pictures, arguments.side, arguments.model)
