"""Teach the synthesis what files hold: `python benchmarks/synthesis.py WEIGHTS FILE MINUTES TOLD...`.

Training rounds latents one by one; a trellis, fitted afterwards, leaves smaller errors, of another shape. On what
`told.py` saw of WEIGHTS the biases of the synthesis and its tables over the quality scale learn to see these, for the
picture's error alone: all weights together would learn the crops by heart, and forget fine checkers, which are part of
it. Latents and bits stay as they are.
"""

import sys
import time
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vitrail import weights

# Of a step, and their side in latent positions.
CROPS, CHECKERS, CELLS = 8, 2, 10
# Of biases; tables learn at twice the rate, as in training. It falls to zero over the last part of the time.
RATE, WARM_UP, FALL = 5e-4, 50, 0.7
# What the logarithm of the checkers' loss weighs.
SHARE = 0.03


def main(source: str, file: str, minutes: str, *told: str) -> None:
    """Train for so many minutes, and write weights."""
    torch.set_flush_denormal(True)
    random, model = np.random.default_rng(0), weights.load(source)
    seen = [torch.load(each) for each in told]
    y, x, quality, drawn = (torch.cat([each[key] for each in seen]) for key in ("y", "x", "quality", "drawn"))
    model.to(memory_format=torch.channels_last).requires_grad_(False)  # type: ignore[call-overload]
    # Not the linear path, which is what the analysis learned with.
    own = ("transform.synthesis", "transform.decoder", "log_inverse_gain")
    learning = [(name, each) for name, each in model.named_parameters() if name.startswith(own)]
    groups = [
        {"params": [each.requires_grad_() for name, each in learning if name.endswith(ending)], "scale": scale}
        for ending, scale in ((".bias", 1.0), (".table", 2.0))
    ]
    optimizer = torch.optim.AdamW(groups, RATE, betas=(0.9, 0.99), weight_decay=0.0)

    def losses(among: Tensor, count: int) -> Tensor:
        chosen: NDArray[np.int64] = random.choice(among.nonzero()[:, 0].numpy(), count, replace=False)
        top, left = random.integers([side - CELLS + 1 for side in y.shape[2:]])
        known = y[chosen, :, top : top + CELLS, left : left + CELLS].float()
        rows, columns = (slice(16 * first, 16 * (first + CELLS)) for first in (top, left))
        made = model.synthesise(known.contiguous(memory_format=torch.channels_last), quality[chosen])
        error = (made - x[chosen, :, rows, columns].float() / 255).square().mean((1, 2, 3))
        # Weighed as in training.
        return error * 255**2 * (0.01 * model.lambdas(quality[chosen])).sqrt()

    start, step, means = time.monotonic(), 0, np.zeros(2)
    while (share := (time.monotonic() - start) / 60 / float(minutes)) < 1:
        for group in optimizer.param_groups:
            group["lr"] = RATE * group["scale"] * min(1, (step + 1) / WARM_UP) * min(1, (1 - share) / FALL)
        photographs, checkers = losses(~drawn, CROPS).mean(), losses(drawn, CHECKERS).log().mean()
        optimizer.zero_grad()
        (photographs + SHARE * checkers).backward()
        optimizer.step()
        step += 1
        means += max(1 / step, 0.02) * ([photographs.item(), checkers.item()] - means)
        if step % 50 == 0:
            print(f"step {step}: photographs {means[0]:.4f}, checkers {np.exp(means[1]):.4f}", flush=True)
    weights.save(model.eval().requires_grad_(False), Path(file), {**weights.notes(source), "synthesis": "taught"})


if __name__ == "__main__":
    main(*sys.argv[1:])
