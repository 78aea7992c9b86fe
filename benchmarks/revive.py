"""Give silent units a new beginning: `python benchmarks/revive.py WEIGHTS STORE FILE`.

For float weights whose residual blocks hold units that are positive nearly nowhere, and so linear
(docs/training.md, "Dead layers"). Three of five of a block's are drawn anew, those that give least, with nothing behind
them; what the others give is fitted, block after block, to what all of them gave before, by least squares on
photographs of all qualities.
"""

import sys
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from vitrail import weights
from vitrail.layers import ResidualBlock
from vitrail.training.loop import stratified_qualities
from vitrail.training.store import Store

_SILENT, _SHARE = 0.02, 0.6
_BATCHES, _CROPS, _SIDE = 6, 8, 256
# Positions of a batch that the fit reads, and its ridge, in units of the mean square of what it reads.
_POSITIONS, _RIDGE = 30_000, 1e-5

_, given, store, file = sys.argv
torch.manual_seed(0)
model = weights.load(given).in_floats().eval().requires_grad_(False)
data = Store(Path(store), torch.device("cpu"))
data.seed(0)
batches = [(data.batch(_CROPS, _SIDE), stratified_qualities(_CROPS, torch.device("cpu"))) for _ in range(_BATCHES)]


def look(layer: nn.Module, see: Callable[[Tensor, Tensor], None]) -> None:
    """Show `see` what a layer is given and what it gives, (B, C, H, W), for all photographs."""
    handle = layer.register_forward_hook(lambda layer, args, result: see(args[0], result))
    for x, quality in batches:
        model(x, quality)
    handle.remove()


def freed(block: ResidualBlock) -> Tensor:
    """Return which units (C,) are to be drawn anew."""
    seen: list[Tensor] = []
    look(
        block.activation,
        lambda x, y: seen.append(torch.stack([(x > 0).float().mean((0, 2, 3)), y.var((0, 2, 3))])),
    )
    positive, variance = torch.stack(seen).mean(0)
    silent = positive < _SILENT
    given = block.conv2.weight.square().sum((0, 2, 3)) * variance
    ranks = given.masked_fill(~silent, torch.inf).argsort().argsort()
    return ranks < int(_SHARE * silent.sum())


def fit(block: ResidualBlock, kept: Tensor) -> None:
    """Let units `kept` (C,) give what all of them give."""
    size = 9 * int(kept.sum()) + 1
    square, product = torch.zeros(size, size), torch.zeros(size, len(kept))

    def see(x: Tensor, y: Tensor) -> None:
        patches = functional.unfold(x[:, kept], 3, padding=1).transpose(1, 2).flatten(0, 1)
        some = torch.randperm(len(patches))[:_POSITIONS]
        patches = functional.pad(patches[some], (0, 1), value=1.0)
        square.addmm_(patches.T, patches)
        product.addmm_(patches.T, y.movedim(1, -1).flatten(0, 2)[some])

    look(block.conv2, see)
    ridge = _RIDGE * square.diag().mean() * torch.eye(size)
    found = torch.linalg.solve((square + ridge).double(), product.double()).float()
    block.conv2.weight[:, kept] = found[:-1].T.unflatten(1, (-1, 3, 3))
    block.conv2.weight[:, ~kept] = 0
    block.conv2.bias.copy_(found[-1])


for name, block in model.named_modules():
    if isinstance(block, ResidualBlock) and bool((units := freed(block)).any()):
        fit(block, ~units)
        fresh = nn.Conv2d(*block.conv1.weight.shape[1::-1], 3).requires_grad_(False)
        block.conv1.weight[units] = fresh.weight[units]
        block.conv1.bias[units] = 0
        means: list[Tensor] = []
        look(block.conv1, lambda x, y, means=means: means.append(y.mean((0, 2, 3))))  # type: ignore[misc]
        block.conv1.bias[units] -= torch.stack(means).mean(0)[units]
        print(f"{name}: {int(units.sum())} of {len(units)} units drawn anew")
weights.save(model, Path(file), {**weights.notes(given), "afterwards": "silent units drawn anew"})
