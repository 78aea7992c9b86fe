"""Fit a trellis to what it quantises: `python benchmarks/trellis.py WEIGHTS STORE FILE`.

On crops of a store, at the knots of the quality scale: what errors weigh, by Hutchinson's estimate of how the
picture's error bends with each latent; then, time and again, masses and centroids of the symbols that the trellis
takes. All else stays as it is; their trellis is that of the config of their name.
"""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from vitrail import rate, weights
from vitrail.config import named
from vitrail.distributions import LEVELS, OFFSET_UNITS, TOTAL, Integers
from vitrail.model import Model
from vitrail.training.store import Store
from vitrail.trellis import FROM, Floats

# Crops, their side, and rounds; symbols that the first guess and an offset of zero count for.
CROPS, SIDE, ROUNDS = 48, 384, 6
GUESSED, STILL = 50, 20
# An error weighs more than its own curvature tells; 1.25 does as well.
FACTOR = 1.15


def weigh(model: Model, pictures: list[Tensor]) -> None:
    """Set what errors weigh at each knot."""
    own = model.trellis
    assert own is not None
    for knot in range(rate.KNOTS):
        quality = round(1 + 99 * knot / (rate.KNOTS - 1))
        at = torch.tensor([float(quality)])
        channels, levels = torch.zeros(model.config.latents), torch.zeros(2, LEVELS)
        seen = []
        for x in pictures:
            latents = model.known(model.latents(x, quality), quality)
            y_hat = model.dequantise(latents, quality).requires_grad_()
            x_hat = model.synthesise(y_hat, at)
            (slope,) = torch.autograd.grad((x_hat * (torch.randint_like(x_hat, 2) * 2 - 1)).sum(), y_hat)
            # The loss of a picture is lambda 255^2 of the mean over 3 samples a pixel.
            curvature = slope[0].square() * (model.multiplier(quality) * 255**2 / 3)
            seen.append((curvature, torch.from_numpy(model.levels(latents, quality)).long()))
            channels += seen[-1][0].mean((1, 2)) / len(pictures)
        for curvature, level in seen:
            usual = channels[:, None, None].expand_as(curvature)
            for index, values in enumerate((curvature, usual)):
                levels[index] += torch.bincount(level.flatten(), values.flatten(), LEVELS)
        own.log_weight.table[knot] = (channels * FACTOR).clamp(min=1e-3).log()
        # Levels that hardly occur follow all others.
        every = levels.sum(1, keepdim=True)
        ratio = (levels + 1e-3 * every)[0] / (levels + 1e-3 * every)[1]
        own.log_level.table[knot] = ratio.log()
        print(f"quality {quality}: weights {channels.quantile(0.1):.2f} to {channels.max():.2f}", flush=True)


def fit(model: Model, pictures: list[Tensor], random: np.random.Generator) -> None:
    """Set masses and offsets to those of the symbols that the trellis takes."""
    own = model.trellis
    assert own is not None
    plain, tally = own._quantise, np.zeros((2, len(own.table_masses)))

    def counted(values: Floats, levels: Integers, weights: Floats) -> tuple[Integers, Integers]:
        symbols, quantisers = plain(values, levels, weights)
        entries = own._entries(2 * (levels - FROM) + quantisers, np.abs(symbols))
        points, _ = own._values(levels, symbols, quantisers)
        np.add.at(tally[0], entries, 1)
        np.add.at(tally[1], entries, np.sign(symbols) * (values - points))
        return symbols, quantisers

    own._quantise = counted  # type: ignore[method-assign]
    for x in pictures:
        model.latents(x, int(random.integers(1, 101)))
    own._quantise = plain  # type: ignore[method-assign]
    masses, offsets = own.table_masses.numpy().copy(), own.table_offsets.numpy().copy()
    for start, reach in zip(own.start, own.reach, strict=True):
        row, (counts, outwards) = slice(start, start + reach + 1), tally[:, start : start + reach + 1]
        sides = np.where(np.arange(reach + 1), 2, 1)
        guessed = masses[row] / (masses[row] * sides).sum()
        shares = counts / sides + GUESSED * guessed
        masses[row] = np.maximum((shares / (shares * sides).sum() * TOTAL).round(), 1)
        offsets[row] = (outwards / (counts + STILL) * OFFSET_UNITS).round()
    own.table_masses, own.table_offsets = torch.from_numpy(masses), torch.from_numpy(offsets)


_, source, store, file = sys.argv
torch.manual_seed(0)
loaded, data, random = weights.load(source), Store(Path(store), torch.device("cpu")), np.random.default_rng(0)
if not loaded.config.exact:
    sys.exit(f"{source} is not of an exact model: a trellis decides what files hold")
model = Model(replace(loaded.config, trellis=named(loaded.config.name).trellis)).eval().requires_grad_(False)
model.load_state_dict(loaded.state_dict(), strict=False)
assert model.trellis is not None
model.trellis.table_masses.zero_()
chosen = random.choice(len(data.sizes), CROPS, replace=False)
crops = [data.picture(int(index))[:SIDE, :SIDE].permute(2, 0, 1).unsqueeze(0).float() / 255 for index in chosen]
weigh(model, crops[: CROPS // 4])
model.trellis.guess()
for turn in range(ROUNDS):
    fit(model, crops, random)
    print(f"round {turn + 1} of {ROUNDS}", flush=True)
weights.save(model, Path(file), {**weights.notes(source), "trellis": "fitted afterwards"})
