"""Save float weights as an exact model: `python benchmarks/exact_form.py WEIGHTS STORE FILE`.

A run on a GPU may leave its model in floats (`exact=False` in the config). Its grids are then calibrated here, on crops
of a store, and the matrices of its exact layers rounded one after another, so that the columns still to be rounded
make up for the error of those that are, by what the layer is given (GPTQ, Frantar et al., ICLR 2023).
"""

import sys
from contextlib import suppress
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from vitrail import weights
from vitrail.exact.grid import WEIGHT_LEVELS, row_steps
from vitrail.exact.layers import Conv2d, Linear, OnGrids, Up2x2
from vitrail.model import Model
from vitrail.training import loop
from vitrail.training.store import Store

BATCHES, CROPS, SIDE = 16, 8, 256
# Of the mean square of what a layer is given: rare inputs are not to have just any weight.
DAMPING = 0.01

Batch = tuple[Tensor, Tensor, Tensor]
"""y, z and qualities, as `Model.estimate` takes them."""


class _SeenError(Exception):
    """A layer was given its inputs; what follows is not needed."""


def rows_given(layer: OnGrids, inputs: tuple[Tensor, ...]) -> Tensor:
    """Return what the matrix of a layer is multiplied with, (n, C), in the order of its columns."""
    if isinstance(layer, Linear):
        on_grids = [grid(x) for grid, x in zip(layer.grids, inputs, strict=True)]
        shape = torch.broadcast_shapes(*(x.shape[:-1] for x in on_grids))
        return torch.cat([x.expand(*shape, -1) for x in on_grids], -1).flatten(0, -2)
    assert isinstance(layer, Conv2d | Up2x2)
    x = layer.grid(inputs[0])
    if isinstance(layer, Up2x2):
        return x.permute(0, 2, 3, 1).flatten(0, 2)
    side = layer.kernel_size[0]
    patches = functional.unfold(x, side, padding=side // 2).unflatten(1, (x.shape[1], side**2))
    return patches.permute(0, 3, 2, 1).flatten(2).flatten(0, 1)


def rounded(matrix: Tensor, products: Tensor) -> Tensor:
    """Return a matrix (R, C) rounded to its rows' grids, with the products (C, C) of what it is multiplied with."""
    steps, rest = row_steps(matrix)[:, 0].double(), matrix.double()
    damping = DAMPING * products.diagonal().mean().clamp(min=1e-9)  # an input may always be zero
    inverse = torch.linalg.inv(products + damping * torch.eye(len(products)))
    factor = torch.linalg.cholesky(inverse, upper=True)
    for column, row in enumerate(factor):
        exact = rest[:, column].clone()
        rest[:, column] = (exact / steps).round().clamp(-WEIGHT_LEVELS, WEIGHT_LEVELS) * steps
        error = (exact - rest[:, column]) / row[column]
        rest[:, column + 1 :] -= error[:, None] * row[column + 1 :]
    return rest.float()


def products(model: Model, layer: OnGrids, batches: list[Batch]) -> Tensor:
    """Return the products (C, C) of what the matrix of a layer is multiplied with."""
    found: list[Tensor] = []

    def see(layer: OnGrids, inputs: tuple[Tensor, ...]) -> None:
        rows = rows_given(layer, inputs).double()
        found.append(rows.T @ rows)
        raise _SeenError

    hook = layer.register_forward_pre_hook(see)
    for batch in batches:
        with suppress(_SeenError):
            model.estimate(*batch)
    hook.remove()
    return torch.stack(found).sum(0)


@torch.no_grad()
def round_weights(model: Model, data: Store) -> None:
    """Round the exact layers of a calibrated model in the order in which they compute."""
    model.eval()
    batches: list[Batch] = []
    for _ in range(BATCHES):
        quality = loop.stratified_qualities(CROPS, model.device)
        batches.append((*model.analyse(data.batch(CROPS, SIDE), quality), quality))
    order: list[OnGrids] = []
    layers = [layer for layer in model.modules() if isinstance(layer, OnGrids)]
    hooks = [layer.register_forward_pre_hook(lambda layer, _: order.append(layer)) for layer in layers]
    model.estimate(*batches[0])
    for hook in hooks:
        hook.remove()
    for layer in dict.fromkeys(order):
        matrix = layer.as_matrix(layer.weight)
        layer.weight.copy_(layer.from_matrix(rounded(matrix, products(model, layer, batches))))


if __name__ == "__main__":
    _, source, store, file = sys.argv
    torch.manual_seed(0)
    made = loop.exact_form(weights.load(source))
    photographs = Store(Path(store), torch.device("cpu"))
    loop.calibrate(made, photographs)
    round_weights(made, photographs)
    weights.save(made, Path(file), {**weights.notes(source), "grids": "calibrated afterwards"})
