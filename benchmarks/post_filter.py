"""Give weights the directions of their post-filter: `python benchmarks/post_filter.py WEIGHTS STORE FILE [DIRECTIONS]`.

Looks at what a model makes of crops of a store, each at a quality of its own, and finds the directions that together
mend most of all crops' errors in decibels; then the tables of the numbers that files will hold. No parameter of the
model changes. Minutes on two cores.
"""

import sys
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from vitrail import weights
from vitrail.distributions import TOTAL
from vitrail.model import Model
from vitrail.postfilter import RADIUS, REACH
from vitrail.training.loop import stratified_qualities
from vitrail.training.store import Store

CROPS, SIDE = 500, 256
LARGER_CROPS, LARGER_SIDE = 80, 512
BATCH = 5
STEPS, RATE = 400, 0.01
# Relative to a crop's error: what a direction must bring beyond, so that those of single crops are not learned.
RIDGE = 0.003


def readings() -> tuple[Tensor, Tensor]:
    """Return what directions are made of, as taps (76, 75) and levels (76,).

    These are sums and differences of opposite neighbours, less the centre (well-conditioned: pictures are mostly
    smooth), the centre itself, and a constant.
    """
    side = 2 * RADIUS + 1
    rows = []
    for channel in range(3):
        for at in range(side**2 // 2):
            for sign in (1.0, -1.0):
                taps = torch.zeros(3, side**2)
                taps[channel, at], taps[channel, side**2 - 1 - at] = 1.0, sign
                taps[channel, side**2 // 2] = -1.0 - sign
                rows.append(taps.flatten())
        rows.append(functional.one_hot(torch.tensor(channel * side**2 + side**2 // 2), 3 * side**2).float())
    taps = torch.stack([*rows, torch.zeros(3 * side**2)])
    levels = -0.5 * taps.sum(1)
    levels[-1] = 1.0
    return taps, levels


def statistics(model: Model, data: Store, taps: Tensor, levels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return for each crop the products of the readings (76, 76), of these and the error (76, 3), and its square."""
    products, errors, squares = [], [], []
    for _ in range(CROPS // BATCH):
        qualities = stratified_qualities(BATCH, model.device)
        x = data.batch(BATCH, SIDE)
        for one, quality in zip(x.split(1), qualities, strict=True):
            x_hat = model(one, quality).x_hat.clamp(0, 1)
            seen = functional.unfold(functional.pad(x_hat, (RADIUS,) * 4, mode="replicate"), 2 * RADIUS + 1, stride=2)
            read = (seen[0].T @ taps.T + levels).double()
            error = (one - x_hat)[0, :, ::2, ::2].flatten(1).T.double()
            products.append(read.T @ read / len(read))
            errors.append(read.T @ error / len(read))
            squares.append(error.square().sum() / len(read))
    return torch.stack(products), torch.stack(errors), torch.stack(squares)


def directions(count: int, products: Tensor, errors: Tensor, squares: Tensor) -> Tensor:
    """Return directions (count, 76, 3) of unit response over all crops."""
    usual = products.mean(0)
    kept = squares > 1e-6  # flat crops have no error to mend
    weight = (1 / squares[kept])[:, None, None]
    products, errors = products[kept] * weight, errors[kept] * weight
    # In coordinates in which the readings of the usual crop, each of like weight, are independent.
    strength = products.diagonal(dim1=1, dim2=2).mean(1)
    common = (products * (strength.median() / strength)[:, None, None]).mean(0)
    common += 1e-6 * common.diagonal().mean() * torch.eye(len(common))
    inverse = torch.linalg.inv(torch.linalg.cholesky(common))
    products, errors = (inverse @ products @ inverse.T).float(), (inverse @ errors).float()
    alone = torch.linalg.solve(products + 0.3 * torch.eye(len(common)), errors)
    basis = torch.linalg.svd(alone.flatten(1), full_matrices=False)[2][:count].reshape(count, *alone.shape[1:])
    basis = basis.clone().requires_grad_()
    optimizer = torch.optim.Adam([basis])
    for step in range(STEPS):
        optimizer.param_groups[0]["lr"] = RATE * (1 - step / STEPS)
        unit = basis / basis.flatten(1).norm(dim=1)[:, None, None]
        curve = torch.einsum("iknc,lnc->ikl", torch.einsum("knc,inm->ikmc", unit, products), unit)
        slope = torch.einsum("knc,inc->ik", unit, errors)
        found = torch.linalg.solve(curve + RIDGE * torch.eye(count), slope)
        mended = (2 * slope * found).sum(1) - torch.einsum("ik,ikl,il->i", found, curve, found)
        loss = (1 - mended).log().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    print(f"{count} directions mend {-10 / torch.log(torch.tensor(10.0)) * loss.item():.3f} dB of the crops' errors")
    basis = (inverse.T @ basis.detach().double()).float()
    response = torch.einsum("knc,nm,kmc->k", basis, usual.float(), basis) / 3
    return basis / response.sqrt()[:, None, None]


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


def main(given: str, store: str, file: str, count: str = "48") -> None:
    """Read weights, and write them with a filter."""
    torch.manual_seed(0)
    loaded = weights.load(given)
    model = Model(replace(loaded.config, post_filters=int(count)))
    model.load_state_dict(loaded.state_dict(), strict=False)
    model.requires_grad_(False).eval().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    assert model.post_filter is not None
    data = Store(Path(store), torch.device("cpu"))
    taps, levels = readings()
    with torch.no_grad():
        seen = statistics(model, data, taps, levels)
    basis = directions(int(count), *seen)
    model.post_filter.taps.copy_(torch.einsum("knc,nt->kct", basis, taps))
    model.post_filter.levels.copy_(torch.einsum("knc,n->kc", basis, levels))
    with torch.no_grad():
        tables(model, data)
    weights.save(model, Path(file), {**weights.notes(given), "post-filter": "fitted afterwards"})


if __name__ == "__main__":
    main(*sys.argv[1:])
