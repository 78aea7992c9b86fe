"""Hyperpriors: what is sent first. `analysis(y) -> z`, `synthesis(z_hat) -> features`.

y (B, M, h, w); z (B, N, ceil(h/4), ceil(w/4)); features (B, F, 4 ceil(h/4), 4 ceil(w/4)), the caller crops them to
h x w; the first M features are the prediction of y. `channels` is N, `features` is F.
"""

from torch import nn

from vitrail import config
from vitrail.hyperpriors.conv import ConvHyperprior
from vitrail.hyperpriors.light import LightHyperprior


def build(part: config.Hyperprior, latents: int) -> nn.Module:
    """Return the hyperprior that a config names."""
    if isinstance(part, config.LightHyperprior):
        return LightHyperprior(part, latents)
    return ConvHyperprior(part, latents)
