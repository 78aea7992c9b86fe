"""Teach an analysis network checkers: `python benchmarks/checkers.py WEIGHTS STORE FILE`.

For float weights that give values of hundreds for fine checkers, of which training draws few: 120 small steps of
AdamW on the analysis network alone, for the logarithm of the loss of three checkers and stripes beside the loss of four
photographs. What decodes stays as it is.
"""

import sys
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from torch import Tensor

from vitrail import weights
from vitrail.model import Model
from vitrail.training.loop import stratified_qualities
from vitrail.training.loss import rate_distortion
from vitrail.training.store import Store

_STEPS, _RATE, _SIDE = 120, 3e-5, 128


def drawn(random: np.random.Generator) -> Tensor:
    """Return checkers or stripes (3, side, side) of two colours, black and white more often than others."""
    size = int(random.choice([1, 1, 1, 2, 2, 3, 4]))
    rows, columns = np.mgrid[:_SIDE, :_SIDE] // size
    wave = [rows + columns, rows, columns][random.choice(3, p=[0.7, 0.15, 0.15])] % 2
    first, second = random.integers(256, size=(2, 3)) if random.random() < 0.6 else np.array([[0] * 3, [255] * 3])
    pixels = first + (second - first) * wave[..., None]
    return torch.from_numpy(pixels).permute(2, 0, 1).float() / 255


def losses(model: Model, x: Tensor) -> Tensor:
    """Return the losses (B,) of x (B, 3, H, W) at qualities of all rates."""
    quality = stratified_qualities(len(x), x.device)
    output = model(x, quality)
    bits = output.y_bits.flatten(1).sum(1) + output.z_bits.flatten(1).sum(1)
    mse = (output.x_hat - x).square().flatten(1).mean(1)
    return rate_distortion(model, quality, bits / _SIDE**2, mse)


_, given, store, file = sys.argv
torch.manual_seed(0)
model = weights.load(given).train()
for name, parameter in model.named_parameters():
    parameter.requires_grad_(name.startswith("transform.analysis"))
learning = [parameter for parameter in model.parameters() if parameter.requires_grad]
optimizer = torch.optim.AdamW(learning, _RATE, betas=(0.9, 0.99), weight_decay=0.0)
schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1, (step + 1) / 10) * (1 - step / _STEPS))
data, random = Store(Path(store), torch.device("cpu")), np.random.default_rng(3)
for step in range(_STEPS):
    photographs = losses(model, data.batch(4, _SIDE))
    others = losses(model, torch.stack([drawn(random) for _ in range(3)]))
    optimizer.zero_grad()
    (photographs.mean() + 0.1 * others.log().mean()).backward()
    torch.nn.utils.clip_grad_norm_(learning, 1.0)
    optimizer.step()
    schedule.step()
    if step % 20 == 0:
        print(step, photographs.mean().item(), others.tolist(), flush=True)
with safe_open(given, "pt") as opened:
    notes = {key: note for key, note in opened.metadata().items() if key in ("training", "settings")}
weights.save(model.eval(), Path(file), {**notes, "afterwards": "checkers"})
