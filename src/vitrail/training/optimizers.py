"""Muon for matrices and convolutions, AdamW for the rest.

Muon (K. Jordan et al., 2024) makes each update's singular values equal. PyTorch's own takes matrices alone, so a
convolution is handed to it as a matrix: its first dimension x all others.
"""

from typing import Any

import torch
from torch import Tensor, nn

from vitrail.model import Model

# A matrix's update is some thirty small products, one after another: on a GPU matrices take turns on as many streams.
_STREAMS = 8


class MatrixMuon(torch.optim.Muon):
    """`torch.optim.Muon` on weights of two or more dimensions, each seen as a matrix."""

    def __init__(self, weights: list[nn.Parameter], lr: Tensor) -> None:
        self.weights = weights
        # Its parameters are updates, which start at zero at every step: so the learning rate can be a tensor.
        self.updates = [nn.Parameter(torch.zeros_like(_matrix(weight.data))) for weight in weights]
        self.streams = [torch.cuda.Stream() for _ in range(_STREAMS)] if lr.device.type == "cuda" else [None]
        super().__init__(self.updates, lr=1.0, weight_decay=0.0, adjust_lr_fn="match_rms_adamw")
        self.param_groups[0]["lr"] = lr

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]
        """Update the weights from their gradients."""
        updates = [update.data for update in self.updates]
        torch._foreach_zero_(updates)
        for weight, update in zip(self.weights, self.updates, strict=True):
            assert weight.grad is not None
            update.grad = _matrix(weight.grad.contiguous(memory_format=_layout(weight)))
        (group,) = self.param_groups
        for first, stream in enumerate(self.streams):
            self.param_groups = [{**group, "lr": 1.0, "params": self.updates[first :: len(self.streams)]}]
            if stream is not None:
                stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                super().step()
        for stream in self.streams:
            if stream is not None:
                torch.cuda.current_stream().wait_stream(stream)
        self.param_groups = [group]
        torch._foreach_mul_(updates, group["lr"])
        torch._foreach_add_([_matrix(weight.data) for weight in self.weights], updates)

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget the gradients."""
        for weight in self.weights:
            weight.grad = None


def _layout(weight: Tensor) -> torch.memory_format:
    return torch.channels_last if weight.dim() == 4 else torch.contiguous_format


def _matrix(tensor: Tensor) -> Tensor:
    # A view, so that an update reaches the weight itself; weights must lie in memory in channels-last order.
    return tensor.permute(0, 2, 3, 1).view(len(tensor), -1) if tensor.dim() == 4 else tensor


def build(model: Model, muon: float, adamw: float) -> list[torch.optim.Optimizer]:
    """Return the optimizers for a model, with their base learning rates, which are tensors (see `set_rates`).

    Linear transform paths, which start as principal components, learn at a tenth of AdamW's rate; tables over the
    quality scale at twice it; the prior of z at ten times, or it lags behind z for a thousand steps.
    """
    matrices, slow, fast, prior, rest = [], [], [], [], []
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        if name.startswith("transform.linear."):
            slow.append(parameter)
        elif name.endswith(".table"):
            fast.append(parameter)
        elif name.startswith("prior."):
            prior.append(parameter)
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
    built = [
        MatrixMuon(matrices, rate(muon)),
        torch.optim.AdamW(
            [group for group in groups if group["params"]],
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
