"""Make a light hyperprior's analysis as narrow as a config's: `python benchmarks/slim.py WEIGHTS CONFIG STORE OUT`.

Hidden features that move the next layer least are left away; the others then learn to give the same z, on crops of a
store at all qualities. All else stays as it is.
"""

import sys
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional
from tqdm import trange

from vitrail import distributions, weights
from vitrail.config import named
from vitrail.model import Model
from vitrail.training.store import Store

# Crops, how many of them only measure, their side, and a step's; steps, and Adam's rate, which falls to zero.
CROPS, MEASURED, SIDE, BATCH = 2000, 100, 256, 16
STEPS, RATE = 12_000, 5e-4


def strongest(inputs: Tensor, layer: nn.Module, count: int) -> Tensor:
    """Return the features, of inputs (B, C, H, W), that move a convolution's sums most."""
    assert isinstance(layer, nn.Conv2d)
    moves = inputs.square().mean((0, 2, 3)) * layer.weight.square().sum((0, 2, 3))
    return moves.topk(count).indices.sort().values


@torch.no_grad()
def prune(given: nn.Sequential, slim: nn.Sequential, seen: Tensor) -> None:
    """Give the slim layers the parameters of the strongest features, as seen on inputs (B, M, h, w)."""
    count = slim[0].out_channels
    outer = given[1](given[0](seen))
    wide, block = given[2](outer), given[3]
    inner = block.activation(block.conv1(wide))
    first, middle, last = (
        strongest(outer, given[2], count),
        strongest(inner, block.conv2, count),
        strongest(block(wide), given[4], count),
    )
    for layer, source, outputs, inputs in (
        (slim[0], given[0], first, slice(None)),
        (slim[2], given[2], last, first),
        (slim[3].conv1, block.conv1, middle, last),
        (slim[3].conv2, block.conv2, last, middle),
        (slim[4], given[4], slice(None), last),
    ):
        layer.weight.copy_(source.weight[outputs][:, inputs])
        layer.bias.copy_(source.bias[outputs])


def main(source: str, config: str, store: str, out: str) -> None:
    """Prune, teach, and write weights."""
    torch.manual_seed(0)
    loaded, data = weights.load(source), Store(Path(store), torch.device("cpu"))
    model = Model(replace(loaded.config, hyperprior=named(config).hyperprior))
    kept = {name: each for name, each in loaded.state_dict().items() if not name.startswith("hyperprior.encoder")}
    missing, _ = model.load_state_dict(kept, strict=False)
    assert all(name.startswith("hyperprior.encoder") for name in missing)
    given, slim = loaded.hyperprior.encoder, model.hyperprior.encoder
    inputs, targets = [], []
    for _ in trange(CROPS, desc="looking at crops", disable=None):
        quality = torch.randint(1, 101, (1,)).float()
        y, z = loaded.targets(data.batch(1, SIDE), int(quality))
        inputs.append((y / distributions.scales(loaded.usual_scale(quality))).half())
        targets.append(z)
    seen, wanted = torch.cat(inputs), torch.cat(targets)
    prune(given, slim, seen[:MEASURED].float())
    optimizer = torch.optim.Adam(slim.parameters(), RATE)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1, 0, STEPS)
    for step in trange(STEPS + 1, desc="teaching", disable=None):
        if step % 1000 == 0:
            with torch.no_grad():
                found = slim(seen[:MEASURED].float())
            error, moved = found - wanted[:MEASURED], found.round() != wanted[:MEASURED].round()
            print(f"step {step}: z off by {error.std():.4f}, {100 * moved.float().mean():.2f} % rounded otherwise")
        chosen = torch.randint(MEASURED, CROPS, (BATCH,))
        optimizer.zero_grad()
        functional.mse_loss(slim(seen[chosen].float()), wanted[chosen]).backward()
        optimizer.step()
        schedule.step()
    weights.save(model.eval(), Path(out), {**weights.notes(source), "hyper-analysis": "slimmed afterwards"})


if __name__ == "__main__":
    main(*sys.argv[1:])
