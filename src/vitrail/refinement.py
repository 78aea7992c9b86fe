"""Online rate-distortion optimisation (oRDO): a picture's latents are refined before they are coded.

All parameters are fixed, and the decoder does not change. Of a model with a trellis, the values that its path follows
move against the gradient of the picture's error, as a file of the present path gives it, and a path is sought anew: of
rates no gradient is needed, since the trellis counts them. Of others y and z descend straight through rounding, as in
eContextformer (arXiv 2306.14287, after Campos et al. 2019). Large pictures are looked at tile by tile, so that the
memory of gradients does not grow with them.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from vitrail.errors import UsageError
from vitrail.model import HYPER_STRIDE, STRIDE, Integers, Latents, Model
from vitrail.precision import autocast
from vitrail.trellis import FROM

_STEPS = (0, 1, 2, 3, 5, 8, 12, 18, 27, 40)
EFFORTS = range(len(_STEPS))
# Latent positions a side: whole windows of every context, whole positions of z.
_TILE = 64
# Positions around a tile that its latents' errors reach, nearly.
_AROUND = 4
# Bits for each squared rounding step: what the rate bends, and all that a channel without effect on pixels has.
LEAST_CURVATURE = 8.0
# What is left of the rate after an effort's last step.
_LAST = 0.3
# Rate and decay without a trellis.
_STRAIGHT = 0.006, 0.9
# In rounding steps: a slope holds no farther.
_LONGEST = 0.3


@dataclass(frozen=True)
class Plan:
    """`steps` steps, of a size of `rate` * `decay`^n at step n: y's share of Newton's step.

    With `straight` it is Adam's learning rate, straight through rounding, in units of the rounding step. Models without
    a trellis have such a plan in place of any other of as many steps.
    """

    steps: int
    rate: float = 0.3
    decay: float = 0.9
    straight: bool = False


def effort_plan(effort: int) -> Plan:
    """Return the plan of an effort 0..9; each takes about half as long again as the one below.

    Raises `UsageError`.
    """
    if effort not in EFFORTS:
        raise UsageError(f"effort is {effort!r}; give a whole number from 0 to {EFFORTS[-1]}")
    steps = _STEPS[effort]
    return Plan(steps, decay=_LAST ** (1 / max(1, steps)))


def refine(
    model: Model,
    x: Tensor,
    quality: int,
    plan: Plan,
    latents: Latents,
    advance: Callable[[float], bool] = lambda share: True,
) -> Latents:
    """Return refined latents of x (1, 3, H, W) in 0..1 at a quality 1..100, given its plain ones.

    What their filter mends the refined ones need not; those that are returned have none yet. `advance` is told
    before each tile's step which share of all work it is, and returns whether to make it; the rest is then left as it
    is.
    """
    at = torch.full((1,), float(quality), device=model.device)
    y, z = model.targets(x, quality)
    if model.own_trellis is None and not plan.straight:
        plan = Plan(plan.steps, *_STRAIGHT, straight=True)
    if plan.straight:
        return model.quantised(*_descended(model, x, y, z, at, plan, advance, latents.filter), at)
    wanted, own_filter = y, latents.filter
    latents = latents._replace(filter=None)
    for step in range(plan.steps):
        slope = _slope(model, x, latents, at, plan, advance, own_filter)
        if slope is None:
            break
        wanted += plan.rate * plan.decay**step * _move(model, latents, slope, wanted, at)
        latents = model.quantised(wanted, z, at)
    return latents


def _slope(
    model: Model,
    x: Tensor,
    latents: Latents,
    quality: Tensor,
    plan: Plan,
    advance: Callable[[float], bool],
    own_filter: Integers | None,
) -> Tensor | None:
    """Return the slope of the picture's error with y_hat (1, M, h, w), in bits; None when told to stop."""
    y_hat = model.dequantise(latents, int(quality))
    slope = torch.zeros_like(y_hat)
    weight = model.multiplier(int(quality)) * 255**2 / 3
    for rows, columns in _tiles(y_hat.shape[2], y_hat.shape[3]):
        if not advance(_share(x[:, :, _scaled(rows), _scaled(columns)], x, plan)):
            return None
        top, left = (max(0, side.start - _AROUND) for side in (rows, columns))
        around = y_hat[:, :, top : rows.stop + _AROUND, left : columns.stop + _AROUND].clone().requires_grad_()
        height, width = (STRIDE * side for side in around.shape[2:])
        pixels = x[:, :, STRIDE * top : STRIDE * top + height, STRIDE * left : STRIDE * left + width]
        with torch.enable_grad(), autocast(x.device):
            x_hat = model.synthesise(around, quality).float()[:, :, : pixels.shape[2], : pixels.shape[3]]
            error = weight * (model.filtered(x_hat, own_filter, int(quality)) - pixels).square().sum()
        (found,) = torch.autograd.grad(error, around)
        own = slice(rows.start - top, rows.stop - top), slice(columns.start - left, columns.stop - left)
        slope[:, :, rows, columns] = found[:, :, *own]
    return slope


