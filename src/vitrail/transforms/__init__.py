"""Transforms: picture <-> latent. They know nothing of entropy."""

from vitrail import config
from vitrail.transforms.agwint import AGWinT
from vitrail.transforms.base import Transform
from vitrail.transforms.conv import ConvTransform
from vitrail.transforms.light import LightTransform

__all__ = ["Transform", "build"]


def build(part: config.Transform, latents: int) -> Transform:
    """Return the transform that a config names, for M latent channels."""
    if isinstance(part, config.LightTransform):
        return LightTransform(part, latents)
    if isinstance(part, config.AGWinT):
        return AGWinT(part, latents)
    return ConvTransform(part, latents)
