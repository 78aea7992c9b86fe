"""Teach the synthesis what files hold: `python benchmarks/synthesis.py WEIGHTS FILE MINUTES RATE TOLD...`.

Training rounds latents one by one; a trellis, fitted afterwards, leaves smaller errors, of another shape. On what
`told.py` saw of WEIGHTS the networks of the synthesis learn to see these, for the picture's error alone, at learning
rates of RATE times training's that fall to zero over the last seven tenths of the time. Fine checkers, which they
would forget, are part of it. Latents and bits stay as they are.
"""

import sys
import time
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vitrail import weights
from vitrail.training import optimizers

# Of a step, and their side in latent positions.
CROPS, CHECKERS, CELLS = 8, 2, 10
MUON, ADAMW = 2e-3, 1e-3
WARM_UP, FALL = 50, 0.7
# What the logarithm of the checkers' loss weighs.
SHARE = 0.03


def main(source: str, file: str, minutes: str, rate: str, *told: str) -> None:
    """Train for so many minutes, and write weights."""
    torch.manual_seed(0)
    torch.set_flush_denormal(True)
    random, model = np.random.default_rng(0), weights.load(source)
    seen = [torch.load(each) for each in told]
    y, x, quality, drawn = (torch.cat([each[key] for each in seen]) for key in ("y", "x", "quality", "drawn"))
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    for name, parameter in model.named_parameters():
        # The linear path stays what the analysis learned with.
        parameter.requires_grad_(name.startswith(("transform.synthesis", "transform.decoder", "log_inverse_gain")))
    built = optimizers.build(model, MUON * float(rate), ADAMW * float(rate))

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
        optimizers.set_rates(built, min(1, (step + 1) / WARM_UP) * min(1, (1 - share) / FALL))
        parts = losses(~drawn, CROPS).mean(), losses(drawn, CHECKERS).log().mean()
        for optimizer in built:
            optimizer.zero_grad()
        (parts[0] + SHARE * parts[1]).backward()
        for optimizer in built:
            optimizer.step()
        step += 1
        means += max(1 / step, 0.02) * ([part.item() for part in parts] - means)
        if step % 50 == 0:
            print(f"step {step}: photographs {means[0]:.4f}, checkers {np.exp(means[1]):.4f}", flush=True)
    weights.save(model.eval().requires_grad_(False), Path(file), {**weights.notes(source), "synthesis": "taught"})


if __name__ == "__main__":
    main(*sys.argv[1:])
