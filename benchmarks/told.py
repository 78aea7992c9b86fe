"""Look at what files hold: `python benchmarks/told.py WEIGHTS STORE FILE [SEED]`.

Codes crops of a store as files do, each at a quality of its own, and fine checkers, for what is fitted afterwards to
the errors that a trellis leaves (`synthesis.py`, `post_filter.py`). The work is one thread's: start it twice, with two
seeds.
"""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from checkers import drawn
from tqdm import tqdm

from vitrail import weights
from vitrail.training.store import Store
from vitrail.trellis import Machine

CROPS, CHECKERS, SIDE = 1300, 60, 256
# The errors of more states are hardly smaller, and take twice the time.
REGISTERS = 8


def main(source: str, store: str, file: str, seed: str = "1") -> None:
    """Write y_hat "y" (n, M, h, w), pixels "x" (n, 3, H, W) of 0..255, "quality" (n,), and which are "drawn" (n,)."""
    torch.set_num_threads(1)
    model, data = weights.load(source), Store(Path(store), torch.device("cpu"))
    data.random = random = np.random.default_rng(int(seed))
    if model.config.trellis is None or model.trellis is None:
        sys.exit(f"{source} has no trellis: training sees what its files hold")
    model.trellis.machine = Machine(replace(model.config.trellis, registers=REGISTERS))
    latents, pixels = [], []
    # By the golden section, so that any part of the crops has all qualities.
    qualities = [1 + int(place) for place in (np.arange(CROPS + CHECKERS) * 61.8034 + random.random()) % 100]
    for index, quality in enumerate(tqdm(qualities, disable=None)):
        x = data.batch(1, SIDE) if index < CROPS else drawn(random, SIDE).unsqueeze(0)
        x = (x * 255).round()
        latents.append(model.dequantise(model.latents(x / 255, quality), quality).half())
        pixels.append(x.to(torch.uint8))
    drawn_ones = torch.arange(len(qualities)) >= CROPS
    told = {"y": torch.cat(latents), "x": torch.cat(pixels), "quality": torch.tensor(qualities).float()}
    torch.save({**told, "drawn": drawn_ones}, file)


if __name__ == "__main__":
    main(*sys.argv[1:])
