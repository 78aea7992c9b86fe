"""Context models: parameters of the distribution of every latent element, from features and earlier groups.

Contract: `order` lists the groups; `forward(symbols, features)` gives the parameters of all groups in one masked pass
(training); `walk(features)` starts a stepwise traversal (coding). Shapes: symbols (B, M, h, w) integers; features
(B, F, h, w); parameters (B, P, M, h, w), P numbers an element. Nothing here knows of transforms or of coders.
"""

from vitrail import config
from vitrail.contexts.base import ContextModel, Walk
from vitrail.contexts.contextformer import Contextformer
from vitrail.contexts.convolutional import CheckerboardContext, NoContext
from vitrail.contexts.econtextformer import EContextformer
from vitrail.contexts.mcdh import MCDHContext
from vitrail.layers import FLOAT, Kit

__all__ = ["ContextModel", "Walk", "build"]


def build(part: config.Context, latents: int, features: int, parameters: int, kit: Kit = FLOAT) -> ContextModel:
    """Return the context model that a config names, for M latents, F features and P parameters an element."""
    if isinstance(part, config.NoContext):
        return NoContext(part, latents, features, parameters, kit)
    if isinstance(part, config.CheckerboardContext):
        return CheckerboardContext(part, latents, features, parameters, kit)
    if isinstance(part, config.Contextformer):
        return Contextformer(part, latents, features, parameters, kit)
    if isinstance(part, config.MCDHContext):
        return MCDHContext(part, latents, features, parameters, kit)
    return EContextformer(part, latents, features, parameters, kit)
