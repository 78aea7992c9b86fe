"""Muon for matrices and convolutions, AdamW for the rest.

Muon (K. Jordan et al., 2024) makes each update's singular values about equal. `torch.optim.Muon` computes the same; it
takes matrices alone, one after another, and always in bf16, which a CPU may multiply a hundred times slower.
"""

from collections import defaultdict
from typing import Any

import torch
from torch import Tensor, nn

from vitrail.model import Model
from vitrail.precision import fast_bf16

_MOMENTUM = 0.95
# Of Jordan's quintic iteration, five times.
_ITERATION = (3.4445, -4.7750, 2.0315)
_ITERATIONS = 5


class Muon(torch.optim.Optimizer):
    """Muon with Nesterov momentum, without weight decay, on matrices and on the weights of 2-d convolutions.

    A convolution is seen as a matrix: its first dimension x all others. An update has AdamW's usual size.
    """

    def __init__(self, weights: list[nn.Parameter] | list[dict[str, Any]], lr: Tensor) -> None:
        super().__init__(weights, {"lr": lr})
        self.precision = torch.bfloat16 if fast_bf16(lr.device) else torch.float32

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]
        """Update the weights from their gradients."""
        for group in self.param_groups:
            self._update(group)

    def _update(self, group: dict[str, Any]) -> None:
        matrices = [_matrix(weight.data) for weight in group["params"]]
        gradients = []
        for weight, matrix in zip(group["params"], matrices, strict=True):
            assert weight.grad is not None
            gradients.append(_matrix(weight.grad.contiguous(memory_format=_layout(weight))))
            if "momentum_buffer" not in self.state[weight]:
                self.state[weight]["momentum_buffer"] = torch.zeros_like(matrix)
        momenta = [self.state[weight]["momentum_buffer"] for weight in group["params"]]
        torch._foreach_lerp_(momenta, gradients, 1 - _MOMENTUM)
        updates = torch._foreach_lerp(gradients, momenta, _MOMENTUM)
        # Matrices of one shape in one product: on a GPU a small one takes as long as many.
        shapes: dict[torch.Size, list[int]] = defaultdict(list)
        for index, update in enumerate(updates):
            shapes[update.shape].append(index)
        for (rows, columns), indices in shapes.items():
            evened = orthogonal(torch.stack([updates[index] for index in indices]).to(self.precision))
            change = evened.float().contiguous() * (-0.2 * max(rows, columns) ** 0.5 * group["lr"])
            torch._foreach_add_([matrices[index] for index in indices], list(change.unbind()))


def orthogonal(matrices: Tensor) -> Tensor:
    """Return matrices (n, rows, columns) with all singular values about one, by Newton and Schulz."""
    if matrices.shape[1] > matrices.shape[2]:
        return orthogonal(matrices.mT).mT
    a, b, c = _ITERATION
    x = matrices / matrices.flatten(1).norm(dim=1).clamp(min=1e-7)[:, None, None]
    for _ in range(_ITERATIONS):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x


def _layout(weight: Tensor) -> torch.memory_format:
    return torch.channels_last if weight.dim() == 4 else torch.contiguous_format


def _matrix(tensor: Tensor) -> Tensor:
    # A view, so that an update reaches the weight itself; weights must lie in memory in channels-last order.
    return tensor.permute(0, 2, 3, 1).view(len(tensor), -1) if tensor.dim() == 4 else tensor


def build(model: Model, muon: float, adamw: float) -> list[torch.optim.Optimizer]:
    """Return the optimizers for a model, with their base learning rates, which are tensors (see `set_rates`).

    The first layers of residual blocks learn at a tenth of Muon's rate, or their units fall silent (docs/training.md,
    "Dead layers"); linear transform paths, which start as principal components, at a tenth of AdamW's rate; tables over
    the quality scale at twice it; the prior of z at ten times, or it lags behind z for a thousand steps.
    """
    matrices, first, slow, fast, prior, rest = [], [], [], [], [], []
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        if name.startswith("transform.linear."):
            slow.append(parameter)
        elif name.endswith(".table"):
            fast.append(parameter)
        elif name.startswith("prior."):
            prior.append(parameter)
        elif name.endswith(".conv1.weight"):
            first.append(parameter)
        elif name.endswith(".weight") and parameter.dim() >= 2:
            matrices.append(parameter)
        else:
            rest.append(parameter)

    def rate(value: float) -> Tensor:
        return torch.tensor(value, device=model.device)

    groups: list[dict[str, Any]] = [
        {"params": slow, "lr": rate(adamw / 10)},
        {"params": fast, "lr": rate(adamw * 2)},
        {"params": prior, "lr": rate(adamw * 10)},
        {"params": rest, "lr": rate(adamw)},
    ]

    def kept(groups: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return [group for group in groups if group["params"]]

    built = [
        Muon(kept([{"params": matrices}, {"params": first, "lr": rate(muon / 10)}]), rate(muon)),
        torch.optim.AdamW(
            kept(groups),
            betas=(0.9, 0.99),
            weight_decay=0.0,
            capturable=model.device.type == "cuda",
        ),
    ]
    for optimizer in built:
        for group in optimizer.param_groups:
            group["base_lr"] = float(group["lr"])
    return built


def set_rates(optimizers: list[torch.optim.Optimizer], factor: float) -> None:
    """Set the learning rates to their bases times a factor, in place: a recorded step reads them there."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"].fill_(factor * group["base_lr"])
