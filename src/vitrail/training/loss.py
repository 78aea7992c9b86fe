"""The rate-distortion loss."""

from typing import TypeVar

import torch
from torch import Tensor, nn

from vitrail.model import Model

Value = TypeVar("Value", float, Tensor)


def rate_distortion(model: Model, quality: Tensor, bpp: Value, mse: Value) -> Tensor:
    """Return (bpp + lambda 255^2 MSE) / sqrt(lambda / 0.01) at qualities 1..100; MSE of samples in 0..1.

    Without the weight the high rates, whose loss is larger, would rule the gradient.
    """
    lambdas = model.lambdas(quality)
    return (bpp + lambdas * 255**2 * mse) * (lambdas / 0.01) ** -0.5


class RateDistortion(nn.Module):
    """The loss of a model on crops, with a quality for each crop."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor, quality: Tensor) -> tuple[Tensor, Tensor]:
        """Return the mean loss, and the means (3,) of y's bpp, z's bpp and MSE, for x (B, 3, H, W)."""
        loss, y_bpp, z_bpp, mse = self.by_crop(x, quality)
        return loss.mean(), torch.stack([y_bpp.mean(), z_bpp.mean(), mse.mean()]).detach()

    def by_crop(self, x: Tensor, quality: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return each crop's loss, y's bpp, z's bpp and MSE, all (B,)."""
        output = self.model(x, quality)
        pixels = x.shape[2] * x.shape[3]
        y_bpp = output.y_bits.flatten(1).sum(1) / pixels
        z_bpp = output.z_bits.flatten(1).sum(1) / pixels
        mse = (output.x_hat.float() - x).square().flatten(1).mean(1)
        return rate_distortion(self.model, quality, y_bpp + z_bpp, mse), y_bpp, z_bpp, mse