def _move(model: Model, latents: Latents, slope: Tensor, wanted: Tensor, quality: Tensor) -> Tensor:
    """Return how far the wanted values (1, M, h, w) lie from the least error, by what errors weigh in their channel.

    What is rounded alone stays: it would cost bits that nothing counts.
    """
    assert model.trellis is not None
    weights = torch.from_numpy(model.trellis.weights(quality)[0]).to(slope.device)[None, :, None, None]
    aim = model.dequantise(latents, int(quality)) - slope / (2 * weights + LEAST_CURVATURE)
    followed = torch.from_numpy(model.levels(latents, int(quality)) >= FROM).to(slope.device)
    return (aim - wanted).clamp(-_LONGEST, _LONGEST) * followed


def _tiles(height: int, width: int) -> Iterator[tuple[slice, slice]]:
    for top in range(0, height, _TILE):
        for left in range(0, width, _TILE):
            yield slice(top, min(top + _TILE, height)), slice(left, min(left + _TILE, width))


def _scaled(part: slice) -> slice:
    return slice(part.start * STRIDE, part.stop * STRIDE)


def _share(pixels: Tensor, x: Tensor, plan: Plan) -> float:
    return pixels[0, 0].numel() / x[0, 0].numel() / plan.steps


def _descended(
    model: Model,
    x: Tensor,
    y: Tensor,
    z: Tensor,
    quality: Tensor,
    plan: Plan,
    advance: Callable[[float], bool],
    own_filter: Integers | None,
) -> tuple[Tensor, Tensor]:
    """Return y and z, of each tile those of the least estimated loss on its way straight through rounding."""
    plain = model.in_floats().eval().requires_grad_(False)
    y, z, going = y.clone(), z.clone(), True
    for rows, columns in _tiles(y.shape[2], y.shape[3]):
        pixels = x[:, :, _scaled(rows), _scaled(columns)]
        z_rows, z_columns = (
            slice(side.start // HYPER_STRIDE, -(-side.stop // HYPER_STRIDE)) for side in (rows, columns)
        )
        tile = _Tile(plain, pixels, y[:, :, rows, columns], z[:, :, z_rows, z_columns], quality, own_filter)
        for step in range(plan.steps):
            going = going and advance(_share(pixels, x, plan))
            if not going:
                break
            tile.step(plan.rate * plan.decay**step)
        tile.look()
        y[:, :, rows, columns], z[:, :, z_rows, z_columns] = tile.best
    return y, z


class _Tile:
    """A tile's latents on their way, and the best of those that were looked at."""

    def __init__(
        self, model: Model, x: Tensor, y: Tensor, z: Tensor, quality: Tensor, own_filter: Integers | None
    ) -> None:
        self.model, self.x, self.quality, self.own_filter = model, x, quality, own_filter
        self.y, self.z = y.clone().requires_grad_(), z.clone().requires_grad_()
        self.optimizer = torch.optim.Adam([self.y, self.z])
        self.least, self.best = math.inf, (y, z)

    def step(self, rate: float) -> None:
        """Change the latents once."""
        loss = self.look()
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.param_groups[0]["lr"] = rate
        self.optimizer.step()

    def look(self) -> Tensor:
        """Return the latents' bits per pixel + lambda 255^2 MSE, and remember them if that is the least so far."""
        height, width = self.x.shape[2:]
        output = self.model.estimate(self.y, self.z, self.quality)
        bpp = (output.y_bits.sum() + output.z_bits.sum()) / (height * width)
        x_hat = self.model.filtered(output.x_hat[:, :, :height, :width], self.own_filter, int(self.quality))
        loss = bpp + self.model.lambdas(self.quality)[0] * 255**2 * (x_hat - self.x).square().mean()
        if loss.item() < self.least:
            self.least, self.best = loss.item(), (self.y.detach().clone(), self.z.detach().clone())
        return loss
