"""Look at what files hold: `python benchmarks/told.py WEIGHTS STORE FILE [SEED]`.

Codes crops of a store as files do, each at a quality of its own, and fine checkers, for what is fitted afterwards to
the errors that a trellis leaves (`synthesis.py`, `analysis.py`, `post_filter.py`). The work is one thread's: start it
twice, with two seeds.
"""

import sys
from collections import defaultdict
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from checkers import drawn
from torch import Tensor
from tqdm import tqdm

from vitrail import weights
from vitrail.training.store import Store
from vitrail.trellis import FROM, Machine

CROPS, CHECKERS, SIDE = 1300, 60, 256
# The errors of more states are hardly smaller, and take twice the time.
REGISTERS = 8


def main(source: str, store: str, file: str, seed: str = "1") -> None:
    """Write what was seen of n crops.

    y_hat "y" and its "error", y_hat less what was quantised, (n, M, h, w); what the trellis "followed", of the same
    shape; pixels "x" (n, 3, H, W) of 0..255, "quality" (n,), and which are "drawn" (n,).
    """
    torch.set_num_threads(1)
    model, data = weights.load(source), Store(Path(store), torch.device("cpu"))
    data.random = random = np.random.default_rng(int(seed))
    if model.config.trellis is None or model.trellis is None:
        sys.exit(f"{source} has no trellis: training sees what its files hold")
    model.trellis.machine = Machine(replace(model.config.trellis, registers=REGISTERS))
    seen: dict[str, list[Tensor]] = defaultdict(list)
    # By the golden section, so that any part of the crops has all qualities.
    qualities = [1 + int(place) for place in (np.arange(CROPS + CHECKERS) * 61.8034 + random.random()) % 100]
    for index, quality in enumerate(tqdm(qualities, disable=None)):
        x = data.batch(1, SIDE) if index < CROPS else drawn(random, SIDE).unsqueeze(0)
        x = (x * 255).round()
        wanted, z = model.targets(x / 255, quality)
        latents = model.quantised(wanted, z, torch.tensor([float(quality)]))
        y_hat = model.dequantise(latents, quality)
        seen["y"].append(y_hat.half())
        seen["error"].append((y_hat - wanted).half())
        seen["followed"].append(torch.from_numpy(model.levels(latents, quality) >= FROM).unsqueeze(0))
        seen["x"].append(x.to(torch.uint8))
    told = {name: torch.cat(each) for name, each in seen.items()}
    told["quality"], told["drawn"] = torch.tensor(qualities).float(), torch.arange(len(qualities)) >= CROPS
    torch.save(told, file)


if __name__ == "__main__":
    main(*sys.argv[1:])
