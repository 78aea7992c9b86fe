"""Teach the encoding networks checkers: `python benchmarks/checkers.py WEIGHTS STORE FILE`.

For float weights whose latents of fine checkers, of which training draws few, are a hundred times too large: 240 small
steps of AdamW on the analysis and the hyper-analysis alone, for the mean loss of four photographs and a tenth of the
mean logarithm of the loss of three checkers or stripes. What decodes stays as it is.
"""

import sys
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from vitrail import weights
from vitrail.training.loop import stratified_qualities
from vitrail.training.loss import RateDistortion
from vitrail.training.store import Store

_STEPS, _RATE, _SIDE = 240, 1e-4, 128


def drawn(random: np.random.Generator, side: int = _SIDE) -> Tensor:
    """Return checkers or stripes (3, side, side) of two colours, two of five in black and white."""
    size = int(random.choice([1, 1, 1, 2, 2, 3, 4]))
    rows, columns = np.mgrid[:side, :side] // size
    wave = [rows + columns, rows, columns][random.choice(3, p=[0.7, 0.15, 0.15])] % 2
    first, second = random.integers(256, size=(2, 3)) if random.random() < 0.6 else np.array([[0] * 3, [255] * 3])
    pixels = first + (second - first) * wave[..., None]
    return torch.from_numpy(pixels).permute(2, 0, 1).float() / 255


def main(given: str, store: str, file: str) -> None:
    """Read weights, and write them taught."""
    torch.manual_seed(0)
    model = weights.load(given).train()
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name.startswith(("transform.analysis", "hyperprior.encoder")))
    loss = RateDistortion(model)
    learning = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(learning, _RATE, betas=(0.9, 0.99), weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1, (step + 1) / 10) * (1 - step / _STEPS))
    data, random = Store(Path(store), torch.device("cpu")), np.random.default_rng(3)
    for step in range(_STEPS):
        crops = [data.batch(4, _SIDE), torch.stack([drawn(random) for _ in range(3)])]
        photographs, others = (loss.by_crop(x, stratified_qualities(len(x), x.device))[0] for x in crops)
        optimizer.zero_grad()
        (photographs.mean() + 0.1 * others.log().mean()).backward()
        torch.nn.utils.clip_grad_norm_(learning, 1.0)
        optimizer.step()
        schedule.step()
        if step % 20 == 0:
            print(step, photographs.mean().item(), others.tolist(), flush=True)
    weights.save(model.eval(), Path(file), {**weights.notes(given), "afterwards": "checkers"})


if __name__ == "__main__":
    main(*sys.argv[1:])
