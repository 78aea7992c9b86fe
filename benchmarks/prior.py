"""Fit the prior of z to what it codes: `python benchmarks/prior.py WEIGHTS STORE FILE`.

On every third photograph of a store, whole and at random qualities: channels whose differences from what their
neighbours suggest have less entropy than they have themselves become predicted ones; then all densities, and how
they widen with activity, are fitted. All other parameters stay as they are.
"""

import sys
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from vitrail import weights
from vitrail.prior import activity, suggested
from vitrail.training.store import Store

# Bits an element; a photograph's side; Adam's steps, its first rate, and the positions of a step.
WORTH, SIDE = 0.05, 1024
STEPS, RATE, POSITIONS = 1000, 0.02, 4096


def entropy(values: Tensor) -> float:
    """Return the bits of a value."""
    shares = values.unique(return_counts=True)[1] / values.numel()
    return -float((shares * shares.log2()).sum())


_, source, store, file = sys.argv
torch.manual_seed(0)
model, data = weights.load(source), Store(Path(store), torch.device("cpu"))
prior, random = model.prior, np.random.default_rng(0)
found = []
for index in range(0, len(data.sizes), 3):
    x = data.picture(index)[:SIDE, :SIDE].permute(2, 0, 1).unsqueeze(0).float() / 255
    found.append(torch.from_numpy(model.latents(x, int(random.integers(1, 101))).z).float())
before = torch.cat([z.flatten(1) for z in found], 1)
after = torch.cat([(z - suggested(z)).flatten(1) for z in found], 1)
for channel in range(len(before)):
    bits, less = entropy(before[channel]), entropy(after[channel])
    if bits - less > WORTH:
        print(f"channel {channel}: {bits:.2f} bits, {less:.2f} as differences")
        prior.predicted[channel] = True
        with torch.no_grad():
            prior.logits[channel], prior.means[channel] = 0, torch.tensor([-1.0, 0.0, 1.0])
            prior.log_scales[channel] = (after[channel].abs().mean() / 2).log()
rests = [prior.rest(z[None], z[None])[0] for z in found]
classes = torch.cat([activity(rest.abs().sum(0)).flatten() for rest in rests])
values = torch.cat([rest.flatten(1) for rest in rests], 1)
prior.requires_grad_()
optimizer = torch.optim.Adam(prior.parameters(), RATE)
schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1, 0, STEPS)
for step in range(STEPS):
    chosen = torch.randint(len(classes), (POSITIONS,))
    widths = prior.log_widths.exp().index_select(0, classes[chosen]).T
    bits = -prior.masses(values[None, :, chosen], widths[None]).clamp(min=2.0**-16).log2().sum() / POSITIONS
    optimizer.zero_grad()
    bits.backward()
    optimizer.step()
    schedule.step()
    if step % 100 == 0:
        print(f"step {step}: {bits.item():.2f} bits a position", flush=True)
prior.requires_grad_(False)
weights.save(model, Path(file), {**weights.notes(source), "prior": "fitted afterwards"})
