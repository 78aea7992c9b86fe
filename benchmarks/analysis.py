"""Teach the analysis what a trellis makes of it: `python benchmarks/analysis.py WEIGHTS FILE MINUTES TOLD...`.

Training rounds, and y learns to lie where that costs the fewest bits; with a trellis that is for its paths to find, and
y need only be where the picture's error is least. On what `told.py` saw of WEIGHTS, y moves against the slope of the
error at what a file holds instead, less what the trellis believes it to be there: a first step of refinement
(`vitrail.refinement`), learned once for all pictures. What is rounded alone is held near where it was, and checkers
wholly, or they fall apart. The decoder stays as it is.
"""

import sys
import time
from pathlib import Path

import torch
from torch import Tensor

from vitrail import weights
from vitrail.refinement import LEAST_CURVATURE
from vitrail.training import optimizers

# Crops of a step, and which of them are drawn.
CROPS, DRAWN = 4, 1
# Of Muon and AdamW; they fall to zero over the last part of the time.
RATES, WARM_UP, FALL = (1e-4, 5e-5), 30, 0.7
# How strongly what is rounded alone is held: at 1, and more at 4, it held back the rest.
HOLD = 0.25


def main(source: str, file: str, minutes: str, *told: str) -> None:
    """Train for so many minutes, and write weights."""
    torch.set_flush_denormal(True)
    torch.manual_seed(0)
    model, seen = weights.load(source), [torch.load(each) for each in told]
    x, y_hat, error, followed, quality, drawn = (
        torch.cat([each[name] for each in seen]) for name in ("x", "y", "error", "followed", "quality", "drawn")
    )
    model.to(memory_format=torch.channels_last).requires_grad_(False)  # type: ignore[call-overload]
    # Not the linear path, whose spread is the synthesis's too.
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name.startswith(("transform.analysis", "log_gain")))
    both, trellis = optimizers.build(model, *RATES), model.trellis
    assert trellis is not None

    def step(chosen: Tensor) -> tuple[float, float]:
        pixels = (x[chosen].float() / 255).contiguous(memory_format=torch.channels_last)
        at, left, free = quality[chosen], error[chosen].float(), ~drawn[chosen, None, None, None]
        y = model.transform.analysis(pixels, at) * model.log_gain(at).exp()
        held = (y.detach() + left).contiguous(memory_format=torch.channels_last).requires_grad_()
        lambdas = model.lambdas(at)[:, None, None, None]
        loss = (lambdas * 255**2 / 3 * (model.synthesise(held, at) - pixels).square()).sum((1, 2, 3), True)
        (slope,) = torch.autograd.grad(loss.sum(), held)
        curvature = 2 * trellis.log_weight(at).exp() + LEAST_CURVATURE
        moved = y.detach() - (y_hat[chosen].float() - left)
        back = torch.where(free, HOLD, 1.0) * curvature * moved
        pull = torch.where(followed[chosen] & free, slope - curvature * left, back)
        # As bits of a pixel, weighed as in training.
        scale = (0.01 / lambdas).sqrt() / pixels[0, 0].numel()
        for optimizer in both:
            optimizer.zero_grad()
        (y * pull * scale).sum().backward()
        for optimizer in both:
            optimizer.step()
        of_photographs = free.flatten()
        return (loss * scale)[of_photographs].mean().item(), moved[of_photographs].std().item()

    start, count, means = time.monotonic(), 0, torch.zeros(2)
    photographs, checkers = (each.nonzero()[:, 0] for each in (~drawn, drawn))
    while (share := (time.monotonic() - start) / 60 / float(minutes)) < 1:
        optimizers.set_rates(both, min(1, (count + 1) / WARM_UP) * min(1, (1 - share) / FALL))
        parts = ((photographs, CROPS - DRAWN), (checkers, DRAWN))
        found = step(torch.cat([among[torch.randint(len(among), (number,))] for among, number in parts]))
        count += 1
        means += max(1 / count, 0.03) * (torch.tensor(found) - means)
        if count % 25 == 0:
            print(f"step {count}: errors {means[0]:.4f} bits a pixel, y moved by {means[1]:.4f}", flush=True)
    notes = {**weights.notes(source), "analysis": "taught"}
    weights.save(model.eval().requires_grad_(False), Path(file), notes)


if __name__ == "__main__":
    main(*sys.argv[1:])
