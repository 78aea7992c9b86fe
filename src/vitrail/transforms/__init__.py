"""Transforms: picture <-> latent. `analysis(x, quality) -> y`, `synthesis(y_hat, quality) -> x_hat`.

x (B, 3, H, W) around 0..1 with H and W multiples of 16; y (B, M, H/16, W/16); quality (B,) in 1..100.
"""

from torch import nn

from vitrail import config
from vitrail.transforms.conv import ConvTransform
from vitrail.transforms.light import LightTransform


def build(part: config.Transform, latents: int) -> nn.Module:
    """Return the transform that a config names."""
    if isinstance(part, config.LightTransform):
        return LightTransform(part, latents)
    return ConvTransform(part, latents)
