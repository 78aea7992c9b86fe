"""Hyperpriors: what is sent first, and what it tells of the latent."""

from vitrail import config
from vitrail.hyperpriors.base import Hyperprior
from vitrail.hyperpriors.conv import ConvHyperprior
from vitrail.hyperpriors.dual import DualHyperprior
from vitrail.hyperpriors.light import LightHyperprior
from vitrail.layers import FLOAT, Kit

__all__ = ["Hyperprior", "build"]


def build(part: config.Hyperprior, latents: int, kit: Kit = FLOAT) -> Hyperprior:
    """Return the hyperprior that a config names, for M latent channels."""
    if isinstance(part, config.LightHyperprior):
        return LightHyperprior(part, latents, kit)
    if isinstance(part, config.DualHyperprior):
        return DualHyperprior(part, latents, kit)
    return ConvHyperprior(part, latents)
