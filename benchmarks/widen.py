"""Begin a model of more latent channels with weights of fewer: `python benchmarks/widen.py WEIGHTS CONFIG STORE OUT`.

For configs of a light transform, a light hyperprior and eContextformer, which differ in the number of latents and
features. Every segment keeps its channels and gains as many new ones: the principal components of what the linear path
could not show, with the gains that the last channels have learned. The networks do not read or write them yet.
"""

import re
import sys
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from vitrail import load_model, weights
from vitrail.config import named
from vitrail.errors import UsageError
from vitrail.model import Model, usual_exponents
from vitrail.training.store import Store
from vitrail.transforms.linear import PATCH


def places(old: Model, new: Model) -> dict[str, Tensor]:
    """Return where the old latents, features, and inputs and outputs of a segment's networks lie among the new."""
    segments = old.context.order.segments
    fewer, more = old.context.segment_channels, new.context.segment_channels
    channels = torch.arange(fewer)
    latents = (torch.arange(segments)[:, None] * more + channels).flatten()
    if new.context.interleaved:
        latents = torch.arange(old.config.latents)
    rest = torch.arange(old.config.latents, old.hyperprior.features)
    features = torch.cat([latents, rest + new.config.latents - old.config.latents])
    contexts = torch.arange(old.config.context.width) + new.hyperprior.features
    outputs = (torch.arange(old.distribution.per_element)[:, None] * more + channels).flatten()
    return {
        "latents": latents,
        "features": features,
        "inputs": torch.cat([features, contexts]),
        "outputs": outputs,
        "segment": channels,
    }


# Parameters that grow: the dimension, and what it counts.
GROWING = {
    "transform.linear.spread": (0, "latents"),
    "transform.linear.analysis.weight": (0, "latents"),
    "transform.linear.analysis.bias": (0, "latents"),
    "transform.linear.synthesis.weight": (0, "latents"),
    "transform.analysis_head.weight": (0, "latents"),
    "transform.analysis_head.bias": (0, "latents"),
    "transform.analysis_direct.weight": (0, "latents"),
    "transform.analysis_direct.bias": (0, "latents"),
    "transform.synthesis_direct.weight": (0, "latents"),
    "transform.synthesis_stages.steps.0.weight": (1, "latents"),
    "hyperprior.encoder.0.weight": (1, "latents"),
    "hyperprior.decoder.4.weight": (0, "features"),
    "hyperprior.decoder.4.bias": (0, "features"),
    "context.embed.weight": (1, "segment"),
    "context.networks.networks.N.0.weight": (1, "inputs"),
    "context.networks.networks.N.4.weight": (0, "outputs"),
    "context.networks.networks.N.4.bias": (0, "outputs"),
    "log_gain.table": (1, "latents"),
    "log_inverse_gain.table": (1, "latents"),
    "condition.table": (1, "features"),
    "usual_scale.table": (1, "latents"),
}


@torch.no_grad()
def widen(old: Model, new: Model, patches: Tensor) -> None:
    """Give the new model the old one's parameters, and new channels fitted to patches (N, 3, 16, 16)."""
    if new.config.latents <= old.config.latents:
        raise UsageError("the new config has no more latent channels than the old one")
    where = places(old, new)
    given, state = old.state_dict(), new.state_dict()
    for name, value in given.items():
        if name.startswith("trellis."):
            continue  # to be fitted anew
        # Of a segment's network the number does not matter.
        if (growing := GROWING.get(re.sub(r"networks\.\d+", "networks.N", name))) is not None:
            dimension, kind = growing
            state[name].zero_().index_copy_(dimension, where[kind], value)
        else:
            state[name].copy_(value)

    fresh = torch.ones(new.config.latents, dtype=torch.bool)
    fresh[where["latents"]] = False
    count = int(fresh.sum())
    shown = torch.linalg.qr(old.transform.linear.synthesis.weight.flatten(1).double().T)[0]
    flat = patches.flatten(1).double() - 0.5
    missed = flat - flat @ shown @ shown.T
    values, vectors = torch.linalg.eigh(missed.T @ missed / len(missed))
    # Each segment gets large and small ones.
    segments = new.context.order.segments
    order = torch.arange(len(values) - 1, len(values) - 1 - count, -1)
    if not new.context.interleaved:
        order = order.view(-1, segments).T.flatten()
    basis = vectors[:, order].T.reshape(-1, 3, PATCH, PATCH).float()
    linear = new.transform.linear
    linear.analysis.weight[fresh] = linear.synthesis.weight[fresh] = basis
    linear.spread[fresh] = (values[order] + 0.01).sqrt()[:, None, None].float()
    last = old.context.segment_channels
    for mine, theirs in ((new.log_gain, old.log_gain), (new.log_inverse_gain, old.log_inverse_gain)):
        mine.table[:, fresh] = theirs.table[:, -last:].mean(1, keepdim=True)
    y = (patches - 0.5).flatten(1) @ basis.flatten(1).T
    new.usual_scale.table[:, fresh] = usual_exponents(y, new.log_gain.table[:, fresh])


if __name__ == "__main__":
    _, source, config, store, out = sys.argv
    start = load_model(source).in_floats()
    model = Model(replace(named(config), exact=False))
    widen(start, model, Store(Path(store), torch.device("cpu")).patches())
    weights.save(model, Path(out), {"training": f"those of {source}, widened"})
