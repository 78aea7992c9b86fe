"""The losses of a few training steps on fixed crops: `python tests/curve.py PROCESSES OUT` prints them as JSON.

Two processes take half of the crops each, also when torchrun starts them; without noise, gradients then average to
those of one process.
"""

import json
import sys
from pathlib import Path

import torch
from conftest import TINY
from lightning_fabric.loggers.tensorboard import TensorBoardLogger

from vitrail.model import Model
from vitrail.training import loop

STEPS = 8
CROPS = 4


class Crops:
    """Stands for a store: a process's share of the same few crops."""

    def __init__(self, rank: int, processes: int) -> None:
        generator = torch.Generator().manual_seed(0)
        coarse = torch.rand(CROPS, 3, 8, 8, generator=generator)
        crops = torch.nn.functional.interpolate(coarse, (64, 64), mode="bilinear")
        self.mine = crops[rank::processes].contiguous(memory_format=torch.channels_last)
        self.qualities = torch.linspace(10, 90, CROPS)[rank::processes]

    def batch(self, count: int, side: int) -> torch.Tensor:
        return self.mine


def main(processes: int, out: Path) -> None:
    logger = TensorBoardLogger(out, name="log", version="")
    fabric = loop.launch(processes, accelerator="cpu", loggers=logger)
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = Model(TINY).to(memory_format=torch.channels_last)
    crops = Crops(fabric.global_rank, fabric.world_size)
    loop.stratified_qualities = lambda count, device: crops.qualities
    run = loop._Run(fabric, model, out, loop.Settings(minutes=1))
    run.module.eval()  # rounds, where training adds noise
    run.seconds = 6.0
    losses = [float(fabric.all_reduce(run.train_step(crops), reduce_op="mean")[0]) for _ in range(STEPS)]
    if fabric.is_global_zero:
        print(json.dumps(losses))


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
