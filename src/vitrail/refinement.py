"""Online rate-distortion optimisation (oRDO): a picture's latents are refined before they are coded.

Gradient descent on y and z, with all parameters fixed; the decoder does not change. Two ways to differentiate through
rounding: Gumbel annealing (Yang et al., NeurIPS 2020), which the efforts use, with less chance and with steps of y that
are shares of Newton's; and straight through, as in eContextformer (arXiv 2306.14287, after Campos et al. 2019). Large
pictures are refined tile by tile, so that memory does not grow with them.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from vitrail.coding import LIMIT
from vitrail.errors import UsageError
from vitrail.model import HYPER_STRIDE, STRIDE, Integers, Latents, Model
from vitrail.precision import autocast
from vitrail.straight import round_through

_STEPS = (0, 4, 6, 9, 13, 20, 30, 44, 66, 100)
EFFORTS = range(len(_STEPS))
# Latent positions a side: whole windows of every context, whole positions of z.
_TILE = 64
# Temperatures at the first and the last step; at 0.5 a value is as soft as it can be.
_WARM, _COLD = 0.4, 0.2
# A share of the chance that Gumbel annealing has: all of it takes more steps than the efforts make.
_CHANCE = 0.3
# Bits for each squared rounding step: what the rate bends, and all that a channel without effect on pixels has.
_LEAST_CURVATURE = 10.0
# In rounding steps: a step's slope holds no farther.
_LONGEST = 0.3


@dataclass(frozen=True)
class Plan:
    """`steps` steps, of a size of `rate` * `decay`^n at step n.

    With annealing that is y's share of Newton's step, and z has Adam. Without, Adam's learning rate of both, in units
    of the rounding step.
    """

    steps: int
    rate: float = 0.15
    decay: float = 1.0
    annealing: bool = True

    @property
    def rate_z(self) -> float:
        """Adam's learning rate for z at the first step: z goes as far in few steps as in many."""
        return min(0.05, 0.7 / max(1, self.steps)) if self.annealing else self.rate


def effort_plan(effort: int) -> Plan:
    """Return the plan of an effort 0..9; each takes about half as long again as the one below.

    Raises `UsageError`.
    """
    if effort not in EFFORTS:
        raise UsageError(f"effort is {effort!r}; give a whole number from 0 to {EFFORTS[-1]}")
    steps = _STEPS[effort]
    return Plan(steps, decay=0.1 ** (1 / max(1, steps)))


