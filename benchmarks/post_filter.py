"""Fit a post-filter: `python benchmarks/post_filter.py WEIGHTS STORE FILE DIRECTIONS TOLD...`.

Looks at what the synthesis makes of the latents that `told.py` saw, and finds the directions that together mend most
of all crops' errors in decibels; then, on larger crops of the store, the tables of the numbers that files will hold. No
parameter of the model changes. Minutes on two cores.
"""

import math
import sys
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from vitrail import weights
from vitrail.distributions import TOTAL
from vitrail.model import Model
from vitrail.postfilter import REACH, READINGS, readings
from vitrail.precision import autocast
from vitrail.training.loop import stratified_qualities
from vitrail.training.store import Store

# One pixel in STRIDE x STRIDE is looked at.
STRIDE = 3
LARGER_CROPS, LARGER_SIDE = 80, 512
# Of Adam, and the crops of a step.
STEPS, RATE, PART = 400, 0.01, 300
# Relative to a crop's error: what a direction must bring beyond, so that those of single crops are not learned.
RIDGE = 0.003


def statistics(model: Model, told: dict[str, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """Return for each crop the products of the readings (R, R), of these and the error (R, 3), and its square."""
    products, errors, squares = [], [], []
    parts = (told[key][~told["drawn"]].split(1) for key in ("y", "x", "quality"))
    for y, pixels, quality in zip(*parts, strict=True):
        x = pixels.float() / 255
        with autocast(model.device):
            made = model.synthesise(y.float(), quality).float().clamp(0, 1)
        read = readings(made, float(model.lambdas(quality)), STRIDE).double()
        error = (x - made)[0, :, ::STRIDE, ::STRIDE].flatten(1).double()
        products.append(read @ read.T / read.shape[1])
        errors.append(read @ error.T / read.shape[1])
        squares.append(error.square().sum() / read.shape[1])
    return torch.stack(products), torch.stack(errors), torch.stack(squares)


def directions(count: int, products: Tensor, errors: Tensor, squares: Tensor) -> Tensor:
    """Return directions (count, 3, R) of unit response over all crops."""
    usual = products.mean(0)
    kept = squares > 3e-6  # flat crops have no error to mend
    weight = (1 / squares[kept])[:, None, None]
    products, errors = products[kept] * weight, errors[kept] * weight
    # In coordinates in which the readings of the usual crop, each of like weight, are independent.
    strength = products.diagonal(dim1=1, dim2=2).mean(1)
    common = (products * (strength.median() / strength)[:, None, None]).mean(0)
    size = common.diagonal().sqrt()
    common = common / size / size[:, None] + 1e-6 * torch.eye(READINGS)
    inverse = torch.linalg.inv(torch.linalg.cholesky(common)) / size
    products, errors = (inverse @ products @ inverse.T).float(), (inverse @ errors).float()
    alone = torch.linalg.solve(products + 0.3 * torch.eye(READINGS), errors)
    basis = torch.linalg.svd(alone.mT.flatten(1), full_matrices=False)[2][:count].reshape(count, 3, READINGS)
    basis = basis.clone().requires_grad_()
    optimizer = torch.optim.Adam([basis])
    for step in range(STEPS):
        optimizer.param_groups[0]["lr"] = RATE * (1 - step / STEPS)
        part = torch.randperm(len(products))[:PART]
        unit = basis / basis.flatten(1).norm(dim=1)[:, None, None]
        response = (unit.flatten(0, 1) @ products[part]).view(-1, count, 3 * READINGS)
        curve = response @ unit.flatten(1).T
        slope = (errors[part].mT.flatten(1) @ unit.flatten(1).T).unsqueeze(2)
        found = torch.linalg.solve(curve + RIDGE * torch.eye(count), slope)
        mended = (2 * slope - curve @ found).mT @ found
        loss = (1 - mended).clamp(min=1e-3).log().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % 100 == 99:
            print(f"{count} directions mend {-10 / math.log(10) * loss.item():.3f} dB of the crops' errors", flush=True)
    basis = basis.detach().double() @ inverse
    return (basis / torch.einsum("kcn,nm,kcm->k", basis, usual, basis).div(3).sqrt()[:, None, None]).float()


def tables(model: Model, data: Store) -> None:
    """Set the tables of the numbers to two-sided exponentials of the spread that larger crops' numbers have."""
    assert model.post_filter is not None
    losses = []
    for quality in stratified_qualities(LARGER_CROPS, model.device):
        x = data.batch(1, LARGER_SIDE)
        losses.append(model.post_filter.loss(x, model(x, quality).x_hat, model.multiplier(round(float(quality)))))
    values = torch.arange(-REACH, REACH + 1)
    spread = torch.full((len(model.post_filter.table_rows),), 8.0)
    for _ in range(4):
        # A tenth is three times as wide: some pictures are unlike the others.
        masses = sum(
            share * torch.exp(-values.abs() / width) * torch.tanh(0.5 / width)
            for share, width in ((0.9, spread[:, None]), (0.1, 3 * spread[:, None]))
        )
        model.post_filter.table_rows[:, :-1] = (masses * TOTAL).round().clamp(min=1).int()
        model.post_filter.table_rows[:, -1] = 1
        numbers = torch.stack([torch.from_numpy(model.post_filter.fit(*loss)) for loss in losses])
        spread = numbers.abs().float().mean(0).clamp(min=0.2)
    print(f"numbers: mean of their sizes {spread.mean():.1f}, {(numbers == 0).float().mean():.0%} are zero")


def main(given: str, store: str, file: str, count: str, *told: str) -> None:
    """Read weights, and write them with a filter."""
    torch.manual_seed(0)
    loaded = weights.load(given)
    model = Model(replace(loaded.config, post_filters=int(count)))
    model.load_state_dict(
        {k: v for k, v in loaded.state_dict().items() if not k.startswith("post_filter.")}, strict=False
    )
    model.requires_grad_(False).eval().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    assert model.post_filter is not None
    with torch.no_grad():
        seen = [statistics(model, torch.load(each)) for each in told]
    model.post_filter.taps.copy_(directions(int(count), *(torch.cat(each) for each in zip(*seen, strict=True))))
    with torch.no_grad():
        tables(model, Store(Path(store), torch.device("cpu")))
    weights.save(model, Path(file), {**weights.notes(given), "post-filter": "fitted afterwards"})


if __name__ == "__main__":
    main(*sys.argv[1:])