def refine(
    model: Model,
    x: Tensor,
    quality: int,
    plan: Plan,
    advance: Callable[[float], bool] = lambda share: True,
    own_filter: Integers | None = None,
) -> Latents:
    """Return refined latents of x (1, 3, H, W) in 0..1 at a quality 1..100, behind which a filter (see `postfilter`).

    `own_filter`: its numbers; what it mends already the latents need not. The latents that are returned have none yet.
    Each tile's are the better of the plain ones and of what the steps led to, by the estimated loss. `advance` is
    told before a step which share of all work it is, and returns whether to make it; the rest is then left as it is.
    """
    plain = model.in_floats().eval().requires_grad_(False)
    at = torch.full((1,), float(quality), device=model.device)
    with torch.no_grad(), autocast(x.device):  # as `Model.latents` does
        y, z = (each.float() for each in plain.analyse(x, at))
    found = Latents(np.zeros(y.shape[1:], np.int32), np.zeros(z.shape[1:], np.int32))
    going = True
    for rows, columns in _tiles(y.shape[2], y.shape[3]):
        pixels = x[:, :, _scaled(rows), _scaled(columns)]
        z_rows, z_columns = (
            slice(side.start // HYPER_STRIDE, -(-side.stop // HYPER_STRIDE)) for side in (rows, columns)
        )
        tile = _Tile(plain, pixels, y[:, :, rows, columns], z[:, :, z_rows, z_columns], at, own_filter)
        share = pixels[0, 0].numel() / x[0, 0].numel() / max(1, plan.steps)
        for step in range(plan.steps):
            going = going and advance(share)
            if not going:
                break
            tile.step(plan, step)
        found.y[:, rows, columns], found.z[:, z_rows, z_columns] = tile.finish()
    return found


def _tiles(height: int, width: int) -> Iterator[tuple[slice, slice]]:
    for top in range(0, height, _TILE):
        for left in range(0, width, _TILE):
            yield slice(top, min(top + _TILE, height)), slice(left, min(left + _TILE, width))


def _scaled(part: slice) -> slice:
    return slice(part.start * STRIDE, part.stop * STRIDE)


class _Tile:
    """A tile's latents on their way, and the best of those that were looked at."""

    def __init__(
        self, model: Model, x: Tensor, y: Tensor, z: Tensor, quality: Tensor, own_filter: Integers | None
    ) -> None:
        self.model, self.x, self.quality, self.own_filter = model, x, quality, own_filter
        self.y, self.z = y.clone().requires_grad_(), z.clone().requires_grad_()
        self.optimizer = torch.optim.Adam([self.y, self.z])
        self.least, self.best = math.inf, (y, z)
        with torch.no_grad():
            self.keep(self.loss(round_through))

    def loss(self, rounding: Callable[[Tensor], Tensor]) -> Tensor:
        """Return bits per pixel + lambda 255^2 MSE."""
        height, width = self.x.shape[2:]
        output = self.model.estimate(self.y, self.z, self.quality, rounding)
        bpp = (output.y_bits.sum() + output.z_bits.sum()) / (height * width)
        x_hat = self.model.filtered(output.x_hat[:, :, :height, :width], self.own_filter, int(self.quality))
        return bpp + self.weight * (x_hat - self.x).square().mean()

    @property
    def weight(self) -> Tensor:
        """Of a mean squared error of samples in 0..1."""
        return self.model.lambdas(self.quality)[0] * 255**2

    @cached_property
    def curvature(self) -> Tensor:
        """What the loss bends with y, about, in each channel (1, M, 1, 1): bits for each squared rounding step.

        For a random sign at every sample, the squared gradient of the signs' sum is expected to be that of the squared
        error, halved (Hutchinson).
        """
        y = self.y.detach().requires_grad_()
        with autocast(self.x.device):
            x_hat = self.model.synthesise(y, self.quality).float()
        signs = torch.randint_like(x_hat, 2) * 2 - 1
        (slope,) = torch.autograd.grad((x_hat * signs).sum(), y)
        return 2 / 3 * self.weight * slope.square().mean((2, 3), keepdim=True) + _LEAST_CURVATURE

    def step(self, plan: Plan, step: int) -> None:
        """Change the latents once."""
        share = plan.decay**step
        if plan.annealing:
            with autocast(self.x.device):
                loss = self.loss(_annealed(_WARM * (_COLD / _WARM) ** (step / plan.steps)))
        else:  # then it is what the present latents take
            loss = self.loss(round_through)
            self.keep(loss)
        self.optimizer.zero_grad()
        loss.backward()
        if plan.annealing:
            assert self.y.grad is not None
            newton = -self.x[0, 0].numel() * self.y.grad / self.curvature
            with torch.no_grad():
                self.y += (plan.rate * share * newton).clamp(-_LONGEST, _LONGEST)
            self.y.grad = None  # so that Adam leaves it alone
        self.optimizer.param_groups[0]["lr"] = plan.rate_z * share
        self.optimizer.step()

    def keep(self, loss: Tensor) -> None:
        """Remember the present latents if their loss is the least so far."""
        if loss.item() < self.least:
            self.least, self.best = loss.item(), (self.y.detach().clone(), self.z.detach().clone())

    @torch.no_grad()
    def finish(self) -> tuple[Integers, Integers]:
        """Return the integers of the best latents: y's symbols (M, h, w) and z (N, a, b)."""
        self.keep(self.loss(round_through))
        y, z = self.best
        z_hat = z.round().clamp(-LIMIT, LIMIT)
        features = self.model.features(z_hat, self.quality, (y.shape[2], y.shape[3]))
        symbols = (y - features[:, : self.model.config.latents]).round().clamp(-LIMIT, LIMIT)
        return symbols[0].int().cpu().numpy(), z_hat[0].int().cpu().numpy()


def _annealed(temperature: float) -> Callable[[Tensor], Tensor]:
    """Return a rounding that mixes both neighbours, in part by chance, the more of the nearer the colder it is."""

    def rounding(x: Tensor) -> Tensor:
        low = x.detach().floor()
        above = (x - low).clamp(1e-4, 1 - 1e-4)
        logit = (torch.atanh(above) - torch.atanh(1 - above)) / temperature
        # Of two classes, the difference of Gumbel noises is logistic.
        chance = _CHANCE * torch.logit(torch.rand_like(x), eps=1e-6)
        return low + torch.sigmoid((logit + chance) / temperature)

    return rounding
